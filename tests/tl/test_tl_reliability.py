"""Leaving slides out: what is kept of a fold, which genes are called reliable, and what a model says of its slides."""

from __future__ import annotations

import dataclasses
import logging
import shutil

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import hisdiff_sd as hd
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.tiles import nearest
from hisdiff_sd.tl import _folds, _presets
from hisdiff_sd.tl._gather import spot_grid
from hisdiff_sd.tl._lightning_ddpm import HisDiffModule, SpotTensors
from hisdiff_sd.tl._reliability import judge_genes


@pytest.fixture
def preset(monkeypatch):
    """Change the small preset, make its network smaller still, and sample quickly."""
    monkeypatch.setattr(_folds, "SAMPLES", 2)

    def change(**values) -> None:
        values = {"width": 16, "depth": 1, "num_heads": 2, **values}
        monkeypatch.setitem(_presets.PRESETS, "small", dataclasses.replace(_presets.PRESETS["small"], **values))

    return change


@pytest.fixture
def seen(monkeypatch):
    """What the folds predict with, and what they predict."""
    calls: list = []
    real = _folds._predict

    def watched(data, left_out, recipe, settings):
        weights = {k: v.clone() for k, v in recipe.network.state_dict().items()}
        predicted, temperature = real(data, left_out, recipe, settings)
        calls.append((data, left_out, weights, recipe.scalers, settings, predicted))
        return predicted, temperature

    monkeypatch.setattr(_folds, "_predict", watched)
    return calls


def train(stores, panel, names=("S1", "S2"), **options) -> hd.HisDiff:
    return hd.tl.train(
        [stores[n] for n in names], **{"genes": panel, "encoder": "morphology", "preset": "small"} | options
    )


def test_a_left_out_slide_is_predicted_with_the_averaged_weights_of_its_best_epoch(
    stores, panel, preset, seen, tmp_path, monkeypatch
):
    preset(epochs=14, weight_decay=0.0, warmup=0, cosine=False, ema=0.5)
    training_step = HisDiffModule.training_step

    def spoiled(self, batch, batch_idx):
        """From the seventh epoch on the network unlearns."""
        return training_step(self, batch, batch_idx) * (1 if self.current_epoch < 6 else -1)

    monkeypatch.setattr(HisDiffModule, "training_step", spoiled)
    train(stores, panel, out=tmp_path / "model")
    log = pd.read_csv(tmp_path / "model" / "log.csv", keep_default_na=False)
    for data, left_out, weights, scalers, settings, _ in seen:
        slide = data.inputs[left_out]
        judged = pd.to_numeric(log[log["held_out"] == slide.name].set_index("epoch")["val_loss"])
        network = hd.nn.HisDiffNetwork(len(panel), slide.embedding.shape[1], width=16, depth=1, num_heads=2)
        network.load_state_dict(weights)
        spots = SpotTensors([slide], [data.truth[left_out]], scalers)
        module = HisDiffModule(network, spots, spots, settings.preset)
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
        batches = DataLoader(TensorDataset(torch.arange(slide.n)), batch_size=256)
        (result,) = trainer.validate(module, batches, verbose=False)
        assert result["val_loss"] == pytest.approx(judged.min(), rel=1e-4)
        # the averaged weights of another epoch, or those of this one that are not averaged, would not have this loss
        assert judged.idxmin() < 9 < judged.index[-1]
        assert judged.iloc[-1] > 1.01 * judged.min()
    assert len(seen) == 2


def test_folds_leave_their_slide_out_and_become_the_reliability(stores, panel, preset, seen):
    preset(epochs=4)
    model = train(stores, panel)
    genes = model.trust.genes
    assert [call[1] for call in seen] == [0, 1]
    for data, left_out, _, scalers, _, predicted in seen:
        other = data.truth[1 - left_out].y
        np.testing.assert_allclose(scalers.target_shift, other.mean(0), rtol=1e-4)
        assert predicted.shape == data.truth[left_out].y.shape
        assert (predicted >= 0).all()
    expected = np.mean([hd.metrics.pcc(c[5], c[0].truth[c[1]].y) for c in seen], axis=0)
    np.testing.assert_allclose(genes.pcc, expected, atol=1e-12)
    assert (genes.slides, genes.samples, genes.steps, genes.shifts) == (("S1", "S2"), 2, 8, 1000)
    assert model.reliability()["pcc"].tolist() == genes.pcc.tolist()


