"""Every public name has a docstring with an example, and every example of the package runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from vendor import SpaceRanger, VisiumHD, Xenium

import hisdiff_sd as hd
from hisdiff_sd._settings import Settings

NEEDS_NETWORK = {"io.download"}  # tried against a stand-in of the hub in tests/io/test_io_download.py
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
    """The working directory of the examples, with output of instruments: folders `P7`, `H1`, `X1` and two images."""
    folder = tmp_path_factory.mktemp("examples")
    for kind in (SpaceRanger, VisiumHD, Xenium):
        kind(folder)
    return folder


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_docstring_with_an_example(name: str) -> None:
    thing = PUBLIC[name]
    assert inspect.getdoc(thing), f"{name} has no docstring"
    test = EXAMPLES.get(f"{thing.__module__}.{thing.__qualname__}")
    assert test, f"the docstring of {name} has no example"
    assert "Examples\n" in inspect.cleandoc(test.docstring), f"the examples of {name} need the heading 'Examples'"
    run = [e for e in test.examples if not e.options.get(doctest.SKIP)]
    assert name in NEEDS_NETWORK or any("hd." in e.source or "hisdiff_sd" in e.source for e in run), (
        f"no example of {name} is run that a user could type"
    )


@pytest.mark.filterwarnings("ignore::hisdiff_sd._errors.HisDiffWarning")
@pytest.mark.parametrize(
    "name", [n for n, t in EXAMPLES.items() if not all(e.options.get(doctest.SKIP) for e in t.examples)]
)
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
