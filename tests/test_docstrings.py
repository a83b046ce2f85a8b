"""Every public name has a docstring with an example, and every example of the package runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import pkgutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hisdiff_sd as hd
from hisdiff_sd._settings import Settings

PLAIN = (str, int, tuple, dict)  # a constant has no docstring


def public() -> Iterator[tuple[str, Any]]:
    """Name and object of what users call: the names of the namespaces, those of the package itself, and tiles."""
    for name in [*hd.__all__, "tiles"]:
        if not isinstance(thing := getattr(hd, name), ModuleType):
            yield name, Settings if name == "settings" else thing
            continue
        yield from ((f"{name}.{inner}", getattr(thing, inner)) for inner in thing.__all__)


PUBLIC = {name: thing for name, thing in public() if not isinstance(thing, PLAIN)}
WHERE = {f"{thing.__module__}.{thing.__qualname__}" for thing in PUBLIC.values()}


def examples() -> dict[str, doctest.DocTest]:
    """All docstrings of the package that have examples."""
    modules = (importlib.import_module(m.name) for m in pkgutil.walk_packages(hd.__path__, "hisdiff_sd."))
    found = (test for module in modules for test in doctest.DocTestFinder(exclude_empty=True).find(module))
    return {test.name: test for test in found if test.examples}


EXAMPLES = examples()


def is_public(name: str) -> bool:
    """Whether users see that docstring: of a public name, or of a method of a public class."""
    return name in WHERE or name.rpartition(".")[0] in WHERE


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of the examples, with what Space Ranger leaves (`outs`) and its image (`he.tif`)."""
    folder = tmp_path_factory.mktemp("examples")
    root = hd.datasets.synthetic(
        folder / "hest", slides=("P7",), technology="Visium", size_um=(900, 800), mpp=1.0, n_genes=20
    )
    (root / "wsis" / "P7.tif").rename(folder / "he.tif")
    write_space_ranger(folder / "outs", ad.read_h5ad(root / "st" / "P7.h5ad"))
    return folder


def write_space_ranger(outs: Path, table: ad.AnnData) -> None:
    """Counts and positions in the files of Space Ranger."""
    (outs / "spatial").mkdir(parents=True)
    counts = sparse.csr_matrix(table.X)  # spots x genes by row is genes x spots by column
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(table.obs_names, "S")
        matrix["data"], matrix["indices"], matrix["indptr"] = counts.data.astype(int), counts.indices, counts.indptr
        matrix["shape"] = np.array(counts.shape[::-1])
        matrix["features/id"] = matrix["features/name"] = np.array(table.var_names, "S")
        matrix["features/feature_type"] = np.array(["Gene Expression"] * table.n_vars, "S")
        matrix["features/genome"] = np.array(["GRCh38"] * table.n_vars, "S")
    order = ["in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
    positions: pd.DataFrame = table.obs[order].rename_axis("barcode")
    positions.to_csv(outs / "spatial" / "tissue_positions.csv")
    factors = {"spot_diameter_fullres": 55.0, "tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.1}
    (outs / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_docstring_with_an_example(name: str) -> None:
    thing = PUBLIC[name]
    assert inspect.getdoc(thing), f"{name} has no docstring"
    test = EXAMPLES.get(f"{thing.__module__}.{thing.__qualname__}")
    assert test, f"the docstring of {name} has no example"
    assert "Examples\n" in inspect.cleandoc(test.docstring), f"the examples of {name} need the heading 'Examples'"
    run = [e for e in test.examples if not e.options.get(doctest.SKIP)]
    assert any("hd." in e.source or "hisdiff_sd" in e.source for e in run), (
        f"no example of {name} is run that a user could type"
    )


@pytest.mark.filterwarnings("ignore::hisdiff_sd._errors.HisDiffWarning")
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    test = EXAMPLES[name]
    # users have the package and numpy, under their usual names; a private docstring is read beside its code
    test.globs = {"hd": hd, "np": np} if is_public(name) else {**test.globs, "hd": hd, "np": np}
    printed: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=printed.append)
    assert result.failed == 0, "".join(printed)
    assert result.attempted > 0
