"""What is measured of a slide while it is read, for its QC: plain values, as a store keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from hisdiff_sd._fingerprints import counts_sketch, image_sketch
from hisdiff_sd._targets import total_counts
from hisdiff_sd.io._alignment import alignment

if TYPE_CHECKING:
    from anndata import AnnData

LOW = 0.1  # of the median total: spots with fewer counts are said


def count_facts(table: AnnData) -> dict[str, Any]:
    """Spots, genes, and the totals of the spots."""
    totals = total_counts(table.X, table.var)
    measured = totals[totals > 0]
    median = float(np.median(measured)) if len(measured) else 0.0
    return {
        "spots": int(table.n_obs),
        "genes": int(table.n_vars),
        "totals": {
            "median": median,
            "lowest": float(totals.min()),
            "highest": float(totals.max()),
            "spread": float(measured.std() / measured.mean()) if len(measured) else 0.0,
            "empty": int((totals == 0).sum()),
            "low": int(((totals > 0) & (totals < LOW * median)).sum()),
        },
    }


def place_facts(
    table: AnnData, image: np.ndarray, scale: float, mpp: float, spot_um: tuple[float, float | None]
) -> dict[str, Any]:
    """Whether spots and image fit.

    Parameters
    ----------
    table
        Counts, with the spot centres in level-0 px in ``obsm["spatial"]``.
    image, scale
        A small picture of the slide (y, x, 3), and its pixels per level-0 px.
    mpp
        Micrometres per level-0 px.
    spot_um
        Diameter and distance of the spots.
    """
    diameter, pitch = spot_um
    if pitch is None or table.n_obs == 0:
        return {}
    genes = ~table.var["control"].to_numpy(bool)
    counts = sparse.csr_matrix(table.X if genes.all() else table.X[:, np.flatnonzero(genes)])
    return {"alignment": alignment(image, mpp / scale, table.obsm["spatial"] * scale, counts, diameter, pitch)}


def fingerprints(counts: AnnData, image: np.ndarray) -> dict[str, str]:
    """What tells that two ids are one slide: of the counts as they are in the file, and of a small picture."""
    return {"counts": counts_sketch(counts), "image": image_sketch(image)}
