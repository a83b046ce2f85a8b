"""The page about one slide: what it says, that it stands alone, and that nothing breaks it."""

from __future__ import annotations

import ast
import base64
import io
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.pl import _report

mpl.use("Agg")

VOID = {"meta", "link", "img", "br"}
GENES = ("EPCAM", "ERBB2", "COL1A1", "VIM")
KNOWN = {
    "reliable": [True, False, True, False],
    "loso_pcc": [0.31, 0.1, 0.62, np.nan],
    "loso_q": [0.02, 0.4, 0.0001, 1.0],
}


class Page(HTMLParser):
    """A page taken apart; every tag has to be closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.text.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words += data
        for tag in set(self.open):
            self.text[tag][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def slide(open_store) -> SpatialData:
    return open_store("S3")


@pytest.fixture
def one_map(monkeypatch) -> None:
    """A page is quick with one map of few pixels."""
    monkeypatch.setattr(_report, "_N_MAPS", 1)
    monkeypatch.setattr(_report, "_DPI", 30)


@pytest.fixture(scope="module")
def tiled(open_store, add_prediction) -> SpatialData:
    """Tiles on a slide with counts, outlines, trust and reliable genes. Read only."""
    slide = open_store("S3")
    hd.pp.tissue(slide)
    hd.pp.tile(slide, 100, tile_um=110)
    add_prediction(slide, "tiles_100um", ood=np.linspace(0.2, 1.1, len(slide["tiles_100um"])), **KNOWN)
    return slide


@pytest.fixture(scope="module")
def path(tiled, tmp_path_factory) -> Path:
    """The page of that slide."""
    return hd.pl.report(tiled, tmp_path_factory.mktemp("report") / "S3.html")


@pytest.fixture(scope="module")
def page(path) -> Page:
    return page_of(path)


def test_the_page_stands_alone(path, page):
    text = path.read_text(encoding="utf-8")
    links = [a[k] for _, a in page.tags for k in ("src", "href", "srcset", "data", "action") if a.get(k)]
    assert all(link.startswith("data:") for link in links)
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert path.stat().st_size < 5e6


def test_pictures_are_whole_and_described(page):
    pictures = page.of("img")
    # the slide, the chart of genes, the distance, and measured, predicted and uncertainty of two reliable genes
    assert len(pictures) == 3 + 2 * 3
    for picture in pictures:
        data = picture["src"].removeprefix("data:image/webp;base64,")
        Image.open(io.BytesIO(base64.b64decode(data, validate=True))).load()
        assert len(picture["alt"]) > 20
    alts = [p["alt"] for p in pictures if "map of EPCAM" in p["alt"]]
    assert [a.split(", ")[1].split(":")[0] for a in alts] == ["measured", "predicted", "uncertainty"]


def test_the_patient_is_not_named(slide, add_prediction, one_map, tmp_path):
    slide.attrs["hisdiff_sd"] = {**slide.attrs["hisdiff_sd"], "patient": "Jane Doe"}
    add_prediction(slide)
    assert "Jane" not in hd.pl.report(slide, tmp_path / "S3.html").read_text(encoding="utf-8")


def test_headings_are_in_order(page):
    assert page.text["h1"] == ["Predicted expression of slide S3"]
    assert page.text["h2"] == [
        "In short",
        "The slide",
        "Maps",
        "Which genes to believe",
        "Where to believe them",
        "Quality control",
        "Provenance",
        "How to reproduce it",
    ]
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert page.of("html") == [{"lang": "en"}]
    assert {"header", "main", "footer", "section"} <= set(page.text)


def test_the_summary_says_what_the_table_says(page, tiled):
    table = tiled["hisdiff_tiles_100um"]
    cards = page.text["li"]
    assert cards[0] == f"{table.n_obs}tiles with a prediction, 100 µm apart"
    assert cards[1].startswith("4genes")
    assert cards[2].startswith("2 of 4genes reliable")
    trusted = table.obs["trusted"].mean()
    assert cards[3].startswith(f"{100 * trusted:.0f}%of the tiles trusted")
    assert "This slide is partly unlike the training slides: only " in page.words
    assert page.words.count("For research use only; not for diagnosis.") == 2


def test_reliable_genes_are_shown_the_best_first(page):
    heads = page.text["h3"]
    assert heads == ["COL1A1 ✓ reliable r = 0.62 on left-out slides", "EPCAM ✓ reliable r = 0.31 on left-out slides"]


def test_every_gene_is_in_the_table(page, tiled):
    (start,) = [i for i, row in enumerate(page.text["tr"]) if row.startswith("geneverdict")]
    assert page.text["tr"][start] == "geneverdictr, left-out slidesqmeanspread over tissueuncertainty"
    table = tiled["hisdiff_tiles_100um"]
    trusted = table.obs["trusted"].to_numpy()
    mean, std = table.to_df()[trusted], table.to_df("std")[trusted].astype(float)
    words = {
        "COL1A1": "✓ reliable0.62<0.001",
        "EPCAM": "✓ reliable0.310.020",
        "ERBB2": "✗ not reliable0.100.400",
        "VIM": "✗ not reliableunknown1.000",
    }
    for row, (gene, verdict) in zip(page.text["tr"][start + 1 :], words.items(), strict=False):
        shown = f"{mean[gene].mean():.2f}{mean[gene].std(ddof=0):.2f}{std[gene].mean():.2f}"
        assert row == f"{gene}{verdict}{shown}"


def test_quality_and_provenance_are_listed(page, tiled):
    attrs, tissue = tiled.attrs["hisdiff_sd"], tiled["tissue"]
    area = tissue.area.sum() * (attrs["mpp"] / 1000) ** 2
    for fact in (
        f"tissue{area:.2f} mm²",
        f"pixel size✓ ok 1.1 um per px ({attrs['mpp_source']})",
        "tiles that could not be read2",
        "distance of the tiles100 µm, each predicted as a spot of 110 µm",
        "counts✓ ok whole numbers",
        f"modelhash {'f00d' * 16}",
        "training slidesT1, T2",
        "encodermorphology, hash beefbeefbeef",
        "tile protocolhisdiff, 224 px (246.4 µm) of the slide, beyond its edge black, resized with lanczos",
        "targetlog2(count + 1)",
        "samplerancestral, 50 steps",
        "samples16 of each place, seed 3",
        "licencesencoder: MIT; data: CC BY 4.0",
        f"predictiontable 'hisdiff_tiles_100um', made by hisdiff_sd {hd.__version__}",
    ):
        assert fact in page.text["tr"]


@pytest.mark.usefixtures("one_map")
@pytest.mark.parametrize(
    ("shapes", "name", "expected"),
    [
        ("tiles", None, "hd.tl.predict(sdata, model, spacing_um=100, n_samples=16, steps=50, seed=3)"),
        ("spots", None, "hd.tl.predict(sdata, model, n_samples=16, steps=50, seed=3)"),
        ("spots", "mine", "hd.tl.predict(sdata, model, n_samples=16, steps=50, seed=3, key_added='mine')"),
    ],
)
def test_the_lines_to_reproduce_it_are_python(slide, lay_tiles, add_prediction, tmp_path, shapes, name, expected):
    add_prediction(slide, lay_tiles(slide) if shapes == "tiles" else shapes, name=name)
    (code,) = page_of(hd.pl.report(slide, tmp_path / "S3.html")).text["pre"]
    ast.parse(code)
    assert expected in code.splitlines()
    assert "'S3.zarr'" in code


@pytest.mark.usefixtures("one_map")
def test_measured_genes_are_judged_on_the_slide_itself(slide, add_prediction, tmp_path):
    table = add_prediction(slide)
    counts = slide["table"].to_df().loc[table.obs_names, "EPCAM"]
    r = np.corrcoef(np.log2(counts + 1), table.to_df()["EPCAM"])[0, 1]
    page = page_of(hd.pl.report(slide, tmp_path / "S3.html", genes=["EPCAM"]))
    (row,) = [row for row in page.text["tr"] if row.startswith("EPCAM")]
    assert row.startswith(f"EPCAM? unknown{r:.2f}")


def test_a_prediction_that_knows_nothing_of_trust_says_so(slide, add_prediction, tmp_path, monkeypatch):
    monkeypatch.setattr(_report, "_DPI", 30)
    add_prediction(slide)
    page = page_of(hd.pl.report(slide, tmp_path / "S3.html"))
    assert [card for card in page.text["li"] if card.startswith("unknown")] == page.text["li"][2:]
    assert "It is unknown how much this slide is like the training slides" in page.words
    assert "It is unknown which genes the model predicts well" in page.words
    # no map of the distance, no chart of the genes; those that vary most are shown
    measured = sum(gene in slide["table"].var_names for gene in GENES)
    assert len(page.of("img")) == 1 + 4 * 2 + measured
    assert [head.split()[0] for head in page.text["h3"]] == list(GENES[::-1])
    assert "its tissue was not outlined" in page.words


@pytest.mark.usefixtures("one_map")
@pytest.mark.parametrize(
    ("share", "words", "warned"),
    [
        (0.0, "Most of this slide is unlike the training slides: only 0%", True),
        (0.3, "Most of this slide is unlike the training slides: only 28%", True),
        (0.7, "This slide is partly unlike the training slides: only 69%", False),
        (1.0, "This slide is like the training slides: 100%", False),
    ],
)
def test_the_slide_is_judged_as_a_whole(slide, add_prediction, tmp_path, share, words, warned):
    n = len(slide["spots"])
    add_prediction(slide, ood=np.where(np.arange(n) < int(share * n), 0.5, 1.5))
    page = page_of(hd.pl.report(slide, tmp_path / "S3.html"))
    assert words in page.words
    assert ("Do not rely on this prediction" in page.words) is warned
    assert sum(a.get("class") == "warning" for a in page.of("p")) == 1 + warned


@pytest.mark.usefixtures("one_map")
def test_a_model_that_predicts_no_gene_is_warned_of(slide, add_prediction, tmp_path):
    add_prediction(slide, **{**KNOWN, "reliable": [False] * 4})
    page = page_of(hd.pl.report(slide, tmp_path / "S3.html"))
    assert page.text["li"][2].startswith("0 of 4")
    assert "No gene is reliable" in page.words
    assert sum(a.get("class") == "warning" for a in page.of("p")) == 2


@pytest.mark.usefixtures("one_map")
def test_genes_that_are_asked_for_are_shown(slide, add_prediction, tmp_path):
    add_prediction(slide, **KNOWN)
    page = page_of(hd.pl.report(slide, tmp_path / "S3.html", genes=["VIM", "ERBB2", "VIM"]))
    assert page.text["h3"] == ["VIM ✗ not reliable", "ERBB2 ✗ not reliable r = 0.10 on left-out slides"]


@pytest.mark.usefixtures("one_map")
def test_a_bad_slide_is_warned_of_on_top(slide, add_prediction, tmp_path):
    add_prediction(slide, **KNOWN)
    attrs = slide.attrs["hisdiff_sd"]
    slide.attrs["hisdiff_sd"] = {**attrs, "qc": {**attrs["qc"], "spots_outside_image": 3}}
    page = page_of(hd.pl.report(slide, tmp_path / "S3.html"))
    assert "Quality control warns of this slide: spots outside the image." in page.words
    assert "spots outside the image⚠ warning 3, dropped (are image and counts of one slide?)" in page.text["tr"]


@pytest.mark.usefixtures("one_map")
@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("training slide", "trained on this slide"),
        ("held-out slide, within patient", "slides of the same patient"),
        ("held-out slide and patient", None),
    ],
)
def test_how_independent_the_slide_is_of_the_training_is_said_on_top(slide, add_prediction, tmp_path, protocol, said):
    add_prediction(slide, **KNOWN).uns["hisdiff_sd"]["protocol"] = protocol
    words = page_of(hd.pl.report(slide, tmp_path / "S3.html")).words
    assert ("The model was trained on" in words) == (said is not None)
    assert said is None or said in words


@pytest.mark.usefixtures("one_map")
def test_names_cannot_break_the_page(slide, add_prediction, tmp_path):
    evil = """<script>alert('1')</script>&amp;"$x_"$'"""
    slide.attrs["hisdiff_sd"] = {**slide.attrs["hisdiff_sd"], "slide": evil, "organ": evil, "mpp_source": evil}
    slide.attrs["hisdiff_sd"]["qc"] = {"pixel_sizes": {f"not {evil}": 9.0}}
    table = add_prediction(slide, genes=(evil, "EPCAM"), ood=np.full(len(slide["spots"]), 0.5))
    table.uns["hisdiff_sd"]["encoder"] = evil
    hd.pp.tissue(slide)
    page = page_of(hd.pl.report(slide, tmp_path / "S3.html", genes=[evil]))
    assert len(page.of("script")) == 1
    assert page.text["h1"] == [f"Predicted expression of slide {evil}"]
    assert page.text["h3"] == [f"{evil} ? unknown"]
    assert sum(evil in (p["alt"] or "") for p in page.of("img")) == 3
    assert any(row.startswith(f"other pixel sizes⚠ warning not {evil} differ") for row in page.text["tr"])


