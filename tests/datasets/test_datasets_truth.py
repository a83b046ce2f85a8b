"""The counts follow the morphology, the image shows it, and the truth says how."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import LinearNDInterpolator

import hisdiff_sd as hd
from hisdiff_sd.datasets._genes import PROGRAMMES, draw_genes

TISSUES = ["tumour", "stroma", "fat", "immune"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One patient's two slides, large enough for statistics."""
    out = tmp_path_factory.mktemp("truth") / "hest"
    return hd.datasets.synthetic(out, slides=["L1", "L2"], size_um=(2900.0, 2300.0), mpp=1.4, n_genes=70, seed=1)


@pytest.fixture(scope="module")
def truth(root):
    return hd.datasets.synthetic_truth(root, "L1")


@pytest.fixture(scope="module")
def counts(root):
    return ad.read_h5ad(root / "st" / "L1.h5ad")


@pytest.fixture(scope="module")
def tiles(root, counts):
    """Optical densities of a 112 um tile per spot, (n_spots, px, px, 3)."""
    image = tifffile.imread(root / "wsis" / "L1.tif").astype(float)
    half = round(56 / 1.4)
    corners = counts.obsm["spatial"].astype(int) - half
    cut = np.stack([image[y : y + 2 * half, x : x + 2 * half] for x, y in corners])
    return -np.log10((cut + 1) / 256)


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


def cp10k(counts):
    x = counts.X.toarray()
    return np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))


def test_truth_belongs_to_the_counts(truth, counts):
    assert list(truth.obs_names) == list(counts.obs_names)
    assert list(truth.var_names) == list(counts.var_names)
    np.testing.assert_array_equal(truth.obsm["spatial"], counts.obsm["spatial"])
    assert 90 <= truth.n_obs <= 160


def test_truth_is_consistent_with_itself(truth):
    for layer in ("rate", "rate_morphology"):
        np.testing.assert_allclose(truth.layers[layer].sum(axis=1), 1.0)
    np.testing.assert_allclose(truth.X, truth.obs["depth"].to_numpy()[:, None] * truth.layers["rate"])
    share = truth.obs[TISSUES]
    assert (share >= 0).all(axis=None)
    assert share.sum(axis=1).between(0.5, 1 + 1e-9).all()
    assert (share.max() > 0.5).all()  # every tissue dominates some spot
    assert set(truth.var["programme"]) == {*PROGRAMMES, "none"}


def test_counts_scatter_around_what_is_expected(truth, counts):
    x = counts.X.toarray()
    assert x.sum() == pytest.approx(truth.X.sum(), rel=0.05)
    # Negative binomial: variance = mean + mean^2 / 8, so these residuals have variance 1.
    residual = (x - truth.X) / np.sqrt(truth.X + truth.X**2 / 8)
    assert residual.mean() == pytest.approx(0, abs=0.05)
    assert residual.var() == pytest.approx(1, abs=0.1)


def test_morphology_predicts_counts_of_another_slide(root, truth, counts):
    other_truth, other = hd.datasets.synthetic_truth(root, "L2"), ad.read_h5ad(root / "st" / "L2.h5ad")

    def features(t):
        columns = t.obs[TISSUES].assign(density=np.log(t.obs["nuclear_density"] + 200), one=1.0)
        return columns.to_numpy()

    weights, *_ = np.linalg.lstsq(features(truth), cp10k(counts), rcond=None)
    r = hd.metrics.pcc(features(other_truth) @ weights, cp10k(other))
    seen = truth.var["programme"].isin(TISSUES).to_numpy()
    assert r[seen].mean() > 0.5
    assert r[seen].mean() > r[(truth.var["programme"] == "hidden").to_numpy()].mean() + 0.15


def test_the_oracle_beats_what_the_image_can_tell(truth, counts):
    measured = cp10k(counts)
    scores = {layer: hd.metrics.pcc(np.log1p(1e4 * truth.layers[layer]), measured) for layer in truth.layers}
    assert scores["rate"].mean() > scores["rate_morphology"].mean() + 0.05
    hidden = (truth.var["programme"] == "hidden").to_numpy()
    assert scores["rate"][hidden].mean() > scores["rate_morphology"][hidden].mean() + 0.1


def test_genes_of_a_programme_correlate_beyond_the_morphology(truth):
    beyond = np.log(truth.layers["rate"]) - np.log(truth.layers["rate_morphology"])
    r = np.corrcoef(beyond.T)
    programme = truth.var["programme"].to_numpy()
    same = (programme[:, None] == programme) & (programme != "none") & ~np.eye(len(r), dtype=bool)
    different = programme[:, None] != programme
    assert r[same].mean() > 0.6
    assert abs(r[different].mean()) < 0.2


