from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._data import slide_inputs, spot_pitch_um
from hisdiff_sd._device import resolve_device
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd._provenance import check_provenance, failed_tiles, get_provenance, provenance, set_provenance
from hisdiff_sd._settings import settings
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd.io._slide import dress_table, parse_table, spatial_uns
from hisdiff_sd.io._store import check_table_name, check_writable, slide_attrs, write_table
from hisdiff_sd.nn import spaced_timesteps
from hisdiff_sd.pp._embed import embed
from hisdiff_sd.tiles import TileProtocol

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff_sd.model import HisDiff

logger = logging.getLogger("hisdiff_sd")

DEFAULT_STEPS = 50
DEFAULT_SAMPLES = 32
_FEWEST_FOR_TAILS = 19
_MANY_SPOTS = 20_000
_PITCH_TOLERANCE = 1.25


def predict(
    sdata: SpatialData,
    model: HisDiff | str | Path | None = None,
    *,
    n_samples: int = DEFAULT_SAMPLES,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    key_added: str = keys.PREDICTION,
    overwrite: bool = False,
) -> None:
    """Predict the expression of a model's genes at every spot of a slide; no measured gene is needed.

    Parameters
    ----------
    sdata
        A slide of `hd.io`. Embeddings that are missing are computed. If it has a store, the tables are written there.
    model
        A model, its folder, or its id on the Hugging Face hub. By default ``hd.settings.model``, which starts as the
        environment variable ``HISDIFF_SD_MODEL``.
    n_samples
        Samples per spot. The mean of many is the best single guess; one alone looks like the tissue does.
    steps
        Steps of the ancestral sampler, 1 to 1000 (1000 as published).
    seed
        Of the noise, which is drawn per spot and sample: results do not depend on batch size or order.
    weights
        Local weight file of the encoder, as in `hd.pp.embed`.
    device
        Torch device; ``"auto"`` takes a GPU where there is one.
    batch_size
        Spots x samples that are denoised together; chosen by itself.
    key_added
        Name of the table.
    overwrite
        Replace a prediction that was made in another way. One that was made in the same way is kept as it is.

    Returns
    -------
    None. Adds the table ``sdata["hisdiff"]``: ``X`` float32 (n_spots, n_genes), the mean over the samples on the model's
    target scale; layers ``std``, ``q50``, ``q05`` and ``q95`` (of 19 samples or more, at Weibull positions), and
    ``sample_0``, one honest draw. Above 20,000 spots layers are float16 and no sample is kept.

    Raises
    ------
    HisDiffError
        If there is no model, its embeddings do not fit those of the store, or a prediction of another provenance is in
        the way.
    """
    if n_samples < 1:
        raise HisDiffError(f"n_samples={n_samples} draws nothing; 1 or more are needed")
    if batch_size is not None and batch_size < 1:
        raise HisDiffError(f"batch_size={batch_size} denoises nothing; leave it out to have it chosen")
    spaced_timesteps(steps)  # refuses a number of steps before any work is done
    there = _prediction_there(sdata, key_added)
    bundle = resolve_model(model)
    where = resolve_device(device)
    _check_slide(sdata, bundle)
    attrs, config = slide_attrs(sdata), bundle.config
    record = provenance(
        kind="prediction",
        slide=attrs["slide"],
        model_hash=bundle.fingerprint,
        target=config.target,
        encoder=config.encoder,
        encoder_hash=config.encoder_hash,
        **TileProtocol.parse(config.tile).record(slide_shapes(sdata, keys.SPOTS).diameter_px, attrs["mpp"]),
        sampler="ancestral",
        steps=steps,
        samples=n_samples,
        seed=seed,
    )
    if there is not None and not overwrite and check_provenance(there, record, key_added):
        if there.n_obs + failed_tiles(there) == slide_shapes(sdata, keys.SPOTS).n:
            return
        logger.warning("table %r lacks spots of the slide; it is predicted anew", key_added)
    check_writable(sdata)
    slide = model_inputs(sdata, bundle, weights=weights, device=device)
    if n_samples < _FEWEST_FOR_TAILS:
        logger.warning("%d samples are too few for 5%% and 95%% quantiles: q05 and q95 are left out", n_samples)
    from hisdiff_sd.tl._sample import sample_slide

    samples = sample_slide(
        bundle, slide, n_samples=n_samples, steps=steps, seed=seed, device=where, batch_size=batch_size
    )
    if not np.isfinite(samples).all():
        raise HisDiffError(
            "the model returned NaN or infinity; nothing was written: its weights are damaged, load or train it again"
        )
    left_out = slide_shapes(sdata, keys.SPOTS).n - slide.n
    table = _table(samples, slide, bundle, record | {"failed_tiles": left_out}, _drawing(sdata))
    write_table(sdata, key_added, table, overwrite=overwrite or there is not None)


def _prediction_there(sdata: SpatialData, name: str) -> AnnData | None:
    """The prediction that has this name already; a table of another kind is refused."""
    check_table_name(sdata, name)
    there = sdata.tables.get(name)
    if there is not None and get_provenance(there).get("kind") != "prediction":
        raise HisDiffError(f"table {name!r} is no prediction and is never replaced by one; choose another key_added=")
    return there


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
    return HisDiff.load(chosen)


