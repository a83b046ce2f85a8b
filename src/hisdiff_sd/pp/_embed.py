from __future__ import annotations

import hashlib
import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._data import covers
from hisdiff_sd._errors import HisDiffError, HisDiffWarning, check_one_of
from hisdiff_sd._progress import Estimate, progress
from hisdiff_sd._provenance import check_provenance, failed_tiles, provenance, set_provenance
from hisdiff_sd._shapes import Shapes, slide_shapes
from hisdiff_sd.io._image import levels_of
from hisdiff_sd.io._slide import parse_table
from hisdiff_sd.io._store import check_table_name, check_writable, slide_attrs, write_table
from hisdiff_sd.pp._partial import Partial, partial_results
from hisdiff_sd.tiles import (
    TileBatch,
    TilePlan,
    TileProtocol,
    TileSource,
    best_level,
    boxes,
    load_tiles,
    plan_tiles,
    source_of,
)

if TYPE_CHECKING:
    import torch
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff_sd.encoders import TileEncoder

logger = logging.getLogger("hisdiff_sd")

DTYPES = ("float32", "float16")
_CPU_BATCH, _GPU_BATCH = 32, 128


def embed(
    sdata: SpatialData,
    encoder: str | TileEncoder = "uni",
    *,
    tile_um: float | None = None,
    padding: str = "black",
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    dtype: str = "float32",
    shapes_key: str = keys.SPOTS,
    image_key: str = keys.HE,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Embed the tile around every spot with an encoder.

    Parameters
    ----------
    sdata
        A slide of `hd.io`. If it has a store, the table is written there as well, and a call that was interrupted goes
        on where it was when it is made again.
    encoder
        A name of `hd.encoders.table`, such as ``"uni"`` or ``"morphology"`` (built in, needs no weights and no network),
        or an object such as `hd.encoders.load` returns.
    tile_um
        Side of a tile in um, such as 112, cut from the pyramid level that has the resolution, and resized once. By
        default the published protocol: max(224, 2 * floor(spot diameter / 2)) level-0 pixels, resized with Lanczos.
    padding
        What a tile shows outside the slide: ``"black"`` (as published), ``"white"`` or ``"reflect"``.
    weights
        A local weight file of the encoder; by default its weights come from the Hugging Face hub.
    device
        Torch device; ``"auto"`` takes a GPU where there is one.
    batch_size
        Tiles that are embedded together; 32 on a CPU and 128 on a GPU by default. Results are the same to rounding.
    dtype
        ``"float32"``, or ``"float16"`` for half the bytes.
    shapes_key, image_key
        Elements with the spots and the H&E image.
    key_added
        Name of the table; ``<shapes>_<encoder>`` by default.
    overwrite
        Make the table again, in place of the one that is there. Without it, one that was made in the same way is kept as
        it is.

    Returns
    -------
    None. Adds ``sdata["spots_<encoder>"]``: `dtype` (n_spots, dim) with provenance in ``uns["hisdiff_sd"]``. Spots whose
    tile cannot be decoded are left out, with a warning that says which and why.

    Raises
    ------
    HisDiffError
        If an element is missing, the encoder's weights cannot be had, a table of other provenance is in the way, no tile
        can be read, or the disk is full (what is done is kept).

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.hest(root, "S1")
    >>> hd.pp.embed(sdata, "morphology")
    >>> sdata["spots_morphology"].X.dtype
    dtype('float32')
    """
    from hisdiff_sd import encoders

    attrs = slide_attrs(sdata)
    spots = slide_shapes(sdata, shapes_key)
    if image_key not in sdata.images:
        raise HisDiffError(f"no image {image_key!r}; images here: {', '.join(map(repr, sdata.images)) or 'none'}")
    protocol = embedding_protocol(tile_um, padding, dtype, batch_size)
    loaded = encoders.load(encoder, weights=weights, device=device)
    name = key_added or keys.embedding_key(shapes_key, loaded.name)
    check_table_name(sdata, name)
    record = provenance(
        kind="embedding",
        slide=attrs["slide"],
        encoder=loaded.name,
        encoder_hash=loaded.fingerprint,
        **protocol.record(spots.diameter_px, attrs["mpp"]),
        tile_px=loaded.tile_px,
        shapes=shapes_key,
        **spots.record(),
        image=image_key,
    )
    there = sdata.tables.get(name)
    if (
        there is not None
        and not overwrite
        and check_provenance(there, record, name)
        and covers(there, spots, failed_tiles(there))
    ):
        return
    check_writable(sdata)
    source, plan = _plan(sdata, image_key, spots, protocol, batch_size or _batch_size(loaded))
    how = {"precision": getattr(loaded, "precision", "fp32"), "batch_size": len(plan.batches[0].rows) if spots.n else 0}
    key = _key(record | how, spots, loaded)
    store = Path(str(sdata.path)) if sdata.is_backed() else None
    with partial_results(store, name, key, spots.n, loaded.dim) as partial:
        _embed_tiles(source, plan, partial, loaded, protocol.resize_filter, attrs["slide"], np.dtype(dtype))
        failed = len(partial.failed)
        if failed:
            _report(partial.failed, spots, attrs["slide"])
        kept = np.setdiff1d(np.arange(spots.n), list(partial.failed))
        table = _table(partial.values[kept].astype(dtype), spots.index[kept], shapes_key)
        set_provenance(table, record | how | {"failed_tiles": failed})
        # a table that this object does not know of is another process's work
        write_table(sdata, name, table, overwrite=overwrite or there is not None)


def embedding_protocol(tile_um: float | None, padding: str, dtype: str, batch_size: int | None) -> TileProtocol:
    """How tiles are cut, once all that was asked for is known to make sense on any slide."""
    check_one_of(dtype, DTYPES, "dtype")
    if batch_size is not None and batch_size < 1:
        raise HisDiffError(f"batch_size={batch_size} is no number of tiles; give 1 or more, or leave it out")
    return TileProtocol(tile_um, padding)


def _plan(
    sdata: SpatialData, image_key: str, spots: Shapes, protocol: TileProtocol, batch_size: int
) -> tuple[TileSource, TilePlan]:
    """The pyramid level that the tiles are cut from, and in which batches."""
    attrs = slide_attrs(sdata)
    levels = [level.data for level in levels_of(sdata.images[image_key])]
    side = protocol.side_px(spots.diameter_px, attrs["mpp"])
    # as published, tiles are cut from level 0 whatever their size
    level = best_level(side, len(levels)) if protocol.tile_um is not None else 0
    where = _where(sdata, image_key, level)
    source = source_of(levels[level], where)
    corners, side_px = boxes(spots.xy, side, 2**level)
    height, width = (
        min(-(-true // 2**level), shape) for true, shape in zip(attrs["true_size"], source.shape, strict=True)
    )
    plan = plan_tiles(corners, side_px, (height, width), source.cell, batch_size=batch_size, padding=protocol.padding)
    return source, plan


def _where(sdata: SpatialData, image_key: str, level: int) -> str:
    """Where the pixels lie, for messages."""
    source = slide_attrs(sdata).get("source", {}).get("image", "")
    # a slide with a companion is backed by that, while its pixels lie in the store of others
    if sdata.is_backed() and (place := Path(str(sdata.path)) / "images" / image_key).exists():
        return f"{place} (level {level})"
    return f"image {image_key!r}, level {level}" + (f", of {source}" if source else "")


def _embed_tiles(
    source: TileSource,
    plan: TilePlan,
    partial: Partial,
    encoder: TileEncoder,
    resample: str,
    slide: str,
    dtype: np.dtype,
) -> None:
    """Embed the tiles of the batches that are not done yet."""
    import torch

    todo = [batch for batch in plan.batches if batch.index not in partial.done]
    n, left = len(plan.corners), sum(len(b.rows) for b in todo)
    if left < n:
        logger.info("%s: %d of %d tiles were embedded before; going on", slide, n - left, n)
    estimate = Estimate(f"embedding {slide} with {encoder.name}", left, n * encoder.dim * dtype.itemsize)
    device = getattr(encoder, "device", torch.device("cpu"))
    waiting: tuple[TileBatch[torch.Tensor], torch.Tensor] | None = None

    with progress(f"embedding {slide} with {encoder.name}", n) as advance:
        advance(n - left)

        def settle(batch: TileBatch[torch.Tensor], vectors: torch.Tensor) -> None:
            partial.add(batch.index, batch.rows, _checked(vectors, batch, encoder, slide), batch.failed)
            advance(len(batch.rows) + len(batch.failed))
            estimate.done(len(batch.rows))

        for batch in load_tiles(source, plan, todo, tile_px=encoder.tile_px, resample=resample, device=device):
            vectors = encoder(batch.tiles)
            # one batch late: a GPU works on the next one while this one is fetched
            if waiting is not None:
                settle(*waiting)
            waiting = batch, vectors
        if waiting is not None:
            settle(*waiting)


def _checked(vectors: torch.Tensor, batch: TileBatch[torch.Tensor], encoder: TileEncoder, slide: str) -> np.ndarray:
    """Vectors of a batch as float32 on the CPU, if they are what the encoder promised."""
    import torch

    n = len(batch.rows)
    if tuple(vectors.shape) != (n, encoder.dim):
        raise HisDiffError(
            f"encoder {encoder.name!r} returned shape {tuple(vectors.shape)} for {n} tiles; its dim is {encoder.dim}"
        )
    values = vectors.detach().to("cpu", torch.float32).numpy()
    finite = np.isfinite(values)
    if not finite.all():
        bad = int((~finite.all(1)).sum())
        raise HisDiffError(f"encoder {encoder.name!r} returned NaN or infinity for {bad} of {n} tiles of {slide}")
    return values


def _report(failed: dict[int, str], spots: Shapes, slide: str) -> None:
    """Say which tiles could not be read; raise if there is no other."""
    reasons = list(dict.fromkeys(failed.values()))
    text = f"{len(failed)} of {spots.n} tiles of slide {slide!r} could not be read: {'; '.join(reasons[:3])}"
    if len(failed) == spots.n:
        raise HisDiffError(f"{text}; nothing was written: convert the slide again from its image")
    first = ", ".join(map(str, spots.index[sorted(failed)[:5]]))
    warnings.warn(
        f"{text}. These spots have no embedding ({first}{' ...' * (len(failed) > 5)}), the others were kept; convert the "
        "slide again from its image, then embed with overwrite=True",
        HisDiffWarning,
        stacklevel=3,
    )


def _key(record: dict[str, Any], spots: Shapes, encoder: TileEncoder) -> str:
    """What partial results must share to be continued."""
    digest = hashlib.sha256(json.dumps([record, encoder.dim, str(getattr(encoder, "device", "cpu"))]).encode())
    digest.update(spots.xy.tobytes() + "|".join(map(str, spots.index)).encode())
    return digest.hexdigest()[:16]


def _batch_size(encoder: TileEncoder) -> int:
    device = getattr(encoder, "device", None)
    return _GPU_BATCH if device is not None and device.type == "cuda" else _CPU_BATCH


def _table(values: np.ndarray, index: pd.Index, shapes_key: str) -> AnnData:
    from anndata import AnnData

    obs = pd.DataFrame(index=index.astype(str))
    obs[keys.REGION] = pd.Categorical([shapes_key] * len(obs))
    obs[keys.INSTANCE] = index.to_numpy()
    return parse_table(
        AnnData(X=values, obs=obs, var=pd.DataFrame(index=[f"e{i}" for i in range(values.shape[1])])), shapes_key
    )
