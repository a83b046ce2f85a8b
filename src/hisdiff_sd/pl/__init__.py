"""Plots."""

from hisdiff_sd.pl._benchmark import benchmark
from hisdiff_sd.pl._calibration import calibration
from hisdiff_sd.pl._coexpression import coexpression
from hisdiff_sd.pl._expression import expression
from hisdiff_sd.pl._gene_variation import gene_variation
from hisdiff_sd.pl._learning_curve import learning_curve
from hisdiff_sd.pl._loss import loss
from hisdiff_sd.pl._reliability import reliability
from hisdiff_sd.pl._report import report
from hisdiff_sd.pl._tissue import tissue

__all__ = [
    "expression",
    "tissue",
    "reliability",
    "report",
    "loss",
    "benchmark",
    "gene_variation",
    "coexpression",
    "calibration",
    "learning_curve",
]
