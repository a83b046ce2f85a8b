"""Where the spots of an array lie, and what of the tissue is under them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from hisdiff_sd.datasets._tissue import GRID_UM, OUTSIDE, TISSUES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hisdiff_sd.datasets._nuclei import Nuclei
    from hisdiff_sd.datasets._tissue import Tissue


@dataclass(frozen=True)
class Technology:
    """Of the spots of an array, or of the square bins that stand for spots.

    Attributes
    ----------
    pitch_um, diameter_um
        Their distance and size.
    hexagonal
        Whether every second row is shifted by half a pitch.
    bins
        Whether they are squares without gaps, and `diameter_um` their side.
    said
        Distance and size as HEST's metadata give them, which is wrong or blank for bins.
    """

    pitch_um: float
    diameter_um: float
    hexagonal: bool = False
    bins: bool = False
    said: tuple[float | None, float | None] | None = None


TECHNOLOGIES = {
    "Spatial Transcriptomics": Technology(200.0, 100.0),
    "Visium": Technology(100.0, 55.0, hexagonal=True),
    "Visium HD": Technology(128.0, 128.0, bins=True, said=(2.0, 2.0)),
    "Xenium": Technology(100.0, 100.0, bins=True, said=(None, None)),
}

_MARGIN_UM = 70.0  # a tile of 112 um around every spot, as in HEST's benchmark, lies on the slide


def lay_spots(rng: np.random.Generator, technology: Technology, width_um: float, height_um: float) -> pd.DataFrame:
    """All spots that fit on the slide: index as in HEST, array_row, array_col, x_um, y_um."""
    pitch = technology.pitch_um
    row_um = pitch * np.sqrt(3) / 2 if technology.hexagonal else pitch
    n_cols = int((width_um - 2 * _MARGIN_UM - (pitch / 2 if technology.hexagonal else 0)) // pitch) + 1
    n_rows = int((height_um - 2 * _MARGIN_UM) // row_um) + 1
    row, col = (i.ravel() for i in np.mgrid[:n_rows, :n_cols])
    x, y = col * pitch, row * row_um
    if technology.hexagonal:
        # Space Ranger counts columns in half pitches: even ones in even rows, odd ones in odd rows.
        x, col = x + (row % 2) * pitch / 2, 2 * col + row % 2
        index = _barcodes(rng, len(row))
    elif technology.bins:
        index = [f"{r:03d}x{c:03d}" for r, c in zip(row, col, strict=True)]
    else:
        row, col = row + 1, col + 1
        index = [f"{c:03d}x{r:03d}" for r, c in zip(row, col, strict=True)]
    spots = pd.DataFrame({"array_row": row, "array_col": col, "x_um": x.astype(float), "y_um": y.astype(float)}, index)
    spots["x_um"] += (width_um - spots["x_um"].max()) / 2
    spots["y_um"] += (height_um - spots["y_um"].max()) / 2
    return spots


def look_under(spots: pd.DataFrame, technology: Technology, tissue: Tissue, nuclei: list[Nuclei]) -> pd.DataFrame:
    """Per spot: the share of each tissue and of no tissue (``outside``), and nuclei per square millimetre."""
    radius, norm = technology.diameter_um / 2, np.inf if technology.bins else 2
    step = np.arange(-radius, radius + GRID_UM, GRID_UM)
    disc = np.stack(np.meshgrid(step, step), axis=-1).reshape(-1, 2)
    disc = disc[np.linalg.norm(disc, norm, axis=1) <= radius]
    xy = spots[["x_um", "y_um"]].to_numpy()
    labels = tissue.labels[tissue.at((xy[:, None] + disc).reshape(-1, 2))].reshape(len(spots), -1)
    under = {name: (labels == label).mean(axis=1) for label, name in enumerate(TISSUES)}
    under["outside"] = (labels == OUTSIDE).mean(axis=1)
    centres = cKDTree(np.concatenate([kind.xy for kind in nuclei]))
    area_mm2 = (4.0 if technology.bins else np.pi) * (radius / 1000) ** 2
    under["nuclear_density"] = centres.query_ball_point(xy, radius, p=norm, return_length=True) / area_mm2
    return pd.DataFrame(under, spots.index)


def _barcodes(rng: np.random.Generator, n: int) -> list[str]:
    letters: NDArray[np.str_] = np.array(list("ACGT"))
    drawn = letters[rng.integers(0, 4, (n, 16))]
    return ["".join(word) + "-1" for word in drawn]
