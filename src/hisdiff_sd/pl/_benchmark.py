from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.pl._figure import new_figure
from hisdiff_sd.pl._methods import NORMAL, QUIET, SMALL, WIDTH, Style, plain, styles_of
from hisdiff_sd.pl._metric_names import HIGH, METRIC_NAMES, NOMINAL, better
from hisdiff_sd.tl._cv_scores import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hisdiff_sd.tl._cross_validation import CrossValidation

_COLUMNS = 4
_REFERENCE = "better_ridge"


def benchmark(
    result: CrossValidation,
    metrics: Sequence[str] = ("pcc50", "mse", "crps", "energy", "rvd_single", "gene_corr_single", "coverage90"),
    reference: str | None = _REFERENCE,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> Figure:
    """Draw the scores of all methods, a panel for each metric.

    Points are the figures of `CrossValidation.summary`, bars their 95% intervals. The best method by the first metric is on
    top, and the order is the same in all panels. Whether one method is better than another is not to be read off two
    bars, which share slides and spots: ask `CrossValidation.compare`.

    Parameters
    ----------
    result
        What `hd.tl.cross_validate` returned.
    metrics
        Columns of `CrossValidation.scores`.
    reference
        A row whose figures are drawn as a line through the panels; None for no line. A result without
        ``"better_ridge"`` has none unless another row is named.
    n_boot, seed
        Of the intervals.

    Returns
    -------
    A figure, 180 mm wide. Metrics that a method has no value of (coverage of a point prediction) are left blank, and points
    without a bar have no interval (variances and gene correlations of single samples, if slides are few).

    Raises
    ------
    HisDiffError
        If there is no such metric or row.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(1200, 1000), mpp=1.1)
    >>> slides = [hd.io.hest(root, name) for name in ("S1", "S2")]
    >>> cv = hd.tl.cross_validate(slides, encoder="morphology", rows=["mean", "ridge"])
    >>> figure = hd.pl.benchmark(cv, ["pcc_all", "mse"], reference="mean", n_boot=10)
    """
    asked = [metrics] if isinstance(metrics, str) else list(dict.fromkeys(metrics))
    if not asked:
        raise HisDiffError(f"metrics= is empty; there are: {', '.join(METRICS)}")
    for metric in asked:
        check_one_of(metric, METRICS, "metric")
    if reference is not None and (reference != _REFERENCE or reference in result.rows):
        check_one_of(reference, result.rows, "row")
    else:
        reference = None
    summary = result.summary(asked, n_boot=n_boot, seed=seed)
    by_metric = {m: own.set_index("row") for m, own in summary.groupby("metric")}
    order = _best_first(by_metric[asked[0]]["value"], asked[0])
    return _draw({m: by_metric[m].loc[order] for m in asked}, styles_of(result), reference, _caption(result, summary))


def _best_first(values: pd.Series, metric: str) -> list[str]:
    """Rows by how good they are; those without a value come last."""
    if metric in NOMINAL:
        values = (values - NOMINAL[metric]).abs()
    return list(values.sort_values(ascending=metric not in HIGH, kind="stable", na_position="last").index)


def _caption(result: CrossValidation, summary: pd.DataFrame) -> str:
    n = sum(len(fold["test"]) for fold in result.design["folds"])
    points = "Points: the slide" if n == 1 else f"Points: means over {n} slides"
    return f"{points}. Bars: 95% intervals; resampled: {summary.attrs['unit']}."


def _draw(tables: dict[str, pd.DataFrame], styles: dict[str, Style], reference: str | None, caption: str) -> Figure:
    columns = min(_COLUMNS, len(tables))
    lines = -(-len(tables) // columns)
    n = len(next(iter(tables.values())))
    figure = new_figure(figsize=(WIDTH if columns > 2 else 2.4 + 1.6 * columns, lines * (0.95 + 0.19 * n) + 0.4))
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, (metric, table) in zip(grid.flat, tables.items(), strict=False):
        _draw_metric(axes, metric, table, styles, reference)
    for axes in list(grid.flat)[len(tables) :]:
        axes.set_axis_off()
    if reference is not None:
        caption += f" Dashed line: {reference}."
    wrapped = textwrap.fill(caption, int(figure.get_figwidth() * 17))
    figure.supxlabel(wrapped, fontsize=SMALL, color="0.25", x=0.01, ha="left", parse_math=False)
    return figure


def _draw_metric(axes: Axes, metric: str, table: pd.DataFrame, styles: dict[str, Style], reference: str | None) -> None:
    value, low, high = (table[c].to_numpy(np.float64) for c in ("value", "low", "high"))
    place, colors = np.arange(len(table)), np.array([styles[row].color for row in table.index])
    known, barred = np.isfinite(value), np.isfinite(low) & np.isfinite(high)
    axes.hlines(place, 0, 1, transform=axes.get_yaxis_transform(), color="0.92", lw=0.6, zorder=0)
    if reference is not None and np.isfinite(table["value"][reference]):
        axes.axvline(table["value"][reference], color=QUIET, lw=0.8, ls="--", zorder=1, label="reference")
    if metric in NOMINAL:
        axes.axvline(NOMINAL[metric], color=QUIET, lw=0.8, ls=":", zorder=1, label="nominal")
    if barred.any():
        axes.hlines(place[barred], low[barred], high[barred], color=colors[barred], lw=1.6, label="intervals", zorder=2)
    if known.any():
        axes.scatter(value[known], place[known], c=colors[known], s=13, label="values", zorder=3)
    else:
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center", fontsize=SMALL)
        axes.set_xticks([])
    axes.set_title(METRIC_NAMES[metric], fontsize=NORMAL)
    axes.set_xlabel(better(metric), fontsize=SMALL, color="0.25")
    axes.set_yticks(place, table.index, parse_math=False)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=3)
    plain(axes)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
