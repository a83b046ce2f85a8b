"""`hd.pp.embed`: the right pixels reach the encoder, and its vectors the right spots."""

from __future__ import annotations

import re

import numpy as np
import pytest
import spatialdata
import tifffile
import torch
from PIL import Image
from shapely import Point
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity, set_transformation

import hisdiff_sd as hd
from hisdiff_sd._data import rows_of, slide_inputs
from hisdiff_sd._errors import HisDiffError, HisDiffWarning


class Pixels:
    """An encoder whose vector is pixels of its tile, so that one can see what it was given."""

    name = "pixels"
    licence = "none"

    def __init__(self, tile_px: int = 224, fingerprint: str = "a1", step: int = 16) -> None:
        self.tile_px, self.fingerprint, self.step = tile_px, fingerprint, step
        self.dim = 3 * len(range(0, tile_px, step)) ** 2
        self.batches: list[int] = []

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        assert tiles.dtype == torch.uint8
        assert tuple(tiles.shape[1:]) == (3, self.tile_px, self.tile_px)
        self.batches.append(len(tiles))
        return tiles[:, :, :: self.step, :: self.step].flatten(1).float()

    def look(self, tile: np.ndarray) -> np.ndarray:
        """The vector of one (3, y, x) tile."""
        return tile[:, :: self.step, :: self.step].ravel().astype(np.float32)


@pytest.fixture
def slide(hest_root) -> spatialdata.SpatialData:
    return hd.io.hest(hest_root, "S1")


@pytest.fixture(scope="module")
def pixels(hest_root) -> np.ndarray:
    """(3, y, x) level 0 of S1, as the file holds it."""
    return tifffile.imread(hest_root / "wsis" / "S1.tif", series=0, level=0).transpose(2, 0, 1)


def centres(slide) -> np.ndarray:
    return np.column_stack([slide["spots"].geometry.x, slide["spots"].geometry.y])


def cut(image: np.ndarray, x: float, y: float, side: int) -> np.ndarray:
    """The square around a centre, black outside the image."""
    padded = np.pad(image, ((0, 0), (side, side), (side, side)))
    x0, y0 = int(x) - side // 2 + side, int(y) - side // 2 + side
    return padded[:, y0 : y0 + side, x0 : x0 + side]


def test_the_published_tile_of_every_spot_reaches_the_encoder(slide, pixels):
    # some of them over the edges; what lies beyond the true size is padding of the store
    slide.attrs["hisdiff_sd"]["true_size"] = [1171, 1353]
    edges = [(0.0, 0.0), (1352.9, 1170.9), (60.5, 700.2), (700.0, 1150.0), (1300.0, 111.0)]
    spots = slide["spots"]
    spots.loc[spots.index[: len(edges)], "geometry"] = [Point(edge) for edge in edges]
    encoder = Pixels()
    hd.pp.embed(slide, encoder)
    table = slide["spots_pixels"]
    assert table.X.dtype == np.float32
    assert table.shape == (len(slide["spots"]), encoder.dim)
    for row, (x, y) in zip(table.X, centres(slide), strict=True):
        np.testing.assert_array_equal(row, encoder.look(cut(pixels[:, :1171, :1353], x, y, 224)))
    assert (table.X[: len(edges)] == 0).any(1).all()


def test_large_spots_give_larger_tiles_of_level_0_shrunk_with_lanczos(hest_root, pixels):
    with pytest.warns(HisDiffWarning, match="um apart"):
        slide = hd.io.hest(hest_root, "S1", mpp=0.2)  # spots of 100 um: 500 px
    encoder = Pixels()
    hd.pp.embed(slide, encoder)
    for row, (x, y) in zip(slide["spots_pixels"].X, centres(slide), strict=True):
        tile = Image.fromarray(cut(pixels, x, y, 500).transpose(1, 2, 0)).resize((224, 224), Image.Resampling.LANCZOS)
        np.testing.assert_allclose(row, encoder.look(np.asarray(tile).transpose(2, 0, 1)), atol=1)


