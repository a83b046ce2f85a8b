"""Tissue, cells, transcripts and patches of HEST-1k: where they are, where they are not, where they are damaged."""

from __future__ import annotations

import json
import zipfile

import dask.dataframe as dd
import geopandas
import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
from spatialdata.transformations import get_transformation

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning, MissingFileError


def collection(*polygons: shapely.Geometry, crs: bool = True) -> str:
    features = [
        {"type": "Feature", "properties": {"tissue_id": i}, "geometry": json.loads(shapely.to_geojson(p))}
        for i, p in enumerate(polygons)
    ]
    named = {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}} if crs else {}
    return json.dumps({"type": "FeatureCollection", **named, "features": features})


def microns_per_px(element) -> float:
    return get_transformation(element, "microns").to_affine_matrix(("x", "y"), ("x", "y"))[0, 0]


# tissue


def test_the_outlines_of_the_tissue_are_there_without_asking(copy_of):
    root = copy_of("Visium")
    holed = shapely.Polygon(shapely.box(100, 100, 500, 400).exterior, [shapely.box(200, 200, 300, 300).exterior])
    small = shapely.box(700, 600, 800, 700)
    path = root / "tissue_seg" / "S1_contours.geojson"
    path.write_text(collection(small, holed))
    tissue = hd.io.hest(root, "S1")["tissue"]
    assert tissue.crs is None
    assert tissue["tissue_id"].tolist() == [0, 1]
    assert shapely.equals(tissue.geometry.to_numpy(), [holed, small]).all()
    np.testing.assert_allclose(tissue["area_um2"], [110_000 * 0.64, 10_000 * 0.64])
    assert microns_per_px(tissue) == 0.8
    # the same as by hand
    slide = hd.io.hest(root, "S1", tissue=False)
    assert "tissue" not in slide.shapes
    hd.pp.tissue(slide, contours=path)
    assert slide["tissue"].equals(tissue)


def test_a_slide_without_outlines_is_a_slide(copy_of):
    root = copy_of("Visium")
    (root / "tissue_seg" / "S1_contours.geojson").unlink()
    assert "tissue" not in hd.io.hest(root, "S1").shapes
    (root / "tissue_seg").rmdir()
    slide = hd.io.hest(root, "S1")
    assert "tissue" not in slide.shapes
    hd.pp.tissue(slide)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('{"type": "Feat', "fetch the file again"),
        (collection(shapely.box(5000, 0, 6000, 9)), "no polygon on the image"),
    ],
)
def test_outlines_of_no_use_are_named_and_left_out(copy_of, content, word):
    root = copy_of("Visium")
    (root / "tissue_seg" / "S1_contours.geojson").write_text(content)
    with pytest.warns(HisDiffWarning, match=rf"S1_contours\.geojson .*{word}.*hd\.pp\.tissue") as caught:
        slide = hd.io.hest(root, "S1")
    assert [w.filename for w in caught if issubclass(w.category, HisDiffWarning)] == [__file__]
    assert "tissue" not in slide.shapes


# cells


def test_cells_are_read_when_asked_for(every_root):
    assert "cells" not in hd.io.hest(every_root["Visium"], "S1").shapes
    slide = hd.io.hest(every_root["Visium"], "S1", cells=True)
    cells = slide["cells"]
    source = geopandas.read_parquet(every_root["Visium"] / "cellvit_seg" / "S1_cellvit_seg.parquet")
    assert cells.geometry.geom_equals_exact(source.geometry, 1e-9).all()
    assert cells["class"].tolist() == source["class"].tolist()
    assert set(cells["class"]) == {"Neoplastic", "Connective", "Inflammatory"}
    assert microns_per_px(cells) == 0.8
    assert "nuclei" not in slide.shapes
    assert slide.attrs["hisdiff_sd"]["source"]["cells"] == "S1_cellvit_seg.parquet"


def test_a_crs_in_a_parquet_file_is_dropped(copy_of):
    root = copy_of("Visium")
    path = root / "cellvit_seg" / "S1_cellvit_seg.parquet"
    geopandas.read_parquet(path).set_crs("EPSG:4326").to_parquet(path)
    assert hd.io.hest(root, "S1", cells=True)["cells"].crs is None


