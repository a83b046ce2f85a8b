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


_ALL_LISTED = 30  # choices; of more, such as the genes of a panel, a few say what they look like
_SOME_LISTED = 5


def check_one_of(value: str, allowed: Iterable[str], what: str, way_out: str = "") -> str:
    """Return `value` if it is one of `allowed`, else raise an error that lists them, names the nearest and a way out.

    Examples
    --------
    >>> check_one_of("log2", ("log2", "cp10k"), "target")
    'log2'
    """
    choices = list(allowed)
    if value in choices:
        return value
    folded = {c.casefold(): c for c in reversed(choices) if isinstance(c, str)}
    near = [folded[name] for name in difflib.get_close_matches(str(value).casefold(), folded, n=_SOME_LISTED)]
    listed = "there are: " + (", ".join(map(repr, choices)) or "none")
    if len(choices) > _ALL_LISTED:
        some = ", ".join(map(repr, (near or choices)[:_SOME_LISTED]))
        listed = f"there are {len(choices)}, {'the nearest' if near else 'such as'}: {some}"
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise HisDiffError(f"no {what} {value!r}; {listed}.{hint}{way_out}")


def check_gene(gene: str, panel: Iterable[str], what: str) -> str:
    """`check_one_of` for a gene that a model shall have been trained on; the error says how a gene gets into a panel.

    Examples
    --------
    >>> check_gene("ERBB2", ["ERBB2", "EPCAM"], "gene in 'hisdiff'")
    'ERBB2'
    """
    return check_one_of(gene, panel, what, _INTO_PANEL)


_INTO_PANEL = (
    " A model predicts the genes of its panel only; before training, include= of hd.pp.select_genes puts a gene into it"
)


def check_slide_object(sdata: object, what: str = "a slide (SpatialData)") -> None:
    """Refuse what is no slide, such as a model or the path of a store."""
    from spatialdata import SpatialData

    if not isinstance(sdata, SpatialData):
        raise HisDiffError(f"{what} is needed, not {type(sdata).__name__}; open a store with hd.io.open")
