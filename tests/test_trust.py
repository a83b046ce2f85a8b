"""What a model knows of its limits: the out-of-distribution score, and the list of genes, in the bundle."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import spatialdata
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from spatialdata.models import Image2DModel

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd._trust import OutOfDistribution, Reliability, Trust
from hisdiff_sd.model import ModelConfig, Scalers
from hisdiff_sd.tiles import nearest

DIM = 12


def a_slide(embedding: np.ndarray, name: str = "S", seed: int = 0) -> SlideInputs:
    n = len(embedding)
    xy = np.random.default_rng(seed).uniform(0, 5000, (n, 2))
    return SlideInputs(
        name, pd.RangeIndex(n), xy, embedding.astype(np.float32), nearest(xy, min(9, n)), nearest(xy, min(49, n))
    )


def slides_of(n_slides: int, n: int, dim: int = DIM, seed: int = 0, shift: float = 0.5) -> list[SlideInputs]:
    """Slides whose embeddings lie near a plane of three dimensions, each moved by its stain."""
    rng = np.random.default_rng(seed)
    axes = rng.standard_normal((3, dim)) * 3
    out = []
    for i in range(n_slides):
        values = rng.standard_normal((n, 3)) @ axes + 0.3 * rng.standard_normal((n, dim))
        out.append(a_slide(values + shift * rng.standard_normal(dim), f"S{i}", seed=i))
    return out


def reference_distance(train: np.ndarray, x: np.ndarray, k: int) -> np.ndarray:
    """Mahalanobis distance of a covariance that is written out and inverted."""
    shift, scale = train.mean(0), train.std(0)
    z = (train - shift) / scale
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    values, vectors = values[::-1], vectors[:, ::-1]
    dim = train.shape[1]
    rest = values[k:].mean()
    covariance = vectors[:, :k] @ np.diag(values[:k] - rest) @ vectors[:, :k].T + rest * np.eye(dim)
    d = (x - shift) / scale
    return np.sqrt((d * np.linalg.solve(covariance, d.T).T).sum(1) / dim)


def test_the_score_is_a_mahalanobis_distance_in_units_of_left_out_slides():
    slides = slides_of(3, 90)
    ood = OutOfDistribution.fit(slides)
    embeddings = [s.embedding.astype(np.float64) for s in slides]
    k = len(ood.variances)
    assert k == 3
    left_out = [
        reference_distance(np.concatenate(embeddings[:i] + embeddings[i + 1 :]), embeddings[i], k) for i in range(3)
    ]
    unit = np.quantile(np.concatenate(left_out), 0.99)
    x = np.random.default_rng(5).standard_normal((40, DIM)) * 4
    expected = reference_distance(np.concatenate(embeddings), x, k) / unit
    score = ood.score(x.astype(np.float32))
    np.testing.assert_allclose(score, expected, rtol=1e-3)
    assert score.dtype == np.float32
    np.testing.assert_array_equal(ood.trusted(x.astype(np.float32)), score <= 1)


@pytest.mark.parametrize(
    ("n_slides", "n", "dim"), [(1, 150, 12), (2, 60, 12), (2, 40, 300), (4, 150, 40), (3, 50, 1024)]
)
def test_spots_of_another_slide_of_the_kind_are_trusted_and_far_ones_are_not(n_slides, n, dim):
    *slides, other = slides_of(n_slides + 1, n, dim)
    ood = OutOfDistribution.fit(slides)
    assert ood.trusted(np.concatenate([s.embedding for s in slides])).mean() >= 0.98
    # how far slides lie from each other is not known from one, and hardly from two
    assert ood.trusted(other.embedding).mean() >= {1: 0.5, 2: 0.85}.get(n_slides, 0.95)
    scale = other.embedding.std(0)
    rng = np.random.default_rng(1)
    # off the plane that training spots lie in, each dimension well within its range
    assert ood.trusted(other.embedding + scale * rng.standard_normal(other.embedding.shape)).mean() < 0.1
    # in the plane, but far out
    assert not ood.trusted(other.embedding * 15).any()
    assert len(ood.variances) <= 64


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_units_of_an_embedding_do_not_matter(seed, scale, offset):
    *slides, other = slides_of(3, 40, seed=seed)
    scales = scale * (1 + np.arange(DIM))
    changed = [dataclasses.replace(s, embedding=(s.embedding * scales + offset).astype(np.float32)) for s in slides]
    plain = OutOfDistribution.fit(slides).score(other.embedding)
    rescaled = OutOfDistribution.fit(changed).score((other.embedding * scales + offset).astype(np.float32))
    np.testing.assert_allclose(rescaled, plain, rtol=0.02)


def test_a_score_belongs_to_its_row_however_many_there_are(monkeypatch):
    *slides, other = slides_of(3, 50)
    ood = OutOfDistribution.fit(slides)
    whole = ood.score(other.embedding)
    monkeypatch.setattr("hisdiff_sd._trust._BLOCK", 7)
    np.testing.assert_allclose(ood.score(other.embedding), whole, rtol=1e-6)
    order = np.random.default_rng(0).permutation(50)
    np.testing.assert_allclose(ood.score(other.embedding[order]), whole[order], rtol=1e-6)
    assert ood.score(np.empty((0, DIM), np.float32)).shape == (0,)


def test_a_slide_that_differs_from_the_others_widens_what_is_trusted():
    alike, apart = slides_of(3, 80, shift=0.1), slides_of(3, 80, shift=3.0)
    moved = slides_of(4, 80, shift=3.0)[3].embedding
    assert OutOfDistribution.fit(apart).unit > 1.5 * OutOfDistribution.fit(alike).unit
    assert OutOfDistribution.fit(apart).score(moved).mean() < OutOfDistribution.fit(alike).score(moved).mean()


@pytest.mark.parametrize("what", ["constant dimension", "all the same", "two spots", "one dimension", "copies"])
def test_embeddings_that_hardly_vary_give_finite_scores(what):
    slides = slides_of(2, 30)
    embeddings = [s.embedding.copy() for s in slides]
    if what == "constant dimension":
        for e in embeddings:
            e[:, 3] = 7.0
    elif what == "all the same":
        embeddings = [np.ones_like(e) for e in embeddings]
    elif what == "two spots":
        embeddings = [e[:2] for e in embeddings]
    elif what == "one dimension":
        embeddings = [e[:, :1] for e in embeddings]
    else:
        embeddings = [embeddings[0], embeddings[0]]
    ood = OutOfDistribution.fit([a_slide(e) for e in embeddings])
    scores = ood.score(np.concatenate([*embeddings, embeddings[0] + 1]))
    assert np.isfinite(scores).all()
    assert scores[-len(embeddings[0]) :].mean() > scores[: -len(embeddings[0])].mean()


@pytest.mark.parametrize("shape", [(5, DIM + 1), (DIM,)])
def test_embeddings_of_another_width_are_not_scored(shape):
    ood = OutOfDistribution.fit(slides_of(2, 30))
    with pytest.raises(HisDiffError, match=rf"the training slides had \(n, {DIM}\)"):
        ood.score(np.zeros(shape, np.float32))


def auc(bad: np.ndarray, good: np.ndarray) -> float:
    return float(mannwhitneyu(bad, good).statistic / (len(bad) * len(good)))


@pytest.fixture(scope="module")
def morphology(stores) -> dict[str, np.ndarray]:
    """Embeddings of S3: as it is, with half of it under pen, folded, and of bare glass."""
    sdata = spatialdata.read_zarr(stores["S3"])
    sdata.path = None
    image = np.asarray(next(iter(sdata["he"]["scale0"].values())).data)
    half = image.shape[2] // 2
    changed = {name: image.copy() for name in ("pen", "fold", "glass", "stain")}
    pen = np.array([20, 60, 160]).reshape(3, 1, 1)
    changed["pen"][:, :, :half] = 0.25 * changed["pen"][:, :, :half] + 0.75 * pen
    # two layers of tissue absorb as much light as both together
    changed["fold"][:, :, :half] = image[:, :, :half] / 255.0 * np.roll(image, 150, axis=1)[:, :, :half]
    changed["glass"][:, :, :half] = np.percentile(image, 99.5, axis=(1, 2), keepdims=True)
    changed["stain"] = (255 * (image / 255.0) ** np.array([0.9, 1.4, 1.7]).reshape(3, 1, 1)).astype(np.uint8)
    centres = np.array([p.x for p in sdata["spots"].geometry])
    reach = float(sdata["spots_morphology"].uns["hisdiff_sd"]["tile_side_px"]) / 2
    out = {"clean": sdata["spots_morphology"].X, "inside": centres + reach < half, "outside": centres - reach > half}
    for name, pixels in changed.items():
        sdata["he"] = Image2DModel.parse(pixels, dims=("c", "y", "x"))
        hd.pp.embed(sdata, "morphology", key_added=name)
        out[name] = sdata[name].X
    return out


@pytest.mark.parametrize(("what", "least"), [("pen", 0.99), ("glass", 0.99), ("fold", 0.9)])
def test_tiles_that_were_tampered_with_score_higher(model, morphology, what, least):
    score = model.trust.ood.score(morphology[what])
    bad, good = score[morphology["inside"]], score[morphology["outside"]]
    assert min(len(bad), len(good)) > 10
    assert auc(bad, good) > least
    # two slides of 40 spots leave much room: a double layer of tissue is not beyond all that it could be
    assert (bad > 1).mean() >= (0.4 if what == "fold" else 0.95)
    assert (good <= 1).mean() > 0.9


def test_a_slide_of_another_stain_is_not_trusted(model, morphology):
    ood = model.trust.ood
    assert ood.trusted(morphology["clean"]).mean() >= 0.95
    assert ood.trusted(morphology["stain"]).mean() < 0.1


def test_rejecting_tiles_by_their_score_lowers_the_error(model, morphology, open_store):
    from hisdiff_sd._data import measured, slide_inputs

    sdata = open_store("S3")
    slide = slide_inputs(sdata, "spots_morphology", near=9, wide=49)
    truth = measured(sdata["table"], slide.index, model.genes, "log2", "S3").y
    for what in ("pen", "glass"):
        seen = dataclasses.replace(slide, embedding=morphology[what])
        error = ((model.baselines.predict("ridge", seen) - truth) ** 2).mean(1)
        trusted = model.trust.ood.trusted(seen.embedding)
        assert error[trusted].mean() < 0.7 * error.mean()
        ranked = error[np.argsort(model.trust.ood.score(seen.embedding))]
        curve = [ranked[: round(c * len(ranked))].mean() for c in (1.0, 0.85, 0.7)]
        assert curve[0] > 1.1 * curve[1]
        assert curve[0] > 1.3 * curve[2]


@pytest.mark.parametrize("left_out", ["C2", "C3", "C4"])
def test_a_real_sister_section_is_trusted(real_stores, left_out):
    slides = [a_slide(e, n) for n, e in real_stores.items() if n != left_out]
    assert OutOfDistribution.fit(slides).trusted(real_stores[left_out]).mean() >= 0.95


@pytest.fixture(scope="module")
def real_stores(real_hest) -> dict[str, np.ndarray]:
    """Embeddings of three real sections."""
    out = {}
    for name in ("C2", "C3", "C4"):
        sdata = hd.io.hest(real_hest, name)
        hd.pp.embed(sdata, "morphology")
        out[name] = sdata["spots_morphology"].X
    return out


GENES = ("ACTB", "ERBB2", "GFAP")


@pytest.fixture
def bundle() -> hd.HisDiff:
    """A model with trust statistics."""
    network = hd.nn.HisDiffNetwork(len(GENES), DIM, width=8, depth=1, num_heads=2)
    genes = Reliability(
        pcc=np.array([0.7, 0.1, 0.4]),
        p=np.array([0.001, 0.001, 0.2]),
        q=np.array([0.0015, 0.0015, 0.2]),
        reliable=np.array([True, False, False]),
        slides=("A", "B"),
        samples=8,
        steps=50,
        shifts=1000,
    )
    trust = Trust(OutOfDistribution.fit(slides_of(2, 40)), genes)
    config = ModelConfig(
        genes=GENES, spot_diameter_um=55.0, spot_grid="hexagonal", mpp=0.5, tile_side_um=112.0, encoder="morphology"
    )
    return hd.HisDiff(network, config, Scalers.identity(len(GENES), DIM), trust=trust)


def test_trust_is_saved_and_loaded(bundle, tmp_path):
    bundle.save(tmp_path / "model")
    loaded = hd.HisDiff.load(tmp_path / "model")
    assert loaded.fingerprint == bundle.fingerprint
    assert loaded.config == bundle.config
    for part in ("ood", "genes"):
        for field in dataclasses.fields(getattr(bundle.trust, part)):
            here, there = (getattr(getattr(m.trust, part), field.name) for m in (loaded, bundle))
            assert type(here) is type(there)
            np.testing.assert_array_equal(here, there, err_msg=field.name)
            assert getattr(here, "dtype", None) == getattr(there, "dtype", None)
    x = slides_of(1, 20, seed=3)[0].embedding
    np.testing.assert_array_equal(loaded.trust.ood.score(x), bundle.trust.ood.score(x))
    pd.testing.assert_frame_equal(loaded.reliability(), bundle.reliability())


def test_trust_without_genes_is_saved_too(bundle, tmp_path):
    bare = hd.HisDiff(bundle.network, bundle.config, bundle.scalers, trust=Trust(bundle.trust.ood))
    bare.save(tmp_path / "model")
    loaded = hd.HisDiff.load(tmp_path / "model")
    assert loaded.trust.genes is None
    assert loaded.fingerprint == bare.fingerprint
    assert len({m.fingerprint for m in (bundle, bare, hd.HisDiff(bare.network, bare.config, bare.scalers))}) == 3


@pytest.mark.parametrize("change", ["unit", "axes", "pcc", "reliable", "samples"])
def test_all_of_trust_is_part_of_the_fingerprint(bundle, change):
    ood, genes = bundle.trust.ood, bundle.trust.genes
    if change == "unit":
        ood = dataclasses.replace(ood, unit=ood.unit + 1e-9)
    elif change == "axes":
        ood = dataclasses.replace(ood, axes=ood.axes + np.float32(1e-6))
    else:
        value = {"pcc": genes.pcc + 1e-9, "reliable": ~genes.reliable, "samples": 9}[change]
        genes = dataclasses.replace(genes, **{change: value})
    other = hd.HisDiff(bundle.network, bundle.config, bundle.scalers, trust=Trust(ood, genes))
    assert other.fingerprint != bundle.fingerprint


def test_a_model_that_was_saved_before_there_was_trust_is_loaded(bundle, tmp_path):
    bundle.save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    content = json.loads(path.read_text())
    del content["trust"]
    for name in ("spot_diameter_um", "spot_grid", "mpp", "tile_side_um"):
        del content["config"][name]
    path.write_text(json.dumps(content))
    tensors = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if not k.startswith("trust.")}
    assert len(kept) < len(tensors)
    safetensors.torch.save_file(kept, tmp_path / "model" / "model.safetensors")
    loaded = hd.HisDiff.load(tmp_path / "model")
    assert loaded.trust is None
    config = loaded.config
    assert (config.spot_diameter_um, config.spot_grid, config.mpp, config.tile_side_um) == (None, "", None, None)
    with pytest.raises(HisDiffError, match="does not know which genes are reliable"):
        loaded.reliability()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("trust.ood.axes"), "cannot be read.*axes"),
        (lambda t: t.update({"trust.genes.pcc": torch.zeros(2, dtype=torch.float64)}), r"genes.pcc .* shape \(2,\)"),
        (lambda t: t.update({"trust.ood.shift": torch.zeros(3)}), rf"ood.shift .* network needs \({DIM},\)"),
    ],
)
def test_damaged_trust_is_refused(bundle, tmp_path, damage, message):
    bundle.save(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    damage(tensors)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(HisDiffError, match=message):
        hd.HisDiff.load(tmp_path / "model")


def test_the_list_of_genes_is_in_the_order_of_the_panel(bundle):
    table = bundle.reliability()
    assert list(table.index) == list(GENES)
    assert table.index.name == "gene"
    assert list(table.columns) == ["pcc", "q", "reliable"]
    assert table["reliable"].tolist() == [True, False, False]
    assert table.loc["GFAP"].to_dict() == {"pcc": 0.4, "q": 0.2, "reliable": False}
    assert "3 genes (1 reliable)" in repr(bundle)


def test_a_model_without_trust_says_how_to_get_it(bundle):
    for trust in (None, Trust(bundle.trust.ood)):
        model = hd.HisDiff(bundle.network, bundle.config, bundle.scalers, trust=trust)
        with pytest.raises(HisDiffError, match=r"no training slide was left out; train it with hd\.tl\.train on two"):
            model.reliability()
        assert "3 genes, target" in repr(model)


def test_a_grid_of_spots_that_is_none_is_refused():
    with pytest.raises(HisDiffError, match="no grid of spots 'round'"):
        ModelConfig(genes=GENES, spot_grid="round")
