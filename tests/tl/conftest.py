"""A flow model whose samples have a known distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

import hisdiff_sd as hd
from hisdiff_sd._base import KernelRegression
from hisdiff_sd._noise import SharedNoise
from hisdiff_sd._residual import Residual
from hisdiff_sd.model import ModelConfig, Scalers
from hisdiff_sd.nn import FlowNetwork


@pytest.fixture(scope="session")
def gaussian_model(stores) -> Callable[..., hd.HisDiff]:
    """Make a model whose samples are Gaussian: the same mean at every spot, a known deviation, and known shared noise.

    An untrained flow does not bend, and a regression without weights is constant, so that a sample is
    ``max(mean + temperature * deviation * noise, 0)``, independent over genes.
    """
    import spatialdata

    dim = spatialdata.read_zarr(stores["S3"])["spots_morphology"].n_vars

    def made(
        mean: Sequence[float],
        deviation: Sequence[float],
        *,
        neighbours: float = 0.0,
        slide: float = 0.0,
        length_um: float = 300.0,
        temperature: float = 1.0,
        target: str = "log2",
    ) -> hd.HisDiff:
        n = len(mean)
        nothing = (np.ones(3 * dim, np.float32), np.zeros((1, 3 * dim), np.float32), np.zeros((1, n), np.float32))
        base = KernelRegression(1.0, *nothing, np.array(mean, np.float32))
        shares = [np.full(n, share, np.float32) for share in (neighbours, slide)]
        scalers = Scalers.identity(n, dim)
        scalers = Scalers(
            scalers.target_shift, np.array(deviation, np.float32), scalers.embedding_shift, scalers.embedding_scale
        )
        config = ModelConfig(tuple(f"GENE{i}" for i in range(n)), target=target, encoder="morphology")
        residual = Residual(base, SharedNoise(*shares, length_um), temperature)
        return hd.HisDiff(FlowNetwork(n, dim, width=2, depth=1), config, scalers, residual=residual)

    return made
