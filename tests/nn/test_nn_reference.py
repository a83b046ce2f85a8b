"""Every reference array of the published network is reproduced to 1e-5 of its largest value, in float32."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hisdiff_sd.nn import GaussianDiffusion, ancestral_sample, diffusion_sample, spaced_timesteps

with np.load(Path(__file__).parent / "reference" / "hisdiff_reference.npz") as _file:
    NAMES = _file.files


@pytest.fixture(scope="module")
def computed(reference):
    """The network's own answer for everything in the reference file that is not a list of timesteps."""
    fill, network, diffusion = reference.fill, reference.network(), GaussianDiffusion()
    spot, neighbour, wide = reference.context()
    t = torch.tensor([0, 400, 999])
    start = fill(1006, (3, 1, 12), 1)
    noise, x_start = fill(1004, (3, 1, 12), 1), fill(1005, (3, 1, 12), 4).abs()
    with torch.no_grad():
        condition = network.condition(spot, neighbour, wide)
        forward = network(fill(1000, (3, 1, 12), 1.5), t, spot, neighbour, wide)
        x_t = diffusion.q_sample(x_start, t, noise)
        loss = diffusion.training_loss(network(x_t, t, spot, neighbour, wide), x_start, x_t, t, noise)

    def denoise(x, t):
        return network.denoise(x, t, condition)

    def drawn(j):
        return fill(2000 + j, (3, 1, 12), 1)

    return {
        "condition": condition,
        "forward": forward,
        "q_sample": x_t,
        "loss_mse": loss.mse,
        "loss_vb": loss.vb,
        "loss_loss": loss.loss,
        "ddpm10": ancestral_sample(denoise, start, steps=10, noise=drawn),
        "ddpm50": ancestral_sample(denoise, start, steps=50, noise=drawn),
        "ddim10_eta0": diffusion_sample(denoise, start, sampler="ddim", steps=10, noise=drawn),
        "betas": diffusion.betas,
        "alphas_cumprod": diffusion.alphas_cumprod,
    }


def ddim_timesteps(steps):
    """Training steps that DDIM asks for, ascending."""
    seen = []

    def denoise(x, t):
        seen.append(t.item())
        return torch.zeros(1, 2, 1)

    diffusion_sample(denoise, torch.zeros(1, 1, 1), sampler="ddim", steps=steps, noise=lambda j: None)
    return seen[::-1]


@pytest.mark.parametrize("name", NAMES)
def test_reference_array_is_reproduced(name, reference, computed):
    expected = reference.arrays[name]
    timesteps = re.fullmatch(r"timesteps_(ddim)?(\d+)", name)
    if timesteps:
        steps = int(timesteps[2])
        np.testing.assert_array_equal(ddim_timesteps(steps) if timesteps[1] else spaced_timesteps(steps), expected)
        return
    actual = np.asarray(computed[name])
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def test_everything_computed_is_in_the_reference(computed):
    assert {name for name in NAMES if not name.startswith("timesteps_")} == set(computed)


def test_parameter_names_shapes_and_order_are_the_published_ones(reference):
    state = reference.network().state_dict()
    assert [(name, tuple(value.shape)) for name, value in state.items()] == reference.keys
