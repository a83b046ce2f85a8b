"""The nuclei of a synthetic section: where they lie, how large and dark they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd.datasets._tissue import GRID_UM, OUTSIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hisdiff_sd.datasets._tissue import Tissue


@dataclass(frozen=True)
class _Kind:
    spacing_um: float
    radii_um: tuple[float, float]
    spread: float  # relative standard deviation of the radii
    darkness: float  # optical density of haematoxylin
    share: tuple[float, float, float, float]  # of the places taken in tumour, stroma, fat, immune
    along_fibres: bool = False


KINDS = {
    "tumour": _Kind(10.5, (4.7, 3.7), 0.17, 0.62, (0.97, 0.0, 0.0, 0.02)),
    "fibroblast": _Kind(16.0, (6.5, 1.7), 0.22, 0.75, (0.03, 0.75, 0.5, 0.08), along_fibres=True),
    "lymphocyte": _Kind(7.6, (2.9, 2.6), 0.10, 1.0, (0.025, 0.03, 0.015, 0.95)),
}


@dataclass(frozen=True)
class Nuclei:
    """Ellipses: centres (n, 2) as (x, y) in um, radii (n, 2) in um, angle (n,) in radians, darkness (n,) as OD."""

    xy: NDArray[np.float64]
    radii: NDArray[np.float32]
    angle: NDArray[np.float32]
    darkness: NDArray[np.float32]


def draw_nuclei(rng: np.random.Generator, tissue: Tissue) -> list[Nuclei]:
    """The nuclei of every kind, one set per kind; none in a hole or outside the section."""
    return [_draw_kind(rng, tissue, kind) for kind in KINDS.values()]


def _draw_kind(rng: np.random.Generator, tissue: Tissue, kind: _Kind) -> Nuclei:
    xy = _places(rng, tissue, kind.spacing_um)
    at = tissue.at(xy)
    label = tissue.labels[at]
    share = np.array(kind.share)[label] * tissue.crowding[at]
    taken = (label != OUTSIDE) & (tissue.depth[at] > 0.5) & (rng.random(len(xy)) < share)
    xy, at = xy[taken], (at[0][taken], at[1][taken])
    n = len(xy)
    angle = rng.uniform(0, np.pi, n)
    if kind.along_fibres:
        angle = tissue.angle[at] + rng.normal(0, 0.25, n)
    size = np.exp(rng.normal(0, kind.spread, (n, 2)))
    return Nuclei(
        xy=xy,
        radii=(np.array(kind.radii_um) * size).astype(np.float32),
        angle=angle.astype(np.float32),
        darkness=(kind.darkness * np.exp(rng.normal(0, 0.18, n))).astype(np.float32),
    )


def _places(rng: np.random.Generator, tissue: Tissue, spacing_um: float) -> NDArray[np.float64]:
    """A jittered hexagonal grid over the whole slide, (n, 2) as (x, y) in um: dense, but never on top of each other."""
    height, width = (n * GRID_UM for n in tissue.labels.shape)
    row_um = spacing_um * np.sqrt(3) / 2
    y, x = np.mgrid[: int(height / row_um), : int(width / spacing_um)].astype(float)
    x[::2] += 0.5
    xy = np.column_stack([x.ravel() * spacing_um, y.ravel() * row_um])
    return np.asarray(xy + rng.uniform(-0.3, 0.3, xy.shape) * spacing_um)
