"""Learning curves: who is learned from, on which genes, and that nothing is done twice."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd.tl import _presets
from hisdiff_sd.tl._learning_curve import training_sets
from hisdiff_sd.tl._splits import Split

pytestmark = pytest.mark.filterwarnings("ignore::hisdiff_sd._errors.HisDiffWarning")


@pytest.fixture
def curve(stores):
    """The learning curve of the three slides (S1 and S2 of one patient), unless it is asked otherwise."""

    def run(slides=None, **options):
        given = list(stores.values()) if slides is None else slides
        return hd.tl.learning_curve(given, **{"encoder": "morphology", "n_samples": 4, "rows": ["mean"], **options})

    return run


class Watched:
    """The training mean, and a list of what each fit was shown; the user interrupts fit number `stop_at_`."""

    name = "watched"

    def __init__(self, stop_at: int | None = None) -> None:
        self.seen_: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        self.stop_at_ = stop_at

    def fit(self, slides, truth, context):
        self.seen_.append((tuple(s.name for s in slides), tuple(context.data.genes)))
        if len(self.seen_) == self.stop_at_:
            raise KeyboardInterrupt
        mean = np.concatenate([m.y for m in truth]).mean(0)
        return hd.tl._row.Point(lambda slide: np.tile(mean, (slide.n, 1)))


def test_training_sets_leave_the_slide_out_and_share_the_genes_of_all_others(curve, stores):
    row = Watched()
    table = curve(rows=[row], metrics=["mse", "pcc10"])
    others = {"S1": {"S2", "S3"}, "S2": {"S1", "S3"}, "S3": {"S1", "S2"}}
    for i, (held_out, rest) in enumerate(others.items()):
        own = row.seen_[3 * i : 3 * i + 3]
        assert sorted(slides for slides, _ in own) == sorted([*[(n,) for n in rest], tuple(sorted(rest))]), held_out
        panel = hd.pp.select_genes([stores[n] for n in sorted(rest)])
        assert {genes for _, genes in own} == {tuple(panel)}
    assert len(table) == 3 * 2 * 2
    ones, twos = (table[table["n_slides"] == n] for n in (1, 2))
    assert (ones["subsets"] == 2).all()
    assert (twos["subsets"] == 1).all()
    assert twos[["low", "high"]].isna().all(None)
    mse = ones[ones["metric"] == "mse"]
    np.testing.assert_allclose(mse["value"], (mse["low"] + mse["high"]) / 2)
    assert (mse["low"] < mse["high"]).all()
    assert table["patient"].tolist() == table["slide"].map({"S1": "A", "S2": "A", "S3": "B"}).tolist()
    assert set(table.loc[table["slide"] == "S3", "split"]) == {"held-out slide and patient"}


def test_with_all_slides_scores_are_those_of_a_cross_validation(curve, stores):
    table = curve([*stores.values()], sizes=[2], rows=["ridge", "dressed_ridge"], metrics=["mse", "crps", "energy"])
    cv = hd.tl.cross_validate(
        list(stores.values()), encoder="morphology", rows=["ridge", "dressed_ridge"], n_samples=4
    ).scores()
    expected = cv.set_index(["slide", "row"])[["mse", "crps", "energy"]].stack()
    found = table.set_index(["slide", "row", "metric"])["value"]
    np.testing.assert_allclose(found.loc[expected.index], expected, rtol=1e-9)


def test_what_is_there_is_not_done_again(curve, open_store, panel, tmp_path):
    same = {"slides": [open_store(n) for n in ("S1", "S2", "S3")], "genes": panel, "out": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        curve(rows=[Watched(stop_at=3)], sizes=[1], **same)
    row = Watched()
    first = curve(rows=[row], sizes=[1], **same)
    assert len(row.seen_) == 6 - 2
    more = curve(rows=[row], **same)
    assert len(row.seen_) == 6 - 2 + 3
    assert more[more["n_slides"] == 1].equals(first)
    assert curve(rows=[row], **same).equals(more)
    assert len(row.seen_) == 6 - 2 + 3
    with pytest.raises(HisDiffError, match="holds another cross-validation"):
        curve(rows=[row], target="cp10k", **same)


def test_no_slide_of_a_held_out_patient_is_learned_from(curve):
    row = Watched()
    table = curve(rows=[row], by="patient")
    assert row.seen_[0][0] == ("S3",)
    assert sorted(slides for slides, _ in row.seen_[1:]) == [("S1",), ("S2",)]
    assert table["n_slides"].unique().tolist() == [1]
    assert set(table["split"]) == {"held-out slide and patient"}
    with pytest.raises(HisDiffError, match=r"sizes has 2, .* 1 to 1 slides: fold 'A' holds S1, S2 out and has 1"):
        curve(rows=[row], by="patient", sizes=[2])


def test_more_slides_are_the_fewer_and_one_more_and_all_slides_are_used_alike():
    split = Split("F", ("T",), ("A", "B", "C", "D", "E"))
    sets = {n: [set(s.train) for s in training_sets(split, [n], 5, 0)] for n in range(1, 6)}
    assert [len(s) for s in sets.values()] == [5, 5, 5, 5, 1]
    for n in range(1, 5):
        assert sorted(sum(name in s for s in sets[n]) for name in split.train) == [n] * 5
        assert all(any(fewer < more for fewer in sets[n]) for more in sets[n + 1])
    assert [s.train for s in training_sets(split, [2, 3], 2, 0)] == [
        s.train for s in training_sets(split, [2, 3], 2, 0)
    ]
    assert len({s.train for s in training_sets(split, [1], 2, 0)}) == 2
    assert len({next(iter(training_sets(split, [1], 1, seed))).train for seed in range(20)}) > 2


def test_patients_on_both_sides_are_warned_of_once(curve):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        curve()
    assert ["S1, S2: their patient" in str(w.message) for w in caught if w.category is HisDiffWarning] == [True]
    assert __file__ in {w.filename for w in caught if w.category is HisDiffWarning}


def test_the_default_model_learns_from_one_slide(curve, monkeypatch):
    monkeypatch.setitem(_presets.PRESETS, "flow", dataclasses.replace(_presets.PRESETS["flow"], epochs=2))
    table = curve(
        rows=["hisdiff"], sizes=[1], n_subsets=1, by={"last": ["S3"]}, n_samples=20, metrics=["crps", "coverage90"]
    )
    assert np.isfinite(table["value"]).all()
    assert table["value"].iloc[1] > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slides": []}, "slides= are 0; two or more"),
        ({"sizes": [1, 0]}, r"sizes has 0, and training sets have 1 to 2 slides: fold 'S1' holds S1 out and has 2"),
        ({"sizes": [3]}, "sizes has 3"),
        ({"sizes": [1.5]}, r"sizes has 1\.5"),
        ({"sizes": 2}, r"sizes=2 is no list .* give some of 1 to 2"),
        ({"sizes": []}, r"sizes=\[\] is no list"),
        ({"n_subsets": 0}, "n_subsets=0"),
        ({"n_samples": 0}, "n_samples=0 draws nothing"),
        ({"metrics": []}, "metrics= is empty"),
        ({"metrics": ["r2"]}, "no metric 'r2'"),
        ({"rows": ["oracle"]}, "no row 'oracle'"),
        ({"target": "tpm"}, "no target 'tpm'"),
    ],
)
def test_what_makes_no_curve_is_refused(curve, options, message):
    with pytest.raises(HisDiffError, match=message):
        curve(**options)


def test_one_slide_is_refused(curve, stores):
    with pytest.raises(HisDiffError, match="slides= are 1; two or more"):
        curve([stores["S1"]])
