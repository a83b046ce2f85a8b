"""The parts of a cross-validation on arrays with known truth: resamples, scores, folds, leaks, files."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hisdiff_sd import metrics
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd.tl._bootstrap import Blocks, independent_units, interval, pooled
from hisdiff_sd.tl._cv_scores import METRICS, Judged, score
from hisdiff_sd.tl._cv_store import Store
from hisdiff_sd.tl._leakage import check_same_counts, given_panel, label_splits
from hisdiff_sd.tl._splits import Split, make_splits

GENES = 6


# --- resamples


def grid(side: int) -> np.ndarray:
    return np.indices((side, side)).reshape(2, -1).T * 200.0


def test_resampled_means_are_means_of_resampled_spots():
    xy, values = grid(11), np.random.default_rng(0).normal(size=121)
    blocks = Blocks(xy, 50, 0)
    np.testing.assert_allclose(blocks.means(values), blocks.recomputed(lambda rows: float(values[rows].mean())))


def test_resampled_correlations_are_those_of_resampled_spots():
    rng = np.random.default_rng(0)
    a, b = rng.gamma(2, size=(2, 121, 5)) + 1e3
    a[:, 0], b[:, 1] = 7, 0.1
    # varies in some resamples only
    a[:, 2], b[:, 3] = 0.3, 0
    a[5, 2], b[17, 3] = 4, 2
    blocks = Blocks(grid(11), 200, 0)
    found = blocks.correlations(a, b)
    for g in range(5):
        expected = blocks.recomputed(lambda rows, g=g: float(metrics.pcc(a[rows, g : g + 1], b[rows, g : g + 1])[0]))
        np.testing.assert_allclose(found[:, g], expected, rtol=1e-7, atol=1e-9)
    assert (found[:, :2] == 0).all()
    assert 0 < (found[:, 2] == 0).mean() < 1


def test_all_spots_are_in_blocks_of_neighbours_and_no_slide_is_one_block():
    for side in (4, 9, 21):
        blocks = Blocks(grid(side), 2, 0)
        assert (np.bincount(blocks.labels) > 0).all()
        assert blocks.n >= 8
    size = np.bincount(Blocks(grid(20), 2, 0).labels)
    assert (size == 25).all()
    spread = [np.ptp(grid(20)[Blocks(grid(20), 2, 0).labels == b], axis=0).max() / 200 for b in range(16)]
    assert max(spread) <= 12


def test_blocks_give_wider_intervals_than_spots_on_smooth_maps_and_the_same_on_noise():
    xy = grid(30)
    rng = np.random.default_rng(0)
    smooth = np.sin(xy[:, 0] / 1200) + np.cos(xy[:, 1] / 1500)
    noise = rng.normal(size=len(xy))

    def spread(values: np.ndarray) -> tuple[float, float]:
        by_spot = values[rng.integers(len(values), size=(1000, len(values)))].mean(1)
        return float(Blocks(xy, 1000, 0).means(values).std()), float(by_spot.std())

    by_block, by_spot = spread(smooth)
    assert by_block > 3 * by_spot
    by_block, by_spot = spread(noise)
    assert 0.6 < by_block / by_spot < 1.4


def test_an_interval_of_independent_slides_covers_the_truth():
    """95% intervals of the mean of smooth maps, whose level differs from slide to slide."""
    rng, covered, n = np.random.default_rng(1), 0, 60
    for trial in range(n):
        maps = [(grid(10), rng.normal() + 0.3 * rng.normal(size=100)) for _ in range(12)]
        draws = np.stack([Blocks(xy, 300, trial, str(i)).means(v) for i, (xy, v) in enumerate(maps)])
        low, high = interval(pooled(draws, independent_units([""] * 12), trial))
        covered += low <= 0 <= high
    assert 0.8 < covered / n <= 1


def test_slides_are_resampled_if_there_are_five_and_patients_if_there_are_five_of_them():
    few, slides, patients = (independent_units(p) for p in (list("abcd"), list("aabbc"), list("aabbcde")))
    assert (few.resampled, slides.resampled, patients.resampled) == (False, True, True)
    assert "4 slides cannot tell" in few.text
    assert "5 slides (as if those of one patient were independent)" in slides.text
    assert "5 patients" in patients.text
    apart = np.arange(7.0)[:, None] + np.zeros((7, 400))
    assert pooled(apart[:4], few, 0).std() == 0
    assert pooled(apart[:5], slides, 0).std() > 0.4
    together = np.repeat([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0], 400).reshape(7, 400)
    assert pooled(together, patients, 0).mean() == pytest.approx(3 / 7, abs=0.05)


# --- scores


def test_the_truth_scores_best_and_scores_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    xy, true = grid(10), rng.gamma(2, size=(100, GENES))
    perfect = Judged(true[None], true, xy)
    best = {m: score(perfect, m) for m in METRICS}
    assert [best[m] for m in ("pcc10", "pcc50", "pcc_all", "moran_single")] == pytest.approx([1] * 4)
    zero = (
        "mse",
        "mae",
        "rvd_single",
        "log_var_ratio_single",
        "gene_corr_single",
        "moran_error_single",
        "crps",
        "energy",
    )
    assert [best[m] for m in (*zero, "variogram")] == pytest.approx([0] * 9, abs=1e-9)
    assert np.isnan([best["coverage90"], best["coverage90_regions"]]).all()
    samples = rng.gamma(2, size=(20, 100, GENES))
    judged = Judged(samples, true, xy)
    assert score(judged, "rvd_single") == pytest.approx(np.mean([metrics.rvd(s, true) for s in samples[:16]]))
    assert score(judged, "mse") == pytest.approx(metrics.mse(samples.mean(0), true))
    halves = [metrics.crps(samples[k::2], true) for k in (0, 1)]
    assert score(judged, "crps") == pytest.approx(np.mean(halves))
    assert score(judged, "coverage90") == pytest.approx(metrics.coverage(samples, true))
    assert 0.8 < score(judged, "coverage90") < 1
    assert np.isfinite([score(judged, m) for m in METRICS]).all()


def test_samples_in_opposite_pairs_do_not_look_better_than_independent_ones():
    rng = np.random.default_rng(1)
    true = rng.normal(size=(2_000, 3))
    half = rng.normal(size=(4, 2_000, 3))
    paired = np.stack([half, -half], 1).reshape(8, 2_000, 3)
    independent = rng.normal(size=(8, 2_000, 3))
    scored = [score(Judged(s, true, grid(45)[:2_000]), "crps") for s in (paired, independent)]
    assert scored[0] == pytest.approx(scored[1], abs=0.02)
    # all samples as one ensemble would flatter the pairs
    assert metrics.crps(paired, true) < scored[0] - 0.02


def test_a_slide_that_is_too_small_for_a_score_has_none():
    true = np.random.default_rng(0).gamma(2, size=(5, 1))
    judged = Judged(np.stack([true] * 20), true, grid(3)[:5])
    empty = {m for m in METRICS if np.isnan(score(judged, m))}
    assert empty == {"gene_corr_single", "variogram", "moran_single", "moran_error_single", "coverage90_regions"}


# --- folds and leaks

PATIENTS = {"S1": "A", "S2": "A", "S3": "B"}


def test_folds_by_slide_by_patient_and_fixed(tmp_path):
    (tmp_path / "folds.json").write_text('{"one": ["S1", "S2"], "two": "S3"}')
    (tmp_path / "folds.csv").write_text("fold,slide\none,S1\none,S2\ntwo,S3\n")
    names, expected = list(PATIENTS), [("one", ("S1", "S2"), ("S3",)), ("two", ("S3",), ("S1", "S2"))]
    for by in ({"one": ["S1", "S2"], "two": "S3"}, tmp_path / "folds.json", str(tmp_path / "folds.csv")):
        assert [dataclasses.astuple(s) for s in make_splits(names, PATIENTS, by)] == expected
    assert [s.test for s in make_splits(names, PATIENTS, "slide")] == [("S1",), ("S2",), ("S3",)]
    assert [(s.name, s.test) for s in make_splits(names, PATIENTS, "patient")] == [("A", ("S1", "S2")), ("B", ("S3",))]


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("slides", "by='slides' is neither 'slide' nor 'patient' nor a file"),
        ({"one": ["S9"]}, "slides that are not given: S9; slides: S1, S2, S3"),
        ({"one": "S1", "two": ["S1", "S2"]}, "tested more than once: S1"),
        ({"one": ["S1", "S2", "S3"]}, "fold 'one' is judged on all slides .* none to learn from"),
        ({"one": []}, "fold 'one' has no test slides"),
        ({}, "names no folds"),
    ],
)
def test_folds_that_make_no_sense_are_refused(by, message):
    with pytest.raises(HisDiffError, match=message):
        make_splits(list(PATIENTS), PATIENTS, by)


@pytest.mark.parametrize(("name", "text"), [("a.json", "[1]"), ("a.json", "{"), ("a.csv", "id,slide\n1,S1\n")])
def test_files_that_are_no_folds_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(HisDiffError, match=f"{name} "):
        make_splits(list(PATIENTS), PATIENTS, tmp_path / name)


def test_slides_of_unknown_patients_are_named():
    with pytest.raises(HisDiffError, match="patient of these slides is unknown: S2, S3;"):
        make_splits(list(PATIENTS), PATIENTS | {"S2": "", "S3": ""}, "patient")


def test_how_independent_a_slide_is_is_said():
    by_slide = make_splits(list(PATIENTS), PATIENTS, "slide")
    with pytest.warns(HisDiffWarning, match="S1, S2: their patient is among the training slides"):
        labels = label_splits(by_slide, PATIENTS)
    within, new = "held-out slide, within patient", "held-out slide and patient"
    assert labels == {"S1": within, "S2": within, "S3": new}
    with pytest.warns(HisDiffWarning, match="S2, S3: their patient, or that of a training slide, is unknown"):
        labels = label_splits(by_slide[1:], PATIENTS | {"S2": ""})
    assert set(labels.values()) == {"held-out slide, patient unknown"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(label_splits(make_splits(list(PATIENTS), PATIENTS, "patient"), PATIENTS).values()) == {new}


def test_a_given_panel_is_refused_warned_of_or_taken_by_what_is_known_of_it():
    splits = [Split("one", ("S1",), ("S2", "S3"))]
    with pytest.warns(HisDiffWarning, match="where it was chosen cannot be known"):
        assert given_panel(["A", "B"], splits) == ["A", "B"]
    known = pd.Series(["A", "B"])
    known.attrs["slides"] = ["S2", "S7"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert given_panel(known, splits) == ["A", "B"]
    known.attrs["slides"] = ["S2", "S1"]
    with pytest.raises(HisDiffError, match="chosen on slides that are judged here: S1"):
        given_panel(known, splits)
    for genes, message in ((["A", "A"], "more than once: A"), ([], "genes= is empty"), ("A", "is one name")):
        with pytest.raises(HisDiffError, match=message):
            given_panel(genes, splits)


class Table:
    def __init__(self, counts: np.ndarray, genes: list[str]) -> None:
        self.X, self.var_names = sparse.csr_matrix(counts), genes


def test_one_measurement_under_two_ids_is_found_in_any_order_and_neighbours_are_not():
    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(30)]
    one, other = (rng.poisson(2, (50, 30)) for _ in range(2))
    check_same_counts({"S1": Table(one, genes), "S2": Table(other, genes)})
    spots, order = rng.permutation(50)[:40], rng.permutation(30)
    copy = Table(one[spots][:, order].astype(np.float32), [genes[i] for i in order])
    with pytest.raises(HisDiffError, match="'S1' and 'S9' have the same counts at 40 of 40 spots"):
        check_same_counts({"S1": Table(one, genes), "S2": Table(other, genes), "S9": copy})
    # the same numbers of other genes are another measurement
    check_same_counts({"S1": Table(one, genes), "S9": Table(one, [f"h{i}" for i in range(30)])})


# --- files


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, arrays):
    store, slide = Store(tmp_path), arrays.slide(1)
    store.write("a/b", "hisdiff:x", [np.ones((2, 3, 4))], {"row": "x"})
    assert store.has("a/b", "hisdiff:x")
    assert not store.has("a/b", "hisdiff:y")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.write("a/b", "hisdiff:x", [np.zeros((2, 3, 4))], {"row": "other"})
    np.testing.assert_array_equal(store.samples("a/b", "hisdiff:x", 0), np.ones((2, 3, 4)))
    assert store.record("a/b", "hisdiff:x")["row"] == "x"
    assert all(tmp_path in Path(p).parents for p in tmp_path.rglob("*"))
    store.write_truth("a/b", [slide], [arrays.measure(slide)])
    kept, xy, index = store.truth("a/b", 0)
    np.testing.assert_array_equal(kept.y, arrays.measure(slide).y)
    np.testing.assert_array_equal(xy, slide.xy)
    assert list(index) == list(slide.index)


def test_points_are_kept_exact_and_ensembles_in_half_the_bytes(tmp_path):
    store, values = Store(tmp_path), np.random.default_rng(0).gamma(2, size=(4, 30, 5))
    store.write("f", "r", [values[:1], values, values * 1e6], {})
    point, ensemble, large = (store.samples("f", "r", i) for i in range(3))
    assert (point.dtype, ensemble.dtype, large.dtype) == (np.float32, np.float16, np.float32)
    np.testing.assert_allclose(ensemble, values, rtol=1e-3)
