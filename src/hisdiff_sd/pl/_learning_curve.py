from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.pl._figure import new_figure
from hisdiff_sd.pl._methods import NORMAL, QUIET, SMALL, WIDTH, plain, style
from hisdiff_sd.pl._metric_names import METRIC_NAMES, NOMINAL, better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4
_NEEDED = ("n_slides", "slide", "row", "target", "metric", "value")
_MOST_NAMED = 8  # held-out slides
_ASIDE = 0.06  # slides: how far the curves of two methods are apart, so that their bars do not hide each other


def learning_curve(
    table: pd.DataFrame, metrics: Sequence[str] | None = None, rows: Sequence[str] | None = None
) -> Figure:
    """Draw scores by the number of training slides, a panel for each metric.

    Points are means over the held-out slides, bars go from the lowest to the highest of these (of a slide the mean over its
    training sets). Slides differ more than a training slide changes: that bars overlap does not say that a further
    slide is of no use.

    Parameters
    ----------
    table
        What `hd.tl.learning_curve` returned, of one target.
    metrics, rows
        Those to draw, of the table; all by default.

    Returns
    -------
    A figure, 180 mm wide at most.

    Raises
    ------
    HisDiffError
        If the table is no learning curve, or of two targets, or has no such metric or row.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2", "S3"), size_um=(1200, 1000), mpp=1.1)
    >>> slides = [hd.io.hest(root, name) for name in ("S1", "S2", "S3")]
    >>> table = hd.tl.learning_curve(slides, encoder="morphology", rows=["mean", "ridge"])
    >>> figure = hd.pl.learning_curve(table, ["mse", "crps"])
    """
    lacking = [c for c in _NEEDED if c not in getattr(table, "columns", ())]
    if lacking or table.empty:
        what = f"lacks {', '.join(lacking)}" if lacking else "is empty"
        raise HisDiffError(f"the table {what}; give what hd.tl.learning_curve returned")
    if table["target"].nunique() > 1:
        found = ", ".join(map(str, table["target"].unique()))
        raise HisDiffError(f"the table has the targets {found}, whose scores cannot be compared; draw one at a time")
    asked = _asked(metrics, table["metric"], "metric")
    shown = _asked(rows, table["row"], "row")
    known = list(dict.fromkeys(table["row"]))
    columns = min(_COLUMNS, len(asked))
    lines = -(-len(asked) // columns)
    figure = new_figure(figsize=(WIDTH if columns > 2 else 1.2 + 2.4 * columns, 1.95 * lines + 0.75))
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, metric in zip(grid.flat, asked, strict=False):
        for place, row in enumerate(shown):
            own = table[(table["metric"] == metric) & (table["row"] == row)]
            _draw(axes, own, row, known.index(row), (place - (len(shown) - 1) / 2) * _ASIDE)
        _dress(axes, metric, sorted(table["n_slides"].unique()))
    for axes in list(grid.flat)[len(asked) :]:
        axes.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, fontsize=SMALL, frameon=False, handlelength=3)
    wrapped = textwrap.fill(_caption(table), int(figure.get_figwidth() * 17))
    figure.supxlabel(wrapped, fontsize=SMALL, color="0.25", x=0.01, ha="left", parse_math=False)
    return figure


def _asked(names: Sequence[str] | None, known: pd.Series, what: str) -> list[str]:
    """Those that are asked for, in that order, or all of the table."""
    there = list(dict.fromkeys(known))
    asked = there if names is None else [names] if isinstance(names, str) else list(dict.fromkeys(names))
    if not asked:
        raise HisDiffError(f"{what}s= is empty; there are: {', '.join(there)}")
    return [check_one_of(name, there, what) for name in asked]


def _draw(axes: Axes, own: pd.DataFrame, row: str, number: int, aside: float) -> None:
    """The curve of one method."""
    of_slides = own.dropna(subset="value").groupby(["n_slides", "slide"])["value"].mean()
    found = of_slides.groupby("n_slides").agg(["mean", "min", "max"])
    x, mean = found.index.to_numpy(np.float64) + aside, found["mean"].to_numpy()
    how = style(number)
    # lines differ as well as colours, for print in grey
    line = ("-", "--", ":", "-.")[number % 4]
    axes.vlines(x, found["min"], found["max"], color=how.color, lw=1.0, zorder=2)
    axes.plot(
        x, mean, color=how.color, marker=how.marker, ls=line, lw=1.2, ms=4, mec="white", mew=0.4, label=row, zorder=3
    )


def _dress(axes: Axes, metric: str, sizes: list[int]) -> None:
    if metric in NOMINAL:
        axes.axhline(NOMINAL[metric], color=QUIET, lw=0.8, ls=":", zorder=1)
    axes.set_title(METRIC_NAMES.get(metric, metric), fontsize=NORMAL)
    axes.set_xlabel("training slides", fontsize=SMALL)
    axes.set_ylabel(better(metric), fontsize=SMALL, color="0.25")
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.set_xlim(sizes[0] - 0.4, sizes[-1] + 0.4)
    axes.locator_params(axis="y", nbins=4)
    plain(axes)


def _caption(table: pd.DataFrame) -> str:
    slides = list(dict.fromkeys(table["slide"]))
    target = table["target"].iloc[0]
    if len(slides) == 1:
        return f"Target {target}, held-out slide {slides[0]}. Points: means over training sets."
    named = ", ".join(map(str, slides)) if len(slides) <= _MOST_NAMED else f"{len(slides)} of them"
    return (
        f"Target {target}. Points: means over held-out slides ({named}). Bars: from the lowest to the highest of them."
    )
