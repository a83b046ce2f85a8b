"""What `hd.io.visium` makes of the output of Space Ranger."""

from __future__ import annotations

import json
import warnings

import h5py
import numpy as np
import pytest
from PIL import Image

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning, MissingFileError


def read(space_ranger, path=None, image=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HisDiffWarning)
        return hd.io.visium(path or space_ranger.outs, image or space_ranger.image, **options)


@pytest.fixture
def refused(space_ranger, snapshot):
    """A function that reads the folder, expects one error that says all of some words, and that nothing was written."""

    def check(*words, error=HisDiffError, path=space_ranger.outs, image=space_ranger.image, **options):
        before = snapshot(space_ranger.outs.parents[1])
        with pytest.raises(error) as caught:
            read(space_ranger, path=path, image=image, **options)
        message = str(caught.value)
        assert not [w for w in words if w not in message], message
        assert snapshot(space_ranger.outs.parents[1]) == before

    return check


def test_counts_and_positions_of_unsorted_files_are_joined_by_barcode(space_ranger):
    slide = read(space_ranger)
    spots, table = slide["spots"].loc[space_ranger.barcodes], slide["table"][space_ranger.barcodes]
    np.testing.assert_allclose(np.column_stack([spots.geometry.x, spots.geometry.y]), space_ranger.xy)
    np.testing.assert_allclose(table.obsm["spatial"], space_ranger.xy)
    assert list(table.obs["instance_id"]) == space_ranger.barcodes
    assert len(slide["spots"]) == 40


def test_genes_are_summed_under_their_own_name(space_ranger):
    slide = read(space_ranger)
    assert "1 (TBCE), their counts were summed" in str(hd.io.qc(slide))
    table = slide["table"][space_ranger.barcodes]
    counts = space_ranger.counts
    assert list(table.var_names) == ["ERBB2", "TBCE", "CD3E"]
    expected = np.column_stack([counts[:, 0], counts[:, 1] + counts[:, 3], counts[:, 2]])
    np.testing.assert_array_equal(table.X.toarray(), expected)
    assert slide.attrs["hisdiff_sd"]["qc"]["duplicated_genes"] == ["TBCE"]


def test_the_slide_is_laid_out_as_one_of_hest(space_ranger):
    slide = read(space_ranger, patient="P", species="Homo sapiens", organ="Lung")
    assert (set(slide.images), set(slide.shapes), set(slide.tables)) == ({"he"}, {"spots"}, {"table"})
    assert set(slide.coordinate_systems) == {"global", "microns"}
    attrs = slide.attrs["hisdiff_sd"]
    assert json.loads(json.dumps(slide.attrs)) == slide.attrs
    about = {"slide": "P7", "patient": "P", "species": "Homo sapiens", "organ": "Lung", "technology": "Visium"}
    assert {k: attrs[k] for k in about} == about
    assert attrs["true_size"] == [520, 400]
    np.testing.assert_array_equal(slide["he"].to_numpy().transpose(1, 2, 0), space_ranger.pixels)


def test_the_pixel_size_comes_from_the_grid(space_ranger):
    slide = read(space_ranger)
    attrs = slide.attrs["hisdiff_sd"]
    assert attrs["mpp"] == pytest.approx(2.0)
    assert "grid" in attrs["mpp_source"]
    np.testing.assert_allclose(slide["spots"]["radius"], 27.5 / 2)


def test_a_given_pixel_size_overrides(space_ranger):
    slide = read(space_ranger, mpp=1.9, slide="other")
    attrs = slide.attrs["hisdiff_sd"]
    assert (attrs["mpp"], attrs["mpp_source"], attrs["slide"]) == (1.9, "given", "other")


@pytest.mark.parametrize("header", [True, False])
def test_positions_of_older_versions_are_read(space_ranger, header):
    (space_ranger.spatial / "tissue_positions.csv").unlink()
    space_ranger.write_positions("tissue_positions_list.csv", header=header)
    spots = read(space_ranger)["spots"].loc[space_ranger.barcodes]
    np.testing.assert_allclose(np.column_stack([spots.geometry.x, spots.geometry.y]), space_ranger.xy)


def test_a_png_is_read_as_well(space_ranger, tmp_path):
    image = tmp_path / "section.png"
    Image.fromarray(space_ranger.pixels).save(image)
    slide = read(space_ranger, image=image)
    np.testing.assert_array_equal(slide["he"].to_numpy().transpose(1, 2, 0), space_ranger.pixels)


def test_small_images_are_not_needed(space_ranger):
    for name in ("tissue_hires_image.png", "tissue_lowres_image.png"):
        (space_ranger.spatial / name).unlink()
    assert read(space_ranger)["table"].n_obs == 40