def test_hidden_programme_is_smooth_in_space(truth):
    hidden, xy = truth.obs["hidden"].to_numpy(), truth.obsm["spatial"] * 1.4
    near = np.isclose(np.linalg.norm(xy[:, None] - xy, axis=-1), 200.0)
    left, right = np.nonzero(near)
    assert correlation(hidden[left], hidden[right]) > 0.7


def test_depth_follows_nuclear_density_but_not_alone(truth, counts):
    r = correlation(np.log(truth.obs["depth"]), np.log(truth.obs["nuclear_density"] + 400))
    assert 0.7 < r < 0.99
    total = np.log(np.asarray(counts.X.sum(axis=1)).ravel())
    assert correlation(total, np.log(truth.obs["depth"])) > 0.95


def test_tiles_show_the_nuclei(truth, tiles):
    density = truth.obs["nuclear_density"]
    assert correlation(tiles.mean(axis=(1, 2, 3)), density) > 0.5
    # Separate the dyes with the textbook vectors: haematoxylin follows the nuclei, better than eosin does.
    dyes = np.array([[0.65, 0.70, 0.29], [0.10, 0.93, 0.33], [0.7, -0.1, -0.7]])
    haematoxylin, eosin, _ = np.moveaxis(tiles @ np.linalg.inv(dyes), -1, 0)
    assert correlation(haematoxylin.mean(axis=(1, 2)), density) > 0.8
    assert correlation(eosin.mean(axis=(1, 2)), density) < 0.4


def test_tiles_show_the_tissues(truth, tiles):
    white = (tiles.max(axis=-1) < 0.06).mean(axis=(1, 2))
    assert correlation(white, truth.obs["fat"]) > 0.75
    # Stroma is red, not blue: it takes up green light only.
    red = tiles.mean(axis=(1, 2))[:, 1] - 1.3 * tiles.mean(axis=(1, 2))[:, 0]
    assert correlation(red, truth.obs["stroma"]) > 0.6


def test_slides_differ_in_stain(root, hest_root):
    colours = []
    for path in [*sorted((hest_root / "wsis").iterdir()), *sorted((root / "wsis").iterdir())]:
        image = tifffile.imread(path, level=2)
        colours.append(image[image.min(axis=-1) < 215].mean(axis=0))
    assert np.ptp(colours, axis=0).max() > 8
    for red, green, blue in colours:
        assert green < red  # purple and pink
        assert green < blue


@settings(max_examples=20, deadline=None)
@given(st.integers(7, 400), st.integers(0, 100))
def test_panels_have_unique_names_and_every_programme(n_genes, seed):
    genes = draw_genes(np.random.default_rng(seed), n_genes)
    assert len(set(genes.names)) == n_genes
    assert set(genes.programme) == {*PROGRAMMES, "none"}
    assert genes.loadings.shape == (len(PROGRAMMES), n_genes)


def test_a_visium_spot_catches_less_than_a_larger_one(tmp_path):
    options = {"slides": ["S1"], "size_um": (1200.0, 1000.0), "mpp": 2.0, "n_genes": 10}
    depth = {}
    for technology in ("Visium", "Spatial Transcriptomics"):
        root = hd.datasets.synthetic(tmp_path / technology, technology=technology, **options)
        obs = hd.datasets.synthetic_truth(root, "S1").obs
        depth[technology] = (obs["depth"] / (obs["nuclear_density"] + 400)).median()
    ratio = depth["Visium"] / depth["Spatial Transcriptomics"]
    assert ratio == pytest.approx((55 / 100) ** 2, rel=0.4)


def test_truth_of_the_whole_section_agrees_with_that_of_the_spots(root, truth):
    """At a spot, the map says what the spot says, but for the few um between the two."""
    section = hd.datasets.synthetic_truth(root, "L1", whole_section=True)
    assert list(section.var_names) == list(truth.var_names)
    assert section.n_obs > 8 * truth.n_obs  # 50 um apart, not 200, and no margin is kept
    # between the four points around it lies what a spot has, but for what is smaller than 50 um
    between = LinearNDInterpolator(section.obsm["spatial"], np.log(section.X))(truth.obsm["spatial"])
    inside = np.isfinite(between).all(1)
    assert inside.mean() > 0.9
    spots = np.log(truth.layers["rate_morphology"][inside])
    r = [np.corrcoef(between[inside, g], spots[:, g])[0, 1] for g in range(truth.n_vars)]
    assert np.min(r) > 0.8
