"""Results of a long work that is not done yet, kept beside the store so that a killed process loses seconds only."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._atomic import LOCK, PARTIAL, scratch_folder
from hisdiff_sd.io._lock import HeldError, hold

_SECONDS = 5.0  # of work that a kill may cost


class Partial:
    """Vectors of finished batches.

    Parameters
    ----------
    folder
        Where they are kept; None keeps nothing, for a slide without a store.
    n, dim
        Number of vectors, and their length.

    Attributes
    ----------
    values
        (n, dim) float32; NaN where nothing is known yet.
    failed
        What went wrong, by row, where there will be nothing.
    done
        Places of the finished batches.
    """

    def __init__(self, folder: Path | None, n: int, dim: int) -> None:
        self.values = np.full((n, dim), np.nan, np.float32)
        self.failed: dict[int, str] = {}
        self.done: set[int] = set()
        self._folder = folder
        self._fresh: list[tuple[int, np.ndarray, dict[int, str]]] = []
        self._written = time.monotonic()
        if folder is not None:
            for path in sorted(folder.glob("part-*.npz")):
                self._read(path)

    @property
    def known(self) -> int:
        """Number of vectors that are there."""
        return int(np.isfinite(self.values[:, 0]).sum())

    def add(self, batch: int, rows: np.ndarray, values: np.ndarray, failed: dict[int, str]) -> None:
        """Take in a finished batch; every few seconds what is new is written."""
        self.values[rows] = values
        self.failed |= failed
        self.done.add(batch)
        self._fresh.append((batch, rows, failed))
        if time.monotonic() - self._written > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is new, as one more file that is there whole or not at all."""
        if self._folder is None or not self._fresh:
            return
        rows = np.concatenate([r for _, r, _ in self._fresh])
        failed = {row: text for _, _, f in self._fresh for row, text in f.items()}
        path = self._folder / f"part-{len(self.done):08d}.npz"
        building = self._folder / "building"
        try:
            with building.open("wb") as file:
                np.savez(
                    file,
                    batches=np.array([b for b, _, _ in self._fresh]),
                    rows=rows,
                    values=self.values[rows],
                    failed=np.array(json.dumps(failed)),
                )
                file.flush()
                os.fsync(file.fileno())
            building.replace(path)
        except OSError as error:
            building.unlink(missing_ok=True)
            raise HisDiffError(
                f"partial results cannot be written to {self._folder} ({error.strerror or error}); make room and call again: "
                f"what was written before ({len(self.done) - len(self._fresh)} batches) is kept"
            ) from error
        self._fresh.clear()
        self._written = time.monotonic()

    def _read(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as part:
                rows, values = part["rows"], part["values"]
                batches, failed = part["batches"].tolist(), json.loads(str(part["failed"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            # a disk that lost it: its batches are done once more
            path.unlink(missing_ok=True)
            return
        self.values[rows] = values
        self.failed |= {int(row): text for row, text in failed.items()}
        self.done |= set(batches)


def _check_room(store: Path, n: int, dim: int, known: int) -> None:
    """Refuse to begin what the disk has no room for: partial results of what is left, and the table beside them."""
    needed = 4 * dim * (n - known + n)
    free = shutil.disk_usage(store.parent).free
    if needed > free:
        raise HisDiffError(
            f"up to {_size(needed)} are needed on the disk of {store} ({dim} numbers for each of {n} spots, partial results and "
            f"the table), and {_size(free)} are free; make room, or ask for less: fewer genes, fewer kept samples"
        )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB"


@contextmanager
def partial_results(store: Path | None, name: str, key: str, n: int, dim: int) -> Iterator[Partial]:
    """Partial results of the table `name` of a store, those of an interrupted call included if its `key` was the same.

    They are removed when the block ends well, with those that were left of other keys; after an error they stay.
    """
    if store is None:
        yield Partial(None, n, dim)
        return
    folder = scratch_folder(store) / f"{PARTIAL}{name}-{key}"
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(hold(folder / LOCK, 0))
        except HeldError as error:
            raise HisDiffError(f"table {name!r} of {store} is being made by {error}; wait until it is done") from error
        except OSError as error:
            raise HisDiffError(
                f"cannot write beside {store} ({error.strerror or error}); choose a store in a folder you may write to"
            ) from error
        partial = Partial(folder, n, dim)
        _check_room(store, n, dim, partial.known)
        try:
            yield partial
        except BaseException:
            # after a full disk there is no use in trying again, and the first error counts
            with suppress(HisDiffError):
                partial.flush()
            raise
        shutil.rmtree(folder, ignore_errors=True)
        for left in folder.parent.glob(f"{PARTIAL}{name}-{'?' * len(key)}"):  # not those of a name that goes on
            with suppress(HeldError, OSError), hold(left / LOCK, 0):
                shutil.rmtree(left)
