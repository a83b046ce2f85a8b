"""Image, positions and counts are put together by barcode, and only if they fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._slide import SlideParts, assemble, pitch_px

BARCODES = [f"b{i}" for i in range(16)]
XY = np.array([[100.0 + 200 * (i % 4), 100.0 + 200 * (i // 4)] for i in range(16)])


@pytest.fixture
def parts(make_slide) -> SlideParts:
    root = make_slide(np.full((800, 800, 3), 180, np.uint8))
    counts = AnnData(
        csr_matrix(np.arange(32, dtype=np.float32).reshape(16, 2)),
        obs=pd.DataFrame(index=BARCODES),
        var=pd.DataFrame(index=["G1", "G2"]),
    )
    xy = pd.DataFrame(XY, index=BARCODES, columns=["x", "y"])
    return SlideParts(
        "M1",
        root / "wsis" / "M1.tif",
        root / "st" / "M1.h5ad",
        counts,
        xy,
        1.0,
        "given",
        100.0,
        200.0,
        {"organ": "Lung"},
    )


def test_positions_in_any_order_and_of_more_spots_are_joined_by_barcode(parts):
    more = pd.concat([parts.xy, pd.DataFrame({"x": [1.0], "y": [2.0]}, index=["off"])])
    parts.xy = more.sample(frac=1, random_state=3)
    slide = assemble(parts)
    assert list(slide["spots"].index) == list(slide["table"].obs_names) == BARCODES
    np.testing.assert_array_equal(np.column_stack([slide["spots"].geometry.x, slide["spots"].geometry.y]), XY)
    np.testing.assert_array_equal(slide["table"].obsm["spatial"], XY)
    np.testing.assert_array_equal(slide["table"].X.toarray(), np.arange(32).reshape(16, 2))


def test_barcodes_without_a_position_are_named(parts):
    parts.xy = parts.xy.drop(index=["b3", "b9"])
    match = r"M1\.h5ad: 2 of 16 barcodes have no position, for example \['b3', 'b9'\]; .*same slide"
    with pytest.raises(HisDiffError, match=match):
        assemble(parts)


def test_what_the_source_does_not_say_is_blank(parts):
    attrs = assemble(parts).attrs["hisdiff_sd"]
    assert {k: attrs[k] for k in ("organ", "patient", "species", "dataset")} == {
        "organ": "Lung",
        "patient": "",
        "species": "",
        "dataset": "",
    }


def test_the_pitch_is_that_of_the_grid_also_where_spots_lie_off_it():
    square = np.stack(np.meshgrid(np.arange(14), np.arange(14)), -1).reshape(-1, 2) * 290.0
    hexagonal = square * [1, np.sqrt(3) / 2] + [145, 0] * (square[:, 1:] // 290 % 2)
    rng = np.random.default_rng(0)
    for grid in (square, hexagonal):
        assert pitch_px(grid) == pytest.approx(290)
        holes = grid[rng.random(len(grid)) < 0.7]
        assert pitch_px(holes) == pytest.approx(290)
    # as far off as on real Spatial Transcriptomics slides
    assert pitch_px(square + rng.normal(0, 15, square.shape)) == pytest.approx(290, rel=0.03)
