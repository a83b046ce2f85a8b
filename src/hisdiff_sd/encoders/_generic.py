"""Rows for models that are not in the table: any timm model, by its name or by a Hugging Face repository."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.encoders._hub import fetch
from hisdiff_sd.encoders._rows import ENCODERS, IMAGENET_MEAN, IMAGENET_STD, EncoderRow

HUB_PREFIXES = ("hf-hub:", "hf_hub:")
_SEE_CARD = "see model card"
_CONFIG = "config.json"


def timm_row(name: str) -> EncoderRow | None:
    """Row of the timm model `name`, with or without a tag; None if timm has no such model."""
    import timm

    if not timm.is_model(name):
        return None
    try:
        found = timm.get_pretrained_cfg(name)
    except RuntimeError:  # no such tag
        return None
    pretrained = {} if found is None else dataclasses.asdict(found)
    row = _row(name, name, {"num_classes": 0}, pretrained, pretrained.get("hf_hub_id"))
    return dataclasses.replace(row, filename=pretrained.get("hf_hub_filename") or "")


def hub_row(encoder: str, weights: Path | None) -> EncoderRow:
    """Row of the timm model in the repository ``"hf-hub:owner/name"`` or ``"hf-hub:owner/name@revision"``.

    Parameters
    ----------
    encoder
        The name, with its prefix.
    weights
        Folder that holds the repository's config.json and weight file, or the weight file beside its config.json; None
        takes config.json from the hub.

    Raises
    ------
    HisDiffError
        If there is no config.json, or it describes no timm model.
    """
    hub_id = encoder.partition(":")[2].strip("/")
    if hub_id.count("/") != 1:
        raise HisDiffError(f"{encoder!r} names no repository of the Hugging Face hub; write 'hf-hub:owner/name'")
    repository, _, revision = hub_id.partition("@")
    for row in ENCODERS.values():
        # A row that uses a part of its model is another encoder than the model of that repository.
        if row.hub_id is not None and row.hub_id.lower() == repository.lower() and not row.unused:
            return dataclasses.replace(row, name=f"hf-hub:{hub_id}", hub_id=hub_id) if revision else row
    name = f"hf-hub:{hub_id}"
    asked = EncoderRow(name=name, dim=0, licence=_SEE_CARD, hub_id=hub_id, pooling="model")
    path = fetch(asked, (_CONFIG,)) if weights is None else _local_config(asked, weights)
    return _row_of_config(asked, path)


def _local_config(row: EncoderRow, weights: Path) -> Path:
    """The config.json that belongs to a local weight file or folder."""
    if not weights.exists():
        raise MissingFileError(f"no weight file {weights}; give {row.source}, or the folder of both")
    path = (weights if weights.is_dir() else weights.parent) / _CONFIG
    if not path.exists():
        raise MissingFileError(
            f"no {path}: the model of encoder {row.name!r} is described by its {_CONFIG}; put that of {row.hub_id} beside "
            "the weight file"
        )
    return path


def _row_of_config(row: EncoderRow, path: Path) -> EncoderRow:
    """Fill a row from timm's config.json of a repository."""
    import timm

    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HisDiffError(f"{path} cannot be read as JSON: {error}") from error
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(architecture, str):
        raise HisDiffError(
            f"{path} describes no timm model (it has no 'architecture'); load the model of {row.hub_id} with its own "
            "library and give it to hd.encoders.from_callable"
        )
    if not timm.is_model(architecture):
        raise HisDiffError(
            f"{path} asks for {architecture!r}, which timm {timm.__version__} does not have; a newer timm may: "
            "pip install --upgrade timm"
        )
    # Old files have the pretraining settings at the top.
    stored = config.get("pretrained_cfg", config)
    known = {field.name for field in dataclasses.fields(timm.models.PretrainedCfg)} - {"architecture"}
    stored = {key: value for key, value in stored.items() if key in known}
    default = timm.get_pretrained_cfg(architecture)
    pretrained = {**({} if default is None else dataclasses.asdict(default)), "license": None, **stored}
    arguments = {**config.get("model_args", {}), "num_classes": 0, "pretrained_cfg": stored}
    return _row(row.name, architecture, arguments, pretrained, row.hub_id)


def _row(
    name: str, timm_name: str, arguments: Mapping[str, Any], pretrained: Mapping[str, Any], hub_id: str | None
) -> EncoderRow:
    """Row of a model with timm's settings of its pretraining."""
    size = arguments.get("img_size") or pretrained.get("input_size") or (3, 224, 224)
    sides = {size} if isinstance(size, int) else set(size[-2:])
    mean, std = (tuple(pretrained.get(key) or usual) for key, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
    if len(sides) != 1 or len(mean) != 3:
        raise HisDiffError(f"encoder {name!r} takes images of {size} and not square RGB tiles; choose another model")
    head = pretrained.get("classifier") or ()
    return EncoderRow(
        name=name,
        dim=0,
        licence=pretrained.get("license") or _SEE_CARD,
        tile_px=sides.pop(),
        hub_id=hub_id,
        timm_name=timm_name,
        timm_args=arguments,
        unused=tuple(f"{part}." for part in ((head,) if isinstance(head, str) else head)),
        pooling="model",
        mean=mean,
        std=std,
    )
