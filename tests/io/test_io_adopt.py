"""SpatialData objects that others made, brought to the layout of this package."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale, Sequence, Translation, set_transformation

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

AXES = ("x", "y")
RNG = np.random.default_rng(8)
# odd sides: what a reader that halves them makes of it does not lie on level 0
PIXELS = RNG.integers(0, 255, (3, 1301, 1107), dtype=np.uint8)
XY = np.column_stack([v.ravel() for v in np.meshgrid(np.arange(60, 1100, 100), np.arange(70, 1300, 100))]).astype(float)
COUNTS = RNG.poisson(3, (len(XY), 4)).astype(np.float32)
BARCODES = [f"B{i:03d}-1" for i in range(len(XY))]


def theirs(
    xy=XY, *, shapes=None, transformation=None, image_transformation=None, pixels=PIXELS, **image
) -> SpatialData:
    """A slide as another reader leaves it: names, numbers as instances, a pyramid that is trimmed."""
    options = {"scale_factors": [2, 2], "transformations": {"global": image_transformation or Identity()}} | image
    picture = Image2DModel.parse(pixels, dims=("c", "y", "x"), **options)
    circles = ShapesModel.parse(xy, geometry=0, radius=30.0) if shapes is None else shapes
    set_transformation(circles, transformation or Identity(), "global")
    order = np.random.default_rng(1).permutation(len(xy))
    obs = pd.DataFrame({"spot_id": order, "region": "places", "array_row": order % 7}, index=np.array(BARCODES)[order])
    table = ad.AnnData(csr_matrix(COUNTS[order]), obs, pd.DataFrame(index=["A", "B", "C", "D"]))
    table.layers["scaled"] = COUNTS[order] - 1
    table = TableModel.parse(table, region="places", region_key="region", instance_key="spot_id")
    return SpatialData(images={"scan": picture}, shapes={"places": circles}, tables={"counts": table})


def test_elements_get_our_names_and_lie_where_they_lay(tmp_path):
    sdata = hd.io.adopt(theirs(), mpp=0.5, slide="S9", patient="P", species="Homo sapiens", organ="Skin")
    assert (set(sdata.images), set(sdata.shapes), set(sdata.tables)) == ({"he"}, {"spots"}, {"table"})
    spots, table = sdata["spots"].loc[BARCODES], sdata["table"][BARCODES]
    np.testing.assert_allclose(np.column_stack([spots.geometry.x, spots.geometry.y]), XY)
    np.testing.assert_allclose(table.obsm["spatial"], XY)
    np.testing.assert_array_equal(table.X.toarray(), COUNTS)
    assert "array_row" in table.obs
    attrs = sdata.attrs["hisdiff_sd"]
    assert json.loads(json.dumps(sdata.attrs)) == sdata.attrs
    about = {"slide": "S9", "patient": "P", "mpp": 0.5, "mpp_source": "given", "true_size": [1301, 1107]}
    about |= {"spot_diameter_um": 30.0, "spot_pitch_um": 50.0}
    assert {k: attrs[k] for k in about} == about
    back = hd.io.write(sdata, tmp_path / "S9.zarr")
    np.testing.assert_array_equal(back["he"]["scale0"]["image"].to_numpy()[:, :1301, :1107], PIXELS)
    hd.pp.embed(back, "morphology")
    assert back["spots_morphology"].n_obs == len(XY)


def test_every_level_lies_on_level_0():
    dot = np.full((3, 2051, 2053), 255, np.uint8)
    dot[:, 1600:1640, 1600:1640] = 0
    source = theirs(pixels=dot, scale_factors=[2, 2])
    trimmed = spatialdata.get_pyramid_levels(source["scan"], n=2).to_numpy()[0]
    levels = spatialdata.get_pyramid_levels(hd.io.adopt(source, mpp=0.5)["he"])
    found = list(levels)[2].to_numpy()[0]
    assert (found[400:410, 400:410] == 0).all()
    assert found[399, 405] == found[410, 405] == 255
    assert not (trimmed[400:410, 400:410] == 0).all(), "their level is shifted: the test can fail"


def test_no_full_resolution_pixel_is_read(monkeypatch):
    import dask.array as da

    read = []

    def block(block_info):
        read.append(1)
        return np.zeros([hi - lo for lo, hi in block_info[None]["array-location"]], np.uint8)

    pixels = da.map_blocks(
        block, chunks=((3,), (512,) * 40, (512,) * 40), dtype=np.uint8, meta=np.empty((0, 0, 0), "u1")
    )
    small = Image2DModel.parse(np.zeros((3, 1280, 1280), np.uint8), dims=("c", "y", "x"))
    source = theirs(scale_factors=None)
    big = Image2DModel.parse(pixels, dims=("c", "y", "x"))
    tree = spatialdata.models.Image2DModel.parse(PIXELS, dims=("c", "y", "x"), scale_factors=[2])
    tree["scale0"] = big.to_dataset(name="image")
    tree["scale1"] = small.to_dataset(name="image")
    source.images["scan"] = tree
    read.clear()
    sdata = hd.io.adopt(source, mpp=0.5)
    assert sdata.attrs["hisdiff_sd"]["true_size"] == [20480, 20480]
    assert not read


@pytest.mark.parametrize("system", ["global", "theirs"])
def test_shapes_in_other_coordinates_are_mapped_to_pixels(system):
    # shapes in um from a corner of the array, the image placed in a larger frame
    to_frame = Sequence([Scale([4.0, 4.0], axes=AXES), Translation([110.0, 220.0], axes=AXES)])
    image = Sequence([Scale([2.0, 2.0], axes=AXES), Translation([100.0, 200.0], axes=AXES)])
    source = theirs((XY - 5 - [0, 5]) / 2, transformation=to_frame, image_transformation=image)
    if system != "global":
        source.rename_coordinate_systems({"global": system})
    sdata = hd.io.adopt(source, mpp=0.5)
    spots = sdata["spots"].loc[BARCODES]
    np.testing.assert_allclose(np.column_stack([spots.geometry.x, spots.geometry.y]), XY)
    np.testing.assert_allclose(spots["radius"], 60)


def test_the_pixel_size_comes_from_microns():
    source = theirs()
    set_transformation(source["scan"], Scale([0.25, 0.25], axes=AXES), "microns")
    attrs = hd.io.adopt(source).attrs["hisdiff_sd"]
    assert (attrs["mpp"], attrs["mpp_source"]) == (0.25, "coordinate system microns")
    assert hd.io.adopt(source, mpp=0.3).attrs["hisdiff_sd"]["mpp"] == 0.3


def test_bins_that_are_squares_become_circles_of_their_area():
    import shapely
    from geopandas import GeoDataFrame

    squares = ShapesModel.parse(GeoDataFrame(geometry=shapely.box(*(XY - 40).T, *(XY + 40).T)))
    sdata = hd.io.adopt(theirs(shapes=squares), mpp=0.5)
    spots = sdata["spots"].loc[BARCODES]
    np.testing.assert_allclose(np.column_stack([spots.geometry.x, spots.geometry.y]), XY)
    np.testing.assert_allclose(spots["radius"], 80 / np.sqrt(np.pi))


def test_a_bare_image_is_a_bare_slide(tmp_path):
    source = theirs()
    hd_only = SpatialData(images={"scan": source["scan"]})
    sdata = hd.io.adopt(hd_only, mpp=0.5)
    assert not sdata.shapes
    assert not sdata.tables
    assert sdata.attrs["hisdiff_sd"]["slide"] == "scan"
    hd.pp.tile(sdata, 100, shapes_key=None)
    hd.pp.embed(sdata, "morphology", shapes_key="tiles_100um")
    hd_only.write(tmp_path / "lab7.zarr")
    assert hd.io.adopt(spatialdata.read_zarr(tmp_path / "lab7.zarr"), mpp=0.5).attrs["hisdiff_sd"]["slide"] == "lab7"


def test_transparent_pixels_become_white():
    alpha = np.full((1, *PIXELS.shape[1:]), 255, np.uint8)
    alpha[0, :100] = 0
    source = theirs(pixels=np.concatenate([PIXELS, alpha]))
    level = hd.io.adopt(source, mpp=0.5)["he"]["scale0"]["image"].to_numpy()[:, :1301, :1107]
    assert (level[:, :100] == 255).all()
    np.testing.assert_array_equal(level[:, 100:], PIXELS[:, 100:])


def test_output_of_spatialdata_io_is_adopted(visium_hd, space_ranger):
    import spatialdata_io

    hd_bins = spatialdata_io.visium_hd(visium_hd.outs, bin_size=16, load_segmentations_only=False, dataset_id="d")
    pixels = np.ascontiguousarray(visium_hd.pixels.transpose(2, 0, 1))
    hd_bins.images["full"] = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={"d": Identity()})
    sdata = hd.io.adopt(hd_bins, mpp=1.0)
    ours = hd.io.visium_hd(visium_hd.outs, visium_hd.image, pitch_um=16)
    np.testing.assert_array_equal(sdata["table"].X.sum(0), ours["table"].X.sum(0))
    assert sorted(sdata["spots"].geometry.x.round(6)) == sorted(ours["spots"].geometry.x.round(6))


def rotated(degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return Affine([[c, -s, 0], [s, c, 0], [0, 0, 1]], input_axes=AXES, output_axes=AXES)


@pytest.mark.parametrize(
    ("transformation", "refused"),
    [
        (rotated(0.05), False),
        (rotated(1), True),
        (rotated(90), True),
        (rotated(180), True),
        (Scale([1.0, 1.05], axes=AXES), True),
        (Scale([-1.0, 1.0], axes=AXES), True),
        (Affine([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]], input_axes=AXES, output_axes=AXES), True),
    ],
)
def test_rotation_and_shear_are_refused(transformation, refused):
    for options in ({"transformation": transformation}, {"image_transformation": transformation}):
        if refused:
            with pytest.raises(HisDiffError, match=r"'places' are rotated, mirrored or stretched against image 'scan'"):
                hd.io.adopt(theirs(**options), mpp=0.5)
        else:
            hd.io.adopt(theirs(**options), mpp=0.5)


def several_slides():
    source = theirs()
    source.images["other"] = source["scan"]
    return source


def two_regions():
    source = theirs()
    source.shapes["more"] = source["places"]
    table = source.tables["counts"]
    table.obs["region"] = pd.Categorical(["places"] * 70 + ["more"] * (len(XY) - 70))
    source.set_table_annotates_spatialelement("counts", ["places", "more"])
    return source


def apart():
    source = theirs()
    source.rename_coordinate_systems({"global": "a"})
    set_transformation(source["places"], {"b": Identity()}, set_all=True)
    return source


def disagreeing():
    source = theirs()
    source.rename_coordinate_systems({"global": "a"})
    set_transformation(source["places"], Translation([40.0, 0], axes=AXES), "b")
    set_transformation(source["scan"], Identity(), "b")
    return source


def flat_image():
    return theirs(image_transformation=Scale([0.0, 1.0], axes=AXES))


def of_labels():
    from spatialdata.models import Labels2DModel

    source = theirs()
    del source.shapes["places"]
    source.labels["places"] = Labels2DModel.parse(np.zeros((9, 9), int), dims=("y", "x"))
    return source


def grey():
    return theirs(pixels=PIXELS[:1])


def deep():
    return theirs(pixels=PIXELS.astype(np.uint16))


def no_image():
    source = theirs()
    del source.images["scan"]
    return source


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (several_slides, {}, ("which image", "image_key=", "'scan', 'other'")),
        (several_slides, {"image_key": "scam"}, ("'scam'", "Did you mean 'scan'")),
        (two_regions, {}, ("'counts' annotates 2 elements", "places, more", "one slide")),
        (apart, {}, ("share no coordinate system", "in a", "in b")),
        (disagreeing, {}, ("lie differently", "a, b", "coordinate_system=")),
        (disagreeing, {"coordinate_system": "c"}, ("'c'", "'a', 'b'")),
        (flat_image, {}, ("cannot be inverted",)),
        (of_labels, {}, ("'places'", "no shapes element", "spatialdata.to_circles")),
        (grey, {}, ("'scan' is no 8-bit RGB",)),
        (deep, {}, ("uint16",)),
        (no_image, {}, ("which image", "none")),
        (theirs, {"mpp": None}, ("no pixel size", "give mpp=")),
        (theirs, {"mpp": -1.0}, ("mpp=-1.0",)),
        (theirs, {"table_key": "table"}, ("'table'", "'counts'")),
        (theirs, {"layer": "raw"}, ("'raw'", "'scaled'")),
        (theirs, {"layer": "scaled"}, ("negative", "table 'counts'")),
        (theirs, {"slide": " "}, ("slide=",)),
    ],
)
def test_what_cannot_be_adopted_is_named(make, options, words):
    with pytest.raises(HisDiffError) as caught:
        hd.io.adopt(make(), **({"mpp": 0.5} | options))
    message = str(caught.value)
    assert not [w for w in words if w not in message], message
    assert "\n" not in message


def test_coordinate_systems_that_disagree_are_chosen_from():
    first = hd.io.adopt(disagreeing(), mpp=0.5, coordinate_system="a")["spots"].loc[BARCODES]
    other = hd.io.adopt(disagreeing(), mpp=0.5, coordinate_system="b")["spots"]
    np.testing.assert_allclose(other.loc[other.index].geometry.x, first.loc[other.index].geometry.x + 40)


def test_our_own_slides_need_no_adoption(tiny_root):
    with pytest.raises(HisDiffError, match="slide of hisdiff_sd already"):
        hd.io.adopt(hd.io.hest(tiny_root, "T1"))


def test_a_slide_that_was_not_adopted_says_how():
    with pytest.raises(HisDiffError, match=r"hd\.io\.adopt"):
        hd.pp.embed(theirs(), "morphology", shapes_key="places", image_key="scan")


def test_a_distance_that_follows_from_the_pixel_size_confirms_nothing():
    report = hd.io.qc(hd.io.adopt(theirs(), mpp=0.05, slide="S9"))
    assert not {"spot pitch", "other pixel sizes"} & {f.name for f in report.findings}
    assert next(f for f in report.findings if f.name == "pixel size").level == "warning"
