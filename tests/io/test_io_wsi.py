"""Bare slides: the right pixels of the right image, and nothing that names a patient."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import imagecodecs
import numpy as np
import pytest
import spatialdata
import tifffile
from PIL import Image
from spatialdata.transformations import get_transformation

import hisdiff_sd as hd
from hisdiff_sd._thumbnail import thumbnail_of

NAME = "DOE^JANE"
APERIO = (
    f"Aperio Image Library v12.0.15\r\n2401x1301 [0,0,2401x1301] (256x256)|AppMag = 20|MPP = 0.4990|Patient = {NAME}"
)
LABEL = np.full((300, 400, 3), 7, np.uint8)
FOREIGN_SIZE = 'PhysicalSizeX="0.5" PhysicalSizeY="0.5"'


def stained(height: int = 1301, width: int = 2401) -> np.ndarray:
    """Smooth colours, so that lossy codecs keep them, each channel another."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([120 + 100 * np.sin(x / 90), 100 + 60 * np.cos(y / 70), 150 + 80 * np.sin((x + y) / 110)], -1)
    return image.astype(np.uint8)


@pytest.fixture(scope="session")
def truth() -> np.ndarray:
    return stained()


def write_svs(path: Path, image: np.ndarray, description: str = APERIO, **options: object) -> None:
    """Pages in the order of a scanner: slide, thumbnail, levels, label, macro; each with a text of its own."""
    jpeg = {"compression": "jpeg", "compressionargs": {"level": 95, "outcolorspace": "rgb"}}
    how = {"photometric": "rgb"} | jpeg | options
    plain = {"photometric": "rgb", "compression": "zlib", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, tile=(256, 256), metadata=None, description=description, **how)
        tiff.write(image[::8, ::8], description=f"Aperio {NAME} thumbnail", **plain)
        for step in (2, 4):
            tiff.write(image[::step, ::step], tile=(256, 256), metadata=None, description=description, **how)
        tiff.write(LABEL, subfiletype=1, description=f"Aperio {NAME} label 400x300", **plain)
        tiff.write(LABEL, subfiletype=9, description=f"Aperio {NAME} macro 400x300", **plain)


def write_ome(path: Path, image: np.ndarray, *, first: tuple[str, np.ndarray] | None = None) -> None:
    """A pyramid in sub-IFDs, after an image of another name if one is given."""
    with tifffile.TiffWriter(path, ome=True) as tiff:
        if first:
            about = {"axes": "YXS", "Name": first[0], "PhysicalSizeX": 30.0, "PhysicalSizeY": 30.0}
            tiff.write(first[1], photometric="rgb", compression="zlib", metadata=about)
        about = {"axes": "YXS", "Name": f"{NAME}.svs", "PhysicalSizeX": 499.0, "PhysicalSizeXUnit": "nm"}
        about |= {"PhysicalSizeY": 499.0, "PhysicalSizeYUnit": "nm", "Description": NAME}
        how = {"photometric": "rgb", "compression": "zlib", "tile": (256, 256)}
        tiff.write(image, subifds=2, metadata=about, **how)
        for step in (2, 4):
            tiff.write(image[::step, ::step], subfiletype=1, **how)


