"""The one function that loads an encoder, by whatever name."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch

from hisdiff_sd._device import resolve_device
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._precision import resolve_precision
from hisdiff_sd.encoders._base import TileEncoder
from hisdiff_sd.encoders._generic import HUB_PREFIXES, hub_row, timm_row
from hisdiff_sd.encoders._rows import ENCODERS, EncoderRow

__all__ = ["ENCODERS", "EncoderRow", "load_encoder"]


def load_encoder(
    encoder: str | TileEncoder,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
) -> TileEncoder:
    """Load a tile encoder.

    Parameters
    ----------
    encoder
        One of:

        - a name of `hd.encoders.table`, such as ``"uni"`` (Chen et al. 2024) or ``"morphology"`` (built in, needs no
          weights);
        - the name of any other timm model, such as ``"vit_small_patch16_224.dino"``: its own pooling, input size and
          normalisation, without its head;
        - ``"hf-hub:owner/name"``, with or without ``@revision``: a timm model on the Hugging Face hub;
        - an encoder (see `TileEncoder`, `hd.encoders.from_callable`), which is returned as it is; `device` does not move
          it.
    weights
        Weight file on disk (``.bin``, ``.pt``, ``.pth`` or ``.safetensors``), or a folder that holds it, to use in place
        of the hub's. For ``"hf-hub:"`` names and ``"phikon2"`` the repository's config.json must lie beside it.
    device
        Torch device to run on; ``"auto"`` takes a GPU where there is one.
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"`` (GPUs only) for the matrix products; ``"auto"`` is bf16 on CUDA cards (Ampere
        and later) and processors (with AMX) that compute in it, else fp32, or what the environment variable
        ``HISDIFF_SD_PRECISION`` says. Vectors are float32 always.
    compile
        Compile the model with `torch.compile`: the first batch takes a minute, the others are quicker.

    Returns
    -------
    The encoder: call it with uint8 tiles of shape (B, 3, `tile_px`, `tile_px`) on any device, get float32 of shape
    (B, `dim`) on its own device.

    Raises
    ------
    HisDiffError
        If there is no such encoder, its weights cannot be had from the hub, the file is not one of its weights, or it
        cannot run as asked.

    Examples
    --------
    >>> import torch
    >>> encoder = hd.encoders.load("morphology", device="cpu")
    >>> encoder(torch.zeros(2, 3, 224, 224, dtype=torch.uint8)).shape[0]
    2
    """
    path = None if weights is None else Path(weights)
    if not isinstance(encoder, str):
        return _own_encoder(encoder, path, precision, compile)
    where = resolve_device(device)
    if encoder in ENCODERS and ENCODERS[encoder].loader == "built in":
        return _built_in(ENCODERS[encoder], path, where, precision, compile)
    resolved = resolve_precision(precision, where)
    row = _find_row(encoder, path)
    if row.loader == "transformers":
        from hisdiff_sd.encoders._transformers import transformers_encoder as load
    else:
        from hisdiff_sd.encoders._timm import timm_encoder as load
    return load(row, weights=path, device=where, precision=resolved, compile=compile)


def _find_row(encoder: str, weights: Path | None) -> EncoderRow:
    """Row of the table, of timm or of the hub; an unknown name raises an error with the nearest ones."""
    if encoder in ENCODERS:
        return ENCODERS[encoder]
    if encoder.startswith(HUB_PREFIXES):
        return hub_row(encoder, weights)
    row = timm_row(encoder)
    if row is not None:
        return row
    near = _nearest(encoder)
    hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
    raise HisDiffError(
        f"no encoder {encoder!r}; give a name of hd.encoders.table(), of a timm model, or 'hf-hub:owner/name'.{hint}"
    )


def _nearest(encoder: str) -> list[str]:
    """Names that may have been meant, the table's first."""
    import timm

    if encoder.count("/") == 1:
        return [f"hf-hub:{encoder}"]
    architecture, _, tag = encoder.partition(".")
    if timm.is_model(architecture):
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
        return [f"{architecture}.{near}" for near in difflib.get_close_matches(tag, tags, n=3, cutoff=0)]
    names = (list(ENCODERS), [*timm.list_models(), *timm.list_pretrained()])
    near = (name for some in names for name in difflib.get_close_matches(encoder.lower(), some, n=3, cutoff=0.7))
    return list(dict.fromkeys(near))  # a name of the table may be one of timm as well


def _built_in(
    row: EncoderRow, weights: Path | None, device: torch.device, precision: str, compile: bool
) -> TileEncoder:
    """Load the encoder without weights."""
    if weights is not None:
        raise HisDiffError(f"encoder {row.name!r} is built in and has no weights; leave weights={str(weights)!r} out")
    if precision not in ("auto", "fp32"):
        raise HisDiffError(f"encoder {row.name!r} computes in 'fp32' only; leave precision={precision!r} out")
    if compile:
        raise HisDiffError(f"encoder {row.name!r} is no model that could be compiled; leave compile=True out")
    from hisdiff_sd.encoders._morphology import MorphologyEncoder

    return MorphologyEncoder(device)


def _own_encoder(encoder: TileEncoder, weights: Path | None, precision: str, compile: bool) -> TileEncoder:
    """Return a user's own encoder after a look at its attributes."""
    if not isinstance(encoder, TileEncoder):
        raise HisDiffError(
            f"{type(encoder).__name__} is not a tile encoder: it needs name, dim, tile_px, fingerprint, licence and to be "
            f"callable; make it one with hd.encoders.from_callable, or give a name: {', '.join(map(repr, ENCODERS))}"
        )
    given = {"weights": weights and str(weights), "precision": None if precision == "auto" else precision}
    for what, value in {**given, "compile": compile or None}.items():
        if value is not None:
            raise HisDiffError(f"encoder {encoder.name!r} is already loaded; leave {what}={value!r} out")
    return encoder
