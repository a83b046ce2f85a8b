"""What is predicted: counts brought to a model's target scale."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from hisdiff_sd._errors import check_one_of

Target = Literal["log2", "cp10k"]
TARGETS: tuple[str, ...] = get_args(Target)
UNITS = {"log2": "log2(count + 1)", "cp10k": "log(1 + counts per 10,000)"}  # of the targets, for people


def to_target(counts: np.ndarray, totals: np.ndarray, target: str) -> np.ndarray:
    """Bring raw counts to a target scale.

    Parameters
    ----------
    counts
        (n_spots, n_genes) raw counts.
    totals
        (n_spots,) counts over all non-control genes of the slide's file; used by ``"cp10k"`` alone.
    target
        ``"log2"``: log2(count + 1), as published. ``"cp10k"``: log(1 + counts per 10,000).

    Returns
    -------
    float64 (n_spots, n_genes).

    Examples
    --------
    >>> to_target(np.array([[3.0]]), np.array([100.0]), "log2").item()
    2.0
    """
    check_one_of(target, TARGETS, "target")
    counts = np.asarray(counts, np.float64)
    if target == "log2":
        return np.log2(counts + 1)
    return np.log1p(counts / np.maximum(totals, 1.0)[:, None] * 1e4)


def from_target(values: np.ndarray, target: str) -> np.ndarray:
    """Values on a target scale as counts (``"log2"``) or as counts per 10,000 (``"cp10k"``), in the shape of `values`."""
    check_one_of(target, TARGETS, "target")
    return np.exp2(values) - 1 if target == "log2" else np.expm1(values)


def total_counts(X: sparse.csr_matrix, var: pd.DataFrame) -> np.ndarray:
    """(n_spots,) counts of all genes that are no control probes."""
    keep = ~var["control"].to_numpy(bool) if "control" in var else np.ones(X.shape[1], bool)
    return np.asarray(X[:, keep].sum(1), np.float64).ravel()
