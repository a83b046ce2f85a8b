from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._baselines import fit_baselines
from hisdiff_sd._bundle import check_free
from hisdiff_sd._device import resolve_device
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd._targets import TARGETS, Target
from hisdiff_sd.tl._gather import TrainingSlides, gather
from hisdiff_sd.tl._presets import PRESETS, Preset

if TYPE_CHECKING:
    import torch
    from spatialdata import SpatialData

    from hisdiff_sd.encoders import TileEncoder
    from hisdiff_sd.model import HisDiff, Scalers

logger = logging.getLogger("hisdiff_sd")

_WORK = ".training-"


def train(
    slides: Sequence[SpatialData | str | Path],
    *,
    genes: Sequence[str] | None = None,
    encoder: str | TileEncoder = "uni",
    target: Target = "log2",
    preset: str = "small",
    epochs: int | None = None,
    tile_um: float | None = None,
    padding: str = "black",
    weights: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    table_key: str = keys.TABLE,
    overwrite: bool = False,
) -> HisDiff:
    """Train a HisDiff model on measured slides.

    How long to train is found by leaving each slide out in turn: the number of epochs is the one at which the noise loss
    of the left-out slides, averaged, is lowest; then one model is fitted to all slides for that long. The tuned ridge, the
    depth map and the training mean, which `hd.tl.evaluate` prints beside the model, are fitted on the same slides.

    Parameters
    ----------
    slides
        Training slides: objects, or paths of stores.
    genes
        The panel; by default `hd.pp.select_genes` of these slides.
    encoder, tile_um, padding, weights
        As in `hd.pp.embed`, which is run where a slide has no such embeddings yet.
    target
        ``"log2"``: log2(count + 1). ``"cp10k"``: log(1 + counts per 10,000).
    preset
        ``"small"`` (trains on a laptop) or ``"published"`` (12 blocks of width 384, 2,000 epochs, no averaging, no
        standardisation: needs a GPU).
    epochs
        Train for just so long, without leaving slides out.
    out
        Folder for the model, ``log.csv`` and ``loss.png``. A training that was interrupted goes on from its checkpoints
        when it is called again with the same arguments.
    device
        Torch device; ``"auto"`` takes a GPU where there is one, in bfloat16 where the card computes in it.
    seed
        Of initialisation, order and noise.
    table_key
        Table with the raw counts.
    overwrite
        Replace a model that stands in `out`.

    Returns
    -------
    The model; it is saved in `out` if that is given.

    Raises
    ------
    HisDiffError
        If there are no slides, one is given twice, or genes of the panel are missing from one (named).
    """
    if isinstance(slides, str | Path) or hasattr(slides, "images"):
        raise HisDiffError("slides= is one slide; give a list of slides")
    check_one_of(target, TARGETS, "target")
    settings = PRESETS[check_one_of(preset, PRESETS, "preset")]
    if epochs is not None and (epochs < 1 or epochs != int(epochs)):
        raise HisDiffError(
            f"epochs={epochs} is no number of epochs; give 1 or more, or leave it out to have the length chosen"
        )
    folder = None if out is None else Path(out).absolute()
    if folder is not None:
        if folder.exists() and not overwrite:
            raise HisDiffError(f"{folder} exists already; give overwrite=True to replace the model, or load it")
        check_free(folder, overwrite=overwrite)
    if genes is not None and len(set(genes)) < len(genes):
        twice = sorted({g for g in genes if list(genes).count(g) > 1})
        raise HisDiffError(f"genes are listed more than once: {', '.join(twice[:10])}")
    where = resolve_device(device)
    data = gather(slides, genes, encoder, target, tile_um, padding, weights, device, table_key)
    with ExitStack() as stack:
        work = _work_folder(folder, data, settings, epochs, seed, target, stack)
        model, log = _train(data, settings, preset, epochs, target, work, where, seed)
    if folder is not None:
        model.save(folder, overwrite=overwrite)
        log.to_csv(folder / "log.csv", index=False)
        from hisdiff_sd.pl._loss import loss

        loss(log, model.config.training["epochs"]).savefig(folder / "loss.png", dpi=150)
        # of other settings as well: they led to models that this one replaces
        for stale in _all_work_folders(folder):
            shutil.rmtree(stale, ignore_errors=True)
    return model


