"""The file of an experiment: read, and refused with the nearest name where a key or a type is wrong."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from hisdiff_sd._cli._options import PRESETS, TARGETS, TRUNKS
from hisdiff_sd._errors import HisDiffError, MissingFileError, check_one_of


@dataclass(frozen=True)
class Data:
    """``[data]``: which slides, and which of them are held out.

    Attributes
    ----------
    test
        Ids of the slides that are held out.
    source
        A folder in HEST layout, or a sample sheet, whose slides are converted.
    stores
        In place of `source`: stores that are there already, or folders that hold some.
    slides
        Ids of the slides to use, the test slides among them; all by default.
    """

    test: list[str]
    source: Path | None = None
    stores: list[Path] = field(default_factory=list)
    slides: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Convert:
    """``[convert]``: as in `hd.io.convert`."""

    compression: str = "zstd"
    link: bool = False


@dataclass(frozen=True)
class Embed:
    """``[embed]``: as in `hd.pp.embed`."""

    encoder: str = "uni"
    weights: Path | None = None
    tile_um: float | None = None
    padding: str = "black"


@dataclass(frozen=True)
class Genes:
    """``[genes]``: as in `hd.pp.select_genes`; or `file`, a panel that is given, one gene a line."""

    n_top: int = 300
    include: list[str] = field(default_factory=list)
    file: Path | None = None


@dataclass(frozen=True)
class Train:
    """``[train]``: as in `hd.tl.train`."""

    target: str = "log2"
    preset: str = "flow"
    trunk: str | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Predict:
    """``[predict]``: as in `hd.tl.predict`."""

    n_samples: int = 32
    sampler: str | None = None
    steps: int | None = None
    keep_samples: int | None = None
    depth: float = 1.0


@dataclass(frozen=True)
class Report:
    """``[report]``: genes whose maps are shown; six by default."""

    genes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Experiment:
    """A whole experiment; the attributes are the keys and sections of its file.

    Attributes
    ----------
    out
        Folder for everything that is made.
    name
        What it is called in messages and results.
    device, seed, workers
        Of all steps that have them.
    """

    data: Data
    out: Path
    name: str = ""
    device: str = "auto"
    seed: int = 0
    workers: int = 1
    convert: Convert = Convert()
    embed: Embed = Embed()
    genes: Genes = Genes()
    train: Train = Train()
    predict: Predict = Predict()
    report: Report = Report()

    def __post_init__(self) -> None:
        if bool(self.data.stores) == (self.data.source is not None):
            raise HisDiffError(
                "[data] needs either source, a folder in HEST layout or a sample sheet, or stores, a list of stores"
            )
        if not self.data.test:
            raise HisDiffError("[data] test is empty; name the slides that are held out")
        check_one_of(self.train.target, TARGETS, "target")
        check_one_of(self.train.preset, PRESETS, "preset")
        if self.train.trunk is not None:
            check_one_of(self.train.trunk, TRUNKS, "trunk")
        for where, value in (
            ("n_top", self.genes.n_top),
            ("n_samples", self.predict.n_samples),
            ("workers", self.workers),
        ):
            if value < 1:
                raise HisDiffError(f"{where} = {value} is too few; give 1 or more")


def read_experiment(path: Path) -> Experiment:
    """Read an experiment; its paths are relative to the folder of the file.

    Raises
    ------
    HisDiffError
        If there is no such file, it is no TOML, or a key is unknown (with the nearest one), missing or of a wrong type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        raise MissingFileError(f"no file {path}; files *.toml there: {', '.join(there) or 'none'}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HisDiffError(f"{path} cannot be read as TOML: {error}") from error
    try:
        return experiment_of({"name": path.stem, **values}, path.parent)
    except HisDiffError as error:
        raise HisDiffError(f"{path}: {error}") from error


def experiment_of(values: dict[str, Any], folder: Path) -> Experiment:
    """An experiment of nested values, whose paths are relative to `folder`."""
    return _section(Experiment, values, folder, "")


def _section(cls: Any, values: dict[str, Any], folder: Path, where: str) -> Any:
    """A dataclass of the values of a section, checked key by key."""
    named = f"[{where}] " if where else ""
    kinds = get_type_hints(cls)
    for key in values:
        check_one_of(key, kinds, f"key of {f'[{where}]' if where else 'an experiment'}")
    for f in dataclasses.fields(cls):
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in values:
            raise HisDiffError(f"{named}{f.name} is missing")
    found = {}
    for key, value in values.items():
        if dataclasses.is_dataclass(kinds[key]):
            if not isinstance(value, dict):
                raise HisDiffError(f"{key} = {value!r} is no section; write [{key}] and its keys below")
            found[key] = _section(kinds[key], value, folder, key)
        else:
            found[key] = _value(kinds[key], value, folder, f"{named}{key} = {value!r}")
    return cls(**found)


def _value(kind: Any, value: Any, folder: Path, where: str) -> Any:
    """A value of a key, if it is of its type."""
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is list:
        if not isinstance(value, list):
            raise HisDiffError(f'{where} is no list; write ["...", "..."]')
        return [_value(get_args(kind)[0], v, folder, where) for v in value]
    if kind is Path and isinstance(value, str):
        return folder / Path(value).expanduser()
    if kind is float and type(value) is int:
        return float(value)
    # a bool is an int in Python, and a wrong word here
    if type(value) is not kind:
        raise HisDiffError(f"{where} is of a wrong type; {_TYPES[kind]} is needed")
    return value


_TYPES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


def as_toml(experiment: Experiment, base: Path) -> str:
    """The file of an experiment, without what is left at its default."""
    lines: list[str] = []
    sections: list[str] = []
    for f in dataclasses.fields(experiment):
        value = getattr(experiment, f.name)
        if dataclasses.is_dataclass(value):
            inside = [f"{g.name} = {_toml(getattr(value, g.name), base)}" for g in _changed(value)]
            sections += [f"\n[{f.name}]", *inside] if inside else []
        elif value != f.default:
            lines.append(f"{f.name} = {_toml(value, base)}")
    return "\n".join(lines + sections) + "\n"


def _changed(section: Any) -> Sequence[dataclasses.Field[Any]]:
    blank = {
        f.name: f.default_factory() if callable(f.default_factory) else f.default for f in dataclasses.fields(section)
    }
    return [f for f in dataclasses.fields(section) if getattr(section, f.name) != blank[f.name]]


def _toml(value: Any, base: Path) -> str:
    if isinstance(value, Path):
        value = str(value.relative_to(base)) if value.is_relative_to(base) else str(value)
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v, base) for v in value) + "]"
    # text, numbers and booleans of TOML are written as in JSON, but for a character that JSON lets pass
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
