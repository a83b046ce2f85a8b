"""Tiles brought to an encoder's size on whatever device they lie."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._errors import check_one_of

if TYPE_CHECKING:
    import torch

FILTERS = {"lanczos": 3.0, "bicubic": 2.0}


def resize(tiles: torch.Tensor, side: int, resample: str) -> torch.Tensor:
    """Resize square tiles with antialiasing, to the pixels that Pillow's ``Image.resize`` gives (within one grey level).

    Parameters
    ----------
    tiles
        uint8 (m, 3, s, s) on any device.
    side
        Side of the result.
    resample
        ``"lanczos"`` (as published) or ``"bicubic"``.

    Returns
    -------
    uint8 (m, 3, side, side) on the same device.

    Examples
    --------
    >>> import torch
    >>> from hisdiff_sd.tiles import resize
    >>> resize(torch.full((2, 3, 112, 112), 200, dtype=torch.uint8), 224, "lanczos").unique()
    tensor([200], dtype=torch.uint8)
    """
    import torch

    check_one_of(resample, FILTERS, "filter")
    if tiles.shape[-1] == side:
        return tiles
    if resample == "bicubic" and tiles.device.type == "cpu":
        # torch has a quick integer version of this one
        return torch.nn.functional.interpolate(tiles, (side, side), mode="bicubic", antialias=True)
    weights = torch.from_numpy(_weights(tiles.shape[-1], side, resample)).to(tiles.device)
    # Pillow rounds after the horizontal pass too
    wide = (tiles.float() @ weights.T).round_().clamp_(0, 255)
    return (weights @ wide).round_().clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=16)
def _weights(source: int, target: int, resample: str) -> np.ndarray:
    """(target, source) float32 weights; the filter widens with the scale, so that nothing is skipped."""
    scale = max(source / target, 1.0)
    centre = (np.arange(target) + 0.5) * source / target
    x = (np.arange(source) + 0.5 - centre[:, None]) / scale
    kernel = _lanczos(x) if resample == "lanczos" else _bicubic(x)
    kernel[np.abs(x) >= FILTERS[resample]] = 0.0
    return (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)


def _lanczos(x: np.ndarray) -> np.ndarray:
    """Sinc windowed by a sinc three times as wide."""
    return np.asarray(np.sinc(x) * np.sinc(x / 3))


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Cubic convolution with a = -0.5 (Keys 1981)."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, far)
