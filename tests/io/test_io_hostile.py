"""Files of others that mean harm: names that are paths, code to be run, sizes that fill the memory, links to other files."""

from __future__ import annotations

import os
import pickle

import anndata as ad
import h5py
import numpy as np
import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

IDS = [
    "../../evil",
    "/tmp/evil",
    "..",
    ".",
    "a\\..\\b",
    "CON.txt",
    "ä" * 200,
    "a\x00b",
    "a\nb",
    "%2e%2e%2f",
    'C:\\a:b*?"<>|',
    "\ud800",
]
IDS += [" . ", "zarr.json"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", IDS)
def test_an_id_never_becomes_a_path(space_ranger, tmp_path, name, snapshot):
    before = snapshot(tmp_path)
    target = tmp_path / "out" / "S.zarr"
    sdata = hd.io.visium(space_ranger.outs, space_ranger.image, slide=name)
    back = hd.io.write(sdata, target)
    here = {k: v for k, v in snapshot(tmp_path).items() if not k.startswith("out")}
    assert here == before
    assert {p.name for p in (tmp_path / "out").iterdir()} <= {"S.zarr", ".S.zarr.hisdiff_sd"}
    (library,) = back["table"].uns["spatial"]
    assert not set(library) & set('/\\<>:"|?*\x00\n')
    assert back.attrs["hisdiff_sd"]["slide"] == name


@pytest.mark.parametrize("key", ["../evil", "/tmp/evil", "..", "nul", "LPT1.x", "x" * 300, "a\x00b", "__a", "a b", ""])
def test_a_name_of_an_element_never_becomes_a_path(tiny_slide, key):
    with pytest.raises(HisDiffError, match="cannot be the name of"):
        hd.pp.embed(tiny_slide, "morphology", key_added=key) if key else hd.pp.tile(
            tiny_slide, 200, shapes_key=None, key_added=".."
        )


def test_columns_of_others_get_names_that_a_store_takes(root, edit_counts, tmp_path):
    def change(table):
        for name in ("log(x + 1)", "../../evil", "_index_", "% mito", "Region"):
            table.obs[name.replace("/", "|")] = 1.0
            table.var[name.replace("/", "|")] = 1.0

    edit_counts(change)
    back = hd.io.write(hd.io.hest(root, "T1"), tmp_path / "T1.zarr")
    assert back["table"].obs.shape[1] >= 8


class Bomb:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore")
def test_what_was_pickled_into_an_h5ad_is_not_run(root, tmp_path):
    payload = pickle.dumps(Bomb(tmp_path / "trace"))
    with h5py.File(root / "st" / "T1.h5ad", "r+") as file:
        file["uns/payload"] = np.void(payload)
        file["uns/text"] = np.frombuffer(payload, "u1")
        file["uns"].attrs["payload"] = np.void(payload)
    hd.io.hest(root, "T1")
    assert not (tmp_path / "trace").exists()
    pickle.loads(payload)
    assert (tmp_path / "trace").exists(), "it would have been run: the test can fail"


def bomb(file, other):
    del file["X"]
    matrix = file.create_dataset("X", (2**20, 2**20), "f4", chunks=(64, 64), compression="gzip")
    matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def wide(file, other):
    del file["obsm/spatial"]
    file.create_dataset("obsm/spatial", (2**36, 2), "f8", chunks=(64, 2))


def external_link(file, other):
    del file["obsm/spatial"]
    file["obsm/spatial"] = h5py.ExternalLink(str(other), "secret")


def external_values(file, other):
    shape = file["obsm/spatial"].shape
    del file["obsm/spatial"]
    file.create_dataset("obsm/spatial", shape, "u1", external=[(str(other), 0, shape[0] * shape[1])])


def virtual(file, other):
    shape = file["obsm/spatial"].shape
    del file["obsm/spatial"]
    layout = h5py.VirtualLayout(shape, "f8")
    layout[:] = h5py.VirtualSource(str(other), "secret", shape=shape)
    file.create_virtual_dataset("obsm/spatial", layout)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (bomb, ("GiB", "at most 16 GiB")),
        (wide, ("GiB", "at most 16 GiB")),
        (external_link, ("'obsm/spatial' lies in another file",)),
        (external_values, ("/obsm/spatial", "another file")),
        (virtual, ("/obsm/spatial", "another file")),
    ],
)
def test_an_h5ad_neither_fills_the_memory_nor_reads_other_files(root, tmp_path, change, words):
    counts = root / "st" / "T1.h5ad"
    n = ad.read_h5ad(counts).n_obs
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.full((n, 2), 100.0)
    with h5py.File(counts, "r+") as file:
        change(file, tmp_path / "other.h5")
    assert counts.stat().st_size < 10**7
    with pytest.raises(HisDiffError) as caught:
        hd.io.hest(root, "T1")
    assert not [w for w in words if w not in str(caught.value)], caught.value


def test_a_json_file_of_any_size_is_not_read(root):
    with (root / "metadata" / "T1.json").open("r+b") as file:
        file.truncate(2**30)
    with pytest.raises(HisDiffError, match="1,073,741,824 bytes, at most"):
        hd.io.hest(root, "T1")


@pytest.mark.parametrize("source", [None, "", [], "a.tif", ["a.tif"], 3])
def test_a_source_that_is_no_table_is_a_damaged_record(tiny_slide, source):
    whole = tiny_slide.attrs["hisdiff_sd"]
    try:
        tiny_slide.attrs["hisdiff_sd"] = whole | {"source": source}
        with pytest.raises(HisDiffError, match=r"has a damaged record \(attrs\['hisdiff_sd'\]: source="):
            hd.pp.embed(tiny_slide, "morphology", key_added="e", overwrite=True)
    finally:
        tiny_slide.attrs["hisdiff_sd"] = whole
