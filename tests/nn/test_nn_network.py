from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.nn import HisDiffNetwork, largest_head_count


def small_network(embedding_dim: int = 12, **changes: int) -> HisDiffNetwork:
    """A small network whose every parameter matters (a fresh one returns zeros)."""
    network = HisDiffNetwork(5, embedding_dim, **{"width": 8, "depth": 2, "num_heads": 2, **changes})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return network


def context(embedding_dim: int = 12, batch: int = 3, near: int = 4, wide: int = 7):
    return (
        torch.randn(batch, embedding_dim),
        torch.randn(batch, near, embedding_dim),
        torch.randn(batch, wide, embedding_dim),
    )


@given(embedding_dim=st.integers(1, 3000), most=st.integers(1, 16))
def test_largest_head_count_divides_and_none_larger_does(embedding_dim, most):
    heads = largest_head_count(embedding_dim, most)
    assert 1 <= heads <= most
    assert embedding_dim % heads == 0
    assert all(embedding_dim % more for more in range(heads + 1, most + 1))


@pytest.mark.parametrize(("width", "heads"), [(1024, 8), (1536, 8), (2050, 5), (31, 1), (1, 1), (12, 6)])
def test_largest_head_count_of_known_widths(width, heads):
    assert largest_head_count(width) == heads


def test_largest_head_count_refuses_nothing_to_divide():
    with pytest.raises(HisDiffError, match="at least 1, not 0"):
        largest_head_count(0)


def test_config_rebuilds_the_network():
    network = small_network(embedding_dim=10)
    assert network.config == {
        "n_genes": 5, "embedding_dim": 10, "width": 8, "depth": 2, "num_heads": 2, "attention_heads": 5,
    }  # fmt: skip
    twin = HisDiffNetwork(**network.config)
    twin.load_state_dict(network.state_dict())
    x, t, where = torch.randn(3, 1, 5), torch.tensor([0, 5, 999]), context(10)
    torch.testing.assert_close(twin(x, t, *where), network(x, t, *where), rtol=0, atol=0)


