"""Spatial gene expression from H&E slides with HisDiff, on SpatialData.

Use it as ``import hisdiff_sd as hd``: slides come in through `hd.io`, are prepared by `hd.pp`, predicted and judged by
`hd.tl` and drawn by `hd.pl`. Every namespace is loaded when it is first used, so importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hisdiff_sd._messages import speak
from hisdiff_sd._settings import settings
from hisdiff_sd._version import __version__

if TYPE_CHECKING:
    from hisdiff_sd import datasets, encoders, io, metrics, nn, pl, pp, tl
    from hisdiff_sd._cohort import map_stores
    from hisdiff_sd.model import HisDiff

_NAMESPACES = ("io", "pp", "tl", "pl", "nn", "encoders", "metrics", "datasets")
_MEMBERS = {"HisDiff": "hisdiff_sd.model", "map_stores": "hisdiff_sd._cohort"}  # public name -> module

__all__ = [
    "io",
    "pp",
    "tl",
    "pl",
    "nn",
    "encoders",
    "metrics",
    "datasets",
    "HisDiff",
    "map_stores",
    "settings",
    "__version__",
]


speak()


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return importlib.import_module(f"hisdiff_sd.{name}")
    if name in _MEMBERS:
        return getattr(importlib.import_module(_MEMBERS[name]), name)
    raise AttributeError(f"module 'hisdiff_sd' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
