"""A small model in the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hisdiff_sd.encoders._registry import ENCODERS, EncoderRow


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> EncoderRow:
    """Row of a small ViT that takes the same way as UNI."""
    row = EncoderRow(
        name="tiny",
        dim=192,
        licence="none",
        hub_id="lab/tiny",
        filename="pytorch_model.bin",
        gated=True,
        timm_name="vit_tiny_patch16_224",
        timm_args={"depth": 2, "init_values": 1.0, "num_classes": 0, "dynamic_img_size": True},
    )
    monkeypatch.setitem(ENCODERS, row.name, row)
    return row


@pytest.fixture
def tiles() -> torch.Tensor:
    """Six different random tiles."""
    return torch.randint(0, 256, (6, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def build(row: EncoderRow, seed: int = 0) -> torch.nn.Module:
    """The row's model with random weights, straight from timm."""
    import timm

    torch.manual_seed(seed)
    layers = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": torch.nn.SiLU}
    arguments = {k: layers[v] if k in ("mlp_layer", "act_layer") else v for k, v in row.timm_args.items()}
    return timm.create_model(row.timm_name, pretrained=False, **arguments).eval()


@pytest.fixture
def make_model() -> Callable[..., torch.nn.Module]:
    return build


@pytest.fixture
def tiny_file(tiny: EncoderRow, tmp_path: Path) -> Path:
    """Weight file of the small model."""
    path = tmp_path / "pytorch_model.bin"
    torch.save(build(tiny).state_dict(), path)
    return path
