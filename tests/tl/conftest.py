"""Quick trainings and predictions, a flow model of known samples, slides of arrays, and a known prediction on a grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._base import KernelRegression
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd._noise import SharedNoise
from hisdiff_sd._provenance import set_provenance
from hisdiff_sd._residual import Residual
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd.io._slide import dress_table, parse_table
from hisdiff_sd.io._store import write_table
from hisdiff_sd.model import ModelConfig, Scalers
from hisdiff_sd.nn import FlowNetwork
from hisdiff_sd.tiles import nearest
from hisdiff_sd.tl import _presets


@pytest.fixture
def train(panel) -> Callable[..., hd.HisDiff]:
    """Train on the twelve genes for one epoch, unless it is asked otherwise."""

    def run(slides, **options) -> hd.HisDiff:
        return hd.tl.train(
            slides, **{"genes": panel, "encoder": "morphology", "preset": "small", "epochs": 1, **options}
        )

    return run


@pytest.fixture
def small_preset(monkeypatch) -> Callable[..., None]:
    """Change the small preset."""

    def change(**values) -> None:
        monkeypatch.setitem(_presets.PRESETS, "small", dataclasses.replace(_presets.PRESETS["small"], **values))

    return change


@pytest.fixture(scope="session")
def predict() -> Callable[..., pd.DataFrame]:
    """Predict quickly and return the mean as spots x genes."""

    def run(sdata: SpatialData, model: hd.HisDiff, **options) -> pd.DataFrame:
        options = {"n_samples": 2, "steps": 3, "key_added": "p", **options}
        hd.tl.predict(sdata, model, **options)
        return sdata[options["key_added"]].to_df()

    return run


@pytest.fixture
def s3(open_store) -> SpatialData:
    """Slide S3 in memory, as it is in its store, to change."""
    return open_store("S3")


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


class ArraySlides:
    """Slides of a square grid of spots whose expression is a known function of their embeddings."""

    n_genes, dim, side = 6, 8, 10
    weight = np.random.default_rng(99).normal(size=(dim, n_genes))

    def slide(self, seed: int) -> SlideInputs:
        """The slide of a seed."""
        rng = np.random.default_rng(seed)
        xy = np.indices((self.side, self.side)).reshape(2, -1).T * 100.0
        n = len(xy)
        embedding = rng.normal(size=(n, self.dim)).astype(np.float32)
        return SlideInputs(
            f"S{seed}", pd.Index([f"b{i}" for i in range(n)]), xy, embedding, nearest(xy, 9), nearest(xy, 49)
        )

    def measure(self, slide: SlideInputs, noise: float = 0.5) -> Measured:
        """Above zero, and of the absolute embedding, which no line can follow."""
        rng = np.random.default_rng(slide.embedding[:1].view(np.uint32).ravel())
        y = 8 + np.abs(slide.embedding[:, :3]) @ self.weight[:3] + 0.3 * slide.embedding @ self.weight
        return Measured((y + noise * rng.normal(size=y.shape)).clip(0), np.full(slide.n, 100.0))


@pytest.fixture(scope="session")
def arrays() -> ArraySlides:
    """Slides of arrays, by seed."""
    return ArraySlides()


@pytest.fixture
def slide(open_store) -> SpatialData:
    sdata = open_store("S3")
    hd.pp.tissue(sdata)
    return sdata


@pytest.fixture
def add_map() -> Callable[..., str]:
    """Lay a grid on a slide, and add a prediction on it."""
    return _add_map


def _add_map(
    sdata: SpatialData,
    spacing: float,
    grid: str = "square",
    name: str | None = None,
    shapes_key: str | None = "tissue",
) -> str:
    """A prediction whose gene X is the x of each tile and Y its y, in level-0 px."""
    hd.pp.tile(sdata, spacing, grid=grid, shapes_key=shapes_key)
    key = f"tiles_{spacing:g}um"
    shapes = slide_shapes(sdata, key)
    table = AnnData(
        shapes.xy.astype(np.float32),
        obs=pd.DataFrame(index=shapes.index),
        var=pd.DataFrame(index=["X", "Y"]),
        layers={"std": np.full((shapes.n, 2), 0.5, np.float16)},
    )
    dress_table(table, key, shapes.xy, {})
    set_provenance(table, {"kind": "prediction"})
    write_table(sdata, name or f"hisdiff_{key}", parse_table(table, key))
    return name or f"hisdiff_{key}"
