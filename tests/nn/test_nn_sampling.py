from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.nn import DEFAULT_SAMPLER, SAMPLERS, GaussianDiffusion, diffusion_sample, spaced_timesteps

KEPT = GaussianDiffusion().alphas_cumprod


def gaussian_denoiser(mean: torch.Tensor, spread: float):
    """The exact noise prediction for data that are normal with this mean and spread; variance at its lower bound."""

    def denoise(x, t):
        kept = torch.tensor(KEPT)[t][:, None, None].to(x.dtype)
        noise = (1 - kept).sqrt() * (x - kept.sqrt() * mean) / (kept * spread**2 + 1 - kept)
        return torch.cat([noise, -torch.ones_like(noise)], dim=1)

    return denoise


def draw(denoise, start, sampler, steps=None, noise=None):
    return diffusion_sample(
        denoise, start, sampler=sampler, steps=steps, noise=noise or (lambda j: torch.randn_like(start))
    )


@given(steps=st.integers(1, 1000))
def test_timesteps_are_distinct_ascending_and_even(steps):
    timesteps = spaced_timesteps(steps)
    assert timesteps.shape == (steps,)
    assert timesteps.dtype == np.int64
    assert timesteps[0] == 0
    assert timesteps[-1] == (999 if steps > 1 else 0)
    gaps = np.diff(timesteps)
    if len(gaps):
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [0, -1, 1001, 10.0, True, "10"])
def test_impossible_steps_are_refused(steps, sampler):
    start = torch.zeros(1, 1, 2)
    with pytest.raises(HisDiffError, match="from 1 to 1000, not"):
        draw(gaussian_denoiser(torch.zeros(2), 1.0), start, sampler, steps)


def test_steps_that_would_fall_together_are_refused():
    start = torch.zeros(1, 1, 2)
    with pytest.raises(HisDiffError, match="steps=251 of sampler 'dpm\\+\\+' would fall together; give 250"):
        draw(gaussian_denoiser(torch.zeros(2), 1.0), start, "dpm++", 251)


def test_an_unknown_sampler_names_the_known_ones():
    with pytest.raises(HisDiffError, match="no sampler 'dpm'; there are: 'ancestral', 'ddim', 'dpm\\+\\+'"):
        draw(gaussian_denoiser(torch.zeros(2), 1.0), torch.zeros(1, 1, 2), "dpm")


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 250])
def test_every_step_is_one_evaluation_and_steps_get_less_noisy(sampler, steps):
    seen = []

    def denoise(x, t):
        assert t.shape == (2,)
        seen.append(t.unique().item())
        return torch.zeros(2, 2, 3)

    assert draw(denoise, torch.randn(2, 1, 3), sampler, steps).isfinite().all()
    assert len(seen) == steps
    assert seen == sorted(set(seen), reverse=True)


@pytest.mark.parametrize(
    ("sampler", "steps", "tolerance"), [("dpm++sde", 8, 0.06), ("dpm++", 8, 0.06), ("unipc", 10, 0.06)]
)
def test_few_steps_of_an_exact_denoiser_follow_the_data(sampler, steps, tolerance):
    """The last step adds no noise, so that spread is lost: less than a tenth of it."""
    mean, n_items = torch.tensor([1.0, -0.5]), 4000
    samples = draw(gaussian_denoiser(mean, 0.8), torch.randn(n_items, 1, 2), sampler, steps)
    torch.testing.assert_close(samples.mean(dim=(0, 1)), mean, rtol=0, atol=tolerance)
    torch.testing.assert_close(samples.std(dim=(0, 1)), torch.full((2,), 0.8), rtol=0, atol=0.08)


@pytest.mark.parametrize("steps", [100, 1000])
def test_ancestral_samples_of_an_exact_denoiser_follow_the_data(steps):
    mean, n_items = torch.tensor([3.0, -1.0]), 4000
    samples = draw(gaussian_denoiser(mean, 0.5), torch.randn(n_items, 1, 2), "ancestral", steps)
    torch.testing.assert_close(samples.mean(dim=(0, 1)), mean, rtol=0, atol=0.04)
    torch.testing.assert_close(samples.std(dim=(0, 1)), torch.full((2,), 0.5), rtol=0, atol=0.05)


