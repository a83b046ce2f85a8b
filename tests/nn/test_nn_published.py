from __future__ import annotations

import os
import pickle
import re

import pytest
import torch

from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.nn import HisDiffNetwork, load_published_state


@pytest.fixture
def network():
    network = HisDiffNetwork(5, 24, width=16, depth=3, num_heads=4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return network


@pytest.fixture
def save(tmp_path):
    """Write a published-format checkpoint around a state dict."""

    def write(state, **others):
        path = tmp_path / "checkpoint.pt"
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], lr=1e-4, weight_decay=0)
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
        optimizer.step()
        torch.save({"model": state, "opt": optimizer.state_dict(), "epoch": 1999, **others}, path)
        return path

    return write


def output(network):
    generator = torch.Generator().manual_seed(1)
    shapes = (2, 1, 5), (2, 24), (2, 9, 24), (2, 49, 24)
    x, *context = (torch.randn(shape, generator=generator) for shape in shapes)
    with torch.no_grad():
        return network(x, torch.tensor([3, 900]), *context)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_checkpoint_gives_identical_outputs(network, save, prefix):
    path = save({prefix + name: value for name, value in network.state_dict().items()})
    loaded = load_published_state(str(path), n_genes=5, num_heads=4)
    assert loaded.config == network.config
    torch.testing.assert_close(output(loaded), output(network), rtol=0, atol=0)
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_published_reference_checkpoint_is_read(reference, save):
    """The file that the authors' training would write for the reference network, by their names and shapes."""
    loaded = load_published_state(save(reference.state()), n_genes=12, num_heads=4)
    with torch.no_grad():
        condition = loaded.condition(*reference.context())
    torch.testing.assert_close(condition, torch.from_numpy(reference.arrays["condition"]), rtol=0, atol=1e-5)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "no.pt", tmp_path):
        with pytest.raises(MissingFileError, match=f"there is no checkpoint file '{re.escape(str(path))}'"):
            load_published_state(path, n_genes=5)


class Touch:
    """Unpickling this runs code that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle2", "pickle4"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_file_is_refused_and_not_run(tmp_path, how, network):
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    content = {"model": network.state_dict(), "opt": Touch(trace), "epoch": 1}
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps(Touch(trace), protocol=int(how[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(HisDiffError, match=r"the code was not run|nothing in it was run") as caught:
        load_published_state(path, n_genes=5, num_heads=4)
    if how != "pickle4":  # torch's reader stops at that protocol before it sees what the file asks for
        assert re.search(r"holds code \(\w+\.mkdir\), not only tensors", str(caught.value))
    assert "weights_only" not in str(caught.value)
    assert not trace.exists()
    torch.load(path, weights_only=False) if how in ("zip", "legacy") else pickle.loads(path.read_bytes())
    assert trace.exists(), "the file would have run code: the test can fail"


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text", b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\x03\x04 cut short"]
)
def test_a_file_that_is_no_torch_file_is_refused(tmp_path, content):
    path = tmp_path / "text.pt"
    path.write_bytes(content)
    with pytest.raises(HisDiffError, match=r"text\.pt' is not a torch file"):
        load_published_state(path, n_genes=5)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused(tmp_path, network, zipped):
    path = tmp_path / "cut.pt"
    torch.save({"model": network.state_dict()}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for size in range(1, len(whole), len(whole) // 40):
        path.write_bytes(whole[:size])
        with pytest.raises(HisDiffError, match=r"cut\.pt' is not a torch file"):
            load_published_state(path, n_genes=5, num_heads=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "epoch": 3}, "has no key 'model'; its keys: 'state_dict', 'epoch'$"),
        ({str(i): i for i in range(20)}, r"its keys: '0', .*'7' \.\.\.$"),
        ({}, "its keys: none"),
        ([1, 2], "holds a list, not a dict with the key 'model'"),
        ({"model": [1]}, "'model' in .* is not a state dict"),
        ({"model": {"a": 1}}, "'model' in .* is not a state dict"),
        ({"model": {"a": torch.ones(1)}}, "not a HisDiff checkpoint: parameter 'inputEmbedder.ebd_layer_1' is missing"),
    ],
)
def test_other_torch_files_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(HisDiffError, match=message):
        load_published_state(tmp_path / "other.pt", n_genes=5)


def without(name):
    return lambda state: state.pop(name)


def replaced(name, shape):
    return lambda state: state.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("final_layer.linear.bias"), r"1 missing \(final_layer.linear.bias\)$"),
        (replaced("pos_embed", (1, 5)), r"1 unexpected \(pos_embed\)$"),
        (replaced("img_ebd.2.bias", (17,)), r"1 misshapen \(img_ebd.2.bias \(17,\) instead of \(16,\)\)$"),
        (
            replaced("blocks.7.attn.proj.bias", (16,)),
            r"10 missing \(blocks.3.\S+, blocks.3.\S+, blocks.3.\S+, \.\.\.\); 1 unexpected",
        ),
        (
            replaced("inputEmbedder.ebd_layer_1", (5,)),
            r"'inputEmbedder.ebd_layer_1' .* shape \(5,\); it must have two axes",
        ),
        (without("img_ebd.0.weight"), "parameter 'img_ebd.0.weight' is missing"),
    ],
)
def test_wrong_parameters_are_named(network, save, change, message):
    state = dict(network.state_dict())
    change(state)
    with pytest.raises(HisDiffError, match=message):
        load_published_state(save(state), n_genes=5, num_heads=4)


def test_wrong_gene_count_gives_both_numbers(network, save):
    with pytest.raises(HisDiffError, match="was trained on 5 genes, but the panel has 6"):
        load_published_state(save(network.state_dict()), n_genes=6, num_heads=4)


@pytest.mark.parametrize("num_heads", [12, 0, -1])
def test_heads_that_do_not_divide_the_width_are_refused(network, save, num_heads):
    with pytest.raises(HisDiffError, match=f"has width 16, which num_heads {num_heads} does not divide"):
        load_published_state(save(network.state_dict()), n_genes=5, num_heads=num_heads)
