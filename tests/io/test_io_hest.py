"""What `hd.io.hest` makes of a slide of HEST-1k."""

from __future__ import annotations

import json
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.sparse import issparse
from spatialdata import SpatialData, transform
from spatialdata.transformations import get_transformation

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning


@pytest.fixture(scope="module")
def slide(hest_root) -> SpatialData:
    return hd.io.hest(hest_root, "S1")


@pytest.fixture(scope="module")
def source(hest_root) -> ad.AnnData:
    return ad.read_h5ad(hest_root / "st" / "S1.h5ad")


def test_the_elements_are_those_of_the_layout(slide):
    assert set(slide.images) == {"he"}
    assert set(slide.shapes) == {"spots"}
    assert set(slide.tables) == {"table"}
    assert set(slide.coordinate_systems) == {"global", "microns"}


def test_the_image_holds_the_pixels_of_the_file(slide, hest_root):
    pixels = tifffile.imread(hest_root / "wsis" / "S1.tif", series=0, level=0)
    height, width = slide.attrs["hisdiff_sd"]["true_size"]
    image = slide["he"]["scale0"].image
    assert (height, width) == pixels.shape[:2] == (1182, 1364)
    assert image.dtype == np.uint8
    assert image.dims == ("c", "y", "x")
    assert np.array_equal(image.to_numpy()[:, :height, :width].transpose(1, 2, 0), pixels)


def test_spots_and_table_are_indexed_by_barcode(slide, source):
    spots, table = slide["spots"], slide["table"]
    assert list(spots.index) == list(source.obs_names)
    assert list(table.obs["instance_id"]) == list(source.obs_names)
    assert set(table.obs["region"]) == {"spots"}
    assert isinstance(table.obs["region"].dtype, pd.CategoricalDtype)
    assert table.obs["instance_id"].dtype == spots.index.dtype
    np.testing.assert_array_equal(np.column_stack([spots.geometry.x, spots.geometry.y]), source.obsm["spatial"])
    np.testing.assert_allclose(spots["radius"], 50 / 1.1)


def test_the_counts_are_the_raw_ones(slide, source):
    table = slide["table"]
    assert issparse(table.X)
    assert table.X.dtype == np.float32
    np.testing.assert_array_equal(table.X.toarray(), source.X.toarray())
    assert list(table.var_names) == list(source.var_names)
    assert not table.var["control"].any()


@pytest.mark.parametrize("element", ["he", "spots"])
def test_global_is_level_0_and_microns_are_microns(slide, element):
    transformations = get_transformation(slide[element], get_all=True)
    assert np.array_equal(transformations["global"].to_affine_matrix(("x", "y"), ("x", "y")), np.eye(3))
    microns = transformations["microns"].to_affine_matrix(("x", "y"), ("x", "y"))
    assert np.array_equal(microns, np.diag([1.1, 1.1, 1.0]))


def test_spots_in_microns_lie_at_the_pitch_of_the_technology(slide):
    spots = transform(slide["spots"], to_coordinate_system="microns")
    xy = np.column_stack([spots.geometry.x, spots.geometry.y])
    apart = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1))
    assert np.median(np.sort(apart, axis=1)[:, 1]) == pytest.approx(200, rel=0.05)
    np.testing.assert_allclose(spots["radius"], 50)


def test_the_attributes_say_what_is_known_of_the_slide_and_are_plain(slide, hest_root):
    attrs = slide.attrs["hisdiff_sd"]
    assert json.loads(json.dumps(slide.attrs)) == slide.attrs
    expected = {
        "schema": 1,
        "slide": "S1",
        "patient": "A",
        "species": "Homo sapiens",
        "organ": "Breast",
        "technology": "Spatial Transcriptomics",
        "mpp": 1.1,
        "mpp_source": "pixel_size_um_estimated",
        "spot_diameter_um": 100.0,
        "spot_pitch_um": 200.0,
    }
    assert {k: attrs[k] for k in expected} == expected
    assert attrs["source"] == {"image": "S1.tif", "image_bytes": (hest_root / "wsis" / "S1.tif").stat().st_size}
    assert attrs["qc"]["integer_counts"]
    assert attrs["qc"]["duplicated_genes"] == []
    assert attrs["qc"]["measured_pitch_um"] == pytest.approx(200, rel=0.05)


