from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff_sd import _keys as keys
from hisdiff_sd._data import covers
from hisdiff_sd._device import resolve_device
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd._progress import Estimate, progress
from hisdiff_sd._provenance import check_provenance, failed_tiles, get_provenance, provenance
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd.io._store import check_table_name, check_writable, slide_attrs, write_table
from hisdiff_sd.nn import spaced_timesteps
from hisdiff_sd.pp._partial import Partial, partial_results
from hisdiff_sd.pp._tile import tile
from hisdiff_sd.pp._tissue import tissue
from hisdiff_sd.tiles import TileProtocol
from hisdiff_sd.tl._model_inputs import check_slide, model_inputs, resolve_model
from hisdiff_sd.tl._prediction_table import FEWEST_FOR_TAILS, Summary, prediction_table

if TYPE_CHECKING:
    import torch
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff_sd.model import HisDiff

logger = logging.getLogger("hisdiff_sd")

DEFAULT_STEPS = {"ddpm": 50, "flow": 10}
DEFAULT_SAMPLES = 32
_BLOCK = 256  # spots whose samples are held at once


def predict(
    sdata: SpatialData,
    model: HisDiff | str | Path | None = None,
    *,
    shapes_key: str | None = None,
    spacing_um: float | None = None,
    genes: Sequence[str] | None = None,
    n_samples: int = DEFAULT_SAMPLES,
    steps: int | None = None,
    seed: int = 0,
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
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
    steps
        Evaluations of the network per sample, 1 to 1000. By default 10 for a flow, and 50 steps of the ancestral sampler for
        the published process (1000 as published).
    seed
        Of the noise, which is drawn per spot and sample: results do not depend on batch size or order.
    weights
        Local weight file of the encoder, as in `hd.pp.embed`.
    device
        Torch device; ``"auto"`` takes a GPU where there is one.
    batch_size
        Spots x samples that are denoised together; chosen by itself.
    key_added
        Name of the table; ``"hisdiff"`` on spots and ``"hisdiff_<shapes>"`` on others by default.
    overwrite
        Predict again, in place of what is there. Without it, a prediction that was made in the same way is kept as it is.

    Returns
    -------
    None. Adds the table ``sdata["hisdiff"]``, or ``sdata["hisdiff_tiles_50um"]`` and the like: ``X`` float32 (n_spots,
    n_genes), the mean over the samples on the model's target scale; layers ``std``, ``q50``, ``q05`` and ``q95`` (of 19
    samples or more, at Weibull positions), and ``sample_0``, one honest draw. Above 20,000 spots layers are float16 and no
    sample is kept.

    If the model knows its training slides: ``obs["ood"]``, how far a spot is from them (above 1 it is farther than 99% of
    the spots of a left-out training slide), ``obs["trusted"]``, and ``var["reliable"]``, whether a gene was predicted on
    left-out slides (see `hd.HisDiff.reliability`).

    Raises
    ------
    HisDiffError
        If there is no model, a gene is not in its panel, the slide has no tissue, its embeddings do not fit those of the
        store, or a prediction of another provenance is in the way.
    """
    if n_samples < 1:
        raise HisDiffError(f"n_samples={n_samples} draws nothing; 1 or more are needed")
    if batch_size is not None and batch_size < 1:
        raise HisDiffError(f"batch_size={batch_size} denoises nothing; leave it out to have it chosen")
    if spacing_um is not None and not (np.isfinite(spacing_um) and spacing_um > 0):
        raise HisDiffError(f"spacing_um={spacing_um} is no distance; give um, such as 100")
    if steps is not None:
        spaced_timesteps(steps)  # refuses a number of steps before any work is done
    if key_added is not None:
        _prediction_there(sdata, key_added)
    bundle = resolve_model(model)
    steps = DEFAULT_STEPS[bundle.process] if steps is None else steps
    kept = _columns(bundle, genes)
    where = resolve_device(device)
    shapes_key = _lay_out(sdata, bundle, shapes_key, spacing_um)
    name = key_added or keys.prediction_key(shapes_key)
    there = _prediction_there(sdata, name)
    check_slide(sdata, bundle, shapes_key)
    record = _record(sdata, bundle, shapes_key, steps, n_samples, seed)
    if there is not None and not overwrite and _is_done(there, record, name, [bundle.genes[g] for g in kept], sdata):
        return
    check_writable(sdata)
    slide = model_inputs(sdata, bundle, shapes_key=shapes_key, weights=weights, device=device)
    if n_samples < FEWEST_FOR_TAILS:
        logger.warning("%d samples are too few for 5%% and 95%% quantiles: q05 and q95 are left out", n_samples)
    summary = Summary.for_spots(slide.n, n_samples, kept)
    store = Path(str(sdata.path)) if sdata.is_backed() else None
    with partial_results(store, name, _key(record, slide, summary, where), slide.n, summary.width) as partial:
        _fill(
            partial,
            bundle,
            slide,
            summary,
            n_samples=n_samples,
            steps=steps,
            seed=seed,
            device=where,
            batch_size=batch_size,
        )
        record["failed_tiles"] = slide_shapes(sdata, shapes_key).n - slide.n
        record["genes"] = "" if genes is None else json.dumps(list(dict.fromkeys(genes)))
        table = prediction_table(partial.values, summary, slide, bundle, sdata, shapes_key, record)
        write_table(sdata, name, table, overwrite=overwrite or there is not None)


def _columns(model: HisDiff, genes: Sequence[str] | None) -> np.ndarray:
    """Places of the wanted genes in the panel."""
    if genes is None:
        return np.arange(len(model.genes))
    if isinstance(genes, str) or not len(genes):
        raise HisDiffError(
            f"genes={genes!r} is no list of genes; give some of the model's panel, or leave it out for all"
        )
    for gene in genes:
        check_one_of(gene, model.genes, "gene in the model's panel")
    return np.array([model.genes.index(g) for g in dict.fromkeys(genes)])


def _lay_out(sdata: SpatialData, model: HisDiff, shapes_key: str | None, spacing_um: float | None) -> str:
    """Name of the shapes to predict at; on a slide without spots, or for a map, tissue and tiles are made if need be."""
    if shapes_key is not None:
        if spacing_um is not None:
            raise HisDiffError(f"shapes_key={shapes_key!r} and spacing_um={spacing_um:g} name two places; give one")
        return shapes_key
    if spacing_um is None and keys.SPOTS in sdata.shapes:
        return keys.SPOTS
    spacing = spacing_um if spacing_um is not None else model.config.spot_pitch_um
    if spacing is None:
        raise HisDiffError(
            f"slide {slide_attrs(sdata)['slide']!r} has no spots, and the model does not say how far apart its training spots "
            "were; give spacing_um=, such as 100 for a model trained on Visium"
        )
    name = keys.tiles_key(spacing)
    if name not in sdata.shapes:
        check_writable(sdata)
        if keys.TISSUE not in sdata.shapes:
            logger.info("outlining the tissue: hd.pp.tissue")
            tissue(sdata)
        tile(sdata, spacing, model=model)
        logger.info("laid %d tiles, %g um apart: hd.pp.tile", slide_shapes(sdata, name).n, spacing)
    return name


def _record(
    sdata: SpatialData, model: HisDiff, shapes_key: str, steps: int, n_samples: int, seed: int
) -> dict[str, Any]:
    """How a prediction is made, as far as that changes it."""
    attrs, config = slide_attrs(sdata), model.config
    shapes = slide_shapes(sdata, shapes_key)
    return provenance(
        kind="prediction",
        slide=attrs["slide"],
        shapes=shapes_key,
        model_hash=model.fingerprint,
        target=config.target,
        encoder=config.encoder,
        encoder_hash=config.encoder_hash,
        **TileProtocol.parse(config.tile).record(shapes.diameter_px, attrs["mpp"]),
        **shapes.record(),
        sampler="ancestral" if model.process == "ddpm" else "flow",
        steps=steps,
        samples=n_samples,
        seed=seed,
    )


def _prediction_there(sdata: SpatialData, name: str) -> AnnData | None:
    """The prediction that has this name already; a table of another kind is refused."""
    check_table_name(sdata, name)
    there = sdata.tables.get(name)
    if there is not None and get_provenance(there).get("kind") != "prediction":
        raise HisDiffError(f"table {name!r} is no prediction and is never replaced by one; choose another key_added=")
    return there


def _is_done(there: AnnData, record: dict[str, Any], name: str, genes: list[str], sdata: SpatialData) -> bool:
    """Whether a prediction is the one that is asked for; one that was made in another way is refused."""
    check_provenance(there, record, name)
    if list(there.var_names) != genes:
        raise HisDiffError(
            f"table {name!r} has {there.n_vars} genes, and not those asked for; give overwrite=True to replace it, or "
            "key_added= for another name"
        )
    # an embedding that was made again may have tiles that could not be read before
    embedding = sdata.tables.get(keys.embedding_key(record["shapes"], record["encoder"]))
    failed = failed_tiles(there if embedding is None else embedding)
    if covers(there, slide_shapes(sdata, record["shapes"]), failed):
        return True
    logger.warning("table %r lacks spots of the slide; it is predicted anew", name)
    return False


def _fill(
    partial: Partial,
    model: HisDiff,
    slide: SlideInputs,
    summary: Summary,
    *,
    n_samples: int,
    steps: int,
    seed: int,
    device: torch.device,
    batch_size: int | None,
) -> None:
    """Sample the spots that are not done yet, some after others, and keep the summary of their samples."""
    from hisdiff_sd.tl._sample import sample_blocks

    blocks = [np.arange(start, min(start + _BLOCK, slide.n)) for start in range(0, slide.n, _BLOCK)]
    todo = [i for i in range(len(blocks)) if i not in partial.done]
    left = sum(len(blocks[i]) for i in todo)
    if left < slide.n:
        logger.info("%s: %d of %d spots were predicted before; going on", slide.name, slide.n - left, slide.n)
    estimate = Estimate(f"predicting {slide.name}", left, slide.n * summary.width * np.dtype(summary.dtype).itemsize)
    drawn = sample_blocks(
        model,
        slide,
        [blocks[i] for i in todo],
        n_samples=n_samples,
        steps=steps,
        seed=seed,
        device=device,
        batch_size=batch_size,
    )
    with progress(f"predicting {slide.name}", slide.n) as advance:
        advance(slide.n - left)
        for i, samples in zip(todo, drawn, strict=True):
            if not np.isfinite(samples).all():
                raise HisDiffError(
                    "the model returned NaN or infinity; nothing was written: its weights are damaged, load or train it again"
                )
            partial.add(i, blocks[i], summary.of(samples), {})
            advance(len(blocks[i]))
            estimate.done(len(blocks[i]))


def _key(record: dict[str, Any], slide: SlideInputs, summary: Summary, device: torch.device) -> str:
    """What partial results must share to be continued."""
    shape = [summary.genes.tolist(), summary.layers, _BLOCK]
    digest = hashlib.sha256(json.dumps([record, str(device), *shape]).encode())
    digest.update("|".join(map(str, slide.index)).encode() + slide.xy.tobytes() + slide.embedding.tobytes())
    return digest.hexdigest()[:16]
