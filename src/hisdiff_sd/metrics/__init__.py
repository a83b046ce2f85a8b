"""Numbers from two arrays: what was predicted and what was measured, both (n_spots, n_genes).

Metrics of an ensemble take its samples, (n_samples, n_spots, n_genes), for the prediction.
"""

from __future__ import annotations

from hisdiff_sd.metrics._calibration import coverage, interval_score, interval_width, weibull_quantiles
from hisdiff_sd.metrics._ceiling import thinning_ceiling
from hisdiff_sd.metrics._clusters import cluster_agreement
from hisdiff_sd.metrics._correlation import pcc, pcc_of, pcc_top
from hisdiff_sd.metrics._coverage_table import coverage_table
from hisdiff_sd.metrics._ensemble import crps, energy_score, variogram_score
from hisdiff_sd.metrics._error import mae, mse
from hisdiff_sd.metrics._pit import pit
from hisdiff_sd.metrics._regions import compact_regions, region_coverage
from hisdiff_sd.metrics._scores import scores
from hisdiff_sd.metrics._sets import gene_set_scores
from hisdiff_sd.metrics._shift import shifted_null
from hisdiff_sd.metrics._spatial import moran, moran_corr, moran_error, neighbour_graph
from hisdiff_sd.metrics._split import error_split
from hisdiff_sd.metrics._structure import gene_corr_error
from hisdiff_sd.metrics._variance import log_var_ratio, rvd

__all__ = [
    "scores",
    "pcc",
    "pcc_top",
    "pcc_of",
    "mse",
    "mae",
    "error_split",
    "rvd",
    "log_var_ratio",
    "gene_corr_error",
    "crps",
    "energy_score",
    "variogram_score",
    "weibull_quantiles",
    "coverage",
    "interval_width",
    "interval_score",
    "pit",
    "coverage_table",
    "region_coverage",
    "compact_regions",
    "neighbour_graph",
    "moran",
    "moran_error",
    "moran_corr",
    "thinning_ceiling",
    "gene_set_scores",
    "cluster_agreement",
    "shifted_null",
]
