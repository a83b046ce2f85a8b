"""Grids of tiles, and their context where the spots of a training slide would lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.tiles._context import Context, nearest

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

#: Grids of spots and tiles, by name.
GRIDS = ("square", "hexagonal")
_ROW = float(np.sqrt(3) / 2)  # distance of the rows of a hexagonal grid, in spacings
_REACH = 12  # pitches from a tile, beyond which no neighbour is looked for
_AT_FIRST = 1.3  # times as many places as neighbours are tried before those farther away
_CHUNK = 8192
_NUDGE = 0.003


def grid_points(
    width: float,
    height: float,
    spacing: float,
    grid: str = "square",
    box: tuple[float, float, float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Points of a grid that lie on a slide; the grid starts in the slide's corner, whatever tissue there is.

    Parameters
    ----------
    width, height
        Of the slide.
    spacing
        Distance of neighbouring points, in the same unit.
    grid
        ``"square"``, or ``"hexagonal"``: every second row is shifted by half a spacing.
    box
        Left, top, right and bottom of the part of the slide that is wanted; all of it by default.

    Returns
    -------
    (n, 2) int64 columns and rows, and the (n, 2) points (x, y).

    Examples
    --------
    >>> from hisdiff_sd.tiles import grid_points
    >>> grid_points(4.0, 2.0, 2.0)[1].tolist()
    [[1.0, 1.0], [3.0, 1.0]]
    """
    check_one_of(grid, GRIDS, "grid")
    step = spacing if grid == "square" else spacing * _ROW
    left, top, right, bottom = box or (0.0, 0.0, width, height)
    columns = np.arange(max(int(left // spacing) - 1, 0), int(min(right, width) // spacing) + 1)
    rows = np.arange(max(int(top // step) - 1, 0), int(min(bottom, height) // step) + 1)
    row, column = (a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
    shift = 0.0 if grid == "square" else (row % 2) / 2
    xy = np.column_stack([(column + 0.5 + shift) * spacing, (row + 0.5) * step])
    here = ((xy >= (left, top)) & (xy <= (right, bottom)) & (xy < (width, height))).all(1)
    return np.column_stack([column, row])[here], xy[here]


def lattice_context(xy: np.ndarray, pitch: float, k: int, grid: str = "square") -> Context:
    """For each tile of a grid, the tiles where its `k` nearest spots would lie on a training slide.

    A model has learned what 9 or 49 spots around a spot look like at the distance its training spots had. On a finer
    grid the nearest tiles would show it a smaller piece of tissue. So around each tile a lattice of the training pitch is
    laid, and the tiles that lie nearest to its places are taken, nearest places first. Places off the tissue are passed
    over for those farther away, as at the edge of a training slide, up to 12 pitches.

    Parameters
    ----------
    xy
        (n, 2) centres of the tiles of a square or hexagonal grid, of any spacing.
    pitch
        Distance of training spots, in the unit of `xy`.
    k
        Number of neighbours, the tile itself included.
    grid
        Of the training spots, ``"square"`` or ``"hexagonal"``.

    Returns
    -------
    Neighbours, the tile itself first. Places are masked where there are fewer.

    Examples
    --------
    >>> from hisdiff_sd.tiles import grid_points, lattice_context
    >>> xy = grid_points(5.0, 1.0, 1.0)[1]
    >>> lattice_context(xy, 2.0, 2).index.tolist()  # every second tile
    [[0, 2], [1, 3], [2, 0], [3, 1], [4, 2]]
    """
    from scipy.spatial import cKDTree

    check_one_of(grid, GRIDS, "grid")
    if not pitch > 0:
        raise HisDiffError(f"pitch={pitch} is no distance; give that of the training spots in the unit of the tiles")
    n = len(xy)
    if n < 2:
        return nearest(xy, k)
    tree = cKDTree(xy)
    spacing = float(np.median(tree.query(xy[:: max(1, n // 1000)], k=2)[0][:, 1]))
    places = _places(grid)
    # of tiles that are equally near to a place the inner one is taken, then the upper left one: the same around every
    # tile, where rounding would choose for each anew
    inward = places / np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1)
    places = places * pitch - spacing * (_NUDGE * inward + _NUDGE**2 * np.array([1, 2]))
    # a tile serves the places that lie in its cell, whose corners are this far away
    reach = spacing * (np.sqrt(0.5) + 0.01)
    few = min(len(places), int(k * _AT_FIRST) + 1)
    index, mask = np.zeros((n, k), np.int64), np.zeros((n, k), bool)
    for start in range(0, n, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, n))
        index[rows], mask[rows] = _serve(tree, xy, rows, places[:few], reach, k)
        lacking = rows[~mask[rows].all(1)]
        for part in np.array_split(lacking, max(1, len(lacking) * len(places) // (_CHUNK * few))):
            index[part], mask[part] = _serve(tree, xy, part, places, reach, k)
    return Context(index, mask)


def _places(grid: str) -> np.ndarray:
    """(m, 2) places of a lattice of pitch 1 around one of its points, in the order in which `nearest` takes spots."""
    side = np.arange(-2 * _REACH, 2 * _REACH + 1)
    x, y = (a.ravel().astype(float) for a in np.meshgrid(side, side))
    if grid == "hexagonal":
        x, y = x + (y % 2) / 2, y * _ROW
    distance = np.round(np.hypot(x, y), 6)
    order = np.lexsort((x, y, distance))
    order = order[distance[order] <= _REACH]
    return np.column_stack([x, y])[order]


def _serve(
    tree: cKDTree, xy: np.ndarray, rows: np.ndarray, places: np.ndarray, reach: float, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first `k` tiles that serve the places around each of `rows`, each tile once."""
    wanted = xy[rows][:, None] + places
    _, tile = tree.query(wanted.reshape(-1, 2), distance_upper_bound=reach)
    tile = tile.reshape(len(rows), len(places))
    # on a grid that is coarser than the lattice one tile serves several places
    order = np.argsort(tile, axis=1, kind="stable")
    ordered = np.take_along_axis(tile, order, axis=1)
    again = np.zeros_like(ordered, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    usable = np.empty_like(again)
    np.put_along_axis(usable, order, ~again & (ordered < tree.n), axis=1)
    first = np.argsort(~usable, axis=1, kind="stable")[:, :k]
    index, mask = np.zeros((len(rows), k), np.int64), np.zeros((len(rows), k), bool)
    mask[:, : first.shape[1]] = np.take_along_axis(usable, first, axis=1)
    index[:, : first.shape[1]] = np.take_along_axis(tile, first, axis=1)
    index[~mask] = 0
    return index, mask
