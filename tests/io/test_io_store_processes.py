"""Writers that are killed, and writers that come at the same time.

One helper process has everything imported and forks a child for every attempt, which is much quicker than new processes.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import hisdiff_sd as hd

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

HELPER = '''
import os, random, signal, sys, time, traceback
import numpy as np, pandas as pd
import spatialdata
from anndata import AnnData
from spatialdata.models import TableModel
from hisdiff_sd.io._atomic import scratch_folder
from hisdiff_sd.io._store import write_table
from pathlib import Path

store = Path(sys.argv[2])
FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "ctypes.dlsym"}


def fork(work, *args):
    pid = os.fork()
    if pid:
        return pid
    try:
        work(*args)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def finish(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def table_of(sdata, value):
    """A table full of `value`, which also gives its width: no mixture of two can be taken for one of them."""
    index = sdata["spots"].index
    obs = pd.DataFrame({"region": pd.Categorical(["spots"] * len(index)), "instance_id": index.to_numpy()}, index=index)
    width = 2 + value % 5
    X = np.full((len(index), width), value, np.float32)
    table = AnnData(X, obs, pd.DataFrame(index=[f"v{i}" for i in range(width)]), layers={f"layer{value}": X.copy()})
    return TableModel.parse(table, region="spots", region_key="region", instance_key="instance_id")


def check_value(table, values):
    value = int(table.X[0, 0])
    assert value in values, (value, values)
    assert table.X.shape[1] == 2 + value % 5 and (table.X == value).all()
    assert list(map(str, filter(None, table.layers))) == [f"layer{value}"]
    assert (table.layers[f"layer{value}"] == value).all()
    return value


def add(name, value, ready=None, go=None, kill_at=None, counted=None):
    sdata = spatialdata.read_zarr(store)
    table = table_of(sdata, value)
    seen = 0

    def hook(event, args):
        nonlocal seen
        if event in FILE_EVENTS:
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if kill_at is not None:
        sys.addaudithook(hook)
    if ready is not None:
        os.write(ready, b"r")
    if go is not None:
        os.read(go, 1)
    write_table(sdata, name, table, overwrite=True)
    if counted is not None:
        os.write(counted, str(seen).encode())


def verify(allowed, fresh, told):
    """The old tables are all there, and a killed one is whole or not there; then the store can be written to again."""
    sdata = spatialdata.read_zarr(store)
    assert sdata["table"].X.sum() == float(sys.argv[3]), "the counts are not what they were"
    value = check_value(sdata["replaced"], allowed)
    if fresh in sdata.tables:
        check_value(sdata[fresh], {int(fresh[3:])})
    write_table(sdata, "after", table_of(sdata, 1), overwrite=True)
    again = spatialdata.read_zarr(store)
    assert {"table", "replaced", "after"} <= set(again.tables)
    check_value(again["replaced"], {value})
    assert not list(scratch_folder(store).glob("stage-*")), "what the killed process left is still there"
    os.write(told, str(value).encode())


def killed():
    """Kill writers of a table: some of a new one, most of one that is there."""
    rng = random.Random(0)
    reader, writer = os.pipe()
    assert finish(fork(add, "replaced", 100, None, None, -1, writer)) == 0
    events = int(os.read(reader, 20))
    assert events > 50, events
    # at random steps of the work, and around the moves at its end
    steps = [rng.randrange(1, events) for _ in range(2)] + [events - back for back in (1, 3, 6, 11)]
    current, deaths = 100, 0
    for value, step in enumerate([*steps, None, None], start=101):
        name = f"new{value}" if value % 4 == 0 else "replaced"
        if step is None:  # at a random moment of the clock
            pid = fork(add, name, value, writer)
            os.read(reader, 1)
            time.sleep(rng.uniform(0, 0.2))
            os.kill(pid, signal.SIGKILL)
        else:
            pid = fork(add, name, value, None, None, step)
        code = finish(pid)
        assert code in (0, -signal.SIGKILL), code
        # the clock may be slow, and steps differ a little: some writers are done before it is their time
        deaths += code != 0
        allowed = {current, value} if name == "replaced" else {current}
        assert finish(fork(verify, allowed, f"new{value}", writer)) == 0, (step, events)
        current = int(os.read(reader, 20))
    assert deaths >= 5, deaths


def together():
    for number in range(3):
        pids, starts = [], []
        for name in ("left", "right"):
            ready_r, ready_w = os.pipe()
            go_r, go_w = os.pipe()
            pids.append(fork(add, f"{name}{number}", number, ready_w, go_r))
            os.read(ready_r, 1)
            starts.append(go_w)
        for start in starts:
            os.write(start, b"g")
        assert [finish(pid) for pid in pids] == [0, 0]

    def look():
        sdata = spatialdata.read_zarr(store)
        for number in range(3):
            check_value(sdata[f"left{number}"], {number})
            check_value(sdata[f"right{number}"], {number})
        assert sdata["table"].X.sum() == float(sys.argv[3])
        assert not list(scratch_folder(store).glob("stage-*"))

    assert finish(fork(look)) == 0


{"killed": killed, "together": together}[sys.argv[1]]()
print("done")
'''


@pytest.fixture
def run_helper(tiny_root, tmp_path):
    """A function that runs one part of the helper on a new store and returns when all has gone well."""
    path = tmp_path / "T1.zarr"
    total = float(hd.io.write(hd.io.hest(tiny_root, "T1"), path)["table"].X.sum())

    def run(part: str) -> None:
        command = [sys.executable, "-W", "ignore", "-c", HELPER, part, str(path), str(total)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
        assert done.stdout.strip().endswith("done"), done.stderr[-3000:]

    return run


def test_a_killed_writer_leaves_the_old_table_or_the_new_one(run_helper):
    run_helper("killed")


def test_two_writers_at_once_both_add_their_table(run_helper):
    run_helper("together")