def test_published_settings_are_the_defaults():
    with torch.device("meta"):
        config = HisDiffNetwork(250, 1024).config
    assert config == {
        "n_genes": 250, "embedding_dim": 1024, "width": 384, "depth": 12, "num_heads": 12, "attention_heads": 8,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 10, "num_heads": 4}, "num_heads 4 does not divide width 10.*up to 4 that does is 2"),
        ({"width": 9, "num_heads": 3}, "width must be even, not 9"),
        ({"attention_heads": 5}, "attention_heads 5 does not divide embedding_dim 12"),
        ({"attention_heads": 0}, "attention_heads must be a whole number of at least 1, not 0"),
        ({"width": 0}, "width must be .* not 0"),
        ({"depth": 0}, "depth must be .* not 0"),
        ({"num_heads": -2}, "num_heads must be .* not -2"),
        ({"width": 8.0}, "width must be a whole number .* not 8.0"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(HisDiffError, match=message):
        HisDiffNetwork(5, 12, **{"width": 8, "depth": 1, "num_heads": 2, **changes})


def test_a_fresh_network_returns_zeros_and_every_block_is_the_identity():
    network = HisDiffNetwork(5, 12, width=8, depth=2, num_heads=2)
    assert torch.count_nonzero(network(torch.randn(3, 1, 5), torch.arange(3), *context())) == 0
    tokens = torch.randn(3, 5, 8)
    torch.testing.assert_close(network.blocks[0](tokens, torch.randn(3, 8)), tokens, rtol=0, atol=0)


def test_forward_is_denoise_of_condition():
    network, where = small_network(), context()
    x, t = torch.randn(3, 1, 5), torch.tensor([0, 5, 999])
    torch.testing.assert_close(network(x, t, *where), network.denoise(x, t, network.condition(*where)), rtol=0, atol=0)


def test_items_of_a_batch_do_not_mix():
    network, (spot, near, wide) = small_network(), context()
    x, t = torch.randn(3, 1, 5), torch.tensor([0, 5, 999])
    together = network(x, t, spot, near, wide)
    for i in range(3):
        alone = network(x[i : i + 1], t[i : i + 1], spot[i : i + 1], near[i : i + 1], wide[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_genes_are_tokens_with_an_identity():
    """Permuting values and gene vectors together permutes the output; permuting the values alone does not."""
    network, where, order = small_network(), context(), torch.tensor([3, 0, 4, 1, 2])
    x, t = torch.randn(3, 1, 5), torch.tensor([0, 5, 999])
    before = network(x, t, *where)[:, :, order]
    assert not torch.allclose(network(x[:, :, order], t, *where), before, atol=1e-3)
    with torch.no_grad():
        table = network.inputEmbedder.ebd_layer_1
        table.copy_(table[order].clone())
    torch.testing.assert_close(network(x[:, :, order], t, *where), before, rtol=1e-4, atol=1e-5)


def test_each_input_has_an_influence():
    network, where = small_network(), context()
    x, t = torch.randn(3, 1, 5), torch.tensor([0, 5, 998])
    before = network(x, t, *where)
    changed = [
        network(x + 1, t, *where),
        network(x, t + 1, *where),
        *(
            network(x, t, *(tensor + (i == j) * torch.randn(tensor.shape) for j, tensor in enumerate(where)))
            for i in range(3)
        ),
    ]
    for after in changed:
        assert (after - before).abs().amax(dim=(1, 2)).min() > 1e-4


def test_a_fully_valid_mask_equals_no_mask():
    network, where = small_network(), context()
    masks = torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 7, dtype=torch.bool)
    torch.testing.assert_close(network.condition(*where, *masks), network.condition(*where), rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    embedding_dim=st.one_of(st.integers(1, 40), st.sampled_from([2, 7, 11, 31, 37])),
    near=st.integers(1, 5),
    wide=st.integers(1, 5),
    padding=st.integers(1, 4),
    content=st.sampled_from([0.0, -3.0, 1e30, float("inf"), float("nan")]),
    seed=st.integers(0, 1000),
)
def test_padding_has_no_influence(embedding_dim, near, wide, padding, content, seed):
    torch.manual_seed(seed)
    network = small_network(embedding_dim)
    spot, near_context, wide_context = context(embedding_dim, near=near, wide=wide)
    expected = network.condition(spot, near_context, wide_context)

    def padded(tensor):
        places = torch.randperm(tensor.shape[1] + padding)[: tensor.shape[1]]
        full = torch.full((tensor.shape[0], tensor.shape[1] + padding, embedding_dim), content)
        mask = torch.zeros(full.shape[:2], dtype=torch.bool)
        full[:, places], mask[:, places] = tensor, True
        return full, mask

    (near_full, near_mask), (wide_full, wide_mask) = padded(near_context), padded(wide_context)
    actual = network.condition(spot, near_full, wide_full, near_mask, wide_mask)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(embedding_dim=st.integers(1, 40), seed=st.integers(0, 1000))
def test_order_of_neighbours_has_no_influence(embedding_dim, seed):
    torch.manual_seed(seed)
    network = small_network(embedding_dim)
    spot, near, wide = context(embedding_dim)
    shuffled = network.condition(spot, near[:, torch.randperm(4)], wide[:, torch.randperm(7)])
    torch.testing.assert_close(shuffled, network.condition(spot, near, wide), rtol=1e-4, atol=1e-5)


def test_gradient_of_masked_entries_is_zero_and_of_real_ones_is_not():
    network, (spot, near, wide) = small_network(), context()
    near.requires_grad_()
    wide.requires_grad_()
    near_mask, wide_mask = (
        torch.arange(4) < torch.tensor([[1], [2], [4]]),
        torch.arange(7) < torch.tensor([[3], [7], [1]]),
    )
    network(torch.randn(3, 1, 5), torch.arange(3), spot, near, wide, near_mask, wide_mask).square().sum().backward()
    for tensor, mask in ((near, near_mask), (wide, wide_mask)):
        size = tensor.grad.abs().amax(dim=2)
        assert size[~mask].max() == 0
        assert size[mask].min() > 0


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3, 4, dtype=torch.int64), "neighbour mask is torch.int64 .* must be torch.bool"),
        (torch.ones(3, 5, dtype=torch.bool), r"of shape \(3, 5\); it must be torch.bool of shape \(3, 4\)"),
        (
            torch.tensor([[True] * 4, [False] * 4, [True] * 4]),
            r"1 spots .* no real neighbour neighbour \(first: number 1\)",
        ),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused(mask, message):
    with pytest.raises(HisDiffError, match=message):
        small_network().condition(*context(), neighbour_mask=mask)


def test_global_mask_without_a_real_neighbour_is_refused():
    with pytest.raises(HisDiffError, match=r"3 spots .* no real global neighbour"):
        small_network().condition(*context(), global_mask=torch.zeros(3, 7, dtype=torch.bool))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 1, 6)}, r"x has shape \(3, 1, 6\).*'n_genes': 5.*needs \(any, 1, 5\)"),
        ({"x": torch.zeros(3, 5)}, "x has shape"),
        ({"t": torch.zeros(1, dtype=torch.int64)}, r"t has shape \(1,\).*needs \(3\)"),
        ({"spot": torch.zeros(3, 13)}, r"spot has shape \(3, 13\)"),
        ({"spot": torch.zeros(1, 12)}, r"the neighbour context has shape \(3, 4, 12\).*needs \(1, any, 12\)"),
        ({"neighbour": torch.zeros(3, 4, 13)}, "the neighbour context has shape"),
        ({"global_": torch.zeros(2, 7, 12)}, "the global context has shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message):
    spot, near, wide = context()
    inputs = {"x": torch.zeros(3, 1, 5), "t": torch.arange(3), "spot": spot, "neighbour": near, "global_": wide}
    with pytest.raises(HisDiffError, match=message):
        small_network()(**(inputs | change))


def test_a_condition_of_another_batch_is_refused():
    network = small_network()
    with pytest.raises(HisDiffError, match=r"condition has shape \(1, 8\)"):
        network.denoise(torch.zeros(3, 1, 5), torch.arange(3), torch.zeros(1, 8))


def test_half_precision_tells_late_steps_apart():
    network = small_network().to(torch.bfloat16)
    embedded = network.time_embed(torch.arange(990, 1000))
    assert embedded.dtype is torch.bfloat16
    assert len(torch.unique(embedded, dim=0)) == 10
