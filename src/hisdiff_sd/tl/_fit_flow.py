"""A flow fitted to slides: the regression, what it leaves open, and the network that draws that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._base import fit_regression
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd._noise import SharedNoise
from hisdiff_sd._residual import Residual
from hisdiff_sd.tl._calibrate import SAMPLES, STEPS, fit_temperature
from hisdiff_sd.tl._fit import Recipe, Settings, Task

if TYPE_CHECKING:
    import pandas as pd

    from hisdiff_sd.nn import FlowNetwork

_SMALLEST = 1e-6
_CALIBRATED = 256  # training spots that are drawn to find the temperature
_LOWEST_COUNTS = 0.05  # quantile of the values above zero that stands for one count
_BELOW_ZERO = 0.5  # of one count: how far below zero a count of zero may lie


def fit_flow(task: Task) -> tuple[Recipe, pd.DataFrame]:
    """The flow after the last epoch, and its log; with a held-out slide that of the epoch that suits this slide best."""
    from hisdiff_sd.model import Scalers
    from hisdiff_sd.tl._lightning import fit
    from hisdiff_sd.tl._lightning_flow import FlowModule, ResidualTensors

    inputs, truth, settings = task.inputs, task.truth, task.settings
    base, predicted = fit_regression(inputs, truth)
    counts = _one_count(np.concatenate([m.y for m in truth]))
    residual = np.concatenate([_censored(m.y, counts, settings.seed + i) for i, m in enumerate(truth)]) - predicted
    deviation = residual.std(0)
    scale = np.where(deviation > _SMALLEST, deviation, 1.0).astype(np.float32)
    residual = residual / scale
    network = _network(inputs, residual, predicted, scale, settings)
    judged = None
    if task.held_out is not None:
        slide, measured = task.held_out
        expected = base.predict(slide)
        judged = ResidualTensors((_censored(measured.y, counts, settings.seed - 1) - expected) / scale, expected)
    module = FlowModule(network, ResidualTensors(residual, predicted), judged, settings.preset)
    log = fit(task.run, module)
    along = residual @ network.eigenvectors.cpu().numpy() / network.eigenvalues.cpu().sqrt().numpy()
    parts = np.split(along, np.cumsum([s.n for s in inputs])[:-1])
    noise = SharedNoise.fit(parts, [s.xy_um for s in inputs])
    dim = inputs[0].embedding.shape[1]
    scalers = Scalers(np.zeros_like(scale), scale, np.zeros(dim, np.float32), np.ones(dim, np.float32))
    y = np.concatenate([m.y for m in truth])
    return Recipe(network, scalers, Residual(base, noise, _temperature(network, predicted, y, settings))), log


def _network(
    inputs: Sequence[SlideInputs], residual: np.ndarray, predicted: np.ndarray, scale: np.ndarray, settings: Settings
) -> FlowNetwork:
    """An untrained network that knows the covariance of the residuals and the range of the predictions."""
    import torch
    from sklearn.covariance import ledoit_wolf

    from hisdiff_sd.nn import FlowNetwork

    preset = settings.preset
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = FlowNetwork(
            residual.shape[1],
            inputs[0].embedding.shape[1],
            width=preset.width,
            depth=preset.depth,
            trunk=preset.trunk,
            num_heads=preset.num_heads,
        )
    covariance, _ = ledoit_wolf(residual, assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    spread = np.log(scale)
    shift, deviation = predicted.mean(0), predicted.std(0)
    deviation = np.where(deviation > _SMALLEST, deviation, 1.0)
    _, singular, right = np.linalg.svd((predicted - shift) / deviation, full_matrices=False)
    n = network.n_summary
    axes = np.zeros((residual.shape[1], n))
    found = min(n, len(singular))
    axes[:, :found] = right[:found].T / np.maximum(singular[:found] / np.sqrt(len(predicted)), _SMALLEST)
    statistics = {
        "eigenvalues": values[::-1].clip(1e-4),
        "eigenvectors": vectors[:, ::-1],
        "scale": scale,
        "spread": (spread - spread.mean()) / max(float(spread.std()), _SMALLEST),
        "base_shift": shift,
        "base_scale": deviation,
        "base_axes": axes,
    }
    network.set_statistics(**{k: torch.from_numpy(np.ascontiguousarray(v, np.float32)) for k, v in statistics.items()})
    return network


def _temperature(network: FlowNetwork, predicted: np.ndarray, y: np.ndarray, settings: Settings) -> float:
    """What suits the training spots, whose predictions are out of fold; the network saw them, but cannot tell them apart."""
    import torch

    from hisdiff_sd.nn import flow_sample

    rng = np.random.default_rng(settings.seed)
    some = rng.permutation(len(y))[:_CALIBRATED]
    network = network.cpu()
    base = torch.from_numpy(predicted[some].astype(np.float32))
    drawn = []
    for _ in range(SAMPLES):
        start = torch.from_numpy(rng.standard_normal(base.shape, dtype=np.float32))
        drawn.append(flow_sample(lambda x, t: network(x, t, base), network, start, steps=STEPS).numpy())
    return fit_temperature(predicted[some], np.stack(drawn) * network.scale.numpy(), y[some])


def _one_count(y: np.ndarray) -> np.ndarray:
    """(G,) about the value of one count on the target scale; 1 for a gene that was never seen."""
    out = np.ones(y.shape[1])
    for g in np.flatnonzero((y > 0).any(0)):
        out[g] = np.quantile(y[y[:, g] > 0, g], _LOWEST_COUNTS)
    return out


def _censored(y: np.ndarray, one_count: np.ndarray, seed: int) -> np.ndarray:
    """Values with every zero somewhere below zero, as a count of zero says no more than that (Tobin 1958).

    Samples are clipped at zero, so that they have zeros where the flow has values below: no spike need be learned.
    """
    below = np.random.default_rng(seed % 2**32).uniform(0, _BELOW_ZERO, y.shape) * one_count
    return np.where(y > 0, y, -below)
