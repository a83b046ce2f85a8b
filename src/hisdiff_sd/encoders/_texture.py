"""Texture over a pyramid of maps: energy of octaves, edges and their directions, local binary patterns."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from hisdiff_sd.encoders._filters import centre_mean, cube_root, double, halve, root, tile_mean

_OCTAVES = 5
_EDGE_LEVELS = (1, 2, 3)  # the finest level is mostly compression noise
_PATTERN_LEVELS = (1, 2)
_PATTERN_CONTRAST = 0.01  # optical density by which a neighbour must be darker to count
_RING = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
_GAIN = 50.0  # log1p(gain * x): strengths of texture lie between 0.002 and 0.2


def pyramid(maps: torch.Tensor) -> list[torch.Tensor]:
    """`maps` (B, C, H, W) and its halvings."""
    levels = [maps]
    for _ in range(_OCTAVES):
        levels.append(halve(levels[-1]))
    return levels


def octaves(levels: list[torch.Tensor]) -> list[torch.Tensor]:
    """Energy and asymmetry of every octave, and how far its first two channels go together."""
    out = []
    for fine, coarse in itertools.pairwise(levels):
        band = fine - double(coarse)
        square = band * band
        energy = root(tile_mean(square))
        together = tile_mean(band[:, :1] * band[:, 1:2]) / (energy[:, :1] * energy[:, 1:2] + 1e-5)
        asymmetry = cube_root(tile_mean(square * band))
        centre = root(centre_mean(square))
        out += [torch.log1p(_GAIN * energy), torch.log1p(_GAIN * centre), asymmetry, together]
    return out


def edges(levels: list[torch.Tensor]) -> list[torch.Tensor]:
    """Strength of edges, its spread, and how far neighbouring edges share a direction (structure tensor)."""
    out = []
    for level in (levels[i] for i in _EDGE_LEVELS):
        padded = F.pad(level, (1, 1, 1, 1), mode="reflect")
        dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]).mul_(0.5)
        dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]).mul_(0.5)
        xx, yy, xy = dx * dx, dy * dy, dx * dy
        square = xx + yy
        strength = (square + 1e-8).sqrt()
        mean = tile_mean(strength)
        spread = root(tile_mean(square) - mean**2)
        xx, yy, xy = (F.avg_pool2d(product, 4) for product in (xx, yy, xy))
        coherence = ((xx - yy) ** 2 + 4 * xy**2).sqrt() / (xx + yy + 1e-4)
        centre = centre_mean(strength)
        out += [torch.log1p(_GAIN * strong) for strong in (mean, centre, spread)]
        out.append(tile_mean(coherence))
    return out


def binary_patterns(levels: list[torch.Tensor]) -> list[torch.Tensor]:
    """Shares of the uniform, rotation-invariant local binary patterns (Ojala et al. 2002) of the first channel."""
    out = []
    for level in (levels[i][:, :1] for i in _PATTERN_LEVELS):
        side = level.shape[-1]
        padded = F.pad(level, (1, 1, 1, 1), mode="reflect")
        ring = torch.cat([padded[..., y : y + side, x : x + side] for y, x in _RING], dim=1)
        bits = (ring > level + _PATTERN_CONTRAST).float()
        changes = (bits - bits.roll(1, dims=1)).abs_().sum(1)
        # Patterns of more than one run of darker neighbours share the code 9.
        code = torch.where(changes > 2, 9.0, bits.sum(1))
        shares = torch.stack([(code == k).float().mean((1, 2)) for k in range(10)], dim=1)
        out.append(root(shares))
    return out