@pytest.mark.usefixtures("one_map")
def test_a_page_is_not_replaced_unless_that_is_said(slide, add_prediction, tmp_path):
    add_prediction(slide)
    place = tmp_path / "S3.html"
    place.write_text("mine")
    with pytest.raises(HisDiffError, match=r"S3.html exists already; give overwrite=True"):
        hd.pl.report(slide, place)
    assert place.read_text() == "mine"
    assert hd.pl.report(slide, str(place), overwrite=True) == place
    assert page_of(place).text["h1"]
    assert [p.name for p in tmp_path.iterdir()] == ["S3.html"]


def test_a_page_that_fails_leaves_the_old_one(slide, add_prediction, tmp_path, monkeypatch):
    add_prediction(slide)
    place = tmp_path / "S3.html"
    place.write_text("mine")

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(HisDiffError, match=r"cannot write .*S3.html \(No space left on device\)"):
        hd.pl.report(slide, place, genes=["EPCAM"], overwrite=True)
    assert place.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["S3.html"]


def test_wrong_places_are_refused_before_any_work(slide, tmp_path, monkeypatch):
    monkeypatch.setattr(_report, "open_slide", lambda *_: pytest.fail("the slide was opened"))
    (tmp_path / "file").touch()
    for place, message in (
        (tmp_path, "is a folder; give the name of a file"),
        (tmp_path / "no" / "S3.html", "there is no folder .*no"),
        (tmp_path / "file" / "S3.html", "there is no folder .*file"),
    ):
        with pytest.raises(HisDiffError, match=message):
            hd.pl.report(slide, place)


