"""Spots and bins of every technology in HEST-1k have the size and distance that they have, whatever is said of them."""

from __future__ import annotations

import json
import warnings

import anndata as ad
import numpy as np
import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffWarning

# diameter or side, pitch in um, shape
TRUTH = {
    "Visium": (55.0, 100.0, "circle"),
    "Spatial Transcriptomics": (100.0, 200.0, "circle"),
    "Visium HD": (128.0, 128.0, "square"),
    "Xenium": (100.0, 100.0, "square"),
}
GEOMETRY = ("spot_diameter_um", "spot_pitch_um", "spot_shape")


@pytest.mark.parametrize("technology", TRUTH)
def test_spots_have_the_size_of_the_technology_and_nothing_is_to_be_said(every_root, technology):
    with warnings.catch_warnings():
        warnings.simplefilter("error", HisDiffWarning)
        slide = hd.io.hest(every_root[technology], "S1")
    attrs, spots = slide.attrs["hisdiff_sd"], slide["spots"]
    assert attrs["technology"] == technology
    assert tuple(attrs[k] for k in GEOMETRY) == TRUTH[technology]
    np.testing.assert_allclose(spots["radius"], TRUTH[technology][0] / 2 / 0.8)
    source = ad.read_h5ad(every_root[technology] / "st" / "S1.h5ad")
    np.testing.assert_array_equal(slide["table"].obsm["spatial"], source.obsm["spatial"])
    assert list(spots.index) == list(source.obs_names)
    assert attrs["qc"]["measured_pitch_um"] == pytest.approx(TRUTH[technology][1], rel=0.01)
    (library,) = slide["table"].uns["spatial"].values()
    assert library["scalefactors"]["spot_diameter_fullres"] == pytest.approx(TRUTH[technology][0] / 0.8)
    assert json.loads(json.dumps(slide.attrs, allow_nan=False)) == slide.attrs


def test_the_metadata_of_bins_are_as_wrong_as_those_of_hest(every_root):
    said = {}
    for technology in ("Visium HD", "Xenium"):
        record = json.loads((every_root[technology] / "metadata" / "S1.json").read_text())
        factors = ad.read_h5ad(every_root[technology] / "st" / "S1.h5ad").uns["spatial"]["ST"]["scalefactors"]
        said[technology] = (record["inter_spot_dist"], record["spot_diameter"], factors["spot_diameter_fullres"] * 0.8)
    assert said == {"Visium HD": (2.0, 2.0, 128.0), "Xenium": (None, None, 55.0)}


def test_the_square_around_a_circle_is_the_bin(every_root):
    # as many molecules lie in it as were counted, and none lies outside all of them
    slide = hd.io.hest(every_root["Xenium"], "S1", transcripts=True)
    points, table = slide["transcripts"].compute(), slide["table"]
    half = slide["spots"]["radius"].to_numpy()
    off = np.abs(points[["x", "y"]].to_numpy()[:, None] - table.obsm["spatial"]).max(axis=2)
    inside = off <= half
    assert (inside.sum(axis=1) == 1).all()
    genes = table.var_names.get_indexer(points["feature_name"])
    counted = np.zeros(table.shape)
    np.add.at(counted, (inside.argmax(axis=1), genes), 1)
    np.testing.assert_array_equal(counted, table.X.toarray())


@pytest.mark.parametrize("technology", ["Visium HD", "Xenium"])
@pytest.mark.parametrize("factor", [0.55, 1.3])
def test_bins_of_another_size_go_by_measurement(copy_of, describe, technology, factor):
    root = copy_of(technology)
    describe(root, pixel_size_um_estimated=0.8 * factor)
    side = TRUTH[technology][0]
    match = rf"{side * factor:.0f} um apart .* {side:g} um are declared; they would be at 0.8 um per px.* taken for their size"
    with pytest.warns(HisDiffWarning, match=match):
        slide = hd.io.hest(root, "S1")
    attrs = slide.attrs["hisdiff_sd"]
    assert attrs["spot_diameter_um"] == attrs["spot_pitch_um"] == pytest.approx(side * factor, abs=0.06)
    assert attrs["qc"]["declared_pitch_um"] == side
    # the bins are as large as before on the image
    np.testing.assert_allclose(slide["spots"]["radius"], side / 2 / 0.8, rtol=1e-3)
    assert attrs["qc"]["pixel_sizes"]["spot grid"] == pytest.approx(0.8)


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_bins_with_gaps_between_them_are_measured_by_their_neighbours(copy_of, share):
    root = copy_of("Xenium")
    (root / "patches" / "S1.h5").unlink()
    path = root / "st" / "S1.h5ad"
    table = ad.read_h5ad(path)
    kept = np.random.default_rng(0).random(table.n_obs) < share  # HEST leaves out bins without molecules
    table[kept].copy().write_h5ad(path)
    assert hd.io.hest(root, "S1").attrs["hisdiff_sd"]["spot_diameter_um"] == 100.0


