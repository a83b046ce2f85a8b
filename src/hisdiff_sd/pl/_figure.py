from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAR_UM = (10_000, 5000, 2000, 1000, 500, 200, 100, 50, 20, 10, 1)


def new_figure(**options: Any) -> Figure:
    """An empty figure that belongs to its caller: pyplot does not keep it, and a notebook shows it when it is returned."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    if "IPython" in sys.modules:
        plt.draw_if_interactive()  # a notebook learns how to show figures when the backend is loaded
    return Figure(layout="constrained", **options)


def scale_bar(axes: Axes, um_per_px: float) -> None:
    """A bar of a round length, at most a quarter of the width; its bright rim is seen on dark tissue."""
    from matplotlib.patheffects import withStroke

    x0, x1 = axes.get_xlim()
    y0, y1 = axes.get_ylim()
    width_um = (x1 - x0) * um_per_px
    length = next(size for size in _BAR_UM if size <= width_um / 4 or size == 1)
    left, bottom = x0 + 0.04 * (x1 - x0), y0 + 0.05 * (y1 - y0)
    rim = [withStroke(linewidth=5, foreground="white")]
    ends = [left, left + length / um_per_px], [bottom, bottom]
    axes.plot(*ends, color="black", lw=3, solid_capstyle="butt", path_effects=rim)
    text = f"{length // 1000} mm" if length >= 1000 else f"{length} um"
    rim = [withStroke(linewidth=2, foreground="white")]
    axes.text(left, bottom + 0.015 * (y1 - y0), text, fontsize=9, va="bottom", path_effects=rim)
