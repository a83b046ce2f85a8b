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


def fit_recipe(
    inputs: Sequence[SlideInputs],
    truth: Sequence[Measured],
    settings: Settings,
    epochs: int,
    folder: Path,
    title: str,
    held_out: tuple[SlideInputs, Measured] | None = None,
) -> tuple[Recipe, pd.DataFrame]:
    """The model after the last epoch, and its log; with a held-out slide that of the epoch that suits this slide best."""
    from hisdiff_sd.tl._fit_flow import fit_flow

    fit = fit_flow if settings.preset.process == "flow" else fit_published
    return fit(inputs, truth, settings, epochs, folder, title, held_out)


def fit_published(
    inputs: Sequence[SlideInputs],
    truth: Sequence[Measured],
    settings: Settings,
    epochs: int,
    folder: Path,
    title: str,
    held_out: tuple[SlideInputs, Measured] | None = None,
) -> tuple[Recipe, pd.DataFrame]:
    """`fit_recipe` for the published network and process."""
    import torch

    from hisdiff_sd.nn import HisDiffNetwork
    from hisdiff_sd.tl._lightning import Run, fit
    from hisdiff_sd.tl._lightning_ddpm import HisDiffModule, SpotTensors

    preset = settings.preset
    scalers = fit_scalers(inputs, truth, preset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = HisDiffNetwork(
            truth[0].y.shape[1],
            inputs[0].embedding.shape[1],
            width=preset.width,
            depth=preset.depth,
            num_heads=preset.num_heads,
        )
    judged = None if held_out is None else SpotTensors([held_out[0]], [held_out[1]], scalers)
    module = HisDiffModule(network, SpotTensors(inputs, truth, scalers), judged, preset)
    log = fit(Run(folder, epochs, preset, settings.device, settings.seed, title), module)
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
