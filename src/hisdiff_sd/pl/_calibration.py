from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hisdiff_sd import metrics
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.pl._figure import new_figure
from hisdiff_sd.pl._methods import (
    NORMAL,
    QUIET,
    SMALL,
    WIDTH,
    Style,
    chosen_rows,
    is_point,
    measured_alike,
    of_slides,
    plain,
    predictions_of,
    slides_of,
    styles_of,
)
from hisdiff_sd.tl._bootstrap import Blocks, independent_units, interval, pooled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hisdiff_sd.tl._cross_validation import CrossValidation, StoredPrediction

_LEVELS = tuple(round(0.1 * i, 1) for i in range(1, 10))
_BINS = 20
_LEAST = 0.05  # the axis of differences goes as far at least


class _Curve(NamedTuple):
    """What is drawn of one method; arrays of levels are (n_levels,), the histogram is (20,)."""

    levels: np.ndarray
    covered: np.ndarray
    low: np.ndarray
    high: np.ndarray
    closed: np.ndarray
    density: np.ndarray


def calibration(
    result: CrossValidation,
    rows: Sequence[str] | None = None,
    *,
    slide: str | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> Figure:
    """Draw whether samples vary as much as they should: coverage of intervals, and ranks of the measured values.

    Left, the share of measured values in central intervals against their nominal level. Counts are discrete: where the
    measured value equals samples, its rank among them is drawn at random (`hd.metrics.pit`), and a calibrated method lies
    on the diagonal. If equal values all count as inside (`hd.metrics.coverage`, the score ``coverage90``), the
    calibrated method lies above it; that is the dotted line. In the middle, how far the curve is from the diagonal.
    Right, the histogram of these ranks, among every second sample. A calibrated method is flat, samples that are too narrow
    make a U, too wide ones a hump, too low ones a rise.

    Parameters
    ----------
    result
        What `hd.tl.cross_validate` returned.
    rows
        Methods; by default all that have samples.
    slide
        A test slide; by default the mean over all.
    n_boot, seed
        Resamples of blocks of neighbouring spots, as in `CrossValidation.summary`, and the seed of them and of the ranks.

    Returns
    -------
    A figure, 180 mm wide. Bands are 95% intervals. Levels are 0.1, 0.2, ... 0.9, as far as the number of samples
    reaches: 0.9 needs 19.

    Raises
    ------
    HisDiffError
        If there is no such row or slide, or a row is a point prediction.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(1200, 1000), mpp=1.1)
    >>> slides = [hd.io.hest(root, name) for name in ("S1", "S2")]
    >>> cv = hd.tl.cross_validate(slides, encoder="morphology", rows=["random_spot", "dressed_ridge"])
    >>> figure = hd.pl.calibration(cv, n_boot=10)
    """
    slides, styles = slides_of(result, slide), styles_of(result)
    asked = _with_samples(result, rows)
    figure = new_figure(figsize=(WIDTH, 3.05))
    axes = figure.subplots(1, 3)
    for row in asked:
        _draw(axes, row, _curve(result, row, slides, n_boot, seed), styles[row])
    _dress(*axes)
    figure.suptitle(f"calibration, {of_slides(slides)}", fontsize=NORMAL + 1, parse_math=False)
    shown, names = axes[0].get_legend_handles_labels()
    legend = figure.legend(shown, names, loc="outside lower center", ncols=4, frameon=False, fontsize=SMALL)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _with_samples(result: CrossValidation, rows: Sequence[str] | None) -> list[str]:
    """The rows that are asked for, by default those with samples; a point prediction is refused."""
    asked = chosen_rows(result, rows)
    points = [row for row in asked if is_point(result, row)]
    if rows is None:
        asked = [row for row in asked if row not in points]
    if not asked or (rows is not None and points):
        sampled = [row for row in result.rows if not is_point(result, row)]
        raise HisDiffError(
            f"{', '.join(map(repr, points))}: point predictions have no intervals; rows with samples: "
            f"{', '.join(map(repr, sampled)) or 'none'}"
        )
    return asked


def _curve(result: CrossValidation, row: str, slides: Sequence[str], n_boot: int, seed: int) -> _Curve:
    """Means over slides; slides and patients are resampled as in `CrossValidation.summary`."""
    patients = {s["name"]: s["patient"] for s in result.design["slides"]}
    found = list(predictions_of(result, row, slides))
    fewest = min(len(p.samples) for p in found)
    levels = np.array([level for level in _LEVELS if level <= 1 - 2 / (fewest + 1) + 1e-9])
    units = independent_units([patients[p.slide] for p in found])
    covered, draws, closed, density = [], [], [], []
    for p in found:
        # samples of a flow come in pairs of opposite noise, and what was measured lies between the two too often
        ranks = metrics.pit(p.samples[::2], measured_alike(p), seed=seed)
        inside = np.stack([(np.abs(2 * ranks - 1) <= level).mean(1) for level in levels])
        blocks = Blocks(p.xy, n_boot, seed, p.slide)
        covered.append(inside.mean(1))
        draws.append(np.stack([blocks.means(spots) for spots in inside]))
        closed.append(_closed(p, levels))
        density.append(np.histogram(ranks, _BINS, (0, 1))[0] * _BINS / ranks.size)
    ends = [interval(pooled(of_level, units, seed)) for of_level in np.stack(draws, axis=1)]
    low, high = np.array(ends).reshape(-1, 2).T
    return _Curve(levels, np.mean(covered, 0), low, high, np.mean(closed, 0), np.mean(density, 0))


def _closed(p: StoredPrediction, levels: np.ndarray) -> np.ndarray:
    """Coverage of intervals with both ends, (n_levels,)."""
    true = measured_alike(p)
    return np.array([metrics.coverage(p.samples, true, level=float(level)) for level in levels])


def _draw(axes: Sequence[Axes], row: str, curve: _Curve, style: Style) -> None:
    """A method in all three panels."""
    coverage, difference, ranks = axes
    color, line = style.color, style.line
    coverage.plot(curve.levels, curve.closed, color=color, lw=0.8, ls=":")
    for panel, base in ((coverage, 0.0), (difference, curve.levels)):
        panel.fill_between(curve.levels, curve.low - base, curve.high - base, color=color, alpha=0.2, lw=0)
        y = curve.covered - base
        panel.plot(curve.levels, y, color=color, lw=1, ls=line, marker=style.marker, ms=3, label=row)
    ranks.stairs(curve.density, np.linspace(0, 1, _BINS + 1), color=color, lw=1, ls=line, label=row, baseline=None)


def _dress(coverage: Axes, difference: Axes, ranks: Axes) -> None:
    """What a calibrated method would look like, limits and names."""
    coverage.plot([], [], color=QUIET, lw=0.8, ls=":", label="equal values count as inside")
    coverage.plot([0, 1], [0, 1], color="black", lw=0.8, label="calibrated", zorder=1)
    difference.axhline(0, color="black", lw=0.8, zorder=1)
    ranks.axhline(1, color="black", lw=0.8, zorder=1)
    coverage.set(ylim=(0, 1))
    most = max(_LEAST, *(abs(end) for end in difference.get_ylim()))
    difference.set(ylim=(-most, most))
    ranks.set(ylim=(0, None))
    words = {
        coverage: ("coverage of intervals", "nominal level", "measured values inside"),
        difference: ("coverage less nominal level", "nominal level", ""),
        ranks: ("randomised PIT", "rank among the samples", "density"),
    }
    for axes, (title, x, y) in words.items():
        axes.set(xlim=(0, 1), box_aspect=1)
        axes.set_title(title, fontsize=NORMAL)
        axes.set_xlabel(x, fontsize=NORMAL)
        axes.set_ylabel(y, fontsize=NORMAL)
        plain(axes)
