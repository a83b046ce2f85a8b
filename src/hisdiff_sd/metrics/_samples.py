"""What every metric of an ensemble asks of its samples, and how it walks over them in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics._check import Matrix, Vector

Cube = NDArray[np.float64]

_BLOCK = 2**20  # values of all samples that are worked on at a time: 8 MB in float64


def check_samples(samples: ArrayLike) -> NDArray[np.floating]:
    """Return the samples (n_samples, n_spots, n_genes), finite, in their own float type, or say what is wrong."""
    x = np.asarray(samples)
    if not np.issubdtype(x.dtype, np.floating):
        x = x.astype(np.float64)
    if x.ndim != 3:
        raise HisDiffError(
            f"samples has the shape {x.shape}; it has to be (n_samples, n_spots, n_genes) (a single prediction: pred[None])."
        )
    if x.size == 0:
        raise HisDiffError(f"samples is empty, shape {x.shape}; a score needs a sample, a spot and a gene at least.")
    bad = sum(int(one.size - np.isfinite(one).sum()) for one in x)
    if bad:
        raise HisDiffError(f"samples holds {bad} NaN or infinite values of {x.size}; leave those spots or genes out.")
    return x


def check_ensemble(samples: ArrayLike, true: ArrayLike) -> tuple[NDArray[np.floating], Matrix]:
    """Return samples (n_samples, n_spots, n_genes) and truth (n_spots, n_genes), finite, or say what is wrong."""
    x, t = check_samples(samples), np.asarray(true, dtype=np.float64)
    if t.shape != x.shape[1:]:
        raise HisDiffError(
            f"samples has the shape {x.shape} and true {t.shape}; they have to be (n_samples, n_spots, n_genes) and "
            "(n_spots, n_genes), with the same spots and genes in the same order."
        )
    bad = int(t.size - np.isfinite(t).sum())
    if bad:
        raise HisDiffError(
            f"true holds {bad} NaN or infinite values of {t.size}; leave those spots or genes out of both arrays."
        )
    return x, t


def blocks(samples: NDArray[np.floating]) -> Iterator[tuple[slice, Cube]]:
    """Spots in blocks, with their samples in float64: (spots, (n_samples, n_block, n_genes))."""
    n_samples, n_spots, n_genes = samples.shape
    step = max(1, _BLOCK // (n_samples * n_genes))
    for start in range(0, n_spots, step):
        spots = slice(start, min(start + step, n_spots))
        yield spots, samples[:, spots].astype(np.float64)


def summary(of_spots: Vector, per_spot: bool) -> float | Vector:
    """The values of the spots, or their mean."""
    return of_spots if per_spot else float(of_spots.mean())
