"""Which slides a fold is judged on, and which it learns from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hisdiff_sd._errors import HisDiffError, MissingFileError

Manifest = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Split:
    """One fold: the ids of the slides it is judged on, and of all others, from which everything is learned."""

    name: str
    test: tuple[str, ...]
    train: tuple[str, ...]


def make_splits(names: Sequence[str], patients: Mapping[str, str], by: str | Path | Manifest) -> list[Split]:
    """Divide slides into folds.

    Parameters
    ----------
    names
        Ids of all slides.
    patients
        Patient of every slide, empty if unknown.
    by
        ``"slide"``, ``"patient"``, or which slides each fold is judged on: a mapping, or a JSON or CSV file with it.

    Returns
    -------
    The folds, each with slides to learn from; no slide is judged twice.
    """
    if isinstance(by, str) and by == "slide":
        folds: dict[str, list[str]] = {n: [n] for n in names}
    elif isinstance(by, str) and by == "patient":
        folds = _of_patients(names, patients)
    else:
        folds = _fixed(names, by)
    splits = [Split(f, tuple(test), tuple(n for n in names if n not in test)) for f, test in folds.items()]
    alone = [s.name for s in splits if not s.train]
    if alone:
        raise HisDiffError(
            f"fold {alone[0]!r} is judged on all slides ({', '.join(names)}) and has none to learn from; "
            "give slides of at least two folds"
        )
    return splits


def _of_patients(names: Sequence[str], patients: Mapping[str, str]) -> dict[str, list[str]]:
    unknown = [n for n in names if not patients[n]]
    if unknown:
        raise HisDiffError(
            f"by='patient', and the patient of these slides is unknown: {', '.join(unknown)}; set "
            "sdata.attrs['hisdiff_sd']['patient'], leave them out, or give the folds as a mapping"
        )
    return {p: [n for n in names if patients[n] == p] for p in dict.fromkeys(patients[n] for n in names)}


def _fixed(names: Sequence[str], by: str | Path | Manifest) -> dict[str, list[str]]:
    """The folds of a manifest, checked against the slides that there are."""
    given = by if isinstance(by, Mapping) else _read(Path(by))
    folds = {str(f): [test] if isinstance(test, str) else [str(t) for t in test] for f, test in given.items()}
    judged = [t for test in folds.values() for t in test]
    empty = [f for f, test in folds.items() if not test]
    unknown = sorted(set(judged) - set(names))
    twice = sorted({t for t in judged if judged.count(t) > 1})
    if not folds or empty:
        raise HisDiffError(f"fold {empty[0]!r} has no test slides" if empty else "by= names no folds")
    if unknown:
        raise HisDiffError(f"by= names slides that are not given: {', '.join(unknown)}; slides: {', '.join(names)}")
    if twice:
        raise HisDiffError(f"by= has slides that are tested more than once: {', '.join(twice)}; name each once")
    return folds


def _read(path: Path) -> dict[str, str | list[str]]:
    """Folds of a JSON object, or of a CSV table with the columns ``fold`` and ``slide`` (one line a test slide)."""
    if not path.is_file():
        raise MissingFileError(
            f"by={str(path)!r} is neither 'slide' nor 'patient' nor a file; give one of these, or a mapping fold -> slides"
        )
    try:
        if path.suffix.lower() == ".csv":
            table = pd.read_csv(path, dtype=str)
            return {str(f): list(rows) for f, rows in table.groupby("fold", sort=False)["slide"]}
        read = json.loads(path.read_text())
    except (KeyError, ValueError) as error:
        raise HisDiffError(
            f"{path} is no manifest of folds ({error}); a JSON object fold -> test slides, or a CSV with the columns "
            "fold and slide"
        ) from error
    if not isinstance(read, dict):
        raise HisDiffError(f"{path} holds a {type(read).__name__}; a JSON object fold -> test slides is needed")
    return read
