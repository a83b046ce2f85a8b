"""Sources give the same pixels, wherever the image lies and however it is stored."""

from __future__ import annotations

import functools
import http.server
import threading

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.tiles import DaskSource, Windows, ZarrSource, open_levels, source_of


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (3, 150, 210), dtype=np.uint8)


def store(path, pixels, **options) -> zarr.Array:
    array = zarr.create_array(path, shape=pixels.shape, dtype="uint8", **{"chunks": (3, 64, 64), **options})
    array[:] = pixels
    return array


def whole(source) -> np.ndarray:
    """The image put together from its cells."""
    height, width = source.cell
    rows, cols = -(-source.shape[0] // height), -(-source.shape[1] // width)
    return np.concatenate(
        [np.concatenate([source.read(r, c) for c in range(cols)], axis=2) for r in range(rows)], axis=1
    )


@pytest.mark.parametrize(
    ("options", "quick"),
    [
        ({}, True),
        ({"compressors": ZstdCodec(level=3, checksum=True)}, True),
        ({"compressors": BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=1)}, True),
        ({"compressors": None}, True),
        ({"compressors": GzipCodec()}, False),
        ({"chunks": (1, 64, 64)}, False),
        ({"shards": (3, 128, 128)}, False),
        ({"zarr_format": 2}, False),
    ],
    ids=["zstd", "zstd-checksum", "blosc", "raw", "gzip", "channels-apart", "sharded", "v2"],
)
def test_cells_of_a_zarr_array_are_its_pixels(image, tmp_path, options, quick):
    source = ZarrSource(store(tmp_path / "a.zarr", image, **options))
    np.testing.assert_array_equal(whole(source), image)
    assert source.shape == (150, 210)
    # what the package writes itself must not fall back to the slow way
    assert (source._decode is not None) == quick


def test_channels_may_come_last(image, tmp_path):
    array = store(tmp_path / "a.zarr", image.transpose(1, 2, 0), chunks=(64, 64, 3))
    source = ZarrSource(array)
    assert source._decode is not None
    np.testing.assert_array_equal(whole(source), image)


def test_alpha_is_dropped(image, tmp_path):
    rgba = np.concatenate([image, np.full((1, 150, 210), 255, np.uint8)])
    np.testing.assert_array_equal(whole(ZarrSource(store(tmp_path / "a.zarr", rgba, chunks=(4, 64, 64)))), image)


def test_chunks_that_were_left_out_are_the_fill_value(image, tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=image.shape, chunks=(3, 64, 64), dtype="uint8", fill_value=200)
    array[:, :64] = image[:, :64]
    np.testing.assert_array_equal(whole(ZarrSource(array)), array[:])
    assert (whole(ZarrSource(array))[:, 64:] == 200).all()


def test_a_dask_array_that_is_a_zarr_array_is_read_as_one(image, tmp_path):
    store(tmp_path / "a.zarr", image)
    lazy = da.from_zarr(str(tmp_path / "a.zarr"))
    assert isinstance(source_of(lazy), ZarrSource)
    np.testing.assert_array_equal(whole(source_of(lazy)), image)


@pytest.mark.parametrize("change", ["arithmetic", "cut", "rechunk", "memory"])
def test_a_dask_array_that_is_more_than_a_zarr_array_is_not_mistaken_for_one(image, tmp_path, change):
    store(tmp_path / "a.zarr", image)
    lazy = da.from_zarr(str(tmp_path / "a.zarr"))
    changed = {
        "arithmetic": lambda: 255 - lazy,
        "cut": lambda: lazy[:, 10:, 20:],
        "rechunk": lambda: lazy.rechunk((3, 50, 50)),
        "memory": lambda: da.from_array(255 - image),
    }[change]()
    source = source_of(changed)
    assert isinstance(source, DaskSource)
    np.testing.assert_array_equal(whole(source), changed.compute())


def test_a_damaged_chunk_is_named(image, tmp_path):
    array = store(tmp_path / "a.zarr", image)
    (tmp_path / "a.zarr" / "c" / "0" / "1" / "2").write_bytes(b"no zstandard")
    source = ZarrSource(array)
    with pytest.raises(RuntimeError):
        source.read(1, 2)
    np.testing.assert_array_equal(source.read(1, 1), image[:, 64:128, 64:128])
    assert source.describe(1, 2) == f"chunk c/0/1/2 of {array.store_path}"


@pytest.mark.parametrize("shape", [(150, 210), (5, 150, 210), (2, 3, 4, 5)])
def test_what_is_no_rgb_image_is_refused(shape, tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=shape, dtype="uint8")
    with pytest.raises(HisDiffError, match="is no 8-bit RGB image"):
        ZarrSource(array)


