"""Each training slide left out in turn: how long to train, and what a slide looks like to a model that has not seen it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hisdiff_sd.tl import _calibrate
from hisdiff_sd.tl._draws import FLOW, Draws
from hisdiff_sd.tl._fit import Recipe, Settings, Task, fit_recipe
from hisdiff_sd.tl._gather import TrainingSlides
from hisdiff_sd.tl._presets import Preset

# A prediction of a left-out slide is the mean of so many samples of so many steps. More steps change the PCC of such a mean
# less than other noise does (on three real slides), and would take a quarter of the training's time.
SAMPLES = 8


@dataclass(frozen=True)
class Fold:
    """A training without one slide.

    Attributes
    ----------
    log
        One row an epoch: ``epoch`` (from 0), ``train_loss``, ``val_loss`` of the left-out slide, ``held_out`` (its name).
    predicted
        (n, G) float32, mean prediction of the left-out slide on the target scale.
    temperature
        Factor of a flow's residuals with which 90% intervals hold 90% of the left-out slide; 1 for the published process.
    """

    log: pd.DataFrame
    predicted: np.ndarray
    temperature: float = 1.0


def leave_out_each(data: TrainingSlides, settings: Settings, work: Path) -> list[Fold]:
    """Train without each slide in turn; a finished fold is read back from the folder `work`."""
    return [_fold(data, i, settings, work) for i in range(len(data.inputs))]


def length_is_judged(data: TrainingSlides, preset: Preset) -> bool:
    """Whether left-out slides tell how long to train.

    A flow that knows a single slide takes what is special to that one for the rule: how long it should train says nothing of
    one that knows two. Such folds last as long as the preset says, and tell which genes are reliable only.
    """
    return preset.process == "ddpm" or len(data.inputs) > 2


def best_length(logs: Sequence[pd.DataFrame]) -> int:
    """Epochs at which the mean held-out loss is lowest.

    Each log has the columns ``epoch`` (from 0) and ``val_loss``.
    """
    curves = [log.set_index("epoch")["val_loss"].dropna() for log in logs]
    # only as far as all runs went: a run that ended early was past its best
    mean = pd.concat(curves, axis=1, join="inner").mean(axis=1)
    # a running mean, because a single one may be low by luck
    return int(mean.rolling(3, center=True, min_periods=1).mean().idxmin()) + 1


def _fold(data: TrainingSlides, left_out: int, settings: Settings, work: Path) -> Fold:
    slide = data.inputs[left_out]
    predictions, done = work / f"fold-{left_out}.npz", work / f"fold-{left_out}.csv"
    if not done.exists():
        keep = [i for i in range(len(data.inputs)) if i != left_out]
        task = Task(
            inputs=[data.inputs[i] for i in keep],
            truth=[data.truth[i] for i in keep],
            settings=settings,
            epochs=settings.preset.epochs,
            folder=work / f"fold-{left_out}",
            title=f"without {slide.name}",
            held_out=(slide, data.truth[left_out]) if length_is_judged(data, settings.preset) else None,
        )
        recipe, log = fit_recipe(task)
        predicted, temperature = _predict(data, left_out, recipe, settings)
        _replace(predictions, lambda path: np.savez(path, predicted=predicted, temperature=temperature))
        # the last file says that all is done
        _replace(done, lambda path: log.assign(held_out=slide.name).to_csv(path, index=False))
    with np.load(predictions) as stored:
        return Fold(pd.read_csv(done), stored["predicted"], float(stored["temperature"]))


def judging_draws(settings: Settings) -> Draws:
    """The samples of a left-out slide that genes, and the spread of a flow, are judged by."""
    if settings.preset.process == FLOW:
        return Draws.of(FLOW, _calibrate.SAMPLES, steps=_calibrate.STEPS, seed=settings.seed)
    return Draws.of(settings.preset.process, SAMPLES, seed=settings.seed)


def _predict(data: TrainingSlides, left_out: int, recipe: Recipe, settings: Settings) -> tuple[np.ndarray, float]:
    """(n, G) mean prediction of the slide that a model was trained without, and the temperature that suits it."""
    from hisdiff_sd.model import HisDiff, ModelConfig
    from hisdiff_sd.tl._sample import draw_residuals, sample_slide

    model = HisDiff(
        recipe.network,
        ModelConfig(genes=tuple(data.genes), encoder=data.encoder),
        recipe.scalers,
        residual=recipe.residual,
    )
    slide, draws = data.inputs[left_out], judging_draws(settings)
    if recipe.residual is None:
        return sample_slide(model, slide, draws, settings.device).mean(0), 1.0
    base = model.condition(slide, settings.device)
    drawn = draw_residuals(model, slide, np.arange(slide.n), base, draws)
    predicted = base.cpu().numpy()
    temperature = _calibrate.fit_temperature(predicted, drawn, data.truth[left_out].y)
    return np.maximum(predicted + temperature * drawn, 0).mean(0), temperature


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}")
    write(beside)
    os.replace(beside, path)
