"""Small image operations that treat flips and quarter turns alike: blurs, halvings, averages over tile and centre."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F

_CENTRE_RADIUS = 0.32  # of the side: a spot of 100 um in a tile of 155 um


@functools.lru_cache(maxsize=32)
def _centre_weights(side: int, device: torch.device) -> tuple[slice, torch.Tensor]:
    """The rows (and columns) that the central disc touches, and weights over them that sum to one."""
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) - side / 2
    radius = (axis[:, None] ** 2 + axis[None, :] ** 2).sqrt()
    disc = (_CENTRE_RADIUS * side - radius + 0.5).clamp(0, 1)
    rows = disc.sum(1).nonzero()[:, 0].tolist()
    box = slice(rows[0], rows[-1] + 1)
    return box, (disc / disc.sum())[box, box].float().to(device)


def tile_mean(maps: torch.Tensor) -> torch.Tensor:
    """Means of maps (B, C, H, W) over the tile: (B, C)."""
    return maps.mean((2, 3))


def centre_mean(maps: torch.Tensor) -> torch.Tensor:
    """Means of maps (B, C, H, W) over the central disc: (B, C)."""
    # A product and a sum, for a matrix product rounds differently for every number of tiles.
    box, weights = _centre_weights(maps.shape[-1], maps.device)
    return (maps[..., box, box] * weights).sum((2, 3))


def root(x: torch.Tensor) -> torch.Tensor:
    """Square root of what cannot be negative but for rounding, smooth at zero."""
    return (x.clamp_min(0) + 1e-8).sqrt()


def cube_root(x: torch.Tensor) -> torch.Tensor:
    """Signed cube root, smooth at zero."""
    return x * (x * x + 1e-10).pow(-1 / 3)


def blur(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of maps (B, C, H, W), reflected at the border."""
    reach = max(1, math.ceil(2.5 * sigma))
    taps = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(reach + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    # Sums of shifted copies: on a processor several times quicker than a convolution per channel.
    for dim, pad in ((-1, (reach, reach, 0, 0)), (-2, (0, 0, reach, reach))):
        size = maps.shape[dim]
        padded = F.pad(maps, pad, mode="reflect")
        maps = padded.narrow(dim, reach, size) * (taps[0] / total)
        for i in range(1, reach + 1):
            pair = padded.narrow(dim, reach - i, size) + padded.narrow(dim, reach + i, size)
            maps.add_(pair, alpha=taps[i] / total)
    return maps


def halve(maps: torch.Tensor) -> torch.Tensor:
    """Maps (B, C, H, W) at half the size, after a blur by (1, 3, 3, 1) / 8."""
    for dim in (-2, -1):
        size = maps.shape[dim]
        even, odd = _every_other(maps, dim, 0), _every_other(maps, dim, 1)
        before = torch.cat([maps.narrow(dim, 0, 1), odd.narrow(dim, 0, size // 2 - 1)], dim)
        after = torch.cat([even.narrow(dim, 1, size // 2 - 1), maps.narrow(dim, size - 1, 1)], dim)
        maps = ((even + odd).mul_(3).add_(before + after)).mul_(0.125)
    return maps


def _every_other(maps: torch.Tensor, dim: int, start: int) -> torch.Tensor:
    """Every second row or column."""
    return maps[..., start::2, :] if dim == -2 else maps[..., start::2]


def double(maps: torch.Tensor) -> torch.Tensor:
    """Maps at twice the size, bilinear."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def local_max(maps: torch.Tensor, reach: int) -> torch.Tensor:
    """Largest value within `reach` pixels in both directions, same shape."""
    for dim, pad in ((-1, (reach, reach, 0, 0)), (-2, (0, 0, reach, reach))):
        size = maps.shape[dim]
        padded = F.pad(maps, pad, value=-torch.inf)
        maps = padded.narrow(dim, 0, size)
        for i in range(1, 2 * reach + 1):
            maps = torch.maximum(maps, padded.narrow(dim, i, size))
    return maps
