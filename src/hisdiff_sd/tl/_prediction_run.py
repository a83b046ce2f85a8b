"""What all tables made of samples share: checked arguments, where they predict, how they are made and taken up again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff_sd import _keys as keys
from hisdiff_sd._data import covers
from hisdiff_sd._errors import HisDiffError, OtherProvenanceError, check_gene
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd._progress import Estimate, progress
from hisdiff_sd._provenance import check_provenance, failed_tiles, get_provenance, provenance
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd.io._store import check_table_name, check_writable, slide_attrs
from hisdiff_sd.pp._partial import Partial
from hisdiff_sd.pp._tile import tile
from hisdiff_sd.pp._tissue import tissue
from hisdiff_sd.tiles import TileProtocol
from hisdiff_sd.tl._draws import Draws
from hisdiff_sd.tl._prediction_table import Summary

if TYPE_CHECKING:
    import torch
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff_sd.model import HisDiff

logger = logging.getLogger("hisdiff_sd")

_BLOCK = 256  # spots whose samples are held at once


def table_there(sdata: SpatialData, name: str, kind: str, refusal: str) -> AnnData | None:
    """The table that has this name already; one of another kind is refused."""
    check_table_name(sdata, name)
    there = sdata.tables.get(name)
    if there is not None and get_provenance(there).get("kind") != kind:
        raise HisDiffError(f"table {name!r} {refusal}; choose another key_added=")
    return there


def panel_columns(model: HisDiff, genes: Sequence[str] | None) -> np.ndarray:
    """Places of the wanted genes in the panel."""
    if genes is None:
        return np.arange(len(model.genes))
    if isinstance(genes, str) or not len(genes):
        raise HisDiffError(
            f"genes={genes!r} is no list of genes; give some of the model's panel, or leave it out for all"
        )
    for gene in genes:
        check_gene(gene, model.genes, "gene in the model's panel")
    return np.array([model.genes.index(g) for g in dict.fromkeys(genes)])


def lay_out(sdata: SpatialData, model: HisDiff, shapes_key: str | None, spacing_um: float | None) -> str:
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


def prediction_record(sdata: SpatialData, model: HisDiff, shapes_key: str, draws: Draws) -> dict[str, Any]:
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
        sampler=draws.sampler,
        steps=draws.steps,
        samples=draws.n_samples,
        seed=draws.seed,
        depth=draws.depth,
    )


def is_done(there: AnnData, record: dict[str, Any], name: str, genes: list[str], sdata: SpatialData) -> bool:
    """Whether a prediction is the one that is asked for; one that was made in another way is refused."""
    compared = dict(record)
    if record["depth"] == 1 and "depth" not in get_provenance(there):
        del compared["depth"]  # tables from before there was a choice do not say, and have that of training
    check_provenance(there, compared, name)
    if list(there.var_names) != genes:
        raise OtherProvenanceError(
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


def fill(
    partial: Partial,
    model: HisDiff,
    slide: SlideInputs,
    summary: Summary,
    draws: Draws,
    device: torch.device,
) -> None:
    """Sample the spots that are not done yet, some after others, and keep the summary of their samples."""
    from hisdiff_sd.tl._sample import sample_blocks

    blocks = [np.arange(start, min(start + _BLOCK, slide.n)) for start in range(0, slide.n, _BLOCK)]
    todo = [i for i in range(len(blocks)) if i not in partial.done]
    left = sum(len(blocks[i]) for i in todo)
    if left < slide.n:
        logger.info("%s: %d of %d spots were predicted before; going on", slide.name, slide.n - left, slide.n)
    estimate = Estimate(f"predicting {slide.name}", left, slide.n * summary.width * np.dtype(summary.dtype).itemsize)
    drawn = sample_blocks(model, slide, [blocks[i] for i in todo], draws, device)
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


def partial_key(
    record: dict[str, Any], slide: SlideInputs, summary: Summary, draws: Draws, device: torch.device
) -> str:
    """What partial results must share to be continued."""
    shape = [summary.genes.tolist(), summary.layers, _BLOCK, draws.precision]
    digest = hashlib.sha256(json.dumps([record, str(device), *shape]).encode())
    digest.update("|".join(map(str, slide.index)).encode() + slide.xy.tobytes() + slide.embedding.tobytes())
    return digest.hexdigest()[:16]
