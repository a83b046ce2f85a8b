"""The built-in encoder: colour, texture and nuclei of a tile, without weights."""

from __future__ import annotations

import hashlib

import torch

from hisdiff_sd.encoders._compute import DeviceEncoder
from hisdiff_sd.encoders._nuclei import nuclei
from hisdiff_sd.encoders._stains import colour, optical_density, separate_stains
from hisdiff_sd.encoders._texture import binary_patterns, edges, octaves, pyramid

_VERSION = 1  # to be raised by every change that changes a vector: stored embeddings are recognised by it
_CHUNK = 4  # tiles worked on at once: more do not fit in a processor's cache
_CHUNK_GPU = 64  # fewer leave a GPU idle


class MorphologyEncoder(DeviceEncoder):
    """Colour, texture and nuclei of an H&E tile as one vector, with no weights to fetch.

    Haematoxylin, eosin and the rest are unmixed by the matrix of Ruifrok and Johnston (2001). Of them the vector holds
    moments and quantiles; energy over five octaves, edges and their directions over three; local binary patterns (Ojala
    et al. 2002); and number, contrast and crowding of nuclei, found as differences of Gaussians. The main ones are taken
    over the whole tile and over its centre (a disc of radius 0.32 sides), where a spot of 100 um lies. Flips
    and quarter turns of a tile change its vector by rounding only, but for ties between neighbouring pixels.

    Parameters
    ----------
    device
        Where it runs.

    Examples
    --------
    >>> encoder = MorphologyEncoder(torch.device("cpu"))
    >>> white = torch.full((1, 3, 224, 224), 255, dtype=torch.uint8)
    >>> encoder(white).shape == (1, encoder.dim)
    True
    """

    name = "morphology"
    dim = 162
    tile_px = 224
    licence = "BSD-3-Clause"
    fingerprint = hashlib.sha256(f"morphology|{_VERSION}|{tile_px}|{dim}".encode()).hexdigest()

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)

    def _vectors(self, tiles: torch.Tensor) -> torch.Tensor:
        chunk = _CHUNK if self.device.type == "cpu" else _CHUNK_GPU
        return torch.cat([_features(part) for part in tiles.split(chunk)])


def _features(tiles: torch.Tensor) -> torch.Tensor:
    """Vectors (B, dim) of a few tiles, on their device."""
    density = optical_density(tiles)
    stains = separate_stains(density)
    brightness = density.mean(1, keepdim=True)
    levels = pyramid(torch.cat([stains[:, :2], brightness], dim=1))
    parts = [*colour(density, stains), *octaves(levels), *edges(levels), *binary_patterns(levels)]
    return torch.cat([*parts, *nuclei(levels[1][:, :1])], dim=1)
