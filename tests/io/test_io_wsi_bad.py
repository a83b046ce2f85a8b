"""Bare slides that cannot be read: one clear error, before memory is taken and before work is wasted."""

from __future__ import annotations

import struct
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError


@pytest.fixture
def refused():
    """Read a file that is refused, in hardly any memory; all words must be in the message."""

    def read(path: Path, *words: str, mpp: float | None = 0.5, error: type[HisDiffError] = HisDiffError) -> str:
        hd.io.wsi  # noqa: B018 - imports are no part of the memory
        tracemalloc.start()
        try:
            with pytest.raises(error) as caught:
                hd.io.wsi(path, mpp)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert most < 100e6
        message = str(caught.value)
        assert path.name in message
        for word in words:
            assert word in message
        return message

    return read


def write_header(
    path: Path, width: int, height: int, *, tile: int = 0, rows: int = 0, compression: int = 8, n_bytes: int = 100
) -> None:
    """A little TIFF that claims any size: the header and one tile or strip of so many bytes."""
    tags = [(256, width), (257, height), (258, 8), (259, compression), (262, 2), (277, 3), (284, 1)]
    if tile:
        tags += [(322, tile), (323, tile), (324, 8), (325, n_bytes)]
    else:
        tags += [(273, 8), (278, rows or height), (279, n_bytes)]
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in sorted(tags))
    head = struct.pack("<2sHI", b"II", 42, 8 + n_bytes)
    path.write_bytes(head + bytes(n_bytes) + struct.pack("<H", len(tags)) + entries + bytes(4))


@pytest.mark.parametrize(
    ("claimed", "words"),
    [
        ({"width": 10**6, "height": 10**6, "tile": 256}, ("1000000 x 1000000 px", "more than a whole glass slide")),
        ({"width": 10**6, "height": 10**6}, ("1000000 x 1000000 px", "more than a whole glass slide")),
        ({"width": 300_000, "height": 300_000, "tile": 256}, ("truncated", "list of tiles")),
        ({"width": 90_000, "height": 90_000}, ("90000 x 90000 px", "22.6 GiB", "2 GiB", "vips tiffsave bomb.tif")),
        ({"width": 90_000, "height": 90_000, "tile": 65_536}, ("truncated", "list of tiles")),
        ({"width": 40_000, "height": 40_000, "tile": 65_536}, ("65536 x 65536 px", "12.0 GiB", "tiled TIFF")),
        ({"width": 90_000, "height": 90_000, "compression": 1}, ("truncated", "24300000008")),
        ({"width": 0, "height": 100}, ("0 x 100 px", "no image")),
        ({"width": 100, "height": 0, "tile": 256}, ("100 x 0 px", "no image")),
    ],
    ids=["tiles", "strip", "tile list", "one strip", "large tiles", "one tile", "plain", "no width", "no height"],
)
def test_a_tiff_that_claims_what_cannot_be(tmp_path, refused, claimed, words):
    write_header(tmp_path / "bomb.tif", **claimed)
    assert (tmp_path / "bomb.tif").stat().st_size < 1000
    refused(tmp_path / "bomb.tif", *words)


