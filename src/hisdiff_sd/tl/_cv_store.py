"""The files of a cross-validation: what was asked for, and per fold the truth and the predictions of every row."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np
import pandas as pd

from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd._version import __version__

MANIFEST = "cross_validation.json"
_FORMAT = 1
_FLOAT16_MOST = 60_000.0


class Store:
    """A folder that keeps predictions, each written whole or not at all.

    Parameters
    ----------
    folder
        Where ``cross_validation.json`` lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def manifest(self) -> dict[str, Any]:
        """What the predictions were made for."""
        path = self.folder / MANIFEST
        if not path.is_file():
            raise MissingFileError(f"no cross-validation in {self.folder}: {MANIFEST} is missing")
        read: dict[str, Any] = json.loads(path.read_text())
        if read.get("format") != _FORMAT:
            raise HisDiffError(f"{path} has format {read.get('format')!r}; this version reads {_FORMAT}")
        return read

    def start(self, design: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
        """Write what is asked for, or go on with what is there if that was the same; another is refused."""
        wanted = json.loads(json.dumps({"design": design, "rows": rows}))
        path = self.folder / MANIFEST
        if path.exists():
            there = self.manifest()
            self._check(there["design"], wanted["design"], "another cross-validation")
            for name in set(there["rows"]) & set(wanted["rows"]):
                self._check(there["rows"][name], wanted["rows"][name], f"row {name!r} with other settings")
            wanted["rows"] = there["rows"] | wanted["rows"]
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise HisDiffError(f"{self.folder} holds no cross-validation, and is not empty; choose another folder")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"format": _FORMAT, "version": __version__, **wanted}, indent=1) + "\n"
            write_whole(path, lambda file: file.write(text.encode()))
        except OSError as error:
            raise HisDiffError(
                f"cannot write {self.folder} ({error.strerror or error}); choose another folder"
            ) from error

    def _check(self, there: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
        differs = [k for k in dict.fromkeys((*there, *wanted)) if there.get(k) != wanted.get(k)]
        if differs:
            told = "; ".join(f"{k}: {_short(there.get(k))} there, {_short(wanted.get(k))} asked for" for k in differs)
            raise HisDiffError(
                f"{self.folder} holds {what} ({told}); choose another folder, or give the row another name"
            )

    def work(self, fold: str) -> Path:
        """A folder for what the rows of a fold make on the way."""
        path = self.folder / file_name(fold) / "work"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def has(self, fold: str, row: str) -> bool:
        """Whether a row's predictions of a fold are there, whole."""
        return self._path(fold, row, ".json").exists()

    def write_truth(self, fold: str, slides: Sequence[SlideInputs], truth: Sequence[Measured]) -> None:
        """Keep what was measured on the test slides of a fold, with barcodes and places."""
        arrays: dict[str, np.ndarray] = {}
        for i, (slide, measured) in enumerate(zip(slides, truth, strict=True)):
            arrays |= {f"y_{i}": measured.y, f"totals_{i}": measured.totals, f"xy_{i}": slide.xy}
            arrays[f"index_{i}"] = np.asarray([str(b) for b in slide.index])
        self._write_arrays(self.folder / file_name(fold) / "truth.npz", arrays)

    def truth(self, fold: str, i: int) -> tuple[Measured, np.ndarray, pd.Index]:
        """Measured expression, (n, 2) places in level-0 px and barcodes of the i-th test slide of a fold."""
        with np.load(self.folder / file_name(fold) / "truth.npz") as stored:
            return (
                Measured(stored[f"y_{i}"], stored[f"totals_{i}"]),
                stored[f"xy_{i}"],
                pd.Index(stored[f"index_{i}"]),
            )

    def write(self, fold: str, row: str, samples: Sequence[np.ndarray], record: Mapping[str, Any]) -> None:
        """Keep the samples of a row for the test slides of a fold, and how they were made."""
        arrays = {f"samples_{i}": _compact(s) for i, s in enumerate(samples)}
        self._write_arrays(self._path(fold, row, ".npz"), arrays)
        text = json.dumps({"version": __version__, **record}, indent=1) + "\n"
        # the last file says that all is done
        write_whole(self._path(fold, row, ".json"), lambda file: file.write(text.encode()))

    def samples(self, fold: str, row: str, i: int) -> np.ndarray:
        """(S, n, G) samples of the i-th test slide of a fold, as they are stored: float32 points, float16 ensembles."""
        with np.load(self._path(fold, row, ".npz")) as stored:
            array: np.ndarray = stored[f"samples_{i}"]
            return array

    def record(self, fold: str, row: str) -> dict[str, Any]:
        """How a row's predictions of a fold were made."""
        read: dict[str, Any] = json.loads(self._path(fold, row, ".json").read_text())
        return read

    def _path(self, fold: str, row: str, ending: str) -> Path:
        return self.folder / file_name(fold) / f"row-{file_name(row)}{ending}"

    def _write_arrays(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: np.savez(file, **dict(arrays)))  # type: ignore[arg-type]


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.part")
    with open(beside, "wb") as file:
        write(file)
    os.replace(beside, path)


def _compact(samples: np.ndarray) -> np.ndarray:
    """Ensembles in half the bytes: their own noise is far larger than the rounding."""
    small = len(samples) > 1 and np.abs(samples).max(initial=0.0) < _FLOAT16_MOST
    return samples.astype(np.float16 if small else np.float32)


def file_name(name: str) -> str:
    """A name as a file has it on any system."""
    quoted = quote(name, safe=" ")
    return quoted.replace(".", "%2E")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
