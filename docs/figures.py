"""Draws the figures of docs/concepts.md into docs/_static: `python docs/figures.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

from hisdiff_sd.tiles import nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STATIC = Path(__file__).parent / "_static"
INK, LINE = "#1f2430", "#5b6475"
IMAGE, VECTOR, NETWORK, RESULT, PLAIN = "#f6d9e3", "#dbe7f7", "#e4dcf5", "#dcefdc", "#f3f4f6"
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "hisdiff_sd", "font.family": "sans-serif", "font.size": 10}


def canvas(width: float, height: float) -> tuple[Any, Axes]:
    """A figure whose axes are in tenths of an inch, with nothing around them."""
    figure = plt.figure(figsize=(width / 10, height / 10), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, w: float, h: float, text: str, color: str = PLAIN, size: float = 10) -> None:
    """A rounded box with text, its lower left corner at (x, y)."""
    shape = FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=1", fc=color, ec=LINE, lw=1)
    axes.add_patch(shape)
    axes.text(x + w / 2, y + h / 2, text, ha="center", va="center", color=INK, fontsize=size, linespacing=1.35)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    """An arrow from point to point."""
    style = f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=LINE, lw=1.2, connectionstyle=style)
    )


def words(axes: Axes, x: float, y: float, text: str, size: float = 10, **how: Any) -> None:
    """Text without a box."""
    axes.text(x, y, text, **{"ha": "left", "va": "center", "color": INK, "fontsize": size, "linespacing": 1.35, **how})


def spots(axes: Axes, x: float, y: float, side: float, grid: str) -> None:
    """A spot with its 9 and 49 nearest in a window, on one of the two grids."""
    axes.add_patch(Rectangle((x, y), side, side, fc=IMAGE, ec=LINE, lw=1))
    pitch = side / 9.5
    steps = np.arange(-9, 10)
    column, row = (a.ravel() for a in np.meshgrid(steps, steps))
    shift, height = (0.5 * (row % 2), np.sqrt(0.75)) if grid == "hexagonal" else (0.0, 1.0)
    xy = np.column_stack([(column + shift) * pitch, row * height * pitch])
    centre = int(np.abs(xy).sum(1).argmin())
    near, wide = ({*nearest(xy, k).index[centre].tolist()} for k in (9, 49))
    for i, (a, b) in enumerate(xy):
        if max(abs(a), abs(b)) > side / 2 - pitch * 0.4:
            continue
        color = "#b3316b" if i == centre else "#e08aae" if i in near else "#8fb3e0" if i in wide else "white"
        place = (x + side / 2 + a, y + side / 2 + b)
        axes.add_patch(Circle(place, pitch * 0.3, fc=color, ec=LINE, lw=0.6))


def model() -> Any:
    """Both processes, from the slide to the samples."""
    figure, axes = canvas(78, 88)
    words(axes, 2, 85.5, "What the model sees of a spot", 11, weight="bold")
    spots(axes, 2, 61, 21, "square")
    words(axes, 25, 79.5, "the tile of the spot", color="#b3316b")
    words(axes, 25, 75.5, "tiles of its 9 nearest spots, itself included", color="#c0577f")
    words(axes, 25, 71.5, "tiles of its 49 nearest spots", color="#4b78b5")
    box(axes, 25, 61.5, 15, 6, "tile encoder", NETWORK)
    arrow(axes, (40, 64.5), (45, 64.5))
    box(axes, 45, 61.5, 31, 6, "embeddings: spot, near, wide", VECTOR)

    words(axes, 2, 56, 'Process "flow", the default', 11, weight="bold")
    box(axes, 2, 45.5, 21, 7, "embeddings, standard-\nised over the slide", VECTOR, 9)
    box(axes, 2, 33.5, 21, 8, "kernel regression,\nf(x)", NETWORK)
    arrow(axes, (12.5, 45.5), (12.5, 41.5))
    box(axes, 28, 45.5, 22, 7, "noise: own, shared with\nneighbours, of the slide", PLAIN, 9)
    box(axes, 28, 33.5, 22, 8, "rectified flow over\ngenes, 10 steps", NETWORK)
    arrow(axes, (39, 45.5), (39, 41.5))
    arrow(axes, (23, 37.5), (28, 37.5))
    box(axes, 54, 33.5, 22, 8, "f(x) + T · σ · residual,\nclipped at zero", RESULT)
    arrow(axes, (50, 37.5), (54, 37.5))
    words(axes, 65, 49, "T is calibrated on\nleft-out training slides", 9, ha="center", color=LINE)

    words(axes, 2, 28, 'Process "ddpm", as published', 11, weight="bold")
    box(axes, 2, 17.5, 21, 7, "cross-attention of the\nspot to near and wide", NETWORK, 9)
    box(axes, 2, 7.5, 21, 7, "a token per gene,\nof its noisy value", PLAIN, 9)
    box(axes, 28, 12, 22, 8, "transformer blocks\n(adaLN-Zero), 12", NETWORK)
    arrow(axes, (23, 20.5), (28, 17.8))
    arrow(axes, (23, 11.5), (28, 14.2))
    box(axes, 54, 12, 22, 8, "noise and variance\nof every gene", RESULT)
    arrow(axes, (50, 16), (54, 16))
    axes.plot([65, 65, 12.5], [12, 3.5, 3.5], color=LINE, lw=1.2)
    arrow(axes, (12.5, 3.5), (12.5, 7.5))
    words(axes, 39, 5.6, "a step with less noise: 8 steps, or 1,000 as published", 9, ha="center", color=LINE)
    return figure


def tile() -> Any:
    """Two protocols on two slides, and the two contexts on two grids."""
    figure, axes = canvas(78, 62)
    words(axes, 2, 59.5, "One tile, on slides of two pixel sizes", 11, weight="bold")
    for x, mpp in ((2, 0.5), (41, 0.25)):
        axes.add_patch(Rectangle((x, 33), 35, 23, fc=IMAGE, ec=LINE, lw=1))
        scale = 0.14  # tenths of an inch per um
        centre = (x + 12.5, 44.5)
        axes.add_patch(Circle(centre, 55 / 2 * scale, fc="white", ec=LINE, lw=1))
        for side, color in ((224 * mpp, "#b3316b"), (112.0, "#2c62a8")):
            corner = (centre[0] - side * scale / 2, centre[1] - side * scale / 2)
            dashed = (0, (4, 2)) if color == "#2c62a8" else "solid"
            axes.add_patch(Rectangle(corner, side * scale, side * scale, fc="none", ec=color, lw=1.8, ls=dashed))
        words(axes, x + 22, 51.5, f"{mpp:g} µm per px", 10, weight="bold")
        words(axes, x + 22, 46.5, f"published:\n224 px = {224 * mpp:g} µm", 9, color="#b3316b")
        words(axes, x + 22, 40.5, f"tile_um=112:\n{112 / mpp:g} px = 112 µm", 9, color="#2c62a8")
    words(axes, 2, 29.5, "The context of a spot", 11, weight="bold")
    for x, grid, name in ((2, "square", "Spatial\nTranscriptomics"), (41, "hexagonal", "Visium")):
        spots(axes, x, 2, 24, grid)
        words(axes, x + 25.5, 20, name, 9, weight="bold")
        words(axes, x + 25.5, 14, f"{grid} grid", 9)
        words(axes, x + 25.5, 10, "9 nearest", 9, color="#c0577f")
        words(axes, x + 25.5, 6.5, "49 nearest", 9, color="#4b78b5")
    return figure


def store() -> Any:
    """What lies in a store, and what annotates what."""
    figure, axes = canvas(78, 58)
    axes.add_patch(
        FancyBboxPatch((1, 1), 76, 56, boxstyle="round,pad=0,rounding_size=1.5", fc="white", ec=LINE, lw=1.2, ls="--")
    )
    words(axes, 3, 54, "stores/S1.zarr, one slide", 11, weight="bold")
    for x, title in ((3, "images"), (28, "shapes"), (53, "tables annotate shapes")):
        words(axes, x, 49, title, 10, color=LINE)
    box(axes, 3, 38, 20, 8, "he\nH&E pyramid, lazy", IMAGE)
    box(axes, 3, 3, 20, 8, "<prediction>_raster\na channel per gene", RESULT, 9)
    box(axes, 28, 38, 20, 8, "spots\ncircles", VECTOR)
    box(axes, 28, 20, 20, 8, "tissue\noutlines", VECTOR)
    box(axes, 28, 8, 20, 8, "tiles_50um\na grid on the tissue", VECTOR, 9)
    box(axes, 53, 40, 22, 6.5, "table: measured counts", PLAIN, 9)
    box(axes, 53, 32, 22, 6.5, "spots_uni: embeddings", NETWORK, 9)
    box(axes, 53, 24, 22, 6.5, "hisdiff: prediction", RESULT, 9)
    box(axes, 53, 13, 22, 6.5, "tiles_50um_uni", NETWORK, 9)
    box(axes, 53, 5, 22, 6.5, "hisdiff_tiles_50um", RESULT, 9)
    for y in (43.2, 35.2, 27.2):
        arrow(axes, (53, y), (48, 42 if y > 40 else 41 if y > 30 else 39.5))
    for y in (16.2, 8.2):
        arrow(axes, (53, y), (48, 13 if y > 10 else 11))
    arrow(axes, (53, 6.5), (23, 6.2), 0.0)
    words(axes, 3, 31.5, "global: level-0 pixels\nmicrons: micrometres", 9, color=LINE)
    words(axes, 3, 23, "attrs: slide, patient,\npixel size, spots", 9, color=LINE)
    words(axes, 3, 15.5, "uns of each table:\nhow it was made", 9, color=LINE)
    return figure


def main(folder: Path = STATIC) -> None:
    """Write all figures."""
    with plt.rc_context(STYLE):
        for name, draw in (("model", model), ("tile", tile), ("store", store)):
            draw().savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
