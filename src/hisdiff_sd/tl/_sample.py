"""Samples of expression for the spots of a slide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd._noise import noise_stream
from hisdiff_sd._precision import autocast, resolve_precision
from hisdiff_sd._progress import progress
from hisdiff_sd.model import HisDiff
from hisdiff_sd.nn import FlowNetwork, HisDiffNetwork, diffusion_sample, flow_sample
from hisdiff_sd.tl._depth import at_depth
from hisdiff_sd.tl._draws import Draws

# Spots x samples at once: at most so many, and so few that the widest activations of a block fit into the cache of a
# processor, or a part of the memory of a GPU.
_MOST = {"cpu": 64, "cuda": 2048}
_ACTIVATION_BYTES = {"cpu": 16 * 2**20, "cuda": 4 * 2**30}


def sample_slide(model: HisDiff, slide: SlideInputs, draws: Draws, device: torch.device) -> np.ndarray:
    """Draw samples for every spot, all at once.

    Returns
    -------
    float32 (n_samples, n, G) on the target scale, clipped at zero counts.
    """
    drawn = sample_blocks(model, slide, [np.arange(slide.n)], draws, device)
    with progress(f"sampling {slide.name}", 1) as advance:
        samples = next(drawn)
        advance(1)
    return samples


def sample_blocks(
    model: HisDiff, slide: SlideInputs, blocks: Iterable[np.ndarray], draws: Draws, device: torch.device
) -> Iterator[np.ndarray]:
    """Draw samples for some spots after others, so that those of a whole slide need not be held.

    The image condition is computed once per spot. Noise is drawn per (seed, slide, spot, sample, step), and what spots share
    of it per (seed, slide, place, sample), so that results do not depend on blocks, on batch size or on the order of spots.

    Yields
    ------
    For every block of rows of `slide`: float32 (n_samples, rows, G) on the target scale, clipped at zero counts.
    """
    condition = model.condition(slide, device)
    for block in blocks:
        rows = condition[torch.from_numpy(block).to(device)]
        if model.residual is None:
            samples = _denoised(model, slide, block, rows, draws)
        else:
            base = rows.cpu().numpy()
            drawn = draw_residuals(model, slide, block, rows, draws)
            samples = np.maximum(base + model.residual.temperature * drawn, 0, dtype=np.float32)
        if draws.depth != 1:
            samples = at_depth(samples, draws.depth, draws.seed, slide.name, [str(slide.index[r]) for r in block])
        yield samples


def draw_residuals(
    model: HisDiff,
    slide: SlideInputs,
    block: np.ndarray,
    base: torch.Tensor,
    draws: Draws,
) -> np.ndarray:
    """(n_samples, rows, G) residuals of a flow model on the target scale, for rows of a slide with predictions `base`."""
    network = model.network
    assert isinstance(network, FlowNetwork)
    assert model.residual is not None
    ids = [str(slide.index[r]) for r in block]
    start = model.residual.noise.draw(draws.seed, slide.name, ids, slide.xy_um[block], draws.n_samples)
    flat = torch.from_numpy(start.reshape(-1, network.n_genes))
    out = np.empty((len(flat), network.n_genes), np.float32)
    spot = torch.arange(len(block)).repeat(draws.n_samples)
    for rows in torch.arange(len(flat)).split(draws.batch_size or _MOST.get(base.device.type, 256)):
        seen = base[spot[rows].to(base.device)]

        def bend(x: torch.Tensor, t: torch.Tensor, seen: torch.Tensor = seen) -> torch.Tensor:
            bent: torch.Tensor = network(x, t, seen)
            return bent

        drawn = flow_sample(bend, network, flat[rows].to(base.device), steps=draws.steps)
        out[rows] = drawn.cpu().numpy()
    return out.reshape(start.shape) * model.scalers.target_scale


def _denoised(
    model: HisDiff,
    slide: SlideInputs,
    block: np.ndarray,
    condition: torch.Tensor,
    draws: Draws,
) -> np.ndarray:
    """(n_samples, rows, G) samples of the published process on the target scale, clipped at zero."""
    out = np.empty((draws.n_samples, len(block), model.network.n_genes), np.float32)
    spot = np.tile(np.arange(len(block)), draws.n_samples)
    number = np.repeat(np.arange(draws.n_samples), len(block))
    size = draws.batch_size or _batch_size(model, condition.device)
    for start in range(0, len(spot), size):
        places, samples = (a[start : start + size] for a in (spot, number))
        streams = [
            noise_stream(draws.seed, slide.name, str(slide.index[block[p]]), int(k))
            for p, k in zip(places, samples, strict=True)
        ]
        seen = condition[torch.from_numpy(places).to(condition.device)]
        drawn = _sample_batch(model, seen, streams, draws)
        if drawn is None:
            raise HisDiffError(
                f"{len(places)} spots x samples are too many for the memory of {str(condition.device)!r}; try "
                f"batch_size={max(1, len(places) // 2)}"
            )
        out[samples, places] = drawn
    scaled = out * model.scalers.target_scale + model.scalers.target_shift
    return np.maximum(scaled, 0, dtype=np.float32)


def _sample_batch(
    model: HisDiff, condition: torch.Tensor, streams: Sequence[np.random.Generator], draws: Draws
) -> np.ndarray | None:
    """(B, G) samples on the network's scale; None if the memory of a GPU is too small for them."""
    network = model.network
    assert isinstance(network, HisDiffNetwork)

    def noise(_: int = 0) -> torch.Tensor:
        drawn = np.stack([s.standard_normal(network.n_genes, dtype=np.float32) for s in streams])
        return torch.from_numpy(drawn)[:, None].to(condition.device)

    precision = resolve_precision(draws.precision, condition.device)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with autocast(condition.device, precision):
            return network.denoise(x, t, condition)

    try:
        drawn = diffusion_sample(denoise, noise(), sampler=draws.sampler, steps=draws.steps, noise=noise)
        return drawn[:, 0].cpu().numpy()
    except torch.cuda.OutOfMemoryError:
        return None  # the error is raised by the caller: what failed holds on to the memory that the next try needs


def _batch_size(model: HisDiff, device: torch.device) -> int:
    network = model.network
    assert isinstance(network, HisDiffNetwork)
    most = _MOST.get(device.type, 256)
    one = 16 * network.width * network.n_genes  # float32, four times the width
    return int(np.clip(_ACTIVATION_BYTES.get(device.type, 2**30) // one, 1, most))
