"""Outlines of the tissue, held against slides whose tissue is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import shapely
from drawn import BLOB, EOSIN, GLASS, HAEMATOXYLIN, NOTHING, SHAPE, UM, X, Y, disc, draw, field, overlap
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi
from scipy.spatial import cKDTree
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

PENS = {"blue": (30, 60, 190), "light blue": (90, 150, 225), "green": (20, 120, 60), "black": (28, 28, 32)}
PENS["red"] = (215, 25, 35)


def stroke(start: tuple[float, float], end: tuple[float, float], width: float) -> np.ndarray:
    """A line with round ends."""
    (y, x), d = start, np.subtract(end, start)
    along = (((Y - y) * d[0] + (X - x) * d[1]) / (d @ d)).clip(0, 1)
    return np.hypot(Y - y - along * d[0], X - x - along * d[1]) < width / 2


def ink(image: np.ndarray, where: np.ndarray, colour: tuple, cover: np.ndarray | float = 1) -> np.ndarray:
    share = (ndi.gaussian_filter(where.astype(float), 1) * cover)[..., None]
    return image * (1 - share + share * np.array(colour) / 255)


def inside(sdata: SpatialData, key: str = "tissue") -> np.ndarray:
    """Which pixels of a drawn slide have their centre inside the outlines."""
    return shapely.intersects_xy(sdata[key].union_all(), X + 0.5, Y + 0.5)


@pytest.fixture
def outlined(slide_of) -> Callable[..., SpatialData]:
    """A function that makes a slide of an image and outlines its tissue."""

    def make(image: np.ndarray, **options: float) -> SpatialData:
        sdata = slide_of(image)
        hd.pp.tissue(sdata, **options)
        return sdata

    return make


# what is found


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"stain": 0.25},
        {"stain": 0.15},
        {"stain": 2.2},
        {"glass": (238, 232, 205)},
        {"glass": (205, 215, 235)},
        {"glass": (235, 215, 232), "stain": 0.4},
        {"glass": (255, 255, 255), "noise": 0},
        {"noise": 6},
        {"noise": 3, "stain": 0.3},
    ],
    ids=str,
)
def test_pale_and_heavy_stains_on_any_glass(outlined, how):
    assert overlap(inside(outlined(draw(BLOB, **how))), BLOB) > 0.95


@pytest.mark.parametrize("colour", PENS)
@pytest.mark.parametrize("stain", [1, 0.4])
def test_pen_marks_are_no_tissue(outlined, colour, stain):
    aside, across = stroke((25, 30), (45, 340), 18), stroke((20, 120), (320, 280), 14)
    found = inside(outlined(ink(draw(BLOB, stain=stain), aside | across, PENS[colour])))
    assert overlap(found, BLOB & ~across) > 0.9
    assert (found & aside).sum() == 0
    assert (found & across).sum() < 0.35 * (BLOB & across).sum()  # on dark tissue some inks look like stain


@pytest.mark.parametrize("colour", PENS)
def test_a_pen_that_runs_dry(outlined, colour):
    streaks = 0.8 + 1.6 * ndi.gaussian_filter(np.random.default_rng(1).standard_normal(SHAPE), (12, 1))
    mark = stroke((40, 30), (300, 40), 40)
    image = ink(draw(BLOB), mark, PENS[colour], ((0.25 + 0.75 * Y / SHAPE[0]) * streaks).clip(0, 1))
    assert overlap(inside(outlined(image)), BLOB) > 0.95


def test_a_slide_that_is_bluer_than_ink_rules_expect(outlined):
    image = draw(BLOB)
    bluer = np.array(GLASS) * (image.clip(1) / np.array(GLASS)) ** np.array([1.3, 0.9, 0.6])
    assert overlap(inside(outlined(bluer)), BLOB) > 0.95


def test_stain_that_ran_out_is_no_tissue(outlined):
    haze = 0.12 * np.exp(-((X - 320) ** 2 + (Y - 180) ** 2) / 55**2)
    assert overlap(inside(outlined(draw(BLOB) * 10 ** -(haze[..., None] * EOSIN))), BLOB) > 0.95


def test_a_black_frame_is_no_tissue(outlined):
    image = draw(BLOB)
    image[:20] = image[-15:] = image[:, :30] = image[:, -12:] = 8
    assert overlap(inside(outlined(image)), BLOB) > 0.95


def test_a_dark_edge_beside_tissue_is_no_tissue(outlined):
    section = (X < 200) & (Y > 60) & (Y < 280)
    image = draw(section)
    image[:, :12] = 60 + np.arange(12)[:, None] * 2
    found = inside(outlined(image))
    assert overlap(found, section & (X >= 12)) > 0.93
    assert not found[:, :10].any()


def test_grey_glass_borders_and_shadows_are_no_tissue(outlined):
    image = draw(BLOB)
    image[:, 360:] *= 0.7
    image[300:, :100] *= 0.95  # a cover slip
    image *= 1 - 0.6 * np.exp(-((np.hypot(Y - 40, X - 40) / 15) ** 2))[..., None]  # a blurred speck
    assert overlap(inside(outlined(image)), BLOB) > 0.95


def test_dust_is_no_tissue(outlined):
    image, rng = draw(BLOB), np.random.default_rng(0)
    for y, x, radius in rng.uniform((0, 0, 1), (*SHAPE, 5), (40, 3)):
        image[disc(y, x, radius)] *= 0.4
    sdata = outlined(image)
    assert len(sdata["tissue"]) == 1
    assert overlap(inside(sdata), BLOB) > 0.95


def test_white_that_was_not_scanned_is_no_tissue(outlined):
    image = draw(BLOB, glass=(225, 225, 222))
    image[:, :40] = image[:50] = 255
    assert overlap(inside(outlined(image)), BLOB & (image.mean(2) < 254.9)) > 0.95


def test_fat_is_tissue(outlined):
    """Walls of one pixel around cells of 50 um."""
    points = np.random.default_rng(5).uniform(0, 380, (2200, 2))
    near, next_near = np.moveaxis(cKDTree(points).query(np.stack([Y, X], axis=-1), k=2)[0], -1, 0)
    image = draw(BLOB)
    fat, wall = BLOB & (X < 190), next_near - near < 1.4
    image[fat] = GLASS
    image[fat & wall] *= 10 ** -(0.35 * (0.3 * HAEMATOXYLIN + 0.7 * EOSIN))
    assert overlap(inside(outlined(image)), BLOB) > 0.93


# fragments, holes and edges


def test_fragments_are_listed_by_size_and_holes_are_kept(outlined):
    ring, piece = disc(190, 120, 110) & ~disc(190, 120, 30), disc(100, 310, 45)
    sdata = outlined(draw(ring | piece))
    tissue = sdata["tissue"]
    assert overlap(inside(sdata), ring | piece) > 0.93
    assert [len(polygon.interiors) for polygon in tissue.geometry] == [1, 0]
    assert tissue["tissue_id"].tolist() == [0, 1]
    assert tissue["tissue_id"].dtype.kind == "i"
    np.testing.assert_allclose(tissue["area_um2"], [ring.sum() * UM**2, piece.sum() * UM**2], rtol=0.1)
    assert tissue.is_valid.all()


def test_small_fragments_are_dropped_and_small_holes_filled(outlined):
    section = (BLOB & ~disc(170, 200, 16)) | disc(40, 40, 20)  # 28,953 and 45,239 um2
    image = draw(section)
    kept = outlined(image, min_area_um2=30_000, min_hole_um2=8_000)
    assert [len(polygon.interiors) for polygon in kept["tissue"].geometry] == [1, 0]
    dropped = outlined(image, min_area_um2=60_000, min_hole_um2=40_000)
    assert [len(polygon.interiors) for polygon in dropped["tissue"].geometry] == [0]


@pytest.mark.parametrize(
    "section",
    [disc(170, 380, 150), disc(0, 0, 200), (Y >= 30) | (X >= 50), ~NOTHING],
    ids=["right edge", "corner", "almost all", "all"],
)
def test_tissue_at_the_edge_of_the_image(outlined, section):
    sdata = outlined(draw(section))
    assert overlap(inside(sdata), section) > 0.95
    assert shapely.box(0, 0, SHAPE[1], SHAPE[0]).covers(sdata["tissue"].union_all())
    assert inside(sdata)[section & ((SHAPE[1] - 1 == X) | (X == 0) | (Y == 0))].mean() > 0.95


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.floats(0.3, 1.8), st.floats(4, 7.9))
def test_whatever_the_shape_outlines_are_valid_and_true(slide_of, seed, stain, um):
    section = field(np.random.default_rng(seed), 14) > 0.3
    sdata = slide_of(draw(section, stain=stain, seed=seed), um)
    hd.pp.tissue(sdata, min_area_um2=20_000)
    tissue = sdata["tissue"]
    assert tissue.is_valid.all()
    assert tissue.geom_type.eq("Polygon").all()
    assert tissue.area.is_monotonic_decreasing
    # the outline is true to 20 um; what is thinner, or smaller than asked for, may be left out
    found, beyond = inside(sdata), ndi.distance_transform_edt(~section) * um > 20
    core = ndi.distance_transform_edt(section) * um > 20
    labels = ndi.label(core)[0]
    large = (np.bincount(labels.ravel()) * um**2 >= 20_000)[labels] & core
    assert (found & beyond).sum() < 0.04 * section.sum()
    assert (large & ~found).sum() < 0.04 * section.sum()
    np.testing.assert_allclose(tissue["area_um2"], tissue.area * um**2)
    pairs = [a.intersects(b) for i, a in enumerate(tissue.geometry) for b in tissue.geometry[i + 1 :]]
    assert not any(pairs)


# bad input


HAZE = draw(NOTHING) * 10 ** -(0.1 * np.exp(-((X - 190) ** 2 + (Y - 170) ** 2) / 60**2)[..., None] * EOSIN)


@pytest.mark.parametrize(
    "image",
    [
        draw(NOTHING),
        np.full((*SHAPE, 3), 255.0),
        np.zeros((*SHAPE, 3)),
        np.full((*SHAPE, 3), 128.0),
        HAZE,
        draw(disc(170, 190, 15)),
        ink(draw(NOTHING), stroke((60, 60), (280, 300), 30), PENS["blue"]),
    ],
    ids=["glass", "white", "black", "grey", "stain on glass", "a crumb", "a pen mark"],
)
def test_no_tissue(slide_of, image):
    sdata = slide_of(image)
    with pytest.raises(
        HisDiffError, match=r"no tissue found on slide 'drawn': .*% of the image .* contours= .*hd.pp.tile"
    ):
        hd.pp.tissue(sdata)
    assert not sdata.shapes


# slides in the HEST layout


def test_a_synthetic_section(hest_root):
    sdata = hd.io.hest(hest_root, "S1")
    hd.pp.tissue(sdata)
    truth = hd.datasets.synthetic_truth(hest_root, "S1")
    share = truth.obs[["tumour", "stroma", "fat", "immune"]].sum(axis=1).to_numpy()
    xy = np.asarray(truth.obsm["spatial"])
    assert shapely.intersects_xy(sdata["tissue"].union_all(), *xy[share > 0.9].T).mean() > 0.98
    corners = [(3, 3), (3, 1175), (1360, 3), (1360, 1175)]
    assert not shapely.intersects_xy(sdata["tissue"].union_all(), *np.transpose(corners)).any()


@pytest.mark.parametrize("name", [pytest.param("C2", marks=pytest.mark.slow), "C5"])
def test_spots_of_real_slides_lie_on_the_tissue(real_hest, name):
    if not (real_hest / "wsis" / f"{name}.tif").is_file():
        pytest.skip(f"no slide {name} in {real_hest}")
    sdata = hd.io.hest(real_hest, name)
    hd.pp.tissue(sdata)
    outline = sdata["tissue"].union_all()
    assert shapely.intersects_xy(outline, *shapely.get_coordinates(sdata["spots"].geometry).T).mean() >= 0.98
    height, width = sdata.attrs["hisdiff_sd"]["true_size"]
    assert outline.area < 0.2 * height * width  # a fifth of the image is tissue, the rest glass and stain that ran out
    assert len(sdata["tissue"]) == 1
