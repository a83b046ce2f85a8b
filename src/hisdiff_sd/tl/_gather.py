"""Training slides opened, checked against each other and turned into arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from hisdiff_sd import _keys as keys
from hisdiff_sd._data import measured, slide_inputs, spot_pitch_um
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd._open import open_slide, slide_name
from hisdiff_sd._provenance import get_provenance
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd.io._store import slide_attrs
from hisdiff_sd.pp._embed import embed
from hisdiff_sd.pp._genes import check_genes, select_genes, warn_empty_genes
from hisdiff_sd.tiles import TileProtocol

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from hisdiff_sd.encoders import TileEncoder

DATA_LICENCE = "that of the training slides (HEST-1k: CC BY-NC-SA 4.0)"
NEAR, WIDE = 9, 49

_FEWEST_FOR_GRID = 9
_NEIGHBOUR = 1.25  # pitches: between the neighbours of a square grid and its diagonals
_INTERIOR = 0.2  # least part of the spots that have all neighbours of their grid
_IRREGULAR = 0.05


@dataclass(frozen=True)
class SlideKind:
    """What training slides have in common, under the names of `hisdiff_sd.model.ModelConfig`."""

    target: str
    species: str
    gene_id_type: str
    spot_pitch_um: float | None
    spot_diameter_um: float
    spot_grid: str
    mpp: float
    tile_side_um: float


@dataclass(frozen=True)
class TrainingSlides:
    """Training slides as arrays, and what is to be known of them."""

    genes: list[str]
    inputs: list[SlideInputs]
    truth: list[Measured]
    encoder: str
    encoder_hash: str
    tile: str
    kind: SlideKind
    patients: list[str]
    licences: dict[str, str]


def gather(
    slides: Sequence[SpatialData | str | Path],
    genes: Sequence[str] | None,
    encoder: str | TileEncoder,
    target: str,
    tile_um: float | None,
    padding: str,
    weights: str | Path | None,
    device: str,
    table_key: str,
) -> TrainingSlides:
    """Open the slides, choose the panel if none is given, embed what is not embedded."""
    from hisdiff_sd import encoders

    opened = [open_slide(s) for s in slides]
    names = [slide_name(s) for s in opened]
    if not opened:
        raise HisDiffError("no slides to train on")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise HisDiffError(f"slides are given more than once: {', '.join(twice)}")
    for name, sdata in zip(names, opened, strict=True):
        if table_key not in sdata.tables:
            raise HisDiffError(
                f"slide {name!r} has no table {table_key!r} of counts (tables here: {', '.join(sdata.tables) or 'none'}); "
                "only measured slides can be trained on"
            )
    tables = [(n, s.tables[table_key]) for n, s in zip(names, opened, strict=True)]
    panel = list(genes) if genes is not None else select_genes(opened, table_key=table_key)
    check_genes(panel, tables)
    warn_empty_genes(panel, tables)
    species = _common([str(slide_attrs(s)["species"]) for s in opened], "species", names)
    id_type = _common([str(slide_attrs(s)["qc"]["gene_id_type"]) for s in opened], "gene id type", names)
    stored = None if weights is not None else _stored_encoder(opened, encoder, TileProtocol(tile_um, padding).name)
    if stored is None:
        loaded = encoders.load(encoder, weights=weights, device=device)
        for sdata in opened:
            embed(sdata, loaded, tile_um=tile_um, padding=padding)
        stored = _Encoder(loaded.name, loaded.fingerprint, loaded.licence)
    key = keys.embedding_key(keys.SPOTS, stored.name)
    inputs, truth = [], []
    for name, sdata in zip(names, opened, strict=True):
        inputs.append(slide_inputs(sdata, key, near=NEAR, wide=WIDE))
        truth.append(measured(sdata.tables[table_key], inputs[-1].index, panel, target, name))
    return TrainingSlides(
        genes=panel,
        inputs=inputs,
        truth=truth,
        encoder=stored.name,
        encoder_hash=stored.fingerprint,
        tile=str(get_provenance(opened[0].tables[key])["tile"]),
        kind=SlideKind(target, species, id_type, **_geometry(opened, inputs, key)),
        patients=sorted({str(slide_attrs(s)["patient"]) for s in opened if slide_attrs(s)["patient"]}),
        licences={"encoder": stored.licence, "data": DATA_LICENCE},
    )


class _Encoder(NamedTuple):
    """What is kept of an encoder in a model."""

    name: str
    fingerprint: str
    licence: str


def _stored_encoder(opened: Sequence[SpatialData], encoder: str | TileEncoder, tile: str) -> _Encoder | None:
    """The encoder of that name if all slides are embedded with one version of it, so that it need not be loaded."""
    from hisdiff_sd.encoders._registry import ENCODERS

    # what is built in is loaded at no cost, and then its version is compared too
    if not isinstance(encoder, str) or encoder not in ENCODERS or ENCODERS[encoder].hub_id is None:
        return None
    tables = [s.tables.get(keys.embedding_key(keys.SPOTS, encoder)) for s in opened]
    records = [{} if t is None else get_provenance(t) for t in tables]
    hashes = {str(r.get("encoder_hash", "")) for r in records}
    if len(hashes) > 1 or "" in hashes or any(r["tile"] != tile for r in records):
        return None
    return _Encoder(encoder, hashes.pop(), ENCODERS[encoder].licence)


def _common(values: list[str], what: str, names: list[str]) -> str:
    """The one value of all slides; slides that say nothing agree with everything."""
    found = {v for v in values if v}
    if len(found) > 1:
        listed = ", ".join(f"{n}: {v or 'unknown'}" for n, v in zip(names, values, strict=True))
        raise HisDiffError(f"the training slides differ in {what} ({listed}); train on one kind at a time")
    return found.pop() if found else ""


def _geometry(opened: Sequence[SpatialData], inputs: Sequence[SlideInputs], key: str) -> dict[str, Any]:
    """Sizes in um, medians of the slides, and the grid of their spots, if it is one."""
    pixel = [float(slide_attrs(s)["mpp"]) for s in opened]
    spots = [slide_shapes(s, keys.SPOTS).diameter_px * mpp for s, mpp in zip(opened, pixel, strict=True)]
    sides = [float(get_provenance(s.tables[key])["tile_side_px"]) for s in opened]
    pitches = [p for p in map(spot_pitch_um, opened) if p is not None]
    grids = {spot_grid(s.xy) for s in inputs}
    return {
        "spot_pitch_um": _middle(pitches) if pitches else None,
        "spot_diameter_um": _middle(spots),
        "spot_grid": grids.pop() if len(grids) == 1 else "",
        "mpp": _middle(pixel),
        "tile_side_um": _middle([side * mpp for side, mpp in zip(sides, pixel, strict=True)]),
    }


def spot_grid(xy: np.ndarray) -> str:
    """``"square"`` or ``"hexagonal"`` by the number of neighbours that spots (n, 2) have, empty if it is neither."""
    if len(xy) < _FEWEST_FOR_GRID:
        return ""
    tree = cKDTree(xy)
    # the nearest spot of a jittered grid is nearer than the pitch, the second nearest is not
    pitch = float(np.median(tree.query(xy, k=3)[0][:, 2]))
    neighbours = tree.query_ball_point(xy, _NEIGHBOUR * pitch, return_length=True) - 1
    for grid, most in (("square", 4), ("hexagonal", 6)):
        # spots at the edge of the tissue have fewer, none has more
        if (neighbours == most).mean() >= _INTERIOR and (neighbours > most).mean() <= _IRREGULAR:
            return grid
    return ""


def _middle(values: list[float]) -> float:
    """The median, of an even number the higher of the two: a value that occurs."""
    return sorted(values)[len(values) // 2]
