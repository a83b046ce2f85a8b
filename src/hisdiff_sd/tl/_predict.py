from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff_sd import _keys as keys
from hisdiff_sd._device import resolve_device
from hisdiff_sd._errors import HisDiffError, check_slide_object
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd.io._store import check_writable, write_table
from hisdiff_sd.pp._partial import partial_results
from hisdiff_sd.tl._depth import check_depth
from hisdiff_sd.tl._draws import Draws, check_draws
from hisdiff_sd.tl._model_inputs import check_slide, model_inputs, resolve_model
from hisdiff_sd.tl._prediction_run import (
    fill,
    is_done,
    lay_out,
    panel_columns,
    partial_key,
    prediction_record,
    table_there,
)
from hisdiff_sd.tl._prediction_table import FEWEST_FOR_TAILS, Summary, check_kept, prediction_table

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff_sd.model import HisDiff

logger = logging.getLogger("hisdiff_sd")

DEFAULT_SAMPLES = 32


def predict(
    sdata: SpatialData,
    model: HisDiff | str | Path | None = None,
    *,
    shapes_key: str | None = None,
    spacing_um: float | None = None,
    genes: Sequence[str] | None = None,
    n_samples: int = DEFAULT_SAMPLES,
    sampler: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    keep_samples: int | None = None,
    depth: float = 1.0,
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    precision: str = "auto",
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Predict the expression of a model's genes at the spots of a slide, or all over its tissue.

    No measured gene is needed. On a slide without spots, or when `spacing_um` is given, the tissue is outlined
    (`hd.pp.tissue`) and laid with tiles (`hd.pp.tile`) first, unless that was done before. Each tile is predicted as a
    training-size spot centred there, with its context at the spacing of the training slides: a finer grid is a smoother
    map, not single cells.

    Parameters
    ----------
    sdata
        A slide of `hd.io`. Embeddings that are missing are computed. If it has a store, the tables are written there, and
        a call that was interrupted goes on where it was when it is made again.
    model
        A model, its folder, or its id on the Hugging Face hub. By default ``hd.settings.model``, which starts as the
        environment variable ``HISDIFF_SD_MODEL``.
    shapes_key
        Spots or tiles to predict at. By default ``"spots"`` if the slide has them.
    spacing_um
        Distance of the tiles of a map of the whole tissue, in um; by default, on a slide without spots, that of the
        training spots.
    genes
        Genes to keep, of the model's panel; all by default.
    n_samples
        Samples per spot. The mean of many is the best single guess; one alone looks like the tissue does.
    sampler
        For a model of the published process, ``"dpm++sde"`` by default; others are ``"ancestral"`` (as published),
        ``"dpm++"``, ``"unipc"`` and ``"ddim"``: see `hisdiff_sd.nn.diffusion_sample` and the curve in docs/benchmarks.md. A flow
        has its own, ``"flow"``.
    steps
        Evaluations of the network per sample, 1 to 1000. By default 10 for a flow, 8 for ``"dpm++sde"``, and 1000, as
        published, for ``"ancestral"``.
    seed
        Of the noise, which is drawn per spot and sample: results do not depend on batch size or order.
    keep_samples
        How many of the samples are kept, as layers ``sample_0``, ``sample_1`` and so on; by default one, and none above 20,000
        spots.
    depth
        For a model of the target ``"log2"``: counts per spot to be expected, relative to the training slides, such as 0.1 for a
        tenth. Fewer counts are a binomial part of those of a sample; more are a multiple, as noisy as the training slides'.
    weights
        Local weight file of the encoder, as in `hd.pp.embed`.
    device
        Torch device; ``"auto"`` takes a GPU where there is one.
    batch_size
        Spots x samples that are denoised together; chosen by itself.
    precision
        That the published network computes in: ``"auto"`` is bf16 on GPUs and processors that have it, else fp32 (or what the
        environment variable ``HISDIFF_SD_PRECISION`` says); or ``"fp32"``, ``"bf16"``, ``"fp16"``.
    key_added
        Name of the table; ``"hisdiff"`` on spots and ``"hisdiff_<shapes>"`` on others by default.
    overwrite
        Predict again, in place of what is there. Without it, a prediction that was made in the same way is kept as it is.

    Returns
    -------
    None. Adds the table ``sdata["hisdiff"]``, or ``sdata["hisdiff_tiles_50um"]`` and the like: ``X`` float32 (n_spots,
    n_genes), the mean over the samples on the model's target scale; layers ``std``, ``q50``, ``q05`` and ``q95`` (of 19
    samples or more, at Weibull positions), and ``sample_0``, one honest draw, or as many as are asked for. Above 20,000 spots
    layers are float16.

    If the model knows its training slides: ``obs["ood"]``, how far a spot is from them (above 1 it is farther than 99% of
    the spots of a left-out training slide), ``obs["trusted"]``, and ``var["reliable"]``, whether a gene was predicted on
    left-out slides (see `hd.HisDiff.reliability`).

    Raises
    ------
    HisDiffError
        If there is no model, a gene is not in its panel, the slide has no tissue, its embeddings do not fit those of the
        store, a prediction of another provenance is in the way, or the disk has too little room for it.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1", "S2"), size_um=(900, 800), mpp=1.0)
    >>> train, test = (hd.io.hest(root, name) for name in ("S1", "S2"))
    >>> model = hd.tl.train([train], genes=["ERBB2", "EPCAM"], encoder="morphology", epochs=1)
    >>> hd.tl.predict(test, model, n_samples=20)
    >>> sorted(test["hisdiff"].layers)
    ['q05', 'q50', 'q95', 'sample_0', 'std']
    """
    check_slide_object(sdata)
    how: dict[str, Any] = {"sampler": sampler, "steps": steps, "batch_size": batch_size, "precision": precision}
    check_spacing(spacing_um)
    check_draws(n_samples, **how)
    check_kept(keep_samples, n_samples)
    if key_added is not None:
        _prediction_there(sdata, key_added)
    bundle = resolve_model(model)
    check_depth(depth, bundle.config.target)
    draws = Draws.of(bundle.process, n_samples, seed=seed, depth=depth, **how)
    kept = panel_columns(bundle, genes)
    where = resolve_device(device)
    shapes_key = lay_out(sdata, bundle, shapes_key, spacing_um)
    name = key_added or keys.prediction_key(shapes_key)
    there = _prediction_there(sdata, name)
    check_slide(sdata, bundle, shapes_key)
    record = prediction_record(sdata, bundle, shapes_key, draws)
    if keep_samples is not None:
        record["kept_samples"] = keep_samples
    if there is not None and not overwrite and is_done(there, record, name, [bundle.genes[g] for g in kept], sdata):
        return
    check_writable(sdata)
    slide = model_inputs(sdata, bundle, shapes_key=shapes_key, weights=weights, device=device)
    if n_samples < FEWEST_FOR_TAILS:
        logger.warning("%d samples are too few for 5%% and 95%% quantiles: q05 and q95 are left out", n_samples)
    summary = Summary.for_spots(slide.n, n_samples, kept, keep_samples)
    store = Path(str(sdata.path)) if sdata.is_backed() else None
    with partial_results(
        store, name, partial_key(record, slide, summary, draws, where), slide.n, summary.width
    ) as partial:
        fill(partial, bundle, slide, summary, draws, where)
        record["failed_tiles"] = slide_shapes(sdata, shapes_key).n - slide.n
        record["genes"] = "" if genes is None else json.dumps(list(dict.fromkeys(genes)))
        table = prediction_table(partial.values, summary, slide, bundle, sdata, shapes_key, record)
        write_table(sdata, name, table, overwrite=overwrite or there is not None)


def check_spacing(spacing_um: float | None) -> None:
    """Refuse what is no distance of tiles."""
    if spacing_um is not None and not (np.isfinite(spacing_um) and spacing_um > 0):
        raise HisDiffError(f"spacing_um={spacing_um} is no distance; give um, such as 100")


def _prediction_there(sdata: SpatialData, name: str) -> AnnData | None:
    """The prediction that has this name already; a table of another kind is refused."""
    return table_there(sdata, name, "prediction", "is no prediction and is never replaced by one")
