"""A model and what it is shown of a slide; where the two do not fit, that is said before anything is computed."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from hisdiff_sd import _keys as keys
from hisdiff_sd._data import slide_inputs, spot_pitch_um
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd._provenance import get_provenance
from hisdiff_sd._settings import settings
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd.io._store import slide_attrs
from hisdiff_sd.pp._embed import embed
from hisdiff_sd.tiles import TileProtocol

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from hisdiff_sd.model import HisDiff

logger = logging.getLogger("hisdiff_sd")

_PITCH_TOLERANCE = 1.25
_SCALE_TOLERANCE = 1.25


def resolve_model(model: HisDiff | str | Path | None) -> HisDiff:
    """The model itself, loaded if a folder or hub id is given, or the one that settings name."""
    from hisdiff_sd.model import HisDiff

    if isinstance(model, HisDiff):
        return model
    chosen = model or settings.model
    if chosen is None:
        raise HisDiffError(
            "no model given: pass model= (a HisDiff, its folder or a Hugging Face hub id), or set hd.settings.model or the "
            "environment variable HISDIFF_SD_MODEL; train one with hd.tl.train(slides), or bring a published checkpoint "
            "with hd.HisDiff.from_published"
        )
    if not isinstance(chosen, str | Path):
        raise HisDiffError(f"model= is a HisDiff, its folder or a Hugging Face hub id, not {type(chosen).__name__}")
    return HisDiff.load(chosen)


def model_inputs(
    sdata: SpatialData,
    model: HisDiff,
    *,
    shapes_key: str = keys.SPOTS,
    weights: str | Path | None = None,
    device: str = "auto",
) -> SlideInputs:
    """Embeddings and context as the model was trained with; embeddings are computed where they are missing.

    Spots have the spots around them as context, as in training; tiles of a grid have those tiles that lie where the spots
    of a training slide would lie, whatever the spacing of the grid.
    """
    from hisdiff_sd import encoders

    config = model.config
    key = keys.embedding_key(shapes_key, config.encoder)
    protocol = TileProtocol.parse(config.tile)
    tiles = f"tile_um={protocol.tile_um}" + (f", padding={protocol.padding!r}" if protocol.padding != "black" else "")
    on = "" if shapes_key == keys.SPOTS else f", shapes_key={shapes_key!r}"
    if key not in sdata.tables:
        try:
            loaded = encoders.load(config.encoder, weights=weights, device=device)
        except HisDiffError as error:
            raise HisDiffError(
                f"the slide has no embeddings {key!r}, and the encoder that the model was trained with cannot be loaded "
                f"({error}); if it is one of your own, embed the slide with it first: hd.pp.embed(sdata, <encoder>, {tiles}{on})"
            ) from error
        if config.encoder_hash and loaded.fingerprint != config.encoder_hash:
            raise HisDiffError(
                f"the model was trained with another version of encoder {config.encoder!r} (hash {config.encoder_hash[:12]}, "
                f"here {loaded.fingerprint[:12]}); give the weight file it was trained with as weights="
            )
        logger.info("embedding the tiles of %r with %s", shapes_key, loaded.name)
        embed(sdata, loaded, tile_um=protocol.tile_um, padding=protocol.padding, shapes_key=shapes_key)
    found = get_provenance(sdata.tables[key])
    side = protocol.side_px(slide_shapes(sdata, shapes_key).diameter_px, slide_attrs(sdata)["mpp"])
    differs = [
        f"{what}: {found.get(k) or 'unknown'} in the store, {wanted} of the model"
        for k, what, wanted in (("tile", "tiles", config.tile), ("encoder_hash", "encoder hash", config.encoder_hash))
        if wanted and found.get(k) != wanted
    ]
    if found.get("tile_side_px", side) != side:
        differs.append(
            f"side of the tiles: {found['tile_side_px']:g} px in the store, {side:g} px of {shapes_key!r} now"
        )
    if differs:
        again = f"hd.pp.embed(sdata, {config.encoder!r}, {tiles}{on}, overwrite=True)"
        raise HisDiffError(
            f"the embeddings {key!r} do not fit the model ({'; '.join(differs)}); recompute them: {again}"
        )
    return slide_inputs(
        sdata,
        key,
        near=config.near,
        wide=config.wide,
        shapes_key=shapes_key,
        pitch_um=config.spot_pitch_um,
        grid=config.spot_grid or "square",
    )


def check_slide(sdata: SpatialData, model: HisDiff, shapes_key: str) -> None:
    """Warn where the slide, or what it is cut into, is of another kind than what the model was trained on."""
    attrs, config = slide_attrs(sdata), model.config
    name = f"slide {attrs['slide']!r}"
    said = [
        f"{name} has {what} {here!r}, the model was trained on {there!r}: do not trust this prediction"
        for what, here, there in (
            ("species", attrs.get("species"), config.species),
            ("gene id type", attrs.get("qc", {}).get("gene_id_type"), config.gene_id_type),
        )
        if here and there and here != there
    ]
    pitch = spot_pitch_um(sdata)
    if shapes_key == keys.SPOTS and _differ(pitch, config.spot_pitch_um, _PITCH_TOLERANCE):
        said.append(
            f"{name} has spots {pitch:g} um apart, the model was trained at {config.spot_pitch_um:g} um: its "
            "9 and 49 nearest spots cover another area"
        )
    side = TileProtocol.parse(config.tile).side_px(slide_shapes(sdata, shapes_key).diameter_px, attrs["mpp"])
    if _differ(side * attrs["mpp"], config.tile_side_um, _SCALE_TOLERANCE):
        said.append(
            f"{name} has tiles of {side * attrs['mpp']:.0f} um at {attrs['mpp']:.3g} um per px, the model was trained on tiles "
            f"of {config.tile_side_um:.0f} um at {config.mpp or float('nan'):.3g} um per px: what it sees has another scale; "
            "train a model on tiles of a physical size (tile_um=)"
        )
    if shapes_key != keys.SPOTS:
        said += _of_grid(sdata, model, shapes_key)
    for text in said:
        warnings.warn(text, HisDiffWarning, stacklevel=3)
    if shapes_key != keys.SPOTS and config.target == "log2":
        logger.warning(
            "%s: the model predicts counts at the depth of its training slides, and this map has no depth of its own; compare "
            "a gene within the slide only, or train with target='cp10k'",
            name,
        )


def _of_grid(sdata: SpatialData, model: HisDiff, shapes_key: str) -> list[str]:
    """What is to be said of tiles that do not stand for spots as the model knows them."""
    config, shapes = model.config, slide_shapes(sdata, shapes_key)
    unknown = [k for k in ("spot_pitch_um", "spot_diameter_um") if getattr(config, k) is None]
    if unknown:
        return [
            f"the model does not say what its training spots were like ({', '.join(unknown)}): tiles of {shapes_key!r} are as "
            "large as they say, and see the nearest tiles, not those a training pitch apart; give both to "
            "hd.HisDiff.from_published, or train the model again"
        ]
    stands_for = shapes.diameter_px * slide_attrs(sdata)["mpp"]
    if _differ(stands_for, config.spot_diameter_um, _SCALE_TOLERANCE):
        return [
            f"tiles of {shapes_key!r} stand for spots of {stands_for:.0f} um, the model was trained on spots of "
            f"{config.spot_diameter_um:g} um; lay them again for it: hd.pp.tile(sdata, ..., model=model, overwrite=True)"
        ]
    return []


def _differ(here: float | None, there: float | None, tolerance: float) -> bool:
    """Whether two sizes that are both known differ by more than a factor."""
    return bool(here and there and not 1 / tolerance < here / there < tolerance)
