"""What all commands share: help, version, how they end, what goes where."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hisdiff_sd as hd
from hisdiff_sd._cli import _options
from hisdiff_sd._cli._words import in_words_of_the_command
from hisdiff_sd._targets import TARGETS
from hisdiff_sd.encoders._registry import ENCODERS
from hisdiff_sd.tl._presets import PRESETS

COMMANDS = (
    "download", "samples", "convert", "embed", "genes", "train", "predict", "evaluate", "cross-validate", "report", "export",
    "qc", "check", "run",
    "train-published", "demo",
)  # fmt: skip
# what a command of the name needs to be begun, with stores in "{stores}" and a model in "{model}"
BEGUN = {
    "embed": ("hisdiff_sd.pp.embed", ["{stores}/S1.zarr", "--encoder", "morphology"]),
    "genes": ("hisdiff_sd.pp.select_genes", ["{stores}/S1.zarr"]),
    "train": ("hisdiff_sd.tl.train", ["{stores}/S1.zarr", "--out", "m"]),
    "predict": ("hisdiff_sd.tl.predict", ["{stores}/S1.zarr", "--model", "{model}"]),
    "evaluate": ("hisdiff_sd.tl.evaluate", ["{stores}/S1.zarr", "--model", "{model}"]),
    "cross-validate": ("hisdiff_sd.tl.cross_validate", ["{stores}", "--out", "cv"]),
    "report": ("hisdiff_sd.pl.report", ["{stores}/S1.zarr"]),
    "export": ("hisdiff_sd.io.to_anndata", ["{stores}/S1.zarr", "x.h5ad", "--key", "table"]),
}


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_help_lists_every_command_and_the_exit_codes(run):
    code, text, _ = run("--help")
    assert code == 0
    assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for name in COMMANDS)
    assert "3 some slides failed, 130 interrupted" in " ".join(text.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run, command):
    code, text, _ = run(command, "--help")
    assert code == 0
    # on a line of its own, so that it can be copied
    assert re.search(rf"^    hisdiff-sd {command}( |$)", text.partition("For example:")[2], re.MULTILINE)
    assert command == "demo" or "--json" in text


def test_the_version_is_printed(run):
    assert run("--version") == (0, hd.__version__ + "\n", "")


def test_the_installed_command_runs():
    command = Path(sys.executable).with_name("hisdiff-sd")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hd.__version__


def test_completion_offers_what_there_is():
    assert set(_options.ENCODERS) == set(ENCODERS)
    assert set(_options.PRESETS) == set(PRESETS)
    assert set(_options.TRUNKS) == set(hd.nn.TRUNKS)
    assert set(_options.TARGETS) == set(TARGETS)


def test_the_shell_is_offered_commands_and_values():
    def offered(words: str) -> list[str]:
        env = {
            "_HISDIFF_SD_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        code = "import sys; sys.argv = ['hisdiff-sd']; from hisdiff_sd.cli import app; app(prog_name='hisdiff-sd')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env})
        return done.stdout.split()

    assert offered("hisdiff-sd tra") == ["train", "train-published"]
    assert offered("hisdiff-sd train s.zarr --preset p") == ["published"]
    assert offered("hisdiff-sd embed s.zarr --encoder mor") == ["morphology"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "No such command 'trian'"),
        (["embed"], "Missing argument 'STORE'"),
        (["train", "s.zarr"], "Missing option '--out'"),
        (["embed", "s.zarr", "--encodr", "uni"], "No such option: --encodr"),
        (["predict", "s.zarr", "--n-samples", "many"], "Invalid value for '--n-samples'"),
    ],
)
def test_a_wrong_command_line_ends_with_2(run, words, said):
    code, text, error = run(*words)
    assert code == 2
    assert said in error
    assert text == ""
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embed", "{stores}/S9.zarr"], "no store .*S9.zarr; stores in .*: S1.zarr, S2.zarr, S3.zarr"),
        (["embed", "{empty}"], "is no store and has no stores"),
        (["embed", "{stores}", "--workers", "0"], "--workers 0 cannot work"),
        (["embed", "{stores}", "--encoder", "morfology"], "no encoder 'morfology'; .*'morphology'"),
        (["embed", "{stores}", "--encoder", "morphology", "--padding", "blue"], "no padding 'blue'"),
        (["embed", "{stores}", "--encoder", "morphology", "--dtype", "int8"], "no dtype 'int8'"),
        (["embed", "{stores}", "--encoder", "morphology", "--batch-size", "0"], "--batch-size 0 is no number of tiles"),
        (["embed", "{stores}", "--encoder", "morphology", "--device", "tpu"], "no device 'tpu'"),
        (["genes", "{stores}", "--out", "no/genes.txt"], "cannot write no/genes.txt: there is no folder no"),
        (["genes", "{stores}", "--include", "ERBB22"], "missing from slides"),
        (["train", "{stores}", "--out", "m", "--preset", "flwo"], "no preset 'flwo'; .*Did you mean 'flow'"),
        (["train", "{stores}", "--out", "m", "--target", "log"], "no target 'log'; .*'log2'"),
        (["train", "{stores}", "--out", "m", "--genes", "no.txt"], "no file no.txt with genes"),
        (["train", "{stores}", "--out", "{stores}", "--overwrite"], "holds no model and is not replaced"),
        (["predict", "{stores}", "--model", "{empty}"], "no model in .*: config.json is missing"),
        (["predict", "{stores}"], "no model given: pass --model .*; train one with hisdiff-sd train, or"),
        (["predict", "{stores}", "--model", "{model}", "--sampler", "foo"], "no sampler 'foo'"),
        (["predict", "{stores}", "--model", "{model}", "--n-samples", "0"], "--n-samples 0 draws nothing"),
        (["predict", "{stores}", "--model", "{model}", "--spacing-um", "0"], "--spacing-um 0.0 is no distance"),
        (
            ["predict", "{stores}", "--model", "{model}", "--genes", "FOO"],
            "'FOO'; .* --include of hisdiff-sd genes puts",
        ),
        (["train", "{stores}", "--out", "m", "--preset", "flwo", "--dry-run"], "no preset 'flwo'"),
        (["evaluate", "{stores}/S1.zarr", "--model", "{empty}"], "no model in .*: config.json is missing"),
        (["cross-validate", "{stores}", "--rows", "rigde"], "no row 'rigde'|rigde"),
        (["cross-validate", "{stores}", "--by", "folds.csv"], "folds.csv"),
        (["report", "{stores}/S1.zarr"], "has no prediction .*; run hisdiff-sd predict"),
        (["export", "{stores}/S1.zarr", "x.h5ad"], "no table 'hisdiff'; there are: "),
        (["run", "{empty}/none.toml"], "no file .*none.toml; files .*: none"),
        (["run", "x.toml", "--until", "tran"], "no step 'tran'; .*Did you mean 'train'"),
    ],
)
def test_a_wrong_word_is_one_line_that_ends_with_1(run, stores, saved_model, tmp_path, monkeypatch, words, said):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    folders = {"stores": str(stores["S1"].parent), "empty": str(tmp_path / "empty"), "model": str(saved_model)}
    code, text, error = run(*(word.format(**folders) for word in words))
    assert code == 1
    assert re.search(said, error)
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert text == ""
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["empty"]


def test_messages_of_the_api_name_the_option(run, stores, saved_model):
    code, _, error = run("train", stores["S1"], "--out", saved_model)
    assert code == 1
    assert "give --overwrite to replace the model" in error


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("run hd.pp.embed with overwrite=True", "run hisdiff-sd embed with --overwrite"),
        (
            "recompute them: hd.pp.embed(sdata, 'uni', tile_um=112.0, padding='white', shapes_key='t', overwrite=True)",
            "recompute them: hisdiff-sd embed STORE --encoder uni --tile-um 112.0 --padding white --shapes t --overwrite",
        ),
        ("first: hd.pp.embed(sdata, <encoder>, tile_um=None)", "first: hisdiff-sd embed STORE --encoder <encoder>"),
        ("hd.io.convert(<its folder>, '/a', link=True) keeps", "hisdiff-sd convert <its folder> /a --link keeps"),
        ("sampler='dpm' is not; leave sampler= out", "--sampler dpm is not; leave --sampler out"),
        ("lay them again: hd.pp.tile(sdata, ..., model=model)", "lay them again: hd.pp.tile(sdata, ..., model=model)"),
        ("outlining the tissue: hd.pp.tissue", "outlining the tissue"),
        ("no store /data/key=1/genes=2.zarr", "no store /data/key=1/genes=2.zarr"),
    ],
)
def test_calls_of_the_api_are_commands(said, expected):
    assert in_words_of_the_command(said) == expected


@pytest.mark.parametrize("command", BEGUN)
def test_ctrl_c_says_how_to_go_on_and_ends_with_130(run, stores, saved_model, tmp_path, monkeypatch, command):
    function, words = BEGUN[command]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(function, interrupted)
    folders = {"stores": str(stores["S1"].parent), "model": str(saved_model)}
    code, text, error = run(command, *(word.format(**folders) for word in words), "--json")
    assert code == 130
    assert error.splitlines()[-1] == "Stopped. Run the same command again to go on."
    assert text == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["embed", "predict", "train"])
def test_a_dry_run_does_nothing(run, own_stores, saved_model, tmp_path, monkeypatch, command):
    for function, _ in BEGUN.values():
        monkeypatch.setattr(function, lambda *_, **__: pytest.fail("something was done"))
    before = {p: p.stat().st_mtime_ns for p in own_stores.rglob("*")}
    more = {
        "predict": ["--model", saved_model],
        "train": ["--out", tmp_path / "m"],
        "embed": ["--encoder", "morphology"],
    }
    code, text, _ = run(command, own_stores, *more[command], "--dry-run", "--json")
    assert code == 0
    found = json.loads(text)
    assert found["dry_run"] is True
    if command == "train":
        assert found["slides"] == ["S1", "S2", "S3"]
    else:
        status = {"embed": "there", "predict": "to do"}[command]
        assert [(s["slide"], s["status"]) for s in found["stores"]] == [(n, status) for n in ("S1", "S2", "S3")]
    assert {p: p.stat().st_mtime_ns for p in own_stores.rglob("*")} == before
    assert not (tmp_path / "m").exists()
