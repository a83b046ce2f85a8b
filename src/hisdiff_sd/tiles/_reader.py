"""Tiles read ahead in threads, each cell of the image decoded once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from hisdiff_sd.tiles._plan import Batch, Cell, TilePlan, cell_uses
from hisdiff_sd.tiles._source import TileSource

MEMORY = 512 * 2**20  # bytes of decoded cells that are kept
_AHEAD = 4  # batches whose cells are decoded before it is their turn
_MOST_THREADS = 8

Pixels = TypeVar("Pixels")


@dataclass(frozen=True)
class TileBatch(Generic[Pixels]):
    """Tiles of one batch: as they are read an array, as they are loaded for an encoder a tensor on its device.

    Attributes
    ----------
    index
        Place of the batch in the plan.
    rows
        (m,) rows of the tiles.
    tiles
        uint8 (m, 3, side, side).
    failed
        What went wrong, by row, for tiles that could not be read; those are not among `rows`.

    Examples
    --------
    >>> import dask.array as da
    >>> from hisdiff_sd.tiles import boxes, plan_tiles, read_tiles, source_of
    >>> source = source_of(da.zeros((3, 600, 700), dtype=np.uint8))
    >>> plan = plan_tiles(*boxes(np.array([[300, 300], [400, 300]]), 112), source.shape, source.cell)
    >>> batch = next(read_tiles(source, plan))
    >>> batch.rows.tolist(), batch.failed
    ([0, 1], {})
    """

    index: int
    rows: np.ndarray
    tiles: Pixels
    failed: dict[int, str]


def default_threads() -> int:
    """Cores this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)


def read_tiles(
    source: TileSource,
    plan: TilePlan,
    batches: Sequence[Batch] | None = None,
    *,
    threads: int | None = None,
    memory: int = MEMORY,
) -> Iterator[TileBatch[np.ndarray]]:
    """Read the tiles of a plan batch by batch, while threads decode what comes next.

    Parameters
    ----------
    source
        Level of the image; the plan was made for its cells.
    plan
        From `plan_tiles`.
    batches
        Those of the plan's batches that are wanted, in its order; all by default.
    threads
        Threads that decode; by default as many as there are cores, at most 8.
    memory
        Bytes of decoded cells that are kept. A cell that is needed again is kept until then; if that is too much, those
        whose turn comes last are dropped and decoded once more.

    Yields
    ------
    A `TileBatch` each. A cell that cannot be decoded fails the tiles that touch it, and no others.

    Examples
    --------
    >>> import dask.array as da
    >>> from hisdiff_sd.tiles import boxes, plan_tiles, read_tiles, source_of
    >>> source = source_of(da.zeros((3, 600, 700), dtype=np.uint8))
    >>> plan = plan_tiles(*boxes(np.array([[300, 300], [400, 300]]), 112), source.shape, source.cell)
    >>> [batch.tiles.shape for batch in read_tiles(source, plan)]
    [(2, 3, 112, 112)]
    """
    todo = plan.batches if batches is None else batches
    uses = cell_uses(todo)
    room = max(1, memory // (3 * source.cell[0] * source.cell[1]))
    held: dict[Cell, Future[np.ndarray]] = {}
    pool = ThreadPoolExecutor(threads or default_threads(), thread_name_prefix="tiles")
    asked = 0
    try:
        for at, batch in enumerate(todo):
            while asked < len(todo) and (asked <= at or (asked <= at + _AHEAD and len(held) < room)):
                for cell in todo[asked].cells:
                    if cell not in held:
                        held[cell] = pool.submit(source.read, *cell)
                asked += 1
            yield _assemble(source, plan, batch, held)
            for cell in batch.cells:
                uses[cell].pop()
                if not uses[cell]:
                    del held[cell]
            if len(held) > room:
                waiting = sorted((c for c in held if uses[c][-1] >= asked), key=lambda c: -uses[c][-1])
                for cell in waiting[: len(held) - room]:
                    del held[cell]
    finally:
        pool.shutdown(cancel_futures=True)


def _assemble(
    source: TileSource, plan: TilePlan, batch: Batch, held: dict[Cell, Future[np.ndarray]]
) -> TileBatch[np.ndarray]:
    """Wait for the cells of a batch and cut its tiles from them."""
    cells: dict[Cell, np.ndarray] = {}
    broken: dict[Cell, str] = {}
    for cell in batch.cells:
        error = held[cell].exception()
        if isinstance(error, Exception):
            broken[cell] = f"{source.describe(*cell)} cannot be decoded ({type(error).__name__}: {error})"
        else:
            cells[cell] = held[cell].result()
    tiles = np.empty((len(batch.rows), 3, plan.side, plan.side), np.uint8)
    failed: dict[int, str] = {}
    good: list[int] = []
    for place, row in enumerate(batch.rows.tolist()):
        problem = _cut(tiles[len(good)], plan.corners[row].tolist(), source, plan, cells, broken)
        if problem:
            failed[row] = problem
        else:
            good.append(place)
    return TileBatch(batch.index, batch.rows[good], tiles[: len(good)], failed)


def _cut(
    tile: np.ndarray,
    corner: list[int],
    source: TileSource,
    plan: TilePlan,
    cells: dict[Cell, np.ndarray],
    broken: dict[Cell, str],
) -> str:
    """Fill one tile from the cells it touches; what is wrong with them, if anything."""
    (x, y), side, (cell_h, cell_w) = corner, plan.side, source.cell
    u0, v0 = max(x, 0), max(y, 0)
    u1, v1 = min(x + side, plan.size[1]), min(y + side, plan.size[0])
    whole = u1 - u0 == side and v1 - v0 == side
    if not whole:
        tile[:] = 255 if plan.padding == "white" else 0
        if u1 <= u0 or v1 <= v0:
            return ""
    for row in range(v0 // cell_h, (v1 - 1) // cell_h + 1):
        top, bottom = max(v0, row * cell_h), min(v1, (row + 1) * cell_h)
        for col in range(u0 // cell_w, (u1 - 1) // cell_w + 1):
            if (row, col) in broken:
                return broken[row, col]
            left, right = max(u0, col * cell_w), min(u1, (col + 1) * cell_w)
            tile[:, top - y : bottom - y, left - x : right - x] = cells[row, col][
                :, top - row * cell_h : bottom - row * cell_h, left - col * cell_w : right - col * cell_w
            ]
    if not whole and plan.padding == "reflect":
        inside = tile[:, v0 - y : v1 - y, u0 - x : u1 - x].copy()
        over = ((0, 0), (v0 - y, y + side - v1), (u0 - x, x + side - u1))
        tile[:] = np.pad(inside, over, mode="reflect")
    return ""
