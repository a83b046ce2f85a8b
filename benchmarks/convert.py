"""Converting slides: codecs compared on a real slide; memory, time and pixels of a large LZW TIFF.

    python benchmarks/convert.py --hest DIR --slide ID --json FILE

`codecs` holds, for the real slide and every compression of `hd.io.convert`, the size of the store beside that of the TIFF,
the time to convert, and how fast tiles' chunks are decoded (MB of pixels per CPU second, one thread). `large` holds a
TIFF of 40,000 x 40,000 px, LZW tiles of 256 px, made by repeating the slide: peak resident memory and time of
`hd.io.convert` in a process of its own, the same of a plain copy of level 0 (tifffile to dask to zarr: no pyramid, no
check), and whether all pixels are identical. CPU seconds are what a busy machine does not change much.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import UNIT, hest_parser, resident_mib, write_json

TILE = 256


def main() -> None:
    parser = hest_parser(__doc__)
    parser.add_argument("--only", choices=("codecs", "large"), help="one of the two parts")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.set_defaults(pairs=1)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(work(*options.child, options)))
        return
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        options.work = Path(temporary)
        result: dict = {"slide": options.slide}
        if options.only != "large":
            result["codecs"] = codecs(options)
            print_table(result["codecs"])
        if options.large and options.only != "codecs":
            result["large"] = large(options)
    write_json(options.json, result)


def work(what: str, argument: str, options: argparse.Namespace) -> dict:
    """One conversion in a process of its own, with its memory and time."""
    started, cpu = time.perf_counter(), sum(os.times()[:2])
    if what == "plain":
        plain_copy(options.work / "large.tif", options.work / "plain.zarr")
    else:
        import hisdiff_sd as hd

        source = options.work / "sheet.csv" if what == "large" else options.hest
        report = hd.io.convert(
            source,
            options.work / what,
            samples=None if what == "large" else [options.slide],
            compression="zstd" if argument == "link" else argument,
            link=argument == "link",
        )
        assert report["error"].tolist() == [""], report["error"].tolist()
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": sum(os.times()[:2]) - cpu,
        "peak_mib": resident_mib("VmHWM"),
    }


def child(what: str, argument: str, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--hest", options.hest, "--slide", options.slide, "--work", options.work]
    done = subprocess.run([*command, "--child", what, argument], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def codecs(options: argparse.Namespace) -> dict:
    """Every compression, and the link, on the real slide."""
    from hisdiff_sd.io._codecs import COMPRESSIONS

    tiff = options.hest / "wsis" / f"{options.slide}.tif"
    found: dict = {"tiff": {"mb": tiff.stat().st_size / 1e6}}
    for name in (*COMPRESSIONS, "link"):
        found[name] = child(f"store-{name}", name, options)
        store = options.work / f"store-{name}" / f"{options.slide}.zarr"
        found[name]["mb"] = folder_bytes(store) / 1e6
        found[name]["decoded_mb_per_cpu_second"] = decoding_rate(store)
    return found


def decoding_rate(store: Path) -> float:
    """MB of level-0 pixels per CPU second of one thread: from chunks, or from the TIFF of a linked store."""
    import dask
    from spatialdata import get_pyramid_levels

    import hisdiff_sd as hd
    from hisdiff_sd.tiles import source_of

    source = source_of(next(iter(get_pyramid_levels(hd.io.open(store)["he"], attr="data"))))
    rows, cols = (side // cell for side, cell in zip(source.shape, source.cell, strict=True))
    cells = [(r, c) for r in range(rows) for c in range(cols)][: 200 * 512**2 // (source.cell[0] * source.cell[1])]
    source.read(*cells[0])
    cpu, total = time.process_time(), 0
    with dask.config.set(scheduler="synchronous"):
        for cell in cells:
            total += source.read(*cell).nbytes
    return total / 1e6 / (time.process_time() - cpu)


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def print_table(found: dict) -> None:
    print(f"TIFF {found['tiff']['mb']:.1f} MB")
    print(f"{'':12} {'MB':>8} {'seconds':>8} {'CPU s':>8} {'peak MiB':>9} {'MB / CPU s':>11}")
    for name, row in found.items():
        if name != "tiff":
            figures = (row["mb"], row["seconds"], row["cpu_seconds"], row["peak_mib"], row["decoded_mb_per_cpu_second"])
            print(
                f"{name:12} {figures[0]:8.1f} {figures[1]:8.1f} {figures[2]:8.1f} {figures[3]:9.0f} {figures[4]:11.0f}"
            )


def large(options: argparse.Namespace) -> dict:
    """The large TIFF, converted and copied."""
    tiff = options.work / "large.tif"
    unit = lzw_tiff(options.hest / "wsis" / f"{options.slide}.tif", options.large, tiff)
    (options.work / "sheet.csv").write_text("id,image,mpp\nlarge,large.tif,0.5\n")
    converted, copied = child("large", "zstd", options), child("plain", "zstd", options)
    store = options.work / "large" / "large.zarr"
    return {
        "side_px": options.large,
        "tiff_mb": tiff.stat().st_size / 1e6,
        "store_mb": folder_bytes(store) / 1e6,
        "convert": converted,
        "plain_copy": copied,
        "times_plain_copy": converted["seconds"] / copied["seconds"],
        "pixels_identical": same_pixels(store, unit, options.large),
    }


def lzw_tiff(small: Path, side: int, path: Path) -> np.ndarray:
    """A TIFF of `side` px from tiles of a piece of a small one, each compressed once; the piece, (y, x, 3)."""
    import imagecodecs
    import tifffile
    import zarr

    unit = min(UNIT, side // TILE * TILE)
    array = zarr.open(tifffile.imread(small, aszarr=True, level=0), mode="r")
    piece = np.asarray(array[:unit, :unit])
    assert piece.shape == (unit, unit, 3), piece.shape
    n, m = unit // TILE, -(-side // TILE)
    packed = {
        (r, c): imagecodecs.lzw_encode(np.ascontiguousarray(piece[r * TILE :, c * TILE :][:TILE, :TILE]))
        for r in range(n)
        for c in range(n)
    }
    tifffile.imwrite(
        path,
        (packed[r % n, c % n] for r in range(m) for c in range(m)),
        shape=(side, side, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="lzw",
        bigtiff=True,
    )
    return piece


def plain_copy(tiff: Path, path: Path) -> None:
    """Level 0 from the TIFF to zarr, as tifffile, dask and zarr do it by themselves."""
    import dask.array as da
    import tifffile
    import zarr

    array = zarr.open(tifffile.imread(tiff, aszarr=True, level=0), mode="r")
    image = da.from_zarr(array, chunks=(512, 512, 3))
    image.to_zarr(str(path))


def same_pixels(store: Path, unit: np.ndarray, side: int) -> bool:
    """Whether every pixel of level 0 is that of the repeated piece, which the TIFF was made of; the padding is white."""
    import zarr

    level = zarr.open_array(store / "images" / "he" / "s0", mode="r")
    n, step = len(unit), 2048
    for y in range(0, level.shape[1], step):
        rows = np.arange(y, min(y + step, side)) % n
        band = np.asarray(level[:, y : y + step])
        expected = unit[rows][:, np.arange(side) % n].transpose(2, 0, 1)
        if not np.array_equal(band[:, : len(rows), :side], expected):
            return False
        if not ((band[:, len(rows) :] == 255).all() and (band[:, :, side:] == 255).all()):
            return False
    return True


if __name__ == "__main__":
    main()
