"""The plan of a synthetic section: which tissue lies where, in micrometres, before anything is stained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.spatial import cKDTree

from hisdiff_sd.datasets._fields import smooth_field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hisdiff_sd.datasets._fields import Field

TISSUES = ("tumour", "stroma", "fat", "immune")
TUMOUR, STROMA, FAT, IMMUNE = range(4)
OUTSIDE = -1

GRID_UM = 2.0  # cell of the plan's grid; finer things are drawn at pixel size
_DEEP_UM = 6.0  # signed distances are cut here, so that they stay smooth when enlarged
_FAT_CELL_UM = 46.0
_WALL_UM = 1.2  # half the wall between two fat cells


@dataclass(frozen=True)
class Tissue:
    """A section as grids of one shape (height, width), cells of `GRID_UM`.

    Attributes
    ----------
    labels
        Number of the tissue in `TISSUES`, `OUTSIDE` around the section; int8.
    depth
        Distance in um to the nearest white: around the section, in a fat cell or a lumen. Negative in the white, cut
        at 6 um.
    fibre
        Fibre texture of stroma, mean 0, standard deviation about 1.
    angle
        Direction of the fibres, radians.
    crowding
        How densely nuclei lie where they may lie, 0 to 1.
    """

    labels: NDArray[np.int8]
    depth: Field
    fibre: Field
    angle: Field
    crowding: Field

    def at(self, xy: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row and column of the grid for points (n, 2) given as (x, y) in um."""
        rows, cols = self.labels.shape
        index = (np.asarray(xy) / GRID_UM).astype(np.intp)
        return index[:, 1].clip(0, rows - 1), index[:, 0].clip(0, cols - 1)


def draw_tissue(rng: np.random.Generator, width_um: float, height_um: float) -> Tissue:
    """A random section that fills about three quarters of a slide of this size."""
    shape = (int(np.ceil(height_um / GRID_UM)), int(np.ceil(width_um / GRID_UM)))
    outline = _outline(rng, shape)
    labels, fat_wall = _fat_cells(rng, _labels(rng, outline > 0))
    depth = np.minimum(np.minimum(outline, fat_wall), _lumina(rng, labels))
    fibre, angle = _fibres(rng, shape)
    # Slides differ in how crowded they are, and so do regions of a slide.
    crowding = rng.uniform(0.72, 0.88) + 0.13 * _field(rng, shape, 120.0)
    return Tissue(
        labels=labels,
        depth=depth.clip(-_DEEP_UM, _DEEP_UM).astype(np.float32),
        fibre=fibre,
        angle=angle,
        crowding=crowding.clip(0.3, 1.0).astype(np.float32),
    )


def _field(rng: np.random.Generator, shape: tuple[int, int], length_um: float) -> Field:
    return smooth_field(rng, shape, length_um / GRID_UM)


def _outline(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Distance to a rounded rectangle with a wavy, finely frayed edge, um."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32)[:, None] for n in shape)
    distance = (x.T**4 + y**4) ** 0.25
    edge = 0.9 - distance + 0.05 * _field(rng, shape, 250.0).clip(-2, 1.5) + 0.006 * _field(rng, shape, 12.0)
    return np.asarray(edge * min(shape) / 2 * GRID_UM, dtype=np.float32)


def _labels(rng: np.random.Generator, inside: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Tumour nests, fat and immune clusters in a bed of stroma; every section has all four."""
    shape = inside.shape
    labels = np.full(shape, STROMA, dtype=np.int8)
    nests = 0.8 * _field(rng, shape, 220.0) + 1.0 * _field(rng, shape, 42.0) + 0.12 * _field(rng, shape, 8.0)
    fat = 1.0 * _field(rng, shape, 130.0) + 0.5 * _field(rng, shape, 45.0)
    clusters = 0.7 * _field(rng, shape, 150.0) + 0.8 * _field(rng, shape, 32.0) + 0.2 * _field(rng, shape, 7.0)
    for tissue, field, share in (
        (TUMOUR, nests, rng.uniform(0.35, 0.50)),
        (IMMUNE, clusters, rng.uniform(0.08, 0.14)),
        (FAT, fat, rng.uniform(0.10, 0.18)),
    ):
        labels[field > np.quantile(field[inside], 1 - share)] = tissue
    labels[~inside] = OUTSIDE
    return labels


def _fat_cells(rng: np.random.Generator, labels: NDArray[np.int8]) -> tuple[NDArray[np.int8], Field]:
    """The labels with whole fat cells only, and the distance to the white in those, um."""
    shape = labels.shape
    pitch = _FAT_CELL_UM / GRID_UM
    rows, cols = (np.arange(-1, n / pitch + 1) for n in shape)
    centres = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1)
    centres[:, ::2, 0] += 0.5
    centres = (centres.reshape(-1, 2) + rng.uniform(-0.32, 0.32, (len(rows) * len(cols), 2))) * pitch
    at = centres.astype(np.intp)
    is_fat = labels[at[:, 0].clip(0, shape[0] - 1), at[:, 1].clip(0, shape[1] - 1)] == FAT

    near = np.nonzero(distance_transform_edt(labels != FAT) < pitch)
    distance, nearest = cKDTree(centres).query(np.column_stack(near), k=3)
    fat_here = is_fat[nearest[:, 0]] & (labels[near] != OUTSIDE)
    whole = np.where(labels == FAT, STROMA, labels).astype(np.int8)
    whole[near] = np.where(fat_here, FAT, whole[near])
    second, third = (distance[:, 1:] - distance[:, :1]).T / 2 * GRID_UM
    inset = second * third / np.maximum(second + third, 1e-6)  # smaller in the corners, which rounds them
    wall = np.full(shape, _DEEP_UM, dtype=np.float32)
    wall[near] = _WALL_UM + np.where(fat_here, -inset, inset)
    return whole, wall


def _lumina(rng: np.random.Generator, labels: NDArray[np.int8]) -> Field:
    """Distance to lumina and clefts, a few per cent of tumour and stroma, um."""
    shape = labels.shape
    level = 2.6 - _field(rng, shape, 14.0) - 0.5 * _field(rng, shape, 120.0)
    return np.where((labels == TUMOUR) | (labels == STROMA), 14.0 * level, _DEEP_UM).astype(np.float32)


def _fibres(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    """Texture stretched along wavy lines, and the direction of these lines."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) * np.float32(GRID_UM)
    turn = rng.uniform(0, np.pi)
    along = np.cos(turn) * x + np.sin(turn) * y
    across = np.cos(turn) * y - np.sin(turn) * x + 70.0 * _field(rng, shape, 160.0) + 5.0 * _field(rng, shape, 25.0)
    noise = rng.standard_normal((512, 512), dtype=np.float32)
    texture = sum(
        weight * map_coordinates(noise, [across / width, along / length], order=1, mode="grid-wrap")
        for weight, width, length in ((1.0, 4.0, 60.0), (0.9, 13.0, 150.0))
    )
    down, right = np.gradient(across)
    return np.asarray(texture, dtype=np.float32), np.arctan2(-right, down).astype(np.float32)
