"""Maps of a slide: the H&E, values on it, a colour bar, a scale bar, and what of it is not to be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import check_one_of
from hisdiff_sd._html import percent
from hisdiff_sd._thumbnail import thumbnail_of
from hisdiff_sd.io._store import slide_attrs
from hisdiff_sd.pl._figure import new_figure, scale_bar
from hisdiff_sd.pl._marks import Marks, draw_untrusted, draw_values, untrusted_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

_PANEL_INCHES = 4.8
_WIDE = 0.45  # height over width
_UNLIKE = "not trusted: unlike the training slides"


@dataclass(frozen=True)
class Ground:
    """The slide that maps are drawn on, in level-0 px.

    Attributes
    ----------
    image
        uint8 (y, x, 3) thumbnail.
    extent
        Left, right, bottom and top of the thumbnail.
    window
        Left, top, right and bottom of the part that is shown.
    mpp
        Micrometres per level-0 px.
    """

    image: np.ndarray
    extent: tuple[float, float, float, float]
    window: tuple[float, float, float, float]
    mpp: float

    @property
    def shape(self) -> float:
        """Height of the shown part over its width."""
        return (self.window[3] - self.window[1]) / (self.window[2] - self.window[0])

    @property
    def is_wide(self) -> bool:
        """Whether maps are so low that they stand under each other, with their colours below them."""
        return self.shape < _WIDE


@dataclass(frozen=True)
class Panel:
    """One map.

    Attributes
    ----------
    title
        What stands above it.
    marks, values
        Shapes, and their (n,) values.
    cmap, low, high
        Colour map, and the values at its ends.
    label
        Of the colour bar.
    trusted
        (n,) bool; marks of which it is false are drawn without their value. None: all are believed, or it is unknown.
    """

    title: str
    marks: Marks
    values: np.ndarray
    cmap: str
    low: float
    high: float
    label: str
    trusted: np.ndarray | None = None

    def beyond(self, drawn: np.ndarray) -> str:
        """At which ends of the colour bar values lie beyond it, as matplotlib calls them."""
        values = self.values[drawn]
        below, above = bool((values < self.low).any()), bool((values > self.high).any())
        return {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}[
            below, above
        ]


def ground_of(sdata: SpatialData, marks: Marks | None = None, image_key: str = keys.HE) -> Ground:
    """The part of a slide that has marks, or all of it."""
    check_one_of(image_key, sdata.images, "image")
    image, scale = thumbnail_of(sdata, image_key)
    width, height = image.shape[1] / scale, image.shape[0] / scale
    mpp = slide_attrs(sdata)["mpp"]
    if marks is None:
        return Ground(image, (0, width, height, 0), (0, 0, width, height), mpp)
    margin = (1 if marks.are_tiles else 3) * marks.size
    (x0, y0), (x1, y1) = marks.xy.min(0) - margin, marks.xy.max(0) + margin
    window = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    return Ground(image, (0, width, height, 0), window, mpp)


def draw_maps(panels: Sequence[Panel], ground: Ground, title: str = "", *, legend: bool = True) -> Figure:
    """A figure of maps beside each other, or under each other where the slide is wide; `legend` of what is not trusted."""
    rows, columns = (len(panels), 1) if ground.is_wide else (1, len(panels))
    width = 2 * _PANEL_INCHES if ground.is_wide else _PANEL_INCHES
    height = width * ground.shape + 1 if ground.is_wide else 0.8 * width * min(ground.shape, 2) + 0.4
    figure = new_figure(figsize=(width * columns, height * rows + (0.5 if title else 0)))
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=True):
        _draw(axes, panel, ground)
    doubted = next((p for p in panels if p.trusted is not None and not p.trusted.all()), None)
    if legend and doubted is not None and doubted.trusted is not None:
        label = f"{_UNLIKE} ({percent(1 - doubted.trusted.mean())})"
        figure.legend([untrusted_key(doubted.marks)], [label], loc="outside lower center", frameon=False, fontsize=10)
    if title:
        # names may have a "$", which is no formula
        figure.suptitle(title, fontsize=13, parse_math=False)
    # how wide the numbers of a colour bar are is known once it has its size; the layout of the next drawing has room for them
    figure.draw_without_rendering()
    return figure


def draw_slide(sdata: SpatialData) -> Figure:
    """The whole slide."""
    ground = ground_of(sdata)
    width = 7.5 if ground.shape < 1 else 7.5 / ground.shape
    figure = new_figure(figsize=(width, width * ground.shape))
    axes = figure.subplots()
    axes.imshow(ground.image, extent=ground.extent, interpolation="antialiased")
    _show(axes, ground)
    return figure


def _show(axes: Axes, ground: Ground) -> None:
    """The window of the slide, without axes, with a scale bar."""
    axes.set_xlim(ground.window[0], ground.window[2])
    axes.set_ylim(ground.window[3], ground.window[1])
    axes.set_axis_off()
    scale_bar(axes, ground.mpp)


def _draw(axes: Axes, panel: Panel, ground: Ground) -> None:
    # under tiles the slide is grey: the colour of the stain would change that of the values; under spots it is pale: dark
    # ones would not be seen on dark tissue
    image = _grey(ground.image) if panel.marks.are_tiles else _pale(ground.image)
    axes.imshow(image, extent=ground.extent, interpolation="antialiased")
    believed = np.ones(panel.marks.n, bool) if panel.trusted is None else panel.trusted
    values = panel.values if believed.all() else np.ma.masked_array(panel.values, ~believed)
    drawn = draw_values(axes, panel.marks, values, cmap=panel.cmap, low=panel.low, high=panel.high)
    if not believed.all():
        draw_untrusted(axes, panel.marks.where(~believed))
    _show(axes, ground)
    axes.set_title(panel.title, fontsize=11, parse_math=False)
    place, shrink = ("bottom", 0.4) if ground.is_wide else ("right", 0.75)
    axes.figure.colorbar(
        drawn, ax=axes, label=panel.label, pad=0.02, location=place, shrink=shrink, extend=panel.beyond(believed)
    )


def _pale(image: np.ndarray) -> np.ndarray:
    """A picture half way to white, as uint8 (y, x, 3)."""
    return (image // 2 + 128).astype(np.uint8)


def _grey(image: np.ndarray) -> np.ndarray:
    """How bright a picture is, as uint8 (y, x, 3)."""
    bright = image @ np.array([0.299, 0.587, 0.114])
    return np.repeat(bright.astype(np.uint8)[..., None], 3, axis=2)
