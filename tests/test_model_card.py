"""The model card, which says what the bundle holds, and a hub that the model is brought to."""

from __future__ import annotations

import base64
import dataclasses
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._model_card import model_card
from hisdiff_sd._trust import Reliability, Trust


@pytest.fixture(scope="module")
def judged(model: hd.HisDiff) -> hd.HisDiff:
    """The model with known figures of left-out slides: gene i has a correlation of i / 20."""
    n = len(model.genes)
    pcc = np.arange(n) / 20
    genes = Reliability(pcc, pcc * 0, pcc * 0 + 0.01, pcc >= 0.2, ("S1", "S2"), samples=8, steps=5, shifts=99)
    return hd.HisDiff(model.network, model.config, model.scalers, model.baselines, Trust(model.trust.ood, genes))


def test_the_header_is_one_that_the_hub_reads(judged):
    data = ModelCard(model_card(judged)).data
    assert (data.license, data.library_name) == ("other", "hisdiff_sd")
    assert {"spatial-transcriptomics", "histology", "ddpm"} <= set(data.tags)


def test_every_figure_is_one_of_the_bundle(judged, model):
    text = model_card(judged)
    assert f"| slides | {', '.join(model.config.training['slides'])} |" in text
    assert f"| spots | {model.config.training['spots']:,} |" in text
    assert f"| encoder | {model.config.licences['encoder']} |" in text
    assert f"| data | {model.config.licences['data']} |" in text
    assert judged.fingerprint in text
    assert "the mean of 8 samples of 5 steps" in text
    n = len(model.genes)
    assert f"reliable genes: {n - 4} of {n}" in text
    median = np.median(np.arange(n) / 20)
    assert f"median over genes: {median:.2f}" in text
    best = re.findall(r"^\| (\S+) \| ([\d.]+) \| 0.01 \|$", text, re.MULTILINE)
    assert best[0] == (model.genes[-1], f"{(n - 1) / 20:.2f}")
    assert len(best) == 10


def test_one_patient_is_said(judged):
    assert judged.config.training["patients"] == ["A"]
    assert "are of one: this says little about a new patient" in model_card(judged)
    training = {**judged.config.training, "patients": ["A", "B"]}
    other = dataclasses.replace(judged.config, training=training)
    text = model_card(hd.HisDiff(judged.network, other, judged.scalers, judged.baselines, judged.trust))
    assert "Every slide is of a patient of its own" in text


def test_what_the_bundle_does_not_hold_is_not_claimed(judged):
    bare = dataclasses.replace(judged.config, training={}, licences={}, species="", mpp=None, spot_pitch_um=None)
    text = model_card(hd.HisDiff(judged.network, bare, judged.scalers))
    assert "Not known: the model does not hold predictions of slides that were left out" in text
    assert "does not hold the licences of its encoder" in text
    assert "correlation" not in text
    assert "None" not in text
    for name in ("slides", "patients", "species", "preset", "pixel size"):
        assert f"| {name}" not in text


def test_it_is_saved_beside_the_model(judged, tmp_path):
    judged.save(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert card == model_card(judged)
    judged.save_pretrained(tmp_path / "hub")
    assert (tmp_path / "hub" / "README.md").read_text(encoding="utf-8") == card


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as an upload asks for; `files` are those of the last commit."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        self._answer(404, {"error": "not here"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_writer":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self._answer(
                200, {"url": f"{constants.ENDPOINT}/{json.loads(body)['organization']}/{json.loads(body)['name']}"}
            )
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            self._answer(
                200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
            )
        elif "/commit/" in self.path:
            entries = [json.loads(line) for line in body.splitlines()]
            files = [e["value"] for e in entries if e["key"] == "file"]
            self.files |= {f["path"]: base64.b64decode(f["content"]) for f in files}
            self._answer(
                200, {"commitUrl": f"{constants.ENDPOINT}/lab/breast/commit/0", "commitOid": "0", "success": True}
            )
        else:
            self._answer(200, {})

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def uploaded(monkeypatch, tmp_path) -> Iterator[dict[str, bytes]]:
    """What a hub on 127.0.0.1 has been given."""
    files: dict[str, bytes] = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Hub,), {"files": files}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield files
    server.shutdown()
    server.server_close()


def test_a_model_is_brought_to_the_hub_whole(judged, uploaded, tmp_path):
    url = judged.push_to_hub("lab/breast", token="hf_writer")
    assert str(url).endswith("/lab/breast/commit/0")
    assert set(uploaded) == {"README.md", "config.json", "model.safetensors"}
    for name, content in uploaded.items():
        (tmp_path / name).write_bytes(content)
    assert hd.HisDiff.load(tmp_path).fingerprint == judged.fingerprint
    assert uploaded["README.md"].decode() == model_card(judged)


@pytest.mark.parametrize(
    ("repo", "token", "said"),
    [
        ("lab/breast", "hf_reader", "could not be brought to lab/breast .*401"),
        ("lab/bre ast", "hf_writer", "could not be brought to lab/bre ast .*HFValidationError"),
    ],
)
def test_a_hub_that_does_not_take_it_is_one_message(judged, uploaded, repo, token, said):
    with pytest.raises(HisDiffError, match=said) as caught:
        judged.push_to_hub(repo, token=token)
    assert "\n" not in str(caught.value)
    assert "hf auth login" in str(caught.value)
    assert uploaded == {}


def test_a_trained_model_has_the_figures_of_its_left_out_slides(stores, panel, tmp_path):
    slides = [Path(stores[name]) for name in ("S1", "S2")]
    trained = hd.tl.train(slides, genes=panel[:4], encoder="morphology", out=tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    reliable = int(trained.reliability()["reliable"].sum())
    assert f"reliable genes: {reliable} of 4" in text
    assert f"median over genes: {trained.reliability()['pcc'].median():.2f}" in text
