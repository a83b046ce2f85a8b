"""The command line, run in this process."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hisdiff_sd import cli

Ran = tuple[int, str, str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command; returns its exit code, standard output and standard error."""

    def call(*words: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["hisdiff-sd", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            cli.main()
        return int(done.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def own_stores(stores: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with copies of the three stores that a test may change."""
    for name, path in stores.items():
        shutil.copytree(path, tmp_path / "stores" / f"{name}.zarr")
    return tmp_path / "stores"


@pytest.fixture(scope="session")
def saved_model(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model of S1 and S2. Read only."""
    folder = tmp_path_factory.mktemp("models") / "model"
    model.save(folder)
    return folder