def test_zipped_geojson_has_the_same_cells(copy_of):
    root = copy_of("Visium")
    before = hd.io.hest(root, "S1", cells="cellvit")["cells"]
    (root / "cellvit_seg" / "S1_cellvit_seg.parquet").unlink()
    after = hd.io.hest(root, "S1", cells="cellvit")["cells"]
    order = [cells.assign(at=cells.centroid.x).sort_values("at", kind="stable") for cells in (before, after)]
    assert order[0]["class"].tolist() == order[1]["class"].tolist()
    assert shapely.equals_exact(order[0].geometry.to_numpy(), order[1].geometry.to_numpy(), 1e-9, normalize=True).all()


def test_a_feature_per_cell_is_read_as_well(copy_of):
    root = copy_of("Visium")
    (root / "cellvit_seg" / "S1_cellvit_seg.parquet").unlink()
    content = json.loads(collection(shapely.box(1, 2, 11, 12), shapely.box(50, 60, 70, 80)))
    content["features"][1]["properties"] = {"class": "Dead"}
    with zipfile.ZipFile(root / "cellvit_seg" / "S1_cellvit_seg.geojson.zip", "w") as archive:
        archive.writestr("S1_cellvit_seg.geojson", json.dumps(content))
    cells = hd.io.hest(root, "S1", cells=True)["cells"]
    assert cells["class"].tolist() == ["", "Dead"]
    assert cells.geometry.area.tolist() == [100.0, 400.0]


def test_a_xenium_slide_has_its_own_cells_and_nuclei(every_root):
    slide = hd.io.hest(every_root["Xenium"], "S1", cells=True)
    cells, nuclei = slide["cells"], slide["nuclei"]
    assert list(cells.index) == list(nuclei.index)
    assert cells.index[0] == "cell-00000"
    assert cells.geometry.buffer(1e-6).contains(nuclei.geometry).all()
    assert slide.attrs["hisdiff_sd"]["source"]["nuclei"] == "S1_xenium_nucleus_seg.parquet"
    seen = hd.io.hest(every_root["Xenium"], "S1", cells="cellvit")
    assert "class" in seen["cells"]
    assert "nuclei" not in seen.shapes


def test_names_of_cells_that_are_bytes_become_text(copy_of):
    root = copy_of("Xenium")
    path = root / "xenium_seg" / "S1_xenium_cell_seg.parquet"
    frame = geopandas.read_parquet(path)
    frame.index = frame.index.map(str.encode)
    frame.rename_geometry("combined").to_parquet(path)
    (root / "xenium_seg" / "S1_xenium_nucleus_seg.parquet").unlink()
    slide = hd.io.hest(root, "S1", cells="xenium")
    assert slide["cells"].index[0] == "cell-00000"
    assert "nuclei" not in slide.shapes


def test_outlines_that_are_no_polygons_are_mended_or_left_out(copy_of):
    root = copy_of("Visium")
    bow_tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    cells = [shapely.box(20, 20, 30, 30), bow_tie, shapely.Polygon(), None, shapely.LineString([(0, 0), (1, 1)])]
    frame = geopandas.GeoDataFrame({"class": list("abcde"), "cell_id": range(5)}, geometry=cells)
    frame.to_parquet(root / "cellvit_seg" / "S1_cellvit_seg.parquet")
    found = hd.io.hest(root, "S1", cells=True)["cells"]
    assert found["class"].tolist() == ["a", "b"]
    assert found.geometry.is_valid.all()
    assert found.geometry.area.tolist() == [100.0, 50.0]


@pytest.mark.parametrize(
    ("technology", "cells", "words"),
    [
        ("Visium", "xenium", ["S1_xenium_cell_seg.parquet", "fetch"]),
        ("Visium", "nuclei", ["no segmentation 'nuclei'", "'xenium', 'cellvit'"]),
    ],
)
def test_a_segmentation_that_is_not_there(every_root, technology, cells, words):
    with pytest.raises(HisDiffError) as caught:
        hd.io.hest(every_root[technology], "S1", cells=cells)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("end", ["parquet", "geojson.zip"])
