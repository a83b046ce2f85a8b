"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hisdiff_sd._errors import HisDiffError


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    write_with(path, lambda half: half.write_text(text, encoding="utf-8"))


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file, whole or not at all."""
    half = path.with_name(f".{os.getpid()}-{path.name}")  # the same ending, by which some writers go
    try:
        write(half)
        half.replace(path)
    except OSError as error:
        raise HisDiffError(f"cannot write {path} ({error.strerror or error}); choose another place") from error
    finally:
        half.unlink(missing_ok=True)