def test_a_slide_that_was_predicted_is_not_predicted_again(stores, panel, preset, seen, tmp_path, monkeypatch):
    preset(epochs=4)
    whole = train(stores, panel)
    assert len(seen) == 2
    with monkeypatch.context() as patch:
        patch.setattr("hisdiff_sd.tl._train.fit_baselines", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(stores, panel, out=tmp_path / "model")
    (work,) = [p for p in tmp_path.iterdir() if "training" in p.name]
    files = {p.name for p in work.iterdir()}
    assert {"fold-0.csv", "fold-0.npz", "fold-1.csv", "fold-1.npz"} <= files
    assert not [f for f in files if f.startswith(".")]
    model = train(stores, panel, out=tmp_path / "model")
    assert len(seen) == 4
    assert model.fingerprint == whole.fingerprint


def test_a_fold_that_failed_while_it_was_predicted_is_predicted_with_the_same_weights(
    stores, panel, preset, seen, tmp_path, monkeypatch
):
    preset(epochs=10)
    whole = train(stores, panel)
    with monkeypatch.context() as patch:
        patch.setattr(_folds, "_predict", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(stores, panel, out=tmp_path / "model")
    (work,) = [p for p in tmp_path.iterdir() if "training" in p.name]
    assert (work / "fold-0" / "best.ckpt").exists()
    assert not [p.name for p in work.iterdir() if p.is_file()]
    model = train(stores, panel, out=tmp_path / "model")
    for name, weights in seen[0][2].items():
        torch.testing.assert_close(seen[2][2][name], weights, rtol=0, atol=0)
    assert model.fingerprint == whole.fingerprint


def test_an_interrupted_fold_keeps_the_best_epoch_it_had(stores, panel, preset, seen, tmp_path, monkeypatch):
    preset(epochs=14, learning_rate=3e-2, weight_decay=0.0, cosine=False, ema=0.6)
    taken, real = 0, hd.nn.GaussianDiffusion.training_loss

    def stopped(*args):
        nonlocal taken
        taken += 1
        if taken == 13:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(hd.nn.GaussianDiffusion, "training_loss", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(stores, panel, out=tmp_path / "model")
    (work,) = [p for p in tmp_path.iterdir() if "training" in p.name]
    before = torch.load(work / "fold-0" / "best.ckpt", weights_only=True)["state_dict"]

    def worse(self, batch, index):
        """As if all epochs after the interruption were worse than those before."""
        self.log("val_loss", torch.tensor(1e6), batch_size=len(batch[0]))

    with monkeypatch.context() as patch:
        patch.setattr(HisDiffModule, "validation_step", worse)
        train(stores, panel, out=tmp_path / "model")
    for name, weights in seen[0][2].items():
        torch.testing.assert_close(weights, before[f"network.{name}"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("names", "options"), [(("S1", "S2"), {"epochs": 1}), (("S1",), {}), (("S1", "S2"), {"preset": "published"})]
)
def test_without_left_out_slides_nothing_is_said_of_genes(stores, panel, preset, caplog, monkeypatch, names, options):
    preset(epochs=1)
    tiny = dataclasses.replace(_presets.PRESETS["published"], width=8, depth=1, num_heads=2, epochs=1)
    monkeypatch.setitem(_presets.PRESETS, "published", tiny)
    with caplog.at_level(logging.WARNING, logger="hisdiff_sd"):
        model = train(stores, panel, names, **options)
    assert model.trust.genes is None
    assert "no slide was left out in training: which genes are reliable is not known" in caplog.text
    assert model.trust.ood.score(np.zeros((1, model.network.embedding_dim), np.float32)) > 1


def maps_of(n_slides: int, n_genes: int, seed: int) -> tuple[list[SlideInputs], list[np.ndarray]]:
    """Slides of 14 x 14 spots, and smooth maps of every gene on each."""
    xy = 300.0 * np.indices((14, 14)).reshape(2, -1).T
    distance = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1)) / 600
    values, vectors = np.linalg.eigh(np.exp(-(distance**2) / 2))
    root = vectors * np.sqrt(values.clip(0))
    rng = np.random.default_rng(seed)
    slides, maps = [], []
    for i in range(n_slides):
        embedding = rng.standard_normal((len(xy), 4)).astype(np.float32)
        slides.append(SlideInputs(f"S{i}", pd.RangeIndex(len(xy)), xy, embedding, nearest(xy, 9), nearest(xy, 49)))
        maps.append(root @ rng.standard_normal((len(xy), n_genes)))
    return slides, maps


def measured(y: np.ndarray) -> Measured:
    return Measured(y, np.ones(len(y)))


def test_genes_that_are_predicted_are_told_from_smooth_maps_that_are_not():
    slides, truth = maps_of(3, 60, 0)
    _, other = maps_of(3, 60, 1)
    known = np.arange(60) < 20
    predicted = [np.where(known, t + o, o) for t, o in zip(truth, other, strict=True)]
    genes = judge_genes(slides, [measured(t) for t in truth], predicted, samples=8, steps=50, seed=0)
    np.testing.assert_allclose(genes.pcc[known], np.sqrt(0.5), atol=0.2)
    assert genes.reliable[known].mean() >= 0.95
    assert genes.reliable[~known].sum() <= 1
    assert (genes.q >= genes.p).all()
    # Benjamini and Hochberg: the k-th smallest of n p-values is multiplied by n / k, and the order is kept
    order = np.argsort(genes.p)
    stepped = genes.p[order] * 60 / np.arange(1, 61)
    np.testing.assert_allclose(genes.q[order], np.minimum.accumulate(stepped[::-1])[::-1].clip(0, 1))


def test_a_gene_beyond_chance_but_hardly_predicted_is_no_go():
    slides, truth = maps_of(3, 1, 0)
    noise = np.random.default_rng(0)
    # as rough as noise, so that a small correlation is beyond chance
    rough = [noise.standard_normal((196, 40)) for _ in truth]
    predicted = [r + 6.5 * noise.standard_normal(r.shape) for r in rough]
    genes = judge_genes(slides, [measured(r) for r in rough], predicted, samples=8, steps=50, seed=0)
    weak = (genes.p < 0.01) & (genes.pcc < 0.2)
    assert weak.sum() > 5
    assert not genes.reliable[weak].any()


def test_genes_that_a_slide_cannot_judge_are_left_open(caplog):
    slides, truth = maps_of(1, 3, 0)
    few = [SlideInputs("S", slides[0].index[:6], slides[0].xy[:6], slides[0].embedding[:6], *[slides[0].near] * 2)]
    with caplog.at_level(logging.WARNING, logger="hisdiff_sd"):
        assert judge_genes(few, [measured(truth[0][:6])], [truth[0][:6]], samples=1, steps=1, seed=0) is None
    assert "which genes are reliable cannot be told: 6 spots are too few" in caplog.text


def hexagonal(rows: int, columns: int) -> np.ndarray:
    row, column = np.indices((rows, columns)).reshape(2, -1)
    return np.column_stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2])


