"""Encoders that are timm models with published weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.encoders._base import fingerprint_tensors
from hisdiff_sd.encoders._hub import fetch_weights
from hisdiff_sd.encoders._model import ModelEncoder
from hisdiff_sd.encoders._rows import EncoderRow
from hisdiff_sd.encoders._weights import find_weights, load_weights, read_weights


def timm_encoder(
    row: EncoderRow, *, weights: Path | None, device: torch.device, precision: str, compile: bool
) -> ModelEncoder:
    """Load a row as a model with weights, of a local file or of the Hugging Face hub."""
    path = fetch_weights(row) if weights is None else find_weights(weights, row)
    tensors = read_weights(path, row)
    model = build(row)
    load_weights(model, _for_model(tensors, model, row), path, row)
    fingerprint = fingerprint_tensors(model.state_dict())
    return ModelEncoder(row, model, fingerprint, device=device, precision=precision, compile=compile)


class _NoRandomFill(TorchFunctionMode):
    """Leaves out the random fills of new weights: seconds of work in a large model, and draws from the user's seed."""

    _FILLS = ("uniform_", "normal_", "erfinv_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self._FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def build(row: EncoderRow) -> Any:
    """Build a row's model with weights that are still to be loaded, every one of them."""
    import timm

    arguments = {
        key: _layer(value) if key in ("mlp_layer", "act_layer") else value for key, value in row.timm_args.items()
    }
    try:
        with torch.random.fork_rng(devices=()), _NoRandomFill():
            return timm.create_model(row.timm_name, pretrained=False, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise HisDiffError(
            f"timm {timm.__version__} cannot build {row.timm_name!r} for encoder {row.name!r} "
            f"({type(error).__name__}: {error}); a newer timm may: pip install --upgrade timm"
        ) from error


def _layer(name: Any) -> Any:
    """The layer that a table names."""
    import timm

    if not isinstance(name, str):
        return name
    return getattr(timm.layers, name, None) or getattr(torch.nn, name, name)


def _for_model(tensors: dict[str, torch.Tensor], model: torch.nn.Module, row: EncoderRow) -> dict[str, torch.Tensor]:
    """The tensors that the model needs: without a head, and by today's names if timm knows the file's old ones."""
    expected = model.state_dict()
    needed = _without_head(tensors, expected, row)
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if row.pooling != "model" or needed.keys() == expected.keys() or rename is None:
        return needed
    if any(t.shape != expected[name].shape for name, t in needed.items() if name in expected):
        return needed  # timm would resample it: to the eye the same model, and not the one that was trained
    try:
        return _without_head(rename(dict(tensors), model), expected, row)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError):
        return needed


def _without_head(
    tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], row: EncoderRow
) -> dict[str, torch.Tensor]:
    """The tensors without those that the row does not use."""
    return {name: t for name, t in tensors.items() if name in expected or not name.startswith(row.unused)}