def test_the_folder_names_the_slide(space_ranger, monkeypatch):
    monkeypatch.chdir(space_ranger.outs)
    with pytest.warns(HisDiffWarning):
        assert hd.io.visium(".", space_ranger.image).attrs["hisdiff_sd"]["slide"] == "P7"
    renamed = space_ranger.outs.rename(space_ranger.outs.with_name("a slide (2)"))
    with pytest.warns(HisDiffWarning):
        slide = hd.io.visium(renamed, space_ranger.image)
    assert slide.attrs["hisdiff_sd"]["slide"] == "a slide (2)"
    assert list(slide["table"].uns["spatial"]) == ["a slide (2)"]


def test_a_prefix_of_the_counts_is_accepted(space_ranger):
    counts = space_ranger.outs / "filtered_feature_bc_matrix.h5"
    counts.rename(counts.with_name("P7_filtered_feature_bc_matrix.h5"))
    assert read(space_ranger)["table"].n_obs == 40


def test_a_slide_is_written_and_read_back(space_ranger, tmp_path):
    slide = read(space_ranger)
    back = hd.io.write(slide, tmp_path / "P7.zarr")
    np.testing.assert_array_equal(back["he"].to_numpy(), slide["he"].to_numpy())
    np.testing.assert_array_equal(back["table"].X.toarray(), slide["table"].X.toarray())
    assert back.attrs == slide.attrs


def test_a_missing_folder(refused, tmp_path):
    refused(str(tmp_path / "nowhere"), "outs", path=tmp_path / "nowhere", error=MissingFileError)


def test_a_missing_image(refused, tmp_path):
    refused(str(tmp_path / "no.tif"), "full-resolution", image=tmp_path / "no.tif", error=MissingFileError)


def test_missing_counts_list_what_is_there(refused, space_ranger):
    (space_ranger.outs / "filtered_feature_bc_matrix.h5").unlink()
    refused("filtered_feature_bc_matrix.h5", "there are: spatial", error=MissingFileError)


@pytest.mark.parametrize("name", ["tissue_positions.csv", "scalefactors_json.json"])
def test_a_missing_piece_of_the_spatial_folder(refused, space_ranger, name):
    (space_ranger.spatial / name).unlink()
    refused(name, str(space_ranger.spatial), error=MissingFileError)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_broken_scale_factors(refused, space_ranger, content):
    (space_ranger.spatial / "scalefactors_json.json").write_text(content)
    refused(str(space_ranger.outs), "Space Ranger")


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "barcode,in_tissue\n"])
def test_broken_positions(refused, space_ranger, content):
    (space_ranger.spatial / "tissue_positions.csv").write_text(content)
    refused(str(space_ranger.outs), "Space Ranger")


def test_a_broken_small_image(refused, space_ranger):
    (space_ranger.spatial / "tissue_hires_image.png").write_bytes(b"no image")
    refused(str(space_ranger.outs), "Space Ranger")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_truncated_counts(refused, space_ranger, share):
    path = space_ranger.outs / "filtered_feature_bc_matrix.h5"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused("filtered_feature_bc_matrix.h5", "fetch it again")


def test_a_truncated_image(refused, space_ranger):
    space_ranger.image.write_bytes(space_ranger.image.read_bytes()[:-9])
    refused("section.tif", "truncated")


def test_barcodes_without_a_position(refused, space_ranger):
    path = space_ranger.spatial / "tissue_positions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith(space_ranger.barcodes[0])))
    refused("filtered_feature_bc_matrix.h5", "1 of 40 barcodes have no position", space_ranger.barcodes[0])


def test_positions_of_another_slide(refused, space_ranger):
    path = space_ranger.spatial / "tissue_positions.csv"
    path.write_text(path.read_text().replace("-1", "-2"))
    refused("filtered_feature_bc_matrix.h5", "40 of 40 barcodes have no position", "same slide")


def test_duplicated_barcodes(refused, space_ranger):
    with h5py.File(space_ranger.outs / "filtered_feature_bc_matrix.h5", "r+") as file:
        barcodes = file["matrix/barcodes"][:]
        barcodes[1] = barcodes[0]
        file["matrix/barcodes"][:] = barcodes
    refused("filtered_feature_bc_matrix.h5", "more than once", space_ranger.barcodes[0])


def test_spots_outside_the_image(refused, space_ranger):
    space_ranger.xy += 1000
    space_ranger.write()
    refused("section.tif", "outside the image", "different slides")


@pytest.mark.parametrize("mpp", [0, -0.5, float("nan")])
def test_a_given_pixel_size_that_is_none(refused, mpp):
    refused(f"mpp={mpp}", mpp=mpp)


def test_too_few_spots_for_a_pixel_size(refused, space_ranger):
    space_ranger.barcodes, space_ranger.counts = space_ranger.barcodes[:5], space_ranger.counts[:5]
    space_ranger.xy = space_ranger.xy[:5]
    space_ranger.write_positions = lambda name, header: None
    space_ranger.write()
    refused("5 spots are too few", "give mpp=")
    assert read(space_ranger, mpp=2.0)["table"].n_obs == 5


def test_spots_on_one_point(refused, space_ranger):
    space_ranger.xy[:] = 100.0
    space_ranger.write()
    refused(str(space_ranger.outs), "one point")
