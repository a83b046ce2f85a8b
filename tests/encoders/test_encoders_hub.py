"""Downloads from a stand-in that answers as huggingface.co does."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.encoders._registry import ENCODERS, EncoderRow

AND_THE_WAY_ROUND = r"fetch the file elsewhere and give its path as `weights`"


@pytest.fixture
def served(hub: Any, tiny: EncoderRow, tiny_file: Path) -> Any:
    """The hub with the small model's weights behind a gate."""
    hub.files["lab/tiny/pytorch_model.bin"] = tiny_file.read_bytes()
    hub.gated, hub.accepted, hub.known = True, ("hf_accepted",), ("hf_other",)
    return hub


def refused(message: str, name: str = "tiny") -> None:
    with pytest.raises(
        HisDiffError, match=rf"encoder '{name}' .*could not be fetched: .*{message}.*{AND_THE_WAY_ROUND}"
    ):
        hd.encoders.load(name, device="cpu")


def test_download_with_a_token(
    served: Any, tiny_file: Path, tiles: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    encoder = hd.encoders.load("tiny", device="cpu")
    local = hd.encoders.load("tiny", weights=tiny_file, device="cpu")
    assert encoder.fingerprint == local.fingerprint
    assert torch.equal(encoder(tiles[:1]), local(tiles[:1]))
    assert ("GET", "/lab/tiny/resolve/main/pytorch_model.bin") in served.asked


def test_second_load_comes_from_the_cache_even_when_the_hub_is_down(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    first = hd.encoders.load("tiny", device="cpu")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    served.asked.clear()
    assert hd.encoders.load("tiny", device="cpu").fingerprint == first.fingerprint
    assert not served.asked


def test_gated_without_a_token(served: Any) -> None:
    refused(
        r"gated and no token was found; accept its terms at https://huggingface\.co/lab/tiny, then run `hf auth login`"
    )


def test_terms_not_accepted(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    refused(
        r"terms are not accepted yet; accept them at https://huggingface\.co/lab/tiny with the account of the token"
    )


def test_token_that_the_hub_does_not_know(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mistyped")
    refused(r"the hub refused the token; make a new one at https://huggingface\.co/settings/tokens")


def test_token_without_the_right_to_gated_repositories(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    served.status = 403
    refused(r"the hub refused the token \(HfHubHTTPError: .*\); give it the right to read gated repositories")


def test_file_absent_on_the_hub(served: Any, tiny: EncoderRow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    monkeypatch.setitem(ENCODERS, "tiny", dataclasses.replace(tiny, filename="model.safetensors"))
    refused(r"the hub has no such file; see which there are at https://huggingface\.co/lab/tiny/tree/main")


def test_repository_absent_on_the_hub(served: Any, tiny: EncoderRow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    monkeypatch.setitem(ENCODERS, "tiny", dataclasses.replace(tiny, hub_id="lab/gone", gated=False))
    refused(r"the hub has no lab/gone, or shows it to members only")


def test_no_network(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused(r"no connection to the hub \(Connect\w*: .*and the file is not in the cache; look at the network")


def test_offline_mode(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(r"offline mode is on \(HF_HUB_OFFLINE\) and the file is not in the cache; unset it to download")
    assert not served.asked


def test_hub_out_of_order(served: Any) -> None:
    served.status = 500
    refused(r"HfHubHTTPError: .*500.*; try again later")


def test_environment_of_a_fresh_session(served: Any, tmp_path: Path) -> None:
    """`HF_ENDPOINT`, `HF_HOME` and `HF_TOKEN` are all that a user sets."""
    program = (
        "from hisdiff_sd.encoders._hub import fetch_weights\n"
        "from hisdiff_sd.encoders._registry import EncoderRow\n"
        "row = EncoderRow(name='tiny', dim=1, licence='', hub_id='lab/tiny', filename='pytorch_model.bin', gated=True)\n"
        "print(fetch_weights(row))\n"
    )
    home = tmp_path / "home"
    environment = {**os.environ, "HF_ENDPOINT": served.url, "HF_HOME": str(home), "HF_TOKEN": "hf_accepted"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    path = Path(done.stdout.strip().splitlines()[-1])
    assert path.is_relative_to(home)
    assert path.read_bytes() == served.files["lab/tiny/pytorch_model.bin"]