def test_physical_tiles_come_from_the_level_of_their_resolution(hest_root, pixels):
    with pytest.warns(HisDiffWarning, match="um apart"):
        slide = hd.io.hest(hest_root, "S1", mpp=0.25)  # 112 um: 448 px, on level 1 224 px as they are
    encoder = Pixels()
    hd.pp.embed(slide, encoder, tile_um=112)
    height, width = slide["he"]["scale1"].image.shape[1:]
    half = pixels[:, : 2 * height, : 2 * width].reshape(3, height, 2, width, 2).mean((2, 4))
    for row, (x, y) in zip(slide["spots_pixels"].X, centres(slide), strict=True):
        np.testing.assert_allclose(row, encoder.look(cut(half, x / 2, y / 2, 224)), atol=1)
    assert slide["spots_pixels"].uns["hisdiff_sd"]["tile"] == "112um"
    assert slide["spots_pixels"].uns["hisdiff_sd"]["tile_side_px"] == 448


def test_physical_tiles_of_a_coarse_slide_are_enlarged(slide, pixels):
    encoder = Pixels()
    hd.pp.embed(slide, encoder, tile_um=112)  # 101.8 px at 1.1 um per px
    for row, (x, y) in zip(slide["spots_pixels"].X, centres(slide), strict=True):
        tile = Image.fromarray(cut(pixels, x, y, 102).transpose(1, 2, 0)).resize((224, 224), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(row, encoder.look(np.asarray(tile).transpose(2, 0, 1)), atol=2)


def test_an_encoder_of_another_tile_size(slide, pixels):
    encoder = Pixels(tile_px=64)
    hd.pp.embed(slide, encoder)
    x, y = centres(slide)[0]
    tile = Image.fromarray(cut(pixels, x, y, 224).transpose(1, 2, 0)).resize((64, 64), Image.Resampling.LANCZOS)
    np.testing.assert_allclose(slide["spots_pixels"].X[0], encoder.look(np.asarray(tile).transpose(2, 0, 1)), atol=1)


def test_the_table_annotates_the_spots_and_says_how_it_was_made(slide):
    hd.pp.embed(slide, Pixels())
    table = slide["spots_pixels"]
    assert list(table.obs_names) == list(slide["spots"].index) == list(table.obs["instance_id"])
    assert table.uns["spatialdata_attrs"]["region"] == "spots"
    expected = {
        "kind": "embedding",
        "slide": "S1",
        "encoder": "pixels",
        "encoder_hash": "a1",
        "tile": "hisdiff",
        "tile_px": 224,
        "tile_side_px": 224.0,
        "padding": "black",
        "filter": "lanczos",
        "shapes": "spots",
        "image": "he",
        "precision": "fp32",
        "batch_size": 32,
        "failed_tiles": 0,
        "version": hd.__version__,
    }
    assert table.uns["hisdiff_sd"] == expected


def test_a_store_gets_the_table(slide, tmp_path):
    stored = hd.io.write(slide, tmp_path / "S1.zarr")
    hd.pp.embed(slide, Pixels())
    assert not slide.is_backed()
    hd.pp.embed(stored, Pixels())
    back = spatialdata.read_zarr(tmp_path / "S1.zarr")
    np.testing.assert_array_equal(back["spots_pixels"].X, slide["spots_pixels"].X)
    assert back["spots_pixels"].uns["hisdiff_sd"] == stored["spots_pixels"].uns["hisdiff_sd"]
    # and what was read back is known for what it is
    encoder = Pixels()
    hd.pp.embed(back, encoder)
    assert not encoder.batches


@pytest.mark.parametrize("chunk", [100, 333, 2000])
def test_chunks_make_no_difference(slide, chunk):
    hd.pp.embed(slide, Pixels())
    image = slide["he"]["scale0"].image
    rechunked = Image2DModel.parse(
        image.data.rechunk((3, chunk, chunk)),
        dims=("c", "y", "x"),
        scale_factors=[2],
        chunks=(3, chunk, chunk),
        transformations={"global": Identity()},
    )
    other = spatialdata.SpatialData(
        images={"he": rechunked}, shapes=dict(slide.shapes), tables={"table": slide["table"]}, attrs=slide.attrs
    )
    hd.pp.embed(other, Pixels())
    np.testing.assert_array_equal(other["spots_pixels"].X, slide["spots_pixels"].X)


def test_a_single_image_without_levels(slide):
    single = Image2DModel.parse(slide["he"]["scale0"].image.data, dims=("c", "y", "x"))
    other = spatialdata.SpatialData(images={"he": single}, shapes=dict(slide.shapes), attrs=slide.attrs)
    for sdata in (slide, other):
        hd.pp.embed(sdata, Pixels())
    np.testing.assert_array_equal(other["spots_pixels"].X, slide["spots_pixels"].X)


def test_the_order_of_the_spots_makes_no_difference(slide):
    hd.pp.embed(slide, Pixels())
    spots = slide["spots"]
    order = np.random.default_rng(5).permutation(len(spots))
    shuffled = spots.iloc[order].copy()
    set_transformation(shuffled, {"global": Identity()}, set_all=True)
    other = spatialdata.SpatialData(images=dict(slide.images), shapes={"spots": shuffled}, attrs=slide.attrs)
    hd.pp.embed(other, Pixels())
    assert list(other["spots_pixels"].obs_names) == list(shuffled.index)
    np.testing.assert_array_equal(other["spots_pixels"].to_df().loc[spots.index], slide["spots_pixels"].to_df())


def test_rows_are_joined_by_instance_and_never_by_place(slide):
    hd.pp.embed(slide, Pixels())
    table, index = slide["spots_pixels"], slide["spots"].index
    straight = slide_inputs(slide, "spots_pixels", near=9, wide=49)
    order = np.random.default_rng(6).permutation(table.n_obs)
    shuffled = table[order].copy()
    shuffled.obs_names = [f"row{i}" for i in range(table.n_obs)]  # names that say nothing
    np.testing.assert_array_equal(order[rows_of(shuffled, index, "t")], np.arange(table.n_obs))
    slide.tables["spots_pixels"] = shuffled
    joined = slide_inputs(slide, "spots_pixels", near=9, wide=49)
    np.testing.assert_array_equal(joined.embedding, straight.embedding)
    assert list(joined.index) == list(index)
    assert rows_of(shuffled[1:], index, "t").tolist().count(-1) == 1


# a table that is there


def test_a_table_made_in_the_same_way_is_kept(slide):
    first, second = Pixels(), Pixels()
    hd.pp.embed(slide, first)
    table = slide["spots_pixels"]
    hd.pp.embed(slide, second)
    assert slide["spots_pixels"] is table
    assert first.batches
    assert not second.batches
    hd.pp.embed(slide, second, overwrite=True)
    assert second.batches
    assert slide["spots_pixels"] is not table


@pytest.mark.parametrize(
    ("other", "options", "named"),
    [
        (Pixels(fingerprint="b2"), {}, "encoder_hash: 'a1' there, 'b2' asked for"),
        (Pixels(), {"tile_um": 112}, "tile: 'hisdiff' there, '112um' asked for"),
        (Pixels(tile_px=64), {}, "tile_px: 224 there, 64 asked for"),
    ],
)
def test_a_table_made_in_another_way_is_refused_unless_told(slide, other, options, named):
    hd.pp.embed(slide, Pixels())
    table = slide["spots_pixels"]
    with pytest.raises(
        HisDiffError, match=r"'spots_pixels' was made in another way .*overwrite=True.*key_added="
    ) as caught:
        hd.pp.embed(slide, other, **options)
    assert named in str(caught.value)
    assert slide["spots_pixels"] is table
    hd.pp.embed(slide, other, overwrite=True, **options)
    assert slide["spots_pixels"].n_vars == other.dim
    hd.pp.embed(slide, Pixels(), key_added="another")
    assert slide["another"].n_vars == table.n_vars


def test_a_pixel_size_that_has_changed_is_another_way(slide):
    hd.pp.embed(slide, Pixels(), tile_um=112)
    slide.attrs["hisdiff_sd"]["mpp"] = 0.9
    with pytest.raises(HisDiffError, match="tile_side_px"):
        hd.pp.embed(slide, Pixels(), tile_um=112)


def test_a_table_of_other_spots_is_made_anew(slide):
    hd.pp.embed(slide, Pixels())
    names = list(slide["spots_pixels"].obs_names)
    renamed = slide["spots"].rename(index={names[0]: "new"})
    del slide.tables["table"]
    slide.shapes["spots"] = renamed
    encoder = Pixels()
    hd.pp.embed(slide, encoder)
    assert encoder.batches
    assert list(slide["spots_pixels"].obs["instance_id"]) == ["new", *names[1:]]


def test_measured_counts_are_not_taken_for_embeddings(slide):
    with pytest.raises(HisDiffError, match="'table' was made in another way"):
        hd.pp.embed(slide, Pixels(), key_added="table")


# what cannot be done is said before the work


@pytest.mark.parametrize("name", ["he", "spots", "a b", "__x", "a/b"])
def test_a_name_that_cannot_be_is_refused_before_the_work(slide, name):
    encoder = Pixels()
    with pytest.raises(HisDiffError, match=f"{re.escape(repr(name))} cannot be the name of a table"):
        hd.pp.embed(slide, encoder, key_added=name)
    assert not encoder.batches


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes_key": "spot"}, "no shapes 'spot'; shapes here: 'spots'"),
        ({"image_key": "HE"}, "no image 'HE'; images here: 'he'"),
        ({"tile_um": -1}, "tile_um=-1"),
    ],
)
def test_elements_that_are_missing(slide, options, message):
    with pytest.raises(HisDiffError, match=message):
        hd.pp.embed(slide, Pixels(), **options)


