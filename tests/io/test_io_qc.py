"""Every known trouble of a slide has its finding, and a slide as it should be has none."""

from __future__ import annotations

import copy
import shutil
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.sparse import csr_matrix
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning, MissingFileError


def read(root, slide="T1", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HisDiffWarning)
        return hd.io.hest(root, slide, **options)


def finding(report, name):
    (found,) = [f for f in report.findings if f.name == name]
    return found


def level_and_text(root, name, slide="T1", **options):
    found = finding(hd.io.qc(read(root, slide, **options)), name)
    return found.level, str(found)


@pytest.fixture(scope="module")
def clean(tiny_root):
    return hd.io.hest(tiny_root, "T1")


@pytest.fixture
def renamed(root):
    """A function that copies T1 under another id."""

    def rename(new):
        for folder, end in (("wsis", "tif"), ("st", "h5ad"), ("metadata", "json")):
            shutil.copy(root / folder / f"T1.{end}", root / folder / f"{new}.{end}")

    return rename


def test_a_slide_as_it_should_be(clean):
    report = hd.io.qc(clean)
    assert [f.name for f in report.findings if f.level != "ok"] == [
        "poor spots"
    ]  # as sections have them, at their edge
    assert {f.name for f in report.findings} == {
        *("pixel size", "other pixel sizes", "spot pitch", "spots outside the image", "spots on glass", "counts"),
        *("totals", "empty spots", "poor spots", "gene names", "duplicated genes", "control probes", "patient"),
    }
    assert not any(f.advice for f in report.of("ok"))


def test_it_reads_as_a_text_and_as_a_table(root, edit_metadata):
    edit_metadata(pixel_size_um_embedded=10.0)
    report = hd.io.qc(read(root))
    lines = str(report).splitlines()
    assert lines[0] == "Slide T1: 0 errors, 0 warnings, 2 notes"
    assert repr(report) == str(report)
    assert "note    other pixel sizes" in str(report)
    assert "-> the distance of the spots confirms 1 um" in str(report)
    assert list(report.table.columns) == ["level", "name", "value", "advice"]
    assert len(report.table) == len(report.findings)


def test_metadata_that_name_another_pixel_size(root, edit_metadata):
    edit_metadata(pixel_size_um_embedded=10.0)
    level, text = level_and_text(root, "other pixel sizes")
    assert level == "note"
    assert "pixel_size_um_embedded differ: 10 um (pixel_size_um_embedded), 1 um (TIFF resolution tags)" in text


def test_tags_of_the_image_that_are_ten_times_off(root):
    with tifffile.TiffFile(root / "wsis" / "T1.tif", mode="r+b") as tif:
        for code in (282, 283):
            tif.pages[0].tags[code].overwrite((1000, 1))
    level, text = level_and_text(root, "other pixel sizes")
    assert level == "note"
    assert "TIFF resolution tags differ: 10 um (TIFF resolution tags)" in text


def test_a_wrong_pixel_size_is_told_by_the_spots(root):
    with pytest.warns(HisDiffWarning) as caught:
        slide = hd.io.hest(root, "T1", mpp=0.5)
    report = hd.io.qc(slide)
    assert {f.name for f in report.of("warning")} == {"other pixel sizes", "spot pitch"}
    assert "100 um measured, 200 um declared" in finding(report, "spot pitch").value
    assert "1 um (spot grid)" in finding(report, "other pixel sizes").value
    assert len([w for w in caught if w.category is HisDiffWarning]) == 2  # each is said once


@pytest.mark.parametrize("mpp", [0.05, 6.0])
def test_a_pixel_size_that_no_slide_has(clean, mpp):
    slide = copy.deepcopy(dict(clean.attrs["hisdiff_sd"])) | {"mpp": mpp}
    assert finding(of_attrs(clean, slide), "pixel size").level == "warning"


def of_attrs(clean, attrs):
    """The report of a slide whose record is another one."""
    import spatialdata

    return hd.io.qc(spatialdata.SpatialData(attrs={"hisdiff_sd": attrs}))


