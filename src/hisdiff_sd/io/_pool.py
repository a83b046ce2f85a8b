"""Bins, cells and transcripts summed into pseudo-spots: squares of the size that a model was trained at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from hisdiff_sd._errors import HisDiffError

_MOST_SQUARES = 20_000_000


@dataclass(frozen=True)
class Squares:
    """Squares of a grid that hold something, row by row, and which of them each thing lies in.

    Attributes
    ----------
    place
        (m, 2) column and row of every square.
    member
        (n,) index of the square of every thing.
    """

    place: np.ndarray
    member: np.ndarray

    @classmethod
    def of(cls, column: np.ndarray, row: np.ndarray) -> Squares:
        """Squares of things by the column and row that each lies in."""
        rows_first, member = np.unique(np.column_stack([row, column]), axis=0, return_inverse=True)
        return cls(rows_first[:, ::-1], member.reshape(-1))

    @property
    def names(self) -> pd.Index:
        """Names that say the place."""
        return place_names(*self.place.T)

    @property
    def n_members(self) -> np.ndarray:
        """How many things lie in every square."""
        return np.bincount(self.member, minlength=len(self.place))

    def sum(self, values: sparse.spmatrix | np.ndarray) -> sparse.csr_matrix:
        """Sums over the things (n, k) of every square, (m, k)."""
        shape = (len(self.place), len(self.member))
        ones = np.ones(len(self.member), np.float32)
        return sparse.csr_matrix(
            sparse.csr_matrix((ones, (self.member, np.arange(len(self.member)))), shape=shape) @ values
        )

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Means over the things (n, k) of every square, (m, k)."""
        sums = np.column_stack([np.bincount(self.member, v, len(self.place)) for v in values.T])
        return sums / self.n_members[:, None]


@dataclass(frozen=True)
class Grid:
    """Squares on an image, numbered row by row; what they leave at the right and lower edge is too narrow for one.

    Attributes
    ----------
    side
        Of a square, in level-0 px.
    n_columns, n_rows
        How many lie on the image.
    """

    side: float
    n_columns: int
    n_rows: int

    @classmethod
    def on(cls, size: tuple[int, int], side: float) -> Grid:
        """The grid of squares of a side on an image of (height, width)."""
        n_rows, n_columns = (int(length // side) for length in size)
        if not 0 < n_rows * n_columns <= _MOST_SQUARES:
            raise HisDiffError(
                f"{n_rows * n_columns:,} pseudo-spots would cover the image ({side:.4g} px each), 1 to {_MOST_SQUARES:,} can be "
                "handled; give another pitch_um="
            )
        return cls(side, n_columns, n_rows)

    def square(self, xy: np.ndarray) -> np.ndarray:
        """(n,) number of the square that each place (n, 2) in level-0 px lies in; -1 outside all of them."""
        x, y = np.floor(xy / self.side).T
        inside = (x >= 0) & (y >= 0) & (x < self.n_columns) & (y < self.n_rows)
        column, row = (np.where(inside, v, 0).astype(np.int64) for v in (x, y))
        return np.where(inside, row * self.n_columns + column, -1)

    def empty(self, n_features: int) -> sparse.csr_matrix:
        """Counts of nothing, (squares, features)."""
        return sparse.csr_matrix((self.n_rows * self.n_columns, n_features), dtype=np.float32)

    def count(self, squares: np.ndarray, features: np.ndarray, n_features: int) -> sparse.csr_matrix:
        """How often each feature lies in each square, (squares, features)."""
        ones = np.ones(len(squares), np.float32)
        return sparse.csr_matrix((ones, (squares, features)), shape=(self.n_rows * self.n_columns, n_features))

    def centres(self, squares: np.ndarray) -> np.ndarray:
        """(n, 2) centres (x, y) in level-0 px."""
        row, column = np.divmod(squares, self.n_columns)
        return (np.column_stack([column, row]) + 0.5) * self.side

    def names(self, squares: np.ndarray) -> pd.Index:
        """Names that say the place."""
        row, column = np.divmod(squares, self.n_columns)
        return place_names(column, row)


def place_names(column: np.ndarray, row: np.ndarray) -> pd.Index:
    """Names of squares or tiles by their place on a grid."""
    return pd.Index([f"x{c:04d}_y{r:04d}" for c, r in zip(column, row, strict=True)])


def check_pitch(pitch_um: float) -> float:
    """A side of pseudo-spots that a user gave."""
    if not (np.isfinite(pitch_um) and pitch_um > 0):
        raise HisDiffError(f"pitch_um={pitch_um} is no size of a pseudo-spot; give um, such as 100")
    return float(pitch_um)
