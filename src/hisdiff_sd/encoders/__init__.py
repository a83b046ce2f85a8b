"""A tile image in, a vector out: pathology foundation models and the built-in, weight-free morphology encoder."""

from __future__ import annotations

from hisdiff_sd.encoders._base import TileEncoder
from hisdiff_sd.encoders._registry import load_encoder as load

__all__ = ["load", "TileEncoder"]
