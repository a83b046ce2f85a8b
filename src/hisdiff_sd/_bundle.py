"""The files of a model: ``config.json``, ``model.safetensors`` and its card, ``README.md``."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hisdiff_sd._base import KernelRegression
from hisdiff_sd._baselines import Baselines, Linear
from hisdiff_sd._errors import HisDiffError, MissingFileError, reason
from hisdiff_sd._hub import first_line
from hisdiff_sd._noise import SharedNoise
from hisdiff_sd._residual import Residual
from hisdiff_sd._trust import OutOfDistribution, Reliability, Trust
from hisdiff_sd.io._atomic import locked, move_in, staged

if TYPE_CHECKING:
    from hisdiff_sd.model import HisDiff

_CONFIG, _TENSORS, _CARD = "config.json", "model.safetensors", "README.md"
_FORMAT = 1
_LINEARS = ("ridge", "depth")
_TRUST = ("ood", "genes")
_RESIDUAL = ("base", "noise")


def tensors_of(model: HisDiff) -> dict[str, torch.Tensor]:
    """Every array of a model by name, on the CPU."""
    out = {f"network.{k}": v.detach().cpu().contiguous() for k, v in model.network.state_dict().items()}
    arrays = {f"scalers.{k}": v for k, v in _arrays(model.scalers).items()}
    if model.baselines is not None:
        arrays |= {f"baselines.{k}": v for k, v in _arrays(model.baselines).items()}
        for name in _LINEARS:
            arrays |= {f"baselines.{name}.{k}": v for k, v in _arrays(getattr(model.baselines, name)).items()}
    if model.trust is not None:
        for name in _TRUST:
            arrays |= {f"trust.{name}.{k}": v for k, v in _arrays(getattr(model.trust, name)).items()}
    if model.residual is not None:
        for name in _RESIDUAL:
            arrays |= {f"residual.{name}.{k}": v for k, v in _arrays(getattr(model.residual, name)).items()}
    return out | {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}


def config_of(model: HisDiff) -> dict[str, Any]:
    """Everything of a model that is no array, as it stands in its file."""
    return {
        "format": _FORMAT,
        "network": model.network.config,
        "process": model.process,
        "config": dataclasses.asdict(model.config),
        "baselines": None if model.baselines is None else {n: _scalars(getattr(model.baselines, n)) for n in _LINEARS},
        "trust": None if model.trust is None else {n: _scalars(getattr(model.trust, n)) for n in _TRUST},
        "residual": None if model.residual is None else _residual_scalars(model.residual),
    }


def write_files(model: HisDiff, folder: Path) -> None:
    """Write the files of a model into an existing folder."""
    from safetensors.torch import save as packed

    from hisdiff_sd._model_card import model_card

    # not `save_file`: what it writes nobody but its owner may read, whatever the folder allows
    (folder / _TENSORS).write_bytes(packed(tensors_of(model)))
    (folder / _CONFIG).write_text(json.dumps(config_of(model), indent=1) + "\n")
    (folder / _CARD).write_text(model_card(model), encoding="utf-8")


def save(model: HisDiff, path: Path, *, overwrite: bool) -> None:
    """Write a model's folder, atomically."""
    target = path.absolute()
    check_free(target, overwrite=overwrite)
    with staged(target) as build:
        build.mkdir()
        write_files(model, build)
        with locked(target):
            move_in(build, target)


