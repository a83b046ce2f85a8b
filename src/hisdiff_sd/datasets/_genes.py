"""The genes of the synthetic slides: names, programmes and how strongly each follows which programme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Known markers, so that figures read well; what they do here is made up.
_MARKERS = {
    "tumour": "ERBB2 EPCAM KRT19 GATA3 KRT8 CDH1 MUC1 ESR1 KRT18 GRB7 XBP1 CLDN4",
    "stroma": "COL1A1 DCN FN1 COL3A1 SPARC LUM VIM ACTA2 COL1A2 POSTN TAGLN FBLN1",
    "fat": "ADIPOQ PLIN1 FABP4 LPL LEP CIDEC PLIN4 CD36 AQP7 G0S2",
    "immune": "PTPRC CD3D CD74 CD79A CD8A MS4A1 CD4 IL7R CD2 CCL5 TRBC2 CXCR4",
    "proliferation": "MKI67 TOP2A PCNA CCNB1 CDK1 MCM2 TYMS BIRC5",
    "hidden": "VEGFA CA9 SLC2A1 LDHA ADM NDRG1 PGK1 ANGPTL4",
    "none": "ACTB GAPDH B2M RPLP0 EEF1A1 TPT1 UBC PPIA",
}
PROGRAMMES = tuple(name for name in _MARKERS if name != "none")


@dataclass(frozen=True)
class Genes:
    """The panel of a data set.

    Attributes
    ----------
    names
        Unique symbols, (n_genes,).
    programme
        Name of the programme that each gene belongs to, or ``"none"``, (n_genes,).
    base
        Log of the abundance without any programme, (n_genes,).
    loadings
        Change of the log rate per unit of activity, (n_programmes, n_genes).
    """

    names: list[str]
    programme: list[str]
    base: NDArray[np.float64]
    loadings: NDArray[np.float64]


def draw_genes(rng: np.random.Generator, n_genes: int) -> Genes:
    """A panel that goes round the programmes, so that a small one has them all."""
    kinds = list(_MARKERS)
    programme = [kinds[i % len(kinds)] for i in range(n_genes)]
    names = []
    for i, kind in enumerate(programme):
        markers, turn = _MARKERS[kind].split(), i // len(kinds)
        names.append(markers[turn] if turn < len(markers) else f"GENE{i + 1:03d}")
    loadings = rng.normal(0, 0.12, (len(PROGRAMMES), n_genes))
    strength = rng.uniform(0.5, 1.0, n_genes)
    for k, name in enumerate(PROGRAMMES):
        own = np.array([p == name for p in programme])
        loadings[k, own] = strength[own]
    base = rng.normal(0, 1.1, n_genes)
    known = np.array([not name.startswith("GENE") for name in names])
    return Genes(names, programme, np.where(known, np.abs(base), base), loadings)  # markers are well seen
