"""Every row of the table: the architecture that its weights are for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.encoders._model import _Network
from hisdiff_sd.encoders._registry import ENCODERS, EncoderRow
from hisdiff_sd.encoders._timm import build

Make = Callable[..., torch.nn.Module]


@pytest.mark.parametrize(
    ("name", "millions"),  # as published, or of the part that is used
    [
        ("uni", 303),
        ("uni2", 681),
        ("virchow2", 631),
        ("hoptimus1", 1135),
        ("h0mini", 86),
        ("gigapath", 1135),
        ("resnet50", 9),
    ],
)
def test_architecture_has_the_published_size_and_width(name: str, millions: int) -> None:
    row = ENCODERS[name]
    with torch.device("meta"):  # nothing is allocated or computed
        network = _Network(build(row), row)
        vectors = network(torch.zeros(2, 3, row.tile_px, row.tile_px, dtype=torch.uint8))
    assert vectors.shape == (2, row.dim)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


def test_the_two_optimus_models_differ_in_name_repository_and_licence_only() -> None:
    one, other = ENCODERS["hoptimus0"], ENCODERS["hoptimus1"]
    assert (one.hub_id, one.licence) == ("bioptimus/H-optimus-0", "Apache-2.0")
    assert dataclasses.replace(other, name=one.name, hub_id=one.hub_id, licence=one.licence) == one


def normalised(tiles: torch.Tensor, row: EncoderRow) -> torch.Tensor:
    from torchvision.transforms.v2.functional import normalize

    return normalize(tiles / 255, mean=list(row.mean), std=list(row.std))


def test_swiglu_registers_and_own_normalisation(
    tiny: EncoderRow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiles: torch.Tensor, make_model: Make
) -> None:
    """The way of Virchow2 and H0-mini: layers by name, tokens not pooled by the model, CLS beside the mean of patches."""
    arguments = {**tiny.timm_args, "mlp_ratio": 5.3375, "reg_tokens": 4, "global_pool": ""}
    arguments |= {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
    optimus = ENCODERS["h0mini"]
    row = dataclasses.replace(
        tiny, dim=384, timm_args=arguments, pooling="cls+mean", mean=optimus.mean, std=optimus.std
    )
    monkeypatch.setitem(ENCODERS, "tiny", row)
    model = make_model(row)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    got = hd.encoders.load("tiny", weights=tmp_path, device="cpu")(tiles[:2])
    with torch.inference_mode():
        tokens = model(normalised(tiles[:2], row))
    assert tokens.shape == (2, 1 + 4 + 196, 192)
    torch.testing.assert_close(got, torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], 1), rtol=1e-5, atol=1e-5)
    assert row.mean != tiny.mean


def test_resnet_features_of_layer_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiles: torch.Tensor) -> None:
    import timm

    row = dataclasses.replace(ENCODERS["resnet50"], timm_name="resnet18", dim=256)
    monkeypatch.setitem(ENCODERS, "resnet50", row)
    torch.manual_seed(0)
    model = timm.create_model("resnet18").eval()  # whole, with layer 4 and its head, as the file on the hub
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    got = hd.encoders.load("resnet50", weights=tmp_path / "pytorch_model.bin", device="cpu")(tiles[:2])
    with torch.inference_mode():
        x = model.maxpool(model.act1(model.bn1(model.conv1(normalised(tiles[:2], row)))))
        maps = model.layer3(model.layer2(model.layer1(x)))
    torch.testing.assert_close(got, maps.mean((2, 3)), rtol=1e-5, atol=1e-5)
    assert got.std(0).mean() > 1e-4


def test_resnet_refuses_another_resnet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import timm

    monkeypatch.setitem(ENCODERS, "resnet50", dataclasses.replace(ENCODERS["resnet50"], timm_name="resnet18", dim=256))
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "w.bin")
    with pytest.raises(
        HisDiffError, match=r"another model than 'resnet50' .*'conv1\.weight'.*'model\.safetensors' of timm/"
    ):
        hd.encoders.load("resnet50", weights=tmp_path / "w.bin", device="cpu")