def test_16_bit_is_refused():
    with pytest.raises(HisDiffError, match="is no 8-bit RGB image .*uint16"):
        source_of(da.zeros((3, 9, 9), dtype="uint16"))


def pyramid(folder, image) -> None:
    group = zarr.create_group(folder)
    for name, pixels in (("1", image[:, ::2, ::2]), ("0", image)):
        array = group.create_array(name, shape=pixels.shape, chunks=(3, 64, 64), dtype="uint8")
        array[:] = pixels


def test_levels_of_a_zarr_group_finest_first(image, tmp_path):
    pyramid(tmp_path / "he", image)
    fine, coarse = open_levels(tmp_path / "he")
    np.testing.assert_array_equal(whole(fine), image)
    np.testing.assert_array_equal(whole(coarse), image[:, ::2, ::2])


def test_a_single_array_is_one_level(image, tmp_path):
    store(tmp_path / "a.zarr", image)
    (level,) = open_levels(tmp_path / "a.zarr")
    np.testing.assert_array_equal(whole(level), image)


def test_levels_of_a_store_on_the_web(image, tmp_path):
    pyramid(tmp_path / "he", image)
    zarr.consolidate_metadata(tmp_path / "he")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            fine, coarse = open_levels(f"http://127.0.0.1:{server.server_port}/he")
            np.testing.assert_array_equal(whole(fine), image)
            np.testing.assert_array_equal(whole(coarse), image[:, ::2, ::2])
        finally:
            server.shutdown()


def test_levels_of_a_pyramidal_tiff(image, tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        options = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib"}
        tif.write(image.transpose(1, 2, 0), subifds=1, **options)
        tif.write(np.ascontiguousarray(image.transpose(1, 2, 0)[::2, ::2]), subfiletype=1, **options)
    fine, coarse = open_levels(tmp_path / "a.tif")
    assert fine.cell == (64, 64)
    np.testing.assert_array_equal(whole(fine), image)
    np.testing.assert_array_equal(whole(coarse), image[:, ::2, ::2])
    assert "a.tif" in fine.describe(0, 0)


def test_levels_through_openslide(image, tmp_path):
    pytest.importorskip("openslide", reason="openslide-python and openslide-bin are optional")
    tifffile.imwrite(
        tmp_path / "a.mrxs-like", image.transpose(1, 2, 0), tile=(64, 64), photometric="rgb", compression="jpeg"
    )
    (level,) = open_levels(tmp_path / "a.mrxs-like")
    expected = tifffile.imread(tmp_path / "a.mrxs-like").transpose(2, 0, 1)
    assert np.abs(whole(level).astype(int) - expected).mean() < 2


@pytest.mark.parametrize("name", ["no.tif", "no.zarr"])
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(MissingFileError, match=f"no image .*{name}"):
        open_levels(tmp_path / name)


def test_a_damaged_tiff_is_named(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0 and nothing more")
    with pytest.raises(HisDiffError, match=r"a\.tif cannot be read as a TIFF"):
        open_levels(tmp_path / "a.tif")


def test_a_folder_that_is_no_image_is_named(tmp_path):
    with pytest.raises(HisDiffError, match="cannot be opened as a zarr image"):
        open_levels(tmp_path)


def test_a_group_without_arrays_is_named(tmp_path):
    zarr.create_group(tmp_path / "s.zarr")
    with pytest.raises(HisDiffError, match="holds no array; give the image itself"):
        open_levels(tmp_path / "s.zarr")


@given(st.data())
def test_windows_are_read_as_an_array_is(data: st.DataObject) -> None:
    """Whatever slices and rows dask may ask for, it gets what NumPy gives."""
    image = np.random.default_rng(0).integers(0, 256, (3, 9, 7), np.uint8)
    windows = Windows(lambda y, x, h, w: image[:, y : y + h, x : x + w].transpose(1, 2, 0), (9, 7))
    item = tuple(data.draw(st.one_of(st.integers(0, n - 1), st.slices(n))) for n in image.shape)
    np.testing.assert_array_equal(windows[item], image[item])


def test_the_source_of_windows_reads_the_file_itself() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 1500, 1100), np.uint8)
    asked: list[tuple[int, ...]] = []

    def read(*window: int) -> np.ndarray:
        asked.append(window)
        y, x, height, width = window
        return image[:, y : y + height, x : x + width].transpose(1, 2, 0)

    array = da.from_array(Windows(read, (1500, 1100)), chunks=(3, 512, 512), fancy=False)
    np.testing.assert_array_equal(array[:, 5:900:7, -1].compute(), image[:, 5:900:7, -1])
    asked.clear()
    source = source_of(array, "the slide")
    np.testing.assert_array_equal(source.read(1, 1), image[:, 1024:, 1024:])
    assert asked == [(1024, 1024, 476, 76)]
