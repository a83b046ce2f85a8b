"""An embedding that is killed at any moment goes on where it was, and ends as if nothing had happened.

One helper process has everything imported and forks a child for every attempt, which is much quicker than new processes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

HELPER = '''
import os, random, signal, sys, traceback
from pathlib import Path
import numpy as np, spatialdata, torch
import hisdiff_sd as hd
from hisdiff_sd.io._atomic import scratch_folder
from hisdiff_sd.pp import _embed, _partial

store, kills = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
_partial._SECONDS = 0.0  # every batch is written
BATCH = 4


class Encoder:
    name, dim, tile_px, fingerprint, licence = "own", 6, 32, "f", "none"

    def __init__(self, die_at=None):
        self.calls, self.die_at = 0, die_at

    def __call__(self, tiles):
        self.calls += 1
        if self.calls == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        pixels = tiles.float()
        return torch.cat([pixels.mean((2, 3)), pixels.std((2, 3))], dim=1)


def embed(encoder, kill_at=None, counted=None):
    sdata = spatialdata.read_zarr(store)
    writes = 0

    def hook(event, args):
        nonlocal writes
        # what happens to files in the hidden sibling and in the store's tables: partial results and the table
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            path = str(args[0])
            if ".hisdiff_sd" in path or "/tables" in path:
                writes += 1
                if writes == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    hd.pp.embed(sdata, encoder, batch_size=BATCH)
    table = spatialdata.read_zarr(store)["spots_own"]
    if counted is not None:
        os.write(counted, f"{writes} {encoder.calls} ".encode() + np.asarray(table.X).tobytes().hex().encode())


def fork(work, *args):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        work(*args)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def run(*args):
    """A whole run in a child: number of writes, of batches that were embedded, and the bytes of the result."""
    reader, writer = os.pipe()
    assert fork(embed, Encoder(), None, writer) == 0, "it did not go on"
    os.close(writer)
    with os.fdopen(reader) as told:
        writes, calls, result = told.read().split()
    return int(writes), int(calls), result


def clear():
    sdata = spatialdata.read_zarr(store)
    sdata.delete_element_from_disk("spots_own")


rng = random.Random(0)
writes, N, expected = run()
assert N > 8, N
clear()
went_on = 0
for attempt in range(kills):
    if attempt % 2:
        code = fork(embed, Encoder(), rng.randrange(1, writes + 1))
    else:
        code = fork(embed, Encoder(die_at=rng.randrange(1, N + 1)))
    assert code == -signal.SIGKILL, code
    spatialdata.read_zarr(store)
    _, calls, result = run()
    assert result == expected, attempt
    went_on += N - calls
    assert not list(scratch_folder(store).glob("partial-*")), "partial results are still there"
    clear()
print("batches that needed not be embedded again:", went_on)
assert went_on > 2 * kills
'''


@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_an_embedding_that_is_killed_at_any_moment_goes_on(stores, tmp_path, kills):
    store = tmp_path / "S1.zarr"
    shutil.copytree(stores["S1"], store)
    done = subprocess.run(
        [sys.executable, "-c", HELPER, str(store), str(kills)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
