"""Locks say who holds them, and end with their process, with and without locks of the operating system."""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from hisdiff_sd.io import _lock
from hisdiff_sd.io._lock import HeldError, age, hold, is_held, owner_of


@pytest.fixture(params=[True, False], ids=["flock", "marker"])
def path(request, tmp_path, monkeypatch) -> Path:
    """A lock, on a file system with and without flock."""
    monkeypatch.setattr(_lock, "_has_flock", lambda folder: request.param)
    return tmp_path / "lock"


def holder_that_is_killed(path: Path) -> int:
    """Process id of a child that held a lock when it was killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with hold(path, 0):
            os.write(writer, b"x")
            time.sleep(60)
    os.read(reader, 1)
    assert is_held(path)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return pid


def test_who_comes_second_is_told_who_holds_it(path):
    with hold(path, 0):
        owner = owner_of(path)
        assert (owner.pid, owner.host) == (os.getpid(), socket.gethostname())
        assert abs(owner.since - time.time()) < 30
        assert is_held(path)
        with pytest.raises(HeldError, match=rf"process {os.getpid()} of \S+ on \S+, for \d+ s"), hold(path, 0):
            pass
        assert owner_of(path) == owner
    assert owner_of(path) is None
    assert not is_held(path)
    with hold(path, 0):
        pass


def test_it_is_free_after_an_error(path):
    with pytest.raises(ZeroDivisionError), hold(path, 0):
        _ = 1 / 0
    assert not is_held(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_lock_of_a_killed_process_is_free_and_its_owner_known(path):
    pid = holder_that_is_killed(path)
    assert owner_of(path).pid == pid
    assert not is_held(path)
    with hold(path, 0):
        assert owner_of(path).pid == os.getpid()


def marker_of_another_machine(path: Path, hours: float) -> None:
    """What a process on another machine left, so long ago."""
    path.with_name("lock.marker").write_text("4711\nnode9\n")
    owner = {"pid": 4711, "user": "anna", "host": "node9", "since": time.time() - hours * 3600}
    path.with_name("lock.owner").write_text(json.dumps(owner))
    for file in path.parent.iterdir():
        os.utime(file, (owner["since"], owner["since"]))


def test_another_machine_is_believed_for_a_day(tmp_path, monkeypatch):
    monkeypatch.setattr(_lock, "_has_flock", lambda folder: False)
    path = tmp_path / "lock"
    marker_of_another_machine(path, hours=5)
    assert is_held(path)
    with pytest.raises(HeldError, match="process 4711 of anna on node9, for 5 h"), hold(path, 0):
        pass
    marker_of_another_machine(path, hours=30)
    (tmp_path / "part-1.npz").touch()  # it has written something since
    assert is_held(path)
    (tmp_path / "part-1.npz").unlink()
    assert not is_held(path)
    with hold(path, 0):
        assert owner_of(path).pid == os.getpid()


def test_a_file_system_is_asked_for_flock_once(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    calls = []

    def missing(*_arguments):
        calls.append(1)
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(_lock, "_WITH_FLOCK", {})
    monkeypatch.setattr(fcntl, "flock", missing)
    for _ in range(2):
        with hold(tmp_path / "lock", 0):
            assert (tmp_path / "lock.marker").exists()
            assert is_held(tmp_path / "lock")
    assert len(calls) == 1


def test_a_full_disk_and_a_user_without_a_name_do_not_keep_the_lock(path, monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 1000")

    monkeypatch.setattr(getpass, "getuser", nameless)
    with hold(path, 0):
        assert owner_of(path).user == str(os.getuid())
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with hold(path, 0):
        assert owner_of(path) is None
        assert is_held(path)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (5, "5 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (400000, "5 d")]
)
def test_ages_are_said_in_words(seconds, text):
    assert age(seconds) == text
