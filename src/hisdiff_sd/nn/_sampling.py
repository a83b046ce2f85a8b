"""The published sampler: from a denoiser and Gaussian noise to expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.nn._diffusion import TRAINING_STEPS, GaussianDiffusion, variance_bounds

if TYPE_CHECKING:
    from collections.abc import Callable


def spaced_timesteps(steps: int) -> npt.NDArray[np.int64]:
    """Which of the 1000 training steps ancestral sampling with fewer steps visits: the first, the last, evenly between.

    Parameters
    ----------
    steps
        Number of steps, 1 ... 1000.

    Returns
    -------
    Ascending training steps, int64 (steps,).

    Raises
    ------
    HisDiffError
        If `steps` is not in 1 ... 1000.

    Examples
    --------
    >>> hd.nn.spaced_timesteps(5)
    array([  0, 250, 500, 749, 999])
    """
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or not 1 <= steps <= TRAINING_STEPS:
        raise HisDiffError(f"steps must be a whole number from 1 to {TRAINING_STEPS}, not {steps!r}")
    return np.linspace(0, TRAINING_STEPS - 1, steps).round().astype(np.int64)


@torch.no_grad()
def ancestral_sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    *,
    steps: int,
    noise: Callable[[int], Tensor],
) -> Tensor:
    """Draw expression by ancestral sampling with the learned variance; nothing is clipped.

    Parameters
    ----------
    denoise
        ``denoise(x, t)`` with x (B, 1, n_genes) and t int64 (B,) returns (B, 2, n_genes), as `HisDiffNetwork.denoise`
        does once its condition is bound.
    start
        Standard normal noise, (B, 1, n_genes).
    steps
        Number of reverse steps, 1 ... 1000.
    noise
        ``noise(j)`` returns the standard normal noise of the j-th reverse step, shaped like `start`; j = 0 is the
        noisiest. The last step adds none and does not ask for it.

    Returns
    -------
    (B, 1, n_genes), in the dtype of `start`.

    Raises
    ------
    HisDiffError
        If `steps` is not in 1 ... 1000, or a tensor does not have the shape it must have.

    Notes
    -----
    Ho et al. (NeurIPS 2020); variance and respacing as in Nichol & Dhariwal (ICML 2021).

    Examples
    --------
    >>> import torch
    >>> def nothing(x, t):  # predicts that there is no noise
    ...     return torch.zeros(x.shape[0], 2, x.shape[2])
    >>> hd.nn.ancestral_sample(nothing, torch.randn(4, 1, 3), steps=10, noise=lambda j: torch.randn(4, 1, 3)).shape
    torch.Size([4, 1, 3])
    """
    check_start(start)
    timesteps = spaced_timesteps(steps)
    kept = GaussianDiffusion().alphas_cumprod[timesteps]
    betas = 1.0 - kept / np.append(1.0, kept[:-1])
    lower, upper = variance_bounds(betas)
    x = start
    for j, k in enumerate(reversed(range(steps))):
        predicted, interpolation = predict_noise(denoise, x, int(timesteps[k]))
        x = (x - float(betas[k] / np.sqrt(1.0 - kept[k])) * predicted) * float(1.0 / np.sqrt(1.0 - betas[k]))
        if k > 0:
            share = (interpolation + 1) / 2
            log_variance = share * float(upper[k]) + (1 - share) * float(lower[k])
            x = x + torch.exp(0.5 * log_variance) * step_noise(noise, j, start)
    return x


def check_start(start: Tensor) -> None:
    """Refuse what a sampler cannot start from."""
    if start.ndim != 3 or start.shape[1] != 1 or not start.is_floating_point():
        raise HisDiffError(
            f"start must be floating point of shape (B, 1, n_genes), not {start.dtype} {tuple(start.shape)}"
        )


def predict_noise(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
    """Noise and variance channel at one training step, each shaped like `x` and of its dtype."""
    out = denoise(x, torch.full((x.shape[0],), timestep, dtype=torch.int64, device=x.device))
    expected = (x.shape[0], 2, x.shape[2])
    if out.shape != expected:
        raise HisDiffError(f"denoise returned shape {tuple(out.shape)}; it must return {expected}")
    predicted, interpolation = out.to(x.dtype).chunk(2, dim=1)
    return predicted, interpolation


def step_noise(noise: Callable[[int], Tensor], j: int, start: Tensor) -> Tensor:
    """Noise of the j-th step, shaped like `start` and of its dtype."""
    drawn = noise(j)
    # Noise of another shape could broadcast, and spots would silently share it.
    if drawn.shape != start.shape:
        raise HisDiffError(
            f"noise({j}) has shape {tuple(drawn.shape)}; it must have that of start, {tuple(start.shape)}"
        )
    return drawn.to(start.dtype)