def square(rows: int, columns: int) -> np.ndarray:
    return np.indices((rows, columns)).reshape(2, -1).T.astype(float)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (6, 7), (40, 30)])
@pytest.mark.parametrize(("lay", "name"), [(square, "square"), (hexagonal, "hexagonal")])
def test_the_grid_of_spots_is_measured(lay, name, rows, columns):
    rng = np.random.default_rng(0)
    xy = lay(rows, columns)
    assert spot_grid(xy) == name
    jittered = 271.0 * (xy + rng.normal(0, 0.03, xy.shape))
    assert spot_grid(jittered) == name
    angle = 0.4
    turned = xy @ [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert spot_grid(turned[rng.permutation(len(xy))]) == name
    if len(xy) > 100:  # holes in the tissue
        assert spot_grid(xy[rng.random(len(xy)) > 0.1]) == name


def test_spots_on_no_grid_have_none():
    rng = np.random.default_rng(0)
    assert spot_grid(rng.uniform(0, 100, (500, 2))) == ""
    assert spot_grid(square(2, 3)) == ""
    assert spot_grid(np.column_stack([np.arange(50.0), np.zeros(50)])) == ""


def test_a_model_knows_the_scale_of_its_slides(model, stores):
    config = model.config
    assert config.spot_grid == "square"
    assert (config.spot_pitch_um, config.mpp) == (200.0, 1.1)
    assert config.spot_diameter_um == pytest.approx(100.0)
    assert config.tile_side_um == pytest.approx(224 * 1.1)


def test_the_scale_of_visium_slides_and_of_tiles_of_a_physical_size(tmp_path):
    root = hd.datasets.synthetic(
        tmp_path / "hest", slides=("V1",), technology="Visium", size_um=(1100.0, 1000.0), mpp=1.3, n_genes=20
    )
    slide = hd.io.hest(root, "V1")
    genes = list(slide["table"].var_names[:5])
    config = hd.tl.train([slide], genes=genes, encoder="morphology", preset="small", tile_um=112, epochs=1).config
    assert config.spot_grid == "hexagonal"
    assert config.spot_diameter_um == pytest.approx(55.0)
    assert config.tile_side_um == pytest.approx(112.0)
    assert config.mpp == pytest.approx(1.3)


def test_the_grid_of_real_sections_is_square(real_hest):
    for name in ("C2", "C3", "C4"):
        assert spot_grid(np.asarray(hd.io.hest(real_hest, name)["table"].obsm["spatial"])) == "square"


def test_training_leaves_no_files_of_folds_behind(stores, panel, preset, tmp_path):
    preset(epochs=2)
    for name in ("S1", "S2"):
        shutil.copytree(stores[name], tmp_path / f"{name}.zarr")
    slides = [tmp_path / "S1.zarr", tmp_path / "S2.zarr"]
    hd.tl.train(slides, genes=panel, encoder="morphology", preset="small", out=tmp_path / "m")
    assert {p.name for p in tmp_path.iterdir()} <= {"S1.zarr", "S2.zarr", "m", ".m.hisdiff_sd"}
    bundle = {"README.md", "config.json", "model.safetensors", "log.csv", "loss.png"}
    assert {p.name for p in (tmp_path / "m").iterdir()} == bundle
