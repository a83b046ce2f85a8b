from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.encoders._registry import ENCODERS


class _Mean:
    """An encoder of somebody's own."""

    name, dim, tile_px, fingerprint, licence = "mean", 3, 32, "0" * 64, "MIT"

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles.float().mean((2, 3))


def test_unknown_name_lists_names_and_the_nearest() -> None:
    with pytest.raises(HisDiffError, match=r"no encoder 'unni'; there are: 'uni', 'morphology'.*mean 'uni'"):
        hd.encoders.load("unni")


def test_own_encoder_comes_back_as_it_is() -> None:
    own = _Mean()
    assert hd.encoders.load(own) is own
    assert isinstance(own, hd.encoders.TileEncoder)


def test_object_that_is_no_encoder_is_refused() -> None:
    with pytest.raises(HisDiffError, match=r"Linear is not a tile encoder: it needs name, dim, tile_px.*'uni'"):
        hd.encoders.load(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("encoder", ["morphology", _Mean()])
def test_weights_that_nothing_would_read_are_refused(encoder: str | _Mean) -> None:
    with pytest.raises(HisDiffError, match=r"leave weights='some\.bin' out"):
        hd.encoders.load(encoder, weights="some.bin")


def test_rows_are_frozen_and_named_by_their_key() -> None:
    assert [row.name for row in ENCODERS.values()] == list(ENCODERS)
    with pytest.raises(FrozenInstanceError):
        ENCODERS["uni"].dim = 3  # type: ignore[misc]


def test_every_weight_file_is_named_and_gated_where_the_hub_gates_it() -> None:
    uni = ENCODERS["uni"]
    assert (uni.hub_id, uni.filename, uni.gated, uni.dim) == ("MahmoodLab/UNI", "pytorch_model.bin", True, 1024)
    assert all(row.filename and row.timm_name for row in ENCODERS.values() if row.hub_id)


def test_device_reaches_the_encoder() -> None:
    assert "device='cpu'" in repr(hd.encoders.load("morphology", device="cpu"))
