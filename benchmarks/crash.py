"""Stores that survive: processes are killed while they work on a store, and two write into one at the same time.

    python benchmarks/crash.py --kills 50 --json FILE

Small synthetic slides are converted, embedded, predicted and overwritten (the store, the embedding, the prediction) by
processes that are killed with SIGKILL, `--kills` of each of the four. Two thirds are killed at a random moment after they
began to write an element, some while they write partial results, the others at a random moment of their run. Before it is
killed a process is stopped, and whether it was inside a write is read from the disk: a stage is there, or a file of partial
results that is not yet whole.

After every kill a fresh process opens the store with `spatialdata.read_zarr`. Every element has to be what it was before
the work, or what it is after it, by a hash of its content; then the same work is done again, and has to end as if nothing
had happened: the same hashes, nothing left over, nothing found by `hd.io.check`.

All processes are forked from this one after its imports, before it has threads. Linux, macOS.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # forked processes would wait for threads that they do not have

import numpy as np
import pandas as pd
import spatialdata
from _common import write_json
from anndata import AnnData
from spatialdata.models import TableModel

import hisdiff_sd as hd
from hisdiff_sd.io import _atomic, _lock
from hisdiff_sd.io._atomic import PARTIAL, STAGE, scratch_folder
from hisdiff_sd.io._store import write_table
from hisdiff_sd.pp import _partial

STAGE_SHARE, PARTIAL_SHARE = 0.65, 0.1  # of kills that wait until a write begins
TRIES = 20  # to kill a process before it is done
_partial._SECONDS = 0.0  # partial results of every batch are written


class Child:
    """A process forked from this one; what its work returns comes back as JSON."""

    def __init__(self, work: Callable[..., Any], *arguments: Any) -> None:
        self._reader, writer = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                warnings.simplefilter("ignore")
                result = work(*arguments)
                with os.fdopen(writer, "w") as pipe:
                    json.dump(result, pipe)
                code = 0
            except BaseException:  # noqa: BLE001  # it ends here
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)

    def result(self) -> Any:
        """What the work returned; an error if the process failed."""
        with os.fdopen(self._reader) as pipe:
            text = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if code:
            raise RuntimeError(f"a process ended with {code}")
        return json.loads(text)

    def kill(self, store: Path) -> bool | None:
        """Kill the process; whether it was writing, None if it was done before."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        os.close(self._reader)
        if not os.WIFSTOPPED(status):
            return None
        inside = is_writing(store)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return inside

    def is_done(self) -> bool:
        """Whether the process has ended; it still can be asked for its result or killed."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def is_writing(store: Path, what: tuple[str, ...] = (f"{STAGE}*", f"{PARTIAL}*/building")) -> bool:
    """Whether a stage, or a file of partial results that is not yet whole, lies beside a store."""
    return any(True for pattern in what for _ in scratch_folder(store).glob(pattern))


# the work: functions of the folder with slides and model, and of the store


def prepare(folder: Path) -> list[str]:
    """Slides, a model, and a store for each work to begin with; the modules that were imported meanwhile."""
    root = hd.datasets.synthetic(folder / "hest", slides=("S1", "S2"), size_um=(1500, 1300), mpp=1.0, n_genes=20)
    stores = {name: folder / f"{name}.zarr" for name in ("S1", "S2")}
    for name, path in stores.items():
        hd.io.write(hd.io.hest(root, name), path)
    shutil.copytree(stores["S1"], folder / "embed.zarr")
    for path in stores.values():
        embed(folder, path)
    shutil.copytree(stores["S1"], folder / "predict.zarr")
    model = hd.tl.train(list(stores.values()), encoder="morphology", preset="small", epochs=1)
    model.save(folder / "model")
    predict(folder, stores["S1"])
    hd.io.check(stores["S1"])
    return sorted(sys.modules)


def convert(folder: Path, store: Path) -> None:
    hd.io.write(hd.io.hest(folder / "hest", "S1"), store)


def embed(folder: Path, store: Path) -> None:
    hd.pp.embed(hd.io.open(store), "morphology", batch_size=4)


def predict(folder: Path, store: Path) -> None:
    hd.tl.predict(hd.io.open(store), folder / "model", n_samples=4, steps=2)


def overwrite_store(folder: Path, store: Path) -> None:
    hd.io.write(hd.io.hest(folder / "hest", "S2"), store, overwrite=True)


def overwrite_embedding(folder: Path, store: Path) -> None:
    hd.pp.embed(hd.io.open(store), "morphology", batch_size=4, tile_um=150, overwrite=True)


def overwrite_prediction(folder: Path, store: Path) -> None:
    hd.tl.predict(hd.io.open(store), folder / "model", n_samples=5, steps=2, seed=1, overwrite=True)


# by kind: works that take turns, each with the store it begins with
WORKS: dict[str, list[tuple[Callable[[Path, Path], None], str | None]]] = {
    "convert": [(convert, None)],
    "embed": [(embed, "embed.zarr")],
    "predict": [(predict, "predict.zarr")],
    "overwrite": [(work, "S1.zarr") for work in (overwrite_store, overwrite_embedding, overwrite_prediction)],
}


# what is looked at afterwards, in processes of their own


def content(store: Path) -> dict[str, str] | None:
    """A hash of every element, as any reader gets it; None if there is no store."""
    if not store.exists():
        return None
    sdata = spatialdata.read_zarr(store)
    found = {"attrs": digest(sdata.attrs)}
    for kind, name, element in sdata.gen_elements():
        if kind == "tables":
            values = element.X.toarray() if hasattr(element.X, "toarray") else element.X
            layers = {layer: element.layers[layer] for layer in element.layers if layer is not None}
            parts = [values, layers, element.obs.to_csv(), element.var.to_csv(), dict(element.obsm), dict(element.uns)]
        elif kind == "shapes":
            parts = [element.to_wkb().to_csv()]
        else:
            parts = [level.image.to_numpy() for level in element.children.values()]
        found[f"{kind}/{name}"] = digest(parts)
    return found


def digest(value: Any) -> str:
    """A hash that does not depend on the order of keys."""
    if isinstance(value, dict):
        value = [[key, digest(value[key])] for key in sorted(value)]
    elif isinstance(value, list):
        value = [digest(part) for part in value]
    elif isinstance(value, np.ndarray):
        value = [str(value.shape), value.tobytes().hex() if value.dtype.kind != "O" else str(value.tolist())]
    return hashlib.sha256(str(value).encode()).hexdigest()[:12]


def look_and_finish(work: Callable[[Path, Path], None], folder: Path, store: Path) -> dict[str, Any]:
    """What is in a store after a kill, if it can be opened; what is in it and beside it when the work was done again."""
    result: dict[str, Any] = {"opened": False, "content": None, "then": None, "left": [], "error": ""}
    try:
        result["content"] = content(store)
        result["opened"] = True
        if not (work is convert and store.exists()):
            work(folder, store)
        result["then"] = content(store)
    except Exception as error:  # noqa: BLE001  # whatever keeps a reader from opening it, or the work from being done
        result["error"] = f"{type(error).__name__}: {error}"
        return result
    result["left"] = [p.name for p in scratch_folder(store).glob("*-*")] + hd.io.check(store)["problem"].tolist()
    return result


# killing


class Case:
    """One work that is killed again and again, on fresh copies of the store it begins with."""

    def __init__(self, work: Callable[[Path, Path], None], begin: str | None, folder: Path) -> None:
        self.work, self.folder = work, folder
        self._begin = None if begin is None else folder / begin
        self.store = folder / work.__name__ / "S1.zarr"
        self._reset()
        self.before = Child(content, self.store).result()
        self.seconds, self.writing = self._timed()
        self.after = Child(content, self.store).result()
        assert self.after != self.before

    def _reset(self) -> None:
        shutil.rmtree(self.store.parent, ignore_errors=True)
        self.store.parent.mkdir()
        if self._begin is not None:
            shutil.copytree(self._begin, self.store)

    def _timed(self) -> tuple[float, float]:
        """Seconds of a run that is left alone, and those of its last write."""
        child, start, since, longest = Child(self.work, self.folder, self.store), time.monotonic(), None, 0.0
        while not child.is_done():
            now = time.monotonic()
            if not is_writing(self.store):
                since = None
            elif since is None:
                since = now
            else:
                longest = max(longest, now - since)
            time.sleep(0.001)
        child.result()
        return time.monotonic() - start, longest

    def kill(self, rng: random.Random) -> bool:
        """Kill one run before it is done; whether it was inside a write."""
        for _ in range(TRIES):
            self._reset()
            draw, child, start = rng.random(), Child(self.work, self.folder, self.store), time.monotonic()
            if draw < STAGE_SHARE:
                self._wait(child, f"{STAGE}*")
                time.sleep(rng.uniform(0, self.writing))
            elif draw < STAGE_SHARE + PARTIAL_SHARE and self.work not in (convert, overwrite_store):
                self._wait(child, f"{PARTIAL}*/building")
            else:
                time.sleep(max(0.0, rng.uniform(0, self.seconds) - (time.monotonic() - start)))
            inside = child.kill(self.store)
            if inside is not None:
                return inside
            self._reset()  # the machine has become quicker since it was timed
            self.seconds, self.writing = self._timed()
        raise RuntimeError(f"{self.work.__name__} was always done before it was killed")

    def _wait(self, child: Child, pattern: str) -> None:
        while not is_writing(self.store, (pattern,)) and not child.is_done():
            time.sleep(0.0005)


def killed(kind: str, folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Figures of one kind of work."""
    cases, rng = [Case(work, begin, folder) for work, begin in WORKS[kind]], random.Random(f"{kind} {seed}")
    figures = dict.fromkeys(("kills", "inside_a_write", "opened", "not_there_yet", "lost", "unfinished"), 0)
    for number in range(kills):
        case = cases[number % len(cases)]
        figures["inside_a_write"] += case.kill(rng)
        figures["kills"] += 1
        seen = Child(look_and_finish, case.work, case.folder, case.store).result()
        lost = seen["content"] not in (case.before, case.after)
        unfinished = seen["then"] != case.after or bool(seen["left"])
        figures["opened"] += seen["opened"]
        figures["not_there_yet"] += seen["opened"] and seen["content"] is None
        figures["lost"] += lost
        figures["unfinished"] += unfinished
        if lost or unfinished:
            print(case.work.__name__, {**seen, "before": case.before, "after": case.after}, file=sys.stderr)
        if number % 10 == 9:
            print(f"{kind} so far: {figures}", file=sys.stderr, flush=True)
    return figures


