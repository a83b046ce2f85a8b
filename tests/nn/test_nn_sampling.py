from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.nn import GaussianDiffusion, ancestral_sample, ddim_sample, spaced_timesteps

KEPT = GaussianDiffusion().alphas_cumprod


def gaussian_denoiser(mean: torch.Tensor, spread: float):
    """The exact noise prediction for data that are normal with this mean and spread; variance at its lower bound."""

    def denoise(x, t):
        kept = torch.tensor(KEPT)[t][:, None, None].to(x.dtype)
        noise = (1 - kept).sqrt() * (x - kept.sqrt() * mean) / (kept * spread**2 + 1 - kept)
        return torch.cat([noise, -torch.ones_like(noise)], dim=1)

    return denoise


@given(steps=st.integers(1, 1000), spacing=st.sampled_from(["linspace", "leading"]))
def test_timesteps_are_distinct_ascending_and_even(steps, spacing):
    timesteps = spaced_timesteps(steps, spacing)
    assert timesteps.shape == (steps,)
    assert timesteps.dtype == np.int64
    assert timesteps[0] == 0
    assert timesteps[-1] < 1000
    gaps = np.diff(np.append(timesteps, 1000) if spacing == "leading" else timesteps)
    if len(gaps):
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1
    if spacing == "linspace" and steps > 1:
        assert timesteps[-1] == 999


@pytest.mark.parametrize("steps", [0, -1, 1001, 10.0, True, "10"])
def test_impossible_steps_are_refused(steps):
    start = torch.zeros(1, 1, 2)
    denoise = gaussian_denoiser(torch.zeros(2), 1.0)
    for call in (
        lambda: spaced_timesteps(steps),
        lambda: ddim_sample(denoise, start, steps=steps),
        lambda: ancestral_sample(denoise, start, steps=steps, noise=lambda j: start),
    ):
        with pytest.raises(HisDiffError, match="from 1 to 1000, not"):
            call()


def test_unknown_spacing_names_the_known_ones():
    with pytest.raises(HisDiffError, match="no spacing 'trailing'; there are: 'linspace', 'leading'"):
        spaced_timesteps(10, "trailing")


@pytest.mark.parametrize("steps", [100, 1000])
def test_ancestral_samples_of_an_exact_denoiser_follow_the_data(steps):
    mean, n_items = torch.tensor([3.0, -1.0]), 4000
    samples = ancestral_sample(
        gaussian_denoiser(mean, 0.5),
        torch.randn(n_items, 1, 2),
        steps=steps,
        noise=lambda j: torch.randn(n_items, 1, 2),
    )
    torch.testing.assert_close(samples.mean(dim=(0, 1)), mean, rtol=0, atol=0.04)
    torch.testing.assert_close(samples.std(dim=(0, 1)), torch.full((2,), 0.5), rtol=0, atol=0.05)


def test_ddim_maps_noise_to_the_quantile_of_the_data():
    """For normal data the flow is linear: noise z ends at mean + spread * z."""
    mean, start = torch.tensor([3.0, -1.0]), torch.randn(50, 1, 2)
    samples = ddim_sample(gaussian_denoiser(mean, 0.5), start, steps=1000)
    torch.testing.assert_close(samples, mean + 0.5 * start, rtol=0, atol=0.05)


def test_the_upper_variance_spreads_a_step_as_far_as_the_forward_step():
    """Two steps, no predicted noise: the spread after the first is exp(0.5 * log beta) at +1, less at -1."""
    start = torch.zeros(1, 1, 1)
    timesteps = spaced_timesteps(2)
    beta = 1 - KEPT[timesteps[1]] / KEPT[timesteps[0]]
    posterior = beta * (1 - KEPT[timesteps[0]]) / (1 - KEPT[timesteps[1]])
    for interpolation, variance in ((1.0, beta), (-1.0, posterior), (0.0, np.sqrt(beta * posterior))):
        out = torch.tensor([[[0.0], [interpolation]]])
        sample = ancestral_sample(lambda x, t, out=out: out, start, steps=2, noise=lambda j: torch.ones(1, 1, 1))
        assert sample.item() == pytest.approx(np.sqrt(variance / KEPT[0]), rel=1e-5)


def test_each_step_asks_once_from_the_noisiest_and_the_last_adds_no_noise():
    asked, seen = [], []

    def noise(j):
        asked.append(j)
        return torch.randn(2, 1, 3)

    def denoise(x, t):
        assert t.shape == (2,)
        seen.append(t.unique().item())
        return torch.zeros(2, 2, 3)

    ancestral_sample(denoise, torch.randn(2, 1, 3), steps=6, noise=noise)
    assert asked == [0, 1, 2, 3, 4]
    assert seen == spaced_timesteps(6)[::-1].tolist()
    seen.clear()
    ddim_sample(denoise, torch.randn(2, 1, 3), steps=6)
    assert seen == spaced_timesteps(6, "leading")[::-1].tolist()


def test_ddim_takes_no_notice_of_the_variance_channel():
    start, base = torch.randn(4, 1, 2), gaussian_denoiser(torch.ones(2), 0.5)

    def other(x, t):
        return base(x, t) * torch.tensor([1.0, 77.0])[None, :, None]

    torch.testing.assert_close(ddim_sample(base, start, steps=20), ddim_sample(other, start, steps=20), rtol=0, atol=0)


@pytest.mark.parametrize(("dtype", "others"), [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_dtype_is_that_of_start_and_nothing_is_tracked_or_changed(dtype, others):
    weight = torch.ones(1, dtype=others, requires_grad=True)

    def denoise(x, t):
        assert x.dtype is dtype
        return (weight * torch.cat([x, x], dim=1)).to(others)

    start = torch.randn(2, 1, 3, dtype=dtype)
    before = start.clone()
    for sample in (
        ddim_sample(denoise, start, steps=3),
        ancestral_sample(denoise, start, steps=3, noise=lambda j: torch.zeros(2, 1, 3, dtype=others)),
    ):
        assert sample.dtype is dtype
        assert not sample.requires_grad
    torch.testing.assert_close(start, before, rtol=0, atol=0)


def test_tensors_of_the_wrong_shape_are_refused():
    denoise, good = gaussian_denoiser(torch.zeros(3), 1.0), torch.zeros(4, 1, 3)
    with pytest.raises(HisDiffError, match=r"start must be .* not torch.float32 \(4, 3\)"):
        ddim_sample(denoise, torch.zeros(4, 3), steps=2)
    with pytest.raises(HisDiffError, match=r"start must be floating point .* not torch.int64"):
        ddim_sample(denoise, good.long(), steps=2)
    with pytest.raises(HisDiffError, match=r"denoise returned shape \(4, 1, 3\); it must return \(4, 2, 3\)"):
        ddim_sample(lambda x, t: x, good, steps=2)
    with pytest.raises(HisDiffError, match=r"noise\(0\) has shape \(1, 1, 3\)"):
        ancestral_sample(denoise, good, steps=2, noise=lambda j: torch.zeros(1, 1, 3))
