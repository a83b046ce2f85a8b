"""The encoders that can be asked for by name: a table, and the function that loads a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hisdiff_sd._device import resolve_device
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.encoders._base import TileEncoder

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderRow:
    """One encoder: where its weights lie, how its model is built and how a tile becomes its input.

    A row without `hub_id` is built in and has no weights.
    """

    name: str
    dim: int
    licence: str
    tile_px: int = 224
    hub_id: str | None = None
    filename: str = ""
    gated: bool = False
    timm_name: str = ""
    timm_args: Mapping[str, Any] = field(default_factory=dict)
    pooling: str = "cls"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


ENCODERS: dict[str, EncoderRow] = {
    row.name: row
    for row in (
        EncoderRow(
            name="uni",
            dim=1024,
            licence="CC-BY-NC-ND-4.0",
            hub_id="MahmoodLab/UNI",
            filename="pytorch_model.bin",
            gated=True,
            timm_name="vit_large_patch16_224",
            timm_args={"init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
            pooling="cls",
        ),
        EncoderRow(name="morphology", dim=162, licence="BSD-3-Clause"),
    )
}


def load_encoder(encoder: str | TileEncoder, *, weights: str | Path | None = None, device: str = "auto") -> TileEncoder:
    """Load a tile encoder.

    Parameters
    ----------
    encoder
        Name of an encoder: ``"uni"`` (Chen et al. 2024, gated: needs accepted terms on the Hugging Face hub, or
        `weights`) or ``"morphology"`` (built in, needs nothing). An encoder of your own (see `TileEncoder`) is returned
        as it is.
    weights
        Weight file on disk (``.bin``, ``.pt``, ``.pth`` or ``.safetensors``) to use in place of the hub's.
    device
        Torch device to run on; ``"auto"`` takes a GPU where there is one.

    Returns
    -------
    The encoder: call it with uint8 tiles of shape (B, 3, `tile_px`, `tile_px`), get float32 of shape (B, `dim`).

    Raises
    ------
    HisDiffError
        If there is no such encoder, its weights cannot be had from the hub, or the file is not one of its weights.

    Examples
    --------
    >>> import torch
    >>> encoder = load_encoder("morphology", device="cpu")
    >>> encoder(torch.zeros(2, 3, 224, 224, dtype=torch.uint8)).shape[0]
    2
    """
    if not isinstance(encoder, str):
        return _own_encoder(encoder, weights)
    row = ENCODERS[check_one_of(encoder, ENCODERS, "encoder")]
    where = resolve_device(device)
    if row.hub_id is None:
        if weights is not None:
            raise HisDiffError(
                f"encoder {row.name!r} is built in and has no weights; leave weights={str(weights)!r} out"
            )
        from hisdiff_sd.encoders._morphology import MorphologyEncoder

        return MorphologyEncoder(where)
    from hisdiff_sd.encoders._timm import TimmEncoder

    return TimmEncoder(row, weights=None if weights is None else Path(weights), device=where)


def _own_encoder(encoder: TileEncoder, weights: str | Path | None) -> TileEncoder:
    """Return a user's own encoder after a look at its attributes."""
    if not isinstance(encoder, TileEncoder):
        raise HisDiffError(
            f"{type(encoder).__name__} is not a tile encoder: it needs name, dim, tile_px, fingerprint, licence and to be "
            f"callable; or give a name, one of: {', '.join(map(repr, ENCODERS))}"
        )
    if weights is not None:
        raise HisDiffError(f"encoder {encoder.name!r} is already loaded; leave weights={str(weights)!r} out")
    return encoder
