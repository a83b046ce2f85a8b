"""One network fitted to slides: its scalers, and a run of training."""

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

    from hisdiff_sd.model import Scalers
    from hisdiff_sd.nn import HisDiffNetwork


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


def fit_network(
    inputs: Sequence[SlideInputs],
    truth: Sequence[Measured],
    scalers: Scalers,
    settings: Settings,
    epochs: int,
    folder: Path,
    title: str,
    held_out: tuple[SlideInputs, Measured] | None = None,
) -> tuple[HisDiffNetwork, pd.DataFrame]:
    """The network after the last epoch, and its log; with a held-out slide that of the epoch that suits this slide best."""
    import torch

    from hisdiff_sd.nn import HisDiffNetwork
    from hisdiff_sd.tl._lightning import Run, SpotTensors, fit

    preset = settings.preset
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
    run = Run(folder, epochs, preset, settings.device, settings.seed, title)
    log = fit(run, network, SpotTensors(inputs, truth, scalers), judged)
    return network, log


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
