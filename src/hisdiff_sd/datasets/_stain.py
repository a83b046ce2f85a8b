"""Stains a planned section: optical densities of haematoxylin and eosin, then light through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from hisdiff_sd.datasets._fields import ramp, resize, smooth_field
from hisdiff_sd.datasets._tissue import FAT, IMMUNE, STROMA, TUMOUR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hisdiff_sd.datasets._fields import Field
    from hisdiff_sd.datasets._nuclei import Nuclei
    from hisdiff_sd.datasets._tissue import Tissue

# Optical density of (haematoxylin, eosin) between the nuclei, by tissue.
_GROUND = {TUMOUR: (0.15, 0.17), STROMA: (0.04, 0.21), FAT: (0.04, 0.18), IMMUNE: (0.14, 0.12)}
_CAMERA = np.float32(1.5)  # grey levels of noise

_SLAB = 128  # rows worked on at once
_BLOCK = 1024  # side of the square of noise that is repeated over the slide


@dataclass(frozen=True)
class Stain:
    """Colour of a laboratory: OD per unit of each dye for (R, G, B), strength of each dye, light without tissue."""

    haematoxylin: NDArray[np.float64]
    eosin: NDArray[np.float64]
    strength: tuple[float, float]
    light: NDArray[np.float64]


def draw_stain(rng: np.random.Generator) -> Stain:
    """A stain near the textbook one: absorption of the dyes as measured by Ruifrok and Johnston (2001), varied."""

    def vary(vector: tuple[float, ...]) -> NDArray[np.float64]:
        v = np.array(vector) * np.exp(rng.normal(0, 0.05, 3))
        return np.asarray(v / np.linalg.norm(v))

    return Stain(
        haematoxylin=vary((0.65, 0.70, 0.29)),
        eosin=vary((0.10, 0.93, 0.33)),
        strength=(float(rng.uniform(0.85, 1.15)), float(rng.uniform(0.85, 1.2))),
        light=rng.uniform((240, 236, 238), (250, 246, 250)),
    )


def stain_section(
    rng: np.random.Generator, tissue: Tissue, nuclei: list[Nuclei], stain: Stain, shape: tuple[int, int], mpp: float
) -> NDArray[np.uint8]:
    """The RGB image (height, width, 3) of a section at `mpp` um per pixel."""
    depth = resize(tissue.depth, shape)
    haematoxylin, eosin = (resize(ground, shape) for ground in _ground(rng, tissue))
    nuclear = np.zeros(shape, dtype=np.float32)
    for kind in nuclei:
        _stamp(nuclear, kind, mpp)
    grain, camera = _noise(rng, 0.7 / mpp), _noise(rng, 0.3)
    image = np.empty((*shape, 3), dtype=np.uint8)
    for top in range(0, shape[0], _SLAB):  # in slabs, which fit into the processor's cache
        rows = slice(top, top + _SLAB)
        solid = ramp(depth[rows] / max(mpp, 0.8) + 0.5)  # edges are about a pixel wide
        texture, noise = (_tiled(block, solid.shape, top) for block in (grain, camera))
        nucleus = nuclear[rows] * (1.0 + 0.14 * texture)
        h = solid * haematoxylin[rows] * (1.0 + 0.10 * texture)
        e = solid * eosin[rows] * (1.0 + 0.08 * texture)
        h, e = np.maximum(h, nucleus + 0.4 * h), e - 0.9 * e * np.minimum(nucleus, np.float32(0.5))
        _shine(image[rows], h, e, stain, noise)
    return image


def _ground(rng: np.random.Generator, tissue: Tissue) -> tuple[Field, Field]:
    """Haematoxylin and eosin between the nuclei, on the grid of the plan."""
    haematoxylin, eosin = np.zeros((2, *tissue.labels.shape), dtype=np.float32)
    for label, (h, e) in _GROUND.items():
        # Tissues run into each other over a few um.
        here = gaussian_filter((tissue.labels == label).astype(np.float32), 1.5)
        haematoxylin += h * here
        eosin += e * here * np.clip(1.0 + (0.30 if label == STROMA else 0.08) * tissue.fibre, 0.25, 2.0)
    cloud = smooth_field(rng, tissue.labels.shape, 60.0) + smooth_field(rng, tissue.labels.shape, 4.0)
    return haematoxylin * (1 + 0.1 * cloud), eosin * (1 + 0.1 * cloud)


def _stamp(canvas: Field, nuclei: Nuclei, mpp: float, batch: int = 2000) -> None:
    """Draw ellipses into `canvas`, the darkest wins; rims are darker than centres."""
    if not len(nuclei.xy):
        return
    reach = int(np.ceil(np.percentile(nuclei.radii, 99) / mpp)) + 1
    around = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, 1, -1).astype(np.int32)
    height, width = canvas.shape
    for start in range(0, len(nuclei.xy), batch):
        part = slice(start, start + batch)
        centre = nuclei.xy[part, ::-1].T[..., None] / mpp  # (row, column), nuclei, 1
        y, x = np.floor(centre).astype(np.int32) + around
        up, right = (np.floor(centre) + 0.5 - centre).astype(np.float32) + around.astype(np.float32)
        cos, sin = np.cos(nuclei.angle[part])[:, None], np.sin(nuclei.angle[part])[:, None]
        long, short = nuclei.radii[part].T[..., None] / np.float32(mpp)
        r2 = ((cos * right + sin * up) / long) ** 2 + ((cos * up - sin * right) / short) ** 2
        drawn = (r2 < 1.8) & (x >= 0) & (y >= 0) & (x < width) & (y < height)
        r, of = np.sqrt(r2[drawn]), np.nonzero(drawn)[0]
        profile = (0.82 + 0.3 * np.minimum(r, 1.0) ** 3) * ramp((1.0 - r) * short[of, 0] + 0.5)
        np.maximum.at(canvas, (y[drawn], x[drawn]), nuclei.darkness[part][of] * profile)


def _noise(rng: np.random.Generator, blur_px: float) -> Field:
    """A square of noise, mean 0 and standard deviation 1, whose edges fit together."""
    block = gaussian_filter(rng.standard_normal((_BLOCK, _BLOCK), dtype=np.float32), blur_px, mode="wrap")
    return np.asarray(block / block.std(), dtype=np.float32)


def _tiled(block: Field, shape: tuple[int, int], top: int) -> Field:
    """Rows `top` and below of a plane paved with `block`."""
    rows = np.arange(top, top + shape[0]) % _BLOCK
    return np.tile(block[rows], (1, -(-shape[1] // _BLOCK)))[:, : shape[1]]


def _shine(out: NDArray[np.uint8], haematoxylin: Field, eosin: Field, stain: Stain, noise: Field) -> None:
    """Beer-Lambert: what is left of the light behind both dyes, with the noise of a camera."""
    dyes = np.array([stain.haematoxylin, stain.eosin]) * np.array(stain.strength)[:, None]
    for c, (h, e) in enumerate(dyes.T.astype(np.float32)):
        density = h * haematoxylin + e * eosin
        light = np.float32(stain.light[c]) * np.exp(np.float32(-np.log(10)) * density) + _CAMERA * noise
        out[..., c] = np.clip(light, 0, 255)
