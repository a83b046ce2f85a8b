"""Slides are given as objects or as paths of stores."""

from __future__ import annotations

import numpy as np
import pytest
import spatialdata

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd._open import open_slide, slide_name
from hisdiff_sd.io._store import slide_attrs


def test_objects_are_returned_and_paths_read(tiny_root, tmp_path):
    slide = hd.io.hest(tiny_root, "T1")
    assert open_slide(slide) is slide
    hd.io.write(slide, tmp_path / "T1.zarr")
    for path in (tmp_path / "T1.zarr", str(tmp_path / "T1.zarr")):
        opened = open_slide(path)
        assert opened.attrs == slide.attrs
        assert slide_name(opened) == "T1"
        np.testing.assert_array_equal(opened["table"].X.toarray(), slide["table"].X.toarray())


def test_open_slide_says_what_is_wrong_with_a_path(tmp_path):
    with pytest.raises(MissingFileError, match=r"no store .*no\.zarr; write one with hd\.io\.write"):
        open_slide(tmp_path / "no.zarr")
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(HisDiffError, match=r"x\.zarr cannot be read as a SpatialData store"):
        open_slide(tmp_path / "x.zarr")


def test_a_folder_of_stores_is_no_store(stores):
    folder = stores["S1"].parent
    with pytest.raises(
        HisDiffError, match=r"is a folder of stores, and not one: give one of them, such as .*S1\.zarr$"
    ):
        open_slide(folder)


def test_a_spatialdata_of_others_is_refused_with_the_way_out():
    with pytest.raises(HisDiffError, match=r"no attrs\['hisdiff_sd'\].*hd\.io\.hest"):
        slide_attrs(spatialdata.SpatialData())
    with pytest.raises(HisDiffError, match="schema version 99, this version of hisdiff_sd reads 1"):
        slide_attrs(spatialdata.SpatialData(attrs={"hisdiff_sd": {"schema": 99}}))
