"""Plots."""

from hisdiff_sd.pl._expression import expression
from hisdiff_sd.pl._loss import loss

__all__ = ["expression", "loss"]
