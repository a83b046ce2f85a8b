"""Slides of square bins (Visium HD, Xenium) are trained on and predicted as slides of spots are."""

from __future__ import annotations

import numpy as np
import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffWarning

SIDE = {"Visium HD": 128.0, "Xenium": 100.0}


@pytest.fixture(scope="module", params=SIDE)
def bins(request, tmp_path_factory):
    """A small slide of bins with its tissue, and the genes of the shared slides."""
    root = hd.datasets.synthetic(
        tmp_path_factory.mktemp("bins") / "hest",
        slides=["B1"],
        technology=request.param,
        size_um=(1000.0, 900.0),
        mpp=1.1,
        n_genes=40,
        extras=True,
        seed=7,
    )
    return hd.io.hest(root, "B1")


@pytest.mark.parametrize("bins", ["Xenium"], indirect=True)
def test_a_model_of_bins_knows_their_size_and_grid(bins, panel, tmp_path):
    side = SIDE[bins.attrs["hisdiff_sd"]["technology"]]
    slide = hd.io.write(bins, tmp_path / "B1.zarr")
    model = hd.tl.train([slide], genes=panel, encoder="morphology", preset="small", tile_um=side, epochs=1)
    config = model.config
    assert (config.spot_diameter_um, config.spot_pitch_um, config.spot_grid) == (side, side, "square")
    assert config.tile_side_um == pytest.approx(side)
    # the outlines of HEST are taken for the tissue, and tiles lie on it as far apart as the bins
    hd.pp.tile(slide, model=model)
    tiles = slide[f"tiles_{side:g}um"]
    assert tiles.geometry.within(slide["tissue"].union_all().buffer(side)).all()
    hd.tl.predict(slide, model, n_samples=2, steps=2)
    assert list(slide["hisdiff"].obs["instance_id"]) == list(slide["spots"].index)


def test_a_model_of_spots_says_that_bins_are_others(bins, tiny_model):
    side = SIDE[bins.attrs["hisdiff_sd"]["technology"]]
    with pytest.warns(HisDiffWarning, match=f"spots {side:g} um apart, the model was trained at 200 um"):
        hd.tl.predict(bins, tiny_model, n_samples=2, steps=2)
    assert np.isfinite(bins["hisdiff"].X).all()
    hd.pl.expression(bins, bins["hisdiff"].var_names[0])
