"""What lies in a store and beside it that should not, or that its metadata do not tell of."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hisdiff_sd._cohort import amount
from hisdiff_sd._errors import reason
from hisdiff_sd.io._atomic import (
    LOCK,
    PARTIAL,
    STAGE,
    finish_interrupted,
    finished_partials,
    partial_name,
    scratch_folder,
)
from hisdiff_sd.io._consolidated import GROUP, METADATA, elements, half_written, listed, on_disk, put, rewritten
from hisdiff_sd.io._lock import age, is_held, last_change, owner_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

_KINDS = ("images", "labels", "points", "shapes", "tables")
_SET_ASIDE = "broken-"
_REPAIR = "hd.io.check(path, repair=True)"


@dataclass
class Finding:
    """Something that is amiss, and how it is put right, if it can be without losing anything."""

    severity: str
    where: str
    problem: str
    way_out: str
    mend: Callable[[], object] | None = None
    repaired: bool = False


def leftovers(store: Path, *, repairing: bool) -> Iterator[Finding]:
    """What processes have left beside a store, or are building there; who, and how long ago."""
    scratch = scratch_folder(store)
    busy = not repairing and _is_held(scratch / LOCK)  # who repairs holds it itself
    if busy:
        yield Finding("note", str(store), f"is being written to by {_owner(scratch)}", "check again when it is done")
    elif not repairing and (owner := owner_of(scratch / LOCK)) is not None:
        problem = f"was held by process {owner.pid} of {owner.user} on {owner.host}, which is gone"
        yield Finding("note", str(scratch / LOCK), problem, "nothing: the next writer takes it over")
    for stage in sorted(scratch.glob(f"{STAGE}*")):
        if _is_held(stage / LOCK) is not False:
            yield Finding("note", str(stage), f"something is being built here by {_owner(stage)}", "leave it alone")
        else:
            problem = f"an interrupted write, {_gone(stage)}"
            yield Finding("warning", str(stage), problem, _REPAIR, partial(finish_interrupted, store))
    for folder in sorted(scratch.glob(f"{PARTIAL}*")):
        table = partial_name(folder)
        if _is_held(folder / LOCK) is not False:
            yield Finding("note", str(folder), f"table {table!r} is being made by {_owner(folder)}", "leave it alone")
        elif folder in finished_partials(store):
            problem = f"partial results of table {table!r}, which is made, {_gone(folder)}"
            yield Finding("warning", str(folder), problem, _REPAIR, partial(finish_interrupted, store))
        else:
            problem = f"partial results of table {table!r}, {_gone(folder)}"
            yield Finding("note", str(folder), problem, "call again what made them: it goes on; or delete the folder")
    for folder in sorted(scratch.glob(f"{_SET_ASIDE}*")):
        problem = f"set aside by a repair {_since(folder)}, {_size(folder)}"
        yield Finding("note", str(folder), problem, "delete it when nobody misses it")
    if not busy:
        for file in half_written(store):
            mend = partial(file.unlink, missing_ok=True)
            yield Finding("warning", str(file), f"a half-written metadata file, {_since(file)}", _REPAIR, mend)


def listing(store: Path, hollow: Path, readable: dict[str, SpatialData]) -> Iterator[Finding]:
    """Elements that the metadata name against those on disk; what can be read is put into `readable`.

    Every element is read by itself, through a link in a folder of `hollow`, so that one does not hide what ails another.
    """
    nodes = listed(store)
    folders = {f"{kind}/{f.name}": f for kind in _KINDS for f in sorted((store / kind).glob("*/"))}
    problems = {e: _read(store, e, hollow, readable) for e in folders}
    whole = [e for e, problem in problems.items() if problem is None]
    if nodes is None:
        halves = [e for e, problem in problems.items() if problem is not None]
        problem = "the metadata are not consolidated: the store cannot be opened at a URL"
        yield Finding("warning", METADATA, problem, _REPAIR, lambda: put(store, rewritten(store, drop=halves)))
    named = elements(nodes) if nodes is not None else set(whole)
    for e in sorted(named - set(folders)):
        problem = "is named in the metadata and is not on disk: readers stumble over it"
        yield Finding("error", e, problem, f"{_REPAIR}, then make it again", partial(_drop, store, e))
    for e in sorted(set(folders) - named):
        if problems[e] is None:
            problem = "is complete and not named in the metadata: no reader sees it"
            yield Finding("warning", e, problem, _REPAIR, partial(_add, store, e))
        else:
            problem = f"is half written ({problems[e]}), {_since(folders[e])}; the metadata do not name it"
            yield Finding("warning", e, problem, f"{_REPAIR}, then make it again", partial(_set_aside, store, e))
    for e in sorted(named & set(folders)):
        if problems[e] is not None:
            derived = e.partition("/")[0] in ("shapes", "tables")  # an image is all there is of a slide
            yield Finding(
                *("error", e, f"cannot be read: {problems[e]}"),
                f"{_REPAIR}, then make it again" if derived else "convert the slide again",
                partial(_set_aside, store, e) if derived else None,
            )
        elif nodes is not None and on_disk(folders[e], e) != _below(nodes, e):
            problem = "the metadata of the root are not those of the element: it was replaced without them"
            yield Finding("warning", e, problem, _REPAIR, partial(_add, store, e))


def _read(store: Path, element: str, hollow: Path, readable: dict[str, SpatialData]) -> str | None:
    """Read one element; why it cannot be, None if it can."""
    import spatialdata

    kind, name = element.split("/")
    alone = hollow / element.replace("/", " ")
    (alone / kind).mkdir(parents=True)
    root = json.loads((store / METADATA).read_text())
    root.pop("consolidated_metadata", None)
    (alone / METADATA).write_text(json.dumps(root))
    (alone / kind / METADATA).write_text(json.dumps(GROUP))
    (alone / kind / name).symlink_to(store / kind / name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a table without what it annotates
            sdata = spatialdata.read_zarr(alone)
        if not list(sdata.gen_elements()):
            return "no metadata"
    except Exception as error:  # noqa: BLE001  # a damaged file fails in many ways
        return reason(error)[:200]
    readable[element] = sdata
    return None


def _add(store: Path, element: str) -> None:
    put(store, rewritten(store, add={element: store / element}))


def _drop(store: Path, element: str) -> None:
    put(store, rewritten(store, drop=[element]))


def _set_aside(store: Path, element: str) -> None:
    """Move an element out of a store, into the hidden folder beside it; the metadata forget it first."""
    _drop(store, element)
    place = scratch_folder(store) / f"{_SET_ASIDE}{element.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    os.rename(store / element, place)


def _below(nodes: dict[str, dict], element: str) -> dict[str, dict]:
    return {key: node for key, node in nodes.items() if key == element or key.startswith(f"{element}/")}


def _is_held(lock: Path) -> bool | None:
    """Whether a lock is held; None if that cannot be tried, in a folder that may not be written to."""
    try:
        return lock.parent.is_dir() and is_held(lock)
    except OSError:
        return None


def _owner(folder: Path) -> str:
    return str(owner_of(folder / LOCK) or "a process")


def _gone(folder: Path) -> str:
    """Whose it was, how large and how old it is."""
    owner = owner_of(folder / LOCK)
    who = f"process {owner.pid} of {owner.user} on {owner.host}" if owner else "a process"
    return f"left {_since(folder)} by {who}, which is gone; {_size(folder)}"


def _since(path: Path) -> str:
    changed = last_change(path) if path.is_dir() else path.stat().st_mtime
    return f"{age(time.time() - (changed or path.stat().st_mtime))} ago"


def _size(folder: Path) -> str:
    return amount(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))