def test_arrays_of_150_um_are_as_the_metadata_say(root, edit_metadata):
    edit_metadata(spot_diameter=110.0, inter_spot_dist=150.0, pixel_size_um_estimated=0.75)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HisDiffWarning)
        attrs = hd.io.hest(root, "T1").attrs["hisdiff_sd"]
    assert tuple(attrs[k] for k in GEOMETRY) == (110.0, 150.0, "circle")


def test_spots_larger_than_their_distance_are_exchanged(root, edit_metadata):
    edit_metadata(spot_diameter=150.0, inter_spot_dist=110.0, pixel_size_um_estimated=0.75)
    with pytest.warns(HisDiffWarning, match="spots of 150 um lie 110 um apart.*exchanged: spots of 110 um") as caught:
        attrs = hd.io.hest(root, "T1").attrs["hisdiff_sd"]
    assert tuple(attrs[k] for k in GEOMETRY) == (110.0, 150.0, "circle")
    assert [w.filename for w in caught if issubclass(w.category, HisDiffWarning)] == [__file__]


def test_a_pixel_size_that_was_taken_from_the_wrong_distance_is_seen(root, edit_metadata):
    # 200 px apart: 110 um if 110 um are believed, 150 um in truth
    edit_metadata(spot_diameter=150.0, inter_spot_dist=110.0, pixel_size_um_estimated=0.55)
    with (
        pytest.warns(HisDiffWarning, match="exchanged"),
        pytest.warns(
            HisDiffWarning, match=r"110 um apart at 0\.55 um per px .* 150 um are declared; .* at 0\.75 um per px"
        ),
    ):
        hd.io.hest(root, "T1")


def test_every_pixel_size_that_was_said_is_kept(root, edit_metadata):
    # the tags of the file say 1 um
    edit_metadata(pixel_size_um_estimated=1.05, pixel_size_um_embedded=10.0)
    attrs = hd.io.hest(root, "T1").attrs["hisdiff_sd"]
    expected = {
        "pixel_size_um_estimated": 1.05,
        "pixel_size_um_embedded": 10.0,
        "TIFF resolution tags": pytest.approx(1.0),
        "spot grid": pytest.approx(1.0, rel=0.05),
    }
    assert attrs["qc"]["pixel_sizes"] == expected
    assert attrs["mpp"] == 1.05


def test_tags_that_are_ten_times_off_are_kept_and_not_used(copy_of):
    import tifffile

    root = copy_of("Visium")
    path = root / "wsis" / "S1.tif"
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for tag in ("XResolution", "YResolution"):
            n, d = tiff.pages[0].tags[tag].value
            tiff.pages[0].tags[tag].overwrite((n, d * 10))
    attrs = hd.io.hest(root, "S1").attrs["hisdiff_sd"]
    assert attrs["mpp"] == 0.8
    assert attrs["qc"]["pixel_sizes"]["TIFF resolution tags"] == pytest.approx(8.0)


def test_an_image_of_another_size_than_said_is_reported(copy_of, describe):
    root = copy_of("Visium")
    describe(root, fullres_px_width=2000, fullres_px_height=1750)
    with pytest.warns(HisDiffWarning, match="1000 x 875 px large, the metadata say 2000 x 1750"):
        attrs = hd.io.hest(root, "S1").attrs["hisdiff_sd"]
    assert attrs["qc"]["declared_size"] == [1750, 2000]


def test_totals_beside_the_counts_are_compared(copy_of):
    root = copy_of("Visium HD")
    path = root / "st" / "S1.h5ad"
    table = ad.read_h5ad(path)
    table.obs["total_counts"] = np.asarray(table.X.sum(axis=1)).ravel()
    table.write_h5ad(path)
    assert hd.io.hest(root, "S1").attrs["hisdiff_sd"]["qc"]["totals_differ"] == 0
    table.obs["total_counts"] += [65536.0, 1000.0, *[0.0] * (table.n_obs - 2)]  # as 16 bits lose them
    table.write_h5ad(path)
    with pytest.warns(HisDiffWarning, match=f"2 of {table.n_obs} spots have other counts in total"):
        assert hd.io.hest(root, "S1").attrs["hisdiff_sd"]["qc"]["totals_differ"] == 2


@pytest.mark.parametrize("technology", ["Visium HD", "Xenium"])
def test_bins_are_embedded_as_spots_are(every_root, technology):
    slide = hd.io.hest(every_root[technology], "S1")
    hd.pp.embed(slide, "morphology")
    table = slide["spots_morphology"]
    assert list(table.obs["instance_id"]) == list(slide["spots"].index)
    assert np.isfinite(table.X).all()
    hd.pp.embed(slide, "morphology", tile_um=TRUTH[technology][0], overwrite=True)
    side = slide["spots_morphology"].uns["hisdiff_sd"]["tile_side_px"]
    assert side == pytest.approx(2 * slide["spots"]["radius"].iloc[0])
