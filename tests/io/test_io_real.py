"""Real slides, where there are some (see `real_hest`)."""

from __future__ import annotations

import shutil
import time

import anndata as ad
import numpy as np
import pytest
import spatialdata
import tifffile

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._hest_files import sample_ids


def test_every_slide_is_read_quickly_and_fits_together(real_hest):
    names = sample_ids(real_hest)
    assert names
    for name in names:
        start = time.process_time()
        slide = hd.io.hest(real_hest, name)
        assert time.process_time() - start < 10
        attrs = slide.attrs["hisdiff_sd"]
        source = ad.read_h5ad(real_hest / "st" / f"{name}.h5ad")
        assert slide["table"].n_obs == source.n_obs
        assert slide["table"].X.sum() == source.X.sum()
        assert attrs["qc"]["spots_outside_image"] == 0
        assert attrs["qc"]["integer_counts"]
        height, width = attrs["true_size"]
        xy = slide["table"].obsm["spatial"]
        assert (xy >= 0).all()
        assert (xy < [width, height]).all()
        # the grid itself says how large a pixel is
        assert attrs["qc"]["measured_pitch_um"] == pytest.approx(attrs["spot_pitch_um"], rel=0.03)


def test_a_slide_with_the_counts_of_its_neighbour_is_refused(real_hest, tmp_path):
    first, second = sample_ids(real_hest)[:2]
    for folder, end, name in (("wsis", "tif", first), ("metadata", "json", first), ("st", "h5ad", second)):
        (tmp_path / folder).mkdir()
        shutil.copy(real_hest / folder / f"{name}.{end}", tmp_path / folder / f"{first}.{end}")
    with pytest.raises(HisDiffError, match="different slides"):
        hd.io.hest(tmp_path, first)


def test_a_real_file_that_is_cut_off_is_refused(real_hest, tmp_path):
    name = sample_ids(real_hest)[0]
    for folder, end in (("metadata", "json"), ("st", "h5ad")):
        (tmp_path / folder).mkdir()
        shutil.copy(real_hest / folder / f"{name}.{end}", tmp_path / folder)
    (tmp_path / "wsis").mkdir()
    content = (real_hest / "wsis" / f"{name}.tif").read_bytes()
    for share in (0.001, 0.3, 0.8, 0.999):
        (tmp_path / "wsis" / f"{name}.tif").write_bytes(content[: int(share * len(content))])
        with pytest.raises(HisDiffError, match=rf"{name}\.tif .*fetch it again"):
            hd.io.hest(tmp_path, name)


@pytest.mark.slow
def test_a_slide_goes_through_a_store_unchanged(real_hest, tmp_path):
    name = sample_ids(real_hest)[0]
    slide = hd.io.hest(real_hest, name)
    hd.io.write(slide, tmp_path / "a.zarr")
    back = spatialdata.read_zarr(tmp_path / "a.zarr")
    height, width = back.attrs["hisdiff_sd"]["true_size"]
    pixels = tifffile.imread(real_hest / "wsis" / f"{name}.tif", series=0, level=0)
    stored = back["he"]["scale0"].image.data[:, :height, :width].compute()
    np.testing.assert_array_equal(stored.transpose(1, 2, 0), pixels)
    for number, level in enumerate(spatialdata.get_pyramid_levels(back["he"])):
        # the far corner, where a shift would have grown largest
        factor = 2**number
        y, x = height // factor, width // factor
        block = pixels[(y - 100) * factor : y * factor, (x - 100) * factor : x * factor]
        expected = block.reshape(100, factor, 100, factor, 3).mean((1, 3))
        found = level.data[:, y - 100 : y, x - 100 : x].compute().transpose(1, 2, 0)
        np.testing.assert_allclose(found, expected, atol=number + 1e-6, rtol=0)
    np.testing.assert_array_equal(back["table"].X.toarray(), slide["table"].X.toarray())
    assert (back["spots"].geometry == slide["spots"].geometry).all()
    assert back.attrs == slide.attrs
