"""Moves on one file system that leave the old or the new, never a half."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hisdiff_sd._errors import HisDiffError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LOCK = "lock"
_LOCK_SECONDS = 60.0


def scratch_folder(target: Path) -> Path:
    """The hidden sibling of a store: its lock, and new elements while they are built.

    The lock file stays: removing it while another process waits for it would let two writers in.
    """
    return target.parent / f".{target.name}.hisdiff_sd"


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A path beside `target`, on the same file system, to build something in; removed afterwards whatever happens.

    What a killed process left is removed by the next one: a stage whose lock can be had belongs to nobody.
    """
    with locked(target):
        for left in scratch_folder(target).glob("stage-*"):
            with suppress(OSError), FileLock(left / _LOCK, timeout=0):
                shutil.rmtree(left, ignore_errors=True)
        build = Path(tempfile.mkdtemp(prefix="stage-", dir=scratch_folder(target)))
        mine = FileLock(build / _LOCK)
        mine.acquire()
    try:
        yield build / target.name
    finally:
        shutil.rmtree(build, ignore_errors=True)
        mine.release()


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of a store; a second writer waits, then is told."""
    folder = scratch_folder(target)
    lock = FileLock(folder / _LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout as error:
        raise HisDiffError(
            f"another process has been writing to {target} for over {_LOCK_SECONDS:.0f} s; try again when it is done"
        ) from error
    except OSError as error:
        raise HisDiffError(
            f"cannot write beside {target} ({error.strerror or error}); choose a folder you may write to"
        ) from error
    try:
        yield
    finally:
        lock.release()


def move_in(new: Path, target: Path) -> None:
    """Put `new` at `target` in one step; what stood there ends up at `new`."""
    if not target.exists():
        os.rename(new, target)
    elif not _exchange(new, target):
        # no exchange on this system: the window between the two renames is as short as it gets
        aside = new.with_name(new.name + ".old")
        os.rename(target, aside)
        try:
            os.rename(new, target)
        except OSError:
            os.rename(aside, target)
            raise


def _exchange(a: Path, b: Path) -> bool:
    """Swap two directories in one system call (Linux); False where that is not available."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)
