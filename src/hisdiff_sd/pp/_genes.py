from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from hisdiff_sd import _keys as keys
from hisdiff_sd._device import threads_kept
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd._open import open_slide, slide_name

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

_N_VARIABLE = 2000


def select_genes(
    slides: Iterable[SpatialData | str | Path],
    *,
    n_top: int = 300,
    include: Sequence[str] = (),
    table_key: str = keys.TABLE,
) -> list[str]:
    """Choose the gene panel on training slides, as published.

    Candidates are the union of each slide's 2,000 highly variable genes (`scanpy.pp.highly_variable_genes` after
    normalising to the median depth and log1p), as far as every slide has them. The panel are those that are both among
    the `n_top` highest by mean and among the `n_top` highest by standard deviation of the raw counts over the spots of all
    slides: usually a little fewer than `n_top`. Choose on training slides alone: the published panel has seen the
    held-out slide, and leaks.

    Parameters
    ----------
    slides
        Training slides, objects or store paths.
    n_top
        Number of genes of each of the two rankings.
    include
        Genes of interest that are kept whatever their rank.
    table_key
        Table with the raw counts.

    Returns
    -------
    Genes, highest mean first, then those of `include` that were not among them.

    Raises
    ------
    HisDiffError
        If there is no slide, no gene to choose, or a gene of `include` is missing from a slide (named).

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(900, 800), mpp=1.0)
    >>> train = [hd.io.hest(root, name) for name in ("S1", "S2")]
    >>> panel = hd.pp.select_genes(train, n_top=20, include=["ERBB2"])
    >>> "ERBB2" in panel
    True
    """
    if isinstance(slides, str | Path) or hasattr(slides, "tables"):
        raise HisDiffError("slides= is one slide; give a list of the training slides")
    if isinstance(include, str):
        raise HisDiffError(f"include={include!r} is one name; give a list: [{include!r}]")
    tables = [counts_table(slide, table_key) for slide in slides]
    if not tables:
        raise HisDiffError("no slides to choose genes on; give the training slides")
    if n_top < 1:
        raise HisDiffError(f"n_top={n_top} leaves no genes; 300 is the published choice")
    check_genes(include, tables)
    shared = set.intersection(*(set(t.var_names[~_controls(t)]) for _, t in tables))
    with threads_kept():
        variable = set().union(*(_highly_variable(t) for _, t in tables))
    candidates = sorted(variable & shared)
    if not candidates:
        raise HisDiffError(
            f"the slides {[name for name, _ in tables]} have no variable gene in common; same species and gene names?"
        )
    values = np.concatenate([sparse.csr_matrix(t[:, candidates].X).toarray().astype(np.float64) for _, t in tables])
    mean = pd.Series(values.mean(0), candidates)
    std = pd.Series(values.std(0), candidates)
    both = set(mean.nlargest(n_top).index) & set(std.nlargest(n_top).index)
    panel = [g for g in mean.sort_values(ascending=False, kind="stable").index if g in both]
    if not panel and not include:
        raise HisDiffError(f"no gene is among the {n_top} highest by mean and by standard deviation; raise n_top")
    return panel + [g for g in dict.fromkeys(include) if g not in both]


def counts_table(slide: SpatialData | str | Path, table_key: str = keys.TABLE) -> tuple[str, AnnData]:
    """Name of a slide and its table of counts."""
    sdata = open_slide(slide)
    name = slide_name(sdata)
    if table_key not in sdata.tables:
        listed = ", ".join(map(repr, sdata.tables)) or "none"
        raise HisDiffError(f"slide {name!r} has no table {table_key!r} of counts; tables here: {listed}")
    return name, sdata.tables[table_key]


def check_genes(genes: Sequence[str], tables: Sequence[tuple[str, AnnData]]) -> None:
    """Raise an error that names the genes that a slide lacks."""
    lacking = {name: [g for g in genes if g not in table.var_names] for name, table in tables}
    lacking = {name: missing for name, missing in lacking.items() if missing}
    if lacking:
        listed = "; ".join(
            f"{n} lacks {', '.join(m[:10])}{' ...' * (len(m) > 10)} ({len(m)})" for n, m in lacking.items()
        )
        raise HisDiffError(f"genes of the panel are missing from slides: {listed}; leave those genes or slides out")


def _controls(table: AnnData) -> np.ndarray:
    return table.var["control"].to_numpy(bool) if "control" in table.var else np.zeros(table.n_vars, bool)


def _highly_variable(table: AnnData) -> set[str]:
    """Names of a slide's highly variable genes."""
    import scanpy as sc
    from anndata import AnnData

    kept = table[:, ~_controls(table)]
    counts = AnnData(X=kept.X.copy(), var=pd.DataFrame(index=kept.var_names))
    sc.pp.filter_genes(counts, min_cells=1)
    if counts.n_vars <= _N_VARIABLE:
        return set(counts.var_names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of spots without counts
        sc.pp.normalize_total(counts)
        sc.pp.log1p(counts)
        sc.pp.highly_variable_genes(counts, n_top_genes=_N_VARIABLE)
    return set(counts.var_names[counts.var["highly_variable"]])


def warn_empty_genes(genes: Sequence[str], tables: Sequence[tuple[str, AnnData]]) -> None:
    """Warn of genes without a single count on the training slides: nothing can be learned for them."""
    total = sum(np.asarray(t[:, list(genes)].X.sum(0)).ravel() for _, t in tables)
    empty = [g for g, n in zip(genes, np.atleast_1d(total), strict=True) if n == 0]
    if empty:
        warnings.warn(f"no count of {', '.join(empty[:10])} on the training slides", HisDiffWarning, stacklevel=3)