def _train(
    data: TrainingSlides,
    preset: Preset,
    preset_name: str,
    epochs: int | None,
    target: str,
    work: Path,
    device: torch.device,
    seed: int,
) -> tuple[HisDiff, pd.DataFrame]:
    """Choose the length, fit on all slides, put the bundle together; also the log of all runs."""
    from hisdiff_sd.model import HisDiff, ModelConfig

    logs = []
    chosen = epochs or preset.epochs
    if epochs is None and preset.choose_length:
        if len(data.inputs) > 1:
            logs = [_fit_fold(data, i, preset, work, device, seed) for i in range(len(data.inputs))]
            chosen = best_length(logs)
        else:
            logger.warning(
                "one training slide: the training length cannot be chosen by leaving slides out; %d epochs are used",
                chosen,
            )
    scalers = _scalers(data.inputs, data.truth, preset)
    network, log = _fit(
        data.inputs, data.truth, scalers, None, preset, chosen, work / "all", device, seed, "all slides"
    )
    config = ModelConfig(
        genes=tuple(data.genes),
        target=target,
        encoder=data.encoder,
        encoder_hash=data.encoder_hash,
        tile=data.tile,
        species=data.species,
        gene_id_type=data.gene_id_type,
        spot_pitch_um=data.spot_pitch_um,
        training={
            "slides": [s.name for s in data.inputs],
            "patients": data.patients,
            "spots": sum(s.n for s in data.inputs),
            "preset": preset_name,
            "epochs": chosen,
            "seed": seed,
            "settings": dataclasses.asdict(preset),
        },
        licences=data.licences,
    )
    model = HisDiff(network.cpu(), config, scalers, fit_baselines(data.inputs, data.truth))
    return model, pd.concat([*logs, log.assign(held_out="")], ignore_index=True)


def best_length(logs: Sequence[pd.DataFrame]) -> int:
    """Epochs at which the mean held-out loss is lowest.

    Each log has the columns ``epoch`` (from 0) and ``val_loss``.
    """
    curves = [log.set_index("epoch")["val_loss"].dropna() for log in logs]
    # only as far as all runs went: a run that ended early was past its best
    mean = pd.concat(curves, axis=1, join="inner").mean(axis=1)
    # a running mean, because a single one may be low by luck
    return int(mean.rolling(3, center=True, min_periods=1).mean().idxmin()) + 1


def _fit_fold(
    data: TrainingSlides, left_out: int, preset: Preset, work: Path, device: torch.device, seed: int
) -> pd.DataFrame:
    """Train without one slide; the log with its held-out loss. A finished fold is read back."""
    name = data.inputs[left_out].name
    done = work / f"fold-{left_out}.csv"
    if not done.exists():
        keep = [i for i in range(len(data.inputs)) if i != left_out]
        inputs, truth = [data.inputs[i] for i in keep], [data.truth[i] for i in keep]
        held_out = (data.inputs[left_out], data.truth[left_out])
        folder = work / f"fold-{left_out}"
        _, log = _fit(
            inputs,
            truth,
            _scalers(inputs, truth, preset),
            held_out,
            preset,
            preset.epochs,
            folder,
            device,
            seed,
            f"without {name}",
        )
        log.assign(held_out=name).to_csv(done, index=False)
    return pd.read_csv(done)


def _fit(
    inputs: Sequence[SlideInputs],
    truth: Sequence[Measured],
    scalers: Scalers,
    held_out: tuple[SlideInputs, Measured] | None,
    preset: Preset,
    epochs: int,
    folder: Path,
    device: torch.device,
    seed: int,
    title: str,
) -> tuple[Any, pd.DataFrame]:
    """One training run: the network and its log."""
    import torch

    from hisdiff_sd.nn import HisDiffNetwork
    from hisdiff_sd.tl._lightning import Run, SpotTensors, fit

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = HisDiffNetwork(
            truth[0].y.shape[1],
            inputs[0].embedding.shape[1],
            width=preset.width,
            depth=preset.depth,
            num_heads=preset.num_heads,
        )
    judged = None if held_out is None else SpotTensors([held_out[0]], [held_out[1]], scalers)
    run = Run(folder, epochs, preset, device, seed, title)
    log = fit(run, network, SpotTensors(inputs, truth, scalers), judged)
    return network, log


def _scalers(inputs: Sequence[SlideInputs], truth: Sequence[Measured], preset: Preset) -> Scalers:
    from hisdiff_sd.model import Scalers

    y = np.concatenate([m.y for m in truth])
    embedding = np.concatenate([s.embedding for s in inputs]).astype(np.float64)
    if not preset.standardise:
        return Scalers.identity(y.shape[1], embedding.shape[1])

    def standard(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = values.std(0)
        # a gene or dimension that never varies stays as it is
        return values.mean(0).astype(np.float32), np.where(scale > 1e-6, scale, 1.0).astype(np.float32)

    return Scalers(*standard(y), *standard(embedding))


def _work_folder(
    folder: Path | None,
    data: TrainingSlides,
    preset: Preset,
    epochs: int | None,
    seed: int,
    target: str,
    stack: ExitStack,
) -> Path:
    """Where checkpoints live: a hidden sibling of the model, named by what is trained, or a temporary folder."""
    if folder is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hisdiff_sd-train-")))
    digest = hashlib.sha256(json.dumps([dataclasses.asdict(preset), epochs, seed, target, data.genes]).encode())
    for slide, measured in zip(data.inputs, data.truth, strict=True):
        digest.update(slide.name.encode() + slide.embedding.tobytes() + measured.y.tobytes())
    work = folder.parent / f".{folder.name}{_WORK}{digest.hexdigest()[:16]}"
    work.mkdir(parents=True, exist_ok=True)
    return work


def _all_work_folders(folder: Path) -> list[Path]:
    """Checkpoints of all trainings for a model's folder, finished or not."""
    return [p for p in folder.parent.iterdir() if p.name.startswith(f".{folder.name}{_WORK}")]