@pytest.mark.parametrize(
    ("fact", "name", "level", "words"),
    [
        ({"declared_size": [450, 550]}, "image size", "warning", "1100 x 900 px, the metadata say 550 x 450"),
        ({"totals_differ": 7}, "totals", "warning", "7 of 20 spots have other totals than obs['total_counts']"),
        ({"totals_differ": 0}, "totals", "ok", "median"),
        (
            {"patches": {"compared": 20, "moved": 9, "unknown": 0}},
            *("patches", "warning", "9 of 20 do not lie on their spots"),
        ),
        ({"patches": {"compared": 20, "moved": 0, "unknown": 0}}, "patches", "ok", "0 of 20"),
        ({"alignment": {"on_glass": 0.1}}, "spots on glass", "note", "10% of the spots"),
        ({"alignment": {"on_glass": 0.3}}, "spots on glass", "warning", "30% of the spots"),
    ],
)
def test_what_readers_note(clean, fact, name, level, words):
    attrs = copy.deepcopy(clean.attrs["hisdiff_sd"])
    attrs["qc"] |= {"spots": 20, **fact}
    found = finding(of_attrs(clean, attrs), name)
    assert found.level == level
    assert words in found.value


def test_pooled_totals_of_visium_hd_are_suspect_unless_they_were_compared(clean):
    attrs = copy.deepcopy(clean.attrs["hisdiff_sd"]) | {"technology": "Visium HD"}
    attrs["qc"]["totals_differ"] = None  # HEST has pooled them, and says no totals
    found = finding(of_attrs(clean, attrs), "totals")
    assert (found.level, "pooled bins of Visium HD are suspect" in found.value) == ("note", True)
    attrs["qc"]["totals_differ"] = 0
    assert finding(of_attrs(clean, attrs), "totals").level == "ok"


def test_spots_outside_the_image(root, edit_counts):
    edit_counts(lambda table: table.obsm["spatial"].__setitem__((3, 0), 5000.0))
    assert level_and_text(root, "spots outside the image")[0] == "warning"


def test_spots_beside_the_tissue(root, edit_counts):
    white = np.full((900, 1100, 3), 244, np.uint8)
    drawn = np.asarray(Image.fromarray(tifffile.imread(root / "wsis" / "T1.tif", level=0)).resize((300, 250)))
    white[-250:, -300:] = drawn
    with tifffile.TiffWriter(root / "wsis" / "T1.tif") as tif:
        tif.write(white, tile=(256, 256), photometric="rgb")
    edit_counts(lambda table: table.uns.pop("spatial"))  # a small image, which would say that it is another slide
    with pytest.warns(HisDiffWarning, match=r"slide T1: spots on glass: \d\d% of the spots with counts lie beside"):
        slide = hd.io.hest(root, "T1")
    assert finding(hd.io.qc(slide), "spots on glass").level == "warning"


@pytest.mark.parametrize(
    ("change", "name", "level", "words"),
    [
        (lambda x: x * 40.5, "counts", "warning", "not whole numbers"),
        (np.log1p, "counts", "error", "not whole numbers and at most"),
        (lambda x: x / x.sum(1, keepdims=True) * 1e4, "totals", "error", "all spots have the same total"),
    ],
)
def test_counts_that_were_changed(root, edit_counts, change, name, level, words):
    def spoil(table):
        table.X = csr_matrix(change(table.X.toarray()).astype(np.float32))

    edit_counts(spoil)
    with pytest.warns(HisDiffWarning, match=f"slide T1: {name}"):
        hd.io.hest(root, "T1")
    found, text = level_and_text(root, name)
    assert found == level
    assert words in text


@pytest.mark.parametrize(("n", "level"), [(1, "note"), (5, "warning"), (None, "error")])
def test_spots_without_counts(root, edit_counts, n, level):
    def empty(table):
        counts = table.X.toarray()
        counts[:n] = 0
        table.X = csr_matrix(counts)

    edit_counts(empty)
    found, text = level_and_text(root, "empty spots")
    assert found == level
    assert f"{n or ''}" in text
    assert "no count at all" in text


