"""Network, loss and sampler together learn a problem whose answer is known."""

from __future__ import annotations

import pytest
import torch

from hisdiff_sd.nn import GaussianDiffusion, HisDiffNetwork, ancestral_sample

MEANS = torch.tensor([[3.0, 0.0, 1.5], [0.0, 2.0, 1.5]])  # expression of two kinds of tissue
SPREAD = 0.2


def tissue(kind):
    """Embeddings of spots of this kind, whose context is of the same kind."""
    sign = (1.0 - 2.0 * kind)[:, None] * torch.ones(1, 4)
    noisy = [sign + 0.1 * torch.randn_like(sign) for _ in range(3)]
    return noisy[0], noisy[1][:, None].repeat(1, 2, 1), noisy[2][:, None].repeat(1, 3, 1)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    network, diffusion = HisDiffNetwork(3, 4, width=32, depth=2, num_heads=2), GaussianDiffusion()
    steps = 250
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        kind = torch.randint(2, (64,))
        x_start = (MEANS[kind] + SPREAD * torch.randn(64, 3))[:, None]
        t, noise = torch.randint(1000, (64,)), torch.randn_like(x_start)
        x_t = diffusion.q_sample(x_start, t, noise)
        loss = diffusion.training_loss(network(x_t, t, *tissue(kind)), x_start, x_t, t, noise).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return network, losses


def test_the_loss_falls(trained):
    _, losses = trained
    assert sum(losses[-50:]) < 0.5 * sum(losses[:50])


def test_the_conditional_mean_is_recovered(trained):
    network, _ = trained
    for kind, mean in enumerate(MEANS):
        with torch.no_grad():
            condition = network.condition(*tissue(torch.full((200,), kind)))
        samples = ancestral_sample(
            lambda x, t, condition=condition: network.denoise(x, t, condition),
            torch.randn(200, 1, 3),
            steps=50,
            noise=lambda j: torch.randn(200, 1, 3),
        )
        torch.testing.assert_close(samples.mean(dim=(0, 1)), mean, rtol=0, atol=0.4)
