"""Where micrometres of a Xenium run lie on its H&E image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hisdiff_sd._errors import HisDiffError, MissingFileError, reason

_SIMILAR = 1.02  # of the two scales: pixels of a scanner are square


@dataclass(frozen=True)
class Alignment:
    """A map from um of the run to level-0 px of the H&E image.

    Attributes
    ----------
    matrix
        (3, 3), of (x, y, 1).
    mpp
        Micrometres per level-0 px that follow from it.
    """

    matrix: np.ndarray
    mpp: float

    @classmethod
    def of(cls, given: str | Path | np.ndarray | None, image: Path, run_mpp: float) -> Alignment:
        """The alignment of an image: a matrix or file that takes its pixels to those of the run, `run_mpp` um large."""
        to_run, name = _read(given, image)
        if to_run.shape != (3, 3) or not np.isfinite(to_run).all() or not np.allclose(to_run[2], [0, 0, 1]):
            raise HisDiffError(f"{name} is no (3, 3) matrix of an affine map, whose last row is 0, 0, 1")
        large, small = np.linalg.svd(to_run[:2, :2], compute_uv=False)
        if not small > 0 or large > _SIMILAR * small:
            raise HisDiffError(
                f"{name} stretches the image by {large:.4g} one way and {small:.4g} the other: it is sheared or squeezed; "
                "align the image anew, keeping its proportions"
            )
        matrix = np.linalg.inv(to_run) @ np.diag([1 / run_mpp, 1 / run_mpp, 1])
        return cls(matrix, float(np.sqrt(large * small)) * run_mpp)

    @property
    def flat(self) -> list[float]:
        """The matrix as shapely takes it."""
        (a, b, x), (d, e, y) = self.matrix[:2]
        return [float(v) for v in (a, b, d, e, x, y)]

    def to_image(self, xy_um: np.ndarray) -> np.ndarray:
        """(n, 2) places in level-0 px of (n, 2) places in um."""
        return np.asarray(xy_um, np.float64) @ self.matrix[:2, :2].T + self.matrix[:2, 2]


def _read(given: str | Path | np.ndarray | None, image: Path) -> tuple[np.ndarray, str]:
    """The matrix and what messages call it."""
    if isinstance(given, np.ndarray):
        return np.asarray(given, np.float64), "alignment="
    path = image.with_name(image.name.removesuffix(".ome.tif") + "alignment.csv") if given is None else Path(given)
    if not path.is_file():
        raise MissingFileError(
            f"no alignment {path}; give alignment=, the file or matrix that takes pixels of the H&E image to those of the run "
            "(numpy.eye(3) if they are the same)"
        )
    try:
        return np.loadtxt(path, delimiter=",", encoding="utf-8-sig"), str(path)
    except (ValueError, OSError) as error:
        raise HisDiffError(f"{path} cannot be read as a matrix ({reason(error)}); export it again") from error
