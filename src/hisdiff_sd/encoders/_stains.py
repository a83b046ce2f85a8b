"""Colour of H&E: optical density, its unmixing into haematoxylin, eosin and the rest, and their distributions."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from hisdiff_sd.encoders._filters import centre_mean, cube_root, root, tile_mean

# Optical densities of haematoxylin and eosin in R, G, B (Ruifrok & Johnston 2001); the third stain is orthogonal to both.
_HAEMATOXYLIN = (0.650, 0.704, 0.286)
_EOSIN = (0.072, 0.990, 0.105)

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BLOCK = 7  # pixels: quantiles are taken over means of blocks, finer than a nucleus
_TISSUE_DENSITY, _TISSUE_SOFTNESS = 0.08, 0.02  # mean optical density where glass turns to tissue


def optical_density(tiles: torch.Tensor) -> torch.Tensor:
    """Optical density (base 10) of uint8 tiles, float32 of the same shape: 0 for white, 2.4 for black."""
    # The 1 that is added keeps black finite.
    return torch.log10(tiles.float().add_(1.0).div_(256.0)).neg_()


@functools.lru_cache(maxsize=8)
def unmixing_matrix(device: torch.device) -> torch.Tensor:
    """Matrix (3, 3) that takes an optical density in R, G, B to amounts of haematoxylin, eosin and the rest."""
    stains = torch.tensor([_HAEMATOXYLIN, _EOSIN], dtype=torch.float64)
    stains = F.normalize(stains, dim=1)
    rest = F.normalize(torch.linalg.cross(stains[0], stains[1]), dim=0)
    return torch.linalg.inv(torch.cat([stains, rest[None]]).T).float().to(device)


def separate_stains(density: torch.Tensor) -> torch.Tensor:
    """Unmix optical densities (B, 3, H, W) into haematoxylin, eosin and the rest, same shape."""
    matrix = unmixing_matrix(density.device)
    return (matrix @ density.flatten(2)).view_as(density)


def colour(density: torch.Tensor, stains: torch.Tensor) -> list[torch.Tensor]:
    """How much there is of every stain, how stains and colours are spread over the tile, and the share that is tissue."""
    mean = tile_mean(stains)
    off = stains - mean[..., None, None]
    square = off * off
    tissue = torch.sigmoid((density.mean(1, keepdim=True) - _TISSUE_DENSITY) / _TISSUE_SOFTNESS)
    blocks = F.avg_pool2d(torch.cat([stains, density], dim=1), _BLOCK).flatten(2).sort(-1).values
    places = [round(q * (blocks.shape[-1] - 1)) for q in _QUANTILES]
    return [
        mean,
        centre_mean(stains),
        root(tile_mean(square)),
        cube_root(tile_mean(square * off)),
        blocks[..., places].flatten(1),
        tile_mean(tissue),
        centre_mean(tissue),
    ]
