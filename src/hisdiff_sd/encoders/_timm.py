"""Encoders that are timm models with published weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from hisdiff_sd.encoders._base import check_tiles, fingerprint_tensors
from hisdiff_sd.encoders._hub import fetch_weights
from hisdiff_sd.encoders._weights import load_weights, read_weights

if TYPE_CHECKING:
    from hisdiff_sd.encoders._registry import EncoderRow

# From the tokens (B, prefix + patches, width) and the number of prefix tokens (CLS and registers) to (B, dim).
POOLINGS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "cls": lambda tokens, prefix: tokens[:, 0],
    "mean": lambda tokens, prefix: tokens[:, prefix:].mean(1),
    "cls+mean": lambda tokens, prefix: torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], dim=1),
}


class TimmEncoder:
    """A row of the registry as a model with weights, on a device.

    Parameters
    ----------
    row
        Row of the registry.
    weights
        Weight file; None takes the row's file from the Hugging Face hub.
    device
        Where the model runs.
    """

    def __init__(self, row: EncoderRow, *, weights: Path | None, device: torch.device) -> None:
        path = fetch_weights(row) if weights is None else weights
        tensors = read_weights(path, row)
        model = _build(row)
        load_weights(model, tensors, path, row)
        self.name, self.dim, self.tile_px, self.licence = row.name, row.dim, row.tile_px, row.licence
        self.fingerprint = fingerprint_tensors(model.state_dict())
        self._pool = POOLINGS[row.pooling]
        self._device = device
        self._model = model.to(device).eval().requires_grad_(False)
        self._mean, self._std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (row.mean, row.std))

    def __repr__(self) -> str:
        return f"TimmEncoder({self.name!r}, dim={self.dim}, device={str(self._device)!r})"

    @torch.inference_mode()
    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Embed tiles: uint8 RGB of shape (B, 3, tile_px, tile_px) to float32 of shape (B, dim) on the CPU."""
        check_tiles(tiles, self.tile_px, self.name)
        if not len(tiles):
            return torch.zeros(0, self.dim)
        pixels = tiles.to(self._device).float().div_(255).sub_(self._mean).div_(self._std)
        tokens = self._model.forward_features(pixels)
        return self._pool(tokens, self._model.num_prefix_tokens).float().cpu()


class _NoRandomFill(TorchFunctionMode):
    """Leaves out the random fills of new weights: seconds of work in a large model, and draws from the user's seed."""

    _FILLS = ("uniform_", "normal_", "erfinv_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self._FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _build(row: EncoderRow) -> Any:
    """Build a row's model with weights that are still to be loaded, every one of them."""
    import timm

    with _NoRandomFill():
        return timm.create_model(row.timm_name, pretrained=False, **row.timm_args)
