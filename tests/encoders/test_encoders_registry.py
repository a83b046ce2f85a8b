from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

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


def test_unknown_name_names_the_nearest_and_not_hundreds() -> None:
    with pytest.raises(HisDiffError, match=r"no encoder 'unni'; give a name of hd\.encoders\.table\(\).*mean 'uni'"):
        hd.encoders.load("unni")
    with pytest.raises(HisDiffError, match=r"Did you mean 'virchow2'\?") as error:
        hd.encoders.load("Virchow-2")
    assert len(str(error.value)) < 300


def test_unknown_name_is_compared_with_timm_names_and_their_tags() -> None:
    with pytest.raises(HisDiffError, match=r"Did you mean .*'vit_small_patch16_224\.dino'"):
        hd.encoders.load("vit_small_patch16_224.dinno")
    with pytest.raises(HisDiffError, match=r"no encoder 'resnet18\.no_such_tag'.*Did you mean .*'resnet18\."):
        hd.encoders.load("resnet18.no_such_tag")


def test_repository_without_its_prefix_is_told_the_prefix() -> None:
    with pytest.raises(HisDiffError, match=r"no encoder 'lab/model'.*Did you mean 'hf-hub:lab/model'\?"):
        hd.encoders.load("lab/model")


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


@pytest.mark.parametrize("encoder", ["morphology", _Mean()])
@pytest.mark.parametrize(("option", "left_out"), [("precision", "'bf16'"), ("compile", "True")])
def test_options_that_nothing_would_heed_are_refused(encoder: str | _Mean, option: str, left_out: str) -> None:
    with pytest.raises(HisDiffError, match=rf"leave {option}={left_out} out"):
        hd.encoders.load(encoder, **{option: "bf16" if option == "precision" else True})  # type: ignore[arg-type]


def test_rows_are_frozen_and_named_by_their_key() -> None:
    assert [row.name for row in ENCODERS.values()] == list(ENCODERS)
    with pytest.raises(FrozenInstanceError):
        ENCODERS["uni"].dim = 3  # type: ignore[misc]


def test_every_weight_file_is_named_and_gated_where_the_hub_gates_it() -> None:
    uni = ENCODERS["uni"]
    assert (uni.hub_id, uni.filename, uni.gated, uni.dim) == ("MahmoodLab/UNI", "pytorch_model.bin", True, 1024)
    assert all(row.filename for row in ENCODERS.values() if row.hub_id)
    assert all(row.timm_name for row in ENCODERS.values() if row.loader == "timm")


def test_device_reaches_the_encoder() -> None:
    encoder = hd.encoders.load("morphology", device="cpu")
    assert "device='cpu'" in repr(encoder)
    assert (encoder.device, encoder.precision) == (torch.device("cpu"), "fp32")  # type: ignore[attr-defined]


def test_table_has_a_line_per_encoder() -> None:
    table = hd.encoders.table()
    assert list(table) == ["name", "hub id", "dim", "tile px", "pooling", "licence", "gated"]
    assert list(table["name"]) == (
        ["uni", "uni2", "virchow2", "hoptimus0", "hoptimus1", "h0mini", "gigapath", "phikon2", "resnet50", "morphology"]
    )
    dims = [1024, 1536, 2560, 1536, 1536, 768, 1536, 1024, 1024, 162]
    assert list(table["dim"]) == dims
    assert list(table.loc[~table["gated"], "name"]) == ["phikon2", "resnet50", "morphology"]
    assert (table["licence"].str.len() > 0).all()
    assert len(table.to_string().splitlines()) == 1 + len(dims)


def test_the_table_of_the_docs_is_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "encoders.md"
    lines = {line.split("|")[1].strip(): line for line in page.read_text().splitlines() if line.count("|") > 6}
    for row in hd.encoders.table().itertuples(index=False):
        cells = [cell.strip() for cell in lines[f"`{row.name}`"].split("|")]
        assert cells[3] == str(row.dim)
        assert cells[5] == row.licence
        assert cells[6] == ("yes" if row.gated else "no")
