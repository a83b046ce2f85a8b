"""What the benchmarks share: the machine in words, pairs of timings, and a large slide made by repeating a small one."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

UNIT = 9216  # px of the repeated piece: whole chunks of 512 and whole TIFF tiles of 256


def machine() -> str:
    """Processor, cores, memory."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {cores} cores, {memory:.0f} GiB memory, Python {platform.python_version()}"


def hest_parser(description: str | None) -> argparse.ArgumentParser:
    """Options of the benchmarks that read a real slide and a large one."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hest", type=Path, required=True, help="folder in HEST layout")
    parser.add_argument("--slide", required=True, help="id of the slide")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--work", type=Path, help="folder for the stores, kept; a temporary one by default")
    parser.add_argument("--large", type=int, default=40_000, help="side of the large slide in px, 0 for none")
    parser.add_argument("--pairs", type=int, default=3)
    return parser


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(ours: Callable[[], float], theirs: Callable[[], float], pairs: int) -> tuple[float, float, float]:
    """Medians of two rates, and of their ratio within each pair; who goes first alternates."""
    rates = []
    for i in range(pairs):
        if i % 2:
            other, own = theirs(), ours()
        else:
            own, other = ours(), theirs()
        rates.append((own, other, own / other))
    return tuple(statistics.median(column) for column in zip(*rates, strict=True))


def resident_mib(field: str) -> float:
    """MiB of this process, now (``"VmRSS"``) or at most so far (``"VmHWM"``); Linux.

    Not ru_maxrss: a child starts with the peak of its parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def write_json(path: Path | None, result: dict) -> None:
    text = json.dumps({"machine": machine(), **result}, indent=1)
    print(text)
    if path is not None:
        path.write_text(text + "\n")


def spot_centres(path: Path) -> np.ndarray:
    """(n, 2) centres of a store's spots in level-0 px."""
    import spatialdata

    spots = spatialdata.read_zarr(path)["spots"]
    return np.column_stack([spots.geometry.x, spots.geometry.y])


def real_store(hest: Path, slide: str, work: Path) -> Path:
    """The slide as a store, converted once."""
    import hisdiff_sd as hd

    path = work / f"{slide}.zarr"
    if not path.exists():
        hd.io.write(hd.io.hest(hest, slide), path)
    return path


def large_store(small: Path, side: int, work: Path) -> Path:
    """A store of `side` x `side` px: the top left `UNIT` px of a small one and its spots, repeated.

    Level 0 is put together from copies of the small store's chunk files, so that nothing is encoded anew.
    """
    import shutil
    import warnings

    import dask.array as da
    import spatialdata
    import zarr
    from geopandas import GeoDataFrame, points_from_xy
    from spatialdata.models import Image2DModel, ShapesModel
    from spatialdata.transformations import Identity

    path = work / f"large-{small.name}"
    if path.exists():
        return path
    source = spatialdata.read_zarr(small)
    n = -(-side // 512)
    xy = spot_centres(small)
    xy = xy[(xy < UNIT).all(1)]
    shifts = [(x, y) for y in range(0, side, UNIT) for x in range(0, side, UNIT)]
    xy = np.concatenate([xy + shift for shift in shifts])
    xy = xy[(xy < side).all(1)]
    frame = GeoDataFrame(
        {"radius": np.full(len(xy), float(source["spots"]["radius"].iloc[0]))},
        geometry=points_from_xy(*xy.T),
        index=[f"spot{i}" for i in range(len(xy))],
    )
    blank = da.zeros((3, side, side), chunks=(3, 512, 512), dtype=np.uint8)
    attrs = dict(source.attrs["hisdiff_sd"]) | {"slide": "large", "true_size": [side, side]}
    building = path.with_name(path.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spatialdata.SpatialData(
            # black chunks are the fill value, which zarr does not write
            images={"he": Image2DModel.parse(blank, dims=("c", "y", "x"), transformations={"global": Identity()})},
            shapes={"spots": ShapesModel.parse(frame, transformations={"global": Identity()})},
            attrs={"hisdiff_sd": attrs},
        ).write(building)
    level = zarr.open_array(building / "images" / "he" / "s0", mode="r")
    assert level.chunks == (3, 512, 512), level.chunks
    piece = UNIT // 512
    for row in range(n):
        folder = building / "images" / "he" / "s0" / "c" / "0" / str(row)
        folder.mkdir(parents=True, exist_ok=True)
        for col in range(n):
            chunk = small / "images" / "he" / "s0" / "c" / "0" / str(row % piece) / str(col % piece)
            shutil.copyfile(chunk, folder / str(col))
    building.rename(path)
    return path


def large_tiff(small: Path, side: int, work: Path) -> Path:
    """A TIFF of `side` x `side` px: compressed tiles of the top left `UNIT` px of a small one, repeated."""
    import tifffile

    path = work / f"large-{small.stem}.tif"
    if path.exists():
        return path
    with tifffile.TiffFile(small) as tif:
        page = tif.pages[0]
        tile, across = page.tilewidth, -(-page.imagewidth // page.tilewidth)
        assert UNIT % tile == 0, tile
        piece, n = UNIT // tile, -(-side // tile)

        def raw(row: int, col: int) -> bytes:
            at = (row % piece) * across + col % piece
            tif.filehandle.seek(page.dataoffsets[at])
            return tif.filehandle.read(page.databytecounts[at])

        # the tables of JPEG are written into every file once, and are those of this file
        extra = [(347, 7, len(page.jpegtables), page.jpegtables, True)] if page.jpegtables else []
        tifffile.imwrite(
            path,
            (raw(r, c) for r in range(n) for c in range(n)),
            shape=(side, side, 3),
            dtype=np.uint8,
            tile=(tile, tile),
            photometric=page.photometric,
            compression=page.compression,
            subsampling=page.subsampling,
            extratags=extra,
            bigtiff=True,
        )
    return path
