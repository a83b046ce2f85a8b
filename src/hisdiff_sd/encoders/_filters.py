"""Small image operations that treat flips and quarter turns alike: blurs, a pyramid, averages over regions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

CENTRE_RADIUS = 0.32  # of the side: a spot of 100 um in a tile of 155 um


class Regions:
    """Averages over the whole tile and over its central disc, at every size of a pyramid."""

    count = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._weights: dict[int, torch.Tensor] = {}

    def weights(self, side: int) -> torch.Tensor:
        """Weights (side * side, 2) that sum to one over the tile and over the disc."""
        if side not in self._weights:
            axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5
            radius = (axis[:, None] ** 2 + axis[None, :] ** 2).sqrt()
            disc = ((CENTRE_RADIUS - radius) * side + 0.5).clamp(0, 1)
            both = torch.stack([torch.ones_like(disc), disc]).flatten(1)
            self._weights[side] = (both / both.sum(1, keepdim=True)).T.float().contiguous().to(self._device)
        return self._weights[side]

    def mean(self, maps: torch.Tensor) -> torch.Tensor:
        """Means of maps (B, C, H, W): (B, C, 2)."""
        return maps.flatten(2) @ self.weights(maps.shape[-1])

    def moments(self, maps: torch.Tensor) -> torch.Tensor:
        """Mean, standard deviation and cube root of the third moment of maps (B, C, H, W): (B, 3 * C * 2)."""
        centre = maps.mean((2, 3), keepdim=True)
        off = maps - centre
        square = off * off
        first, second, third = self.mean(off), self.mean(square), self.mean(square * off)
        variance = (second - first**2).clamp_min(0)
        skew = third - 3 * first * second + 2 * first**3
        return torch.cat([first + centre[..., 0], root(variance), cube_root(skew)], dim=1).flatten(1)


def root(x: torch.Tensor) -> torch.Tensor:
    """Square root of what cannot be negative but for rounding."""
    return (x.clamp_min(0) + 1e-8).sqrt()


def cube_root(x: torch.Tensor) -> torch.Tensor:
    """Signed cube root, smooth at zero."""
    return x * (x * x + 1e-10).pow(-1 / 3)


def blur(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of maps (B, C, H, W), reflected at the border."""
    reach = max(1, math.ceil(2.5 * sigma))
    taps = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(reach + 1)]
    total = taps[0] + 2 * sum(taps[1:])
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
    channels = maps.shape[1]
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=maps.device) / 8
    kernel = (taps[:, None] * taps[None, :]).expand(channels, 1, 4, 4)
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=channels)


def double(maps: torch.Tensor) -> torch.Tensor:
    """Maps at twice the size, bilinear."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def local_mean(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Mean over boxes of odd `size`, same shape."""
    return F.avg_pool2d(maps, size, stride=1, padding=size // 2, count_include_pad=False)


def local_max(maps: torch.Tensor, reach: int) -> torch.Tensor:
    """Largest value within `reach` pixels in both directions, same shape."""
    for dim, pad in ((-1, (reach, reach, 0, 0)), (-2, (0, 0, reach, reach))):
        size = maps.shape[dim]
        padded = F.pad(maps, pad, value=-torch.inf)
        maps = padded.narrow(dim, 0, size)
        for i in range(1, 2 * reach + 1):
            maps = torch.maximum(maps, padded.narrow(dim, i, size))
    return maps