# races


def add(store: Path, name: str, value: int, gate: Path) -> None:
    """Write a table full of `value`, at the moment the gate opens."""
    sdata = spatialdata.read_zarr(store)
    index = sdata["spots"].index
    obs = pd.DataFrame({"region": pd.Categorical(["spots"] * len(index)), "instance_id": index.to_numpy()}, index=index)
    width = 2 + value % 5
    table = AnnData(np.full((len(index), width), value, np.float32), obs, pd.DataFrame(index=[*map(str, range(width))]))
    table = TableModel.parse(table, region="spots", region_key="region", instance_key="instance_id")
    (gate.parent / f"ready {name}").touch()
    while not gate.exists():
        time.sleep(0.0002)
    write_table(sdata, name, table, overwrite=True)


def both_there(store: Path, value: int) -> bool:
    sdata = spatialdata.read_zarr(store)
    tables = [sdata.tables.get(name) for name in ("left", "right")]
    return all(t is not None and t.shape[1] == 2 + value % 5 and bool((value == t.X).all()) for t in tables)


def races(folder: Path, rounds: int) -> int:
    """Rounds in which one of two tables, written by two processes at once, was lost; from the second on both are replaced."""
    store, lost = folder / "race.zarr", 0
    shutil.copytree(folder / "S1.zarr", store)
    for value in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            gate = Path(place) / "gate"
            children = [Child(add, store, name, value, gate) for name in ("left", "right")]
            while len(list(Path(place).iterdir())) < 2:
                time.sleep(0.001)
            gate.touch()
            for child in children:
                child.result()
        lost += not Child(both_there, store, value).result()
    return lost


