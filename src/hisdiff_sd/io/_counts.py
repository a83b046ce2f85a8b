"""Measured counts, checked and cleaned before anything is built on them."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from hisdiff_sd._errors import HisDiffError, HisDiffWarning, reason

if TYPE_CHECKING:
    from anndata import AnnData

_CONTROL = re.compile(r"^(BLANK|NegControl|antisense_|Unassigned|Deprecated|Intergenic)", re.IGNORECASE)


def clean_counts(table: AnnData, source: str) -> tuple[AnnData, dict[str, Any]]:
    """Check raw counts and sum duplicated genes.

    Parameters
    ----------
    table
        Spots x genes, raw counts.
    source
        File the counts come from, for messages.

    Returns
    -------
    A new AnnData (float32 CSR ``X``, ``var["control"]`` true for control probes) and what was found, as plain values.

    Raises
    ------
    HisDiffError
        For duplicated barcodes, and NaN, infinite or negative counts.
    """
    from anndata import AnnData

    # an index that is named like one of its columns cannot be written
    barcodes = pd.Index(table.obs_names.astype(str)).rename(None)
    if not barcodes.is_unique:
        twice = barcodes[barcodes.duplicated()].unique()
        raise HisDiffError(
            f"{source}: {len(twice)} barcodes occur more than once, for example {list(twice[:3])}; "
            "each spot needs its own: was the same slide joined twice?"
        )
    if table.n_obs == 0 or table.n_vars == 0 or table.X is None:
        raise HisDiffError(f"{source}: no counts: {table.n_obs} spots x {table.n_vars} genes")
    counts = _matrix(table.X, source)
    _check_values(counts, source)
    genes = pd.Index(table.var_names.astype(str)).rename(None)
    found: dict[str, Any] = {
        "integer_counts": bool(np.all(counts.data == np.round(counts.data))),
        "duplicated_genes": sorted(genes[genes.duplicated()].unique()),
        "gene_id_type": gene_id_type(genes),
    }
    var = table.var.copy()
    var.index = genes
    if found["duplicated_genes"]:
        codes, unique = pd.factorize(genes)
        joined = sparse.csr_matrix((np.ones(len(codes), np.float32), (np.arange(len(codes)), codes)))
        counts = sparse.csr_matrix(counts @ joined)
        var = var.loc[~genes.duplicated()]
        genes = pd.Index(unique)
        names = found["duplicated_genes"]
        warnings.warn(
            f"{source}: {len(names)} gene names occur more than once ({', '.join(names[:5])}{' ...' * (len(names) > 5)}); "
            "their counts were summed",
            HisDiffWarning,
            stacklevel=4,
        )
    if not found["integer_counts"]:
        warnings.warn(
            f"{source}: the counts are not whole numbers; were they normalised?", HisDiffWarning, stacklevel=4
        )
    var["control"] = [bool(_CONTROL.match(g)) for g in genes]
    obs = table.obs.copy()
    obs.index = barcodes
    return AnnData(X=counts, obs=obs, var=var), found


def gene_id_type(genes: pd.Index) -> str:
    """``"ensembl"`` where most names are Ensembl gene ids, else ``"symbol"``.

    Examples
    --------
    >>> gene_id_type(pd.Index(["ERBB2", "ENSG00000141736"]))
    'symbol'
    """
    share = genes.str.match(r"^ENS[A-Z]*G\d{6,}").mean() if len(genes) else 0.0
    return "ensembl" if share > 0.5 else "symbol"


def _matrix(values: Any, source: str) -> sparse.csr_matrix:
    """Counts as float32 CSR; indices that point beyond the matrix are refused before compiled code follows them."""
    try:
        if sparse.issparse(values):
            values.check_format(full_check=True)
        return sparse.csr_matrix(values, dtype=np.float32)
    except Exception as error:  # scipy's and numpy's, of whatever was in the file
        raise HisDiffError(
            f"{source}: the counts are no matrix of numbers ({reason(error)}); fetch it again"
        ) from error


def _check_values(counts: sparse.csr_matrix, source: str) -> None:
    bad = ~np.isfinite(counts.data)
    if bad.any():
        raise HisDiffError(f"{source}: {int(bad.sum())} counts are NaN or infinite; raw counts are needed")
    if (counts.data < 0).any():
        raise HisDiffError(
            f"{source}: {int((counts.data < 0).sum())} counts are negative (lowest {counts.data.min():g}); "
            "raw counts are needed, not scaled values"
        )
