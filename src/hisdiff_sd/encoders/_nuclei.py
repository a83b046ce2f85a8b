"""Nuclei as blobs of haematoxylin: how many, how dark, how crowded, how evenly spread."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from hisdiff_sd.encoders._filters import blur, centre_mean, local_max, root, tile_mean

_SIGMAS = (1.5, 2.5)  # of a blob in pixels of the half-size tile: nuclei of about 6 and 10 um
_CONTRAST = 0.04  # optical density by which a blob stands out from its rim to count in half
_CELL = 4  # half-size pixels in which blobs are counted
_WINDOW = 3.0  # cells: blobs so near (about 17 um) to a blob count as its neighbours
_GRID = 7  # fields along a side over which the unevenness is taken


def nuclei(half: torch.Tensor) -> list[torch.Tensor]:
    """Blobs of two sizes in a half-size haematoxylin map (B, 1, H, W): number, contrast, stain, crowding, unevenness."""
    out = []
    for sigma in _SIGMAS:
        inner = blur(half, sigma)
        response = inner - blur(inner, 1.2 * sigma)
        peak = response == local_max(response, 2)
        # A ramp and not a step: a blob at the limit must not come and go with rounding.
        seen = (response / _CONTRAST - 0.5).clamp(0, 1) * peak
        cells = F.avg_pool2d(seen, _CELL, divisor_override=1)
        around = 2 * math.pi * _WINDOW**2 * blur(cells, _WINDOW) - cells
        count = tile_mean(seen)
        some = count + 1e-4  # about one blob: without blobs nothing is known of them
        contrast, stain = tile_mean(seen * response) / some, tile_mean(seen * inner) / some
        crowding = torch.log1p(tile_mean(cells * around).clamp_min(0) / (_CELL**2 * some))
        grid = F.avg_pool2d(cells, cells.shape[-1] // _GRID, divisor_override=1).flatten(2)
        uneven = torch.log1p(grid.std(-1) / (grid.mean(-1) + 0.1))
        out += [root(1000 * count), root(1000 * centre_mean(seen)), contrast, stain, crowding, uneven]
    return out
