"""The model bundle: saved, loaded and refused."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

import hisdiff_sd as hd
from hisdiff_sd._baselines import fit_baselines
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.model import ModelConfig, Scalers
from hisdiff_sd.tiles import nearest

GENES = ("ACTB", "ERBB2", "GFAP")
WIDTH = 6
CPU = torch.device("cpu")


def a_slide(n: int = 30, seed: int = 0) -> SlideInputs:
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 1000, (n, 2))
    embedding = rng.normal(size=(n, WIDTH)).astype(np.float32)
    return SlideInputs("S", pd.Index([f"b{i}" for i in range(n)]), xy, embedding, nearest(xy, 9), nearest(xy, 49))


def a_network(num_heads: int = 2) -> hd.nn.HisDiffNetwork:
    network = hd.nn.HisDiffNetwork(len(GENES), WIDTH, width=8, depth=1, num_heads=num_heads)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network


@pytest.fixture
def bundle() -> hd.HisDiff:
    """A model with everything in it."""
    slides = [a_slide(seed=1), a_slide(seed=2)]
    rng = np.random.default_rng(0)
    truth = [Measured(rng.uniform(0, 5, (s.n, len(GENES))), rng.uniform(100, 900, s.n)) for s in slides]
    config = ModelConfig(
        genes=GENES,
        target="cp10k",
        encoder="morphology",
        encoder_hash="abc",
        tile="112um",
        species="Homo sapiens",
        gene_id_type="symbol",
        spot_pitch_um=200.0,
        training={"slides": ["A", "B"], "patients": ["P"], "settings": {"rate": 1e-3, "sizes": [1, 2]}},
        licences={"encoder": "BSD-3-Clause"},
    )
    scalers = Scalers(*(rng.uniform(0.5, 2, n).astype(np.float32) for n in (3, 3, WIDTH, WIDTH)))
    return hd.HisDiff(a_network(), config, scalers, fit_baselines(slides, truth))


def test_what_is_saved_is_what_is_loaded(bundle, tmp_path):
    bundle.save(tmp_path / "model")
    loaded = hd.HisDiff.load(tmp_path / "model")
    assert loaded.fingerprint == bundle.fingerprint
    assert loaded.config == bundle.config
    assert loaded.genes == list(GENES)
    assert loaded.network.config == bundle.network.config
    slide = a_slide(seed=5)
    torch.testing.assert_close(loaded.condition(slide, CPU), bundle.condition(slide, CPU), rtol=0, atol=0)
    for method in ("mean", "depth_map", "ridge"):
        np.testing.assert_array_equal(
            loaded.baselines.predict(method, slide), bundle.baselines.predict(method, slide), err_msg=method
        )
    np.testing.assert_array_equal(loaded.baselines.dressed(slide, 3, 1), bundle.baselines.dressed(slide, 3, 1))
    np.testing.assert_array_equal(loaded.baselines.top_variance, bundle.baselines.top_variance)
    for field in dataclasses.fields(Scalers):
        np.testing.assert_array_equal(getattr(loaded.scalers, field.name), getattr(bundle.scalers, field.name))


def test_a_loaded_model_predicts_the_same(tiny_model, open_store, tmp_path):
    tiny_model.save(tmp_path / "model")
    tables = []
    for model in (tiny_model, tmp_path / "model"):
        sdata = open_store("S3")
        hd.tl.predict(sdata, model, n_samples=2, steps=3)
        tables.append(sdata["hisdiff"])
    np.testing.assert_array_equal(tables[0].X, tables[1].X)
    assert tables[0].uns["hisdiff_sd"] == tables[1].uns["hisdiff_sd"]


def test_a_model_is_two_files_and_a_card(bundle, tmp_path):
    bundle.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["config"]["genes"] == list(GENES)
    assert not [p for p in (tmp_path / ".model.hisdiff_sd").iterdir() if p.name.startswith("stage-")]


def test_whoever_may_read_the_folder_may_read_all_files_of_a_model(bundle, tmp_path):
    bundle.save(tmp_path / "model")
    assert len({path.stat().st_mode for path in (tmp_path / "model").iterdir()}) == 1


def test_a_model_without_baselines_is_saved_too(bundle, tmp_path):
    bare = hd.HisDiff(bundle.network, bundle.config, bundle.scalers)
    bare.save(tmp_path / "model")
    loaded = hd.HisDiff.load(str(tmp_path / "model"))
    assert loaded.baselines is None
    assert loaded.fingerprint == bare.fingerprint != bundle.fingerprint


def test_a_model_that_is_there_is_kept_unless_it_may_be_replaced(bundle, tmp_path):
    path = tmp_path / "model"
    bundle.save(path)
    other = hd.HisDiff(a_network(), dataclasses.replace(bundle.config, target="log2"), bundle.scalers)
    with pytest.raises(HisDiffError, match=f"{re.escape(str(path))} exists already; give overwrite=True"):
        other.save(path)
    assert hd.HisDiff.load(path).fingerprint == bundle.fingerprint
    other.save(path, overwrite=True)
    assert hd.HisDiff.load(path).fingerprint == other.fingerprint


def test_a_folder_that_is_no_model_is_never_replaced(bundle, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    for path in (tmp_path / "thesis", tmp_path / "thesis" / "chapter1.tex"):
        with pytest.raises(HisDiffError, match=f"{re.escape(str(path))} holds no model and is not replaced"):
            bundle.save(path, overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


def test_a_save_that_fails_leaves_the_old_model(bundle, tmp_path, monkeypatch):
    path = tmp_path / "model"
    bundle.save(path)
    other = hd.HisDiff(a_network(), dataclasses.replace(bundle.config, target="log2"), bundle.scalers)

    write = Path.write_bytes

    def half(file, data):
        write(file, data[: len(data) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        other.save(path, overwrite=True)
    with pytest.raises(OSError, match="No space left"):
        other.save(tmp_path / "new")
    monkeypatch.undo()
    assert hd.HisDiff.load(path).fingerprint == bundle.fingerprint
    assert not (tmp_path / "new").exists()
    assert [p for p in tmp_path.rglob("*") if p.name.startswith("stage-")] == []


@pytest.mark.parametrize("change", ["genes", "target", "tile", "training", "weight", "scaler", "baseline", "heads"])
def test_everything_that_changes_predictions_changes_the_fingerprint(bundle, change):
    config, scalers, baselines, network = bundle.config, bundle.scalers, bundle.baselines, a_network()
    if change == "genes":
        config = dataclasses.replace(config, genes=tuple(reversed(GENES)))
    elif change in ("target", "tile"):
        config = dataclasses.replace(config, **{change: {"target": "log2", "tile": "hisdiff"}[change]})
    elif change == "training":
        config = dataclasses.replace(config, training={"slides": ["A"]})
    elif change == "weight":
        with torch.no_grad():
            network.final_layer.linear.bias[0] += 1e-6
    elif change == "scaler":
        scalers = dataclasses.replace(scalers, target_shift=scalers.target_shift + 1e-3)
    elif change == "baseline":
        baselines = dataclasses.replace(baselines, mean=baselines.mean + 1e-9)
    else:  # heads leave no trace in the weights, but other heads predict something else
        network = a_network(num_heads=4)
    assert hd.HisDiff(a_network(), bundle.config, bundle.scalers, bundle.baselines).fingerprint == bundle.fingerprint
    assert hd.HisDiff(network, config, scalers, baselines).fingerprint != bundle.fingerprint


def edit_config(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


def edit_tensors(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = safetensors.torch.load_file(path)
        change(tensors)
        safetensors.torch.save_file(tensors, path)

    return edit


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
    "no tensors": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors is missing"),
    "half a config": (lambda f: (f / "config.json").write_text('{"format": 1, '), "cannot be read"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00\x80"), "cannot be read"),
    "a list": (lambda f: (f / "config.json").write_text("[1, 2]"), "cannot be read"),
    "another's config": (lambda f: (f / "config.json").write_text('{"architectures": ["Bert"]}'), "has format None"),
    "cut tensors": (cut, "cannot be read"),
    "no tensors but text": (lambda f: (f / "model.safetensors").write_text("text"), "cannot be read"),
    "future format": (edit_config(lambda c: c.update(format=99)), "has format 99; this version reads 1"),
    "unknown field": (edit_config(lambda c: c["config"].update(colour="red")), "cannot be read.*colour"),
    "no network": (edit_config(lambda c: c.pop("network")), "cannot be read.*network"),
    "no baselines": (edit_config(lambda c: c["baselines"].pop("ridge")), "cannot be read.*ridge"),
    "other panel": (edit_config(lambda c: c["config"].update(genes=["A", "B"])), "3 genes, the panel 2"),
    "wider network": (edit_config(lambda c: c["network"].update(width=16)), "cannot be read"),
    "a weight less": (edit_tensors(lambda t: t.pop("network.final_layer.linear.bias")), "cannot be read"),
    "a weight more": (edit_tensors(lambda t: t.update({"network.x": torch.zeros(1)})), "cannot be read"),
    "a scaler less": (edit_tensors(lambda t: t.pop("scalers.target_shift")), "cannot be read.*target_shift"),
    "short scaler": (edit_tensors(lambda t: t.update({"scalers.target_shift": torch.zeros(2)})), "target_shift"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_is_refused_with_one_message(bundle, tmp_path, case):
    folder = tmp_path / "broken"
    bundle.save(folder)
    damage, message = BROKEN[case]
    damage(folder)
    with pytest.raises(HisDiffError, match=message) as caught:
        hd.HisDiff.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "nothing", "a/b/c", "~/model"])
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(MissingFileError, match=f"no model at {path}; give a folder .* or a hub id such as"):
        hd.HisDiff.load(path)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """The hub as it is without a network: nothing is cached and nothing is asked for."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_a_mistyped_name_in_a_folder_that_is_here_is_not_looked_up_on_the_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(MissingFileError, match="no model at models/mime"):
        hd.HisDiff.load("models/mime")


