"""The four plots of a cross-validation, on predictions of known scores: what is drawn is what was computed."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import hisdiff_sd as hd
from hisdiff_sd import metrics
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.tiles import nearest
from hisdiff_sd.tl._cv_scores import METRICS
from hisdiff_sd.tl._cv_store import Store

mpl.use("Agg")
SIDE, SAMPLES = 12, 39
PANELS = {"S1": [f"G{i}" for i in range(8)], "S2": [f"G{i}" for i in range(1, 9)]}  # one gene differs


def write(folder: Path, predict, panels=PANELS) -> hd.tl.CrossValidation:
    """A result of two slides; `predict(rng, n, G)` returns the measurement and samples by row."""
    store = Store(folder)
    patients = {"S1": "A", "S2": "B"}
    made = {name: predict(np.random.default_rng(i), SIDE**2, len(g)) for i, (name, g) in enumerate(panels.items())}
    rows = list(made["S1"][1])
    folds = [{"name": n, "test": [n], "train": [o for o in panels if o != n], "genes": g} for n, g in panels.items()]
    design = {
        "slides": [{"name": n, "patient": patients[n]} for n in panels],
        "folds": folds,
        "splits": dict.fromkeys(panels, "held-out slide and patient"),
        "panel": "per fold",
        "target": "log2",
        "encoder": "none",
    }
    store.start(design, {row: {} for row in rows})
    xy = np.indices((SIDE, SIDE)).reshape(2, -1).T * 100.0
    for name, (true, samples) in made.items():
        index = pd.Index([f"b{i}" for i in range(len(xy))])
        slide = SlideInputs(name, index, xy, np.zeros((len(xy), 2), np.float32), nearest(xy, 9), nearest(xy, 49))
        store.write_truth(name, [slide], [Measured(true, np.full(len(xy), 100.0))])
        for row in rows:
            store.write(name, row, [samples[row]], {"train_seconds": 1.0, "ms_per_sample": 0.1})
    return hd.tl.CrossValidation.load(folder)


def gaussian(rng: np.random.Generator, n: int, n_genes: int):
    """Smooth means that share an axis, and noise of variance 1 that the samples know; gene i varies more with i."""
    along = np.linspace(-1, 1, n)[:, None]
    mean = 5 + along * np.linspace(0.3, 2, n_genes) * np.where(np.arange(n_genes) % 2, 1, -1)
    noise = rng.normal(size=(SAMPLES + 1, n, n_genes))
    rows = {
        "flat": np.full((1, n, n_genes), 5.0),
        "better_ridge": mean[None],
        "calibrated": mean + noise[1:],
        "narrow": mean + 0.5 * noise[1:],
    }
    return mean + noise[0], rows


def counts(rng: np.random.Generator, n: int, n_genes: int):
    """Small counts, half of them zero."""
    mean = np.exp(rng.normal(-0.5, 0.5, size=(n, n_genes)))
    drawn = np.log2(rng.poisson(mean, size=(SAMPLES + 1, n, n_genes)) + 1.0)
    return drawn[0], {"calibrated": drawn[1:]}


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> hd.tl.CrossValidation:
    return write(tmp_path_factory.mktemp("cv") / "out", gaussian)


def labelled(artists, name: str):
    return [a for a in artists if a.get_label() == name]


# --- benchmark


@pytest.fixture(scope="module")
def benchmark(result):
    asked = ("pcc_all", "crps", "rvd_single", "coverage90")
    return asked, hd.pl.benchmark(result, asked, n_boot=30), result.summary(asked, n_boot=30)


def test_points_and_bars_are_the_summary(benchmark, tmp_path):
    asked, figure, summary = benchmark
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    for axes, metric in zip(figure.axes, asked, strict=True):
        table = summary[summary["metric"] == metric].set_index("row").loc[names].reset_index()
        known, barred = table[table["value"].notna()], table[table["low"].notna()]
        (points,) = labelled(axes.collections, "values")
        np.testing.assert_allclose(points.get_offsets(), np.column_stack([known["value"], known.index]))
        bars = labelled(axes.collections, "intervals")
        assert bool(bars) == (metric != "rvd_single")  # slow to resample, and two slides are too few
        for bar in bars:
            expected = [[[low, i], [high, i]] for i, low, high in barred[["low", "high"]].itertuples()]
            np.testing.assert_allclose(bar.get_segments(), expected)
    figure.savefig(tmp_path / "figure.png")
    assert figure.get_figwidth() <= 7.2


def test_a_point_prediction_has_no_coverage_and_none_is_drawn(benchmark):
    _, figure, _ = benchmark
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]  # those of all panels
    (points,) = labelled(figure.axes[3].collections, "values")
    assert [names[int(y)] for y in points.get_offsets()[:, 1]] == [n for n in names if n in ("calibrated", "narrow")]


def test_the_best_by_the_first_metric_is_on_top(result):
    def order(metric):
        axes = hd.pl.benchmark(result, [metric], None, n_boot=5).axes[0]
        assert axes.get_ylim()[0] > axes.get_ylim()[1]
        return [t.get_text() for t in axes.get_yticklabels()]

    assert order("pcc_all")[0] == "better_ridge"
    assert order("pcc_all")[-1] == "flat"
    assert order("crps")[0] == "calibrated"
    assert order("coverage90")[0] == "calibrated"  # nearest to 0.9, not highest
    assert set(order("coverage90")[2:]) == {"flat", "better_ridge"}


def test_the_reference_and_the_better_direction_are_marked(benchmark, result):
    asked, figure, summary = benchmark
    own = summary[summary["row"] == "better_ridge"].set_index("metric")["value"]
    for axes, metric in zip(figure.axes[:3], asked[:3], strict=True):
        (line,) = labelled(axes.lines, "reference")
        assert set(line.get_xdata()) == {own[metric]}
    assert not labelled(figure.axes[3].lines, "reference")
    assert set(labelled(figure.axes[3].lines, "nominal")[0].get_xdata()) == {0.9}
    assert [a.get_xlabel() for a in figure.axes] == ["better →", "← better", "← better", "nominal 0.9 (dotted)"]
    bare = hd.pl.benchmark(result, ["mse"], None, n_boot=5)
    assert not bare.axes[0].lines
    assert "Dashed" not in bare.get_supxlabel()


def test_every_metric_is_drawn_and_higher_is_better_of_correlations_alone(result):
    figure = hd.pl.benchmark(result, METRICS, "flat", n_boot=5)
    high = [m for m, a in zip(METRICS, figure.axes, strict=False) if a.get_xlabel() == "better →"]
    assert high == ["pcc10", "pcc50", "pcc_all", "moran_single"]


def test_a_metric_that_no_row_has_a_value_of_is_blank(tmp_path):
    points = write(tmp_path / "cv", lambda *a: (gaussian(*a)[0], {"flat": gaussian(*a)[1]["flat"]}))
    axes = hd.pl.benchmark(points, ["coverage90"], n_boot=5).axes[0]  # there is no better_ridge, and no line
    assert not labelled(axes.collections, "values")
    assert [t.get_text() for t in axes.texts] == ["no values"]


def test_what_benchmark_does_not_know_is_refused(result):
    with pytest.raises(HisDiffError, match=r"no metric 'pcc5'; there are: 'pcc10', 'pcc50'.*Did you mean 'pcc50'"):
        hd.pl.benchmark(result, ["pcc5"])
    with pytest.raises(HisDiffError, match="no row 'ridge'; there are: 'flat', 'better_ridge', 'calibrated', 'narrow'"):
        hd.pl.benchmark(result, ["mse"], "ridge")
    with pytest.raises(HisDiffError, match="metrics= is empty"):
        hd.pl.benchmark(result, [])


# --- gene_variation


def panel(figure, row: str):
    (found,) = [a for a in figure.axes if a.get_title().startswith(f"{row}\n")]
    return found


def test_variances_are_those_of_single_samples_and_of_their_mean(result, tmp_path):
    figure = hd.pl.gene_variation(result, slide="S2")
    (p,) = [p for p in result.predictions("narrow") if p.slide == "S2"]
    true, each = p.true.var(0), p.samples.astype(np.float64).var(1)
    axes = panel(figure, "narrow")
    single, mean = (labelled(axes.collections, n)[0].get_offsets() for n in ("single", "mean"))
    np.testing.assert_allclose(single, np.column_stack([true, np.median(each, 0)]))
    np.testing.assert_allclose(mean, np.column_stack([true, p.samples.mean(0, dtype=np.float64).var(0)]))
    (bars,) = [c for c in axes.collections if not c.get_offsets().any()]
    ends = np.array([s[:, 1] for s in bars.get_segments()])
    np.testing.assert_allclose(ends, np.quantile(each, [0.05, 0.95], axis=0).T)
    assert axes.get_xscale() == axes.get_yscale() == "log"
    np.testing.assert_array_equal(*labelled(axes.lines, "identity")[0].get_data())
    assert f"single {np.median(np.median(each, 0) / true):.2f}" in axes.get_title()
    figure.savefig(tmp_path / "figure.png")


def test_slides_are_averaged_gene_by_gene(result):
    drawn = labelled(panel(hd.pl.gene_variation(result), "better_ridge").collections, "mean")[0].get_offsets()
    by_slide = {p.slide: pd.Series(p.true.var(0), index=p.genes) for p in result.predictions("flat")}
    expected = pd.concat(by_slide.values()).groupby(level=0, sort=False).mean()
    assert len(expected) == 9
    np.testing.assert_allclose(drawn[:, 0], expected)


def test_a_point_prediction_has_one_mark_and_a_constant_none(result):
    figure = hd.pl.gene_variation(result, ["flat", "better_ridge"])
    assert not labelled(panel(figure, "better_ridge").collections, "single")
    flat = panel(figure, "flat")
    assert not flat.collections
    assert [t.get_text() for t in flat.texts] == ["9 genes without\nvariance not shown"]
    titles = [a.get_title().split("\n")[0] for a in hd.pl.gene_variation(result).axes if a.get_title()]
    assert titles == ["better_ridge", "calibrated", "narrow"]
    assert len(hd.pl.gene_variation(result, "flat").axes) == 1


def test_a_method_has_its_colour_in_all_plots(result):
    variation = labelled(panel(hd.pl.gene_variation(result, ["narrow"]), "narrow").collections, "single")[0]
    curve = labelled(hd.pl.calibration(result, ["narrow"], n_boot=5).axes[0].lines, "narrow")[0]
    assert mpl.colors.same_color(variation.get_facecolor()[0], curve.get_color())


# --- coexpression


def test_matrices_are_correlations_in_the_order_of_the_measured_ones(result, tmp_path):
    figure = hd.pl.coexpression(result, "narrow", slide="S2", n_genes=5, reference="better_ridge")
    p, ridge = (next(p for p in result.predictions(r) if p.slide == "S2") for r in ("narrow", "better_ridge"))
    maps = [a for a in figure.axes if a.images]
    names = [t.get_text() for t in maps[0].get_yticklabels()]
    top = [p.genes[i] for i in np.argsort(-p.true.var(0))[:5]]
    assert sorted(names) == sorted(top)
    order = [p.genes.index(n) for n in names]
    mean = p.samples.mean(0, dtype=np.float64)
    shown = [p.true, p.samples[0].astype(np.float64), mean, ridge.samples[0]]
    for axes, values in zip(maps, shown, strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), np.corrcoef(values[:, order].T), atol=1e-6)
    assert len({axes.images[0].get_clim() for axes in maps}) == 1
    assert maps[0].get_title() == "measured"
    few, every = metrics.gene_corr_error(mean[:, order], p.true[:, order]), metrics.gene_corr_error(mean, p.true)
    assert maps[2].get_title() == f"narrow\nmean of 39 samples\nerror {few:.3f} (all genes {every:.3f})"
    assert maps[3].get_title().startswith("better_ridge\npoint prediction\n")
    assert figure.get_suptitle() == "S2: the 5 most variable of 8 genes, 144 spots"
    assert len(figure.axes) == 5  # one colour bar
    figure.savefig(tmp_path / "figure.png")


def test_genes_that_go_together_stand_together(result):
    axes = hd.pl.coexpression(result, "calibrated", n_genes=6).axes[0]
    signs = [int(t.get_text()[1:]) % 2 for t in axes.get_yticklabels()]
    assert signs in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize(("n", "shown"), [(10, 10), (40, 40), (150, 0)])
def test_dense_names_stand_in_two_columns_and_are_left_out_if_there_are_too_many(tmp_path, n, shown):
    genes = [f"G{i}" for i in range(n)]
    wide = write(tmp_path / "cv", gaussian, {"S1": genes, "S2": genes})
    axes = hd.pl.coexpression(wide, "narrow", n_genes=n).axes[0]
    names = [t.get_text() for minor in (False, True) for t in axes.get_yticklabels(minor=minor)]
    assert len(set(names)) == shown
    assert axes.get_ylabel() == ("" if shown else "150 genes")


def test_a_point_prediction_and_a_constant_are_drawn(result, tmp_path):
    figure = hd.pl.coexpression(result, "flat")
    measured, predicted = [a for a in figure.axes if a.images]
    assert not np.asarray(predicted.images[0].get_array()).any()
    assert "all genes" not in predicted.get_title()
    assert figure.get_suptitle() == "S1: all 8 genes, 144 spots"
    figure.savefig(tmp_path / "figure.png")


def test_what_coexpression_cannot_draw_is_refused(result):
    with pytest.raises(HisDiffError, match="no row 'best'; there are: 'flat'"):
        hd.pl.coexpression(result, "flat", reference="best")
    with pytest.raises(HisDiffError, match="n_genes=1 of a panel of 8"):
        hd.pl.coexpression(result, "flat", n_genes=1)


# --- calibration


def test_a_calibrated_method_is_on_the_diagonal_and_flat_and_a_narrow_one_is_not(result, tmp_path):
    figure = hd.pl.calibration(result, n_boot=100)
    coverage, difference, ranks = figure.axes
    levels, calibrated = labelled(coverage.lines, "calibrated")[0].get_data()
    np.testing.assert_allclose(levels, np.arange(1, 10) / 10)
    np.testing.assert_allclose(calibrated, levels, atol=0.03)
    narrow = labelled(coverage.lines, "narrow")[0].get_ydata()
    assert (narrow < levels - 0.03).all()
    np.testing.assert_allclose(labelled(difference.lines, "narrow")[0].get_ydata(), narrow - levels)
    flat, bent = (labelled(ranks.patches, n)[0].get_data().values for n in ("calibrated", "narrow"))
    np.testing.assert_allclose(flat, 1, atol=0.3)
    assert bent[[0, -1]].min() > 2 > 1 > bent[8:12].max()
    figure.savefig(tmp_path / "figure.png")


def test_the_histogram_counts_ranks_and_the_curve_their_centre(result):
    figure = hd.pl.calibration(result, ["narrow"], slide="S2", n_boot=50, seed=3)
    (p,) = [p for p in result.predictions("narrow") if p.slide == "S2"]
    rank = metrics.pit(p.samples[::2], p.true.astype(np.float16), seed=3)
    drawn = labelled(figure.axes[2].patches, "narrow")[0].get_data()
    np.testing.assert_allclose(drawn.values * rank.size / 20, np.histogram(rank, 20, (0, 1))[0])
    levels, inside = labelled(figure.axes[0].lines, "narrow")[0].get_data()
    np.testing.assert_allclose(inside, [(np.abs(rank - 0.5) <= level / 2).mean() for level in levels])
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    for level, value in zip(levels, inside, strict=True):
        ends = band[np.isclose(band[:, 0], level), 1]
        assert ends.min() < value < ends.max()
        assert ends.max() - ends.min() < 0.2


def test_where_counts_are_equal_the_rank_is_drawn_and_closed_intervals_cover_more(tmp_path):
    result = write(tmp_path / "cv", counts)
    figure = hd.pl.calibration(result, n_boot=20)
    closed, drawn = figure.axes[0].lines[:2]
    np.testing.assert_allclose(drawn.get_ydata(), drawn.get_xdata(), atol=0.03)
    assert (closed.get_ydata()[:5] > closed.get_xdata()[:5] + 0.2).all()
    expected = [metrics.coverage(p.samples, p.true.astype(np.float16), level=0.5) for p in result.predictions()]
    assert closed.get_ydata()[4] == pytest.approx(np.mean(expected))
    np.testing.assert_allclose(labelled(figure.axes[2].patches, "calibrated")[0].get_data().values, 1, atol=0.3)


def test_levels_go_as_far_as_the_samples(tmp_path):
    result = write(tmp_path / "cv", lambda *a: (gaussian(*a)[0], {"few": gaussian(*a)[1]["calibrated"][:4]}))
    levels = labelled(hd.pl.calibration(result, n_boot=5).axes[0].lines, "few")[0].get_xdata()
    np.testing.assert_allclose(levels, np.arange(1, 7) / 10)


def test_point_predictions_are_left_out_or_refused(result, tmp_path):
    names = {line.get_label() for line in hd.pl.calibration(result, n_boot=5).axes[1].lines}
    assert {"calibrated", "narrow"} <= names
    assert not {"flat", "better_ridge"} & names
    with pytest.raises(HisDiffError, match=r"'flat': point predictions .* rows with samples: 'calibrated', 'narrow'"):
        hd.pl.calibration(result, ["flat", "narrow"])
    points = write(tmp_path / "cv", lambda *a: (gaussian(*a)[0], {"flat": gaussian(*a)[1]["flat"]}))
    with pytest.raises(HisDiffError, match="rows with samples: none"):
        hd.pl.calibration(points)


@pytest.mark.parametrize("plot", ["gene_variation", "calibration", "coexpression"])
def test_unknown_rows_and_slides_are_refused_with_those_that_exist(result, plot):
    draw = getattr(hd.pl, plot)
    with pytest.raises(HisDiffError, match="no row 'narow'; there are: .*Did you mean 'narrow'"):
        draw(result, "narow")
    with pytest.raises(HisDiffError, match="no test slide 'S3'; there are: 'S1', 'S2'"):
        draw(result, "narrow", slide="S3")
    if plot != "coexpression":
        with pytest.raises(HisDiffError, match="rows= is empty; there are: 'flat'"):
            draw(result, [])
