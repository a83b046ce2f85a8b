"""Reading tiles: the plan of hisdiff_sd beside one slice, one region or one query per tile, on the same pixels.

    python benchmarks/tiles.py --hest DIR --slide ID --json FILE

Both sides are measured in one run, in pairs, with two threads each; figures are medians. `slides` holds the real slide and
one of 40,000 x 40,000 px that is made by repeating it; the figures on top are the worse of the two. Needs openslide-python
and openslide-bin beside the package.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import numpy as np
import openslide
import spatialdata
import zarr
from _common import hest_parser, large_store, large_tiff, paired, real_store, seconds, spot_centres, write_json
from spatialdata import bounding_box_query, get_pyramid_levels

from hisdiff_sd.tiles import TilePlan, TileSource, boxes, open_levels, plan_tiles, read_tiles

SIDE = 224
THREADS = 2
SAMPLE = 2000  # tiles that the slow methods read
HIGHER, LOWER = (
    ("dense_vs_dask_slice", "dense_vs_openslide", "dense_vs_bounding_box", "spots_vs_zarr_slice"),
    ("decodes_per_chunk",),
)
Method = Callable[[int, int], np.ndarray]


class Counted:
    """A source that counts how often each cell is read."""

    def __init__(self, source: TileSource) -> None:
        self.source, self.shape, self.cell = source, source.shape, source.cell
        self.reads: Counter = Counter()

    def read(self, row: int, col: int) -> np.ndarray:
        self.reads[row, col] += 1
        return self.source.read(row, col)

    def describe(self, row: int, col: int) -> str:
        return self.source.describe(row, col)


def main() -> None:
    parser = hest_parser(__doc__)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        store = real_store(options.hest, options.slide, work)
        tiff = options.hest / "wsis" / f"{options.slide}.tif"
        slides = {options.slide: measure(store, tiff, options.pairs)}
        if options.large:
            slides["large"] = measure(
                large_store(store, options.large, work), large_tiff(tiff, options.large, work), options.pairs
            )
    worst = {key: min(s[key] for s in slides.values()) for key in HIGHER}
    worst |= {key: max(s[key] for s in slides.values()) for key in LOWER}
    worst["pixels_identical"] = all(s["pixels_identical"] for s in slides.values())
    write_json(options.json, {"threads": THREADS, "sample": SAMPLE, "pairs": options.pairs, **worst, "slides": slides})


def measure(store: Path, tiff: Path, pairs: int) -> dict:
    """All figures of one slide."""
    (source,) = open_levels(store / "images" / "he")[:1]
    height, width = source.shape
    with openslide.OpenSlide(str(tiff)) as slide:
        size = (min(height, slide.dimensions[1]), min(width, slide.dimensions[0]))
    grid = dense(size)
    # two thousand tiles from the middle on, in the order in which a loop over the slide meets them
    few = grid[max(0, len(grid) // 2 - SAMPLE // 2) :][:SAMPLE]
    spots, _ = boxes(spot_centres(store), SIDE)
    plan, at_few = (plan_tiles(corners, SIDE, size, source.cell, batch_size=64) for corners in (grid, few))
    at_spots = plan_tiles(spots, SIDE, size, source.cell, batch_size=64)
    methods = slow_methods(store, tiff)
    reference = {tuple(few[row]): tile for row, tile in read_all(source, at_few)}
    identical = {name: same(method, few[:: max(1, len(few) // 200)], reference) for name, method in methods.items()}
    counted = Counted(source)
    reading_rate(counted, plan)
    figures: dict = {"tiles": len(grid), "spots": len(spots), "pixels_identical": all(identical.values())}
    figures |= {"identical": identical, "decodes_per_chunk": sum(counted.reads.values()) / len(counted.reads)}
    for key, name in (("dask_slice", "dask"), ("openslide", "openslide"), ("bounding_box", "bounding_box")):
        ours, theirs, ratio = paired(
            lambda: reading_rate(source, plan), lambda name=name: slow_rate(methods[name], few), pairs
        )
        figures |= {f"dense_vs_{key}": ratio, f"{key}_tiles_per_second": theirs, "tiles_per_second": ours}
    inside = spots[((spots >= 0) & (spots + SIDE <= size[::-1])).all(1)][:SAMPLE]
    ours, theirs, ratio = paired(
        lambda: reading_rate(source, at_spots), lambda: slow_rate(methods["zarr"], inside), pairs
    )
    figures |= {"spots_vs_zarr_slice": ratio, "spots_tiles_per_second": ours, "zarr_slice_tiles_per_second": theirs}
    cells = list(counted.reads)
    bytes_read = 3 * source.cell[0] * source.cell[1] * len(cells)
    _, _, share = paired(
        lambda: bytes_read / seconds(lambda: read_all(source, plan, keep=False)),
        lambda: bytes_read / seconds(lambda: decode(source, cells)),
        pairs,
    )
    return {**figures, "share_of_decode_bandwidth": share}


def dense(size: tuple[int, int]) -> np.ndarray:
    """Corners (x, y) of a grid without gaps, row by row."""
    y, x = (np.arange(0, side - SIDE + 1, SIDE) for side in size)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def read_all(source: TileSource, plan: TilePlan, keep: bool = True) -> list[tuple[int, np.ndarray]]:
    """Rows and tiles of a plan."""
    found = []
    for batch in read_tiles(source, plan, threads=THREADS):
        assert not batch.failed
        if keep:
            found += list(zip(batch.rows.tolist(), batch.tiles, strict=True))
    return found


def reading_rate(source: TileSource, plan: TilePlan) -> float:
    """Tiles per second."""
    return len(plan.corners) / seconds(lambda: read_all(source, plan, keep=False))


def decode(source: TileSource, cells: list[tuple[int, int]]) -> None:
    """Decode every cell and do nothing with it."""
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda cell: source.read(*cell).shape, cells):
            pass


def slow_methods(store: Path, tiff: Path) -> dict[str, Method]:
    """One read per tile, from (x, y) to (3, side, side), as the libraries offer it."""
    sdata = spatialdata.read_zarr(store)
    element = sdata["he"]
    lazy = next(iter(get_pyramid_levels(element))).data if hasattr(element, "children") else element.data
    array = zarr.open_array(store / "images" / "he" / "s0", mode="r")
    slide = openslide.OpenSlide(str(tiff))

    def query(x: int, y: int) -> np.ndarray:
        cut = bounding_box_query(
            element,
            axes=("x", "y"),
            min_coordinate=np.array([x, y]),
            max_coordinate=np.array([x + SIDE, y + SIDE]),
            target_coordinate_system="global",
        )
        level = next(iter(get_pyramid_levels(cut))) if hasattr(cut, "children") else cut
        return level.data.compute()

    return {
        "dask": lambda x, y: lazy[:, y : y + SIDE, x : x + SIDE].compute(),
        "zarr": lambda x, y: array[:, y : y + SIDE, x : x + SIDE],
        "openslide": lambda x, y: np.asarray(slide.read_region((x, y), 0, (SIDE, SIDE)))[:, :, :3].transpose(2, 0, 1),
        "bounding_box": query,
    }


def slow_rate(method: Method, corners: np.ndarray) -> float:
    """Tiles per second of a loop of two threads."""
    with dask.config.set(scheduler="synchronous"), ThreadPoolExecutor(THREADS) as pool:
        taken = seconds(lambda: [None for _ in pool.map(lambda at: method(int(at[0]), int(at[1])).shape, corners)])
    return len(corners) / taken


def same(method: Method, corners: np.ndarray, reference: dict[tuple[int, int], np.ndarray]) -> bool:
    """Whether a method gives the same pixels."""
    return all(np.array_equal(method(int(x), int(y)), reference[x, y]) for x, y in corners)


if __name__ == "__main__":
    main()