def test_squidpy_finds_the_image_and_its_scale(slide):
    table = slide["table"]
    (library,) = table.uns["spatial"].values()
    image = library["images"]["hires"]
    factors = library["scalefactors"]
    assert image.shape == (867, 1000, 3)
    assert image.dtype == np.uint8
    assert factors["tissue_hires_scalef"] == pytest.approx(1000 / 1364)
    assert factors["spot_diameter_fullres"] == pytest.approx(100 / 1.1)
    # the small image is the slide: its pixels are means of those they stand for
    pixels = slide["he"]["scale0"].image.to_numpy()[:, :1182, :1364].mean(0)
    rows, columns = (np.arange(867) * 1182 // 867, np.arange(1000) * 1364 // 1000)
    assert np.corrcoef(image.mean(2).ravel(), pixels[np.ix_(rows, columns)].ravel())[0, 1] > 0.9
    spots = slide["spots"].loc[table.obs["instance_id"]]
    np.testing.assert_array_equal(table.obsm["spatial"], np.column_stack([spots.geometry.x, spots.geometry.y]))


def test_squidpy_draws_the_slide(slide):
    import matplotlib as mpl
    import squidpy as sq

    mpl.use("Agg")
    gene = slide["table"].var_names[0]
    axes = sq.pl.spatial_scatter(slide["table"], color=gene, return_ax=True)
    assert axes.images  # the H&E
    # each spot is drawn on the pixel of the image that it lies on
    boxes = [path.get_extents() for path in axes.collections[0].get_paths()]
    centres = [((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) for box in boxes]
    np.testing.assert_allclose(centres, slide["table"].obsm["spatial"] * 1000 / 1364, atol=0.5)
    np.testing.assert_allclose([box.width for box in boxes], 100 / 1.1 * 1000 / 1364, rtol=0.01)
    mpl.pyplot.close("all")


def test_the_estimated_pixel_size_is_trusted_whatever_others_say(root, edit_metadata):
    edit_metadata(pixel_size_um_embedded=10.0, magnification="40x")
    tag = tifffile.TiffFile(root / "wsis" / "T1.tif").pages[0].tags["XResolution"].value
    assert 1e4 * tag[1] / tag[0] == pytest.approx(1.0)
    edit_metadata(pixel_size_um_estimated=1.05)
    attrs = hd.io.hest(root, "T1").attrs["hisdiff_sd"]
    assert (attrs["mpp"], attrs["mpp_source"]) == (1.05, "pixel_size_um_estimated")


def test_a_given_pixel_size_overrides_and_is_recorded(root, edit_metadata):
    edit_metadata(pixel_size_um_estimated=None)
    slide = hd.io.hest(root, "T1", mpp=0.98)
    attrs = slide.attrs["hisdiff_sd"]
    assert (attrs["mpp"], attrs["mpp_source"]) == (0.98, "given")
    assert get_transformation(slide["spots"], "microns").to_affine_matrix(("x",), ("x",))[0, 0] == 0.98
    assert json.loads(json.dumps(hd.io.hest(root, "T1", mpp=np.float32(1.0)).attrs))["hisdiff_sd"]["mpp"] == 1


def test_a_pixel_size_that_does_not_fit_the_spots_is_reported(root):
    with pytest.warns(HisDiffWarning, match=r"100 um apart at 0.5 um per px \(given\), 200 um are declared"):
        hd.io.hest(root, "T1", mpp=0.5)


def test_a_slide_as_it_should_be_gives_no_warning(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error", HisDiffWarning)
        hd.io.hest(root, "T1")


def test_a_visium_slide_is_read_as_well(tmp_path):
    out = tmp_path / "hest"
    hd.datasets.synthetic(
        out, slides=["V1"], technology="Visium", size_um=(1000.0, 800.0), mpp=0.9, n_genes=12, compression="deflate"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", HisDiffWarning)
        slide = hd.io.hest(out, "V1")
    attrs = slide.attrs["hisdiff_sd"]
    assert (attrs["technology"], attrs["spot_diameter_um"], attrs["spot_pitch_um"]) == ("Visium", 55.0, 100.0)
    assert attrs["qc"]["measured_pitch_um"] == pytest.approx(100, rel=0.05)
    np.testing.assert_allclose(slide["spots"]["radius"], 27.5 / 0.9)


def test_blank_geometry_falls_back_on_the_technology(root, edit_metadata):
    edit_metadata(spot_diameter=None, inter_spot_dist=float("nan"))
    attrs = hd.io.hest(root, "T1").attrs["hisdiff_sd"]
    assert (attrs["spot_diameter_um"], attrs["spot_pitch_um"]) == (100.0, 200.0)


def test_declared_geometry_is_used(root, edit_metadata):
    edit_metadata(spot_diameter=150.0)
    np.testing.assert_allclose(hd.io.hest(root, "T1")["spots"]["radius"], 75.0)


@pytest.mark.parametrize("gone", ["metadata/T1.json", "HEST_v1_1_0.csv"])
def test_metadata_come_from_the_json_file_or_the_table(root, gone):
    whole = hd.io.hest(root, "T1").attrs
    (root / gone).unlink()
    assert hd.io.hest(root, "T1").attrs == whole


def test_blank_and_nan_entries_are_left_out(root, edit_metadata):
    edit_metadata(patient="", organ=float("nan"), species=None)
    attrs = hd.io.hest(root, "T1").attrs["hisdiff_sd"]
    assert (attrs["patient"], attrs["organ"], attrs["species"]) == ("", "", "")
    json.dumps(attrs, allow_nan=False)


def test_the_order_of_the_counts_is_kept_and_joined_to_the_spots(root, edit_counts):
    before = hd.io.hest(root, "T1")
    edit_counts(lambda table: table[np.random.default_rng(2).permutation(table.n_obs)].copy())
    after = hd.io.hest(root, "T1")
    assert list(after["spots"].index) != list(before["spots"].index)
    assert list(after["table"].obs["instance_id"]) == list(after["spots"].index)
    xy = after["spots"].loc[before["spots"].index]
    assert (xy.geometry == before["spots"].geometry).all()
    again = after["table"][before["table"].obs_names]
    np.testing.assert_array_equal(again.X.toarray(), before["table"].X.toarray())


def test_duplicated_genes_are_summed_and_reported(root, edit_counts):
    before = hd.io.hest(root, "T1")["table"].to_df()

    def rename(table):
        names = list(table.var_names)
        table.var_names = [*names[:9], names[0], names[1], names[0]]

    edit_counts(rename)
    names = list(before.columns)
    slide = hd.io.hest(root, "T1")
    (finding,) = [f for f in hd.io.qc(slide).of("note") if f.name == "duplicated genes"]
    assert finding.value == f"2 ({', '.join(sorted(names[:2]))}), their counts were summed"
    assert slide.attrs["hisdiff_sd"]["qc"]["duplicated_genes"] == sorted(names[:2])
    table = slide["table"].to_df()
    assert list(table.columns) == names[:9]
    np.testing.assert_array_equal(table[names[0]], before[[names[0], names[9], names[11]]].sum(axis=1))
    np.testing.assert_array_equal(table[names[1]], before[[names[1], names[10]]].sum(axis=1))
    np.testing.assert_array_equal(table[names[2:9]], before[names[2:9]])


def test_control_probes_are_dropped_or_kept_and_ensembl_ids_recognised(root, edit_counts):
    def rename(table):
        table.var_names = ["BLANK_0001", "NegControlProbe_1", *(f"ENSG{i:011d}" for i in range(10))]

    edit_counts(rename)
    slide = hd.io.hest(root, "T1")
    assert list(slide["table"].var_names) == [f"ENSG{i:011d}" for i in range(10)]
    assert slide.attrs["hisdiff_sd"]["qc"]["gene_id_type"] == "ensembl"
    slide = hd.io.hest(root, "T1", control_probes=True)
    assert slide["table"].var["control"].tolist() == [True, True] + [False] * 10
    assert slide.attrs["hisdiff_sd"]["qc"]["gene_id_type"] == "ensembl"


def test_counts_that_are_not_whole_numbers_are_reported(root, edit_counts):
    def normalise(table):
        table.X = table.X.astype(np.float32) * 0.37

    edit_counts(normalise)
    with pytest.warns(HisDiffWarning, match="not whole numbers") as caught:
        slide = hd.io.hest(root, "T1")
    # one warning, where the user called
    assert [w.filename for w in caught if issubclass(w.category, UserWarning)] == [__file__]
    assert slide.attrs["hisdiff_sd"]["qc"]["integer_counts"] is False


def test_dense_integer_counts_are_read(root, edit_counts):
    before = hd.io.hest(root, "T1")["table"].X.toarray()

    def densify(table):
        table.X = table.X.toarray().astype(np.uint16)

    edit_counts(densify)
    table = hd.io.hest(root, "T1")["table"]
    assert issparse(table.X)
    np.testing.assert_array_equal(table.X.toarray(), before)


def test_a_few_spots_outside_the_image_are_dropped_and_reported(make_slide):
    root = make_slide(np.full((1000, 1000, 3), 200, np.uint8))
    path = root / "st" / "M1.h5ad"
    table = ad.read_h5ad(path)
    table.obsm["spatial"][4] = [500.0, 1000.0]  # rows end at 999
    table.write_h5ad(path)
    with pytest.warns(HisDiffWarning, match="1 spots outside the image were dropped.*004x001"):
        slide = hd.io.hest(root, "M1")
    assert "004x001" not in slide["spots"].index
    assert slide["table"].n_obs == len(slide["spots"]) == 24
    assert slide.attrs["hisdiff_sd"]["qc"]["spots_outside_image"] == 1


def test_many_spots_outside_the_image_are_another_slide(root, edit_counts):
    def move(table):
        table.obsm["spatial"] = table.obsm["spatial"] * 3

    edit_counts(move)
    with pytest.raises(HisDiffError, match=r"spots of .*T1\.h5ad lie outside the image .*T1\.tif .*different slides"):
        hd.io.hest(root, "T1")
