"""The flow over residuals: what it is before training, that training learns, and that few steps are enough."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.nn import FlowNetwork, flow_loss, flow_sample

G = 6


def known(seed: int = 0, n_genes: int = G) -> FlowNetwork:
    """An untrained network that knows a covariance with strong correlations."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(n_genes, n_genes))
    covariance = mixing @ mixing.T / n_genes + 0.05 * np.eye(n_genes)
    values, vectors = np.linalg.eigh(covariance)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FlowNetwork(n_genes, 8)
    statistics = {k: getattr(network, k).clone() for k in ("scale", "spread", "base_shift", "base_scale", "base_axes")}
    network.set_statistics(
        eigenvalues=torch.from_numpy(values[::-1].copy()).float(),
        eigenvectors=torch.from_numpy(vectors[:, ::-1].copy()).float(),
        **statistics,
    )
    return network


def covariance_of(network: FlowNetwork) -> np.ndarray:
    vectors = network.eigenvectors.numpy()
    return vectors @ np.diag(network.eigenvalues.numpy()) @ vectors.T


def sample(network: FlowNetwork, start: torch.Tensor, base: torch.Tensor, steps: int = 10) -> torch.Tensor:
    return flow_sample(lambda x, t: network(x, t, base), network, start, steps=steps)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_an_untrained_flow_draws_gaussians_of_the_known_covariance_whatever_the_steps(steps):
    network = known()
    start = torch.from_numpy(np.random.default_rng(0).standard_normal((40_000, G), dtype=np.float32))
    drawn = sample(network, start, torch.zeros(len(start), G), steps).numpy()
    np.testing.assert_allclose(np.cov(drawn.T), covariance_of(network), atol=0.04)


def test_the_straight_velocity_is_the_best_for_gaussian_residuals():
    """It is the conditional mean of the velocity: adding any multiple of another linear map makes the error larger."""
    network = known(1)
    rng = np.random.default_rng(1)
    drawn = rng.multivariate_normal(np.zeros(G), covariance_of(network), 60_000, check_valid="ignore")
    residual = torch.from_numpy(drawn.astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(drawn.shape, dtype=np.float32))
    t = torch.from_numpy(rng.random(len(drawn), dtype=np.float32))
    x = (1 - t)[:, None] * noise + t[:, None] * residual
    error = residual - noise - network.straight(x, t)
    # what is left cannot be predicted from x linearly, at early and late times alike
    for part in (t < 0.3, (t > 0.3) & (t < 0.7), t > 0.7):
        slopes = (error[part].T @ x[part]) / x[part].square().sum(0)
        assert slopes.abs().max() < 0.05
        # another velocity would not pass
        off = error[part] + 0.2 * x[part]
        assert ((off.T @ x[part]) / x[part].square().sum(0)).abs().max() > 0.15


def test_untrained_loss_is_the_straight_one():
    network = known()
    residual, noise, t, base = torch.randn(5, G), torch.randn(5, G), torch.rand(5), torch.rand(5, G)
    ours, straight = flow_loss(network, residual, base, t, noise)
    assert torch.equal(ours, straight)
    assert ours.shape == (5,)


@pytest.fixture(scope="module")
def skewed() -> tuple[FlowNetwork, torch.Tensor, torch.Tensor]:
    """A flow trained on residuals that are skewed and wide where the base is high, narrow where it is low."""
    rng = np.random.default_rng(2)
    base = torch.from_numpy(rng.uniform(0, 3, (4_000, 1)).repeat(G, 1)).float()
    deviation = (0.3 + base / 2).numpy()
    residual = torch.from_numpy((rng.exponential(size=base.shape) - 1) * deviation).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FlowNetwork(G, 8)
        optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(400):
            rows = torch.randint(len(base), (256,))
            noise, t = torch.randn(256, G), torch.rand(256)
            loss = flow_loss(network, residual[rows], base[rows], t, noise)[0].mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.requires_grad_(False), base, residual


def test_a_trained_flow_learns_spread_and_skew_from_the_base(skewed):
    network, _, _ = skewed
    start = torch.from_numpy(np.random.default_rng(3).standard_normal((6_000, G), dtype=np.float32))
    low = sample(network, start, torch.full_like(start, 0.3)).numpy()
    high = sample(network, start, torch.full_like(start, 2.7)).numpy()
    assert low.std() == pytest.approx(0.45, rel=0.2)
    assert high.std() == pytest.approx(1.65, rel=0.2)
    skew = ((high - high.mean()) ** 3).mean() / high.std() ** 3
    assert skew > 1  # 2 for an exponential, 0 for a Gaussian


def test_ten_steps_are_as_good_as_two_hundred(skewed):
    network, _, _ = skewed
    start = torch.from_numpy(np.random.default_rng(4).standard_normal((2_000, G), dtype=np.float32))
    base = torch.full_like(start, 1.5)
    few, many = (sample(network, start, base, steps) for steps in (10, 200))
    assert (few - many).abs().mean() < 0.05 * many.std()


@settings(max_examples=15, deadline=None)
@given(n_genes=st.integers(1, 9), dim=st.integers(1, 12), width=st.integers(1, 9), depth=st.integers(1, 3))
def test_any_size_works_and_is_rebuilt_from_its_config(n_genes, dim, width, depth):
    network = FlowNetwork(n_genes, dim, width=width, depth=depth)
    again = FlowNetwork(**network.config)
    again.load_state_dict(network.state_dict())
    x, t, base = torch.randn(3, n_genes), torch.rand(3), torch.rand(3, n_genes)
    torch.nn.init.normal_(network.last.weight)
    again.load_state_dict(network.state_dict())
    assert network(x, t, base).shape == (3, n_genes)
    assert torch.equal(network(x, t, base), again(x, t, base))


def test_bad_sizes_steps_and_shapes_are_refused():
    with pytest.raises(HisDiffError, match="at least 1"):
        FlowNetwork(0, 4)
    network = known()
    with pytest.raises(HisDiffError, match="steps must be a whole number of at least 1, not 0"):
        sample(network, torch.zeros(2, G), torch.zeros(2, G), 0)
    with pytest.raises(HisDiffError, match=r"start has shape \(2, 5\)"):
        sample(network, torch.zeros(2, 5), torch.zeros(2, 5))
    wrong = {k: v for k, v in network.state_dict().items() if "." not in k} | {"scale": torch.ones(G + 1)}
    with pytest.raises(HisDiffError, match=r"scale has shape \(7,\)"):
        network.set_statistics(**wrong)
