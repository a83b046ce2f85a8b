"""The built-in encoder: what a pathologist's eye measures, without weights."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F

from hisdiff_sd.encoders import _texture
from hisdiff_sd.encoders._base import check_tiles
from hisdiff_sd.encoders._filters import Regions
from hisdiff_sd.encoders._stains import optical_density, separate_stains

_VERSION = 1
_CHUNK = 4  # tiles worked on at once: what fits in a processor's cache
_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)


class MorphologyEncoder:
    """Colour, texture and nuclei of an H&E tile as one vector, with no weights to fetch.

    Parameters
    ----------
    device
        Where it runs.
    """

    name = "morphology"
    tile_px = 224
    licence = "BSD-3-Clause"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._regions = Regions(device)
        self.dim = self._features(torch.zeros(1, 3, self.tile_px, self.tile_px, dtype=torch.uint8)).shape[1]
        self.fingerprint = hashlib.sha256(f"{self.name}|{_VERSION}|{self.tile_px}|{self.dim}".encode()).hexdigest()

    def __repr__(self) -> str:
        return f"MorphologyEncoder(dim={self.dim}, device={str(self._device)!r})"

    @torch.inference_mode()
    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Embed tiles: uint8 RGB of shape (B, 3, tile_px, tile_px) to float32 of shape (B, dim) on the CPU."""
        check_tiles(tiles, self.tile_px, self.name)
        if not len(tiles):
            return torch.zeros(0, self.dim)
        return torch.cat([self._features(part).cpu() for part in tiles.split(_CHUNK)])

    def _features(self, tiles: torch.Tensor) -> torch.Tensor:
        """Vectors (B, dim) of tiles on the encoder's device."""
        density = optical_density(tiles.to(self._device))
        stains = separate_stains(density)
        levels = _texture.pyramid(stains[:, :2])
        return torch.cat(
            [
                *self._colour(density, stains),
                *_texture.band_energies(levels, self._regions),
                *_texture.gradients(levels, self._regions),
                *_texture.binary_patterns(levels, self._regions),
                *_texture.nuclei(levels[1][:, :1], self._regions),
            ],
            dim=1,
        )

    def _colour(self, density: torch.Tensor, stains: torch.Tensor) -> list[torch.Tensor]:
        """Moments and quantiles of stains and densities, and the share of tissue."""
        maps = torch.cat([stains, density], dim=1)
        small = F.avg_pool2d(maps, 4).flatten(2).sort(-1).values
        places = [round(q * (small.shape[-1] - 1)) for q in _QUANTILES]
        tissue = torch.sigmoid((density.mean(1, keepdim=True) - 0.08) / 0.02)
        return [self._regions.moments(maps), small[..., places].flatten(1), self._regions.mean(tissue).flatten(1)]
