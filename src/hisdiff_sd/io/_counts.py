"""Measured counts, checked and cleaned before anything is built on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from hisdiff_sd._errors import HisDiffError, reason
from hisdiff_sd.io._genes import GeneNames, name_genes

if TYPE_CHECKING:
    from anndata import AnnData


def clean_counts(
    table: AnnData, source: str, *, genes: GeneNames = "symbols", control_probes: bool = False
) -> tuple[AnnData, dict[str, Any]]:
    """Check raw counts, name their genes, sum those of one name and drop control probes.

    Parameters
    ----------
    table
        Spots x genes, raw counts.
    source
        File the counts come from, for messages.
    genes
        ``"symbols"``, ``"ids"`` or ``"file"``, see `name_genes`.
    control_probes
        Keep control probes.

    Returns
    -------
    A new AnnData (float32 CSR ``X``; ``var["control"]`` true for control probes; ``var["gene_id"]``, Ensembl ids, where the
    file has any) and what was found, as plain values.

    Raises
    ------
    HisDiffError
        For duplicated barcodes, NaN, infinite or negative counts, and where nothing but control probes is there.
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
    named = name_genes(table.var, genes)
    kept = np.ones(len(named.names), bool) if control_probes else ~named.control
    if not kept.any():
        raise HisDiffError(f"{source}: all {len(kept)} genes are control probes; give control_probes=True to keep them")
    found: dict[str, Any] = {
        "integer_counts": bool(np.all(counts.data == np.round(counts.data))),
        "highest_count": float(counts.data.max(initial=0.0)),
        **named.facts,
        "control_probes": int(named.control.sum()),
        "control_probes_kept": bool(control_probes),
    }
    names = named.names[kept]
    found["duplicated_genes"] = sorted(names[names.duplicated()].unique())
    var = table.var[kept].copy()
    if named.ids is not None and "gene_id" not in var:
        var["gene_id"] = named.ids[kept].to_numpy()
    var["control"] = named.control[kept]
    counts = counts if kept.all() else counts[:, np.flatnonzero(kept)]
    if found["duplicated_genes"]:
        var = var[~names.duplicated()]
        counts, names = _summed(counts, names)
    var.index = pd.Index(names, name=None)
    obs = table.obs.copy()
    obs.index = barcodes
    return AnnData(X=counts, obs=obs, var=var), found


def _summed(counts: sparse.csr_matrix, names: pd.Index) -> tuple[sparse.csr_matrix, pd.Index]:
    """Counts of rows of one name added up, in the order in which the names come first."""
    codes, unique = pd.factorize(names)
    joined = sparse.csr_matrix((np.ones(len(codes), np.float32), (np.arange(len(codes)), codes)))
    return sparse.csr_matrix(counts @ joined), pd.Index(unique)


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
