"""One model fitted to slides: a run of training, and what goes with its network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.tl._presets import Preset

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from hisdiff_sd._residual import Residual
    from hisdiff_sd.model import Scalers
    from hisdiff_sd.nn import FlowNetwork, HisDiffNetwork
    from hisdiff_sd.tl._lightning import Run


@dataclass(frozen=True)
class Settings:
    """What all runs of one training share.

    Attributes
    ----------
    preset
        Sizes and settings.
    device
        Where to train.
    seed
        Of initialisation, order and noise.
    """

    preset: Preset
    device: torch.device
    seed: int


@dataclass(frozen=True)
class Recipe:
    """What a fit of a preset gives to a model.

    Attributes
    ----------
    network
        The trained network.
    scalers
        Shifts and scales of targets and embeddings.
    residual
        What a flow has besides; None for the published process.
    """

    network: HisDiffNetwork | FlowNetwork
    scalers: Scalers
    residual: Residual | None = None


@dataclass(frozen=True)
class Task:
    """One fit.

    Attributes
    ----------
    inputs, truth
        The slides to learn from.
    settings
        Of the training.
    epochs
        How long.
    folder
        Where checkpoints are kept.
    title
        For the progress bar.
    held_out
        A slide whose loss chooses the epoch.
    """

    inputs: Sequence[SlideInputs]
    truth: Sequence[Measured]
    settings: Settings
    epochs: int
    folder: Path
    title: str
    held_out: tuple[SlideInputs, Measured] | None = None

    @property
    def run(self) -> Run:
        """The run of training."""
        from hisdiff_sd.tl._lightning import Run

        s = self.settings
        return Run(self.folder, self.epochs, s.preset, s.device, s.seed, self.title)


def fit_recipe(task: Task) -> tuple[Recipe, pd.DataFrame]:
    """The model after the last epoch, and its log; with a held-out slide that of the epoch that suits this slide best."""
    from hisdiff_sd.tl._fit_flow import fit_flow

    return (fit_flow if task.settings.preset.process == "flow" else fit_published)(task)


def fit_published(task: Task) -> tuple[Recipe, pd.DataFrame]:
    """`fit_recipe` for the published network and process."""
    import torch

    from hisdiff_sd.nn import HisDiffNetwork
    from hisdiff_sd.tl._lightning import fit
    from hisdiff_sd.tl._lightning_ddpm import HisDiffModule, SpotTensors

    preset, inputs, truth = task.settings.preset, task.inputs, task.truth
    scalers = fit_scalers(inputs, truth, preset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.settings.seed)
        network = HisDiffNetwork(
            truth[0].y.shape[1],
            inputs[0].embedding.shape[1],
            width=preset.width,
            depth=preset.depth,
            num_heads=preset.num_heads,
            trunk=preset.trunk,
        )
    judged = None if task.held_out is None else SpotTensors([task.held_out[0]], [task.held_out[1]], scalers)
    module = HisDiffModule(network, SpotTensors(inputs, truth, scalers), judged, preset)
    log = fit(task.run, module)
    return Recipe(network, scalers), log


def fit_scalers(inputs: Sequence[SlideInputs], truth: Sequence[Measured], preset: Preset) -> Scalers:
    """Shifts and scales of slides, or none if the preset has none."""
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
