"""Tiles of an encoder's size on its device, made ready while it works on those before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hisdiff_sd.tiles._plan import Batch, TilePlan
from hisdiff_sd.tiles._reader import TileBatch, read_tiles
from hisdiff_sd.tiles._resize import resize
from hisdiff_sd.tiles._source import TileSource

if TYPE_CHECKING:
    import numpy as np
    import torch

_READY = 2  # batches that wait for the encoder


def load_tiles(
    source: TileSource,
    plan: TilePlan,
    batches: Sequence[Batch] | None = None,
    *,
    tile_px: int,
    resample: str = "bicubic",
    device: torch.device,
    threads: int | None = None,
) -> Iterator[TileBatch[torch.Tensor]]:
    """Read tiles, move them to a device and resize them there, ahead of the loop that uses them.

    Parameters
    ----------
    source, plan, batches, threads
        As in `read_tiles`.
    tile_px
        Side of the tiles that the encoder takes.
    resample
        Filter of the resize, ``"lanczos"`` or ``"bicubic"``.
    device
        Where the tiles go: as uint8, a quarter of the bytes of floats, from pinned memory if it is a GPU.

    Yields
    ------
    A `TileBatch` each, in the order of the plan.

    Examples
    --------
    >>> import dask.array as da, torch
    >>> from hisdiff_sd.tiles import boxes, load_tiles, plan_tiles, source_of
    >>> source = source_of(da.zeros((3, 600, 700), dtype=np.uint8))
    >>> plan = plan_tiles(*boxes(np.array([[300, 300], [400, 300]]), 112), source.shape, source.cell)
    >>> [batch.tiles.shape for batch in load_tiles(source, plan, tile_px=224, device=torch.device("cpu"))]
    [torch.Size([2, 3, 224, 224])]
    """
    # queues without a bound, which are much quicker where the encoder is: the bound is the number of places
    ready: queue.SimpleQueue[TileBatch[torch.Tensor] | BaseException | None] = queue.SimpleQueue()
    places: queue.SimpleQueue[bool] = queue.SimpleQueue()
    for _ in range(_READY):
        places.put(True)
    stop = threading.Event()

    def produce() -> None:
        try:
            for batch in read_tiles(source, plan, batches, threads=threads):
                item = _to_device(batch, tile_px, resample, device)
                places.get()
                if stop.is_set():
                    return
                ready.put(item)
            ready.put(None)
        except BaseException as error:  # noqa: BLE001  raised again where the tiles are used
            ready.put(error)

    producer = threading.Thread(target=produce, name="tile-loader", daemon=True)
    producer.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            places.put(True)
            yield item
    finally:
        stop.set()
        places.put(True)  # for a producer that waits for one
        producer.join()


def _to_device(
    batch: TileBatch[np.ndarray], tile_px: int, resample: str, device: torch.device
) -> TileBatch[torch.Tensor]:
    import torch

    tiles = torch.from_numpy(batch.tiles)
    if device.type == "cuda":
        tiles = tiles.pin_memory()
    tiles = tiles.to(device, non_blocking=True)
    with torch.inference_mode():
        return TileBatch(batch.index, batch.rows, resize(tiles, tile_px, resample), batch.failed)
