from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**options: Any) -> Figure:
    """An empty figure that belongs to its caller: pyplot does not keep it, and a notebook shows it when it is returned."""
    import matplotlib.pyplot  # noqa: F401  a notebook learns how to show figures when this is imported
    from matplotlib.figure import Figure

    return Figure(layout="constrained", **options)
