"""A whole experiment: done once, gone on with, changed only when that is asked for."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pandas as pd
import pytest
import spatialdata

import hisdiff_sd as hd
from hisdiff_sd._cli._steps import STEPS

EXPERIMENT = """
out = "results"
[data]
stores = ["stores"]
test = ["S3"]
[embed]
encoder = "morphology"
[genes]
n_top = 20
include = ["ERBB2"]
[train]
epochs = 1
[predict]
n_samples = 2
steps = 2
[report]
genes = ["ERBB2"]
"""
CALLS = ("pp.embed", "pp.select_genes", "tl.train", "tl.predict", "tl.evaluate", "pl.report")


@pytest.fixture
def file(own_stores, tmp_path):
    (tmp_path / "e.toml").write_text(EXPERIMENT)
    return tmp_path / "e.toml"


def statuses(text: str) -> list[str]:
    steps = json.loads(text)["steps"]
    assert [s["step"] for s in steps] == list(STEPS[: len(steps)])
    return [s["status"] for s in steps]


def nothing_is_done(monkeypatch, *calls: str) -> None:
    for call in calls:
        monkeypatch.setattr(f"hisdiff_sd.{call}", lambda *_, name=call, **__: pytest.fail(f"{name} was called"))


def test_an_experiment_is_done_once_and_changed_only_when_that_is_asked_for(run, file, tmp_path, monkeypatch):
    out = tmp_path / "results"
    code, text, _ = run("run", file, "--dry-run", "--json")
    assert (code, statuses(text)) == (0, ["there", "there", "to do", "to do", "to do", "to do", "to do"])
    assert not out.exists()

    code, text, error = run("run", file, "--json")
    assert code == 0
    assert statuses(text) == ["skipped", "skipped", "done", "done", "done", "done", "done"]
    assert "held out S3; trained on S1, S2" in error
    assert "[4/7] train: done, HisDiff(flow" in error
    assert {p.name for p in out.iterdir() if not p.name.startswith(".")} == {
        "genes.txt",
        "model",
        "evaluation.csv",
        "reports",
        "experiment.json",
    }
    model = hd.HisDiff.load(out / "model")
    assert model.config.training["slides"] == ["S1", "S2"]
    assert (
        model.genes
        == (out / "genes.txt").read_text().split()
        == hd.pp.select_genes([tmp_path / "stores" / f"{s}.zarr" for s in ("S1", "S2")], n_top=20, include=["ERBB2"])
    )
    table = spatialdata.read_zarr(tmp_path / "stores" / "S3.zarr")["hisdiff"]
    assert table.uns["hisdiff_sd"]["model_hash"] == model.fingerprint
    scores = pd.read_csv(out / "evaluation.csv")
    assert json.loads(text)["scores"][0]["pcc_all"] == pytest.approx(scores["pcc_all"][0])
    assert "slide S3" in (out / "reports" / "S3.html").read_text(encoding="utf-8")

    with monkeypatch.context() as patch:
        nothing_is_done(patch, "pp.select_genes", "tl.train", "tl.evaluate", "pl.report")
        code, text, _ = run("run", file, "--json")
    assert (code, set(statuses(text))) == (0, {"skipped"})

    # other settings: what depends on them is refused, and made anew when that is asked for
    file.write_text(EXPERIMENT.replace("epochs = 1", "epochs = 2"))
    with monkeypatch.context() as patch:
        nothing_is_done(patch, *CALLS)
        code, _, error = run("run", file)
        assert code == 1
        assert re.search(r"made with other settings of train \(epochs: 1 there, 2 asked for\); give --overwrite", error)
        plan = statuses(run("run", file, "--overwrite", "--dry-run", "--json")[1])
    assert plan == ["there", "there", "there", "to do", "to do", "to do", "to do"]
    code, text, _ = run("run", file, "--overwrite", "--json")
    assert (code, statuses(text)) == (0, ["skipped", "skipped", "skipped", "done", "done", "done", "done"])
    changed = hd.HisDiff.load(out / "model")
    assert changed.config.training["epochs"] == 2
    table = spatialdata.read_zarr(tmp_path / "stores" / "S3.zarr")["hisdiff"]
    assert table.uns["hisdiff_sd"]["model_hash"] == changed.fingerprint != model.fingerprint


def test_an_interrupted_experiment_goes_on(run, file, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hisdiff_sd.tl.predict", interrupted)
        code, text, error = run("run", file, "--json")
        assert (code, text) == (130, "")
        assert error.splitlines()[-1] == "Stopped. Run the same command again to go on."
    with monkeypatch.context() as patch:
        nothing_is_done(patch, "pp.select_genes", "tl.train")
        code, text, _ = run("run", file, "--json", "--until", "predict")
    assert (code, statuses(text)) == (0, ["skipped", "skipped", "skipped", "skipped", "done"])


def test_a_failed_slide_ends_the_run_before_the_next_step(run, file, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "stores" / "S1.zarr" / "tables" / "spots_morphology")
    nothing_is_done(monkeypatch, "pp.select_genes", "tl.train")
    code, text, error = run("run", file, "--json")
    assert (code, text) == (3, "")
    assert "1 of 3 slides failed. Mend what is said, and run the same command again to go on." in error
    assert "S1.zarr" in error


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('test = ["S3"]', 'test = ["S4"]', r"no slide of the experiment 'S4'; there are: 'S1', 'S2', 'S3'"),
        ('test = ["S3"]', 'test = ["S1", "S2", "S3"]', "all slides are test slides"),
        ('test = ["S3"]', 'test = ["S3"]\nslides = ["S9", "S3"]', "no slide among the stores 'S9'"),
        ('stores = ["stores"]', 'stores = ["store"]', "no store .*store; no stores lie in"),
        ('stores = ["stores"]', 'source = "hest"', "no (folder|HEST root).* .*hest"),
        ("n_top = 20", 'file = "genes.txt"', "genes.txt cannot be read as a list of genes"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(run, file, tmp_path, monkeypatch, old, new, said):
    nothing_is_done(monkeypatch, *CALLS)
    file.write_text(EXPERIMENT.replace(old, new))
    code, _, error = run("run", file)
    assert code == 1
    assert re.search(said, error)
    assert error.splitlines()[-1].startswith("Error: ")
    assert not (tmp_path / "results").exists()


def test_a_panel_of_a_file_is_taken(run, file, tmp_path):
    (tmp_path / "panel.txt").write_text("EPCAM\nERBB2\n")
    file.write_text(EXPERIMENT.replace("n_top = 20", 'file = "panel.txt"'))
    code, text, _ = run("run", file, "--until", "genes", "--json")
    assert (code, statuses(text)) == (0, ["skipped", "skipped", "done"])
    assert (tmp_path / "results" / "genes.txt").read_text() == "EPCAM\nERBB2\n"
    (tmp_path / "panel.txt").write_text("EPCAM\n")
    assert run("run", file, "--until", "genes")[0] == 1
    assert (tmp_path / "results" / "genes.txt").read_text() == "EPCAM\nERBB2\n"


def test_a_gene_of_the_report_that_is_not_in_the_panel_is_missed_before_the_training(run, file, monkeypatch):
    nothing_is_done(monkeypatch, "tl.train")
    file.write_text(EXPERIMENT.replace('include = ["ERBB2"]', ""))
    code, _, error = run("run", file)
    assert code == 1
    assert "no gene of the panel (for [report] genes; name it in [genes] include) 'ERBB2'" in error


def test_what_is_there_and_not_of_the_experiment_is_kept(run, file, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "genes.txt").write_text("MINE\n")
    code, _, error = run("run", file, "--until", "genes")
    assert code == 1
    assert "genes.txt exists already, and not by this experiment" in error
    assert (tmp_path / "results" / "genes.txt").read_text() == "MINE\n"


def test_slides_of_a_hest_folder_are_converted(run, file, hest_root, tmp_path):
    file.write_text(EXPERIMENT.replace('stores = ["stores"]', f'source = "{hest_root}"'))
    assert statuses(run("run", file, "--dry-run", "--json")[1])[0] == "to do"
    code, text, _ = run("run", file, "--until", "embed", "--json")
    assert (code, statuses(text)) == (0, ["done", "done"])
    assert hd.io.open(tmp_path / "results" / "stores" / "S1.zarr")["spots_morphology"].n_obs > 0
    assert statuses(run("run", file, "--until", "embed", "--json")[1]) == ["skipped", "skipped"]


@pytest.mark.slow
def test_a_real_ctrl_c_in_training_is_gone_on_from(file, tmp_path):
    file.write_text(EXPERIMENT.replace("epochs = 1", 'epochs = 60\npreset = "small"'))
    words = [sys.executable, "-m", "hisdiff_sd.cli", "run", str(file), "--until", "train"]
    # a program that a shell runs in the background inherits that Ctrl-C is ignored
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, **pipes, text=True, preexec_fn=heard) as first:
        for line in first.stderr:
            if line.startswith("[4/4] train ..."):
                break
        # once the training has a place to go on from
        while first.poll() is None and not list((tmp_path / "results").glob(".*training*/**/*.*")):
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        out, error = first.communicate(timeout=300)
    assert first.returncode == 130
    assert (out, error.splitlines()[-1]) == ("", "Stopped. Run the same command again to go on.")
    assert not (tmp_path / "results" / "model").exists()
    again = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stderr
    assert hd.HisDiff.load(tmp_path / "results" / "model").config.training["epochs"] == 60
