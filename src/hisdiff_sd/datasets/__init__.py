"""Synthetic slides in the layout of HEST-1k, with known truth."""

from __future__ import annotations

from hisdiff_sd.datasets._synthetic import synthetic, synthetic_truth

__all__ = ["synthetic", "synthetic_truth"]
