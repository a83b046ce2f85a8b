"""Slides to read, to damage and to draw marks on; stores to change, and what they are compared by."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, issparse
from spatialdata import SpatialData
from spatialdata.models import TableModel
from vendor import SpaceRanger, VisiumHD, Xenium, write_pyramid

import hisdiff_sd as hd
from hisdiff_sd.io import _atomic


def grid(width: int, height: int, pitch: float) -> np.ndarray:
    """(n, 2) centres of a square grid inside an image."""
    x, y = np.meshgrid(np.arange(pitch / 2, width, pitch), np.arange(pitch / 2, height, pitch))
    return np.column_stack([x.ravel(), y.ravel()])


@pytest.fixture(scope="session")
def make_slide(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write one HEST slide "M1" around an image: 200 px (= um) between the spots of a grid, three genes."""

    def make(image: np.ndarray, *, levels: int = 1, compression: str | None = "zlib") -> Path:
        root = tmp_path_factory.mktemp("made") / "hest"
        for folder in ("wsis", "st", "metadata"):
            (root / folder).mkdir(parents=True)
        write_pyramid(root / "wsis" / "M1.tif", image, levels, compression)
        xy = grid(image.shape[1], image.shape[0], 200)
        counts = np.random.default_rng(0).poisson(3, (len(xy), 3)).astype(np.float32)
        obs = pd.DataFrame(index=[f"{i:03d}x001" for i in range(len(xy))])
        table = ad.AnnData(csr_matrix(counts), obs, pd.DataFrame(index=["A1", "B2", "C3"]), obsm={"spatial": xy})
        table.write_h5ad(root / "st" / "M1.h5ad")
        record = {"id": "M1", "st_technology": "Spatial Transcriptomics", "pixel_size_um_estimated": 1.0}
        (root / "metadata" / "M1.json").write_text(json.dumps(record))
        return root

    return make


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small synthetic slides, T1 and T2. Read only."""
    out = tmp_path_factory.mktemp("tiny") / "hest"
    return hd.datasets.synthetic(out, slides=("T1", "T2"), size_um=(1100.0, 900.0), mpp=1.0, n_genes=12, seed=3)


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    """A copy of the small slides, to damage."""
    return Path(shutil.copytree(tiny_root, tmp_path / "hest"))


@pytest.fixture(scope="module")
def tiny_slide(tiny_root: Path) -> SpatialData:
    """The small slide T1, opened once for a file of tests."""
    return hd.io.hest(tiny_root, "T1")


@pytest.fixture(scope="module")
def tiny_store(tiny_slide: SpatialData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the small slide T1. Read only."""
    path = tmp_path_factory.mktemp("written") / "T1.zarr"
    hd.io.write(tiny_slide, path)
    return path


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    """A copy of the store, to change, in a folder of its own."""
    (tmp_path / "stores").mkdir()
    return Path(shutil.copytree(tiny_store, tmp_path / "stores" / "T1.zarr"))


@pytest.fixture(scope="session")
def table_of() -> Callable[..., ad.AnnData]:
    """A function that makes a table that annotates all spots, full of one value."""

    def make(sdata: SpatialData, value: float, n_columns: int = 3) -> ad.AnnData:
        index = sdata["spots"].index
        region = pd.Categorical(["spots"] * len(index))
        obs = pd.DataFrame({"region": region, "instance_id": index.to_numpy()}, index=index)
        var = pd.DataFrame(index=[f"v{i}" for i in range(n_columns)])
        values = ad.AnnData(np.full((len(index), n_columns), value, np.float32), obs, var)
        return TableModel.parse(values, region="spots", region_key="region", instance_key="instance_id")

    return make


@pytest.fixture(scope="session")
def assert_same_table() -> Callable[[ad.AnnData, ad.AnnData], None]:
    """A function that compares two tables to the last bit."""

    def compare(a: ad.AnnData, b: ad.AnnData) -> None:
        x, y = (t.X.toarray() if issparse(t.X) else t.X for t in (a, b))
        np.testing.assert_array_equal(x, y)
        pd.testing.assert_frame_equal(a.obs, b.obs)
        pd.testing.assert_frame_equal(a.var, b.var)
        assert set(a.obsm) == set(b.obsm)
        for key in a.obsm:
            np.testing.assert_array_equal(a.obsm[key], b.obsm[key])

    return compare


