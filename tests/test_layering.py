"""The architecture, held by reading every file of the package: who may import whom, and how long things may get."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "hisdiff_sd"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE
FILES = sorted(SOURCE.rglob("*.py"))

UPPER = tuple(f"{PACKAGE}.{layer}" for layer in ("pp", "tl", "pl"))
LOWER = ("io", "tiles", "encoders", "nn", "metrics")
WITHOUT_SPATIALDATA = ("tiles", "encoders", "nn", "metrics")
SPATIALDATA = ("spatialdata", "spatialdata_io", "spatialdata_plot")
TORCH = ("torch", "torchvision", "lightning", "timm")
HEAVY = ("torch", "spatialdata", "timm", "lightning", "squidpy", "scanpy", "diffusers")

MOST_LINES_FILE = 400
MOST_LINES_FUNCTION = 60
# "path/in/package.py" or "path/in/package.py:function" -> why it may be longer
LONGER_WITH_REASON: dict[str, str] = {}


def imported(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything a file imports, at any depth; `path` is relative to the package."""
    package = [PACKAGE, *path.parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # "from hisdiff_sd import tl" imports hisdiff_sd.tl, so the names count as well
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def is_in(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def is_metrics_import(name: str) -> bool:
    """Whether metrics may import it: stdlib, numpy, scipy, itself and the private modules of the package's root."""
    top, _, rest = name.partition(".")
    if top == PACKAGE:
        return is_in(name, (f"{PACKAGE}.metrics",)) or rest.startswith("_")
    return top in ("numpy", "scipy") or top in sys.stdlib_module_names


def import_violations(path: Path, source: str) -> list[str]:
    """What in a file breaks the layering; `path` is relative to the package."""
    layer = path.parts[0] if len(path.parts) > 1 else ""
    found = []
    for line, name in imported(path, ast.parse(source)):
        reasons = {
            f"{layer} never imports pp, tl, pl": layer in LOWER and is_in(name, UPPER),
            f"{layer} never imports spatialdata": layer in WITHOUT_SPATIALDATA and is_in(name, SPATIALDATA),
            "io imports no torch": layer == "io" and is_in(name, TORCH),
            "metrics import numpy, scipy and the standard library": layer == "metrics" and not is_metrics_import(name),
        }
        found += [f"{path}:{line}: imports {name}, but {why}" for why, broken in reasons.items() if broken]
    return found


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring: a full docstring makes a function longer, not harder to read."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def length_violations(path: Path, source: str) -> list[str]:
    """Files and functions that are two ideas in one; `path` is relative to the package."""
    sizes = {path.as_posix(): (len(source.splitlines()), MOST_LINES_FILE)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            sizes[f"{path.as_posix()}:{node.name}"] = (code_lines(node), MOST_LINES_FUNCTION)
    return [
        f"{where} has {lines} lines, at most {most} are allowed: split it"
        for where, (lines, most) in sizes.items()
        if lines > most and where not in LONGER_WITH_REASON
    ]


def test_all_layers_are_read() -> None:
    assert {path.relative_to(SOURCE).parts[0] for path in FILES} >= {
        *LOWER,
        "pp",
        "tl",
        "pl",
        "datasets",
        "__init__.py",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_file_keeps_the_layering(path: Path) -> None:
    assert import_violations(path.relative_to(SOURCE), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_file_and_functions_are_short(path: Path) -> None:
    assert length_violations(path.relative_to(SOURCE), path.read_text(encoding="utf-8")) == []


def test_no_reason_is_out_of_date() -> None:
    """Every exception still names a file of the package."""
    assert [where for where in LONGER_WITH_REASON if not (SOURCE / where.partition(":")[0]).is_file()] == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, {PACKAGE}; print([name for name in {HEAVY!r} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("io/_hest.py", "from ..tl import predict"),
        ("io/_hest.py", "from .. import pp"),
        ("io/__init__.py", "from ..pl import expression"),
        ("tiles/_grid.py", "from hisdiff_sd import tl"),
        ("encoders/_timm.py", "import hisdiff_sd.pp as pp"),
        ("nn/_network.py", "import importlib\nimportlib.import_module('hisdiff_sd.tl')"),
        ("nn/deep/_part.py", "from ...pl import expression"),
        ("metrics/_scores.py", "def f():\n    from hisdiff_sd.tl._train import train"),
        ("nn/_network.py", "def f():\n    if True:\n        import spatialdata as sd"),
        ("encoders/_timm.py", "from spatialdata.models import TableModel"),
        (
            "tiles/_grid.py",
            "import typing\nif typing.TYPE_CHECKING:\n    from spatialdata import SpatialData",
        ),
        ("metrics/_scores.py", "__import__('spatialdata')"),
        ("metrics/_scores.py", "import pandas as pd"),
        ("metrics/_scores.py", "from hisdiff_sd.nn import HisDiffNetwork"),
        ("io/_image.py", "def f():\n    import torch.nn"),
        ("io/_image.py", "from torch import Tensor"),
    ],
)
def test_the_checker_finds_a_forbidden_import(path: str, source: str) -> None:
    """The forbidden import is the last line of each source, and the only thing that is found."""
    violations = import_violations(Path(path), source)
    assert violations
    assert {violation.partition(" ")[0] for violation in violations} == {f"{path}:{len(source.splitlines())}:"}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "tl/_predict.py",
            "from ..pp import embed\nimport torch, spatialdata\nfrom hisdiff_sd import nn",
        ),
        (
            "io/_hest.py",
            "import spatialdata\nfrom .._errors import HisDiffError\nfrom . import _slide",
        ),
        ("io/_hest.py", "from hisdiff_sd.tiles import grid\nimport torchless"),
        ("nn/_network.py", "import torch\nfrom hisdiff_sd._errors import HisDiffError"),
        (
            "metrics/_scores.py",
            "import math, numpy.typing\nfrom hisdiff_sd._errors import HisDiffError",
        ),
        ("metrics/__init__.py", "from . import _scores\nfrom ._scores import scores\nfrom scipy import sparse"),
        ("cli.py", "def demo():\n    from hisdiff_sd import tl, pl"),
    ],
)
def test_the_checker_lets_allowed_imports_pass(path: str, source: str) -> None:
    assert import_violations(Path(path), source) == []


def test_the_checker_finds_long_functions_and_files() -> None:
    body = "\n".join(f"    x{i} = {i}" for i in range(MOST_LINES_FUNCTION))
    docstring = '    """\n' + "\n" * MOST_LINES_FUNCTION + '    """\n'
    (found,) = length_violations(Path("nn/_fake.py"), f"class A:\n  def far(self):\n{body}")
    assert found.startswith("nn/_fake.py:far has 61 lines")
    assert length_violations(Path("nn/_fake.py"), f"def documented():\n{docstring}    return 1") == []
    (found,) = length_violations(Path("nn/_fake.py"), "x = 1\n" * (MOST_LINES_FILE + 1))
    assert found.startswith("nn/_fake.py has 401 lines")
