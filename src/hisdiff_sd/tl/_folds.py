"""Each training slide left out in turn: how long to train, and what a slide looks like to a model that has not seen it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd.tl._fit import Settings, fit_network, fit_scalers
from hisdiff_sd.tl._gather import TrainingSlides

if TYPE_CHECKING:
    from hisdiff_sd.model import Scalers
    from hisdiff_sd.nn import HisDiffNetwork

# A prediction of a left-out slide is the mean of so many samples of so many steps. More steps change the PCC of such a mean
# less than other noise does (on three real slides), and would take a quarter of the training's time.
SAMPLES, STEPS = 8, 20


@dataclass(frozen=True)
class Fold:
    """A training without one slide.

    Attributes
    ----------
    log
        One row an epoch: ``epoch`` (from 0), ``train_loss``, ``val_loss`` of the left-out slide, ``held_out`` (its name).
    predicted
        (n, G) float32, mean prediction of the left-out slide on the target scale.
    """

    log: pd.DataFrame
    predicted: np.ndarray


def leave_out_each(data: TrainingSlides, settings: Settings, work: Path) -> list[Fold]:
    """Train without each slide in turn; a finished fold is read back from the folder `work`."""
    return [_fold(data, i, settings, work) for i in range(len(data.inputs))]


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
        inputs, truth = [data.inputs[i] for i in keep], [data.truth[i] for i in keep]
        scalers = fit_scalers(inputs, truth, settings.preset)
        network, log = fit_network(
            inputs,
            truth,
            scalers,
            settings,
            settings.preset.epochs,
            work / f"fold-{left_out}",
            f"without {slide.name}",
            held_out=(slide, data.truth[left_out]),
        )
        predicted = _predict(data, left_out, network, scalers, settings)
        _replace(predictions, lambda path: np.savez(path, predicted=predicted))
        # the last file says that all is done
        _replace(done, lambda path: log.assign(held_out=slide.name).to_csv(path, index=False))
    with np.load(predictions) as stored:
        return Fold(pd.read_csv(done), stored["predicted"])


def _predict(
    data: TrainingSlides, left_out: int, network: HisDiffNetwork, scalers: Scalers, settings: Settings
) -> np.ndarray:
    """(n, G) mean prediction of the slide that the network was trained without."""
    from hisdiff_sd.model import HisDiff, ModelConfig
    from hisdiff_sd.tl._sample import sample_slide

    model = HisDiff(network, ModelConfig(genes=tuple(data.genes), encoder=data.encoder), scalers)
    samples = sample_slide(
        model, data.inputs[left_out], n_samples=SAMPLES, steps=STEPS, seed=settings.seed, device=settings.device
    )
    return samples.mean(0)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}")
    write(beside)
    os.replace(beside, path)