def test_what_is_missing_is_named(slide, add_prediction, tmp_path):
    place = tmp_path / "S3.html"
    with pytest.raises(HisDiffError, match="slide 'S3' has no prediction .*; run hd.tl.predict"):
        hd.pl.report(slide, place)
    add_prediction(slide)
    with pytest.raises(HisDiffError, match=r"no gene in 'hisdiff' 'EPCAMM'; .* Did you mean 'EPCAM'\?"):
        hd.pl.report(slide, place, genes=["EPCAMM"])
    for genes in ("EPCAM", []):
        with pytest.raises(HisDiffError, match="is no list of genes"):
            hd.pl.report(slide, place, genes=genes)
    with pytest.raises(HisDiffError, match="table 'table' is no prediction"):
        hd.pl.report(slide, place, key="table")
    with pytest.raises(MissingFileError, match="no store no.zarr"):
        hd.pl.report("no.zarr", place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("one_map")
def test_a_store_is_opened(slide, lay_tiles, add_prediction, tmp_path):
    add_prediction(slide, lay_tiles(slide), ood=np.full(len(slide["tiles_100um"]), 0.5), **KNOWN)
    hd.io.write(slide, tmp_path / "kept.zarr")
    page = page_of(hd.pl.report(tmp_path / "kept.zarr", tmp_path / "S3.html"))
    assert page.text["li"][2].startswith("2 of 4")
    assert "'kept.zarr'" in page.text["pre"][0]
    assert str(tmp_path) not in (tmp_path / "S3.html").read_text()