def test_a_damaged_segmentation(copy_of, end):
    root = copy_of("Visium")
    if end != "parquet":
        (root / "cellvit_seg" / "S1_cellvit_seg.parquet").unlink()
    path = root / "cellvit_seg" / f"S1_cellvit_seg.{end}"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(HisDiffError, match=rf"S1_cellvit_seg\.{end} .*outlines of cells .*fetch it again"):
        hd.io.hest(root, "S1", cells=True)
    hd.io.hest(root, "S1")


# transcripts


def test_transcripts_are_lazy_points_on_the_image(every_root, tmp_path):
    assert not hd.io.hest(every_root["Xenium"], "S1").points
    slide = hd.io.hest(every_root["Xenium"], "S1", transcripts=True)
    points = slide["transcripts"]
    assert isinstance(points, dd.DataFrame)
    source = pd.read_parquet(every_root["Xenium"] / "transcripts" / "S1_transcripts.parquet")
    assert isinstance(source["feature_name"].iloc[0], bytes)
    found = points.compute()
    assert list(found) == ["x", "y", "feature_name", "cell_id", "qv"]
    np.testing.assert_array_equal(found[["x", "y"]], source[["he_x", "he_y"]])
    assert found["feature_name"].tolist() == [name.decode() for name in source["feature_name"]]
    assert found["cell_id"].tolist() == source["cell_id"].tolist()
    assert set(points["feature_name"].cat.categories) <= set(slide["table"].var_names)
    assert microns_per_px(points) == 0.8
    back = hd.io.write(slide, tmp_path / "S1.zarr")
    assert isinstance(back["transcripts"], dd.DataFrame)
    stored = spatialdata.read_zarr(tmp_path / "S1.zarr")["transcripts"].compute()
    for column in found:
        assert stored[column].tolist() == found[column].tolist()


def test_names_of_genes_may_be_text_and_cells_unknown(copy_of):
    root = copy_of("Xenium")
    path = root / "transcripts" / "S1_transcripts.parquet"
    frame = pd.read_parquet(path)
    text = frame.assign(feature_name=[name.decode() for name in frame["feature_name"]]).drop(columns=["cell_id", "qv"])
    text.to_parquet(path)
    found = hd.io.hest(root, "S1", transcripts=True)["transcripts"].compute()
    assert list(found) == ["x", "y", "feature_name"]
    assert found["feature_name"].tolist() == text["feature_name"].tolist()


def test_only_xenium_has_transcripts(every_root):
    with pytest.raises(HisDiffError, match="technology 'Visium HD'; only Xenium slides have transcripts"):
        hd.io.hest(every_root["Visium HD"], "S1", transcripts=True)


def test_transcripts_that_are_missing_damaged_or_not_placed(copy_of):
    root = copy_of("Xenium")
    path = root / "transcripts" / "S1_transcripts.parquet"
    pd.read_parquet(path).drop(columns="he_x").to_parquet(path)
    with pytest.raises(HisDiffError, match=r"S1_transcripts\.parquet has no he_x: .*x_location"):
        hd.io.hest(root, "S1", transcripts=True)
    path.write_bytes(b"PAR1")
    with pytest.raises(HisDiffError, match=r"S1_transcripts\.parquet .*fetch it again"):
        hd.io.hest(root, "S1", transcripts=True)
    path.unlink()
    with pytest.raises(MissingFileError, match=r"S1_transcripts\.parquet is missing; fetch it"):
        hd.io.hest(root, "S1", transcripts=True)
    hd.io.hest(root, "S1")


# patches


