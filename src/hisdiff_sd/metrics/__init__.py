"""Numbers from two arrays: what was predicted and what was measured, both (n_spots, n_genes)."""

from __future__ import annotations

from hisdiff_sd.metrics._correlation import pcc, pcc_of, pcc_top
from hisdiff_sd.metrics._error import mae, mse
from hisdiff_sd.metrics._scores import scores
from hisdiff_sd.metrics._shift import shifted_null
from hisdiff_sd.metrics._structure import gene_corr_error
from hisdiff_sd.metrics._variance import log_var_ratio, rvd

__all__ = [
    "scores",
    "pcc",
    "pcc_top",
    "pcc_of",
    "mse",
    "mae",
    "rvd",
    "log_var_ratio",
    "gene_corr_error",
    "shifted_null",
]
