"""A table says how it was made, and is compared by that."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from spatialdata import SpatialData, read_zarr

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._provenance import check_provenance, get_provenance, provenance, set_provenance

RECORD = {
    "kind": "embedding",
    "px": 224,
    "side": 101.81818181818181,
    "none": None,
    "nested": {"a": [1, None]},
    "on": True,
}


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
def test_records_survive_a_store_and_are_recognised(tmp_path):
    table = AnnData(np.zeros((2, 2), np.float32))
    record = provenance(**RECORD)
    set_provenance(table, record)
    SpatialData(tables={"t": table}).write(tmp_path / "t.zarr")
    back = read_zarr(tmp_path / "t.zarr")["t"]
    assert check_provenance(back, record, "t")
    found = get_provenance(back)
    assert found["version"] == hd.__version__
    assert (found["none"], found["nested"]) == ("", '{"a": [1, null]}')


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"px": 256}, "px: 224 there, 256 asked for"),
        ({"kind": "other"}, "kind: 'embedding' there, 'other' asked for"),
        ({"new": 1}, "new: None there, 1 asked for"),
        ({"side": 101.8}, "side: 101.818 there, 101.8 asked for"),
        ({"side": 101.81818181}, "side: 101.81818181818181 there, 101.81818181 asked for"),
        ({"nested": {"a": [1, 2]}}, "nested"),
    ],
)
def test_what_differs_is_named_with_the_way_out(change, named):
    table = AnnData(np.zeros((2, 2), np.float32))
    set_provenance(table, provenance(**RECORD))
    with pytest.raises(HisDiffError, match=r"table 't' was made in another way .*overwrite=True.*key_added=") as caught:
        check_provenance(table, provenance(**RECORD | change), "t")
    assert named in str(caught.value)
    assert str(caught.value).count(" there, ") == 1


def test_a_table_of_others_has_no_record():
    table = AnnData(np.zeros((2, 2), np.float32))
    assert get_provenance(table) == {}
    with pytest.raises(HisDiffError, match="kind: None there"):
        check_provenance(table, provenance(kind="embedding"), "t")
