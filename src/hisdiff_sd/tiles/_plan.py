"""In which order tiles are read, so that no part of the image is decoded twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hisdiff_sd._errors import HisDiffError, check_one_of

Cell = tuple[int, int]
#: What lies outside the slide, by name.
PADDINGS = ("black", "white", "reflect")


@dataclass(frozen=True)
class Batch:
    """Tiles that are read and embedded together.

    Attributes
    ----------
    index
        Place in the plan.
    rows
        (m,) rows of the tiles.
    cells
        Cells (row, column) of the image that the tiles touch, in reading order.
    """

    index: int
    rows: np.ndarray
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class TilePlan:
    """Which tiles are cut from a level, in which batches.

    Attributes
    ----------
    corners
        (n, 2) int64 top-left corners (x, y) in pixels of the level; tiles may reach over the edge.
    side
        Side of the tiles in pixels of the level.
    size
        Height and width of the slide itself on the level (an image may be padded beyond it).
    padding
        What lies outside the slide: ``"black"`` (as published), ``"white"`` or ``"reflect"``.
    batches
        Batches in reading order. They depend on the arguments of `plan_tiles` alone, so that an interrupted work that
        is continued meets the same ones.

    Examples
    --------
    >>> from hisdiff_sd.tiles import plan_tiles
    >>> plan = plan_tiles(np.array([[0, 0], [300, 0]]), 224, (900, 900), (512, 512))
    >>> type(plan).__name__, plan.padding, len(plan.batches)
    ('TilePlan', 'black', 1)
    """

    corners: np.ndarray
    side: int
    size: tuple[int, int]
    padding: str
    batches: tuple[Batch, ...]


def plan_tiles(
    corners: np.ndarray,
    side: int,
    size: tuple[int, int],
    cell: tuple[int, int],
    *,
    batch_size: int = 32,
    padding: str = "black",
) -> TilePlan:
    """Order tiles by the rows of cells they begin in and from left to right, and cut the order into batches.

    The cells that two rows of tiles share are needed again one row later: a reader that keeps one row of cells decodes
    each cell once.

    Parameters
    ----------
    corners
        (n, 2) top-left corners (x, y).
    side
        Side of the tiles.
    size
        Height and width of the slide.
    cell
        Height and width of the cells of the source.
    batch_size
        Tiles per batch.
    padding
        What lies outside the slide.

    Examples
    --------
    >>> from hisdiff_sd.tiles import plan_tiles
    >>> plan = plan_tiles(np.array([[0, 600], [300, 0], [0, 0]]), 224, (900, 900), (512, 512), batch_size=2)
    >>> [batch.rows.tolist() for batch in plan.batches]
    [[2, 1], [0]]
    >>> plan.batches[0].cells
    ((0, 0), (0, 1))
    """
    corners = np.asarray(corners, np.int64)
    if corners.ndim != 2 or corners.shape[1] != 2:
        raise HisDiffError(f"corners must be (n, 2), not {corners.shape}")
    if side < 1 or batch_size < 1:
        raise HisDiffError(f"side={side} and batch_size={batch_size} must be 1 or more")
    check_one_of(padding, PADDINGS, "padding")
    band = np.maximum(corners[:, 1], 0) // cell[0]
    order = np.lexsort((corners[:, 1], corners[:, 0], band))
    starts = range(0, len(order), batch_size)
    rows = [order[start : start + batch_size] for start in starts]
    batches = tuple(Batch(i, r, _cells(corners[r], side, size, cell)) for i, r in enumerate(rows))
    return TilePlan(corners, int(side), (int(size[0]), int(size[1])), padding, batches)


def _cells(corners: np.ndarray, side: int, size: tuple[int, int], cell: tuple[int, int]) -> tuple[Cell, ...]:
    """Cells that tiles touch within the slide, each once, in the order in which the tiles need them."""
    first = np.maximum(corners, 0)
    last = np.minimum(corners + side, size[::-1]) - 1
    inside = (last >= first).all(1)
    found: dict[Cell, None] = {}
    ends = ((at[inside] // cell[::-1]).tolist() for at in (first, last))
    for (x0, y0), (x1, y1) in zip(*ends, strict=True):
        found.update(((row, col), None) for row in range(y0, y1 + 1) for col in range(x0, x1 + 1))
    return tuple(found)


def cell_uses(batches: Sequence[Batch]) -> dict[Cell, list[int]]:
    """For every cell the places of the batches that need it, the last first."""
    uses: dict[Cell, list[int]] = {}
    for at in range(len(batches) - 1, -1, -1):
        for cell in batches[at].cells:
            uses.setdefault(cell, []).append(at)
    return uses
