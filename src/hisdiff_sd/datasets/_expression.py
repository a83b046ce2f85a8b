"""Counts from known functions of the morphology, with the parts of biology that no image shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from hisdiff_sd.datasets._fields import smooth_field
from hisdiff_sd.datasets._genes import PROGRAMMES
from hisdiff_sd.datasets._tissue import TISSUES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hisdiff_sd.datasets._genes import Genes

# Activity of a programme per unit of what drives it: share of the spot, doublings of nuclear density, hidden field.
_GAIN = {"tumour": 2.5, "stroma": 2.5, "fat": 3.5, "immune": 4.0, "proliferation": 0.6, "hidden": 0.7}
_RESIDUAL = 0.45  # sd of what a spot's programmes do beyond morphology, shared by all genes of a programme
_USUAL_DENSITY = 4000.0  # nuclei per square millimetre
_COUNTS_PER_GENE = 10.0  # mean over genes in a 100 um spot of usual density
_SPOT_UM = 100.0
_SHAPE = 8.0  # of the gamma mixed into the Poisson: variance = mean + mean^2 / 8


def draw_expression(
    rng: np.random.Generator,
    under: pd.DataFrame,
    xy_um: NDArray[np.float64],
    diameter_um: float,
    genes: Genes,
    shift: NDArray[np.float64],
) -> ad.AnnData:
    """What is true of each spot: expected counts and their parts; `synthetic_truth` documents the fields."""
    n_spots, n_genes = len(under), len(genes.names)
    hidden = _hidden_field(rng, xy_um)
    all_of_it = _activities(under, hidden) + _RESIDUAL * rng.standard_normal((n_spots, len(PROGRAMMES)))
    slide, spot = rng.normal(0, 0.25), rng.normal(0, 0.25, n_spots)
    cells = 0.1 + 0.9 * under["nuclear_density"].to_numpy() / _USUAL_DENSITY
    area = (diameter_um / _SPOT_UM) ** 2  # a smaller spot catches fewer transcripts
    depth = _COUNTS_PER_GENE * n_genes * area * cells * np.exp(slide + spot)
    rate = _composition(genes.base + shift + all_of_it @ genes.loadings)
    obs = under.drop(columns="outside").assign(hidden=hidden, depth=depth)
    return ad.AnnData(
        X=depth[:, None] * rate,
        obs=obs,
        var=pd.DataFrame({"programme": genes.programme}, index=genes.names),
        layers={"rate": rate, "rate_morphology": rate_of_morphology(under, genes, shift)},
    )


def rate_of_morphology(under: pd.DataFrame, genes: Genes, shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_spots, n_genes) shares of the counts as far as the image shows them."""
    return _composition(genes.base + shift + _activities(under, np.zeros(len(under))) @ genes.loadings)


def draw_counts(rng: np.random.Generator, expected: NDArray[np.float64]) -> NDArray[np.float32]:
    """Negative binomial counts around `expected`, (n_spots, n_genes)."""
    return rng.poisson(expected * rng.gamma(_SHAPE, 1 / _SHAPE, expected.shape)).astype(np.float32)


def _activities(under: pd.DataFrame, hidden: NDArray[np.float64]) -> NDArray[np.float64]:
    """Activity of every programme, (n_spots, n_programmes), in the order of `PROGRAMMES`."""
    share = {name: under[name].to_numpy() for name in TISSUES}
    doublings = np.log2((under["nuclear_density"].to_numpy() + 200.0) / _USUAL_DENSITY)
    driver = share | {"proliferation": doublings, "hidden": hidden}
    return np.column_stack([_GAIN[name] * driver[name] for name in PROGRAMMES])


def _hidden_field(rng: np.random.Generator, xy_um: NDArray[np.float64], cell_um: float = 50.0) -> NDArray[np.float64]:
    """A field that is smooth over 400 um and has nothing to do with the tissue, at the spots."""
    col, row = (xy_um / cell_um).astype(np.intp).T
    field = smooth_field(rng, (int(row.max()) + 1, int(col.max()) + 1), 400.0 / cell_um)
    return np.asarray(field[row, col], dtype=np.float64)


def _composition(log_rate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rates that sum to 1 over the genes of a spot."""
    rate = np.exp(log_rate - log_rate.max(axis=1, keepdims=True))
    return np.asarray(rate / rate.sum(axis=1, keepdims=True))
