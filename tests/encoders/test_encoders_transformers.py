"""The encoder that needs the package transformers: with a stand-in for it, and with the package where it is installed."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.encoders._registry import ENCODERS


@pytest.fixture
def small_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "phikon2", dataclasses.replace(ENCODERS["phikon2"], dim=48))


class _Model(torch.nn.Module):
    """One token per corner of the tile, and one before them."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)
        self.config = types.SimpleNamespace(hidden_size=len(weight))

    def forward(self, pixel_values: torch.Tensor) -> Any:
        tokens = pixel_values[:, :1, :2, 0] * self.weight[:, None]
        return types.SimpleNamespace(last_hidden_state=tokens.transpose(1, 2))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, small_row: None, tmp_path: Path) -> Any:
    """A package `transformers` whose AutoModel reads a weight, and a folder with its files."""
    state = types.SimpleNamespace(folder=tmp_path / "phikon", info={}, asked=[])

    def from_pretrained(folder: Path, **options: Any) -> Any:
        from safetensors.torch import load_file

        state.asked.append((folder, options))
        return _Model(load_file(folder / "model.safetensors")["weight"]), state.info

    module = types.ModuleType("transformers")
    module.AutoModel = types.SimpleNamespace(from_pretrained=from_pretrained)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)
    state.folder.mkdir()
    (state.folder / "config.json").write_text("{}")
    save_file({"weight": torch.arange(48.0)}, state.folder / "model.safetensors")
    return state


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        HisDiffError, match=r"'phikon2' is a model of the package transformers.*pip install transformers"
    ):
        hd.encoders.load("phikon2", device="cpu")


@pytest.mark.parametrize("given", ["", "model.safetensors"])
def test_first_token_of_local_files(given: str, stand_in: Any, tiles: torch.Tensor) -> None:
    encoder = hd.encoders.load("phikon2", weights=stand_in.folder / given, device="cpu")
    assert (encoder.name, encoder.dim, encoder.licence) == ("phikon2", 48, "Owkin non-commercial")
    red = (tiles[:2, 0, 0, 0] / 255 - 0.485) / 0.229
    torch.testing.assert_close(encoder(tiles[:2]), red[:, None] * torch.arange(48.0), rtol=1e-5, atol=1e-5)
    assert stand_in.asked[0][1] == {"local_files_only": True, "output_loading_info": True}


def test_files_come_from_the_hub(stand_in: Any, hub: Any, tiles: torch.Tensor) -> None:
    for name in ("config.json", "model.safetensors"):
        hub.files[f"owkin/phikon-v2/{name}"] = (stand_in.folder / name).read_bytes()
    encoder = hd.encoders.load("phikon2", device="cpu")
    local = hd.encoders.load("phikon2", weights=stand_in.folder, device="cpu")
    assert encoder.fingerprint == local.fingerprint
    assert torch.equal(encoder(tiles), local(tiles))
    assert (stand_in.asked[0][0] / "config.json").read_text() == "{}"


def test_weights_without_config_are_refused(stand_in: Any) -> None:
    (stand_in.folder / "config.json").unlink()
    with pytest.raises(MissingFileError, match=r"no .*config\.json: .*'phikon2'.*put that of owkin/phikon-v2 beside"):
        hd.encoders.load("phikon2", weights=stand_in.folder, device="cpu")


@pytest.mark.parametrize("problem", ["missing_keys", "unexpected_keys", "mismatched_keys"])
def test_another_model_is_refused_by_its_first_tensor(problem: str, stand_in: Any) -> None:
    stand_in.info[problem] = {"b.weight", "a.weight"}
    with pytest.raises(
        HisDiffError, match=rf"another model than 'phikon2': {problem.split('_')[0]} 'a\.weight'\. Give the"
    ):
        hd.encoders.load("phikon2", weights=stand_in.folder, device="cpu")


def test_model_of_another_width_is_refused(stand_in: Any) -> None:
    save_file({"weight": torch.arange(50.0)}, stand_in.folder / "model.safetensors")
    with pytest.raises(HisDiffError, match=r"another model than 'phikon2': its vectors are 50 long and not 48"):
        hd.encoders.load("phikon2", weights=stand_in.folder, device="cpu")


def dinov2_file(folder: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """Folder of a small DINOv2 model with the tensor names of Phikon-v2's file (transformers 4)."""
    random = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, 48),
        "embeddings.mask_token": (1, 48),
        "embeddings.position_embeddings": (1, 197, 48),
        "embeddings.patch_embeddings.projection.weight": (48, 3, 16, 16),
        "embeddings.patch_embeddings.projection.bias": (48,),
        "layernorm.weight": (48,),
        "layernorm.bias": (48,),
    }
    for block in ("encoder.layer.0.", "encoder.layer.1."):
        attention = ("attention.query", "attention.key", "attention.value", "output.dense")
        for name, out, width in (
            *((f"attention.{n}", 48, 48) for n in attention),
            ("mlp.fc1", 192, 48),
            ("mlp.fc2", 48, 192),
        ):
            shapes |= {f"{block}{name}.weight": (out, width), f"{block}{name}.bias": (out,)}
        shapes |= {f"{block}{norm}.{what}": (48,) for norm in ("norm1", "norm2") for what in ("weight", "bias")}
        shapes |= {f"{block}layer_scale{i}.lambda1": (48,) for i in (1, 2)}
    tensors = {name: torch.randn(shape, generator=random) * 0.2 for name, shape in shapes.items()}
    config = {"model_type": "dinov2", "architectures": ["Dinov2Model"], "hidden_size": 48, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 3, "image_size": 224, "patch_size": 16, "mlp_ratio": 4}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


def test_with_the_package_itself(small_row: None, tmp_path: Path, tiles: torch.Tensor) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is optional and not installed here")
    tensors = dinov2_file(tmp_path / "phikon")
    before = torch.get_rng_state()
    encoder = hd.encoders.load("phikon2", weights=tmp_path / "phikon", device="cpu")
    assert torch.equal(before, torch.get_rng_state())
    model = transformers.AutoModel.from_pretrained(tmp_path / "phikon").eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        wanted = model(pixel_values=(tiles[:2] / 255 - mean) / std).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(tiles[:2]), wanted, rtol=1e-4, atol=1e-5)
    assert (wanted[0] - wanted[1]).abs().max() > 0.01
    del tensors["encoder.layer.1.norm1.weight"]
    save_file(tensors, tmp_path / "phikon" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HisDiffError, match=r"another model than 'phikon2': .*norm1\.weight"):
        hd.encoders.load("phikon2", weights=tmp_path / "phikon", device="cpu")