def write_strips(path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(path, image, photometric="rgb", compression="lzw", rowsperstrip=1)


def write_ycbcr(path: Path, image: np.ndarray) -> None:
    how = {"photometric": "rgb", "subsampling": (2, 2), "compression": "jpeg", "compressionargs": {"level": 98}}
    tifffile.imwrite(path, image, tile=(256, 256), metadata=None, **how)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.photometric == tifffile.PHOTOMETRIC.YCBCR


def write_planar_ome(path: Path, image: np.ndarray) -> None:
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    tifffile.imwrite(path, planes, photometric="minisblack", metadata={"axes": "CYX"}, tile=(256, 256))


def write_planar_jpeg2000(path: Path, image: np.ndarray) -> None:
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", compression="jpeg2000", tile=(512, 256))


WRITERS: dict[str, tuple[Callable[[Path, np.ndarray], None], int]] = {
    "aperio.svs": (write_svs, 6),
    "jpeg2000.svs": (lambda path, image: write_svs(path, image, compression=33005, compressionargs={"level": 0}), 0),
    "pyramid.ome.tiff": (write_ome, 0),
    "planar.ome.tif": (write_planar_ome, 0),
    "planar.tif": (write_planar_jpeg2000, 0),
    "strips.tif": (write_strips, 0),
    "plain.tif": (lambda path, image: tifffile.imwrite(path, image, photometric="rgb"), 0),
    "plain_planar.tif": (
        lambda path, image: tifffile.imwrite(
            path, np.ascontiguousarray(image.transpose(2, 0, 1)), photometric="rgb", planarconfig="separate"
        ),
        0,
    ),
    "ycbcr.tif": (write_ycbcr, 6),
    "slide.png": (lambda path, image: Image.fromarray(image).save(path), 0),
    "slide.jpg": (lambda path, image: Image.fromarray(image).save(path, quality=97, subsampling=0), 8),
}


def pixels(sdata: spatialdata.SpatialData) -> np.ndarray:
    """Level 0 without its padding, (y, x, 3)."""
    height, width = sdata.attrs["hisdiff_sd"]["true_size"]
    he = sdata["he"]
    full = he["scale0"].image if hasattr(he, "children") else he  # a small image has one level
    return full.data[:, :height, :width].compute().transpose(1, 2, 0)


def assert_same(found: np.ndarray, expected: np.ndarray, most: int) -> None:
    """Lossless, or lossy but for the rims of the last tiles, where codecs see the padding."""
    assert found.shape == expected.shape
    off = np.abs(found.astype(int) - expected)
    assert np.quantile(off, 0.99) <= most if most else not off.any()


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_pixels_of_the_slide(tmp_path, truth, name):
    write, most = WRITERS[name]
    write(tmp_path / name, truth)
    sdata = hd.io.wsi(tmp_path / name, 0.499)
    assert_same(pixels(sdata), truth, most)
    attrs = sdata.attrs["hisdiff_sd"]
    assert attrs["slide"] == name.split(".")[0]
    assert attrs["true_size"] == [1301, 2401]
    assert attrs["source"]["image_bytes"] == (tmp_path / name).stat().st_size
    assert not sdata.shapes
    assert not sdata.tables


@pytest.mark.parametrize(
    ("name", "mpp", "source"),
    [
        ("aperio.svs", 0.499, "Aperio ImageDescription"),
        ("pyramid.ome.tiff", 0.499, "OME-XML"),
    ],
)
def test_a_store_of_a_bare_slide_is_that_of_every_other(tmp_path, truth, hest_root, name, mpp, source):
    write, most = WRITERS[name]
    write(tmp_path / name, truth)
    sdata = hd.io.wsi(tmp_path / name, slide="S1")
    attrs = sdata.attrs["hisdiff_sd"]
    assert (attrs["mpp"], attrs["mpp_source"]) == (pytest.approx(mpp), source)
    assert attrs.keys() == hd.io.hest(hest_root, "S1").attrs["hisdiff_sd"].keys()
    assert attrs["technology"] == "H&E only"
    assert attrs["spot_diameter_um"] is attrs["spot_pitch_um"] is None
    matrix = get_transformation(sdata["he"], "microns").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(np.diag(matrix), [mpp, mpp, 1])

    hd.io.write(sdata, tmp_path / "S1.zarr")
    for back in (
        spatialdata.read_zarr(tmp_path / "S1.zarr"),
        hd.io.open(tmp_path / "S1.zarr"),
        hd.io.open(tmp_path / "S1.zarr", companion=tmp_path / "mine" / "S1.zarr"),
    ):
        assert back.attrs["hisdiff_sd"] == attrs
        assert_same(pixels(back), truth, most)
        small, scale = thumbnail_of(back)
        assert small.shape == (1300 * scale // 1, 2401 * scale // 1, 3)
        assert_same(small, truth[:: round(1 / scale), :: round(1 / scale)][: small.shape[0], : small.shape[1]], 60)


def test_the_slide_is_chosen_not_a_larger_macro_image(tmp_path, truth):
    large = np.zeros((3000, 3000, 3), np.uint8)
    for name in ("macro image", "Label", f"thumbnail of {NAME}"):
        write_ome(tmp_path / "a.ome.tif", truth, first=(name, large))
        sdata = hd.io.wsi(tmp_path / "a.ome.tif")
        assert_same(pixels(sdata), truth, 0)
        assert sdata.attrs["hisdiff_sd"]["mpp"] == pytest.approx(0.499)  # not the 30 um of the macro image
    # without such a name it is the larger one; and a slide that is called so is one nevertheless
    write_ome(tmp_path / "b.ome.tif", truth, first=("second section", large[:400, :400]))
    assert_same(pixels(hd.io.wsi(tmp_path / "b.ome.tif")), truth, 0)
    tifffile.imwrite(
        tmp_path / "c.ome.tif", truth, photometric="rgb", metadata={"axes": "YXS", "Name": "macro"}, compression="zlib"
    )
    assert_same(pixels(hd.io.wsi(tmp_path / "c.ome.tif", 0.5)), truth, 0)


@pytest.mark.parametrize("name", ["aperio.svs", "pyramid.ome.tiff"])
def test_nothing_of_the_patient_is_in_the_store(tmp_path, truth, name):
    private = f"{NAME}_S24-1234"
    path = tmp_path / (private + "." + name.partition(".")[2])
    WRITERS[name][0](path, truth)
    assert NAME.encode() in path.read_bytes()
    store = tmp_path / "store" / "S1.zarr"
    hd.io.write(hd.io.wsi(path, slide="S1"), store)
    files = [p for p in store.parent.rglob("*") if p.is_file()]
    assert len(files) > 10
    for file in files:
        content = file.read_bytes()
        assert not any(word in content for word in (NAME.encode(), b"S24-1234", b"Aperio Image Library", b"AppMag"))
        assert NAME not in str(file.relative_to(tmp_path))
    # nor does a label or thumbnail: all there is are the levels of the slide
    assert sorted(p.name for p in (store / "images").iterdir() if p.is_dir()) == ["he"]
    assert (
        json.loads((store / "zarr.json").read_text())["attributes"]["hisdiff_sd"]["source"]["image"]
        == "S1" + path.suffix
    )


def test_tiles_that_a_scanner_left_out_are_white(tmp_path):
    image = np.full((512, 768, 3), 90, np.uint8)
    tiles = [None if i % 2 else image[:256, :256] for i in range(6)]
    how = {"shape": image.shape, "dtype": np.uint8, "tile": (256, 256), "photometric": "rgb", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", iter(tiles), compression="zlib", **how)
    found = hd.io.wsi(tmp_path / "a.tif", 0.5)["he"].data.compute()
    for i in range(6):
        y, x = divmod(i, 3)
        assert (found[:, y * 256 : y * 256 + 256, x * 256 : x * 256 + 256] == (255 if i % 2 else 90)).all()


def test_transparent_is_white(tmp_path):
    clear = np.zeros((300, 200, 4), np.uint8)
    clear[100:] = (90, 40, 120, 255)
    Image.fromarray(clear).save(tmp_path / "a.png")
    how = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", clear, **how)
    tifffile.imwrite(tmp_path / "b.tif", clear, tile=(64, 64), compression="zlib", **how)
    planes = np.ascontiguousarray(clear.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "c.tif", planes, compression="zlib", planarconfig="separate", **how)
    for name in ("a.png", "a.tif", "b.tif", "c.tif"):
        found = hd.io.wsi(tmp_path / name, 0.5)["he"].data.compute()
        assert (found[:, :100] == 255).all(), name
        assert (found[:, 100:].transpose(1, 2, 0) == (90, 40, 120)).all(), name


def test_the_same_slide_by_hest(real_hest):
    path = sorted((real_hest / "wsis").glob("*.tif"))[0]
    other = hd.io.hest(real_hest, path.stem)
    sdata = hd.io.wsi(path, other.attrs["hisdiff_sd"]["mpp"])
    assert sdata.attrs["hisdiff_sd"]["true_size"] == other.attrs["hisdiff_sd"]["true_size"]
    for name in ("scale0", "scale2"):
        mine, theirs = (s["he"][name].image for s in (sdata, other))
        assert mine.shape == theirs.shape
        window = (slice(None), slice(300, 1300), slice(200, 1300))
        np.testing.assert_array_equal(mine.data[window].compute(), theirs.data[window].compute())
    matrices = [get_transformation(s["he"], "microns").to_affine_matrix(("x", "y"), ("x", "y")) for s in (sdata, other)]
    np.testing.assert_array_equal(*matrices)


def openslide() -> None:
    pytest.importorskip(
        "openslide", reason="the optional packages openslide-python and openslide-bin are not installed"
    )


def test_openslide_reads_what_is_no_tiff_by_its_name_and_gives_the_same(tmp_path, truth):
    openslide()
    write_svs(tmp_path / "a.svs", truth)
    shutil.copy(tmp_path / "a.svs", tmp_path / "a.vms")
    by_tiff, by_openslide = hd.io.wsi(tmp_path / "a.svs"), hd.io.wsi(tmp_path / "a.vms")
    assert_same(pixels(by_openslide), pixels(by_tiff), 3)
    attrs = by_openslide.attrs["hisdiff_sd"]
    assert (attrs["mpp"], attrs["mpp_source"]) == (pytest.approx(0.499), "OpenSlide")
    hd.io.write(by_openslide, tmp_path / "a.zarr")
    assert_same(pixels(spatialdata.read_zarr(tmp_path / "a.zarr")), truth, 6)


def test_what_openslide_finds_empty_is_white(tmp_path, truth):
    openslide()
    corner = [truth[:256, :256] if i == 0 else None for i in range(6)]
    how = {"shape": (512, 768, 3), "dtype": np.uint8, "tile": (256, 256), "photometric": "rgb", "metadata": None}
    tifffile.imwrite(tmp_path / "a.mrxs", iter(corner), compression="jpeg", description=APERIO, **how)
    found = pixels(hd.io.wsi(tmp_path / "a.mrxs"))
    assert_same(found[:256, :256], truth[:256, :256], 12)
    assert (found[256:] == 255).all()
    assert (found[:, 256:] == 255).all()


def test_jpeg2000_tiles_that_keep_luminance_and_colour_apart_come_out_as_rgb(tmp_path, truth):
    openslide()
    image = truth[:512, :768]
    apart = np.asarray(Image.fromarray(image).convert("YCbCr"))
    tiles = (apart[y : y + 256, x : x + 256] for y in (0, 256) for x in (0, 256, 512))
    coded = (imagecodecs.jpeg2k_encode(np.ascontiguousarray(t), level=0, codecformat="j2k", mct=False) for t in tiles)
    how = {"shape": image.shape, "dtype": np.uint8, "tile": (256, 256), "photometric": "rgb", "metadata": None}
    tifffile.imwrite(tmp_path / "a.svs", coded, compression=33003, description=APERIO, **how)
    assert_same(pixels(hd.io.wsi(tmp_path / "a.svs")), image, 3)


def test_the_graph_of_an_openslide_image_holds_no_open_file(tmp_path, truth):
    openslide()
    write_svs(tmp_path / "a.scn", truth)
    image = hd.io.wsi(tmp_path / "a.scn")["he"]["scale0"].image.data
    sent = tmp_path / "image.pkl"
    sent.write_bytes(cloudpickle.dumps(image))
    assert sent.stat().st_size < 100_000
    read = "import cloudpickle, pathlib, sys; print(cloudpickle.loads(pathlib.Path(sys.argv[1]).read_bytes()).sum().compute())"
    done = subprocess.run([sys.executable, "-c", read, str(sent)], capture_output=True, text=True, check=True)
    assert int(done.stdout) == int(image.sum().compute())


def test_what_is_known_of_the_slide_is_kept(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((300, 400, 3), 200, np.uint8))
    about = {"patient": "P7", "species": "Homo sapiens", "organ": "Breast"}
    record = hd.io.wsi(tmp_path / "a.tif", 0.5, **about).attrs["hisdiff_sd"]
    assert {key: record[key] for key in about} == about
