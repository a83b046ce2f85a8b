from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd.metrics._check import variances
from hisdiff_sd.pl._figure import new_figure
from hisdiff_sd.pl._methods import (
    NORMAL,
    QUIET,
    SMALL,
    WIDTH,
    Style,
    chosen_rows,
    of_slides,
    plain,
    predictions_of,
    slides_of,
    styles_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from hisdiff_sd.tl._cross_validation import CrossValidation

_COLUMNS = 3
_FEW = 1000.0  # ends of an axis that is numbered between the powers of ten
_ENDS = (0.05, 0.95)
_SINGLE = "single sample: median and 5 to 95% of the samples"
_MEAN = "mean of the samples, or point prediction"


def gene_variation(result: CrossValidation, rows: Sequence[str] | None = None, *, slide: str | None = None) -> Figure:
    """Draw how much every gene varies over the tissue, predicted against measured: a panel for each method.

    A method that smooths has its genes below the line. The mean of samples always varies less than one sample, so that
    both are drawn.

    Parameters
    ----------
    result
        What `hd.tl.cross_validate` returned.
    rows
        Methods; by default all whose predictions vary.
    slide
        A test slide; by default variances within slides, means over all slides that have the gene.

    Returns
    -------
    A figure, 180 mm wide, on logarithmic axes, in squared units of the target. Filled marks are the median of the single
    samples, lines their 5% to 95% range; hollow marks are the mean of the samples, or a point prediction. Titles have the
    median over genes of predicted / measured. Genes without variance are counted, not drawn.

    Raises
    ------
    HisDiffError
        If there is no such row or slide.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(1200, 1000), mpp=1.1)
    >>> slides = [hd.io.hest(root, name) for name in ("S1", "S2")]
    >>> cv = hd.tl.cross_validate(slides, encoder="morphology", rows=["ridge", "random_spot"])
    >>> figure = hd.pl.gene_variation(cv, ["ridge", "random_spot"])
    """
    slides, styles = slides_of(result, slide), styles_of(result)
    tables = {row: _variances(result, row, slides) for row in chosen_rows(result, rows)}
    if rows is None:
        # what never varies has nothing to show on a logarithmic axis, but is said of a row that was asked for
        tables = {row: t for row, t in tables.items() if (t["mean"] > 0).any()} or tables
    columns = min(_COLUMNS, len(tables))
    lines = -(-len(tables) // columns)
    figure = new_figure(figsize=(WIDTH * (columns + 0.3) / (_COLUMNS + 0.3), 2.35 * lines + 0.75))
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    limits = _limits(list(tables.values()))
    for axes, (row, table) in zip(grid.flat, tables.items(), strict=False):
        _draw(axes, row, table, styles[row], limits)
    for axes in list(grid.flat)[len(tables) :]:
        axes.set_axis_off()
    for axes in list(grid.flat)[max(len(tables) - columns, 0) : len(tables)]:  # nothing stands below them
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("measured variance", fontsize=NORMAL)
    for axes in grid[:, 0]:
        axes.set_ylabel("predicted variance", fontsize=NORMAL)
    figure.suptitle(f"variance of genes over the tissue, {of_slides(slides)}", fontsize=NORMAL + 1, parse_math=False)
    _legend(figure, 3 if columns == _COLUMNS else 1)
    return figure


def _variances(result: CrossValidation, row: str, slides: Sequence[str]) -> pd.DataFrame:
    """Per gene: ``true``, ``mean`` (of the samples) and, where there are samples, ``single``, ``low``, ``high``."""
    found = []
    for p in predictions_of(result, row, slides):
        samples = p.samples if len(p.samples) > 1 else p.samples[:0]
        columns = {f"sample {i}": variances(s.astype(np.float64)) for i, s in enumerate(samples)}
        mean = variances(p.samples.mean(0, dtype=np.float64))
        found.append(pd.DataFrame({"true": variances(p.true), "mean": mean, **columns}, index=p.genes))
    table = pd.concat(found).groupby(level=0, sort=False).mean()
    single = table.drop(columns=["true", "mean"])
    if single.empty or not single.shape[1]:
        return table.assign(single=np.nan, low=np.nan, high=np.nan)
    low, high = (single.quantile(q, axis=1) for q in _ENDS)
    return table[["true", "mean"]].assign(single=single.median(axis=1), low=low, high=high)


def _limits(tables: Sequence[pd.DataFrame]) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of all panels, a little beyond what is drawn."""
    x = np.concatenate([t["true"].to_numpy() for t in tables])
    y = np.concatenate([t[["mean", "single", "low", "high"]].to_numpy().ravel() for t in tables])
    x, y = (v[np.isfinite(v) & (v > 0)] for v in (x, y))
    ends = [(v.min() / 1.3, v.max() * 1.3) if len(v) else (0.1, 10.0) for v in (x, np.concatenate([x, y]))]
    return (*ends[0], *ends[1])


def _draw(axes: Axes, row: str, table: pd.DataFrame, style: Style, limits: tuple[float, float, float, float]) -> None:
    true = table["true"].to_numpy()
    ratios = {}
    axes.plot(limits[:2], limits[:2], color="black", lw=0.8, zorder=1, label="identity")
    for column, face in (("mean", "white"), ("single", style.color)):
        value = table[column].to_numpy()
        seen = (true > 0) & (value > 0)
        if (true > 0).any() and np.isfinite(value).any():
            ratios[column] = float(np.median(value[true > 0] / true[true > 0]))
        if column == "single" and seen.any():
            low = np.maximum(table["low"].to_numpy()[seen], limits[2])  # zero has no place on this axis
            axes.vlines(true[seen], low, table["high"].to_numpy()[seen], color=style.color, lw=0.5, alpha=0.5, zorder=2)
        if seen.any():
            x, y = true[seen], value[seen]
            axes.scatter(x, y, s=6, facecolors=face, edgecolors=style.color, linewidths=0.5, label=column, zorder=3)
    axes.set(xscale="log", yscale="log", xlim=limits[:2], ylim=limits[2:])
    for axis, (low_end, high_end) in ((axes.xaxis, limits[:2]), (axes.yaxis, limits[2:])):
        _number(axis, high_end / low_end)
    told = ", ".join(f"{name} {ratios[c]:.2f}" for c, name in (("single", "single"), ("mean", "mean")) if c in ratios)
    if table["single"].isna().all():
        told = told.replace("mean ", "")
    axes.set_title(f"{row}\nmedian ratio: {told or 'none'}", fontsize=SMALL, parse_math=False)
    lost = int(((true <= 0) | (table["mean"].to_numpy() <= 0)).sum())
    if lost:
        text = f"{lost} gene{'s' * (lost > 1)} without\nvariance not shown"
        axes.text(0.97, 0.03, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=SMALL - 1)
    plain(axes)


def _number(axis: Axis, ratio: float) -> None:
    """Plain numbers, at 1, 2 and 5 of every power of ten where there are few powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < _FEW else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, columns: int) -> None:
    from matplotlib.lines import Line2D

    def dot(width: float, face: str, label: str) -> Line2D:
        return Line2D([], [], lw=width, marker="o", ms=4, mew=0.7, color=QUIET, markerfacecolor=face, label=label)

    line = Line2D([], [], color="black", lw=0.8, label="as measured")
    handles = [dot(0.8, QUIET, _SINGLE), dot(0, "white", _MEAN), line]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL)
