"""Stores that survive: processes are killed while they work on a store, and two write into one at the same time.

    python benchmarks/crash.py --kills 50 --json FILE

Small synthetic slides are converted, embedded, predicted and overwritten (the store, the embedding, the prediction) by
processes that are killed with SIGKILL, `--kills` of each of the four. Seven in ten are killed at a random moment after
they began to write, the others at a random moment of their run. Before it is killed a process is stopped, and whether it
was inside a write is read from the disk: a stage is there, or a file of partial results that is not yet whole.

After every kill a fresh process opens the store with `spatialdata.read_zarr`. Every element has to be what it was before
the work, or what it is after it, by a hash of its content; then the same work is done again, and has to end as if nothing
had happened: the same hashes, nothing left over, nothing found by `hd.io.check`.

All processes are forked from this one after its imports, before it has threads. Linux, macOS.
"""

from __future__ import annotations

import argparse
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
from hisdiff_sd.io._atomic import PARTIAL, STAGE, scratch_folder
from hisdiff_sd.io._store import write_table
from hisdiff_sd.pp import _partial

INSIDE_SHARE = 0.7
TRIES = 20  # to kill a process before it is done
ROUNDS = 50
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


def is_writing(store: Path) -> bool:
    """Whether something is being written into a store, or beside it."""
    scratch = scratch_folder(store)
    return any(scratch.glob(f"{STAGE}*")) or any(scratch.glob(f"{PARTIAL}*/building"))


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
    found = {"attrs": json.dumps(sdata.attrs, sort_keys=True, default=str)}
    for kind, name, element in sdata.gen_elements():
        digest = hashlib.sha256()
        if kind == "tables":
            values = element.X.toarray() if hasattr(element.X, "toarray") else np.asarray(element.X)
            layers = {layer: np.asarray(element.layers[layer]).tobytes() for layer in filter(None, element.layers)}
            for part in (values.tobytes(), element.obs.to_csv().encode(), *layers, *layers.values(), str(element.uns)):
                digest.update(part if isinstance(part, bytes) else part.encode())
        elif kind == "shapes":
            digest.update(element.to_wkb().to_csv().encode())
        else:
            for level in element.children.values():
                digest.update(level.image.to_numpy().tobytes())
        found[f"{kind}/{name}"] = digest.hexdigest()[:16]
    return found


def look(store: Path) -> dict[str, Any]:
    """Whether the store can be opened, and what is in it."""
    try:
        return {"opened": True, "content": content(store)}
    except Exception as error:  # noqa: BLE001  # whatever keeps a reader from opening it
        return {"opened": False, "content": None, "error": f"{type(error).__name__}: {error}"}


def finish(work: Callable[[Path, Path], None], folder: Path, store: Path) -> dict[str, Any]:
    """Do the work again; what is in the store then, and what is left over."""
    try:
        if work is convert and store.exists():
            return {"content": content(store), "left": []}
        work(folder, store)
    except Exception as error:  # noqa: BLE001  # whatever keeps the work from being done
        return {"content": None, "left": [], "error": f"{type(error).__name__}: {error}"}
    left = [p.name for p in scratch_folder(store).glob("*-*")]
    left += [p.name for p in store.rglob("*.partial")]
    report = hd.io.check(store)
    return {"content": content(store), "left": left + report["problem"].tolist()}


# killing


class Case:
    """One work that is killed again and again, on fresh copies of the store it begins with."""

    def __init__(self, work: Callable[[Path, Path], None], begin: str | None, folder: Path) -> None:
        self.work, self.folder = work, folder
        self._begin = None if begin is None else folder / begin
        self.store = folder / "killed" / "S1.zarr"
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
        """Kill one run; whether it was inside a write."""
        wanted = rng.random() < INSIDE_SHARE
        for _ in range(TRIES):
            self._reset()
            child, start = Child(self.work, self.folder, self.store), time.monotonic()
            if wanted:
                while not is_writing(self.store) and not child.is_done():
                    time.sleep(0.0005)
                time.sleep(rng.uniform(0, self.writing))
            else:
                time.sleep(max(0.0, rng.uniform(0, self.seconds) - (time.monotonic() - start)))
            inside = child.kill(self.store)
            if inside is not None and (inside or not wanted):
                return inside
        raise RuntimeError(f"{self.work.__name__} was always done before it was killed")


def killed(cases: list[Case], kills: int, rng: random.Random) -> dict[str, int]:
    """Figures of one kind of work."""
    figures = dict.fromkeys(("kills", "inside_a_write", "opened", "not_there_yet", "lost", "unfinished"), 0)
    for number in range(kills):
        case = cases[number % len(cases)]
        figures["inside_a_write"] += case.kill(rng)
        figures["kills"] += 1
        seen = Child(look, case.store).result()
        figures["opened"] += seen["opened"]
        figures["not_there_yet"] += seen["opened"] and seen["content"] is None
        lost = seen["content"] not in (case.before, case.after)
        figures["lost"] += lost
        done = Child(finish, case.work, case.folder, case.store).result()
        unfinished = done["content"] != case.after or bool(done["left"])
        figures["unfinished"] += unfinished
        if lost or unfinished:
            print(case.work.__name__, json.dumps({"seen": seen, "done": done, "after": case.after}), file=sys.stderr)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each of convert, embed, predict and overwrite")
    parser.add_argument("--races", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in Child(prepare, folder).result():
            with suppress(Exception):  # what cannot be imported alone; it only saves the children time
                importlib.import_module(name)
        by_kind = {}
        for kind, works in WORKS.items():
            start = time.monotonic()
            by_kind[kind] = killed([Case(work, begin, folder) for work, begin in works], options.kills, rng)
            print(f"{kind}: {by_kind[kind]}, {time.monotonic() - start:.0f} s", flush=True)
        races_lost = races(folder, options.races)
    totals = {key: sum(figures[key] for figures in by_kind.values()) for key in next(iter(by_kind.values()))}
    write_json(options.json, {**totals, "races": options.races, "races_lost": races_lost, "by_kind": by_kind})


if __name__ == "__main__":
    main()
