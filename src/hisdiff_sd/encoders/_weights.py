"""Weight files on disk: read without running code that may lie in them, refused by name where they do not fit."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.encoders._hub import USUAL_NAMES
from hisdiff_sd.encoders._rows import EncoderRow

_NESTED_UNDER = ("state_dict", "model")
_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")


def find_weights(path: Path, row: EncoderRow) -> Path:
    """The row's weight file where `path` is a folder that holds it, else `path` itself."""
    names = [name for name in (row.filename, *USUAL_NAMES) if name and (path / name).is_file()]
    return path / names[0] if names else path


def read_weights(path: Path, row: EncoderRow) -> dict[str, torch.Tensor]:
    """Read the tensors of a weight file, also where they lie under "state_dict" or "model"."""
    if not path.exists():
        raise MissingFileError(f"no weight file {path}; give {row.source}")
    if path.is_dir() or path.suffix not in _SUFFIXES:
        what = "a folder" if path.is_dir() else f"no weight file by its ending {path.suffix!r}"
        raise HisDiffError(f"{path} is {what}; give {row.source} ({', '.join(_SUFFIXES)} are read)")
    content = _read(path, row)
    for key in _NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise HisDiffError(
            f"{path} is not a weight file: it holds {_describe(content)}, not named tensors (a state dict); "
            f"give {row.source}"
        )
    return dict(content)


def load_weights(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: Path, row: EncoderRow) -> None:
    """Load the `tensors` of the file at `path` into `model`; raise an error that names the first that does not fit."""
    expected = model.state_dict()
    problem = _first_misfit(tensors, expected)
    if problem:
        size = sum(tensor.numel() for tensor in expected.values()) / 1e6
        raise HisDiffError(
            f"{path} holds the weights of another model than {row.name!r} ({row.timm_name}, {len(expected)} tensors, "
            f"{size:.1f} M numbers): {problem}. Give {row.source}"
        )
    model.load_state_dict(tensors, strict=True)


def _read(path: Path, row: EncoderRow) -> object:
    """Unpack a file without running any code that may lie in it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Mapping the file saves a copy of it in memory; files of the old, not zipped kind cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise HisDiffError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read as a weight file: {first_line(error)}. If a download was cut "
            f"short, fetch {row.source} again"
        ) from error


def first_line(error: Exception) -> str:
    """First line of what an error says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _first_misfit(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str:
    """Say which tensor is missing, has another shape or is not expected; empty if all fit."""
    for name, tensor in expected.items():
        if name not in found:
            return f"{name!r}, of shape {tuple(tensor.shape)}, is missing"
        if found[name].shape != tensor.shape:
            return f"{name!r} has shape {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
    extra = next((name for name in found if name not in expected), None)
    return "" if extra is None else f"{extra!r}, of shape {tuple(found[extra].shape)}, is not expected"


def _describe(content: object) -> str:
    """Say in a few words what was unpacked."""
    if isinstance(content, Mapping):
        return f"a dict with {', '.join(repr(k) for k in list(content)[:5])}"
    return f"a {type(content).__name__}"