@pytest.mark.parametrize(("n", "level"), [(2, "note"), (7, "warning")])
def test_spots_with_few_counts(root, edit_counts, n, level):
    def thin(table):
        counts = table.X.toarray()
        counts[:n] = np.minimum(counts[:n], 1) * (np.arange(12) < 3)
        counts[n:] += 10
        table.X = csr_matrix(counts)

    edit_counts(thin)
    found, text = level_and_text(root, "poor spots")
    assert found == level
    assert f"{n} of " in text


def test_names_of_genes(root, edit_counts):
    names = ["BLANK_1", "NegControlProbe_2", *(f"ENSG{i:011d}.3" for i in range(9)), "ENSG00000000000.4"]
    edit_counts(lambda table: setattr(table, "var_names", names))
    report = hd.io.qc(read(root))
    assert str(finding(report, "control probes")) == "control probes: 2, dropped"
    assert "1 (ENSG00000000000), their counts were summed" in str(finding(report, "duplicated genes"))
    text = str(finding(report, "gene names"))
    assert "Ensembl ids; 10 without their version; 10 have no symbol in the file and stay (ENSG00000000000" in text
    assert "train with slides of the same names" in text
    assert report.level == "note"
    kept = hd.io.qc(read(root, control_probes=True, genes="file"))
    assert str(finding(kept, "control probes")) == "control probes: 2, kept, marked in var['control']"
    assert finding(kept, "duplicated genes").level == "ok"


@pytest.mark.parametrize("patient", [None, float("nan"), ""])
def test_an_unknown_patient(root, edit_metadata, patient):
    edit_metadata(patient=patient)
    level, text = level_and_text(root, "patient")
    assert level == "note"
    assert "unknown" in text


@pytest.mark.parametrize(
    ("slide", "level", "words"),
    [
        ("NCBI784", "error", ["misaligned", "not to be 100 um"]),
        ("MISC128", "error", ["misaligned"]),
        ("MISC129", "error", ["misaligned"]),
        ("TENX122", "warning", ["not to be 100 um"]),
        ("TENX155", "warning", ["same slide as TENX128"]),
    ],
)
def test_slides_of_hest_that_are_known_to_be_bad(root, renamed, slide, level, words):
    renamed(slide)
    with pytest.warns(HisDiffWarning, match=f"slide {slide}: known trouble"):
        report = hd.io.qc(hd.io.hest(root, slide))
    assert report.level == level
    known = [f.value for f in report.findings if f.name == "known trouble"]
    assert len(known) == len(words)
    assert all(word in text for word, text in zip(words, known, strict=True))


def test_one_slide_under_two_ids(root, renamed, edit_counts):
    renamed("X1")
    # other names of the spots in another order, and another compression of the image
    edit_counts(lambda table: table[::-1].copy())
    pixels = tifffile.imread(root / "wsis" / "T1.tif", level=0)
    with tifffile.TiffWriter(root / "wsis" / "T1.tif") as tif:
        tif.write(pixels, tile=(256, 256), photometric="rgb", compression="jpeg", compressionargs={"level": 60})
    table = hd.io.qc_table([read(root, name) for name in ("T1", "T2", "X1")]).set_index("slide")
    assert table["same_as"].to_dict() == {
        "T1": "X1 (same counts and image)",
        "T2": "",
        "X1": "T1 (same counts and image)",
    }
    assert table["level"].to_dict() == {"T1": "warning", "T2": "note", "X1": "warning"}
    assert "leave one of them out" in table.loc["T1", "warnings"]


def test_other_counts_on_one_image_are_found_too(root, renamed, edit_counts):
    renamed("X1")
    shutil.copy(root / "st" / "T2.h5ad", root / "st" / "T1.h5ad")
    edit_counts(lambda table: table.uns.pop("spatial"))
    table = hd.io.qc_table([read(root, name) for name in ("T1", "T2", "X1")])
    assert table["same_as"].tolist() == ["T2 (same counts); X1 (same image)", "T1 (same counts)", "T1 (same image)"]


