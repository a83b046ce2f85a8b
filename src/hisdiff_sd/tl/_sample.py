"""Samples of expression for the spots of a slide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd._progress import progress
from hisdiff_sd.model import HisDiff
from hisdiff_sd.nn import ancestral_sample

_BATCH = {"cpu": 64, "cuda": 2048}


def sample_slide(
    model: HisDiff,
    slide: SlideInputs,
    *,
    n_samples: int,
    steps: int,
    seed: int,
    device: torch.device,
    batch_size: int | None = None,
) -> np.ndarray:
    """Draw samples for every spot, all at once.

    Returns
    -------
    float32 (n_samples, n, G) on the target scale, clipped at zero counts.
    """
    everything = [np.arange(slide.n)]
    drawn = sample_blocks(
        model, slide, everything, n_samples=n_samples, steps=steps, seed=seed, device=device, batch_size=batch_size
    )
    with progress(f"sampling {slide.name}", 1) as advance:
        samples = next(drawn)
        advance(1)
    return samples


def sample_blocks(
    model: HisDiff,
    slide: SlideInputs,
    blocks: Iterable[np.ndarray],
    *,
    n_samples: int,
    steps: int,
    seed: int,
    device: torch.device,
    batch_size: int | None = None,
) -> Iterator[np.ndarray]:
    """Draw samples for some spots after others, so that those of a whole slide need not be held.

    The image condition is computed once per spot. Noise is drawn per (seed, slide, spot, sample), so that results do not
    depend on blocks, on batch size or on the order of spots.

    Yields
    ------
    For every block of rows of `slide`: float32 (n_samples, rows, G) on the target scale, clipped at zero counts.
    """
    condition = model.condition(slide, device)
    size = _BATCH.get(device.type, 256) if batch_size is None else batch_size
    for block in blocks:
        out = np.empty((n_samples, len(block), model.network.n_genes), np.float32)
        spot = np.tile(np.arange(len(block)), n_samples)
        draw = np.repeat(np.arange(n_samples), len(block))
        for start in range(0, len(spot), size):
            places, draws = spot[start : start + size], draw[start : start + size]
            rows = block[places]
            streams = [
                noise_stream(seed, slide.name, str(slide.index[r]), int(d)) for r, d in zip(rows, draws, strict=True)
            ]
            out[draws, places] = _sample_batch(model, condition[torch.from_numpy(rows).to(device)], streams, steps)
        scaled = out * model.scalers.target_scale + model.scalers.target_shift
        yield np.maximum(scaled, 0, dtype=np.float32)


def noise_stream(seed: int, slide: str, instance: str, sample: int) -> np.random.Generator:
    """The stream of Gaussian noise of one sample of one spot: its start, then one draw a step."""
    key = hashlib.blake2b(f"{seed}|{slide}|{instance}|{sample}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def _sample_batch(
    model: HisDiff, condition: torch.Tensor, streams: Sequence[np.random.Generator], steps: int
) -> np.ndarray:
    """(B, G) samples on the network's scale."""

    def noise(_: int = 0) -> torch.Tensor:
        drawn = np.stack([s.standard_normal(model.network.n_genes, dtype=np.float32) for s in streams])
        return torch.from_numpy(drawn)[:, None].to(condition.device)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return model.network.denoise(x, t, condition)

    return ancestral_sample(denoise, noise(), steps=steps, noise=noise)[:, 0].cpu().numpy()
