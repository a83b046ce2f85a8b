"""Where the pixel size comes from, and what is not believed."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning

PIXELS = np.full((40, 30, 3), 200, np.uint8)
UM = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4, "in": 25400.0, "pt": 25400 / 72}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pixel_size")


def found(path: Path, mpp: float | None = None) -> tuple[float, str]:
    """Pixel size and its source; warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", HisDiffWarning)
        attrs = hd.io.wsi(path, mpp).attrs["hisdiff_sd"]
    return attrs["mpp"], attrs["mpp_source"]


def write_ome(path: Path, x: object, y: object, unit: str | None = None) -> Path:
    about = {"axes": "YXS", "PhysicalSizeX": x, "PhysicalSizeY": y}
    if unit is not None:
        about |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata=about)
    return path


def write_tags(path: Path, per_unit: tuple[float, float], unit: str, description: str | None = None) -> Path:
    how = {"resolution": per_unit, "resolutionunit": unit, "metadata": None, "description": description}
    tifffile.imwrite(path, PIXELS, photometric="rgb", tile=(32, 32), **how)
    return path


sizes = st.floats(0.1, 3.0)


@settings(max_examples=60, deadline=None)
@given(mpp=sizes, unit=st.sampled_from([*UM, None]))
def test_ome_xml_in_every_unit(folder, mpp, unit):
    length = mpp / UM[unit or "µm"]
    size, source = found(write_ome(folder / "a.ome.tif", length, length, unit))
    assert size == pytest.approx(mpp, rel=1e-6)
    assert source == "OME-XML"


@settings(max_examples=40, deadline=None)
@given(mpp=sizes, unit=st.sampled_from(["CENTIMETER", "INCH"]))
def test_resolution_tags_that_a_slide_can_have(folder, mpp, unit):
    per_unit = {"CENTIMETER": 1e4, "INCH": 25_400}[unit] / mpp
    size, source = found(write_tags(folder / "b.tif", (per_unit, per_unit), unit))
    assert size == pytest.approx(mpp, rel=1e-4)
    assert source == "TIFF resolution tags"


@settings(max_examples=40, deadline=None)
@given(mpp=st.floats(0.05, 9), comma=st.booleans(), spaces=st.text(" ", max_size=2))
def test_aperio_with_point_and_comma(folder, mpp, comma, spaces):
    written = f"{mpp:.6f}".replace(".", "," if comma else ".")
    text = f"Aperio Image Library v1\n30x40|AppMag = 40|MPP{spaces}={spaces}{written}|Filename = MPP = 3"
    size, source = found(write_tags(folder / "c.svs", (72, 72), "INCH", text))
    assert (size, source) == (pytest.approx(mpp, abs=1e-6), "Aperio ImageDescription")


@settings(max_examples=60, deadline=None)
@given(x=sizes, ratio=st.floats(0.5, 2))
def test_pixels_must_be_square_within_two_per_cent(folder, x, ratio):
    path = write_ome(folder / "d.ome.tif", x, x * ratio)
    if 1 / 1.0199 < ratio < 1.0199:
        assert found(path)[0] == pytest.approx((x + x * ratio) / 2)
    elif not 1 / 1.0201 < ratio < 1.0201:
        with pytest.raises(
            HisDiffError, match=r"d\.ome\.tif: pixels are .* wide and .* high \(OME-XML\).*mpp="
        ) as caught:
            found(path)
        for side in (x, x * ratio):
            assert f"{side:.4g} um" in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(given=st.floats(0.05, 5), own=sizes)
def test_what_is_given_wins_and_a_contradiction_is_told(folder, given, own):
    path = write_ome(folder / "e.ome.tif", own, own)
    ratio = max(given / own, own / given)
    if ratio < 1.199:
        assert found(path, given) == (given, "given")
    elif ratio > 1.201:
        with pytest.warns(HisDiffWarning, match=r"e\.ome\.tif: mpp=.* was given, the file says .*OME-XML") as caught:
            attrs = hd.io.wsi(path, given).attrs["hisdiff_sd"]
        assert (attrs["mpp"], attrs["mpp_source"]) == (given, "given")
        for size in (given, own):
            assert f"{size:.4g}" in str(caught[0].message)
        assert caught[0].filename == __file__