def test_stores_are_read_by_their_attributes(root, tmp_path, clean):
    stores = [tmp_path / f"{name}.zarr" for name in ("T1", "T2")]
    for name, store in zip(("T1", "T2"), stores, strict=True):
        hd.io.write(read(root, name), store)
    assert str(hd.io.qc(stores[0])) == str(hd.io.qc(clean))
    shutil.rmtree(stores[0] / "images")
    (tmp_path / "broken.zarr").mkdir()
    table = hd.io.qc_table([*stores, tmp_path / "none.zarr", tmp_path / "broken.zarr"])
    assert table["slide"].tolist() == ["T1", "T2", "", ""]
    assert table["level"].tolist() == ["note", "note", "error", "error"]
    assert "no store" in table["errors"][2]
    assert "broken.zarr" in table["errors"][3]
    assert table["store"].tolist()[:2] == [str(s) for s in stores]
    assert table["mpp"].tolist()[:2] == [1.0, 1.0]
    assert table["spots"][0] == clean["table"].n_obs


@pytest.mark.parametrize(
    "fact",
    [
        {"totals": "many"},
        {"totals": {}, "spots": None, "integer_counts": 1, "gene_names": 3},
        {"pixel_sizes": {"a": 0.0}},
        {"alignment": {"verdict": "fits"}},
        {"measured_pitch_um": "far"},
        {"patches": {"moved": 1}},
    ],
)
def test_a_store_with_damaged_facts_does_not_hide_the_others(clean, fact):
    attrs = copy.deepcopy(clean.attrs["hisdiff_sd"])
    attrs["qc"] |= fact
    bad = SpatialData(attrs={"hisdiff_sd": attrs})
    table = hd.io.qc_table([bad, clean])
    assert table["level"].tolist() == ["error", hd.io.qc(clean).level]
    assert "has a damaged record" in table["errors"][0]
    with pytest.raises(HisDiffError, match="has a damaged record"):
        hd.io.qc(bad)


@pytest.mark.parametrize(
    "sketches", [3, {"counts": 3, "image": "zz"}, {"image": "00"}, {"counts": None, "image": None}]
)
def test_fingerprints_that_are_none_are_like_nothing(clean, sketches):
    attrs = copy.deepcopy(clean.attrs["hisdiff_sd"])
    attrs["qc"]["fingerprints"] = sketches
    assert hd.io.qc_table([SpatialData(attrs={"hisdiff_sd": attrs}), clean])["same_as"].tolist() == ["", ""]


def test_a_list_of_slides_is_needed(clean, tmp_path):
    for wrong in (clean, str(tmp_path), tmp_path):
        with pytest.raises(HisDiffError, match=r"slides= is one slide; give a list, or use hd\.io\.qc"):
            hd.io.qc_table(wrong)
    with pytest.raises(HisDiffError, match="no slides given"):
        hd.io.qc_table([])
    with pytest.raises(MissingFileError, match="no store"):
        hd.io.qc(tmp_path / "none.zarr")


def test_spots_outside_the_outlines(root):
    slide = read(root)
    hd.pp.tissue(slide)
    assert finding(hd.io.qc(slide), "spots outside the tissue").level == "ok"
    n = len(slide["spots"])
    slide["tissue"] = slide["tissue"].set_geometry(slide["tissue"].geometry.translate(xoff=5000))
    found = finding(hd.io.qc(slide), "spots outside the tissue")
    assert found.level == "warning"
    assert f"{n} of {n} lie outside" in found.value


def test_a_bare_slide(root):
    report = hd.io.qc(hd.io.wsi(root / "wsis" / "T1.tif"))
    assert [f.name for f in report.findings] == ["pixel size", "patient"]
    report = hd.io.qc(hd.io.wsi(root / "wsis" / "T1.tif", mpp=1.02))
    assert "1 um (TIFF resolution tags)" in finding(report, "other pixel sizes").value
