"""The diffusion process of HisDiff: its noise schedule, the forward step and the training loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TRAINING_STEPS = 1000

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TrainingLoss:
    """Loss of each item of a batch, each (B,).

    Attributes
    ----------
    mse
        Mean squared error of the predicted noise.
    vb
        Variational bound, in bits per gene; it trains the variance channel only.
    loss
        Their sum.

    Examples
    --------
    >>> import torch, hisdiff_sd as hd
    >>> x_start, noise, t = torch.zeros(2, 1, 3), torch.randn(2, 1, 3), torch.tensor([10, 500])
    >>> diffusion = hd.nn.GaussianDiffusion()
    >>> output = torch.cat([noise, torch.zeros_like(noise)], dim=1)  # the noise is known
    >>> diffusion.training_loss(output, x_start, diffusion.q_sample(x_start, t, noise), t, noise).mse
    tensor([0., 0.])
    """

    mse: Tensor
    vb: Tensor
    loss: Tensor


def variance_bounds(betas: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lower and upper log-variance of each reverse step: that of the posterior q(x[t-1] | x[t], x[0]), and log beta."""
    alphas_cumprod = np.cumprod(1.0 - betas)
    previous = np.append(1.0, alphas_cumprod[:-1])
    posterior = betas * (1.0 - previous) / (1.0 - alphas_cumprod)
    # The first posterior variance is zero, whose logarithm is not finite: the next one stands in for it.
    posterior[0] = posterior[1] if len(posterior) > 1 else betas[0]
    return np.log(posterior), np.log(betas)


class GaussianDiffusion:
    """Gaussian diffusion over 1000 steps with a linear schedule (1e-4 ... 0.02), noise prediction and learned variance.

    Attributes
    ----------
    betas
        Variance that each forward step adds, float64 (1000,).
    alphas_cumprod
        Share of the signal's variance that is left after each step, float64 (1000,).

    Notes
    -----
    Ho et al. (NeurIPS 2020) for the process; Nichol & Dhariwal (ICML 2021) for the learned variance and its loss.

    Examples
    --------
    >>> import torch
    >>> diffusion = hd.nn.GaussianDiffusion()
    >>> x_start, noise, t = torch.ones(2, 1, 3), torch.zeros(2, 1, 3), torch.tensor([0, 999])
    >>> diffusion.q_sample(x_start, t, noise)[:, 0, 0]
    tensor([0.9999, 0.0064])
    """

    def __init__(self) -> None:
        self.betas: FloatArray = np.linspace(1e-4, 0.02, TRAINING_STEPS)
        self.alphas_cumprod: FloatArray = np.cumprod(1.0 - self.betas, dtype=np.float64)
        previous = np.append(1.0, self.alphas_cumprod[:-1])
        self._lower_log_variance, self._upper_log_variance = variance_bounds(self.betas)
        # x[0] from x[t] and the noise, and the mean of q(x[t-1] | x[t], x[0]); no step clips anything.
        self._start_from_x = np.sqrt(1.0 / self.alphas_cumprod)
        self._start_from_noise = np.sqrt(1.0 / self.alphas_cumprod - 1.0)
        self._mean_from_start = self.betas * np.sqrt(previous) / (1.0 - self.alphas_cumprod)
        self._mean_from_x = (1.0 - previous) * np.sqrt(1.0 - self.betas) / (1.0 - self.alphas_cumprod)

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Noisy expression after `t` + 1 forward steps.

        Parameters
        ----------
        x_start
            Clean expression, (B, 1, n_genes).
        t
            Steps 0 ... 999, int64 (B,).
        noise
            Standard normal noise, shaped like `x_start`.

        Returns
        -------
        (B, 1, n_genes), in the dtype of `x_start`.
        """
        signal = _at(np.sqrt(self.alphas_cumprod), t, x_start)
        spread = _at(np.sqrt(1.0 - self.alphas_cumprod), t, x_start)
        return signal * x_start + spread * noise

    def training_loss(
        self, model_output: Tensor, x_start: Tensor, x_t: Tensor, t: Tensor, noise: Tensor
    ) -> TrainingLoss:
        """Squared error of the noise plus the variational bound for the variance channel.

        Parameters
        ----------
        model_output
            What the network returned for (`x_t`, `t`), (B, 2, n_genes).
        x_start, x_t, noise
            Clean expression, ``q_sample(x_start, t, noise)`` and its noise, (B, 1, n_genes).
        t
            Steps 0 ... 999, int64 (B,).

        Returns
        -------
        Loss of each item, in the dtype of `x_start`. No gradient of the bound reaches the noise channel.
        """
        predicted, interpolation = model_output.to(x_start.dtype).chunk(2, dim=1)
        mse = (predicted - noise).square().mean(dim=(1, 2))
        vb = self._bound(predicted.detach(), interpolation, x_start, x_t, t)
        return TrainingLoss(mse=mse, vb=vb, loss=mse + vb)

    def _bound(self, predicted: Tensor, interpolation: Tensor, x_start: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """One term of the variational bound per item, in bits per gene."""
        lower, upper = _at(self._lower_log_variance, t, x_t), _at(self._upper_log_variance, t, x_t)
        share = (interpolation + 1) / 2
        log_variance = share * upper + (1 - share) * lower

        guess = _at(self._start_from_x, t, x_t) * x_t - _at(self._start_from_noise, t, x_t) * predicted
        from_start, from_x = _at(self._mean_from_start, t, x_t), _at(self._mean_from_x, t, x_t)
        mean = from_start * guess + from_x * x_t
        true_mean = from_start * x_start + from_x * x_t

        divergence = _normal_divergence(true_mean, lower, mean, log_variance)
        decoder = -_discretised_log_likelihood(x_start, mean, 0.5 * log_variance)
        bits = torch.where(t[:, None, None] == 0, decoder, divergence) / math.log(2.0)
        return bits.mean(dim=(1, 2))


def _at(values: FloatArray, t: Tensor, like: Tensor) -> Tensor:
    """`values` at the steps `t`, (B, 1, 1); cast before the transfer, as some devices know no float64."""
    return torch.from_numpy(values).to(like.dtype).to(like.device)[t][:, None, None]


def _normal_divergence(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of two normal distributions, in nats."""
    spread = torch.exp(log_variance - other_log_variance)
    distance = (mean - other_mean).square() * torch.exp(-other_log_variance)
    return 0.5 * (other_log_variance - log_variance - 1.0 + spread + distance)


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of the bin of width 2/255 around `x`, the outermost bins of [-1, 1] being open.

    The bins are those of 8-bit images. Expression does not lie in [-1, 1], but this is the published loss at t = 0.
    """
    centred, inverse_scale = x - mean, torch.exp(-log_scale)
    below_top = _normal_cdf(inverse_scale * (centred + 1.0 / 255.0))
    below_bottom = _normal_cdf(inverse_scale * (centred - 1.0 / 255.0))
    tiny = 1e-12
    inner = torch.log((below_top - below_bottom).clamp(min=tiny))
    lowest = torch.log(below_top.clamp(min=tiny))
    highest = torch.log((1.0 - below_bottom).clamp(min=tiny))
    return torch.where(x < -0.999, lowest, torch.where(x > 0.999, highest, inner))


def _normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation of the normal distribution function, as in the published loss."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
