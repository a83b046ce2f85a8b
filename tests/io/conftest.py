"""Slides to read, to damage and to draw marks on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from vendor import SpaceRanger, VisiumHD, Xenium, write_pyramid

import hisdiff_sd as hd


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
