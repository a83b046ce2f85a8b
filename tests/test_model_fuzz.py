"""Models of others with anything in their files: loaded, or refused with one line of ours; no code of theirs is run."""

from __future__ import annotations

import ast
import copy
import json
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.model import ModelConfig, Scalers

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
MANY = settings(FEW, max_examples=3000)
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 9), st.just(10**400), st.just(10**7), st.floats(), st.text(max_size=5)
)
JSON = st.recursive(PLAIN, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3))


@pytest.fixture(scope="module", params=["ddpm", pytest.param("flow", marks=pytest.mark.slow)])
def folder(request, tmp_path_factory):
    """A small model, its files to be replaced by every example."""
    path = tmp_path_factory.mktemp("model") / "model"
    if request.param == "ddpm":
        network = hd.nn.HisDiffNetwork(3, 6, width=8, depth=2, num_heads=2)
        config = ModelConfig(genes=("A", "B", "C"), training={"slides": ["S"]}, spot_pitch_um=100.0)
        hd.HisDiff(network, config, Scalers.identity(3, 6)).save(path)
    else:
        request.getfixturevalue("flow_model").save(path)
    return path


@pytest.fixture(scope="module")
def flow_model(stores, panel):
    return hd.tl.train([stores["S1"], stores["S2"]], genes=panel[:3], encoder="morphology", preset="flow", epochs=1)


@pytest.fixture(scope="module")
def whole(folder):
    return json.loads((folder / "config.json").read_text()), safetensors.torch.load_file(folder / "model.safetensors")


def places(value, path=()):
    """Every place in a nested value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, inner in inside for p in places(inner, (*path, key)))]


def load(folder):
    try:
        model = hd.HisDiff.load(folder)
    except HisDiffError as error:
        message = str(error)
    else:
        assert model.fingerprint
        assert repr(model)
        return
    assert "\n" not in message
    assert str(folder) in message


def check_config(folder, whole, pick, value):
    config = copy.deepcopy(whole[0])
    known = places(config)
    *path, last = known[1 + pick % (len(known) - 1)]
    inner = config
    for key in path:
        inner = inner[key]
    inner[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(whole[1], folder / "model.safetensors")
    load(folder)


@FEW
@given(st.integers(0, 999), JSON)
def test_a_configuration_of_any_values(folder, whole, pick, value):
    check_config(folder, whole, pick, value)


@pytest.mark.slow
@MANY
@given(st.integers(0, 999), JSON)
def test_a_configuration_of_many_values(folder, whole, pick, value):
    check_config(folder, whole, pick, value)


@FEW
@given(
    st.integers(0, 999),
    st.sampled_from([torch.float32, torch.int8, torch.bool, torch.float64]),
    st.lists(st.integers(0, 4)),
)
def test_tensors_of_any_shape(folder, whole, pick, dtype, shape):
    tensors = dict(whole[1])
    name = sorted(tensors)[pick % len(tensors)]
    tensors[name] = torch.zeros(shape[:4], dtype=dtype)
    (folder / "config.json").write_text(json.dumps(whole[0]))
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    load(folder)


@FEW
@given(st.binary(max_size=80), st.integers(0, 200), st.booleans())
def test_files_of_any_bytes(folder, whole, content, at, header):
    (folder / "config.json").write_text(json.dumps(whole[0]))
    safetensors.torch.save_file(whole[1], folder / "model.safetensors")
    path = folder / ("model.safetensors" if header else "config.json")
    old = path.read_bytes()
    path.write_bytes(old[:at] + content + old[at + len(content) :])
    load(folder)


@pytest.mark.parametrize("sizes", [{"width": 10**6}, {"depth": 10**9}, {"n_genes": 10**9}, {"embedding_dim": 10**6}])
def test_a_network_larger_than_its_file_takes_no_memory(folder, whole, sizes):
    config = copy.deepcopy(whole[0])
    config["network"] |= sizes
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(whole[1], folder / "model.safetensors")
    tracemalloc.start()
    try:
        with pytest.raises(HisDiffError, match="cannot be"):
            hd.HisDiff.load(folder)
        assert tracemalloc.get_traced_memory()[1] < 1e8
    finally:
        tracemalloc.stop()


class Touch:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "pytorch_model.bin"])
def test_a_pickle_in_a_model_is_not_run(folder, whole, tmp_path, name):
    (folder / "config.json").write_text(json.dumps(whole[0]))
    safetensors.torch.save_file(whole[1], folder / "model.safetensors")
    payload = pickle.dumps(Touch(tmp_path / "trace"))
    (folder / name).write_bytes(payload)
    load(folder)
    (folder / "pytorch_model.bin").unlink(missing_ok=True)
    assert not (tmp_path / "trace").exists()


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes a published checkpoint whose parameters another one has changed."""
    network = hd.nn.HisDiffNetwork(3, 6, width=8, depth=1, num_heads=2)

    def write(change):
        state = dict(network.state_dict())
        change(state)
        torch.save({"model": state, "opt": {}, "epoch": 1}, tmp_path / "a.pt")
        return tmp_path / "a.pt"

    return write


def expanded(state):
    state["inputEmbedder.ebd_layer_1"] = torch.zeros(1, 1).expand(3, 10**7)


def all_expanded(state):
    wide = hd.nn.HisDiffNetwork(3, 6, width=512, depth=1, num_heads=2).state_dict()
    state.update({name: torch.zeros(1).expand(value.shape) for name, value in wide.items()})


def sparse(state):
    state["img_ebd.0.weight"] = state["img_ebd.0.weight"].to_sparse()


def no_rows(state):
    state["inputEmbedder.ebd_layer_1"] = torch.zeros(3, 0)


def odd(state):
    state["inputEmbedder.ebd_layer_1"] = torch.zeros(3, 7)


def whole_numbers(state):
    state["img_ebd.0.weight"] = state["img_ebd.0.weight"].to(torch.complex64)


@pytest.mark.parametrize("change", [expanded, all_expanded, sparse, no_rows, odd, whole_numbers])
def test_a_checkpoint_with_odd_tensors(checkpoint, change):
    path = checkpoint(change)
    assert path.stat().st_size < 10**6
    try:
        network = hd.HisDiff.from_published(path, ["A", "B", "C"], num_heads=1).network
    except HisDiffError as error:
        message = str(error)
    else:
        assert change in (sparse, whole_numbers)
        assert network.n_genes == 3
        return
    assert str(path) in message
    assert "\n" not in message


SOURCE = Path(hd.__file__).parent
# a cluster's worker gets the function that its own client was given
ALLOWED = {("_cohort_cluster.py", "cloudpickle.loads")}
RUN_CODE = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
RUN_CODE |= {
    f"{module}.{name}"
    for module in ("pickle", "cloudpickle", "dill", "marshal", "joblib")
    for name in ("load", "loads")
}
RUN_CODE |= {"yaml.load", "yaml.unsafe_load", "pd.read_pickle", "shelve.open"}


def test_nothing_in_the_package_runs_code_of_a_file():
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            unsafe = name in RUN_CODE or options.get("allow_pickle") == "True"
            unsafe |= name == "torch.load" and options.get("weights_only") != "True"
            if unsafe and (path.name, name) not in ALLOWED:
                found.append(f"{path.name}:{node.lineno}: {name}")
    assert found == []


def test_arrays_of_objects_are_refused_by_default(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([Touch(tmp_path / "trace")], object))
    with np.load(tmp_path / "a.npz") as stored, pytest.raises(ValueError, match="allow_pickle"):
        stored["a"]
    assert not (tmp_path / "trace").exists()
