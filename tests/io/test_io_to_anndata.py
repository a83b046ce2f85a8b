"""A table as a plain AnnData: what squidpy draws from, and the measured counts beside the prediction."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl
import numpy as np
import pytest
import squidpy as sq

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError


@pytest.fixture
def exported(predicted):
    return hd.io.to_anndata(predicted)


def without_counts(predicted):
    sdata = predicted.subset(["spots", "hisdiff"])
    sdata.attrs = predicted.attrs
    del sdata.tables["table"]
    return sdata


def test_counts_are_those_of_the_spots(predicted, exported):
    table = predicted["table"]
    for spot in (exported.obs_names[0], exported.obs_names[-1]):
        for gene in exported.var_names:
            assert exported[spot, gene].layers["counts"][0, 0] == table[spot, gene].X.toarray()[0, 0]
    np.testing.assert_array_equal(exported.X, predicted["hisdiff"].X)


def test_what_was_not_measured_is_nan(predicted, exported):
    names = list(exported.obs_names)
    fewer = predicted["table"][names[5:], list(exported.var_names[1:])].copy()[::-1].copy()
    sdata = without_counts(predicted)
    sdata["table"] = fewer
    counts = hd.io.to_anndata(sdata).layers["counts"]
    assert np.isnan(counts[:5]).all()
    assert np.isnan(counts[:, 0]).all()
    np.testing.assert_array_equal(counts[5:, 1:], exported.layers["counts"][5:, 1:])


def test_the_slide_is_not_changed(predicted, exported):
    exported.X[:] = 0
    exported.obs["new"] = 1
    assert "counts" not in predicted["hisdiff"].layers
    assert "library_id" not in predicted["hisdiff"].obs
    assert "spatialdata_attrs" in predicted["hisdiff"].uns
    assert (np.asarray(predicted["hisdiff"].X) > 0).any()


def test_without_counts_there_is_no_layer_of_them(predicted):
    sdata = without_counts(predicted)
    assert "counts" not in hd.io.to_anndata(sdata).layers


def test_half_precision_is_widened(predicted):
    sdata = without_counts(predicted)
    table = predicted["hisdiff"].copy()
    table.layers["std"] = table.layers["std"].astype(np.float16)
    sdata["hisdiff"] = table
    assert hd.io.to_anndata(sdata).layers["std"].dtype == np.float32


def test_squidpy_finds_what_it_looks_for_in_the_file(exported, tmp_path):
    exported.write_h5ad(tmp_path / "S3.h5ad")
    read = ad.read_h5ad(tmp_path / "S3.h5ad")
    (library,) = read.uns["spatial"]
    assert read.obs["library_id"].unique().tolist() == [library] == ["S3"]
    assert {"tissue_hires_scalef", "spot_diameter_fullres"} <= set(read.uns["spatial"][library]["scalefactors"])
    scale = read.uns["spatial"][library]["scalefactors"]["tissue_hires_scalef"]
    height, width = read.uns["spatial"][library]["images"]["hires"].shape[:2]
    assert (read.obsm["spatial"] * scale <= [width, height]).all()
    sq.gr.spatial_neighbors(read, coord_type="grid", library_key="library_id")
    assert read.obsp["spatial_connectivities"].nnz > 0
    with mpl.rc_context({"backend": "agg"}):
        sq.pl.spatial_scatter(read, color=read.var_names[0])


def test_slides_are_concatenated(exported):
    other = exported.copy()
    other.obs["library_id"] = "S9"
    other.uns["spatial"] = {"S9": other.uns["spatial"]["S3"]}
    both = ad.concat([exported, other], uns_merge="unique", index_unique="-")
    assert set(both.uns["spatial"]) == {"S3", "S9"}
    assert both.layers["counts"].shape == (2 * exported.n_obs, exported.n_vars)


def test_a_table_that_is_not_there_is_refused(predicted):
    with pytest.raises(HisDiffError, match=r"no table 'hisdif'; there are: .*Did you mean 'hisdiff'"):
        hd.io.to_anndata(predicted, "hisdif")
