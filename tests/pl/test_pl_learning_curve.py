"""The figure of a learning curve shows the means and ends of its table, and refuses what is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

VALUES = {
    ("a", "S1"): [0.9, 0.7, 0.6],
    ("a", "S2"): [0.5, 0.4, 0.3],
    ("b", "S1"): [1.0, 0.9, 0.9],
    ("b", "S2"): [0.8, 0.7, 0.6],
}


@pytest.fixture
def table() -> pd.DataFrame:
    """Two methods, two held-out slides, one to three training slides."""
    lines = [
        {"n_slides": n, "slide": slide, "row": row, "target": "log2", "metric": metric, "value": value * times}
        for (row, slide), values in VALUES.items()
        for n, value in zip((1, 2, 3), values, strict=True)
        for metric, times in (("mse", 1.0), ("coverage90", np.nan if row == "b" else 0.9))
    ]
    return pd.DataFrame(lines)


def panels(figure) -> list:
    return [axes for axes in figure.axes if axes.axison]


def test_points_are_means_and_bars_end_at_the_lowest_and_highest_slide(table):
    mse, coverage = panels(hd.pl.learning_curve(table))
    a, b = mse.lines
    np.testing.assert_allclose(a.get_ydata(), [0.7, 0.55, 0.45])
    np.testing.assert_allclose(b.get_ydata(), [0.9, 0.8, 0.75])
    np.testing.assert_allclose(a.get_xdata(), [1, 2, 3], atol=0.1)
    assert (a.get_xdata() < b.get_xdata()).all()
    ends = [np.sort(segment[:, 1]) for segment in mse.collections[0].get_segments()]
    np.testing.assert_allclose(ends, [[0.5, 0.9], [0.4, 0.7], [0.3, 0.6]])
    # a point prediction has no coverage: no points, and the nominal line
    assert [len(line.get_ydata()) for line in coverage.lines] == [3, 0, 2]


def test_it_can_be_read_without_colour_and_says_what_it_is_of(table):
    figure = hd.pl.learning_curve(table, "mse")
    (axes,) = panels(figure)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3"]
    assert len({(line.get_linestyle(), line.get_marker()) for line in axes.lines}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert "held-out slides (S1, S2)" in figure.get_supxlabel().replace("\n", " ")
    assert "better" in axes.get_ylabel()


def test_a_method_keeps_its_style_when_others_are_left_out(table):
    (both,) = panels(hd.pl.learning_curve(table, ["mse"]))
    (one,) = panels(hd.pl.learning_curve(table, ["mse"], rows=["b"]))
    assert one.lines[0].get_color() == both.lines[1].get_color()
    assert one.lines[0].get_linestyle() == both.lines[1].get_linestyle()
    single = hd.pl.learning_curve(table[table["slide"] == "S2"], ["mse"])
    assert "held-out slide S2" in single.get_supxlabel().replace("\n", " ")


def test_what_is_no_learning_curve_is_refused(table):
    for given, message in (
        (table.drop(columns="n_slides"), "lacks n_slides"),
        (table.iloc[:0], "is empty"),
        (pd.concat([table, table.assign(target="cp10k")]), "targets log2, cp10k"),
    ):
        with pytest.raises(HisDiffError, match=message):
            hd.pl.learning_curve(given)
    for options, message in (
        ({"metrics": ["crps"]}, "no metric 'crps'"),
        ({"metrics": []}, "metrics= is empty"),
        ({"rows": ["c"]}, "no row 'c'"),
    ):
        with pytest.raises(HisDiffError, match=message):
            hd.pl.learning_curve(table, **options)
