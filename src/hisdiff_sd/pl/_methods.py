"""The methods of a cross-validation as plots have them: which are drawn, of which slides, and in which colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hisdiff_sd._errors import HisDiffError, check_one_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hisdiff_sd.tl._cross_validation import CrossValidation, StoredPrediction

WIDTH = 7.1  # inches: two columns of a journal
SMALL, NORMAL = 7.0, 8.0  # points
QUIET = "0.45"
# Okabe & Ito without their yellow, which is not seen on white; beyond seven the marks and lines tell methods apart
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LINES = ("-", "--", "-.")


class Style(NamedTuple):
    """How a method is drawn."""

    color: str
    marker: str
    line: str


def styles_of(result: CrossValidation) -> dict[str, Style]:
    """Every method in a style of its own, the same in all plots of a result, however few of its methods they show."""
    return {row: style(i) for i, row in enumerate(result.rows)}


def style(i: int) -> Style:
    """The style of the i-th method."""
    return Style(_COLORS[i % len(_COLORS)], _MARKERS[i % len(_MARKERS)], _LINES[i // len(_COLORS) % len(_LINES)])


def chosen_rows(result: CrossValidation, rows: Sequence[str] | None) -> list[str]:
    """The rows that are asked for, by default all, each once."""
    asked = result.rows if rows is None else [rows] if isinstance(rows, str) else list(dict.fromkeys(rows))
    if not asked:
        raise HisDiffError(f"rows= is empty; there are: {', '.join(map(repr, result.rows)) or 'none'}")
    return [check_one_of(row, result.rows, "row") for row in asked]


def slides_of(result: CrossValidation, slide: str | None = None) -> list[str]:
    """All test slides in the order of the folds, or the one that is asked for."""
    tested = [name for fold in result.design["folds"] for name in fold["test"]]
    return tested if slide is None else [check_one_of(slide, tested, "test slide")]


def predictions_of(result: CrossValidation, row: str, slides: Sequence[str]) -> Iterator[StoredPrediction]:
    """Predictions of a row for some slides, one after the other."""
    return (p for p in result.predictions(row) if p.slide in slides)


def measured_alike(p: StoredPrediction) -> np.ndarray:
    """What was measured, (n, G), rounded as the samples are stored: equal counts have to be equal values."""
    return np.asarray(p.true.astype(p.samples.dtype), np.float64)


def is_point(result: CrossValidation, row: str) -> bool:
    """Whether a row predicts values without samples, on any slide."""
    return any(len(p.samples) == 1 for p in result.predictions(row))


def of_slides(slides: Sequence[str]) -> str:
    """What is to be said of the slides that a plot is of."""
    return slides[0] if len(slides) == 1 else f"mean over {len(slides)} slides"


def plain(axes: Axes) -> None:
    """Small ticks, and no more frame than is needed."""
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
