from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hisdiff_sd.nn import GaussianDiffusion


@pytest.fixture(scope="module")
def diffusion():
    return GaussianDiffusion()


def batch(n_items: int = 4, n_genes: int = 6):
    """Clean expression, its noise, steps and a network output."""
    x_start, noise = torch.rand(n_items, 1, n_genes) * 4, torch.randn(n_items, 1, n_genes)
    return x_start, noise, torch.tensor([0, 1, 400, 999])[:n_items], torch.randn(n_items, 2, n_genes)


def test_schedule_is_float64_and_linear(diffusion):
    assert diffusion.betas.dtype == diffusion.alphas_cumprod.dtype == np.float64
    assert diffusion.betas.shape == diffusion.alphas_cumprod.shape == (1000,)
    np.testing.assert_allclose(np.diff(diffusion.betas), (0.02 - 1e-4) / 999, rtol=1e-9)
    assert diffusion.betas[0] == 1e-4
    assert diffusion.betas[-1] == 0.02


def test_q_sample_has_the_stated_mean_and_spread(diffusion):
    t = torch.full((20_000,), 300)
    x_t = diffusion.q_sample(torch.full((20_000, 1, 1), 3.0), t, torch.randn(20_000, 1, 1))
    kept = float(diffusion.alphas_cumprod[300])
    assert x_t.mean().item() == pytest.approx(3 * math.sqrt(kept), abs=0.03)
    assert x_t.std().item() == pytest.approx(math.sqrt(1 - kept), rel=0.03)


def test_q_sample_is_what_single_forward_steps_add_up_to(diffusion):
    """Variances of the steps 0 ... t, each damped by the later ones, sum to 1 - alphas_cumprod[t]."""
    variance = 0.0
    for beta in diffusion.betas[:401]:
        variance = variance * (1 - beta) + beta
    noise_only = diffusion.q_sample(torch.zeros(1, 1, 1), torch.tensor([400]), torch.ones(1, 1, 1))
    assert noise_only.item() ** 2 == pytest.approx(variance, rel=1e-5)


def test_loss_of_the_true_noise_at_the_lower_variance_is_zero_after_the_first_step(diffusion):
    x_start, noise, t, _ = batch()
    x_t = diffusion.q_sample(x_start, t, noise)
    perfect = torch.cat([noise, -torch.ones_like(noise)], dim=1)
    loss = diffusion.training_loss(perfect, x_start, x_t, t, noise)
    assert loss.mse.max() == 0
    assert loss.vb[1:].abs().max() < 1e-4


def test_bound_is_the_divergence_of_two_normal_distributions(diffusion):
    """With the true noise but the variance of the forward step, the divergence has a closed form."""
    x_start, noise, _, _ = batch()
    t = torch.tensor([5, 50, 400, 999])
    x_t = diffusion.q_sample(x_start, t, noise)
    loss = diffusion.training_loss(torch.cat([noise, torch.ones_like(noise)], dim=1), x_start, x_t, t, noise)
    beta, kept = diffusion.betas[t], diffusion.alphas_cumprod
    ratio = (1 - kept[t - 1]) / (1 - kept[t])  # posterior variance over beta
    assert np.all(beta > 0)
    np.testing.assert_allclose(loss.vb, 0.5 * (ratio - 1 - np.log(ratio)) / math.log(2), atol=2e-5)


def test_bound_at_the_first_step_is_the_likelihood_of_an_open_bin(diffusion):
    """Above 0.999 the bin is open: P(X > x - 1/255) of a normal with the predicted mean and the variance beta[0]."""
    x_start, t = torch.full((1, 1, 1), 2.0), torch.tensor([0])
    for error in (-1.0, 0.0, 0.5):
        noise = torch.zeros(1, 1, 1)
        x_t = diffusion.q_sample(x_start, t, noise)
        loss = diffusion.training_loss(torch.tensor([[[error], [1.0]]]), x_start, x_t, t, noise)
        sigma = math.sqrt(diffusion.betas[0])
        # x_t = sqrt(kept) * 2, so that predicting noise e moves the mean by -e * sqrt(1 / kept - 1).
        mean = 2.0 - error * math.sqrt(1 / diffusion.alphas_cumprod[0] - 1)
        above = 0.5 * math.erfc((2.0 - 1 / 255 - mean) / sigma / math.sqrt(2))
        assert loss.vb.item() == pytest.approx(-math.log2(above), abs=2e-3)


def test_loss_is_per_item_and_the_sum_of_its_parts(diffusion):
    x_start, noise, t, output = batch()
    x_t = diffusion.q_sample(x_start, t, noise)
    loss = diffusion.training_loss(output, x_start, x_t, t, noise)
    torch.testing.assert_close(loss.loss, loss.mse + loss.vb)
    torch.testing.assert_close(loss.mse, (output[:, :1] - noise).square().mean(dim=(1, 2)))
    for i in range(4):
        one = slice(i, i + 1)
        alone = diffusion.training_loss(output[one], x_start[one], x_t[one], t[one], noise[one])
        torch.testing.assert_close(alone.loss, loss.loss[one])


def test_the_bound_trains_the_variance_channel_only(diffusion):
    x_start, noise, t, output = batch()
    output.requires_grad_()
    x_t = diffusion.q_sample(x_start, t, noise)
    loss = diffusion.training_loss(output, x_start, x_t, t, noise)
    (gradient,) = torch.autograd.grad(loss.vb.sum(), output, retain_graph=True)
    assert gradient[:, 0].abs().max() == 0
    assert torch.isfinite(gradient).all()
    assert gradient[1:, 1].abs().min() > 0
    (gradient,) = torch.autograd.grad(loss.mse.sum(), output)
    assert gradient[:, 1].abs().max() == 0


def test_a_half_precision_output_is_judged_in_the_precision_of_the_data(diffusion):
    x_start, noise, t, output = batch()
    output = output.to(torch.bfloat16)
    x_t = diffusion.q_sample(x_start, t, noise)
    half = diffusion.training_loss(output, x_start, x_t, t, noise)
    assert half.loss.dtype is torch.float32
    torch.testing.assert_close(half.loss, diffusion.training_loss(output.float(), x_start, x_t, t, noise).loss)
