"""Moves on one file system that leave the old or the new, never a half."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._settings import settings
from hisdiff_sd.io._consolidated import METADATA, half_written, put, rewritten
from hisdiff_sd.io._lock import HeldError, hold

logger = logging.getLogger("hisdiff_sd")

_AT_FDCWD = -100
_SWAP = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
LOCK = "lock"
STAGE, PARTIAL = "stage-", "partial-"  # folders with what is built, and with partial results
_MOVING = "moving"  # in a stage: what is being moved in, until it is there and the metadata name it
_ASIDE = "aside"  # in a stage: what is being replaced, where two directories cannot be exchanged
_QUIET_SECONDS = 2.0
_REMOVALS = 20


def scratch_folder(target: Path) -> Path:
    """The hidden sibling of a store: its lock, and new elements while they are built."""
    return target.parent / f".{target.name}.hisdiff_sd"


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A path beside `target`, on the same file system, to build something in; removed afterwards whatever happens.

    What a killed process left is finished or removed by the next one: a stage whose lock can be had belongs to nobody.
    """
    with ExitStack() as held:
        with locked(target):
            finish_interrupted(target)
            try:
                stage = Path(tempfile.mkdtemp(prefix=STAGE, dir=scratch_folder(target)))
                held.callback(_remove, stage)
                held.enter_context(hold(stage / LOCK, 0))
            except OSError as error:
                raise _cannot_write(target, error) from error
        try:
            yield stage / target.name
        finally:
            _remove(stage)  # while its lock is held: nobody shall take it for that of a killed process


@contextmanager
def locked(target: Path, seconds: float | None = None) -> Iterator[None]:
    """Hold the lock of a store; a second writer waits `seconds` (of `hd.settings`), then is told who holds it."""
    limit = settings.lock_seconds if seconds is None else seconds
    folder = scratch_folder(target)
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(hold(folder / LOCK, min(limit, _QUIET_SECONDS)))
            except HeldError as waiting:
                if limit > _QUIET_SECONDS:
                    logger.info("waiting for %s, which writes to %s", waiting, target)
                held.enter_context(hold(folder / LOCK, max(limit - _QUIET_SECONDS, 0)))
        except HeldError as error:
            raise HisDiffError(
                f"{target} is being written to by {error}; waited {limit:g} s: try again when it is done, or wait longer "
                "(hd.settings.lock_seconds)"
            ) from error
        except OSError as error:
            raise _cannot_write(target, error) from error
        yield


def move_in(build: Path, target: Path, inside: str = "") -> None:
    """Put what was `staged` at `target` in one step, or only the element `inside` it, such as ``"tables/hisdiff"``.

    The lock of `target` must be held. What stood there is removed with the stage.
    """
    new, place, stage = build / inside, target / inside, build.parent
    (stage / _MOVING).write_text(inside)
    if inside:  # first, as the disk may be full
        (stage / METADATA).write_text(rewritten(target, add={inside: new}))
    if not place.exists():
        os.rename(new, place)
    elif not _exchange(new, place):
        _two_renames(new, place, stage / _ASIDE, target, inside)
    if inside:
        os.replace(stage / METADATA, target / METADATA)


def recover(target: Path) -> None:
    """Before a store is read: finish or remove what a process that was killed left, if anybody may; nobody waits for it."""
    scratch = scratch_folder(target)
    if any(scratch.glob(f"{STAGE}*")) or finished_partials(target):
        with suppress(HeldError, OSError), hold(scratch / LOCK, 0):
            finish_interrupted(target)


def finish_interrupted(target: Path) -> None:
    """Finish what killed processes were moving in, and remove what they left; the lock of `target` must be held."""
    for stage in scratch_folder(target).glob(f"{STAGE}*"):
        # one that belongs to a living process, or cannot be written to, is left alone
        with suppress(HeldError, OSError), hold(stage / LOCK, 0):
            if (stage / _MOVING).exists():
                _finish(stage, target)
            _remove(stage)
    for folder in finished_partials(target):
        with suppress(HeldError, OSError), hold(folder / LOCK, 0):
            _remove(folder)


def finished_partials(target: Path) -> list[Path]:
    """Folders of partial results that are older than their table: it was made, and its maker killed before it tidied up."""
    found = []
    for folder in scratch_folder(target).glob(f"{PARTIAL}*"):
        table = target / "tables" / partial_name(folder) / METADATA
        latest = max((part.stat().st_mtime_ns for part in folder.glob("part-*")), default=0)
        if table.exists() and table.stat().st_mtime_ns > latest:
            found.append(folder)
    return found


def partial_name(folder: Path) -> str:
    """The table whose partial results lie in a folder."""
    return folder.name.removeprefix(PARTIAL).rpartition("-")[0]


def _remove(folder: Path) -> None:
    """Remove a folder, in which threads of a writer that failed may still be at work for a moment.

    What they make anew after that is removed as what a killed process leaves is.
    """
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def _finish(stage: Path, target: Path) -> None:
    """Finish a move: of what was set aside, the new one takes the place; then the metadata follow."""
    inside = (stage / _MOVING).read_text()
    new, place, aside = stage / target.name / inside, target / inside, stage / _ASIDE
    if aside.exists() and not place.exists():
        os.rename(new if new.exists() else aside, place)
    if inside and place.exists():
        for file in half_written(target):
            file.unlink(missing_ok=True)
        put(target, rewritten(target, add={inside: place}))


def _exchange(a: Path, b: Path) -> bool:
    """Swap two directories in one system call (Linux, macOS); False where that is not available."""
    if os.name != "posix":
        return False
    libc, paths = ctypes.CDLL(None, use_errno=True), (os.fsencode(a), os.fsencode(b))
    if sys.platform == "darwin":
        return bool(libc.renamex_np(*paths, _SWAP) == 0)
    if not hasattr(libc, "renameat2"):
        return False
    return bool(libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _SWAP) == 0)


def _two_renames(new: Path, place: Path, aside: Path, target: Path, inside: str) -> None:
    """Replace a directory where two cannot be exchanged; after a kill in between, `finish_interrupted` goes on."""
    before = aside.with_name("before")
    if inside:  # or readers would stumble over what is missing between the two renames
        shutil.copyfile(target / METADATA, before)
        put(target, rewritten(target, drop=[inside]))
    try:
        os.rename(place, aside)
        try:
            os.rename(new, place)
        except OSError:
            os.rename(aside, place)
            raise
    except OSError:
        if inside:
            os.replace(before, target / METADATA)
        raise


def _cannot_write(target: Path, error: OSError) -> HisDiffError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return HisDiffError(
        f"cannot write beside {target} ({error.strerror or error}); "
        f"{'make room' if full else 'choose a folder you may write to'}"
    )
