"""Moves leave the old or the new, never a half."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from hisdiff_sd.io import _atomic


def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A new folder in a stage, and an old one."""
    new, old = tmp_path / "stage" / "x", tmp_path / "x"
    for folder, text in ((new, "new"), (old, "old")):
        folder.mkdir(parents=True)
        (folder / "file").write_text(text)
    return new, old


@pytest.mark.parametrize("exchange", [True, False])
def test_move_in_replaces_with_and_without_the_exchange_of_linux(tmp_path, monkeypatch, exchange):
    new, old = folders(tmp_path)
    if not exchange:
        monkeypatch.setattr(_atomic, "_exchange", lambda a, b: False)
    _atomic.move_in(new, old)
    assert (old / "file").read_text() == "new"


def test_a_replacement_that_fails_half_way_is_taken_back(tmp_path, monkeypatch):
    new, old = folders(tmp_path)
    monkeypatch.setattr(_atomic, "_exchange", lambda a, b: False)
    rename = _atomic.os.rename

    def fails_second(a, b):
        if Path(a) == new:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(a, b)

    monkeypatch.setattr(_atomic.os, "rename", fails_second)
    with pytest.raises(OSError, match="No space"):
        _atomic.move_in(new, old)
    assert (old / "file").read_text() == "old"
