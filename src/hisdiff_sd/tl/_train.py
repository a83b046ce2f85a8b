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
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._baselines import fit_baselines
from hisdiff_sd._bundle import check_free
from hisdiff_sd._device import resolve_device
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd._targets import TARGETS, Target
from hisdiff_sd._trust import OutOfDistribution, Trust
from hisdiff_sd.tl._fit import Settings, Task, fit_recipe
from hisdiff_sd.tl._folds import Fold, best_length, judging_draws, leave_out_each, length_is_judged
from hisdiff_sd.tl._gather import TrainingSlides, gather
from hisdiff_sd.tl._presets import preset_of
from hisdiff_sd.tl._reliability import judge_genes

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from hisdiff_sd.encoders import TileEncoder
    from hisdiff_sd.model import HisDiff

logger = logging.getLogger("hisdiff_sd")

_WORK = ".training-"
_LAYOUT = 3  # of the files in it; those of another layout are not taken up


def train(
    slides: Sequence[SpatialData | str | Path],
    *,
    genes: Sequence[str] | None = None,
    encoder: str | TileEncoder = "uni",
    target: Target = "log2",
    preset: str = "flow",
    trunk: str | None = None,
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
    of the left-out slides, averaged, is lowest; then one model is fitted to all slides for that long. The left-out slides
    are predicted as well, which tells the genes to believe from the others (`HisDiff.reliability`). The tuned ridge, the
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
        ``"flow"`` (the default: a rectified flow over the residuals of a regression, a minute or two on a laptop),
        ``"small"`` (the published kind of network, small enough for a laptop) or ``"published"`` (12 blocks of width 384, 2,000
        epochs, no averaging, no standardisation: needs a GPU).
    trunk
        Another trunk for the preset's network: ``"dit"``, a transformer over gene tokens, or ``"mlp"``, without attention between
        genes. By default that of the preset: ``"mlp"`` for ``"flow"``, else ``"dit"``.
    epochs
        Train for just so long, without leaving slides out; which genes are reliable is then not known.
    out
        Folder for the model, ``log.csv`` and ``loss.png``. A training that was interrupted goes on from its checkpoints
        when it is called again with the same arguments.
    device
        Torch device; ``"auto"`` takes a GPU where there is one. The published network trains in bfloat16 where the device
        computes in it (``HISDIFF_SD_PRECISION=fp32`` in the environment: not there either).
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

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> folder = tempfile.mkdtemp()
    >>> root = hd.datasets.synthetic(folder + "/hest", slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> slides = [hd.io.hest(root, "S1")]
    >>> hd.tl.train(slides, genes=["ERBB2", "EPCAM"], encoder="morphology", epochs=1, out=folder + "/model")
    HisDiff(flow, 2 genes, target 'log2', encoder 'morphology', tiles 'hisdiff', trained on S1)
    """
    if isinstance(slides, str | Path) or hasattr(slides, "images"):
        raise HisDiffError("slides= is one slide; give a list of slides")
    check_one_of(target, TARGETS, "target")
    chosen = preset_of(preset, trunk)
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
    settings = Settings(chosen, resolve_device(device), seed)
    data = gather(slides, genes, encoder, target, tile_um, padding, weights, device, table_key)
    with ExitStack() as stack:
        work = _work_folder(folder, data, settings, epochs, stack)
        model, log = _train(data, settings, preset, epochs, work)
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
    settings: Settings,
    preset_name: str,
    epochs: int | None,
    work: Path,
) -> tuple[HisDiff, pd.DataFrame]:
    """Choose the length, fit on all slides, put the bundle together; also the log of all runs."""
    from hisdiff_sd.model import HisDiff, ModelConfig

    preset = settings.preset
    folds: list[Fold] = []
    chosen = epochs or preset.epochs
    names, spots = ", ".join(s.name for s in data.inputs), sum(s.n for s in data.inputs)
    logger.info("training on %s (%d spots, %d genes), device %s", names, spots, len(data.genes), settings.device)
    if epochs is None and preset.choose_length:
        if len(data.inputs) > 1:
            folds = leave_out_each(data, settings, work)
            if length_is_judged(data, preset):
                chosen = best_length([f.log for f in folds])
        else:
            logger.warning(
                "one training slide: the training length cannot be chosen by leaving slides out; %d epochs are used",
                chosen,
            )
    recipe, log = fit_recipe(Task(data.inputs, data.truth, settings, chosen, work / "all", "all slides"))
    residual = recipe.residual
    if residual is not None and folds and length_is_judged(data, preset):
        temperature = float(np.exp(np.mean(np.log([f.temperature for f in folds]))))
        residual = dataclasses.replace(residual, temperature=temperature)
    config = ModelConfig(
        genes=tuple(data.genes),
        encoder=data.encoder,
        encoder_hash=data.encoder_hash,
        tile=data.tile,
        licences=data.licences,
        **dataclasses.asdict(data.kind),
        training={
            "slides": [s.name for s in data.inputs],
            "patients": data.patients,
            "spots": sum(s.n for s in data.inputs),
            "preset": preset_name,
            "epochs": chosen,
            "seed": settings.seed,
            "settings": dataclasses.asdict(preset),
        },
    )
    baselines = fit_baselines(data.inputs, data.truth)
    trust = _trust(data, folds, settings)
    model = HisDiff(recipe.network.cpu(), config, recipe.scalers, baselines, trust, residual)
    return model, pd.concat([*(f.log for f in folds), log.assign(held_out="")], ignore_index=True)


def _trust(data: TrainingSlides, folds: Sequence[Fold], settings: Settings) -> Trust:
    """Distance statistics of all training slides, and how far each gene can be believed if slides were left out."""
    ood = OutOfDistribution.fit(data.inputs)
    if not folds:
        logger.warning("no slide was left out in training: which genes are reliable is not known")
        return Trust(ood)
    predicted = [f.predicted for f in folds]
    draws = judging_draws(settings)
    how = {"samples": draws.n_samples, "steps": draws.steps, "seed": draws.seed}
    genes = judge_genes(data.inputs, data.truth, predicted, **how)
    return Trust(ood, genes)


def _work_folder(
    folder: Path | None,
    data: TrainingSlides,
    settings: Settings,
    epochs: int | None,
    stack: ExitStack,
) -> Path:
    """Where checkpoints live: a hidden sibling of the model, named by what is trained, or a temporary folder."""
    if folder is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hisdiff_sd-train-")))
    made = [_LAYOUT, dataclasses.asdict(settings.preset), epochs, settings.seed, data.kind.target, data.genes]
    digest = hashlib.sha256(json.dumps(made).encode())
    for slide, measured in zip(data.inputs, data.truth, strict=True):
        digest.update(slide.name.encode() + slide.embedding.tobytes() + measured.y.tobytes())
    work = folder.parent / f".{folder.name}{_WORK}{digest.hexdigest()[:16]}"
    work.mkdir(parents=True, exist_ok=True)
    return work


def _all_work_folders(folder: Path) -> list[Path]:
    """Checkpoints of all trainings for a model's folder, finished or not."""
    return [p for p in folder.parent.iterdir() if p.name.startswith(f".{folder.name}{_WORK}")]