@pytest.fixture(scope="session")
def assert_same(
    assert_same_table: Callable[[ad.AnnData, ad.AnnData], None],
) -> Callable[[SpatialData, SpatialData], None]:
    """A function that compares every element of two slides to the last bit."""

    def compare(a: SpatialData, b: SpatialData) -> None:
        assert {n for _, n, _ in a.gen_elements()} == {n for _, n, _ in b.gen_elements()}
        assert a.attrs == b.attrs
        assert set(a.coordinate_systems) == set(b.coordinate_systems)
        for level in a["he"].children:
            np.testing.assert_array_equal(a["he"][level].image.to_numpy(), b["he"][level].image.to_numpy())
        pd.testing.assert_frame_equal(
            pd.DataFrame(a["spots"].drop(columns="geometry")), b["spots"].drop(columns="geometry")
        )
        assert (a["spots"].geometry == b["spots"].geometry).all()
        for name in a.tables:
            assert_same_table(a[name], b[name])

    return compare


@pytest.fixture(scope="session")
def stages() -> Callable[[Path], list[Path]]:
    """A function that lists what is being built beside a store, or was left there."""
    return lambda target: list(_atomic.scratch_folder(target).glob("stage-*"))


@pytest.fixture(scope="session")
def full_disk() -> Callable[..., None]:
    """A function that fails as on a full disk, whatever it is given."""

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    return fail


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, str]]:
    """A function that says what lies under a folder: names and hashes of all files, hidden ones included."""

    def look(folder: Path) -> dict[str, str]:
        return {
            str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
            for p in sorted(folder.rglob("*"))
        }

    return look


@pytest.fixture
def edit_counts(root: Path) -> Callable[..., None]:
    """A function that lets another one change the counts of T1 and writes what it returns."""

    def edit(change: Callable[[ad.AnnData], object]) -> None:
        path = root / "st" / "T1.h5ad"
        table = ad.read_h5ad(path)
        changed = change(table)
        (changed if isinstance(changed, ad.AnnData) else table).write_h5ad(path)

    return edit


@pytest.fixture
def edit_metadata(root: Path) -> Callable[..., None]:
    """A function that changes entries of the metadata of T1, in the JSON file and the table of all slides."""

    def edit(**values: object) -> None:
        path = root / "metadata" / "T1.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        (csv,) = root.glob("HEST_v*.csv")
        rows = pd.read_csv(csv, encoding="utf-8-sig").astype(object)
        for key, value in values.items():
            rows.loc[rows["id"] == "T1", key] = value
        rows.to_csv(csv, index=False, encoding="utf-8-sig")

    return edit


@pytest.fixture
def space_ranger(tmp_path: Path) -> SpaceRanger:
    """Output of Space Ranger, to read and to damage."""
    return SpaceRanger(tmp_path)


@pytest.fixture(scope="session")
def every_root(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small slide "S1" of every technology with all of HEST's folders: 1000 x 875 px of 0.8 um. Read only."""
    out = tmp_path_factory.mktemp("every")
    return {
        technology: hd.datasets.synthetic(
            out / technology.replace(" ", "_"),
            slides=["S1"],
            technology=technology,
            size_um=(800.0, 700.0),
            mpp=0.8,
            n_genes=12,
            extras=True,
            seed=5,
        )
        for technology in ("Visium", "Spatial Transcriptomics", "Visium HD", "Xenium")
    }


@pytest.fixture
def copy_of(every_root: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A function that copies the slide of a technology, to damage."""
    return lambda technology: Path(shutil.copytree(every_root[technology], tmp_path / "copy"))


@pytest.fixture(scope="session")
def describe() -> Callable[..., None]:
    """A function that changes entries of the metadata of slide S1, in its JSON file."""

    def change(root: Path, **values: object) -> None:
        path = root / "metadata" / "S1.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.fixture
def visium_hd(tmp_path: Path) -> VisiumHD:
    """Output of Space Ranger for Visium HD, to read and to damage."""
    return VisiumHD(tmp_path)


@pytest.fixture
def xenium_run(tmp_path: Path) -> Xenium:
    """Output of a Xenium run, to read and to damage."""
    return Xenium(tmp_path)