def test_an_unknown_encoder(slide):
    with pytest.raises(HisDiffError, match=r"no encoder 'morpholgy'.*Did you mean 'morphology'"):
        hd.pp.embed(slide, "morpholgy")


class Broken(Pixels):
    """An encoder that returns what `change` makes of its vectors."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def __call__(self, tiles):
        return self.change(super().__call__(tiles))


def nan_in_one(vectors):
    vectors[1, 3] = torch.nan
    return vectors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan_in_one, r"'pixels' returned NaN or infinity for \d+ of \d+ tiles of S1"),
        (lambda v: v * torch.inf, "NaN or infinity"),
        (lambda v: v[:, :1], r"'pixels' returned shape \(\d+, 1\) for \d+ tiles; its dim is 588"),
        (lambda v: v[:1], r"returned shape \(1, 588\)"),
        (lambda v: v.mean(), r"returned shape \(\)"),
    ],
    ids=["NaN", "infinity", "narrow", "short", "scalar"],
)
def test_vectors_that_cannot_be_used(slide, tmp_path, change, message):
    stored = hd.io.write(slide, tmp_path / "S1.zarr")
    with pytest.raises(HisDiffError, match=message):
        hd.pp.embed(stored, Broken(change))
    assert "spots_pixels" not in stored.tables
    assert set(spatialdata.read_zarr(tmp_path / "S1.zarr").tables) == {"table"}


def test_an_encoder_with_gradients_or_half_precision_is_fine(slide):
    hd.pp.embed(slide, Broken(lambda v: v.half().requires_grad_()))
    assert slide["spots_pixels"].X.dtype == np.float32


def test_an_object_that_is_no_encoder(slide):
    with pytest.raises(HisDiffError, match="dict is not a tile encoder"):
        hd.pp.embed(slide, {})


def test_another_process_is_not_overwritten(slide, tmp_path):
    path = tmp_path / "S1.zarr"
    mine = hd.io.write(slide, path)
    hd.pp.embed(spatialdata.read_zarr(path), Pixels(fingerprint="b2"))
    with pytest.raises(HisDiffError, match="another process has written a table 'spots_pixels'"):
        hd.pp.embed(mine, Pixels())
    assert spatialdata.read_zarr(path)["spots_pixels"].uns["hisdiff_sd"]["encoder_hash"] == "b2"


def test_shapes_that_are_not_spots(slide):
    import geopandas
    import shapely
    from spatialdata.models import ShapesModel

    slide.shapes["tissue"] = ShapesModel.parse(geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 9, 9)]))
    with pytest.raises(HisDiffError, match="'tissue' are neither circles"):
        hd.pp.embed(slide, Pixels(), shapes_key="tissue")


def test_other_spots_have_tables_of_their_own(slide):
    few = slide["spots"].iloc[:4].copy()
    set_transformation(few, {"global": Identity()}, set_all=True)
    slide.shapes["few"] = few
    hd.pp.embed(slide, Pixels(), shapes_key="few")
    hd.pp.embed(slide, Pixels())
    np.testing.assert_array_equal(slide["few_pixels"].X, slide["spots_pixels"].X[:4])


def test_the_built_in_encoder_by_name_is_deterministic(hest_root):
    found = []
    for _ in range(2):
        slide = hd.io.hest(hest_root, "S3")
        few = slide["spots"].iloc[:5].copy()
        set_transformation(few, {"global": Identity()}, set_all=True)
        few_only = spatialdata.SpatialData(images=dict(slide.images), shapes={"spots": few}, attrs=slide.attrs)
        hd.pp.embed(few_only, "morphology", device="cpu")
        found.append(few_only["spots_morphology"])
    np.testing.assert_array_equal(found[0].X, found[1].X)
    assert found[0].X.std(0).max() > 0
    assert found[0].uns["hisdiff_sd"]["encoder"] == "morphology"
