"""Files of others with anything in them: they are read, or refused with one line of ours; nothing else escapes."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._store import slide_attrs

# not shrunk: an example takes part of a second, and is small
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
FEW = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
MANY = settings(FEW, max_examples=1000)

NUMBERS = st.one_of(st.integers(-3, 3), st.integers(), st.just(10**400), st.floats())
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8))
JSON = st.recursive(PLAIN, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=5), v, max_size=4))


def only_ours(call, *args, **options):
    """What a call returns; None if it is refused with one line of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call(*args, **options)
        except HisDiffError as error:
            message = str(error)
    assert message
    assert "\n" not in message
    return None


class Files:
    """The files of slide T1 under a folder, and what was in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata, self.counts, self.image = (folder / f for f in ("metadata/T1.json", "st/T1.h5ad", "wsis/T1.tif"))
        self.whole = {p: p.read_bytes() for p in (self.metadata, self.counts, self.image)}

    def restore(self) -> None:
        for path, content in self.whole.items():
            path.write_bytes(content)


@pytest.fixture(scope="module")
def damaged(tiny_root, tmp_path_factory):
    """A copy of the small slides whose files are replaced by every example, and the file to replace."""
    root = tmp_path_factory.mktemp("fuzz") / "hest"
    shutil.copytree(tiny_root, root)

    files = Files(root)
    for table in root.glob("HEST_v*.csv"):
        table.unlink()
    yield files
    files.restore()


KEYS = [
    "pixel_size_um_estimated",
    "st_technology",
    "inter_spot_dist",
    "spot_diameter",
    "patient",
    "species",
    "organ",
    "id",
]
METADATA = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5)


def check_metadata(damaged, values):
    damaged.restore()
    record = json.loads(damaged.whole[damaged.metadata]) | values
    damaged.metadata.write_text(json.dumps(record))
    sdata = only_ours(hd.io.hest, damaged.folder, "T1")
    if sdata is not None:
        slide_attrs(sdata)
        assert json.loads(json.dumps(sdata.attrs)) == sdata.attrs


@FEW
@given(METADATA)
@example({"pixel_size_um_estimated": 1e-300})
@example({"pixel_size_um_estimated": 10**400})
@example({"spot_diameter": 1e300})
@example({"inter_spot_dist": 1e-300})
@example({"patient": "\ud800", "species": "a\nb"})
def test_metadata_of_any_values(damaged, values):
    check_metadata(damaged, values)


@pytest.mark.slow
@MANY
@given(METADATA)
def test_metadata_of_many_values(damaged, values):
    check_metadata(damaged, values)


@FEW
@given(st.one_of(st.binary(max_size=60), st.text(max_size=40).map(lambda t: t.encode("utf-8", "surrogatepass"))))
@example(b"[" * 200_000)
@example(b'{"a":' * 100_000)
@example(b"1" * 5000)
@example(b'{"pixel_size_um_estimated": 1e999}')
def test_metadata_that_are_no_json(damaged, content):
    damaged.restore()
    damaged.metadata.write_bytes(content)
    only_ours(hd.io.hest, damaged.folder, "T1")
    damaged.metadata.unlink()
    damaged.metadata.mkdir()
    only_ours(hd.io.hest, damaged.folder, "T1")
    damaged.metadata.rmdir()


PATHS = [
    "X",
    "X/data",
    "X/indices",
    "X/indptr",
    "obs",
    "obs/_index",
    "var",
    "var/_index",
    "obsm",
    "obsm/spatial",
    "uns",
]
PATHS += [
    "uns/spatial",
    "uns/spatial/ST",
    "uns/spatial/ST/images",
    "uns/spatial/ST/images/downscaled_fullres",
    "layers",
]
ARRAYS = st.sampled_from(["f4", "f8", "i8", "u2", "S3", "c8", "?"]).flatmap(
    lambda kind: st.lists(st.integers(0, 4), max_size=3).map(lambda shape: np.ones(shape).astype(kind))
)
ATTRS = ["encoding-type", "encoding-version", "shape", "_index", "column-order"]
EDITS = st.one_of(
    st.tuples(st.just("remove"), st.sampled_from(PATHS), st.none()),
    st.tuples(st.just("replace"), st.sampled_from(PATHS), ARRAYS | st.text(st.characters(codec="ascii"), max_size=4)),
    st.tuples(
        st.sampled_from(ATTRS), st.sampled_from(PATHS), st.integers(-2, 9) | st.sampled_from(["", "array", "dict"])
    ),
    st.tuples(st.sampled_from(ATTRS), st.sampled_from(PATHS), st.lists(st.integers(-2, 2**40), min_size=1, max_size=3)),
)


def check_h5ad(damaged, edits):
    damaged.restore()
    with h5py.File(damaged.counts, "r+") as file:
        for what, path, value in edits:
            if path not in file:
                continue
            if what in ATTRS:
                file[path].attrs[what] = value
                continue
            del file[path]
            if what == "replace":
                file[path] = value.replace("\x00", "") if isinstance(value, str) else value
    sdata = only_ours(hd.io.hest, damaged.folder, "T1")
    if sdata is not None:
        assert len(sdata["spots"]) == sdata["table"].n_obs > 0


@FEW
@given(st.lists(EDITS, min_size=1, max_size=3))
def test_h5ad_files_of_any_structure(damaged, edits):
    check_h5ad(damaged, edits)


@pytest.mark.slow
@MANY
@given(st.lists(EDITS, min_size=1, max_size=3))
def test_h5ad_files_of_many_structures(damaged, edits):
    check_h5ad(damaged, edits)


def check_tiff(damaged, places, tmp_path):
    content = bytearray(damaged.whole[damaged.image])
    with tifffile.TiffFile(damaged.image) as tiff:
        starts = [8, *(page.offset for page in tiff.pages)]
    for start, at, value in places:
        where = starts[start % len(starts)] + at
        if where < len(content):
            content[where] = value
    (tmp_path / "a.tif").write_bytes(content)
    sdata = only_ours(hd.io.wsi, tmp_path / "a.tif", 0.5)
    if sdata is not None and np.prod(sdata.attrs["hisdiff_sd"]["true_size"]) < 1e7:
        only_ours(hd.io.write, sdata, tmp_path / "a.zarr", overwrite=True)


PLACES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4)


@FEW
@given(PLACES)
def test_tiff_headers_with_any_bytes(damaged, tmp_path_factory, places):
    damaged.restore()
    check_tiff(damaged, places, tmp_path_factory.mktemp("tiff"))


@pytest.mark.slow
@MANY
@given(PLACES)
def test_tiff_headers_with_many_bytes(damaged, tmp_path_factory, places):
    damaged.restore()
    check_tiff(damaged, places, tmp_path_factory.mktemp("tiff"))


COORDINATE = st.one_of(st.integers(-50, 2000), st.floats(), st.none(), st.text(max_size=2))
RING = st.lists(st.lists(COORDINATE, max_size=3), max_size=6)
GEOMETRY = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["Polygon", "MultiPolygon", "Point", "LineString", "GeometryCollection", "Nothing"]),
        "coordinates": st.one_of(st.lists(RING, max_size=2), RING, JSON),
    }
)
GEOJSON = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("FeatureCollection"),
            "features": st.lists(st.fixed_dictionaries({"type": st.just("Feature"), "geometry": GEOMETRY}), max_size=3),
        }
    ),
    GEOMETRY,
    JSON,
)


def check_geojson(tiny_slide, content, path):
    path.write_text(json.dumps(content))
    only_ours(hd.pp.tissue, tiny_slide, contours=path, overwrite=True)
    if "tissue" in tiny_slide.shapes:
        assert tiny_slide["tissue"].is_valid.all()
        assert (tiny_slide["tissue"].area > 0).all()
        del tiny_slide.shapes["tissue"]


@FEW
@given(GEOJSON)
@example({"type": "Polygon", "coordinates": [[[0, 0], [9, float("nan")], [9, 9], [0, 0]]]})
@example({"type": "Polygon", "coordinates": [[[0, 0], [1e308, 1], [9, 1e308], [0, 0]]]})
def test_outlines_of_any_geojson(tiny_slide, tmp_path_factory, content):
    check_geojson(tiny_slide, content, tmp_path_factory.mktemp("json") / "a.geojson")


@pytest.mark.slow
@MANY
@given(GEOJSON)
def test_outlines_of_many_geojson(tiny_slide, tmp_path_factory, content):
    check_geojson(tiny_slide, content, tmp_path_factory.mktemp("json") / "a.geojson")


RECORD = [
    "schema",
    "slide",
    "patient",
    "species",
    "mpp",
    "true_size",
    "spot_pitch_um",
    "spot_diameter_um",
    "qc",
    "source",
]


@FEW
@given(st.dictionaries(st.sampled_from(RECORD), JSON, min_size=1, max_size=3) | JSON)
def test_records_of_slides_with_any_values(tiny_slide, values):
    whole = tiny_slide.attrs["hisdiff_sd"]
    try:
        tiny_slide.attrs["hisdiff_sd"] = whole | values if isinstance(values, dict) else values
        only_ours(hd.pp.tissue, tiny_slide, overwrite=True)
        only_ours(hd.pp.tile, tiny_slide, 200, shapes_key=None, overwrite=True)
        only_ours(hd.pp.embed, tiny_slide, "morphology", key_added="e", overwrite=True)
    finally:
        tiny_slide.attrs["hisdiff_sd"] = whole