def write_patches(root, *, px: int = 224, as_text: bool = False, move=0.0, rename: int = 0, last: int | None = None):
    """The patches of the slide's own spots, the last spot first; corners as HEST has them."""
    slide = hd.io.hest(root, "S1")
    xy, names = slide["table"].obsm["spatial"][::-1][:last], list(slide["table"].obs_names[::-1][:last])
    side = px * 0.5 / 0.8
    corners = (xy + move - side // 2).astype(int)
    names[:rename] = [f"other{i}" for i in range(rename)]
    with h5py.File(root / "patches" / "S1.h5", "w") as file:
        file.create_dataset("img", (len(names), px, px, 3), np.uint8)
        file["coords"] = corners
        column = np.array(names, "S")[:, None]
        file["barcode"] = column.astype(object) if as_text else column
    return slide


@pytest.mark.parametrize("px", [224, 256])
@pytest.mark.parametrize("as_text", [True, False])
def test_patches_are_joined_by_barcode(copy_of, recwarn, px, as_text):
    root = copy_of("Visium")
    n = write_patches(root, px=px, as_text=as_text, last=20)["table"].n_obs
    assert n > 20
    found = hd.io.hest(root, "S1").attrs["hisdiff_sd"]["qc"]["patches"]
    assert found.pop("median_off_um") < 1.2
    assert found == {"px": px, "compared": 20, "unknown": 0, "moved": 0}
    assert not [w for w in recwarn if issubclass(w.category, HisDiffWarning)]


def test_patches_of_a_slide_as_it_should_be_fit(every_root):
    for technology, root in every_root.items():
        found = hd.io.hest(root, "S1").attrs["hisdiff_sd"]["qc"]["patches"]
        n = hd.io.hest(root, "S1")["table"].n_obs
        assert (found["compared"], found["unknown"], found["moved"]) == (int(0.9 * n), 0, 0), technology


def test_patches_that_lie_elsewhere_are_reported(copy_of):
    root = copy_of("Visium")
    n = write_patches(root, move=[50.0, 0.0])["table"].n_obs
    with pytest.warns(
        HisDiffWarning, match=rf"{n} of {n} patches in .*S1\.h5 do not lie on their spots .* (39|40) um"
    ) as caught:
        found = hd.io.hest(root, "S1").attrs["hisdiff_sd"]["qc"]["patches"]
    assert [w.filename for w in caught if issubclass(w.category, HisDiffWarning)] == [__file__]
    assert found["moved"] == n


def test_patches_of_other_spots_are_reported(copy_of):
    root = copy_of("Visium")
    write_patches(root, rename=9)
    with pytest.warns(HisDiffWarning, match="9 of .* have a barcode that no spot has"):
        found = hd.io.hest(root, "S1").attrs["hisdiff_sd"]["qc"]["patches"]
    assert found["unknown"] == 9


@pytest.mark.parametrize("damage", ["cut", "no barcodes", "rows"])
def test_damaged_patches_cost_nothing_but_the_comparison(copy_of, damage):
    root = copy_of("Visium")
    path = root / "patches" / "S1.h5"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        with h5py.File(path, "r+") as file:
            kept = file["barcode"][:-1]
            del file["barcode"]
            if damage == "rows":
                file["barcode"] = kept
    with pytest.warns(HisDiffWarning, match=r"S1\.h5 cannot be read as patches"):
        assert "patches" not in hd.io.hest(root, "S1").attrs["hisdiff_sd"]["qc"]


def test_patches_that_lie_in_another_file_are_not_followed(copy_of, tmp_path):
    root = copy_of("Visium")
    write_patches(root)
    path = root / "patches" / "S1.h5"
    path.rename(tmp_path / "other.h5")
    with h5py.File(path, "w") as file:
        for name in ("img", "coords", "barcode"):
            file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), name)
    with pytest.warns(HisDiffWarning, match=r"S1\.h5 cannot be read as patches .* lies in another file"):
        assert "patches" not in hd.io.hest(root, "S1").attrs["hisdiff_sd"]["qc"]


def test_tables_that_claim_more_rows_than_memory_holds_are_refused(copy_of, monkeypatch):
    from hisdiff_sd.io import _limits

    root = copy_of("Xenium")
    monkeypatch.setattr(_limits, "_MOST_ROWS", 100)
    for options in ({"cells": "xenium"}, {"cells": "cellvit"}, {"transcripts": True}):
        with pytest.raises(HisDiffError, match="rows, at most 100 are read at once"):
            hd.io.hest(root, "S1", **options)
