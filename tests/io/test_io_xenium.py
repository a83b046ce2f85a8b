"""What `hd.io.xenium` makes of the output of a Xenium run and its H&E image."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import zarr

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError

PITCH = 100.0  # um: 200 px of the H&E image, 3 x 2 squares on it


def read(run, path=None, **options):
    return hd.io.xenium(path or run.out, **options)


def test_transcripts_are_counted_in_squares_of_the_image(xenium_run):
    slide = read(xenium_run, control_probes=True)
    at, cells = xenium_run.to_image(xenium_run.at) // 200, xenium_run.to_image(xenium_run.cells) // 200
    good = xenium_run.quality >= 20
    names = [*xenium_run.genes, xenium_run.control]
    table = slide["table"]
    assert list(table.var_names) == names
    assert list(table.var["control"]) == [False, False, True]
    kept = {(c, r) for c in range(3) for r in range(2) if (cells == (c, r)).all(1).any()}
    assert len(kept) == table.n_obs == len(slide["spots"]) > 2
    for c, r in kept:
        inside = good & (at == (c, r)).all(1)
        truth = [int((xenium_run.feature[inside] == name).sum()) for name in names]
        row = table[f"x{c:04d}_y{r:04d}"]
        np.testing.assert_array_equal(row.X.toarray()[0], truth)
        np.testing.assert_allclose(row.obsm["spatial"][0], [200 * c + 100, 200 * r + 100])
        assert row.obs["n_cells"].item() == (cells == (c, r)).all(1).sum()
    np.testing.assert_allclose(slide["spots"]["radius"], 100)
    qc = slide.attrs["hisdiff_sd"]["qc"]
    assert qc["transcripts_low_quality"] == (~good).sum()
    outside = (at < 0).any(1) | (at[:, 0] > 2) | (at[:, 1] > 1)
    assert qc["transcripts_outside"] == (good & outside).sum() > 0


def test_control_probes_are_dropped_unless_asked_for(xenium_run):
    assert list(read(xenium_run)["table"].var_names) == xenium_run.genes


def test_cells_and_transcripts_lie_on_the_image(xenium_run):
    import spatialdata

    slide = read(xenium_run)
    places = xenium_run.to_image(xenium_run.cells)
    cells, table = slide["cells"], slide["cells_counts"]
    assert list(cells.index) == list(table.obs["instance_id"]) == xenium_run.ids
    np.testing.assert_allclose(np.column_stack([cells.centroid.x, cells.centroid.y]), places)
    np.testing.assert_allclose(cells.area, 16**2)
    np.testing.assert_allclose(table.obsm["spatial"], places)
    np.testing.assert_array_equal(table.X.toarray(), xenium_run.counts)
    assert table.uns["spatialdata_attrs"]["region"] == "cells"
    for system, scale in {"global": 1.0, "microns": 0.5}.items():
        found = spatialdata.transform(slide["transcripts"], to_coordinate_system=system)[["x", "y"]].compute()
        np.testing.assert_allclose(found, xenium_run.to_image(xenium_run.at) * scale, atol=1e-6)


def test_the_slide_is_laid_out_as_one_of_hest(xenium_run, tmp_path):
    slide = read(xenium_run, patient="P", species="Homo sapiens", organ="Lung")
    assert set(slide.coordinate_systems) == {"global", "microns"}
    attrs = slide.attrs["hisdiff_sd"]
    assert json.loads(json.dumps(slide.attrs)) == slide.attrs
    about = {"slide": "X1", "patient": "P", "technology": "Xenium", "true_size": [520, 640], "spot_pitch_um": 100.0}
    assert {k: attrs[k] for k in about} == about
    assert attrs["mpp"] == pytest.approx(0.5)
    np.testing.assert_array_equal(slide["he"].to_numpy().transpose(1, 2, 0)[:520, :640], xenium_run.pixels)
    back = hd.io.write(slide, tmp_path / "X1.zarr")
    hd.pp.embed(back, "morphology")
    hd.pp.embed(back, "morphology", shapes_key="spots", tile_um=112, key_added="again")
    assert back["spots_morphology"].n_obs == len(slide["spots"])
    assert len(back["transcripts"]) == 2000
    assert len(back["cells"]) == 30


def test_image_and_alignment_can_be_given(xenium_run, tmp_path):
    image = xenium_run.image.rename(tmp_path / "he.tif")
    (xenium_run.out / "X1_he_imagealignment.csv").rename(tmp_path / "m.csv")
    by_file = read(xenium_run, he_image=image, alignment=tmp_path / "m.csv", slide="other")
    by_matrix = read(xenium_run, he_image=image, alignment=xenium_run.matrix)
    assert by_file.attrs["hisdiff_sd"]["slide"] == "other"
    np.testing.assert_array_equal(by_file["table"].X.toarray(), by_matrix["table"].X.toarray())


@pytest.fixture
def refused(xenium_run, snapshot):
    def check(*words, error=HisDiffError, **options):
        before = snapshot(xenium_run.out.parents[1])
        with pytest.raises(error) as caught:
            read(xenium_run, **options)
        message = str(caught.value)
        assert not [w for w in words if w not in message], message
        assert "\n" not in message
        assert snapshot(xenium_run.out.parents[1]) == before

    return check


def test_what_is_missing_is_named(refused, xenium_run, tmp_path):
    refused("nowhere", "Xenium run", path=tmp_path / "nowhere", error=MissingFileError)
    refused("no.tif", he_image=tmp_path / "no.tif", error=MissingFileError)
    refused("m.csv", "alignment=", alignment=tmp_path / "m.csv", error=MissingFileError)
    other = xenium_run.out / "b_he_image.ome.tif"
    other.write_bytes(b"")
    refused("2 H&E images", "he_image=", error=MissingFileError)
    other.unlink()
    xenium_run.image.rename(xenium_run.out / "he.tif")
    refused("no H&E image", "he_image=", "he.tif", error=MissingFileError)
    (xenium_run.out / "he.tif").rename(xenium_run.out / "he.ome.tif")
    refused("healignment.csv", "numpy.eye(3)", he_image=xenium_run.out / "he.ome.tif", error=MissingFileError)
    (xenium_run.out / "transcripts.parquet").unlink()
    (xenium_run.out / "cells.parquet").unlink()
    refused("no cells.parquet, transcripts.parquet", "experiment.xenium", error=MissingFileError)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(2), ("(3, 3) matrix",)),
        (np.full((3, 3), np.nan), ("(3, 3) matrix",)),
        (np.zeros((3, 3)), ("(3, 3) matrix",)),
        (np.diag([0, 0, 1]), ("sheared",)),
        (np.diag([1, 2, 1]), ("2", "sheared")),
        (np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1]]), ("sheared",)),
        (np.array([[1, 0, 9000], [0, 1, 9000], [0, 0, 1]]), ("30 of 30 cells", "outside")),
    ],
)
def test_an_alignment_that_cannot_be(refused, matrix, words):
    refused(*words, alignment=matrix)


def test_an_inverse_alignment_is_told(refused, xenium_run):
    refused("the inverse is meant", alignment=np.linalg.inv(xenium_run.matrix))


def test_an_alignment_file_of_something_else(refused, tmp_path):
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")
    refused("m.csv", "export it again", alignment=tmp_path / "m.csv")


@pytest.mark.parametrize("pitch", [0, -1, float("inf"), 0.01, 5000])
def test_squares_that_cannot_be(refused, pitch):
    refused("pitch_um", pitch_um=pitch)


NAMES = ["experiment.xenium", "cells.zarr.zip", "cells.parquet", "cell_feature_matrix.h5", "transcripts.parquet"]


@pytest.mark.parametrize("name", [*NAMES, "cell_boundaries.parquet"])
@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x03\x04 cut short"])
def test_damaged_files(refused, xenium_run, name, content):
    (xenium_run.out / name).write_bytes(content)
    refused(str(xenium_run.out))


def test_transcripts_without_a_quality(refused, xenium_run):
    path = xenium_run.out / "transcripts.parquet"
    pd.read_parquet(path).drop(columns="qv").to_parquet(path)
    refused("transcripts.parquet", "qv")


def test_files_that_claim_more_than_memory_holds(refused, xenium_run, monkeypatch):
    with zarr.storage.ZipStore(xenium_run.out / "cells.zarr.zip", mode="w") as store:
        zarr.open_group(store, mode="w", zarr_format=2).create_array(
            "cell_id", shape=(2**40, 2), dtype="uint32", chunks=(64, 2)
        )
    refused("cells.zarr.zip", "'cell_id' claims 8,192 GiB")
    monkeypatch.setattr("hisdiff_sd.io._limits._MOST_ROWS", 699)
    refused("transcripts.parquet", "claims 700 rows, at most 699")


def test_squares_of_the_alignment_do_not_confirm_its_pixel_size(xenium_run):
    qc = read(xenium_run, pitch_um=20.0).attrs["hisdiff_sd"]["qc"]
    assert qc["spots"] >= 7  # enough to measure their distance
    assert "measured_pitch_um" not in qc
    assert "spot grid" not in qc["pixel_sizes"]
