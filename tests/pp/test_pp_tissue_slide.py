"""Outlines of the tissue: their place in the slide, in the store and in files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
import spatialdata
from drawn import BLOB, SHAPE, UM, X, Y, draw, overlap
from spatialdata import SpatialData
from spatialdata.transformations import get_transformation

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError

# the place in the slide


@pytest.mark.parametrize("mpp", [0.6, 1.7])
def test_outlines_lie_in_level_0_pixels_on_every_pyramid(slide_of, mpp):
    """A slide of finer pixels: a level of the pyramid, averaged further."""
    factor = 4
    fine = np.repeat(np.repeat(draw(BLOB)[:301, :333], factor, 0), factor, 1)  # padded on the right and at the bottom
    sdata = slide_of(fine, mpp)
    hd.pp.tissue(sdata, min_area_um2=5_000)
    found = shapely.intersects_xy(
        sdata["tissue"].union_all(), X[:301, :333] * factor + 2.0, Y[:301, :333] * factor + 2.0
    )
    assert overlap(found, BLOB[:301, :333]) > 0.9


def test_an_image_without_small_levels(slide_of):
    sdata = slide_of(np.repeat(np.repeat(draw(BLOB), 5, 0), 5, 1), UM / 5)
    flat = SpatialData(images={"he": sdata["he"]["scale0"].image.chunk({"y": 300, "x": 700})}, attrs=sdata.attrs)
    hd.pp.tissue(flat)
    assert overlap(shapely.intersects_xy(flat["tissue"].union_all(), X * 5 + 2.5, Y * 5 + 2.5), BLOB) > 0.95


def test_both_coordinate_systems(slide_of):
    sdata = slide_of(draw(BLOB))
    hd.pp.tissue(sdata)
    assert set(get_transformation(sdata["tissue"], get_all=True)) == {"global", "microns"}
    in_um = spatialdata.transform(sdata["tissue"], to_coordinate_system="microns")
    np.testing.assert_allclose(in_um.area, sdata["tissue"]["area_um2"])


def test_only_a_small_level_is_read(slide_of, tmp_path):
    store = hd.io.write(slide_of(np.repeat(np.repeat(draw(BLOB), 6, 0), 6, 1), 1.0), tmp_path / "a.zarr")
    for level in ("s0", "s1"):
        (folder,) = (tmp_path / "a.zarr" / "images" / "he").glob(level)
        for chunk in (folder / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"damaged")
    hd.pp.tissue(store)
    assert store["tissue"]["area_um2"].sum() == pytest.approx(BLOB.sum() * 36, rel=0.05)


def test_pixels_that_cannot_be_read(slide_of, tmp_path):
    sdata = hd.io.write(slide_of(draw(BLOB)), tmp_path / "a.zarr")
    for chunk in (tmp_path / "a.zarr" / "images" / "he" / "s0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    with pytest.raises(HisDiffError, match=r"pixels of image 'he' of slide 'drawn' cannot be read"):
        hd.pp.tissue(sdata)


# store


def test_outlines_are_written_to_the_store(slide_of, tmp_path):
    sdata = hd.io.write(slide_of(draw(BLOB)), tmp_path / "a.zarr")
    hd.pp.tissue(sdata, min_hole_um2=5_000)
    back = spatialdata.read_zarr(tmp_path / "a.zarr")["tissue"]
    assert back.equals(sdata["tissue"])
    assert back.attrs["hisdiff_sd"]["min_hole_um2"] == 5_000
    with pytest.raises(HisDiffError, match="has shapes 'tissue' already; give overwrite=True"):
        hd.pp.tissue(sdata)
    hd.pp.tissue(sdata, key_added="again", min_area_um2=0)
    hd.pp.tissue(sdata, overwrite=True)
    assert sorted(spatialdata.read_zarr(tmp_path / "a.zarr").shapes) == ["again", "tissue"]


# outlines of a file


def geojson(path: Path, *geometries: shapely.Geometry, **extra: object) -> Path:
    features = [
        {"type": "Feature", "properties": {"tissue_id": i}, "geometry": shapely.geometry.mapping(g)}
        for i, g in enumerate(geometries)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **extra}))
    return path


def test_outlines_of_a_file_are_taken_as_they_are(slide_of, tmp_path):
    small, large = shapely.box(5, 5, 8, 8), shapely.box(50, 50, 200, 150) - shapely.box(60, 60, 90, 90)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    path = geojson(tmp_path / "S_contours.geojson", small, large, crs=crs)
    sdata = slide_of(np.full((*SHAPE, 3), 255))  # which shows no tissue
    hd.pp.tissue(sdata, contours=path)
    assert [a.equals(b) for a, b in zip(sdata["tissue"].geometry, [large, small], strict=True)] == [True, True]
    assert sdata["tissue"].crs is None
    np.testing.assert_allclose(sdata["tissue"]["area_um2"], [(15000 - 900) * 36, 9 * 36])
    assert sdata["tissue"].attrs["hisdiff_sd"]["contours"] == "S_contours.geojson"


def test_outlines_of_a_file_are_mended_and_cut_to_the_image(slide_of, tmp_path):
    bow_tie = shapely.Polygon([(10, 10), (50, 50), (50, 10), (10, 50)])
    both = shapely.MultiPolygon([shapely.box(300, 100, 900, 200), shapely.box(100, 300, 120, 320)])
    sdata = slide_of(draw(BLOB))
    hd.pp.tissue(sdata, contours=str(geojson(tmp_path / "c.geojson", bow_tie, both)))
    assert sdata["tissue"].is_valid.all()
    assert sdata["tissue"].area.tolist() == [8000, 400, 400, 400]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1, 2]", "cannot be read as GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', r"no polygon on the image \(380 x 340 px, 0 geometries"),
        ('{"type": "Point", "coordinates": [9, 9]}', "no polygon on the image"),
        ('{"type": "Polygon", "coordinates": [[[900, 900], [990, 900], [990, 990], [900, 900]]]}', "no polygon on"),
    ],
)
def test_files_of_no_use(slide_of, tmp_path, text, message):
    (tmp_path / "bad.geojson").write_text(text)
    sdata = slide_of(draw(BLOB))
    with pytest.raises(HisDiffError, match=rf"bad\.geojson .*{message}"):
        hd.pp.tissue(sdata, contours=tmp_path / "bad.geojson")
    with pytest.raises(MissingFileError, match="no file .*gone.geojson with outlines"):
        hd.pp.tissue(sdata, contours=tmp_path / "gone.geojson")
    assert not sdata.shapes


def test_no_pixel_size(slide_of):
    sdata = slide_of(draw(BLOB))
    sdata.attrs["hisdiff_sd"]["mpp"] = None
    with pytest.raises(HisDiffError, match=r"slide 'drawn' has no pixel size \(mpp=None\).*mpp="):
        hd.pp.tissue(sdata)
    del sdata.attrs["hisdiff_sd"]
    with pytest.raises(HisDiffError, match="pixel size is not known"):
        hd.pp.tissue(sdata)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_key": "HE"}, "no image 'HE'; there are: 'he'"),
        ({"key_added": "he"}, "'he' cannot be the name of shapes"),
        ({"min_area_um2": -1}, "min_area_um2=-1 is no area"),
        ({"min_hole_um2": float("nan")}, "min_hole_um2=nan is no area"),
    ],
)
def test_options_that_make_no_sense(slide_of, options, message):
    with pytest.raises(HisDiffError, match=message):
        hd.pp.tissue(slide_of(draw(BLOB)), **options)
