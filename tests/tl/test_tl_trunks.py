"""Any trunk with any process: trained, saved, loaded, predicted, compared."""

from __future__ import annotations

import numpy as np
import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError


@pytest.mark.parametrize(("preset", "own", "other"), [("flow", "mlp", "dit"), ("small", "dit", "mlp")])
def test_another_trunk_is_trained_saved_and_predicted(stores, panel, open_store, tmp_path, preset, own, other):
    def trained(trunk: str | None) -> hd.HisDiff:
        how = {"genes": panel, "encoder": "morphology", "preset": preset, "epochs": 1, "trunk": trunk}
        return hd.tl.train([stores["S1"]], **how)

    model = trained(other)
    model.save(tmp_path / "m")
    loaded = hd.HisDiff.load(tmp_path / "m")
    assert (loaded.process, loaded.network.trunk) == ({"flow": "flow", "small": "ddpm"}[preset], other)
    assert loaded.fingerprint == model.fingerprint
    assert loaded.config.training["settings"]["trunk"] == other
    sdata = open_store("S3")
    hd.tl.predict(sdata, loaded, n_samples=2, steps=2)
    assert np.isfinite(sdata["hisdiff"].X).all()
    by_default = trained(None)
    assert by_default.network.trunk == own
    assert trained(own).fingerprint == by_default.fingerprint


def test_rows_of_a_cross_validation_name_their_trunk(stores, panel):
    rows = ["hisdiff:flow:dit", hd.tl.HisDiffRow("small", epochs=1, trunk="mlp")]
    assert hd.tl.HisDiffRow("flow", trunk="dit").name == "hisdiff:flow:dit"
    how = {"by": "slide", "genes": panel, "encoder": "morphology", "n_samples": 2}
    cv = hd.tl.cross_validate([stores["S1"], stores["S2"]], rows=rows[1:], **how)
    assert cv.rows == ["hisdiff:small:mlp"]
    with pytest.raises(HisDiffError, match=r"no row 'hisdiff:flow:unet'.*Did you mean 'hisdiff:flow"):
        hd.tl.cross_validate([stores["S1"], stores["S2"]], rows=["hisdiff:flow:unet"], **how)


def test_an_unknown_trunk_is_refused_before_anything_is_read(panel, tmp_path):
    with pytest.raises(HisDiffError, match=r"no trunk 'unet'; there are: 'dit', 'mlp'"):
        hd.tl.train([tmp_path / "nothing.zarr"], genes=panel, encoder="morphology", trunk="unet")
