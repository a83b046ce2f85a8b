"""Outlines of the tissue, held against slides whose tissue is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
import spatialdata
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage as ndi
from scipy.spatial import cKDTree
from spatialdata import SpatialData
from spatialdata.transformations import get_transformation

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError

SHAPE, UM = (340, 380), 6.0  # of the drawn slides: 2.0 x 2.3 mm
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]
GLASS = (242, 240, 241)
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
PENS = {"blue": (30, 60, 190), "light blue": (90, 150, 225), "green": (20, 120, 60), "black": (28, 28, 32)}
PENS["red"] = (215, 25, 35)
NOTHING = np.zeros(SHAPE, bool)


def field(rng: np.random.Generator, length: float) -> np.ndarray:
    values = ndi.gaussian_filter(rng.standard_normal(SHAPE), length)
    return values / values.std()


def disc(y: float, x: float, radius: float) -> np.ndarray:
    return np.hypot(Y - y, X - x) < radius


BLOB = np.hypot((Y - 170) / 110, (X - 200) / 125) + 0.06 * field(np.random.default_rng(7), 12) < 1


def draw(where: np.ndarray, *, stain: float = 1, glass: tuple = GLASS, noise: float = 1, seed: int = 0) -> np.ndarray:
    """A section with nuclei, as float RGB."""
    rng = np.random.default_rng(seed)
    amount = ndi.gaussian_filter(where.astype(float), 0.8) * stain
    haematoxylin = (0.25 + 0.18 * field(rng, 1) + 0.08 * field(rng, 12)).clip(0) * amount
    eosin = (0.25 + 0.08 * field(rng, 2) + 0.1 * field(rng, 20)).clip(0) * amount
    density = haematoxylin[..., None] * HAEMATOXYLIN + eosin[..., None] * EOSIN
    return np.array(glass) * 10**-density + rng.normal(0, noise, (*SHAPE, 1)) + rng.normal(0, noise / 2, (*SHAPE, 3))


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


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    return (found & truth).sum() / (found | truth).sum()


@pytest.fixture
def slide_of(tmp_path: Path) -> Callable[..., SpatialData]:
    def make(image: np.ndarray, mpp: float = UM) -> SpatialData:
        Image.fromarray(image.clip(0, 255).round().astype(np.uint8)).save(tmp_path / "drawn.png")
        return hd.io.wsi(tmp_path / "drawn.png", mpp=mpp)

    return make


@pytest.fixture
def outlined(slide_of) -> Callable[..., SpatialData]:
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


# the place in the slide


@pytest.mark.parametrize("mpp", [0.6, 1.7])
def test_outlines_lie_in_level_0_pixels_on_every_pyramid(slide_of, mpp):
    """A slide of finer pixels: a level of the pyramid, averaged further."""
    factor = 4
    fine = np.repeat(np.repeat(draw(BLOB)[:301, :333], factor, 0), factor, 1)  # padded on the right and at the bottom
    sdata = slide_of(fine, mpp)
    hd.pp.tissue(sdata, min_area_um2=5_000)
    found = shapely.intersects_xy(
        sdata["tissue"].union_all(), X[:301, :333] * factor + 2.0, Y[:301, :333] * factor + 2.0
    )
    assert overlap(found, BLOB[:301, :333]) > 0.9


def test_an_image_without_small_levels(slide_of):
    sdata = slide_of(np.repeat(np.repeat(draw(BLOB), 5, 0), 5, 1), UM / 5)
    flat = SpatialData(images={"he": sdata["he"]["scale0"].image.chunk({"y": 300, "x": 700})}, attrs=sdata.attrs)
    hd.pp.tissue(flat)
    assert overlap(shapely.intersects_xy(flat["tissue"].union_all(), X * 5 + 2.5, Y * 5 + 2.5), BLOB) > 0.95


def test_both_coordinate_systems(outlined):
    sdata = outlined(draw(BLOB))
    assert set(get_transformation(sdata["tissue"], get_all=True)) == {"global", "microns"}
    in_um = spatialdata.transform(sdata["tissue"], to_coordinate_system="microns")
    np.testing.assert_allclose(in_um.area, sdata["tissue"]["area_um2"])


def test_only_a_small_level_is_read(slide_of, tmp_path):
    store = hd.io.write(slide_of(np.repeat(np.repeat(draw(BLOB), 6, 0), 6, 1), 1.0), tmp_path / "a.zarr")
    for level in ("s0", "s1"):
        (folder,) = (tmp_path / "a.zarr" / "images" / "he").glob(level)
        for chunk in (folder / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"damaged")
    hd.pp.tissue(store)
    assert store["tissue"]["area_um2"].sum() == pytest.approx(BLOB.sum() * 36, rel=0.05)


def test_pixels_that_cannot_be_read(slide_of, tmp_path):
    sdata = hd.io.write(slide_of(draw(BLOB)), tmp_path / "a.zarr")
    for chunk in (tmp_path / "a.zarr" / "images" / "he" / "s0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    with pytest.raises(HisDiffError, match=r"pixels of image 'he' of slide 'drawn' cannot be read"):
        hd.pp.tissue(sdata)


# store


def test_outlines_are_written_to_the_store(slide_of, tmp_path):
    sdata = hd.io.write(slide_of(draw(BLOB)), tmp_path / "a.zarr")
    hd.pp.tissue(sdata, min_hole_um2=5_000)
    back = spatialdata.read_zarr(tmp_path / "a.zarr")["tissue"]
    assert back.equals(sdata["tissue"])
    assert back.attrs["hisdiff_sd"]["min_hole_um2"] == 5_000
    with pytest.raises(HisDiffError, match="has shapes 'tissue' already; give overwrite=True"):
        hd.pp.tissue(sdata)
    hd.pp.tissue(sdata, key_added="again", min_area_um2=0)
    hd.pp.tissue(sdata, overwrite=True)
    assert sorted(spatialdata.read_zarr(tmp_path / "a.zarr").shapes) == ["again", "tissue"]


# outlines of a file


def geojson(path: Path, *geometries: shapely.Geometry, **extra: object) -> Path:
    features = [
        {"type": "Feature", "properties": {"tissue_id": i}, "geometry": shapely.geometry.mapping(g)}
        for i, g in enumerate(geometries)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **extra}))
    return path


def test_outlines_of_a_file_are_taken_as_they_are(slide_of, tmp_path):
    small, large = shapely.box(5, 5, 8, 8), shapely.box(50, 50, 200, 150) - shapely.box(60, 60, 90, 90)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    path = geojson(tmp_path / "S_contours.geojson", small, large, crs=crs)
    sdata = slide_of(np.full((*SHAPE, 3), 255))  # which shows no tissue
    hd.pp.tissue(sdata, contours=path)
    assert [a.equals(b) for a, b in zip(sdata["tissue"].geometry, [large, small], strict=True)] == [True, True]
    assert sdata["tissue"].crs is None
    np.testing.assert_allclose(sdata["tissue"]["area_um2"], [(15000 - 900) * 36, 9 * 36])
    assert sdata["tissue"].attrs["hisdiff_sd"]["contours"] == "S_contours.geojson"


def test_outlines_of_a_file_are_mended_and_cut_to_the_image(slide_of, tmp_path):
    bow_tie = shapely.Polygon([(10, 10), (50, 50), (50, 10), (10, 50)])
    both = shapely.MultiPolygon([shapely.box(300, 100, 900, 200), shapely.box(100, 300, 120, 320)])
    sdata = slide_of(draw(BLOB))
    hd.pp.tissue(sdata, contours=str(geojson(tmp_path / "c.geojson", bow_tie, both)))
    assert sdata["tissue"].is_valid.all()
    assert sdata["tissue"].area.tolist() == [8000, 400, 400, 400]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1, 2]", "cannot be read as GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', r"no polygon on the image \(380 x 340 px, 0 geometries"),
        ('{"type": "Point", "coordinates": [9, 9]}', "no polygon on the image"),
        ('{"type": "Polygon", "coordinates": [[[900, 900], [990, 900], [990, 990], [900, 900]]]}', "no polygon on"),
    ],
)
def test_files_of_no_use(slide_of, tmp_path, text, message):
    (tmp_path / "bad.geojson").write_text(text)
    sdata = slide_of(draw(BLOB))
    with pytest.raises(HisDiffError, match=rf"bad\.geojson .*{message}"):
        hd.pp.tissue(sdata, contours=tmp_path / "bad.geojson")
    with pytest.raises(MissingFileError, match="no file .*gone.geojson with outlines"):
        hd.pp.tissue(sdata, contours=tmp_path / "gone.geojson")
    assert not sdata.shapes


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


def test_no_pixel_size(slide_of):
    sdata = slide_of(draw(BLOB))
    sdata.attrs["hisdiff_sd"]["mpp"] = None
    with pytest.raises(HisDiffError, match=r"slide 'drawn' has no pixel size \(mpp=None\).*mpp="):
        hd.pp.tissue(sdata)
    del sdata.attrs["hisdiff_sd"]
    with pytest.raises(HisDiffError, match="pixel size is not known"):
        hd.pp.tissue(sdata)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_key": "HE"}, "no image 'HE'; there are: 'he'"),
        ({"key_added": "he"}, "'he' cannot be the name of shapes"),
        ({"min_area_um2": -1}, "min_area_um2=-1 is no area"),
        ({"min_hole_um2": float("nan")}, "min_hole_um2=nan is no area"),
    ],
)
def test_options_that_make_no_sense(slide_of, options, message):
    with pytest.raises(HisDiffError, match=message):
        hd.pp.tissue(slide_of(draw(BLOB)), **options)


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
