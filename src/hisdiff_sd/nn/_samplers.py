"""Samplers by name: the published one, and those of diffusers that need few steps of the same checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.nn._diffusion import TRAINING_STEPS
from hisdiff_sd.nn._sampling import ancestral_sample, check_start, predict_noise, spaced_timesteps, step_noise

#: Steps of each sampler by default, the published number, and few where few are enough (the curve is in docs/benchmarks.md).
SAMPLERS = {"ancestral": 1000, "ddim": 50, "dpm++": 8, "dpm++sde": 8, "unipc": 10}
#: The sampler of the published process if none is named.
DEFAULT_SAMPLER = "dpm++sde"

# Where the steps of DPM-Solver++ lie. Above 850 there is next to no signal in the noise (3% of its amplitude), and a step
# spent there is lost; below, they get denser towards the data, or the last one, which adds no noise, narrows the samples.
_FIRST, _POWER, _MOST_PLACED = 850, 1.3, 250
# After this share of the steps the solver that adds noise forgets what it knows of those before: their long strides make a
# poor guess of how the prediction changes, and samples that correlate less with the tissue than those of many steps.
_RESTART = 0.25


@torch.no_grad()
def diffusion_sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    *,
    sampler: str = DEFAULT_SAMPLER,
    steps: int | None = None,
    noise: Callable[[int], Tensor],
) -> Tensor:
    """Draw expression from the published process; nothing is clipped.

    Parameters
    ----------
    denoise
        ``denoise(x, t)`` with x (B, 1, n_genes) and t int64 (B,) returns (B, 2, n_genes), as `HisDiffNetwork.denoise`
        does once its condition is bound.
    start
        Standard normal noise, (B, 1, n_genes).
    sampler
        ``"ancestral"``, as published, with the learned variance; ``"ddim"``; ``"dpm++"``, the multistep solver
        DPM-Solver++ of the second order, and ``"dpm++sde"``, which adds noise on the way; ``"unipc"``. All but the first
        ignore the learned variance.
    steps
        Evaluations of the network, 1 ... 1000 (250 for DPM-Solver++); by default those of `SAMPLERS`.
    noise
        ``noise(j)`` returns the standard normal noise of the j-th step, shaped like `start`. Only ``"ancestral"`` and
        ``"dpm++sde"`` ask for it, in every step but the last.

    Returns
    -------
    (B, 1, n_genes), in the dtype of `start`.

    Raises
    ------
    HisDiffError
        If there is no such sampler, it cannot take so many `steps`, or a tensor does not have the shape it must have.

    Notes
    -----
    DDIM: Song et al. (ICLR 2021). DPM-Solver++: Lu et al. (2022). UniPC: Zhao et al. (NeurIPS 2023). All three as the
    schedulers of diffusers.

    Examples
    --------
    >>> import torch
    >>> def nothing(x, t):  # predicts that there is no noise
    ...     return torch.zeros(x.shape[0], 2, x.shape[2])
    >>> draws = hd.nn.diffusion_sample(nothing, torch.randn(4, 1, 3), steps=5, noise=lambda j: torch.randn(4, 1, 3))
    >>> draws.shape
    torch.Size([4, 1, 3])
    """
    check_one_of(sampler, SAMPLERS, "sampler")
    steps = SAMPLERS[sampler] if steps is None else steps
    if sampler == "ancestral":
        return ancestral_sample(denoise, start, steps=steps, noise=noise)
    check_start(start)
    scheduler = _scheduler(sampler, steps)
    x = start
    for j, t in enumerate(scheduler.timesteps):
        predicted, _ = predict_noise(denoise, x, int(t))
        if sampler == "dpm++sde" and 0 < j == int(_RESTART * steps):
            scheduler = _scheduler(sampler, steps)
            scheduler.set_begin_index(j)
        extra = {}
        if sampler == "dpm++sde":
            last = j + 1 == len(scheduler.timesteps)
            extra["variance_noise"] = torch.zeros_like(start) if last else step_noise(noise, j, start)
        x = scheduler.step(predicted, t, x, return_dict=False, **extra)[0].to(start.dtype)
    return x


def check_steps(sampler: str, steps: int) -> None:
    """Refuse a number of steps that a sampler cannot take.

    Examples
    --------
    >>> import hisdiff_sd as hd
    >>> hd.nn.check_steps("ancestral", 1000)
    >>> hd.nn.check_steps("dpm++", 251)
    Traceback (most recent call last):
    hisdiff_sd._errors.HisDiffError: steps=251 of sampler 'dpm++' would fall together; give 250 or fewer, or sampler='ancestral'
    """
    spaced_timesteps(steps)
    if sampler.startswith("dpm++") and steps > _MOST_PLACED:
        raise HisDiffError(
            f"steps={steps} of sampler {sampler!r} would fall together; give {_MOST_PLACED} or fewer, or sampler='ancestral'"
        )


def placed_timesteps(steps: int) -> list[int]:
    """Training steps that DPM-Solver++ visits, the noisiest first."""
    return [round(_FIRST * (k / steps) ** _POWER) for k in range(steps, 0, -1)]


def _scheduler(sampler: str, steps: int) -> Any:
    """A scheduler of diffusers that is set to so many steps of the published process."""
    import diffusers

    check_steps(sampler, steps)
    process = {"num_train_timesteps": TRAINING_STEPS, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    if sampler == "ddim":
        scheduler = diffusers.DDIMScheduler(**process, clip_sample=False, timestep_spacing="leading")
        scheduler.set_timesteps(steps)
    elif sampler == "unipc":
        scheduler = diffusers.UniPCMultistepScheduler(**process)
        scheduler.set_timesteps(steps)
    else:
        kind = "sde-dpmsolver++" if sampler == "dpm++sde" else "dpmsolver++"
        scheduler = diffusers.DPMSolverMultistepScheduler(**process, algorithm_type=kind)
        scheduler.set_timesteps(timesteps=placed_timesteps(steps))
    return scheduler
