"""Spots that lie elsewhere than the image says are told from those that lie where they should."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pytest
from scipy import ndimage as ndi
from scipy.sparse import csr_matrix

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffWarning
from hisdiff_sd.io._alignment import alignment
from hisdiff_sd.io._hest_files import sample_ids

PITCH = 100.0


@dataclass
class Section:
    """A Visium section on a wide glass, 2 um per px, with its spots and counts."""

    image: np.ndarray
    xy: np.ndarray
    counts: csr_matrix

    def check(self, xy=None, counts=None, image=None):
        picture, places = self.image if image is None else image, self.xy if xy is None else xy
        return alignment(picture, 2.0, places, self.counts if counts is None else counts, 55.0, PITCH)

    @property
    def middle(self) -> np.ndarray:
        return (self.xy.min(0) + self.xy.max(0)) / 2


@pytest.fixture(scope="module")
def visium_root(tmp_path_factory):
    out = tmp_path_factory.mktemp("visium") / "hest"
    return hd.datasets.synthetic(
        out, slides=("V1", "V2"), technology="Visium", size_um=(1400.0, 1200.0), mpp=2.0, n_genes=60, seed=5
    )


@pytest.fixture(scope="module")
def section(visium_root) -> Section:
    slide = hd.io.hest(visium_root, "V1")
    table = slide["table"]
    (library,) = table.uns["spatial"].values()
    image = np.pad(library["images"]["hires"], ((220, 220), (220, 220), (0, 0)), constant_values=243)
    return Section(image, table.obsm["spatial"] + 220, table.X)


def test_spots_that_lie_where_they_should(section):
    found = section.check()
    assert found["verdict"] == "fits"
    assert found["on_glass"] < 0.02
    assert found["fit"] > 3 * found["usual"]


@pytest.mark.parametrize("pitches", [(3, 0), (0, -3), (-4, 2), (2.5, 2.5), (-3.3, 1.4), (0, 6)])
def test_spots_that_are_moved(section, pitches):
    found = section.check(section.xy + np.array(pitches) * PITCH / 2)
    assert found["verdict"] == "elsewhere"
    back = [float(word) for word in found["best"].replace("moved by", "").split() if word[0] in "+-"]
    np.testing.assert_allclose(back, -np.array(pitches), atol=0.5)
    assert found["best_fit"] > 2 * found["fit"]


@pytest.mark.parametrize(
    ("signs", "swap", "words"),
    [
        ((-1, 1), False, "mirrored left to right"),
        ((1, -1), False, "mirrored top to bottom"),
        ((-1, -1), False, "turned by 180 degrees"),
        ((1, 1), True, "x and y exchanged"),
    ],
)
def test_spots_that_are_mirrored_or_turned(section, signs, swap, words):
    off = (section.xy - section.middle) * signs
    found = section.check(section.middle + (off[:, ::-1] if swap else off))
    assert found["verdict"] == "elsewhere"
    assert found["best"].startswith(words)


def test_shuffled_counts_say_nothing(section):
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(section.counts.shape[0])
        assert section.check(counts=section.counts[rows])["verdict"] == "undecided"


def test_smooth_expression_that_has_nothing_to_do_with_the_image_is_not_misplaced(section):
    cells = ((section.xy - section.xy.min(0)) / PITCH * 4).astype(int)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        fields = ndi.gaussian_filter(rng.standard_normal((64, 64, 4)), (rng.uniform(2, 8),) * 2 + (0,))
        activity = fields[cells[:, 1], cells[:, 0]] / fields.std()
        rate = np.exp(activity @ rng.normal(0, 0.5, (4, 60)) + rng.normal(0, 1, 60))
        assert section.check(counts=csr_matrix(rng.poisson(20 * rate)))["verdict"] != "elsewhere"


def test_noise_of_few_spots_is_no_fit():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 255, (520, 400, 3), dtype=np.uint8)
        xy = np.column_stack([60 + 50.0 * (np.arange(40) % 5), 70 + 43.3 * (np.arange(40) // 5)])
        found = alignment(image, 2.0, xy, csr_matrix(rng.poisson(4.0, (40, 3))), 55.0, PITCH)
        assert found["verdict"] == "undecided"


def test_spots_beside_the_tissue_are_counted(section):
    found = section.check(section.xy + np.array([0, 300]))
    assert 0.3 < found["on_glass"] < 0.7
    assert section.check(image=np.full_like(section.image, 243))["on_glass"] == 1


def test_of_few_spots_only_the_glass_is_said(section):
    assert set(section.check(section.xy[:20], section.counts[:20])) == {"on_glass"}
    assert section.check(counts=csr_matrix(section.counts.shape, dtype=np.float32)) == {"on_glass": 0.0}


def test_the_resolution_of_the_picture_does_not_matter(section):
    coarse = section.image[: 820 // 4 * 4, : 1140 // 4 * 4].reshape(205, 4, 285, 4, 3).mean((1, 3)).astype(np.uint8)
    found = alignment(coarse, 8.0, (section.xy + 0.5) / 4 - 0.5, section.counts, 55.0, PITCH)
    assert found["verdict"] == "fits"
    assert found["fit"] == pytest.approx(section.check()["fit"], rel=0.1)


def test_a_mirrored_slide_is_warned_of_when_it_is_read(visium_root, tmp_path):
    root = shutil.copytree(visium_root, tmp_path / "hest")
    table = ad.read_h5ad(root / "st" / "V1.h5ad")
    width = hd.io.hest(root, "V1").attrs["hisdiff_sd"]["true_size"][1]
    table.obsm["spatial"] = np.array([width, 0]) + table.obsm["spatial"] * [-1, 1]
    table.write_h5ad(root / "st" / "V1.h5ad")
    with pytest.warns(HisDiffWarning, match="slide V1: alignment: the spots fit better mirrored left to right"):
        slide = hd.io.hest(root, "V1")
    report = hd.io.qc(slide)
    assert [f.name for f in report.of("warning")] == ["alignment"]
    assert hd.io.qc_table([slide])["alignment"].tolist() == ["elsewhere"]


def test_real_slides(real_hest):
    for name in sample_ids(real_hest):
        slide = hd.io.hest(real_hest, name)
        table, attrs = slide["table"], slide.attrs["hisdiff_sd"]
        assert attrs["qc"]["alignment"]["verdict"] == "fits"
        (library,) = table.uns["spatial"].values()
        scale, image = library["scalefactors"]["tissue_hires_scalef"], library["images"]["hires"]
        pitch = attrs["spot_pitch_um"] / attrs["mpp"]
        xy, width = table.obsm["spatial"], attrs["true_size"][1]
        turned = xy.min(0) + xy.max(0) - xy
        mirrored = np.column_stack([width - xy[:, 0], xy[:, 1]])
        for moved in (xy + pitch * np.array([3, 0]), xy - pitch * np.array([0, 3]), mirrored, turned):
            found = alignment(image, attrs["mpp"] / scale, moved * scale, table.X, 100.0, attrs["spot_pitch_um"])
            # one of two marks is enough, and both are warned of
            assert found["verdict"] == "elsewhere" or found["on_glass"] > 0.15
