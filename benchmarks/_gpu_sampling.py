"""Sampling and a training step on an accelerator; torch and numpy alone.

The published loop: 1,000 steps in TF32, the image condition recomputed in each, 128 spots at a time (5 steps are timed). Ours:
the condition once, as many evaluations as the default sampler takes, in bf16, spots x samples as the batch. The update of x
between evaluations is that of the published sampler on both sides, as diffusers may not be there; it is a few operations per
value beside some 40 million per value in the network.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from hisdiff_sd.nn import DEFAULT_SAMPLER, SAMPLERS, GaussianDiffusion, HisDiffNetwork, ancestral_sample

GENES, DIM, NEAR, WIDE = 300, 1024, 9, 49
SPOTS, TIMED_STEPS, PEAK_SIDE = 128, 5, 8192
SAMPLES = 16  # of every spot, in one batch


def sampling_figures(device: torch.device, pairs: int, size: dict[str, int] | None = None) -> dict:
    """Medians of pairs: seconds per spot and sample of both, their ratio, and the share of the matrix products' peak."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True  # as the published script does; ours is in bf16
    network = HisDiffNetwork(GENES, DIM, **(size or {})).to(device).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    context = tuple(torch.randn(SPOTS, k, DIM, device=device) for k in (NEAR, WIDE))
    spot = torch.randn(SPOTS, DIM, device=device)
    steps = SAMPLERS[DEFAULT_SAMPLER]

    @torch.inference_mode()
    def published() -> float:
        def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return network(x, t, spot, *context)

        return seconds(lambda: sample(denoise, SPOTS, TIMED_STEPS, device), device) * 1000 / TIMED_STEPS / SPOTS

    @torch.inference_mode()
    def ours() -> float:
        def whole() -> None:
            condition = network.condition(spot, *context).repeat(SAMPLES, 1)

            def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
                with torch.autocast(device.type, dtype=torch.bfloat16):
                    return network.denoise(x, t, condition)

            sample(denoise, SPOTS * SAMPLES, steps, device)

        return seconds(whole, device) / (SPOTS * SAMPLES)

    published(), ours()  # the first ones choose kernels
    found = [(ours(), published()) for _ in range(pairs)]
    mine, theirs = (statistics.median(column) for column in zip(*found, strict=True))
    ratio = statistics.median(b / a for a, b in found)
    peak = matrix_peak(device)
    return {
        "seconds_per_sample": mine,
        "seconds_per_sample_published": theirs,
        "speedup_vs_published": ratio,
        "speedup_by_steps": 1000 / steps,
        "speedup_by_engineering": ratio * steps / 1000,
        "share_of_matrix_peak": steps * operations(network) / mine / peak,
        "matrix_peak_tflops": peak / 1e12,
        "training_spots_per_second": training_rate(network, device),
    }


def sample(denoise: Callable, n: int, steps: int, device: torch.device) -> None:
    def noise(_: int = 0) -> torch.Tensor:
        return torch.randn(n, 1, GENES, device=device)

    ancestral_sample(denoise, noise(), steps=steps, noise=noise)


def training_rate(network: HisDiffNetwork, device: torch.device) -> float:
    """Spots per second of forward, backward and AdamW in bf16, batches of 128."""
    diffusion, network = GaussianDiffusion(), network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    x = torch.rand(SPOTS, 1, GENES, device=device)
    spot, near, wide = (torch.randn(SPOTS, *k, DIM, device=device) for k in ((), (NEAR,), (WIDE,)))

    def step() -> None:
        t, noise = torch.randint(0, 1000, (SPOTS,), device=device), torch.randn_like(x)
        noisy = diffusion.q_sample(x, t, noise)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            out = network(noisy, t, spot, near, wide)
        diffusion.training_loss(out.float(), x, noisy, t, noise).loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return SPOTS / statistics.median(seconds(step, device) for _ in range(3))


def operations(network: HisDiffNetwork) -> float:
    """Floating-point operations of the matrix products of one evaluation, for one spot and sample."""
    width, tokens = network.width, network.n_genes
    linear = (
        12 * width**2 * tokens * network.depth + 2 * width**2 * tokens
    )  # blocks, embedding of values and final layer
    attention = 2 * tokens**2 * width * network.depth
    return 2.0 * (linear + attention)


def matrix_peak(device: torch.device) -> float:
    """Operations per second of one large product in bf16, the best of five: what the card really reaches."""
    side = PEAK_SIDE if device.type == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return max(2 * side**3 / seconds(lambda: a @ b, device) for _ in range(5))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start
