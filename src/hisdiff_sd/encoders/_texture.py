"""Texture of the stains at several scales, and nuclei as blobs of haematoxylin."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hisdiff_sd.encoders._filters import Regions, blur, cube_root, double, halve, local_max, root

_LEVELS = 5
_NUCLEAR_SIGMAS = (1.5, 2.5)  # of a blob, in pixels of the half-size tile
_NUCLEAR_CONTRAST = 0.02


def pyramid(maps: torch.Tensor) -> list[torch.Tensor]:
    """`maps` (B, C, H, W) and its halvings."""
    levels = [maps]
    for _ in range(_LEVELS):
        levels.append(halve(levels[-1]))
    return levels


def band_energies(levels: list[torch.Tensor], regions: Regions) -> list[torch.Tensor]:
    """Root mean square, sparseness and asymmetry of every octave, and how the octave's channels go together."""
    out = []
    for fine, coarse in zip(levels[:-1], levels[1:], strict=True):
        band = fine - double(coarse)
        square = band * band
        energy = root(regions.mean(square))
        flat = regions.mean(band.abs()) / energy.clamp_min(1e-3)
        asymmetry = cube_root(regions.mean(square * band))
        together = regions.mean(band[:, :1] * band[:, 1:2]) / (energy[:, :1] * energy[:, 1:2]).clamp_min(1e-5)
        out += [torch.log1p(50 * energy).flatten(1), flat.flatten(1), asymmetry.flatten(1), together.flatten(1)]
    return out


def gradients(levels: list[torch.Tensor], regions: Regions) -> list[torch.Tensor]:
    """Strength of edges, its spread, and how far neighbouring edges share a direction (structure tensor)."""
    out = []
    for level in levels[:4]:
        padded = F.pad(level, (1, 1, 1, 1), mode="reflect")
        dx = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
        dy = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
        xx, yy, xy = dx * dx, dy * dy, dx * dy
        edge = (xx + yy + 1e-8).sqrt()
        mean = regions.mean(edge)
        spread = root(regions.mean(xx + yy) - mean**2)
        xx, yy, xy = halve(halve(torch.cat([xx, yy, xy], dim=1))).chunk(3, dim=1)
        coherence = ((xx - yy) ** 2 + 4 * xy**2).sqrt() / (xx + yy + 4e-4)
        out += [
            torch.log1p(25 * mean).flatten(1),
            torch.log1p(25 * spread).flatten(1),
            regions.mean(coherence).flatten(1),
        ]
    return out


def binary_patterns(levels: list[torch.Tensor], regions: Regions) -> list[torch.Tensor]:
    """Histogram of uniform, rotation-invariant local binary patterns (Ojala et al. 2002) of the first channel."""
    out = []
    for level in levels[1:3]:
        side = level.shape[-1]
        centre = level[:, :1] + 0.01
        padded = F.pad(level[:, :1], (1, 1, 1, 1), mode="reflect")
        ring = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
        bits = torch.cat([padded[..., y : y + side, x : x + side] > centre for y, x in ring], dim=1)
        changes = (bits ^ bits.roll(1, dims=1)).sum(1, keepdim=True)
        code = torch.where(changes <= 2, bits.sum(1, keepdim=True), 9)
        share = regions.mean(torch.cat([(code == k).float() for k in range(10)], dim=1))
        out.append(share.sqrt().flatten(1))
    return out


def nuclei(half: torch.Tensor, regions: Regions) -> list[torch.Tensor]:
    """Number, contrast, crowding and unevenness of blobs in a half-size haematoxylin map (B, 1, H, W)."""
    out = []
    for sigma in _NUCLEAR_SIGMAS:
        inner = blur(half, sigma)
        response = inner - blur(inner, 1.2 * sigma)
        peak = response == local_max(response, 2)
        seen = torch.sigmoid((response - _NUCLEAR_CONTRAST) / (0.25 * _NUCLEAR_CONTRAST)) * peak
        crowd = seen * double(double(blur(F.avg_pool2d(seen, 4), 1.5)))
        share = regions.mean(torch.cat([seen, seen * response, seen * inner, crowd], dim=1))
        count = share[:, :1]
        grid = F.adaptive_avg_pool2d(seen, 7).flatten(2)
        uneven = grid.std(-1) / (grid.mean(-1) + 1e-3)
        out += [root(count * 1000).flatten(1), (share[:, 1:] / (count + 1e-4)).flatten(1), torch.log1p(uneven)]
    return out
