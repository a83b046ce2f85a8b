"""What plots call the scores of a cross-validation, and which way they are better."""

from __future__ import annotations

HIGH = ("pcc10", "pcc50", "pcc_all", "moran_single")
NOMINAL = {"coverage90": 0.9, "coverage90_regions": 0.9}
METRIC_NAMES = {
    "pcc10": "PCC, best 10 genes",
    "pcc50": "PCC, best 50 genes",
    "pcc_all": "PCC, all genes",
    "mse": "MSE",
    "mae": "MAE",
    "crps": "CRPS",
    "energy": "energy score",
    "variogram": "variogram score",
    "rvd_single": "RVD,\nsingle sample",
    "log_var_ratio_single": "|log2 variance ratio|,\nsingle sample",
    "gene_corr_single": "gene correlation error,\nsingle sample",
    "moran_single": "correlation of Moran's I,\nsingle sample",
    "moran_error_single": "error of Moran's I,\nsingle sample",
    "coverage90": "coverage of\n90% intervals",
    "coverage90_regions": "coverage of 90%\nintervals, regions",
}


def better(metric: str) -> str:
    """Which way along an axis is better: to its end or to its beginning."""
    if metric in NOMINAL:
        return f"nominal {NOMINAL[metric]:g} (dotted)"
    return "better \N{RIGHTWARDS ARROW}" if metric in HIGH else "\N{LEFTWARDS ARROW} better"
