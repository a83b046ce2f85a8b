"""The package's own errors: one message that names the value, the place and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HisDiffError(ValueError):
    """Input that cannot be worked with; the message says which, and what to do."""


class MissingFileError(HisDiffError, FileNotFoundError):
    """A file or slide that is not where it was said to be."""

    def __str__(self) -> str:
        # OSError would print "[Errno ...]"; the message is all there is to say.
        return str(self.args[0]) if self.args else ""


class OtherProvenanceError(HisDiffError):
    """A table that is in the way of another one of its name, made in another way."""


class HisDiffWarning(UserWarning):
    """Something a user should know of, with which the work can go on."""


def reason(error: BaseException) -> str:
    """What an error of another library says, on one line; some say nothing but their name.

    Examples
    --------
    >>> reason(OSError("cannot read  the file"))
    'OSError: cannot read the file'
    """
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def check_one_of(value: str, allowed: Iterable[str], what: str) -> str:
    """Return `value` if it is one of `allowed`, else raise an error that lists them and names the nearest.

    Examples
    --------
    >>> check_one_of("log2", ("log2", "cp10k"), "target")
    'log2'
    """
    choices = list(allowed)
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(repr(c) for c in choices) if choices else "none"
    raise HisDiffError(f"no {what} {value!r}; there are: {listed}.{hint}")
