from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger("hisdiff_sd")

_WARM_UP = 2  # steps that are slower than the rest
_LONG = 60.0  # seconds
_EVERY = 30.0  # seconds between two lines


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, gone when it is done, else a line now and then; yields a function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    if not console.is_terminal:  # in a notebook or a file, which a bar would fill
        yield _Lines(what, total).advance
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)


class _Lines:
    """Says how far a work is, if it is long."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._start = self._said = time.perf_counter()

    def advance(self, n: int) -> None:
        """Say that `n` more things are done."""
        self._done += n
        now = time.perf_counter()
        if now - self._said >= _EVERY:
            self._said = now
            left = (now - self._start) / max(self._done, 1) * (self._total - self._done)
            logger.info("%s: %d of %d, about %.0f min left", self._what, self._done, self._total, math.ceil(left / 60))


class Estimate:
    """Says how long a work will take as soon as that can be told, if it is long.

    Parameters
    ----------
    what
        What is done.
    total
        Things to do.
    disk
        Bytes that the result will take.
    """

    def __init__(self, what: str, total: int, disk: int) -> None:
        self._what, self._total, self._disk = what, total, disk
        self._steps = self._done = 0
        self._start = time.perf_counter()

    def done(self, n: int) -> None:
        """Say that `n` more things are done."""
        self._steps += 1
        self._done += n
        if self._steps == _WARM_UP:
            self._start, self._total, self._done = time.perf_counter(), self._total - self._done, 0
        elif self._steps == _WARM_UP + 1 and self._done:
            seconds = (time.perf_counter() - self._start) / self._done * self._total
            if seconds > _LONG:
                logger.info(
                    "%s: about %.0f min for %d tiles, %.0f MB on disk",
                    self._what,
                    seconds / 60,
                    self._total,
                    self._disk / 1e6,
                )
