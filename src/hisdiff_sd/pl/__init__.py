"""Plots."""

from hisdiff_sd.pl._expression import expression
from hisdiff_sd.pl._loss import loss
from hisdiff_sd.pl._reliability import reliability
from hisdiff_sd.pl._report import report
from hisdiff_sd.pl._tissue import tissue

__all__ = ["expression", "loss", "reliability", "report", "tissue"]
