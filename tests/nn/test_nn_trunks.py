"""Both trunks of both networks: what they start as, that they learn, what genes know of each other."""

from __future__ import annotations

import pytest
import torch

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.nn import FlowNetwork, HisDiffNetwork

G, DIM = 6, 12
SIZES = {"width": 8, "depth": 2, "num_heads": 2}
T = torch.tensor([0.1, 0.5, 0.9])


def denoiser(trunk: str) -> HisDiffNetwork:
    torch.manual_seed(0)
    return HisDiffNetwork(G, DIM, trunk=trunk, **SIZES)


def flow(trunk: str) -> FlowNetwork:
    torch.manual_seed(0)
    return FlowNetwork(G, DIM, trunk=trunk, **SIZES)


def denoise(network: HisDiffNetwork, x: torch.Tensor) -> torch.Tensor:
    condition = torch.linspace(-1, 1, 3 * 8).reshape(3, 8)
    return network.denoise(x[:, None], torch.tensor([5, 400, 900]), condition)


def bend(network: FlowNetwork, x: torch.Tensor) -> torch.Tensor:
    return network(x, T, torch.linspace(0, 2, 3 * G).reshape(3, G))


CASES = [(denoiser, denoise, (3, 2, G)), (flow, bend, (3, G))]
EVERY = pytest.mark.parametrize(("make", "out", "shape"), CASES, ids=["denoiser", "flow"])
TRUNKS = pytest.mark.parametrize("trunk", ["dit", "mlp"])


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """The network with every gate open."""
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator)
    return network


@EVERY
@TRUNKS
def test_an_untrained_network_returns_zeros_and_learns(make, out, shape, trunk):
    network, x = make(trunk), torch.randn(3, G)
    assert out(network, x).shape == shape
    assert not out(network, x).any()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    wanted = torch.randn(shape)
    for _ in range(150):
        loss = (out(network, x) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.3 * wanted.square().mean()


@EVERY
@TRUNKS
def test_the_configuration_rebuilds_the_network(make, out, shape, trunk):
    network = shaken(make(trunk))
    twin = type(network)(**network.config)
    twin.load_state_dict(network.state_dict())
    x = torch.randn(3, G)
    torch.testing.assert_close(out(twin, x), out(network, x), rtol=0, atol=0)
    assert out(network, x).any()


@pytest.mark.parametrize(("make", "before"), [(denoiser, "dit"), (flow, "mlp")])
def test_models_from_before_there_was_a_choice_are_described_as_they_were(make, before):
    assert "trunk" not in make(before).config
    assert type(make(before))(**make(before).config).trunk == before
    other = "mlp" if before == "dit" else "dit"
    assert make(other).config["trunk"] == other


@EVERY
@TRUNKS
def test_spots_do_not_know_of_each_other(make, out, shape, trunk):
    network, x = shaken(make(trunk)), torch.randn(3, G)
    changed = x.clone()
    changed[1] += 1
    together, apart = out(network, changed), out(network, x)
    torch.testing.assert_close(together[[0, 2]], apart[[0, 2]])
    assert (together[1] - apart[1]).abs().max() > 1e-3


def test_genes_attend_to_each_other_in_a_transformer_only():
    """Without correlations in the data, the MLP of the flow sees a gene by itself (beside the leading axes)."""
    x = torch.randn(3, G)
    changed = x.clone()
    changed[:, -1] += 1  # not among the four leading axes of an identity
    for trunk, others in (("mlp", False), ("dit", True)):
        network = shaken(flow(trunk))
        difference = (bend(network, changed) - bend(network, x)).abs().max(0).values
        assert difference[-1] > 1e-4
        assert (difference[:-1] > 1e-6).any() == others


def test_wrong_trunks_and_heads_are_refused():
    for network in (HisDiffNetwork, FlowNetwork):
        with pytest.raises(HisDiffError, match=r"no trunk 'unet'; there are: 'dit', 'mlp'"):
            network(G, DIM, trunk="unet", width=8)
    with pytest.raises(HisDiffError, match="num_heads 3 does not divide width 8"):
        FlowNetwork(G, DIM, trunk="dit", width=8, num_heads=3)
    assert FlowNetwork(G, DIM, width=9).trunk == "mlp"  # which has no heads