def test_ddim_maps_noise_to_the_quantile_of_the_data():
    """For normal data the flow is linear: noise z ends at mean + spread * z."""
    mean, start = torch.tensor([3.0, -1.0]), torch.randn(50, 1, 2)
    samples = draw(gaussian_denoiser(mean, 0.5), start, "ddim", 1000)
    torch.testing.assert_close(samples, mean + 0.5 * start, rtol=0, atol=0.05)


def test_the_upper_variance_spreads_a_step_as_far_as_the_forward_step():
    """Two steps, no predicted noise: the spread after the first is exp(0.5 * log beta) at +1, less at -1."""
    start = torch.zeros(1, 1, 1)
    timesteps = spaced_timesteps(2)
    beta = 1 - KEPT[timesteps[1]] / KEPT[timesteps[0]]
    posterior = beta * (1 - KEPT[timesteps[0]]) / (1 - KEPT[timesteps[1]])
    for interpolation, variance in ((1.0, beta), (-1.0, posterior), (0.0, np.sqrt(beta * posterior))):
        out = torch.tensor([[[0.0], [interpolation]]])
        sample = draw(lambda x, t, out=out: out, start, "ancestral", 2, lambda j: torch.ones(1, 1, 1))
        assert sample.item() == pytest.approx(np.sqrt(variance / KEPT[0]), rel=1e-5)


@pytest.mark.parametrize(("sampler", "asks"), [(name, name in ("ancestral", "dpm++sde")) for name in SAMPLERS])
def test_noise_is_asked_for_once_a_step_and_not_in_the_last(sampler, asks):
    asked = []

    def noise(j):
        asked.append(j)
        return torch.randn(2, 1, 3)

    draw(lambda x, t: torch.zeros(2, 2, 3), torch.randn(2, 1, 3), sampler, 6, noise)
    assert asked == (list(range(5)) if asks else [])


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "ancestral"])
def test_the_others_take_no_notice_of_the_variance_channel(sampler):
    start, base = torch.randn(4, 1, 2), gaussian_denoiser(torch.ones(2), 0.5)

    def other(x, t):
        return base(x, t) * torch.tensor([1.0, 77.0])[None, :, None]

    first, second = (draw(d, start, sampler, 20, lambda j: torch.ones(4, 1, 2)) for d in (base, other))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize(("dtype", "others"), [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_dtype_is_that_of_start_and_nothing_is_tracked_or_changed(dtype, others):
    weight = torch.ones(1, dtype=others, requires_grad=True)

    def denoise(x, t):
        assert x.dtype is dtype
        return (weight * torch.cat([x, x], dim=1)).to(others)

    start = torch.randn(2, 1, 3, dtype=dtype)
    before = start.clone()
    for sampler in SAMPLERS:
        sample = draw(denoise, start, sampler, 3, lambda j: torch.zeros(2, 1, 3, dtype=others))
        assert sample.dtype is dtype
        assert not sample.requires_grad
    torch.testing.assert_close(start, before, rtol=0, atol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_tensors_of_the_wrong_shape_are_refused(sampler):
    denoise, good = gaussian_denoiser(torch.zeros(3), 1.0), torch.zeros(4, 1, 3)
    with pytest.raises(HisDiffError, match=r"start must be .* not torch.float32 \(4, 3\)"):
        draw(denoise, torch.zeros(4, 3), sampler, 2)
    with pytest.raises(HisDiffError, match=r"start must be floating point .* not torch.int64"):
        draw(denoise, good.long(), sampler, 2)
    with pytest.raises(HisDiffError, match=r"denoise returned shape \(4, 1, 3\); it must return \(4, 2, 3\)"):
        draw(lambda x, t: x, good, sampler, 2)
    if sampler in ("ancestral", DEFAULT_SAMPLER):
        with pytest.raises(HisDiffError, match=r"noise\(0\) has shape \(1, 1, 3\)"):
            draw(denoise, good, sampler, 2, lambda j: torch.zeros(1, 1, 3))
