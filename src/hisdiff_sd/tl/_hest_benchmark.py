from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from hisdiff_sd import _keys as keys
from hisdiff_sd._device import threads_kept
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics import pcc
from hisdiff_sd.tl._cv_slides import Cohort, Reading
from hisdiff_sd.tl._splits import Manifest, make_splits

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff_sd.encoders import TileEncoder

_TILE_UM = 112.0
_EXPRESSED = 0.1  # of the spots of every slide
_COMPONENTS = 256
_CONTROLS = ("BLANK", "Control")


def hest_benchmark(
    slides: Sequence[SpatialData | str | Path],
    *,
    by: str | Path | Manifest = "patient",
    encoder: str | TileEncoder = "uni",
    n_genes: int = 50,
    genes: Sequence[str] | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    table_key: str = keys.TABLE,
) -> pd.DataFrame:
    """Judge an encoder by the protocol of the HEST-Benchmark (Jaume et al. 2024), for comparison with its table.

    Tiles of 112 um; log(1 + count) of the genes that vary most among those that are expressed in at least 10% of the
    spots of every slide; embeddings standardised, brought to 256 principal components and regressed by a ridge without
    intercept whose penalty is 100 / (components * genes), all fitted on the training slides; Pearson correlation of each
    gene over the test spots of a fold together, its mean over genes, then over folds.

    The protocol has faults that are kept here, because figures would not be comparable otherwise: genes are chosen on
    all slides, those that are judged included, the penalty is not tuned, and raw counts are mostly depth. For an honest
    comparison see `hd.tl.cross_validate`.

    Parameters
    ----------
    slides
        Measured slides, objects or paths of stores.
    by
        As in `hd.tl.cross_validate`; the published folds are by patient.
    encoder, weights, device
        As in `hd.pp.embed`, which is run with tiles of 112 um where a slide has no embeddings yet.
    n_genes
        Number of genes.
    genes
        The published list of a task, to take in place of genes chosen here.
    seed
        Of the ridge's solver and the components.
    table_key
        Table with the raw counts.

    Returns
    -------
    One row per fold: ``fold``, ``test`` (its slides), ``spots``, ``pearson`` and ``pearson_std`` over genes.
    ``attrs["pearson"]`` is the mean over folds, ``attrs["genes"]`` are the genes.

    Raises
    ------
    HisDiffError
        If patients are unknown (named), slides leak, or too few genes are expressed on every slide.

    References
    ----------
    Jaume et al., HEST-1k: a dataset for spatial transcriptomics and histology image analysis, NeurIPS 2024.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2", "S3"), size_um=(1200, 1000), mpp=1.1)
    >>> slides = [hd.io.hest(root, name) for name in ("S1", "S2", "S3")]
    >>> hd.tl.hest_benchmark(slides, encoder="morphology", n_genes=10)["fold"].tolist()
    ['A', 'B']
    """
    cohort = Cohort(slides, Reading(encoder, "log2", _TILE_UM, "black", weights, device, table_key))
    splits = make_splits(list(cohort.slides), cohort.patients, by)
    tables = {n: s.tables[table_key] for n, s in cohort.slides.items()}
    panel = list(genes) if genes is not None else _variable_genes(tables, n_genes)
    gathered = cohort.embed(panel)
    x = {s.name: s.embedding.astype(np.float64) for s in gathered.inputs}
    # log2(1 + count) in natural logarithms
    y = {s.name: m.y * np.log(2) for s, m in zip(gathered.inputs, gathered.truth, strict=True)}
    out = []
    for split in splits:
        train_x, test_x = (np.concatenate([x[n] for n in part]) for part in (split.train, split.test))
        train_y, test_y = (np.concatenate([y[n] for n in part]) for part in (split.train, split.test))
        of_genes = pcc(_predict(train_x, train_y, test_x, seed), test_y)
        named = {"fold": split.name, "test": ", ".join(split.test), "spots": len(test_y)}
        out.append({**named, "pearson": float(of_genes.mean()), "pearson_std": float(of_genes.std())})
    table = pd.DataFrame(out)
    table.attrs |= {"pearson": float(table["pearson"].mean()), "genes": panel, "encoder": gathered.encoder}
    return table


def _predict(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """(n, G) prediction of test embeddings."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    space = make_pipeline(StandardScaler(), PCA(min(_COMPONENTS, *x.shape), random_state=seed))
    placed = space.fit_transform(x)
    penalty = 100 / (placed.shape[1] * y.shape[1])
    ridge = Ridge(alpha=penalty, fit_intercept=False, solver="lsqr", max_iter=1000, random_state=seed).fit(placed, y)
    return np.asarray(ridge.predict(space.transform(test))).reshape(len(test), -1)


def _variable_genes(tables: dict[str, AnnData], n_genes: int) -> list[str]:
    """The genes of the highest normalised dispersion over the spots of all slides, by name."""
    import scanpy as sc
    from anndata import AnnData

    shared: set[str] | None = None
    for table in tables.values():
        counts = sparse.csc_matrix(table.X)
        often = np.asarray((counts > 0).sum(0)).ravel() >= np.ceil(_EXPRESSED * table.n_obs)
        own = set(table.var_names[often])
        shared = own if shared is None else shared & own
    kept = sorted(g for g in shared or () if not any(c in g for c in _CONTROLS))
    if len(kept) < n_genes:
        raise HisDiffError(
            f"{len(kept)} genes are expressed in {_EXPRESSED:.0%} of the spots of every slide, and n_genes={n_genes} are "
            "wanted; ask for fewer, or leave out a slide"
        )
    values = sparse.vstack([sparse.csr_matrix(t[:, kept].X) for t in tables.values()]).toarray().astype(np.float32)
    stacked = AnnData(X=values, var=pd.DataFrame(index=kept))
    with threads_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few genes in a bin
        sc.pp.log1p(stacked)
        sc.pp.highly_variable_genes(stacked, n_top_genes=n_genes)
    return list(stacked.var_names[stacked.var["highly_variable"]][:n_genes])
