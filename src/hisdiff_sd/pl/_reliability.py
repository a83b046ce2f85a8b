from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd._trust import FALSE_DISCOVERY, LOWEST_PCC
from hisdiff_sd.pl._figure import new_figure
from hisdiff_sd.pl._prediction import Verdict, find_prediction, verdicts_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

_NAMED = 25  # genes whose names are readable in one column
_GO, _NO = "#0b4f8a", "#c8641e"  # told apart by colour-blind readers, and in grey; the marks differ as well


def reliability(sdata: SpatialData, *, key: str | None = None) -> Figure:
    """Draw which genes of a prediction to believe: the go / no-go list of the panel.

    Every gene is shown by its correlation (PCC) on training slides that were left out while the model learned. The best
    and the worst are named; of a panel of 50 or fewer, all.

    Parameters
    ----------
    sdata
        A slide with a prediction.
    key
        The prediction; by default ``"hisdiff"``, else the only one the slide has.

    Returns
    -------
    A figure. If the model does not know how reliable its genes are, it says so.

    Raises
    ------
    HisDiffError
        If there is no prediction, or there are several and none is called ``"hisdiff"``.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.hest(root, "S1")
    >>> hd.pp.embed(sdata, "morphology")
    >>> model = hd.tl.train([sdata], genes=["ERBB2", "EPCAM"], encoder="morphology", epochs=1)
    >>> hd.tl.predict(sdata, model, n_samples=2, steps=2)
    >>> figure = hd.pl.reliability(sdata)
    """
    name = find_prediction(sdata, key)
    return draw_reliability(verdicts_of(sdata.tables[name]))


def draw_reliability(verdicts: dict[str, Verdict]) -> Figure:
    """The figure of these genes."""
    known = {gene: (v.r, v.reliable) for gene, v in verdicts.items() if v.r is not None and v.reliable is not None}
    if not known:
        return _unknown(len(verdicts))
    ranked = pd.DataFrame.from_dict(known, orient="index", columns=["r", "go"])
    ranked = ranked.sort_values("r", ascending=False, kind="stable")
    figure = new_figure(figsize=(10, 5.6))
    curve, best, worst = figure.subplots(1, 3, width_ratios=(2.2, 1, 1))
    _draw_curve(curve, ranked, len(verdicts) - len(known))
    first = min(_NAMED, -(-len(ranked) // 2))
    limits = min(ranked["r"].min(), 0) - 0.05, max(ranked["r"].max(), 0) + 0.05
    _draw_named(best, ranked[:first], "best", limits)
    _draw_named(worst, ranked[max(first, len(ranked) - _NAMED) :], "worst", limits)
    count = f"{int(ranked['go'].sum())} of {len(verdicts)} genes are reliable"
    figure.suptitle(f"{count}, judged on left-out training slides", fontsize=13)
    return figure


def _draw_curve(axes: Axes, ranked: pd.DataFrame, unknown: int) -> None:
    """All genes from best to worst."""
    axes.axhline(0, color="0.4", lw=0.8)
    _draw_points(axes, np.arange(len(ranked)) + 1, ranked["r"], ranked["go"])
    rule = f"needed: r {LOWEST_PCC:g} or more,\nfalse discovery rate {FALSE_DISCOVERY:g} or less"
    axes.axhline(LOWEST_PCC, color=_GO, lw=1, ls="--", label=rule)
    xlabel = "gene, from best to worst" + (f" ({unknown} without a score not shown)" if unknown else "")
    axes.set(xlabel=xlabel, ylabel="r on left-out slides", xlim=(0, len(ranked) + 1))
    axes.locator_params(axis="x", integer=True)
    # a frame without an edge, so that the line at 0 does not run through the words
    axes.legend(edgecolor="none", framealpha=1, fontsize=9, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_named(axes: Axes, genes: pd.DataFrame, end: str, limits: tuple[float, float]) -> None:
    """Genes of one end of the list with their names, the best on top."""
    if genes.empty:  # of a panel of one gene
        axes.set_axis_off()
        return
    place = np.arange(len(genes))
    axes.axvline(0, color="0.4", lw=0.8)
    axes.hlines(place, 0, genes["r"], color="0.8", lw=1, zorder=1)
    _draw_points(axes, genes["r"], place, genes["go"])
    axes.set_yticks(place, genes.index, fontsize=8, parse_math=False)
    axes.set(ylim=(max(len(genes), 8) - 0.4, -0.6), xlim=limits, xlabel="r")
    axes.set_title(f"{end} {len(genes)}", fontsize=11)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_points(axes: Axes, x: pd.Series | np.ndarray, y: pd.Series | np.ndarray, go: pd.Series) -> None:
    x, y, go = np.asarray(x), np.asarray(y), go.to_numpy(bool)
    axes.scatter(x[go], y[go], s=18, color=_GO, label="reliable", zorder=2)
    axes.scatter(x[~go], y[~go], s=18, facecolor="white", edgecolor=_NO, marker="D", label="not reliable", zorder=2)


def _unknown(n_genes: int) -> Figure:
    """A figure that says that there is nothing to draw."""
    figure = new_figure(figsize=(7, 2))
    text = f"reliability unknown: the model does not say how its {n_genes} genes\ndid on left-out slides (trust no map by itself)"
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=11)
    return figure
