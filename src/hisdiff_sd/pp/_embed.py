from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._progress import progress
from hisdiff_sd._provenance import check_provenance, provenance, set_provenance
from hisdiff_sd._shapes import Shapes, slide_shapes
from hisdiff_sd.io._slide import parse_table
from hisdiff_sd.io._store import check_table_name, slide_attrs, write_table
from hisdiff_sd.tiles import TileProtocol, best_level, boxes, read_tiles, resize

if TYPE_CHECKING:
    import dask.array as da
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff_sd.encoders import TileEncoder


def embed(
    sdata: SpatialData,
    encoder: str | TileEncoder = "uni",
    *,
    tile_um: float | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    shapes_key: str = keys.SPOTS,
    image_key: str = keys.HE,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Embed the tile around every spot with an encoder.

    Parameters
    ----------
    sdata
        A slide of `hd.io`. If it has a store, the table is written there as well.
    encoder
        ``"uni"``, ``"morphology"`` (built in, needs no weights and no network), or an object such as
        `hd.encoders.load` returns.
    tile_um
        Side of a tile in um, such as 112. By default the published protocol: max(224, 2 * floor(spot diameter / 2))
        level-0 pixels, resized to 224 with Lanczos. Outside the slide tiles are black, as published.
    weights
        A local weight file of the encoder; by default its weights come from the Hugging Face hub.
    device
        Torch device; ``"auto"`` takes a GPU where there is one.
    shapes_key, image_key
        Elements with the spots and the H&E image.
    key_added
        Name of the table; ``<shapes>_<encoder>`` by default.
    overwrite
        Replace a table that was made in another way. One that was made in the same way is kept as it is.

    Returns
    -------
    None. Adds ``sdata["spots_<encoder>"]``: float32 (n_spots, dim) with provenance in ``uns["hisdiff_sd"]``.

    Raises
    ------
    HisDiffError
        If an element is missing, the encoder's weights cannot be had, or a table of other provenance is in the way.

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
    loaded = encoders.load(encoder, weights=weights, device=device)
    protocol = TileProtocol(tile_um)
    name = key_added or f"{shapes_key}_{loaded.name}"
    check_table_name(sdata, name)
    side = protocol.side_px(spots.diameter_px, attrs["mpp"])
    record = provenance(
        kind="embedding",
        slide=attrs["slide"],
        encoder=loaded.name,
        encoder_hash=loaded.fingerprint,
        tile=protocol.name,
        tile_side_px=side,
        tile_px=loaded.tile_px,
        padding="black",
        filter=protocol.resize_filter,
        shapes=shapes_key,
        image=image_key,
    )
    there = sdata.tables.get(name)
    if there is not None and not overwrite and check_provenance(there, record, name) and _same_spots(there, spots):
        return
    levels = _levels(sdata, image_key)
    # as published, tiles are cut from level 0 whatever their size
    level = best_level(side, len(levels)) if tile_um is not None else 0
    values = _embed_tiles(
        levels[level], 2**level, spots.xy, side, attrs["true_size"], loaded, protocol.resize_filter, attrs["slide"]
    )
    table = _table(values, spots.index, shapes_key)
    set_provenance(table, record)
    # a table that this object does not know of is another process's work
    write_table(sdata, name, table, overwrite=overwrite or there is not None)


def _embed_tiles(
    image: da.Array,
    downsample: int,
    xy: np.ndarray,
    side: float,
    true_size: Sequence[int],
    encoder: TileEncoder,
    resample: str,
    slide: str,
) -> np.ndarray:
    """(n, dim) float32 embeddings in the order of `xy`; tiles are read in the order of the image's chunks."""
    import torch

    corners, side_px = boxes(xy, side, downsample)
    level_size = (-(-true_size[0] // downsample), -(-true_size[1] // downsample))
    values = np.empty((len(xy), encoder.dim), np.float32)
    with progress(f"embedding {slide} with {encoder.name}", len(xy)) as advance:
        for rows, tiles in read_tiles(image, corners, side_px, level_size):
            pixels = np.ascontiguousarray(resize(tiles, encoder.tile_px, resample))
            vectors = encoder(torch.from_numpy(pixels)).detach().cpu()
            if tuple(vectors.shape) != (len(rows), encoder.dim):
                raise HisDiffError(
                    f"encoder {encoder.name!r} returned shape {tuple(vectors.shape)} for {len(rows)} tiles; its dim is "
                    f"{encoder.dim}"
                )
            values[rows] = vectors.numpy()
            advance(len(rows))
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(1).sum())
        raise HisDiffError(f"encoder {encoder.name!r} returned NaN or infinity for {bad} of {len(xy)} tiles of {slide}")
    return values


def _levels(sdata: SpatialData, image_key: str) -> list[da.Array]:
    """Arrays of the image's pyramid levels, finest first."""
    from spatialdata import get_pyramid_levels

    image = sdata.images[image_key]
    if not hasattr(image, "children"):
        return [image.data]
    return [level.data for level in get_pyramid_levels(image)]


def _same_spots(table: AnnData, spots: Shapes) -> bool:
    """Whether a table has a row for every spot and no other."""
    return set(table.obs[keys.INSTANCE]) == set(spots.index)


def _table(values: np.ndarray, index: pd.Index, shapes_key: str) -> AnnData:
    from anndata import AnnData

    obs = pd.DataFrame(index=index.astype(str))
    obs[keys.REGION] = pd.Categorical([shapes_key] * len(obs))
    obs[keys.INSTANCE] = index.to_numpy()
    return parse_table(
        AnnData(X=values, obs=obs, var=pd.DataFrame(index=[f"e{i}" for i in range(values.shape[1])])), shapes_key
    )
