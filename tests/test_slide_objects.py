"""Functions of a slide that are given something else say so, in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

FUNCTIONS = {
    "pp.embed": lambda x, model: hd.pp.embed(x, "morphology"),
    "pp.tissue": lambda x, model: hd.pp.tissue(x),
    "pp.tile": lambda x, model: hd.pp.tile(x, 100),
    "tl.predict": lambda x, model: hd.tl.predict(x, model),
    "tl.exceedance": lambda x, model: hd.tl.exceedance(x, model, 1.0),
    "tl.region_mean": lambda x, model: hd.tl.region_mean(x, model, np.zeros(3)),
    "tl.evaluate": lambda x, model: hd.tl.evaluate(x, model),
    "tl.rasterize": lambda x, model: hd.tl.rasterize(x, "hisdiff"),
    "tl.read_map": lambda x, model: hd.tl.read_map(x, "spots"),
    "pl.tissue": lambda x, model: hd.pl.tissue(x),
    "pl.expression": lambda x, model: hd.pl.expression(x, "ERBB2"),
    "io.to_anndata": lambda x, model: hd.io.to_anndata(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_slide_is_refused(name, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong in (model, None, Path("S3.zarr"), 3):
        with pytest.raises(
            HisDiffError, match=rf"is needed, not {type(wrong).__name__}; open a store with hd\.io\.open$"
        ):
            FUNCTIONS[name](wrong, model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tl.predict", "tl.exceedance", "tl.region_mean", "tl.evaluate"])
def test_what_is_no_model_is_refused(name, open_store):
    sdata = open_store("S3")
    with pytest.raises(
        HisDiffError, match=r"model= is a HisDiff, its folder or a Hugging Face hub id, not SpatialData"
    ):
        FUNCTIONS[name](sdata, sdata)
