from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._device import resolve_device
from hisdiff_sd._errors import HisDiffError, HisDiffWarning, check_one_of, check_slide_object
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd._progress import progress
from hisdiff_sd._targets import from_target
from hisdiff_sd.metrics._calibration import central_interval
from hisdiff_sd.tl._depth import check_depth
from hisdiff_sd.tl._draws import Draws, check_draws
from hisdiff_sd.tl._model_inputs import check_slide, model_inputs, resolve_model
from hisdiff_sd.tl._prediction_run import lay_out, panel_columns
from hisdiff_sd.tl._spot_regions import Regions, region_outlines, spot_regions

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

    from hisdiff_sd.model import HisDiff

_SPACES = ("counts", "target")
_MOST_VALUES = 2**25  # of samples that are held at once: 128 MB
_MOST_SPOTS = 256  # whose samples are held at once


def region_mean(
    sdata: SpatialData,
    model: HisDiff | str | Path | None = None,
    regions: str | pd.Series | Sequence[Any] | np.ndarray | GeoDataFrame | None = None,
    *,
    genes: Sequence[str] | None = None,
    shapes_key: str | None = None,
    level: float = 0.9,
    space: str = "counts",
    n_samples: int = 100,
    sampler: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    depth: float = 1.0,
    device: str = "auto",
    weights: str | Path | None = None,
) -> pd.DataFrame:
    """Mean expression of regions, with intervals that hold for the region as a whole.

    The interval is that of the region's mean in samples that are drawn for all spots together. It cannot be had from
    intervals of spots: a model's errors at neighbouring spots are alike, and do not average out. A flow, the default of
    `hd.tl.train`, draws noise that spots share with their neighbours and with their slide as its errors do.

    Parameters
    ----------
    sdata
        A slide of `hd.io`. Embeddings that are missing are computed (and written, if it has a store); a slide without spots
        is laid with tiles if regions are polygons, as `hd.tl.predict` does. Nothing else is added.
    model
        A model, its folder, or its id on the Hugging Face hub; ``hd.settings.model`` by default.
    regions
        Needed. Labels: a column in ``obs`` of a table that annotates the spots, a Series whose index names spots, or an
        array in the order of the shapes; NaN, None and -1 are no region. Or polygons in global coordinates (level-0 px): a
        GeoDataFrame, or the name of a shapes element; a region has the spots whose centre lies inside, and its name is
        that of the row; rows of the same name are one region. Polygons may overlap.
    genes
        Genes of the model's panel; all by default.
    shapes_key
        Spots or tiles; by default ``"spots"`` if the slide has them.
    level
        Probability of the interval.
    space
        ``"counts"``: the mean of counts (target ``"log2"``: 2^x - 1) or of counts per 10,000 (``"cp10k"``: exp(x) - 1).
        ``"target"``: the mean on the target scale, which is that of logarithms, and no logarithm of a mean.
    n_samples
        Joint samples of the slide; 19 or more for a level of 0.9, 39 for 0.95, 199 for 0.99.
    sampler, steps
        Of the published process, which sampler; evaluations of the network per sample. As in `hd.tl.predict`.
    seed
        Of the noise. The samples are those of `hd.tl.predict` with this seed.
    depth
        For a model of the target ``"log2"``: counts per spot relative to the training slides, as in `hd.tl.predict`.
    device
        Torch device; ``"auto"`` takes a GPU where there is one.
    weights
        Local weight file of the encoder, as in `hd.pp.embed`.

    Returns
    -------
    One row per region and gene: ``region``; ``gene``; ``n_spots``; ``mean``, over samples, of the region's mean; ``low`` and
    ``high``, the ends of its central interval (`hd.metrics.weibull_quantiles`), float64; and if the model knows its training
    slides ``trusted``, the share of the region's spots that are like them (``obs["trusted"]`` of a prediction).

    Raises
    ------
    HisDiffError
        If there is no model or no region, a region has no spot, there are too few samples for the level, a gene is not in
        the panel, or embeddings do not fit the model.

    Warns
    -----
    HisDiffWarning
        If the model is of the published process, whose spots share no noise: the intervals are far too narrow.

    Examples
    --------
    By a column of the table, and for every fragment of the tissue:

    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(900, 800), mpp=1.0)
    >>> train, test = (hd.io.hest(root, name) for name in ("S1", "S2"))
    >>> model = hd.tl.train([train], genes=["ERBB2", "EPCAM"], encoder="morphology", epochs=1)
    >>> test["table"].obs["side"] = ["left" if x < 450 else "right" for x, y in test["table"].obsm["spatial"]]
    >>> hd.tl.region_mean(test, model, "side", genes=["ERBB2"], n_samples=20)["region"].tolist()
    ['left', 'right']
    >>> hd.pp.tissue(test)
    >>> means = hd.tl.region_mean(test, model, "tissue", level=0.8, n_samples=20)
    """
    check_slide_object(sdata)
    if regions is None:
        raise HisDiffError("no regions given: pass regions=, labels of the spots (a column, a Series) or polygons")
    check_one_of(space, _SPACES, "space")
    _check_level(level, n_samples)
    check_draws(n_samples, sampler=sampler, steps=steps)
    bundle = resolve_model(model)
    check_depth(depth, bundle.config.target)
    draws = Draws.of(bundle.process, n_samples, sampler=sampler, steps=steps, seed=seed, depth=depth)
    kept = panel_columns(bundle, genes)
    where = resolve_device(device)
    outlines = region_outlines(sdata, regions)
    if outlines is not None:
        shapes_key = lay_out(sdata, bundle, shapes_key, None)
    shapes_key = shapes_key or keys.SPOTS
    found = spot_regions(sdata, regions, shapes_key, outlines)
    check_slide(sdata, bundle, shapes_key)
    if bundle.process == "ddpm":
        warnings.warn(
            "samples of the published process share no noise between spots: intervals of regions are far too narrow; train "
            "a flow with hd.tl.train",
            HisDiffWarning,
            stacklevel=2,
        )
    slide = model_inputs(sdata, bundle, shapes_key=shapes_key, weights=weights, device=device)
    found = found.at(slide.index).check("none of their tiles could be read")
    means = _means(bundle, slide, found, kept, draws, space=space, device=where)
    low, high = central_interval(means, level)
    rows = _rows(found, [bundle.genes[g] for g in kept])
    rows |= {"mean": means.mean(0).ravel(), "low": low.ravel(), "high": high.ravel()}
    if bundle.trust is not None:
        share = found.member @ bundle.trust.ood.trusted(slide.embedding).astype(np.float64) / found.n_spots
        rows["trusted"] = np.repeat(share, len(kept))
    return pd.DataFrame(rows)


