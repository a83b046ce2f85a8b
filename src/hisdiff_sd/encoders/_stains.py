"""Colour of H&E: optical density and its unmixing into haematoxylin, eosin and what is left."""

from __future__ import annotations

import torch

# Optical densities of haematoxylin and eosin in R, G, B (Ruifrok & Johnston 2001); the third stain is orthogonal to both.
_HAEMATOXYLIN = (0.650, 0.704, 0.286)
_EOSIN = (0.072, 0.990, 0.105)


def optical_density(tiles: torch.Tensor) -> torch.Tensor:
    """Optical density (base 10) of uint8 tiles, float32 of the same shape, 0 for white and 2.4 for black.

    The 1 added to a pixel keeps black finite.
    """
    return torch.log10(tiles.float().add_(1.0).div_(256.0)).neg_()


def unmixing_matrix() -> torch.Tensor:
    """Matrix (3, 3) that takes an optical density in R, G, B to amounts of haematoxylin, eosin and residual."""
    stains = torch.tensor([_HAEMATOXYLIN, _EOSIN], dtype=torch.float64)
    stains = stains / stains.norm(dim=1, keepdim=True)
    residual = torch.linalg.cross(stains[0], stains[1])
    stains = torch.cat([stains, (residual / residual.norm())[None]])
    return torch.linalg.inv(stains.T).float()


def separate_stains(density: torch.Tensor) -> torch.Tensor:
    """Unmix optical densities (B, 3, H, W) into haematoxylin, eosin and residual, same shape."""
    return torch.einsum("sc,bchw->bshw", unmixing_matrix().to(density.device), density)