def all_at_once(tasks: dict[str, tuple], jobs: int) -> dict[str, Any]:
    """What functions return, each in a process of its own, some at a time."""
    waiting, running, results = dict(tasks), {}, {}
    while waiting or running:
        while waiting and len(running) < jobs:
            name = next(iter(waiting))
            running[name] = Child(*waiting.pop(name))
        time.sleep(0.05)
        for name in [name for name, child in running.items() if child.is_done()]:
            results[name] = running.pop(name).result()
            print(f"{name}: {results[name]}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each of convert, embed, predict and overwrite")
    parser.add_argument("--races", type=int, default=50)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="kinds of work at a time")
    parser.add_argument("--fallback", action="store_true", help="as on file systems without exchange and without flock")
    options = parser.parse_args()
    if options.fallback:
        _atomic._exchange, _lock._has_flock = lambda a, b: False, lambda folder: False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in Child(prepare, folder).result():
            with suppress(Exception):  # what cannot be imported alone; it only saves the children time
                importlib.import_module(name)
        gc.freeze()  # or every child would copy the memory of all objects
        tasks: dict[str, tuple] = {kind: (killed, kind, folder, options.kills, options.seed) for kind in WORKS}
        by_kind = all_at_once(tasks | {"races": (races, folder, options.races)}, options.jobs)
    races_lost = by_kind.pop("races")
    totals = {key: sum(figures[key] for figures in by_kind.values()) for key in by_kind["convert"]}
    write_json(options.json, {**totals, "races": options.races, "races_lost": races_lost, "by_kind": by_kind})


if __name__ == "__main__":
    main()