def _check_level(level: float, n_samples: int) -> None:
    """Refuse a level that so few samples do not reach, before any is drawn."""
    if not 0 < level < 1:
        raise HisDiffError(f"level={level} is no probability of an interval; it has to lie between 0 and 1, as 0.9")
    # the extremes of m samples are the quantiles 1 / (m + 1) and m / (m + 1); 2 / (1 - 0.9) is a little over 20
    fewest = math.ceil(2 / (1 - level) - 1 - 1e-9)
    if n_samples < fewest:
        raise HisDiffError(
            f"n_samples={n_samples} do not reach the ends of an interval of level {level:g}; give n_samples={fewest} or more"
        )


def _means(
    model: HisDiff,
    slide: SlideInputs,
    regions: Regions,
    genes: np.ndarray,
    draws: Draws,
    *,
    space: str,
    device: torch.device,
) -> np.ndarray:
    """(n_samples, n_regions, n_genes) means of the regions in every sample; of the spots a few are held at a time."""
    from hisdiff_sd.tl._sample import sample_blocks

    spots = np.flatnonzero(regions.member.sum(axis=0))
    size = min(_MOST_SPOTS, max(1, _MOST_VALUES // (draws.n_samples * len(model.genes))))
    blocks = [spots[start : start + size] for start in range(0, len(spots), size)]
    drawn: Iterable[np.ndarray] = sample_blocks(model, slide, blocks, draws, device)
    total = np.zeros((draws.n_samples, len(regions.names), len(genes)))
    with progress(f"sampling {slide.name}", len(spots)) as advance:
        for block, samples in zip(blocks, drawn, strict=True):
            member = regions.member[:, block]
            for into, one in zip(total, samples, strict=True):
                values = one[:, genes].astype(np.float64)
                into += member @ (values if space == "target" else from_target(values, model.config.target))
            advance(len(block))
    if not np.isfinite(total).all():
        raise HisDiffError("the model returned NaN or infinity: its weights are damaged, load or train it again")
    return total / regions.n_spots[:, None]


def _rows(regions: Regions, genes: list[str]) -> dict[str, Any]:
    """The columns that say what a row is of: regions one after the other, all genes of each."""
    return {
        "region": pd.Index(regions.names).repeat(len(genes)),
        "gene": genes * len(regions.names),
        "n_spots": np.repeat(regions.n_spots, len(genes)),
    }
