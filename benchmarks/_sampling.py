"""Speed and memory of sampling with random weights."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch
from _common import paired, resident_mib, seconds

from hisdiff_sd import HisDiff
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd._precision import resolve_precision
from hisdiff_sd.model import ModelConfig, Scalers
from hisdiff_sd.nn import DEFAULT_SAMPLER, SAMPLERS, GaussianDiffusion, HisDiffNetwork
from hisdiff_sd.tiles import nearest
from hisdiff_sd.tl._draws import Draws
from hisdiff_sd.tl._predict import DEFAULT_SAMPLES
from hisdiff_sd.tl._presets import PRESETS
from hisdiff_sd.tl._sample import sample_blocks

GENES, DIM = 300, 1024  # of the panel, of UNI
PUBLISHED_BATCH, TIMED_STEPS = 128, 5
VISIUM_SPOTS, WHOLE_FROM = 4000, 256  # of a whole slide
CPU = torch.device("cpu")


def random_model(preset: str) -> HisDiff:
    """Preset `preset` with random weights that let something through: at the start of a training all gates are shut."""
    p = PRESETS[preset]
    torch.manual_seed(0)
    network = HisDiffNetwork(GENES, DIM, width=p.width, depth=p.depth, num_heads=p.num_heads)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    config = ModelConfig(genes=tuple(f"g{i}" for i in range(GENES)))
    return HisDiff(network, config, Scalers.identity(GENES, DIM))


def random_slide(n: int) -> SlideInputs:
    """Spots on a square grid with random embeddings."""
    side = int(np.ceil(np.sqrt(n)))
    xy = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)[:n] * 100.0
    embedding = np.random.default_rng(0).standard_normal((n, DIM)).astype(np.float32)
    return SlideInputs("random", pd.Index([f"s{i}" for i in range(n)]), xy, embedding, nearest(xy, 9), nearest(xy, 49))


def published_loop(model: HisDiff, slide: SlideInputs, steps: int) -> float:
    """Seconds per step of the published loop, which denoises a batch of spots and computes their condition every time."""
    diffusion, network = GaussianDiffusion(), model.network
    kept = diffusion.alphas_cumprod
    before = np.append(1.0, kept[:-1])
    upper = np.log(diffusion.betas)
    lower = np.log(np.maximum(diffusion.betas * (1 - before) / (1 - kept), 1e-20))
    embedding = torch.from_numpy(slide.embedding)
    near, wide = (embedding[torch.from_numpy(c.index)] for c in (slide.near, slide.wide))
    x = torch.randn(slide.n, 1, GENES)
    start = time.perf_counter()
    with torch.inference_mode():
        for t in range(999, 999 - steps, -1):
            out = network(x, torch.full((slide.n,), t), embedding, near, wide)
            noise, share = out.chunk(2, dim=1)
            mean = (x - diffusion.betas[t] / np.sqrt(1 - kept[t]) * noise) / np.sqrt(1 - diffusion.betas[t])
            share = (share + 1) / 2
            x = mean + torch.exp(0.5 * (share * upper[t] + (1 - share) * lower[t])) * torch.randn_like(x)
    return (time.perf_counter() - start) / steps


def speed_figures(pairs: int) -> dict:
    """How many times faster ours is per spot and sample, its default sampler in one batch of spots after the other."""
    model, slide = random_model("published"), random_slide(PUBLISHED_BATCH)
    default = resolve_precision("auto", CPU)
    rates = {}
    for precision in dict.fromkeys(("fp32", default)):
        draws = Draws.of("ddpm", 1, precision=precision)
        rates[precision] = paired(
            lambda draws=draws: slide.n / seconds(lambda: draw(model, slide, draws)),
            lambda: slide.n / (1000 * published_loop(model, slide, TIMED_STEPS)),
            pairs,
        )
    by_steps = 1000 / SAMPLERS[DEFAULT_SAMPLER]
    found = {"default_precision": default, "speedup_vs_published": rates[default][2], "speedup_fp32": rates["fp32"][2]}
    found |= {"speedup_by_steps": by_steps, "speedup_by_engineering": rates[default][2] / by_steps}
    for precision, (ours, theirs, _) in rates.items():
        found |= {f"seconds_per_sample_{precision}": 1 / ours, "seconds_per_sample_published": 1 / theirs}
    return found | {"threads": torch.get_num_threads()}


def whole_slide_figures() -> dict:
    """Hours for the default number of samples of a Visium-size slide, from 256 of its spots.

    Two samples are drawn of ours, and multiplied; so the condition counts more often than it is computed. The published loop
    takes these spots in batches of 128, and its 5 timed steps are multiplied.
    """
    model, slide = random_model("published"), random_slide(WHOLE_FROM)
    draws = Draws.of("ddpm", 2)
    ours = seconds(lambda: draw(model, slide, draws)) * DEFAULT_SAMPLES / draws.n_samples
    batches = [random_slide(PUBLISHED_BATCH) for _ in range(WHOLE_FROM // PUBLISHED_BATCH)]
    theirs = sum(published_loop(model, batch, TIMED_STEPS) for batch in batches) * 1000 * DEFAULT_SAMPLES
    to_hours = VISIUM_SPOTS / WHOLE_FROM / 3600
    return {
        "whole_slide_spots": VISIUM_SPOTS,
        "whole_slide_samples": DEFAULT_SAMPLES,
        "whole_slide_hours": ours * to_hours,
        "whole_slide_hours_published": theirs * to_hours,
        "whole_slide_speedup": theirs / ours,
    }


def draw(model: HisDiff, slide: SlideInputs, draws: Draws) -> None:
    next(sample_blocks(model, slide, [np.arange(slide.n)], draws, CPU))


def memory_of(n: int = 4000, n_samples: int = 32, steps: int = 2) -> float:
    """MiB that sampling a slide takes beyond what the process had with model and slide in memory."""
    from hisdiff_sd.tl._prediction_table import Summary

    model, slide = random_model("small"), random_slide(n)
    held = resident_mib("VmRSS")
    summary = Summary.for_spots(n, n_samples, np.arange(GENES))
    values = np.empty((n, summary.width), np.float32)
    blocks = np.split(np.arange(n), range(256, n, 256))
    drawn = sample_blocks(model, slide, blocks, Draws.of("ddpm", n_samples, steps=steps), CPU)
    for rows, samples in zip(blocks, drawn, strict=True):
        values[rows] = summary.of(samples)
    return resident_mib("VmHWM") - held