@pytest.mark.usefixtures("no_network")
def test_a_hub_id_without_a_network_is_one_error():
    with pytest.raises(MissingFileError, match=r"no model at lab/breast: no such folder here, .* hub says: ") as caught:
        hd.HisDiff.load("lab/breast")
    assert isinstance(caught.value.__cause__, LocalEntryNotFoundError)
    assert "connection" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_of_the_hub_is_loaded_from_its_cache(bundle, tmp_path, monkeypatch):
    bundle.save(tmp_path / "downloaded")
    asked = []

    def download(repo: str, name: str, **options: object) -> str:
        asked.append((repo, name, options))
        return str(tmp_path / "downloaded" / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert hd.HisDiff.load("lab/breast").fingerprint == bundle.fingerprint
    assert asked == [("lab/breast", "config.json", {}), ("lab/breast", "model.safetensors", {})]


@pytest.mark.usefixtures("no_network")
def test_the_hubs_own_methods_work_on_a_folder(bundle, tmp_path):
    bundle.save_pretrained(tmp_path / "pretrained")
    assert {p.name for p in (tmp_path / "pretrained").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert hd.HisDiff.from_pretrained(tmp_path / "pretrained").fingerprint == bundle.fingerprint
    assert hd.HisDiff.from_pretrained(str(tmp_path / "pretrained")).fingerprint == bundle.fingerprint
    assert hd.HisDiff.load(tmp_path / "pretrained").fingerprint == bundle.fingerprint
    bundle.save_pretrained(tmp_path / "pretrained")  # a second time into the same folder
    assert hd.HisDiff.from_pretrained(tmp_path / "pretrained").fingerprint == bundle.fingerprint


def test_panel_and_network_have_to_fit(bundle):
    with pytest.raises(HisDiffError, match="the network has 3 genes, the panel 2"):
        hd.HisDiff(a_network(), ModelConfig(genes=("A", "B")), bundle.scalers)
    with pytest.raises(HisDiffError, match="the panel has no genes"):
        ModelConfig(genes=())
    with pytest.raises(HisDiffError, match="listed more than once: A, C"):
        ModelConfig(genes=("A", "B", "C", "C", "A"))


def test_embeddings_of_another_width_are_refused_by_name(bundle):
    slide = a_slide()
    narrow = dataclasses.replace(slide, embedding=slide.embedding[:, :4])
    with pytest.raises(HisDiffError, match="slide 'S' are 4 wide, the model expects 6"):
        bundle.condition(narrow, CPU)


def test_the_condition_is_the_same_in_batches_and_uses_the_scalers(bundle):
    slide = a_slide()
    whole = bundle.condition(slide, CPU)
    torch.testing.assert_close(bundle.condition(slide, CPU, batch=7), whole, rtol=0, atol=1e-5)
    scaled = dataclasses.replace(
        slide, embedding=slide.embedding * bundle.scalers.embedding_scale + bundle.scalers.embedding_shift
    )
    plain = hd.HisDiff(a_network(), bundle.config, Scalers.identity(3, WIDTH))
    torch.testing.assert_close(bundle.condition(scaled, CPU), plain.condition(slide, CPU), rtol=0, atol=1e-4)


def test_repr_is_one_line(bundle):
    text = "HisDiff(ddpm, 3 genes, target 'cp10k', encoder 'morphology', tiles '112um', trained on A, B)"
    assert repr(bundle) == text
