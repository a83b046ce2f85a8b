"""The folder that `synthetic` writes has the layout and types of HEST-1k."""

from __future__ import annotations

import itertools
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy.sparse import issparse

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.datasets import _files

SLIDES = ("S1", "S2", "S3")
TINY = {"size_um": (700.0, 600.0), "mpp": 1.0, "n_genes": 14}


@pytest.fixture(scope="module")
def visium_root(tmp_path_factory):
    out = tmp_path_factory.mktemp("visium") / "hest"
    return hd.datasets.synthetic(
        out, slides=["V1"], technology="Visium", size_um=(1100.0, 900.0), mpp=0.9, n_genes=20, compression="deflate"
    )


def read_metadata(root, name):
    return json.loads((root / "metadata" / f"{name}.json").read_text(encoding="utf-8"))


def files_in(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_every_file_is_there(hest_root):
    expected = ["HEST_v1_1_0.csv"]
    for name in SLIDES:
        expected += [
            f"wsis/{name}.tif",
            f"st/{name}.h5ad",
            f"metadata/{name}.json",
            f"truth/{name}.h5ad",
            f"truth/{name}_map.h5ad",
        ]
        expected += [f"thumbnails/{name}_downscaled_fullres.jpeg"]
    assert files_in(hest_root) == sorted(expected)


@pytest.mark.parametrize("name", SLIDES)
def test_the_image_is_a_tiled_pyramid_of_halves(hest_root, name):
    meta = read_metadata(hest_root, name)
    with tifffile.TiffFile(hest_root / "wsis" / f"{name}.tif") as tiff:
        shapes = [level.shape for level in tiff.series[0].levels]
        assert len(tiff.series) == 1
        assert all(page.tile == (256, 256) and page.compression == 7 for page in tiff.pages)
        pixels_per_cm = tiff.pages[0].tags["XResolution"].value
        assert (tiff.pages[0].photometric, tiff.pages[0].tags["YCbCrSubSampling"].value) == (6, (2, 2))
    assert shapes[0] == (meta["fullres_px_height"], meta["fullres_px_width"], 3) == (1182, 1364, 3)
    assert shapes[1:] == [(591, 682, 3), (295, 341, 3)]
    assert 1e4 * pixels_per_cm[1] / pixels_per_cm[0] == pytest.approx(1.1)


def test_every_level_is_the_mean_of_the_one_before(visium_root):
    with tifffile.TiffFile(visium_root / "wsis" / "V1.tif") as tiff:  # deflate: nothing is lost
        levels = [level.asarray().astype(float) for level in tiff.series[0].levels]
    assert len(levels) == 3
    for fine, coarse in itertools.pairwise(levels):
        height, width = coarse.shape[:2]
        mean = fine[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
        assert np.abs(mean - coarse).max() <= 1


@pytest.mark.parametrize("name", SLIDES)
def test_the_table_of_counts_has_the_fields_of_hest(hest_root, name):
    adata, meta = ad.read_h5ad(hest_root / "st" / f"{name}.h5ad"), read_metadata(hest_root, name)
    assert issparse(adata.X)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert list(adata.obs) == ["in_tissue", "pxl_col_in_fullres", "pxl_row_in_fullres", "array_row", "array_col"]
    assert [dtype.kind for dtype in adata.obs.dtypes] == ["i", "f", "f", "i", "i"]
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    xy = adata.obsm["spatial"]
    np.testing.assert_array_equal(xy, adata.obs[["pxl_col_in_fullres", "pxl_row_in_fullres"]])
    assert xy.dtype == np.float64
    assert (xy >= 0).all()
    assert (xy < [meta["fullres_px_width"], meta["fullres_px_height"]]).all()
    assert adata.shape == (meta["spots_under_tissue"], meta["nb_genes"])


def test_counts_are_raw(hest_root):
    for name in SLIDES:
        counts = ad.read_h5ad(hest_root / "st" / f"{name}.h5ad").X.toarray()
        assert (counts >= 0).all()
        assert (counts == np.round(counts)).all()
        assert (counts == 0).any()
        assert counts.sum(axis=1).min() > 0


def test_thumbnail_is_the_slide_made_small(hest_root):
    for name in SLIDES:
        uns = ad.read_h5ad(hest_root / "st" / f"{name}.h5ad").uns["spatial"]["ST"]
        small = np.asarray(Image.open(hest_root / "thumbnails" / f"{name}_downscaled_fullres.jpeg"))
        inside = uns["images"]["downscaled_fullres"]
        assert max(small.shape) == 1000
        assert small.shape == inside.shape
        full = Image.fromarray(tifffile.imread(hest_root / "wsis" / f"{name}.tif"))
        again = np.asarray(full.resize((small.shape[1], small.shape[0]), Image.Resampling.BOX))
        for image in (small, inside):
            assert np.abs(image.astype(float) - again).mean() < 6
            assert np.abs(image[::-1].astype(float) - again).mean() > 20  # a wrong image would be seen
        scale = uns["scalefactors"]["tissue_downscaled_fullres_scalef"]
        assert scale == pytest.approx(1000 / full.size[0])


def test_metadata_and_table_say_the_same(hest_root):
    table = hest_root / "HEST_v1_1_0.csv"
    assert table.read_bytes().startswith(b"\xef\xbb\xbf")
    rows = pd.read_csv(table).set_index("id")
    assert list(rows.index) == list(SLIDES)
    assert rows["patient"].tolist() == ["A", "A", "B"]
    for name in SLIDES:
        meta = read_metadata(hest_root, name)
        assert meta["image_filename"] == f"{name}.tif"
        for key in ("patient", "st_technology", "pixel_size_um_estimated", "fullres_px_width", "spots_under_tissue"):
            assert rows.loc[name, key] == meta[key]
        assert meta["pixel_size_um_embedded"] is None


def test_spatial_transcriptomics_spots_lie_on_a_square_grid(hest_root):
    for name in SLIDES:
        adata, meta = ad.read_h5ad(hest_root / "st" / f"{name}.h5ad"), read_metadata(hest_root, name)
        mpp = meta["pixel_size_um_estimated"]
        assert (meta["st_technology"], meta["inter_spot_dist"]) == ("Spatial Transcriptomics", 200.0)
        grid = adata.obs[["array_col", "array_row"]].to_numpy()
        xy = adata.obsm["spatial"]
        np.testing.assert_allclose(xy - xy[0], (grid - grid[0]) * 200 / mpp, atol=1e-6)
        assert adata.obs_names[0] == f"{grid[0][0]:03d}x{grid[0][1]:03d}"
        scalefactors = adata.uns["spatial"]["ST"]["scalefactors"]
        assert scalefactors["spot_diameter_fullres"] == pytest.approx(meta["spot_diameter"] / mpp)


def test_visium_spots_lie_on_a_hexagonal_grid(visium_root):
    adata, meta = ad.read_h5ad(visium_root / "st" / "V1.h5ad"), read_metadata(visium_root, "V1")
    mpp = meta["pixel_size_um_estimated"]
    assert (meta["st_technology"], meta["inter_spot_dist"], meta["spot_diameter"]) == ("Visium", 100.0, 55.0)
    xy_um = adata.obsm["spatial"] * mpp
    distance = np.linalg.norm(xy_um[:, None] - xy_um, axis=-1)
    neighbours = np.isclose(distance, 100.0, atol=1e-6)
    assert distance[distance > 1].min() == pytest.approx(100.0)
    assert neighbours.sum(axis=1).max() == 6
    row, col = adata.obs["array_row"].to_numpy(), adata.obs["array_col"].to_numpy()
    assert ((row + col) % 2 == 0).all()
    np.testing.assert_allclose(xy_um[:, 0] - xy_um[0, 0], (col - col[0]) * 50.0, atol=1e-6)
    assert adata.obs_names.str.fullmatch("[ACGT]{16}-1").all()


@pytest.mark.parametrize(("technology", "side"), [("Visium HD", 128.0), ("Xenium", 100.0)])
def test_bins_are_squares_without_gaps(tmp_path, technology, side):
    root = hd.datasets.synthetic(tmp_path / "bins", slides=["B1"], technology=technology, **TINY)
    adata = ad.read_h5ad(root / "st" / "B1.h5ad")
    at, xy = adata.obs[["array_col", "array_row"]].to_numpy(), adata.obsm["spatial"]
    np.testing.assert_allclose(xy - xy[0], (at - at[0]) * side, atol=1e-6)
    assert list(adata.obs_names) == [f"{row:03d}x{column:03d}" for column, row in at]
    assert [path.name for path in root.iterdir() if path.is_dir()].count("patches") == 0


def test_further_folders_hold_what_the_section_was_drawn_from(tmp_path):
    import geopandas
    import h5py
    import shapely

    options = {**TINY, "technology": "Xenium", "slides": ["X1"]}
    root = hd.datasets.synthetic(tmp_path / "all", extras=True, **options)
    plain = hd.datasets.synthetic(tmp_path / "plain", **options)
    assert files_in(plain) == [f for f in files_in(root) if f.split("/")[0] not in _files.EXTRA_FOLDERS]
    assert all((root / f).read_bytes() == (plain / f).read_bytes() for f in files_in(plain) if not f.endswith("h5ad"))
    counts = ad.read_h5ad(root / "st" / "X1.h5ad")
    pixels = tifffile.imread(root / "wsis" / "X1.tif", level=0)

    # nuclei are where the image is dark, tissue is where it is not white
    nuclei = geopandas.read_parquet(root / "xenium_seg" / "X1_xenium_nucleus_seg.parquet")
    x, y = shapely.get_coordinates(nuclei.centroid.to_numpy()).astype(int).T
    assert pixels[y, x].mean() < pixels.mean() - 30
    tissue = shapely.from_geojson((root / "tissue_seg" / "X1_contours.geojson").read_text())
    rows, columns = (a.ravel() for a in np.mgrid[5 : pixels.shape[0] : 10, 5 : pixels.shape[1] : 10])
    on_it = shapely.contains_xy(tissue, columns + 0.5, rows + 0.5)
    white = pixels[rows, columns].min(axis=1) > 225
    assert white[~on_it].mean() > 0.98
    assert white[on_it].mean() < 0.4  # lumina and fat

    # counts are sums of transcripts
    found = pd.read_parquet(root / "transcripts" / "X1_transcripts.parquet")
    assert found["feature_name"].value_counts().rename(bytes.decode).to_dict() == {
        gene: n for gene, n in zip(counts.var_names, counts.X.sum(axis=0).A1, strict=True) if n
    }
    # a patch is what the image shows around its spot
    with h5py.File(root / "patches" / "X1.h5") as file:
        images, corners, names = file["img"][:], file["coords"][:], [b.decode() for b in file["barcode"][:, 0]]
    xy = counts.obsm["spatial"][counts.obs_names.get_indexer(names)]
    assert np.abs(corners + 56 - xy).max() <= 1
    assert len(names) == int(0.9 * counts.n_obs)
    assert names != sorted(names)
    for image, (left, top) in zip(images, corners, strict=True):
        here = pixels[top : top + 112, left : left + 112]
        assert here.shape == (112, 112, 3)
        assert np.abs(image[::2, ::2].astype(float) - here).mean() < 12

    hd.datasets.synthetic(tmp_path / "all", overwrite=True, **options)
    assert files_in(root) == files_in(plain)


def test_the_fields_are_those_of_a_real_slide(hest_root, real_hest):
    real_path = sorted((real_hest / "st").glob("*.h5ad"))[0]
    real, mine = ad.read_h5ad(real_path), ad.read_h5ad(hest_root / "st" / "S1.h5ad")
    assert dict(mine.obs.dtypes) == dict(real.obs.dtypes)
    assert (type(mine.X), mine.X.dtype) == (type(real.X), real.X.dtype)
    assert (set(mine.obsm), list(mine.var), mine.var_names.dtype) == (
        set(real.obsm),
        list(real.var),
        real.var_names.dtype,
    )
    real_uns, my_uns = real.uns["spatial"]["ST"], mine.uns["spatial"]["ST"]
    assert {key: set(value) for key, value in my_uns.items()} == {key: set(value) for key, value in real_uns.items()}
    theirs = json.loads((real_hest / "metadata" / f"{real_path.stem}.json").read_text())
    assert {key: type(value) for key, value in read_metadata(hest_root, "S1").items()} == {
        key: type(value) for key, value in theirs.items()
    }
    tables = [pd.read_csv(root / "HEST_v1_1_0.csv", encoding="utf-8-sig") for root in (hest_root, real_hest)]
    assert list(tables[0]) == list(tables[1])


def test_same_seed_same_files_and_slides_do_not_depend_on_each_other(tmp_path):
    both = hd.datasets.synthetic(tmp_path / "both", slides=["S1", "S2"], seed=3, **TINY)
    one = hd.datasets.synthetic(tmp_path / "one", slides=["S2"], seed=3, **TINY)
    assert (both / "wsis" / "S2.tif").read_bytes() == (one / "wsis" / "S2.tif").read_bytes()
    assert (both / "metadata" / "S2.json").read_bytes() == (one / "metadata" / "S2.json").read_bytes()
    tables = [ad.read_h5ad(root / "st" / "S2.h5ad") for root in (both, one)]
    np.testing.assert_array_equal(tables[0].X.toarray(), tables[1].X.toarray())
    pd.testing.assert_frame_equal(tables[0].obs, tables[1].obs)


def test_seeds_and_slides_differ(tmp_path):
    images = []
    for seed in (0, 1):
        root = hd.datasets.synthetic(tmp_path / str(seed), slides=["S1", "S2"], seed=seed, **TINY)
        images += [tifffile.imread(path).astype(float) for path in sorted((root / "wsis").iterdir())]
    for i, image in enumerate(images):
        for other in images[i + 1 :]:
            assert np.abs(image - other).mean() > 10


def test_a_folder_in_use_is_only_overwritten_if_it_is_synthetic_and_asked_for(tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "HEST_v1_1_0.csv").write_text("mine")
    with pytest.raises(HisDiffError, match="not synthetic slides"):
        hd.datasets.synthetic(foreign, slides=["S1"], overwrite=True, **TINY)
    assert files_in(foreign) == ["HEST_v1_1_0.csv"]

    root = hd.datasets.synthetic(tmp_path / "root", slides=["S1"], **TINY)
    (root / "notes.txt").write_text("mine")
    with pytest.raises(HisDiffError, match="overwrite=True"):
        hd.datasets.synthetic(root, slides=["S2"], **TINY)
    hd.datasets.synthetic(root, slides=["S2"], overwrite=True, **TINY)
    assert (root / "notes.txt").read_text() == "mine"
    assert [path.name for path in (root / "wsis").iterdir()] == ["S2.tif"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"technology": "visium"}, "Did you mean 'Visium'"),
        ({"compression": "lzw"}, "'jpeg', 'deflate'"),
        ({"slides": []}, "at least one"),
        ({"slides": ["S1", "S1"]}, "different ids"),
        ({"slides": "S1"}, "list of different ids"),
        ({"slides": ["a/b"]}, "'a/b'"),
        ({"mpp": 0.0}, "mpp=0.0"),
        ({"n_genes": 6}, "n_genes=6; 7 or more"),
        ({"size_um": (100.0, 900.0)}, "at least 300 um"),
        ({"size_um": (90_000.0, 900.0)}, "at most 40,000 px"),
        ({"slides_per_patient": 0}, "slides_per_patient=0"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(HisDiffError, match=message):
        hd.datasets.synthetic(tmp_path / "out", **(TINY | options))
    assert not (tmp_path / "out").exists()


def test_truth_of_a_slide_that_is_not_there(hest_root):
    with pytest.raises(MissingFileError, match=r"'S9'.*S1, S2, S3"):
        hd.datasets.synthetic_truth(hest_root, "S9")
