from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd import _keys as keys
from hisdiff_sd._data import measured, rows_of
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd._provenance import get_provenance
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd._thumbnail import thumbnail_of
from hisdiff_sd.io._store import slide_attrs
from hisdiff_sd.metrics import pcc
from hisdiff_sd.pl._figure import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

_PANEL_INCHES = 4.8
_UNITS = {"log2": "log2(count + 1)", "cp10k": "log(1 + counts per 10,000)"}


@dataclass(frozen=True)
class _Panel:
    title: str
    values: np.ndarray
    cmap: str
    low: float
    high: float
    label: str


def expression(
    sdata: SpatialData,
    gene: str,
    *,
    key: str = keys.PREDICTION,
    table_key: str = keys.TABLE,
    shapes_key: str = keys.SPOTS,
    image_key: str = keys.HE,
) -> Figure:
    """Draw a gene on the H&E: measured, predicted, uncertainty.

    Parameters
    ----------
    sdata
        A slide with a prediction.
    gene
        A gene of the prediction's panel.
    key, table_key, shapes_key, image_key
        Prediction, measured counts (left out if the slide has none of this gene), spots and image.

    Returns
    -------
    A figure. Measured and predicted share one colour scale, in the units of the model's target; the uncertainty is the
    standard deviation over the samples, in the same units.

    Raises
    ------
    HisDiffError
        If there is no such element or gene.
    """
    check_one_of(key, sdata.tables, "table")
    check_one_of(image_key, sdata.images, "image")
    prediction = sdata.tables[key]
    check_one_of(gene, prediction.var_names, f"gene in {key!r}")
    record = get_provenance(prediction)
    if "target" not in record:
        raise HisDiffError(f"table {key!r} is no prediction of hisdiff_sd; run hd.tl.predict")
    spots = slide_shapes(sdata, shapes_key)
    rows = rows_of(prediction, spots.index, key)
    kept = rows >= 0
    xy, rows = spots.xy[kept], rows[kept]
    column = prediction.var_names.get_loc(gene)
    predicted = np.asarray(prediction.X)[rows, column]
    spread = np.asarray(prediction.layers["std"])[rows, column]
    truth = None
    if table_key in sdata.tables and gene in sdata.tables[table_key].var_names:
        truth = measured(sdata.tables[table_key], spots.index[kept], [gene], record["target"], table_key).y[:, 0]
    panels = _panels(predicted, spread, truth, int(record["samples"]), _UNITS[record["target"]])
    image, scale = thumbnail_of(sdata, image_key)
    window = _window(xy * scale, 3 * spots.diameter_px * scale, image)
    shape = (window[3] - window[1]) / (window[2] - window[0])
    figure = new_figure(figsize=(_PANEL_INCHES * len(panels), 0.8 * _PANEL_INCHES * min(shape, 2) + 0.9))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel, xy * scale, spots.diameter_px * scale, image, window)
        _scale_bar(axes, slide_attrs(sdata)["mpp"] / scale)
    figure.suptitle(f"{gene} on {slide_attrs(sdata)['slide']}", fontsize=13)
    return figure


def _panels(
    predicted: np.ndarray, spread: np.ndarray, truth: np.ndarray | None, samples: int, units: str
) -> list[_Panel]:
    """What is drawn, left to right."""
    shown = predicted if truth is None else np.concatenate([predicted, truth])
    high = max(float(np.quantile(shown, 0.995)), 1e-6)
    mean = f"predicted, mean of {samples}"
    if truth is None:
        panels = [_Panel(mean, predicted, "viridis", 0.0, high, units)]
    else:
        agreement = pcc(predicted[:, None], truth[:, None])[0]
        panels = [
            _Panel("measured", truth, "viridis", 0.0, high, units),
            _Panel(f"{mean} (r = {agreement:.2f})", predicted, "viridis", 0.0, high, units),
        ]
    top = max(float(np.quantile(spread, 0.995)), 1e-6)
    return [*panels, _Panel("uncertainty", spread, "cividis", 0.0, top, f"standard deviation of {units}")]


def _window(xy: np.ndarray, margin: float, image: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the part of the slide that has spots."""
    (x0, y0), (x1, y1) = xy.min(0) - margin, xy.max(0) + margin
    return max(x0, 0), max(y0, 0), min(x1, image.shape[1]), min(y1, image.shape[0])


def _draw(
    axes: Axes,
    panel: _Panel,
    xy: np.ndarray,
    diameter: float,
    image: np.ndarray,
    window: tuple[float, float, float, float],
) -> None:
    """One panel: the spots as circles of their true size on the slide."""
    from matplotlib.collections import EllipseCollection

    axes.imshow(image, interpolation="antialiased")
    size = np.full(len(xy), diameter)
    circles = EllipseCollection(
        size, size, np.zeros(len(xy)), units="xy", offsets=xy, transOffset=axes.transData, cmap=panel.cmap, alpha=0.9
    )
    circles.set_array(panel.values)
    circles.set_clim(panel.low, panel.high)
    axes.add_collection(circles)
    axes.set_xlim(window[0], window[2])
    axes.set_ylim(window[3], window[1])
    axes.set_axis_off()
    axes.set_title(panel.title, fontsize=11)
    axes.figure.colorbar(circles, ax=axes, label=panel.label, shrink=0.75, pad=0.02)


def _scale_bar(axes: Axes, um_per_px: float) -> None:
    """A bar of a round length, about a fifth of the width."""
    x0, x1 = axes.get_xlim()
    y0, y1 = axes.get_ylim()
    width_um = (x1 - x0) * um_per_px
    length = next(size for size in (2000, 1000, 500, 200, 100, 50, 20, 10, 1) if size <= width_um / 4 or size == 1)
    left, bottom = x0 + 0.04 * (x1 - x0), y0 + 0.05 * (y1 - y0)
    axes.plot([left, left + length / um_per_px], [bottom, bottom], color="black", lw=3, solid_capstyle="butt")
    text = f"{length // 1000} mm" if length >= 1000 else f"{length} um"
    axes.text(left, bottom + 0.015 * (y1 - y0), text, fontsize=8, va="bottom")
