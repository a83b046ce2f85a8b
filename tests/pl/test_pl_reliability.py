"""The go / no-go list of genes as a figure."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

mpl.use("Agg")


@pytest.fixture
def judged(open_store, add_prediction):
    """Make S3 with a prediction of genes of these correlations; reliable are those of 0.3 or more."""

    def made(r: np.ndarray, **var: list) -> SpatialData:
        sdata = open_store("S3")
        columns = {"loso_pcc": list(r), "loso_q": list(np.where(r >= 0.3, 0.01, 0.2)), "reliable": list(r >= 0.3)}
        add_prediction(sdata, genes=tuple(f"G{i}" for i in range(len(r))), **{**columns, **var})
        return sdata

    return made


def points(figure: Figure) -> dict[str, np.ndarray]:
    """Rank and r of the genes of the first axes, by what the legend calls them."""
    return {c.get_label(): np.asarray(c.get_offsets()) for c in figure.axes[0].collections}


def named(figure: Figure) -> list[list[str]]:
    return [[t.get_text() for t in axes.get_yticklabels()] for axes in figure.axes[1:] if axes.axison]


@pytest.mark.parametrize("n", [2, 100, 300])
def test_every_gene_stands_at_its_rank_and_the_ends_are_named(judged, n, tmp_path):
    r = np.random.default_rng(n).normal(0.3, 0.2, n)
    figure = hd.pl.reliability(judged(r))
    order = np.argsort(-r)
    found = points(figure)
    ranks = np.arange(1, n + 1)
    expected = np.column_stack([ranks, r[order]])
    np.testing.assert_allclose(found["reliable"], expected[r[order] >= 0.3], rtol=1e-6)
    np.testing.assert_allclose(found["not reliable"], expected[r[order] < 0.3], rtol=1e-6)
    end = min(25, n // 2)
    genes = [f"G{i}" for i in order]
    assert named(figure) == [genes[:end], genes[-end:]]
    assert figure.get_suptitle() == f"{(r >= 0.3).sum()} of {n} genes are reliable, judged on left-out training slides"
    figure.savefig(tmp_path / "genes.png")


def test_the_rule_is_drawn(judged):
    axes = hd.pl.reliability(judged(np.array([0.5, 0.1]))).axes[0]
    (rule,) = [line for line in axes.lines if line.get_label().startswith("needed")]
    assert rule.get_label() == "needed: r 0.2 or more,\nfalse discovery rate 0.05 or less"
    assert set(rule.get_ydata()) == {0.2}


def test_a_gene_of_a_high_r_by_chance_is_not_marked(judged):
    found = points(hd.pl.reliability(judged(np.array([0.6, 0.5]), reliable=[False, True])))
    np.testing.assert_allclose(found["not reliable"], [[1, 0.6]])
    np.testing.assert_allclose(found["reliable"], [[2, 0.5]])


def test_a_gene_without_a_score_is_counted_but_not_drawn(judged):
    figure = hd.pl.reliability(judged(np.array([0.5, np.nan, 0.1])))
    assert sum(map(len, points(figure).values())) == 2
    assert figure.get_suptitle().startswith("1 of 3 genes")
    assert "1 without a score not shown" in figure.axes[0].get_xlabel()


def test_a_panel_of_one_gene_is_drawn(judged, tmp_path):
    figure = hd.pl.reliability(judged(np.array([0.5])))
    assert named(figure) == [["G0"]]
    figure.savefig(tmp_path / "gene.png")


def test_a_prediction_that_does_not_know_says_so(open_store, add_prediction, tmp_path):
    sdata = open_store("S3")
    add_prediction(sdata)
    figure = hd.pl.reliability(sdata)
    (text,) = figure.texts
    assert text.get_text().startswith("reliability unknown")
    figure.savefig(tmp_path / "unknown.png")


def test_what_is_no_slide_is_refused(model, tmp_path):
    for plot in (hd.pl.reliability, lambda what: hd.pl.expression(what, "EPCAM")):
        with pytest.raises(
            HisDiffError, match=r"a slide \(SpatialData\) with a prediction is needed, not HisDiff; open"
        ):
            plot(model)
    with pytest.raises(HisDiffError, match=r"a slide \(SpatialData\) or the path of its store is needed, not HisDiff"):
        hd.pl.report(model, tmp_path / "page.html")


def test_a_slide_without_a_prediction_is_refused(open_store):
    with pytest.raises(HisDiffError, match=r"slide 'S3' has no prediction \(tables here: .*\); run hd.tl.predict"):
        hd.pl.reliability(open_store("S3"))
    with pytest.raises(HisDiffError, match="table 'table' is no prediction"):
        hd.pl.reliability(open_store("S3"), key="table")
