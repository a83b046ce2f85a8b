"""Which square of a slide belongs to a spot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.tiles import PADDINGS, TILE_PX, TileProtocol, best_level, boxes


@pytest.mark.parametrize(
    ("diameter", "side"),
    [(0.0, 224), (144.3, 224), (223.9, 224), (225.9, 224), (226.0, 226), (227.99, 226), (300.0, 300), (301.5, 300)],
)
@pytest.mark.parametrize("mpp", [0.1, 1.0])
def test_the_published_side_is_the_even_part_of_the_spot_and_at_least_224(diameter, side, mpp):
    assert TileProtocol().side_px(diameter, mpp) == side


@given(diameter=st.floats(0, 5000))
def test_the_published_side_follows_its_formula(diameter):
    assert TileProtocol().side_px(diameter, 0.5) == max(224, 2 * math.floor(diameter / 2))


@given(um=st.floats(1, 1e4), mpp=st.floats(0.05, 20), diameter=st.floats(1, 500))
def test_a_physical_tile_measures_what_it_says(um, mpp, diameter):
    assert TileProtocol(um).side_px(diameter, mpp) * mpp == pytest.approx(um)


@given(um=st.none() | st.floats(1, 1e30), padding=st.sampled_from(PADDINGS))
@example(um=112.0, padding="black")
@example(um=112.5, padding="white")
@example(um=1 / 3 + 112, padding="reflect")
@example(um=1e22, padding="reflect")
def test_a_name_gives_the_protocol_back(um, padding):
    protocol = TileProtocol(um, padding)
    assert TileProtocol.parse(protocol.name) == protocol


def test_names_and_filters():
    assert TileProtocol().name == "hisdiff"
    assert TileProtocol(112).name == TileProtocol(112.0).name == "112um"
    assert TileProtocol(55.5).name == "55.5um"
    assert TileProtocol(None, "white").name == "hisdiff+white"
    assert TileProtocol.parse("hisdiff") == TileProtocol()
    assert (TileProtocol().resize_filter, TileProtocol(112).resize_filter) == ("lanczos", "bicubic")


@pytest.mark.parametrize(
    "name", ["", "112", "um", "112 um", "-5um", "1.2.3um", "..um", "eum", "nanum", "hisdiff2", "0.1um", "112um+grey"]
)
def test_names_that_are_none(name):
    with pytest.raises(HisDiffError, match=r"no tile protocol|no tile size|no padding"):
        TileProtocol.parse(name)


@pytest.mark.parametrize("um", [0, -112, 0.5, float("nan"), float("inf")])
def test_sizes_that_are_none(um):
    with pytest.raises(HisDiffError, match=r"no tile size; micrometres are needed, such as 112"):
        TileProtocol(um)


@given(x=st.floats(0, 5e4), y=st.floats(0, 5e4), half=st.integers(1, 600))
def test_the_published_box_lies_around_the_truncated_centre(x, y, half):
    corner, side = boxes(np.array([[x, y]]), 2.0 * half)
    assert side == 2 * half
    assert corner.tolist() == [[int(x) - half, int(y) - half]]
    assert corner.dtype == np.int64


@given(
    xy=st.tuples(st.floats(-100, 5e4), st.floats(-100, 5e4)),
    side=st.floats(1, 3000),
    level=st.integers(0, 6),
)
def test_a_box_on_a_level_holds_its_spot_in_the_middle(xy, side, level):
    downsample = 2**level
    (corner,), side_px = boxes(np.array([xy]), side, downsample)
    assert abs(side_px - side / downsample) <= 0.5 or side_px == 1
    # in level-0 px, the centre of the box is within a pixel of the level of the spot
    centre = (corner + side_px / 2) * downsample
    assert np.abs(centre - np.array(xy)).max() <= downsample * 1.0000001


def test_the_coarsest_level_that_still_has_224_px():
    assert [best_level(side, 4) for side in (100, 224, 447.9, 448, 896, 1792, 9999)] == [0, 0, 0, 1, 2, 3, 3]
    assert best_level(9999, 1) == 0


@given(side=st.floats(1, 1e5), n_levels=st.integers(1, 8))
def test_the_level_never_costs_resolution(side, n_levels):
    level = best_level(side, n_levels)
    assert 0 <= level < n_levels
    assert level == 0 or side / 2**level >= TILE_PX
    assert level == n_levels - 1 or side / 2 ** (level + 1) < TILE_PX