def check_free(target: Path, *, overwrite: bool) -> None:
    """Raise unless a model may be written at `target`; what is no model is never replaced."""
    if not target.exists():
        there = next(p for p in target.parents if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            what = "may not be written to" if there.is_dir() else "is no folder"
            raise HisDiffError(f"cannot write {target}: {there} {what}; choose another folder")
        return
    if not overwrite:
        raise HisDiffError(f"{target} exists already; give overwrite=True to replace it")
    if not target.is_dir() or (any(target.iterdir()) and not (target / _CONFIG).is_file()):
        raise HisDiffError(f"{target} holds no model and is not replaced; choose another folder")


def load(path: str | Path, **hub: Any) -> HisDiff:
    """Read a model from a folder or the hub."""
    from safetensors.torch import load_file

    from hisdiff_sd.model import HisDiff, ModelConfig, Scalers
    from hisdiff_sd.nn import FlowNetwork, HisDiffNetwork

    folder = Path(path) if Path(path).exists() else _fetch(str(path), hub)
    for name in (_CONFIG, _TENSORS):
        if not (folder / name).is_file():
            raise MissingFileError(
                f"no model in {folder}: {name} is missing; a folder that HisDiff.save wrote is needed"
            )
    try:
        stored = json.loads((folder / _CONFIG).read_text())
        tensors = load_file(folder / _TENSORS)
        if stored.get("format") != _FORMAT:
            raise HisDiffError(f"{_CONFIG} has format {stored.get('format')!r}; this version reads {_FORMAT}")
        config = ModelConfig(**{**stored["config"], "genes": tuple(stored["config"]["genes"])})
        # bundles of the first versions know one process only
        kind = FlowNetwork if stored.get("process") == "flow" else HisDiffNetwork
        network = _network(kind, stored["network"], _under(tensors, "network."))
        arrays = {k: v.numpy() for k, v in tensors.items()}
        scalers = Scalers(**_under(arrays, "scalers."))
        baselines = None if stored["baselines"] is None else _baselines(arrays, stored["baselines"])
        # bundles of the first versions have none
        trust = None if stored.get("trust") is None else _trust(arrays, stored["trust"])
        residual = None if stored.get("residual") is None else _residual(arrays, stored["residual"])
        return HisDiff(network, config, scalers, baselines, trust, residual)
    except HisDiffError as error:
        raise HisDiffError(f"the model in {folder} cannot be used: {error}") from error
    except Exception as error:  # whatever the parts make of values that are none
        raise HisDiffError(f"the model in {folder} cannot be read ({reason(error)}); copy or train it again") from error


def _network(kind: type[Any], sizes: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """A network with its parameters; one that is larger than its file is refused before it takes memory."""
    if isinstance(sizes.get("depth"), int) and sizes["depth"] > len(tensors):
        raise ValueError(f"a network of depth {sizes['depth']} and {len(tensors)} tensors")
    with torch.device("meta"):
        kind(**sizes).load_state_dict(tensors, assign=True)
    network = kind(**sizes)
    network.load_state_dict(tensors)
    return network


def _arrays(obj: Any) -> dict[str, np.ndarray]:
    """The array fields of a dataclass; none of None."""
    values = {} if obj is None else {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}
    return {k: v for k, v in values.items() if isinstance(v, np.ndarray)}


def _scalars(obj: Any) -> dict[str, Any] | None:
    """The other fields of a dataclass, as JSON has them; None of None."""
    if obj is None:
        return None
    values = {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if not isinstance(v, np.ndarray)}


def _under(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Entries directly or indirectly below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _baselines(arrays: dict[str, np.ndarray], linears: dict[str, dict[str, Any]]) -> Baselines:
    own = {k: v for k, v in _under(arrays, "baselines.").items() if "." not in k}
    ridge, depth = (Linear(**linears[name], **_under(arrays, f"baselines.{name}.")) for name in _LINEARS)
    return Baselines(ridge=ridge, depth=depth, **own)


def _trust(arrays: dict[str, np.ndarray], scalars: dict[str, Any]) -> Trust:
    ood = OutOfDistribution(**scalars["ood"], **_under(arrays, "trust.ood."))
    if scalars["genes"] is None:
        return Trust(ood)
    made = {**scalars["genes"], "slides": tuple(scalars["genes"]["slides"])}
    return Trust(ood, Reliability(**made, **_under(arrays, "trust.genes.")))


def _residual_scalars(residual: Residual) -> dict[str, Any]:
    parts = {name: _scalars(getattr(residual, name)) for name in _RESIDUAL}
    return {**parts, "temperature": residual.temperature}


def _residual(arrays: dict[str, np.ndarray], scalars: dict[str, Any]) -> Residual:
    base = KernelRegression(**scalars["base"], **_under(arrays, "residual.base."))
    noise = SharedNoise(**scalars["noise"], **_under(arrays, "residual.noise."))
    return Residual(base, noise, scalars["temperature"])


def _fetch(repo: str, hub: dict[str, Any]) -> Path:
    """Folder of a model in the cache of the Hugging Face hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # with a folder of that name here, a model in it is meant, and the hub need not be asked
    if repo.count("/") != 1 or repo.startswith((".", "/", "~")) or Path(repo).parent.is_dir():
        raise MissingFileError(
            f"no model at {repo}; give a folder that HisDiff.save wrote, or a hub id such as 'user/model'"
        )
    try:
        files = [Path(hf_hub_download(repo, name, **hub)) for name in (_CONFIG, _TENSORS)]
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise MissingFileError(
            f"no model at {repo}: no such folder here, and the Hugging Face hub says: {error}"
        ) from error
    return files[0].parent


def push(repo: str, upload: Callable[[], str]) -> str:
    """Let `upload` bring a model to a repository of the hub; what goes wrong there is one message."""
    try:
        return upload()
    # Whatever goes wrong in there, the user needs the same: what it was, and how to make it work.
    except Exception as error:
        raise HisDiffError(
            f"the model could not be brought to {repo} ({first_line(error)}); an id is "
            "'user/model', and a token that may write is needed: make one at https://huggingface.co/settings/tokens, then "
            "run `hf auth login`, or give token="
        ) from error
