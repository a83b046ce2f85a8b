"""Locks that say who holds them and since when, on any file system."""

from __future__ import annotations

import getpass
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

_OWNER, _MARKER = ".owner", ".marker"  # behind the name of a lock
_ABANDONED_SECONDS = 24 * 3600.0
_WITH_FLOCK: dict[int, bool] = {}  # by device


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, or held it when it was killed; `since` in seconds since 1970."""

    pid: int
    user: str
    host: str
    since: float

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host}, for {age(time.time() - self.since)}"


class HeldError(Exception):
    """A lock that was not to be had in time; `owner` holds it, if that is known."""

    def __init__(self, owner: Owner | None) -> None:
        super().__init__(owner)
        self.owner = owner

    def __str__(self) -> str:
        return str(self.owner or "another process")


@contextmanager
def hold(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock at `path`, in a folder that exists; raise `HeldError` if it cannot be had within `seconds`.

    The lock file stays: removing it while another process waits for it would let two in.
    """
    lock = _lock_at(path)
    try:
        lock.acquire(timeout=seconds)
    except Timeout as error:
        if not _abandoned(path):
            raise HeldError(owner_of(path)) from error
        _marker(path).unlink(missing_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise HeldError(owner_of(path)) from error
    note = _note(path)
    try:
        me = Owner(os.getpid(), _user(), socket.gethostname(), time.time())
        with suppress(OSError):  # a full disk; the lock holds all the same
            note.write_text(json.dumps(asdict(me)))
        yield
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock at `path`, or may do so on another machine."""
    lock = _lock_at(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return not _abandoned(path)
    lock.release()
    return False


def owner_of(path: Path) -> Owner | None:
    """Who holds the lock at `path`, or was killed while holding it; None if that is not known."""
    try:
        return Owner(**json.loads(_note(path).read_text()))
    except (OSError, ValueError, TypeError):  # none, or not written yet
        return None


def age(seconds: float) -> str:
    """A duration in words."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def last_change(folder: Path) -> float:
    """When a file below a folder was last written, in seconds since 1970; 0 if there is none."""
    latest = 0.0
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone meanwhile
            if path.is_file():
                latest = max(latest, path.stat().st_mtime)
    return latest


def _lock_at(path: Path) -> BaseFileLock:
    """A lock of the operating system, which ends with its process; a file that marks it where there is none (some NFS)."""
    return FileLock(path) if _has_flock(path.parent) else SoftFileLock(_marker(path))


def _has_flock(folder: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows, which has its own
        return True
    device = folder.stat().st_dev
    if device not in _WITH_FLOCK:
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _WITH_FLOCK[device] = True
            except OSError:
                _WITH_FLOCK[device] = False
    return _WITH_FLOCK[device]


def _abandoned(path: Path) -> bool:
    """Whether a marker is that of another machine, whose processes cannot be asked for, and nothing was written for long."""
    owner = owner_of(path)
    if not _marker(path).exists() or (owner is not None and owner.host == socket.gethostname()):
        return False
    return time.time() - last_change(path.parent) > _ABANDONED_SECONDS


def _marker(path: Path) -> Path:
    return path.with_name(path.name + _MARKER)


def _note(path: Path) -> Path:
    return path.with_name(path.name + _OWNER)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in containers
        return str(getattr(os, "getuid", lambda: "?")())
