"""A tile image in, a vector out: pathology foundation models and the built-in, weight-free morphology encoder."""

from __future__ import annotations

from hisdiff_sd.encoders._base import TileEncoder
from hisdiff_sd.encoders._callable import from_callable
from hisdiff_sd.encoders._registry import load_encoder as load
from hisdiff_sd.encoders._table import table

__all__ = ["load", "table", "from_callable", "TileEncoder"]
