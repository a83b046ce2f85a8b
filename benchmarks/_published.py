"""How far the published network can be trained on this machine, and how often drawn."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hisdiff_sd._device import resolve_device
from hisdiff_sd._precision import autocast, resolve_precision
from hisdiff_sd.nn import DEFAULT_SAMPLER, SAMPLERS, HisDiffNetwork
from hisdiff_sd.tl._cv_slides import FoldData
from hisdiff_sd.tl._presets import PRESETS

STEPS = SAMPLERS[DEFAULT_SAMPLER]  # more change nothing (docs/benchmarks.md), and cost samples
PATIENCE = 1.5  # times the minutes: if an epoch and a sample take longer, there is no such row
BATCH = 16  # spots that are timed on a processor


def published_plan(fold: FoldData, minutes: float, epochs: int | None, most_samples: int, path: Path) -> dict:
    """Epochs, samples and steps for so many minutes, half of them for training; kept in a file, so that rows can go on.

    At least an epoch and a sample; `left_out` says why if that takes much longer.
    """
    wanted = {"minutes": minutes, "asked": epochs, "most_samples": most_samples}
    if path.exists():
        plan = json.loads(path.read_text())
        if wanted.items() <= plan.items():
            return plan
    most = PRESETS["published"].epochs
    train, draw = seconds_per_spot(fold)
    per_epoch, per_step = train * sum(s.n for s in fold.train.inputs), draw * sum(s.n for s in fold.test)
    half = minutes * 60 / 2
    epochs = epochs or int(np.clip(half / per_epoch, 1, most))
    samples = int(np.clip(half / per_step / STEPS, 1, most_samples))
    plan = wanted | {
        "epochs": epochs,
        "samples": samples,
        "steps": STEPS,
        "name": f"published ({epochs} of {most} epochs)",
        "seconds_per_epoch": round(per_epoch, 1),
        "hours_of_all_epochs": round(per_epoch * most / 3600, 1),
    }
    least = per_epoch * plan["epochs"] + per_step * plan["steps"] * samples
    asked_for = wanted["asked"] is not None
    if least > PATIENCE * minutes * 60 and not asked_for:
        plan["left_out"] = (
            f"an epoch takes {per_epoch:.0f} s here and a step of the sampler {per_step:.0f} s, which is too much for "
            f"{minutes:g} minutes; {most} epochs would take {plan['hours_of_all_epochs']} hours"
        )
    path.write_text(json.dumps(plan))
    return plan


def seconds_per_spot(fold: FoldData) -> tuple[float, float]:
    """Of a training step, and of a step of the sampler, measured on a batch."""
    device, preset = resolve_device("auto"), PRESETS["published"]
    dim = fold.test[0].embedding.shape[1]
    sizes = {"width": preset.width, "depth": preset.depth, "num_heads": preset.num_heads}
    network = HisDiffNetwork(len(fold.train.genes), dim, **sizes).to(device)
    n = preset.batch_size if device.type == "cuda" else BATCH
    x, condition = (torch.randn(shape, device=device) for shape in ((n, 1, network.n_genes), (n, network.width)))
    spot, near, wide = (torch.randn(shape, device=device) for shape in ((n, dim), (n, 9, dim), (n, 49, dim)))
    t = torch.full((n,), 500, device=device)
    precision = resolve_precision("auto", device)

    def learn() -> None:
        with autocast(device, precision):
            out = network(x, t, spot, near, wide)
        out.float().mean().backward()

    @torch.inference_mode()
    def draw() -> None:
        with autocast(device, precision):
            network.denoise(x, t, condition)

    def per_spot(work: Callable[[], None]) -> float:
        work()  # the first one is slower
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / n

    return per_spot(learn), per_spot(draw)