def model_inputs(
    sdata: SpatialData, model: HisDiff, *, weights: str | Path | None = None, device: str = "auto"
) -> SlideInputs:
    """Embeddings and context as the model was trained with; embeddings are computed where they are missing."""
    from hisdiff_sd import encoders

    config = model.config
    key = keys.embedding_key(keys.SPOTS, config.encoder)
    protocol = TileProtocol.parse(config.tile)
    tiles = f"tile_um={protocol.tile_um}" + (f", padding={protocol.padding!r}" if protocol.padding != "black" else "")
    if key not in sdata.tables:
        try:
            loaded = encoders.load(config.encoder, weights=weights, device=device)
        except HisDiffError as error:
            raise HisDiffError(
                f"the slide has no embeddings {key!r}, and the encoder that the model was trained with cannot be loaded "
                f"({error}); if it is one of your own, embed the slide with it first: hd.pp.embed(sdata, <encoder>, {tiles})"
            ) from error
        if config.encoder_hash and loaded.fingerprint != config.encoder_hash:
            raise HisDiffError(
                f"the model was trained with another version of encoder {config.encoder!r} (hash {config.encoder_hash[:12]}, "
                f"here {loaded.fingerprint[:12]}); give the weight file it was trained with as weights="
            )
        embed(sdata, loaded, tile_um=protocol.tile_um, padding=protocol.padding)
    found = get_provenance(sdata.tables[key])
    differs = [
        f"{what}: {found.get(k) or 'unknown'} in the store, {wanted} of the model"
        for k, what, wanted in (("tile", "tiles", config.tile), ("encoder_hash", "encoder hash", config.encoder_hash))
        if wanted and found.get(k) != wanted
    ]
    if differs:
        again = f"hd.pp.embed(sdata, {config.encoder!r}, {tiles}, overwrite=True)"
        raise HisDiffError(
            f"the embeddings {key!r} do not fit the model ({'; '.join(differs)}); recompute them: {again}"
        )
    return slide_inputs(sdata, key, near=config.near, wide=config.wide)


def _check_slide(sdata: SpatialData, model: HisDiff) -> None:
    """Warn where the slide is of another kind than those the model was trained on."""
    attrs, config = slide_attrs(sdata), model.config
    pairs = [
        ("species", attrs.get("species"), config.species),
        ("gene id type", attrs.get("qc", {}).get("gene_id_type"), config.gene_id_type),
    ]
    for what, here, there in pairs:
        if here and there and here != there:
            warnings.warn(
                f"slide {attrs['slide']!r} has {what} {here!r}, the model was trained on {there!r}: do not trust this prediction",
                HisDiffWarning,
                stacklevel=3,
            )
    pitch = spot_pitch_um(sdata)
    if pitch and config.spot_pitch_um and not 1 / _PITCH_TOLERANCE < pitch / config.spot_pitch_um < _PITCH_TOLERANCE:
        warnings.warn(
            f"slide {attrs['slide']!r} has spots {pitch:g} um apart, the model was trained at {config.spot_pitch_um:g} um: its "
            "9 and 49 nearest spots cover another area",
            HisDiffWarning,
            stacklevel=3,
        )


def _drawing(sdata: SpatialData) -> dict[str, Any]:
    """``uns["spatial"]`` for the prediction: that of the measured table, else drawn from the image."""
    from hisdiff_sd._thumbnail import thumbnail_of

    if keys.TABLE in sdata.tables and "spatial" in sdata.tables[keys.TABLE].uns:
        return dict(sdata.tables[keys.TABLE].uns["spatial"])
    image, scale = thumbnail_of(sdata)
    return spatial_uns(slide_attrs(sdata)["slide"], image, scale, slide_shapes(sdata, keys.SPOTS).diameter_px)


def _table(
    samples: np.ndarray, slide: SlideInputs, model: HisDiff, record: dict[str, Any], drawing: dict[str, Any]
) -> AnnData:
    """Summary of the samples as a table that annotates the spots."""
    from anndata import AnnData

    many = slide.n > _MANY_SPOTS
    kind = np.float16 if many else np.float32
    layers = {"std": samples.std(0, ddof=1 if len(samples) > 1 else 0).astype(kind)}
    wanted = {"q50": 0.5} | ({"q05": 0.05, "q95": 0.95} if len(samples) >= _FEWEST_FOR_TAILS else {})
    quantiles = np.quantile(samples, list(wanted.values()), axis=0, method="weibull")
    layers |= {name: q.astype(kind) for name, q in zip(wanted, quantiles, strict=True)}
    if not many:
        layers["sample_0"] = samples[0]
    table = AnnData(
        X=samples.mean(0, dtype=np.float64).astype(np.float32),
        obs=pd.DataFrame(index=slide.index.astype(str)),
        var=pd.DataFrame(index=model.genes),
        layers=layers,
    )
    dress_table(table, keys.SPOTS, slide.xy, drawing)
    set_provenance(table, record | {"licences": provenance(x=model.config.licences)["x"]})
    return parse_table(table, keys.SPOTS)