def png(width: int, height: int) -> bytes:
    """A PNG of that size by its header, with nothing in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_png_or_jpeg_that_would_fill_the_memory(tmp_path, refused):
    (tmp_path / "a.png").write_bytes(png(60_000, 50_000))
    refused(tmp_path / "a.png", "as a whole of 60000 x 50000 px, 8.4 GiB", "vips tiffsave a.png a.tiled.tif --tile")
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    at = content.index(b"\xff\xc0") + 5
    (tmp_path / "a.jpg").write_bytes(content[:at] + struct.pack(">HH", 65_000, 65_000) + content[at + 4 :])
    refused(tmp_path / "a.jpg", "as a whole of 65000 x 65000 px", "11.8 GiB")
    (tmp_path / "b.png").write_bytes(png(20_000, 20_000))
    assert hd.io.wsi(tmp_path / "b.png", 0.5).attrs["hisdiff_sd"]["true_size"] == [20_000, 20_000]
    (tmp_path / "c.png").write_bytes(png(0, 20))
    refused(tmp_path / "c.png")


IMAGE = np.random.default_rng(0).integers(0, 255, (700, 600, 3), dtype=np.uint8)


def write_any(path: Path) -> bytes:
    if path.suffix in (".png", ".jpg"):
        Image.fromarray(IMAGE).save(path)
    else:
        plain = path.name == "plain.tif"
        layout = {} if plain else {"tile": (256, 256), "compression": "zlib"}
        tifffile.imwrite(path, IMAGE, photometric="rgb", metadata=None, **layout)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.tif", "plain.tif", "a.svs", "a.png", "a.jpg"])
@pytest.mark.parametrize("share", [0.0, 0.0005, 0.3, 0.99, 0.999])
def test_a_file_that_is_cut_off(tmp_path, refused, name, share):
    content = write_any(tmp_path / name)
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    refused(tmp_path / name, "fetch it again")


@pytest.mark.parametrize("name", ["a.tif", "a.svs", "a.png", "a.jpeg"])
def test_a_file_of_something_else(tmp_path, refused, name):
    (tmp_path / name).write_bytes(b"<html>404 not found</html>" * 40)
    refused(tmp_path / name, "fetch it again")


def test_tiles_that_cannot_be_decoded_stop_the_writing(tmp_path):
    path = tmp_path / "a.tif"
    content = bytearray(write_any(path))
    with tifffile.TiffFile(path) as tiff:
        start, length = tiff.pages.first.dataoffsets[3], tiff.pages.first.databytecounts[3]
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    slide = hd.io.wsi(path, 0.5)
    with pytest.raises(HisDiffError, match=r"writing .*a\.zarr failed .*nothing was changed"):
        hd.io.write(slide, tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


GREY = np.full((300, 200), 9, np.uint8)
OME = {"axes": "CYX", "Channel": {"EmissionWavelength": [450, 520, 600]}}


@pytest.mark.parametrize(
    ("pixels", "how", "words"),
    [
        (GREY, {"photometric": "minisblack"}, ("axes YX", "(300, 200)")),
        (GREY.astype(np.uint16), {"photometric": "minisblack"}, ("uint16",)),
        (np.full((300, 200, 3), 9, np.uint16), {"photometric": "rgb"}, ("uint16", "RGB")),
        (np.stack([GREY] * 2), {"photometric": "minisblack", "metadata": {"axes": "CYX"}}, ("(2, 300, 200)",)),
        (np.stack([GREY] * 4), {"photometric": "minisblack", "metadata": {"axes": "CYX"}}, ("(4, 300, 200)",)),
        (np.stack([GREY] * 3), {"photometric": "minisblack", "metadata": OME}, ("axes CYX", "brightfield")),
        (np.full((5, 300, 200, 3), 9, np.uint8), {"photometric": "rgb", "metadata": {"axes": "ZYXS"}}, ("axes ZYXS",)),
        (np.full((300, 200, 4), 9, np.uint8), {"photometric": "separated"}, ("SEPARATED",)),
        (np.full((300, 200, 3), 9, np.uint8), {"photometric": "cielab"}, ("CIELAB",)),
        (np.full((304, 208, 3), 9, np.uint8), {"photometric": "ycbcr", "compression": "zlib"}, ("YCBCR",)),
        (GREY, {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}, ("PALETTE",)),
    ],
    ids=[
        "grey",
        "16-bit",
        "16-bit-rgb",
        "two-channels",
        "four-channels",
        "fluorescence",
        "z-stack",
        "cmyk",
        "lab",
        "ycbcr",
        "palette",
    ],
)
def test_an_image_that_is_no_8_bit_rgb(tmp_path, refused, pixels, how, words):
    name = "a.ome.tif" if "metadata" in how else "a.tif"
    tifffile.imwrite(tmp_path / name, pixels, **how)
    refused(tmp_path / name, "an 8-bit RGB image is needed", *words)


def test_pixels_in_another_file_are_not_looked_for(tmp_path, refused):
    for name in ("a.ome.tif", "b.ome.tif"):
        tifffile.imwrite(tmp_path / name, IMAGE, photometric="rgb", metadata={"axes": "YXS"})
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as tiff:
        text = tiff.ome_metadata or ""
    there = text[text.index("urn:uuid:") :].partition('"')[0]
    named = text.replace(there, there[:-4] + "beef").replace(
        '<TiffData IFD="0" PlaneCount="1"/>',
        f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="b.ome.tif">{there}</UUID></TiffData>',
    )
    assert named.count(there) == 1
    tifffile.tiffcomment(tmp_path / "a.ome.tif", named.encode())
    refused(tmp_path / "a.ome.tif", "other files")


def test_what_is_no_file(tmp_path, refused):
    refused(tmp_path / "no.svs", "no image", error=MissingFileError)
    (tmp_path / "S1.zarr").mkdir()
    refused(tmp_path / "S1.zarr", "is a folder", "hd.io.open")


@pytest.mark.parametrize("mpp", [0.0, -0.5, float("nan"), float("inf")])
def test_a_pixel_size_that_is_none(tmp_path, mpp):
    write_any(tmp_path / "a.tif")
    with pytest.raises(HisDiffError, match=r"mpp=.* is no pixel size"):
        hd.io.wsi(tmp_path / "a.tif", mpp)


def test_without_openslide_its_formats_name_what_to_install(tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "a.ndpi").write_bytes(b"something")
    refused(tmp_path / "a.ndpi", "OpenSlide is needed", "pip install openslide-python openslide-bin")
    # a TIFF, PNG or JPEG does without
    write_any(tmp_path / "a.tif")
    assert hd.io.wsi(tmp_path / "a.tif", 0.5).attrs["hisdiff_sd"]["true_size"] == [700, 600]


def test_a_file_that_openslide_does_not_know(tmp_path, refused):
    pytest.importorskip(
        "openslide", reason="the optional packages openslide-python and openslide-bin are not installed"
    )
    (tmp_path / "a.mrxs").write_bytes(b"something")
    refused(tmp_path / "a.mrxs", "cannot be read by OpenSlide")
    (tmp_path / "notes.txt").write_text("something")
    refused(tmp_path / "notes.txt", "cannot be read by OpenSlide", ".svs")