@pytest.mark.parametrize("unit", ["micron", "um", "\\u00B5m"])
def test_imagej(folder, unit):
    how = {"resolution": (2.0, 2.0), "metadata": {"unit": unit, "axes": "YXS"}}
    tifffile.imwrite(folder / "f.tif", PIXELS, imagej=True, **how)
    assert found(folder / "f.tif") == (0.5, "ImageJ metadata")


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600, 1200])
def test_the_resolution_of_printers_is_no_pixel_size(folder, dpi):
    path = write_tags(folder / "g.tif", (dpi, dpi), "INCH")
    with pytest.raises(HisDiffError, match=r"g\.tif does not say how large a pixel is") as caught:
        found(path)
    message = str(caught.value)
    assert f"TIFF resolution tags: {25_400 / dpi:.4g} um per px, which no slide has" in message
    for word in ("OME-XML", "Aperio ImageDescription", "give mpp=", "0.25", "40x", "0.5", "20x"):
        assert word in message
    # nor does it contradict what is given
    assert found(path, 0.25) == (0.25, "given")


def test_the_first_that_can_be_believed(folder):
    path = write_tags(folder / "h.svs", (20_000, 20_000), "CENTIMETER", "Aperio Image Library|MPP = 0.25")
    assert found(path) == (0.25, "Aperio ImageDescription")
    path = write_tags(folder / "i.svs", (20_000, 20_000), "CENTIMETER", "Aperio Image Library|MPP = 0.0|AppMag = 20")
    assert found(path) == (pytest.approx(0.5), "TIFF resolution tags")
    path = write_tags(folder / "j.tif", (20_000, 20_000), "CENTIMETER", "no scanner wrote this|MPP = 0.25")
    assert found(path) == (pytest.approx(0.5), "TIFF resolution tags")


@pytest.mark.parametrize(
    ("x", "y", "unit"),
    [
        (250.0, 250.0, "mm"),
        (1.0, 1.0, "pixel"),
        (1.0, 1.0, "Mm"),
        (0.5, 0.0, "µm"),
        ("nan", "nan", "µm"),
        (-1.0, -1.0, "µm"),
    ],
    ids=["a quarter of a metre", "pixel", "megametre", "zero", "nan", "negative"],
)
def test_ome_sizes_that_are_none(folder, x, y, unit):
    with pytest.raises(HisDiffError, match=r"k\.ome\.tif does not say how large a pixel is .*give mpp="):
        found(write_ome(folder / "k.ome.tif", x, y, unit))


def test_damaged_ome_xml_is_no_pixel_size(folder):
    path = write_tags(folder / "l.ome.tif", (20_000, 20_000), "CENTIMETER", "<OME><Pixels SizeX='30' </OME>")
    assert found(path) == (pytest.approx(0.5), "TIFF resolution tags")


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_png_and_jpeg_have_none(folder, name):
    Image.fromarray(PIXELS).save(folder / name, dpi=(50_800, 50_800))
    with pytest.raises(HisDiffError, match=r"does not say how large a pixel is .*PNG and JPEG.*give mpp="):
        found(folder / name)
    assert found(folder / name, 0.5) == (0.5, "given")


def test_openslide_says_less_than_a_maker_for_a_plain_tiff(folder):
    pytest.importorskip(
        "openslide", reason="the optional packages openslide-python and openslide-bin are not installed"
    )
    with pytest.raises(HisDiffError, match=r"openslide\.mpp-x.*OpenSlide: 4\.233 um per px, which no slide has"):
        found(write_tags(folder / "m.vms", (6000, 6000), "INCH"))
    assert found(write_tags(folder / "n.vms", (20_000, 20_000), "CENTIMETER")) == (pytest.approx(0.5), "OpenSlide")
