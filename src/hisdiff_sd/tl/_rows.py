"""The rows of a cross-validation by name, and the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.nn import TRUNKS
from hisdiff_sd.tl._presets import PRESETS
from hisdiff_sd.tl._row import FunctionRow, Row, Shuffled
from hisdiff_sd.tl._rows_hisdiff import PREFIX, HisDiffRow, default_preset
from hisdiff_sd.tl._rows_learned import LEARNED_ROWS
from hisdiff_sd.tl._rows_simple import SIMPLE_ROWS

_SHUFFLED = "shuffled:"
BUILT_IN: dict[str, Row] = {row.name: row for row in (*SIMPLE_ROWS, *LEARNED_ROWS)}
DEFAULT = ("mean", "depth_map", "ridge", "ridge_context", "better_ridge", "dressed_ridge", "random_spot", "knn")


def resolve_rows(rows: Sequence[str | Row | Callable[..., Any]] | None) -> list[Row]:
    """The rows that are asked for; by default the quick ones and the default model, as it is and with shuffled conditions.

    A row is a name (``"ridge"``, ``"hisdiff:small"``, ``"hisdiff"`` for the default preset, ``"shuffled:"`` and a name),
    an object with ``fit``, or a function ``fit(slides, truth)`` that returns ``predict(slide)``.
    """
    if isinstance(rows, str) or hasattr(rows, "fit") or callable(rows):
        raise HisDiffError(f"rows={rows!r} is one row; give a list of rows")
    model = PREFIX + default_preset()
    asked: Sequence[Any] = (*DEFAULT, model, _SHUFFLED + model) if rows is None else rows
    resolved = [_resolve(row) for row in asked]
    names = [row.name for row in resolved]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice or not names:
        raise HisDiffError(
            f"rows are given more than once: {', '.join(twice)}; give each its own name" if twice else "rows= is empty"
        )
    return resolved


def _resolve(row: Any) -> Row:
    if isinstance(row, str):
        return _named(row)
    if hasattr(row, "fit"):
        return row if hasattr(row, "name") else _Unnamed(row)
    if callable(row):
        return FunctionRow(row)
    raise HisDiffError(
        f"{row!r} is no row; give a name ({', '.join(BUILT_IN)}, hisdiff:<preset>), an object with fit(slides, truth, "
        "context), or a function fit(slides, truth) that returns predict(slide)"
    )


def _named(name: str) -> Row:
    if name.startswith(_SHUFFLED):
        return Shuffled(_named(name.removeprefix(_SHUFFLED)))
    if name == PREFIX.rstrip(":"):
        return HisDiffRow(default_preset())
    models = {
        row.name: row for preset in PRESETS for row in (HisDiffRow(preset, trunk=trunk) for trunk in (None, *TRUNKS))
    }
    known = BUILT_IN | models
    return known[check_one_of(name, known, "row")]


class _Unnamed:
    """An object with ``fit`` under the name of its class."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.name = type(inner).__name__

    def fit(self, *args: Any) -> Any:
        """Fit the object."""
        return self.inner.fit(*args)
