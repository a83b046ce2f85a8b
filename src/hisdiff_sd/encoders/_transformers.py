"""Encoders that are models of the package transformers, which is needed for them alone."""

from __future__ import annotations

from pathlib import Path

import torch

from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.encoders._base import fingerprint_tensors
from hisdiff_sd.encoders._hub import fetch, fetch_weights
from hisdiff_sd.encoders._model import ModelEncoder
from hisdiff_sd.encoders._rows import EncoderRow
from hisdiff_sd.encoders._weights import find_weights, first_line, read_weights

_CONFIG = "config.json"


def transformers_encoder(
    row: EncoderRow, *, weights: Path | None, device: torch.device, precision: str, compile: bool
) -> ModelEncoder:
    """Load a row as a model with weights, of a local folder or of the Hugging Face hub."""
    try:
        import transformers  # type: ignore[import-not-found,import-untyped,unused-ignore] # noqa: F401
    except ImportError as error:
        raise HisDiffError(
            f"encoder {row.name!r} is a model of the package transformers, which is not installed; "
            "pip install transformers"
        ) from error
    path = _hub_files(row) if weights is None else _local_files(weights, row)
    # Of the file and not of the model, whose tensors other versions of transformers call by other names.
    fingerprint = fingerprint_tensors(read_weights(path, row))
    return ModelEncoder(row, _load(path, row), fingerprint, device=device, precision=precision, compile=compile)


def _hub_files(row: EncoderRow) -> Path:
    """Weight file in the cache, beside its config.json."""
    fetch(row, (_CONFIG,))
    return fetch_weights(row)


def _local_files(weights: Path, row: EncoderRow) -> Path:
    """Weight file on disk, beside its config.json."""
    path = find_weights(weights, row)
    if path.is_file() and not (path.parent / _CONFIG).exists():
        raise MissingFileError(
            f"no {path.parent / _CONFIG}: the model of encoder {row.name!r} is described by its {_CONFIG}; put that of "
            f"{row.hub_id} beside the weight file"
        )
    return path


def _load(path: Path, row: EncoderRow) -> torch.nn.Module:
    """The model of a folder; raise an error that names the first tensor that does not fit."""
    from transformers import AutoModel

    another = f"{path} holds the weights of another model than {row.name!r}"
    try:
        with torch.random.fork_rng(devices=()):
            model, info = AutoModel.from_pretrained(path.parent, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise HisDiffError(f"{another}: {first_line(error)}. Give {row.source}") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(what):
            tensor = sorted(map(str, info[what]))[0]
            raise HisDiffError(f"{another}: {what.removesuffix('_keys')} {tensor!r}. Give {row.source}")
    if model.config.hidden_size != row.dim:
        raise HisDiffError(
            f"{another}: its vectors are {model.config.hidden_size} long and not {row.dim}. Give {row.source}"
        )
    return model.float()
