"""What `hd.io.visium_hd` makes of the output of Space Ranger for Visium HD."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning, MissingFileError


def read(vendor, path=None, image=None, **options):
    return hd.io.visium_hd(path or vendor.outs, image or vendor.image, **options)


def pooled(vendor, side):
    """Counts and centres of squares of `side` x `side` bins of 8 um, with at least half of the bins under tissue."""
    found = {}
    for r in range(0, vendor.n, side):
        for c in range(0, vendor.n, side):
            inside = (vendor.row // side == r // side) & (vendor.column // side == c // side)
            if (inside & vendor.tissue).sum() >= side**2 / 2:
                centre = vendor.xy(8, vendor.row[inside], vendor.column[inside]).mean(0)
                found[f"x{c // side:04d}_y{r // side:04d}"] = vendor.counts[inside].sum(0), centre
    return found


@pytest.mark.parametrize(("pitch", "bins", "options"), [(64, 4, {}), (64, 8, {"bin_um": 8}), (128, 8, {}), (24, 3, {})])
def test_bins_are_summed_exactly_whichever_size_they_are_taken_from(visium_hd, pitch, bins, options):
    slide = read(visium_hd, pitch_um=pitch, **options)
    truth = pooled(visium_hd, pitch // 8)
    table, spots = slide["table"], slide["spots"]
    assert set(table.obs_names) == set(spots.index) == set(truth)
    for name, (counts, centre) in truth.items():
        np.testing.assert_array_equal(table[name].X.toarray()[0], counts)
        np.testing.assert_allclose([spots.geometry.x[name], spots.geometry.y[name]], centre)
        np.testing.assert_allclose(table[name].obsm["spatial"][0], centre)
    assert table.obs["n_bins"].max() == bins**2
    np.testing.assert_allclose(spots["radius"], pitch / 2)


def test_what_spatialdata_io_reads_is_what_is_pooled(visium_hd):
    import spatialdata_io

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = spatialdata_io.visium_hd(visium_hd.outs, bin_size=16, load_segmentations_only=False)
    theirs = theirs.tables["square_016um"]
    ours = read(visium_hd, pitch_um=16)["table"]
    assert ours.n_obs == theirs.n_obs
    row, column = theirs.obs["array_row"], theirs.obs["array_col"]
    names = [f"x{c:04d}_y{r:04d}" for c, r in zip(column, row, strict=True)]
    np.testing.assert_array_equal(ours[names].X.toarray(), theirs.X.toarray())
    np.testing.assert_allclose(ours[names].obsm["spatial"], theirs.obsm["spatial"])


def test_the_slide_is_laid_out_as_one_of_hest(visium_hd, tmp_path):
    slide = read(visium_hd, pitch_um=64, patient="P", species="Homo sapiens", organ="Colon")
    assert (set(slide.images), set(slide.shapes), set(slide.tables)) == ({"he"}, {"spots"}, {"table"})
    attrs = slide.attrs["hisdiff_sd"]
    assert json.loads(json.dumps(slide.attrs)) == slide.attrs
    about = {"slide": "H1", "patient": "P", "technology": "Visium HD", "mpp": 1.0, "mpp_source": "microns_per_pixel"}
    about |= {"spot_pitch_um": 64.0, "spot_diameter_um": 64.0, "true_size": [420, 430]}
    assert {k: attrs[k] for k in about} == about
    assert attrs["qc"]["measured_pitch_um"] == pytest.approx(64, abs=0.1)
    back = hd.io.write(slide, tmp_path / "H1.zarr")
    hd.pp.embed(back, "morphology")
    assert back["spots_morphology"].n_obs == len(slide["spots"])


def test_the_folder_of_bins_can_be_given_and_a_pixel_size(visium_hd):
    with pytest.warns(HisDiffWarning, match="128 um apart at 2 um per px"):
        attrs = read(visium_hd, visium_hd.outs / "binned_outputs", pitch_um=64, mpp=2.0).attrs["hisdiff_sd"]
    assert (attrs["slide"], attrs["mpp"], attrs["mpp_source"]) == ("H1", 2.0, "given")


@pytest.fixture
def refused(visium_hd, snapshot):
    def check(*words, error=HisDiffError, **options):
        before = snapshot(visium_hd.outs.parents[1])
        with pytest.raises(error) as caught:
            read(visium_hd, **options)
        message = str(caught.value)
        assert not [w for w in words if w not in message], message
        assert "\n" not in message
        assert snapshot(visium_hd.outs.parents[1]) == before

    return check


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pitch_um": 100}, ("pitch_um=100", "8, 16 um", "the nearest that is: 96, 96")),
        ({"pitch_um": 8, "bin_um": 16}, ("pitch_um=8", "bin_um=16", "nearest that is: 16")),
        ({"pitch_um": 0}, ("pitch_um=0",)),
        ({"pitch_um": float("nan")}, ("pitch_um=nan",)),
        ({"pitch_um": 8000}, ("half under tissue", "smaller pitch_um=")),
        ({"mpp": -1.0}, ("mpp=-1.0",)),
    ],
)
def test_sizes_that_cannot_be(refused, options, words):
    refused(*words, **options)


def test_what_is_missing_is_named(refused, visium_hd, tmp_path):
    refused("bin_um=2", "8, 16", bin_um=2, error=MissingFileError)
    refused("nowhere", path=tmp_path / "nowhere", error=MissingFileError)
    refused("no.tif", "full-resolution", image=tmp_path / "no.tif", error=MissingFileError)
    refused("square_<um>um", "section.btf", path=tmp_path, error=MissingFileError)
    (visium_hd.outs / "binned_outputs/square_016um/spatial/tissue_positions.parquet").unlink()
    refused("tissue_positions.parquet", "square_016um", error=MissingFileError)


@pytest.mark.parametrize("content", [b"", b"PAR1 no", b"{}", b"[" * 100_000, b'{"microns_per_pixel": "x"}'])
@pytest.mark.parametrize("name", ["tissue_positions.parquet", "scalefactors_json.json"])
def test_damaged_files(refused, visium_hd, name, content):
    (visium_hd.outs / "binned_outputs/square_016um/spatial" / name).write_bytes(content)
    refused(name)


def test_bins_without_a_position(refused, visium_hd):
    path = visium_hd.outs / "binned_outputs/square_016um/spatial/tissue_positions.parquet"
    frame = pd.read_parquet(path)
    whole = frame.set_index("barcode")
    frame[frame["barcode"] != "s_016um_00000_00000-1"].to_parquet(path, index=False)
    refused("1 of 480 barcodes have no position", "s_016um_00000_00000-1")
    frame.assign(pxl_row_in_fullres=np.nan).to_parquet(path, index=False)
    refused("without a position")
    pd.concat([frame, frame[:1]]).to_parquet(path, index=False)
    refused("occur twice")
    whole.assign(pxl_col_in_fullres=whole["pxl_col_in_fullres"] + 5000).reset_index().to_parquet(path, index=False)
    refused("outside the image")


def test_bins_that_this_package_has_pooled_are_not_suspect(visium_hd):
    findings = {f.name: f for f in hd.io.qc(read(visium_hd, pitch_um=24)).findings}
    assert findings["totals"].level == "ok"
    assert findings["spot pitch"].level == "ok"  # as the files say where the bins lie
