"""The demo from slides to report, and the report of a slide."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import spatialdata

import hisdiff_sd as hd
from hisdiff_sd import _demo
from hisdiff_sd.tl import _presets

ROW_KEYS = {"method", "samples", "pcc10", "pcc50", "pcc_all", "mse", "mae", "rvd", "log_var_ratio", "gene_corr_error"}
STAGES = ["slides", "convert", "embed", "genes", "train", "predict", "evaluate", "plot"]


@pytest.fixture(scope="module")
def quick():
    """Few epochs, samples and steps: the demo in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_presets.PRESETS, "flow", dataclasses.replace(_presets.PRESETS["flow"], epochs=2))
        patch.setattr(_demo, "N_TOP", 20)
        patch.setattr(_demo, "N_SAMPLES", 4)
        yield


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def out(hest_root, tmp_path_factory, quick, said) -> Path:
    """What the demo wrote about three slides with S2 held out."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    report = _demo.run_demo(
        folder, hest=hest_root, test="S2", encoder="morphology", weights=None, target="log2", seed=0, say=said.append
    )
    assert report == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def report(out) -> dict:
    return json.loads((out / "report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hest", "{root}", "--test", "S9"], "no slide in .* 'S9'; there are: 'S1', 'S2', 'S3'"),
        (["--hest", "/no/such/folder"], "no folder /no/such/folder; a HEST root has the folders wsis/, st/"),
        (["--hest", "{empty}"], "has 0 slides"),
        (["--hest", "{root}", "--weights", "w.bin"], "encoder 'morphology' is built in and has no weights"),
        (["--hest", "{root}", "--out", "{file}/out"], "cannot write to .*; choose another folder with --out"),
    ],
)
def test_a_wrong_word_is_one_line_and_no_traceback(run, hest_root, tmp_path, quick, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    places = {"root": str(hest_root), "empty": str(tmp_path / "empty"), "file": str(tmp_path / "file")}
    arguments = ["--out", str(tmp_path / "out"), *(w.format(**places) for w in words)]
    code, text, error = run("demo", *arguments)
    assert code == 1
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert error.startswith("Error: ")
    assert "Traceback" not in text + error


@pytest.mark.parametrize("words", [["--test", "S9"], ["--weights", "w.bin"]])
def test_a_wrong_word_writes_nothing(run, hest_root, tmp_path, quick, words):
    assert run("demo", "--hest", hest_root, "--out", tmp_path / "out", *words)[0] == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "value"), [("--target", "counts"), ("--encoder", "uni9"), ("--seed", "x")])
def test_an_unknown_choice_is_refused_by_the_parser(run, option, value):
    code, _, error = run("demo", option, value)
    assert code == 2
    assert option in error
    assert "Traceback" not in error


def test_an_interrupted_demo_says_how_to_go_on(run, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(_demo, "run_demo", interrupted)
    code, _, error = run("demo", "--out", tmp_path / "out")
    assert code == 130
    assert "Run the same command again to go on" in error


def test_options_reach_the_demo(run, monkeypatch, tmp_path):
    asked = {}

    def remember(out, *, say, **options):
        asked.update(out=out, **options)
        say("working")
        return out / "report.html"

    monkeypatch.setattr(_demo, "run_demo", remember)
    words = ["--hest", "h", "--test", "T", "--encoder", "uni", "--weights", "w.bin", "--target", "cp10k"]
    code, text, _ = run("demo", *words, "--seed", "3", "--out", "o")
    assert code == 0
    assert asked == {
        "out": Path("o"),
        "hest": Path("h"),
        "test": "T",
        "encoder": "uni",
        "weights": Path("w.bin"),
        "target": "cp10k",
        "seed": 3,
    }
    assert text.splitlines()[0] == "working"
    assert f"Report: {Path('o/report.html')}" in text


def test_the_demo_leaves_stores_model_figures_and_reports(out):
    assert {p.name for p in out.iterdir() if not p.name.startswith(".")} == {
        "stores",
        "model",
        "figures",
        "report.html",
        "report.json",
    }
    visible = {p.name for p in (out / "stores").iterdir() if not p.name.startswith(".")}
    assert visible == {"S1.zarr", "S2.zarr", "S3.zarr"}
    figures = {p.name for p in (out / "figures").iterdir()}
    assert {"expression_EPCAM.png", "training.png"} < figures
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in (out / "figures").iterdir())
    assert hd.HisDiff.load(out / "model").config.training["slides"] == ["S1", "S3"]
    held_out = spatialdata.read_zarr(out / "stores" / "S2.zarr")
    assert {"hisdiff", "spots_morphology", "table"} <= set(held_out.tables)
    assert "hisdiff" not in spatialdata.read_zarr(out / "stores" / "S1.zarr").tables


def test_report_json_has_a_row_for_every_method(report):
    rows = report["metrics"]
    assert [(r["method"], r["samples"]) for r in rows] == [
        ("hisdiff", 1),
        ("hisdiff", 4),
        ("ridge", 1),
        ("dressed_ridge", 1),
        ("dressed_ridge", 16),
        ("depth_map", 1),
        ("mean", 1),
    ]
    assert all(set(r) >= ROW_KEYS for r in rows)
    assert all(isinstance(r["samples"], int) for r in rows)
    assert all(isinstance(r[k], float) for r in rows for k in ROW_KEYS - {"method", "samples"})


def test_report_json_says_how_it_came_about(report):
    assert list(report["seconds"]) == STAGES
    assert all(isinstance(s, float) and s >= 0 for s in report["seconds"].values())
    assert report["test"] == "S2"
    assert report["protocol"] == "held-out slide, within patient"
    assert (report["target"], report["encoder"]) == ("log2", "morphology")
    assert report["training"]["slides"] == ["S1", "S3"]


def test_the_page_shows_every_figure_and_needs_nothing_else(out):
    page = (out / "report.html").read_text(encoding="utf-8")
    shown = {base64.b64decode(data) for data in re.findall(r"<img[^>]*src='data:image/png;base64,([^']+)'", page)}
    assert shown == {p.read_bytes() for p in (out / "figures").iterdir()}
    assert not re.search(r"(src|href)=['\"](?!data:)", page)
    for text in ("HisDiff, one sample", "HisDiff, mean of 4", "tuned ridge", "dressed ridge", "one depth map", "S2"):
        assert text in page
    assert "held-out slide, within patient" in page
    assert "For research use only; not for diagnosis" in page


def test_the_page_shows_the_numbers_of_the_report(out, report):
    page = (out / "report.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr class='[a-z]*'>(.*?)</tr>", page)
    assert len(rows) == len(report["metrics"])
    for cells, row in zip(rows, report["metrics"], strict=False):
        shown = re.findall(r"<td>([-\d.]+)</td>", cells)
        assert [f"{row[k]:.3f}" for k in ("pcc10", "pcc50", "pcc_all")] == shown[:3]
        assert shown[-1] == f"{row['gene_corr_error']:.3f}"


def test_the_next_command_works(said, out, capsys):
    (command,) = [line for line in said[-1].splitlines() if "python -c" in line]
    code = re.fullmatch(r'\s*python -c "(.*)"', command)[1]
    quicker = code.replace("key_added=", "n_samples=1, steps=1, key_added=")
    assert quicker != code
    exec(quicker, {})
    assert "AnnData object with n_obs × n_vars = 40" in capsys.readouterr().out
    assert "again" in spatialdata.read_zarr(out / "stores" / "S2.zarr").tables


def test_a_second_run_uses_what_is_there(out, hest_root, quick, tmp_path):
    again = Path(shutil.copytree(out, tmp_path / "again"))
    (again / "figures" / "expression_OLD.png").write_bytes(b"of an earlier run")
    kept = [p for s in (again / "stores").glob("S*.zarr") for p in (s / "images").rglob("*")]
    kept += [p for s in (again / "stores").glob("S*.zarr") for p in (s / "tables" / "spots_morphology").rglob("*")]
    before = {p: p.stat().st_mtime_ns for p in kept}
    _demo.run_demo(
        again, hest=hest_root, test="S2", encoder="morphology", weights=None, target="cp10k", seed=0, say=lambda _: None
    )
    assert {p: p.stat().st_mtime_ns for p in kept} == before
    assert json.loads((again / "report.json").read_text())["target"] == "cp10k"
    assert not (again / "figures" / "expression_OLD.png").exists()


def test_a_model_of_the_same_slides_and_settings_is_used_again(out, hest_root, quick, tmp_path, monkeypatch):
    again, said = Path(shutil.copytree(out, tmp_path / "again")), []
    how = {"hest": hest_root, "encoder": "morphology", "weights": None, "target": "log2", "say": said.append}
    before = {p: p.stat().st_mtime_ns for p in (again / "model").iterdir()}
    _demo.run_demo(again, test="S2", seed=0, **how)
    assert {p: p.stat().st_mtime_ns for p in (again / "model").iterdir()} == before
    assert any("is of the same slides and settings: it is used again" in line for line in said)
    first, second = (json.loads((folder / "report.json").read_text()) for folder in (out, again))
    assert first["metrics"] == second["metrics"]
    assert first["seconds"]["train"] == second["seconds"]["train"]
    # another seed or another slide is another model
    for other in ({"test": "S2", "seed": 1}, {"test": "S3", "seed": 0}):
        with monkeypatch.context() as patch:
            patch.setattr("hisdiff_sd.tl.train", lambda *_, **__: pytest.fail("trains"))
            with pytest.raises(pytest.fail.Exception, match="trains"):
                _demo.run_demo(again, **other, **how)


def test_the_page_opens_offline_and_can_be_read_by_everyone(out):
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    alts = re.findall(r"<img alt='([^']*)'", page)
    assert len(alts) == len(list((out / "figures").iterdir()))
    assert all(len(alt) > 20 for alt in alts)


def test_a_report_of_one_slide_is_written(run, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = out / "stores" / "S2.zarr"
    code, text, _ = run("report", store, "--genes", "EPCAM")
    assert code == 0
    assert text == "Report: S2_report.html\n"
    page = Path("S2_report.html").read_text(encoding="utf-8")
    assert "Predicted expression of slide S2" in page
    assert page.count("<h3>") == 1
    code, _, error = run("report", store)
    assert code == 1
    assert error.startswith("Error: S2_report.html exists already; give --overwrite")
    assert Path("S2_report.html").read_text(encoding="utf-8") == page


def test_options_reach_the_report(run, monkeypatch):
    asked = []

    def remember(*words, **options):
        asked.append((*words, options))
        return words[1]

    monkeypatch.setattr("hisdiff_sd.pl.report", remember)
    assert run("report", "a/S1.zarr")[:2] == (0, "Report: S1_report.html\n")
    run("report", "S1.zarr", "--key", "mine", "--genes", "A, B,", "--out", "o.html", "--overwrite")
    assert asked == [
        (Path("a/S1.zarr"), Path("S1_report.html"), {"key": None, "genes": None, "overwrite": False}),
        (Path("S1.zarr"), Path("o.html"), {"key": "mine", "genes": ["A", "B"], "overwrite": True}),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{stores}/S9.zarr"], "no store .*S9.zarr"),
        (["{stores}/S1.zarr"], "slide 'S1' has no prediction .*; run hisdiff-sd predict"),
        (["{stores}/S2.zarr", "--genes", "EPCAMM"], "no gene in 'hisdiff' 'EPCAMM'; .* Did you mean 'EPCAM'"),
        (["{stores}/S2.zarr", "--out", "no/x.html"], "cannot write no/x.html: there is no folder no"),
    ],
)
def test_a_report_that_cannot_be_written_is_one_line(run, out, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, text, error = run("report", *(w.format(stores=out / "stores") for w in words))
    assert code == 1
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert "Traceback" not in text + error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_demo_of_synthetic_slides_as_it_is_shipped(tmp_path):
    subprocess.run([sys.executable, "-m", "hisdiff_sd.cli", "demo", "--out", tmp_path], check=True, timeout=1200)
    report = json.loads((tmp_path / "report.json").read_text())
    scores = {(r["method"], r["samples"]): r for r in report["metrics"]}
    model, mean = scores["hisdiff", 20], scores["mean", 1]
    assert model["pcc50"] > 0.3
    assert model["mse"] < mean["mse"]
