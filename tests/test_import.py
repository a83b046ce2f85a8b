"""What `import hisdiff_sd as hd` costs and offers."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import pytest

import hisdiff_sd as hd

NAMESPACES = ["io", "pp", "tl", "pl", "nn", "encoders", "metrics", "datasets"]
SECONDS = 0.5


def run(code: str, **environment: str) -> str:
    """What a fresh Python prints; the package's own variables are only those given."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HISDIFF_SD_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_import_is_quick() -> None:
    code = "from time import perf_counter as t; a = t(); import hisdiff_sd; print(t() - a)"
    # another process can only make an import slower: the quickest of five is what it costs
    assert min(float(run(code)) for _ in range(5)) < SECONDS


def test_dir_lists_the_namespaces_before_they_are_loaded() -> None:
    code = "import sys, hisdiff_sd; print(*dir(hisdiff_sd)); print(*(m for m in sys.modules if m == 'hisdiff_sd.nn'))"
    listed = run(code).splitlines()
    assert set(listed[0].split()) >= {*NAMESPACES, "HisDiff", "settings", "__version__"}
    assert listed[1:] == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", ["working", "beware"]),
        ("", "logging.getLogger('hisdiff_sd').setLevel('WARNING')", ["beware"]),
        ("", "logging.basicConfig(format='mine: %(message)s')", ["mine: working", "mine: beware"]),
        ("logging.basicConfig(format='mine: %(message)s')", "", ["mine: beware"]),
        ("logging.getLogger('hisdiff_sd').addHandler(logging.NullHandler())", "", []),
    ],
)
def test_messages_are_seen_once_unless_the_program_says_otherwise(before: str, after: str, expected: list[str]) -> None:
    said = "log = logging.getLogger('hisdiff_sd'); log.info('working'); log.warning('beware')"
    code = f"import sys, logging; sys.stderr = sys.stdout; {before}\nimport hisdiff_sd; {after}\n{said}"
    assert run(code).splitlines() == expected


@pytest.mark.parametrize("name", dir(hd))
def test_everything_listed_is_there(name: str) -> None:
    assert getattr(hd, name) is not None


@pytest.mark.parametrize("name", NAMESPACES)
def test_namespaces_have_public_names_only(name: str) -> None:
    namespace = getattr(hd, name)
    assert namespace.__name__ == f"hisdiff_sd.{name}"
    assert namespace.__all__
    assert [public for public in namespace.__all__ if public.startswith("_") or not hasattr(namespace, public)] == []


def test_unknown_name_is_answered_with_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'ppp'; it has io, pp, tl, pl"):
        hd.ppp  # noqa: B018


def test_version_is_the_installed_one() -> None:
    assert hd.__version__ == importlib.metadata.version("hisdiff-sd")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "None auto"),
        ({"HISDIFF_SD_MODEL": "lab/breast", "HISDIFF_SD_DEVICE": "cpu"}, "lab/breast cpu"),
        ({"HISDIFF_SD_MODEL": "", "HISDIFF_SD_DEVICE": ""}, "None auto"),
    ],
)
def test_settings_start_from_the_environment(environment: dict[str, str], expected: str) -> None:
    assert run("import hisdiff_sd as hd; print(hd.settings.model, hd.settings.device)", **environment) == expected


def test_settings_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hd.settings, "model", "models/mine")
    assert hd.settings.model == "models/mine"


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_module_can_be_imported_first(every: int) -> None:
    """A worker of a cluster starts with whichever module its task names: no order of imports may be needed."""
    code = """
import importlib, pkgutil, sys, hisdiff_sd
names = [m.name for m in pkgutil.walk_packages(hisdiff_sd.__path__, "hisdiff_sd.")]
for name in names[:: int(sys.argv[1])]:
    for loaded in [m for m in sys.modules if m.partition(".")[0] == "hisdiff_sd"]:
        del sys.modules[loaded]
    importlib.import_module(name)
print(len(names))
"""
    shown = subprocess.run([sys.executable, "-c", code, str(every)], capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert int(shown.stdout.split()[-1]) > 90
