"""The arguments of the published train.py."""

from __future__ import annotations

import json
import re

import pytest

import hisdiff_sd as hd
from hisdiff_sd._cli._experiment import read_experiment


@pytest.fixture
def data(hest_root, tmp_path):
    """A folder as the published scripts expect it."""
    folder = tmp_path / "Her2st"
    (folder / "processed_data").mkdir(parents=True)
    for name in ("st", "wsis", "metadata"):
        (folder / name).symlink_to(hest_root / name)
    (folder / "processed_data" / "selected_gene_list.txt").write_text("ERBB2\nEPCAM\n")
    (folder / "processed_data" / "all_slide_lst.txt").write_text("S1\nS3\n")
    return folder


@pytest.fixture
def words(data, tmp_path):
    place = ["--data_path", data, "--slide_out", "S3", "--results_dir", tmp_path / "r"]
    return ["train-published", "--expr_name", "Mine", *place, "--device", "cpu", "--encoder", "morphology"]


def test_they_are_those_of_an_experiment(run, words, data, tmp_path):
    code, text, _ = run(*words, "--total_epochs", "7", "--dry-run")
    assert code == 0
    (tmp_path / "e.toml").write_text(text.partition("\n\nconvert")[0])
    found = read_experiment(tmp_path / "e.toml")
    assert (found.name, found.out, found.device) == ("Mine", tmp_path / "r", "cpu")
    assert (found.data.source, found.data.test, found.data.slides) == (data, ["S3"], ["S1", "S3"])
    assert found.genes.file == data / "processed_data" / "selected_gene_list.txt"
    assert (found.train.preset, found.train.epochs, found.train.target) == ("published", 7, "log2")
    assert not (tmp_path / "r").exists()


def test_lists_that_are_named_must_be_there(run, words, data):
    code, _, error = run(*words, "--gene_list", "mine.txt")
    assert code == 1
    assert re.search(r"Error: no file .*processed_data/mine.txt", error)


def test_without_lists_all_slides_are_taken_and_genes_are_chosen(run, words, data):
    for name in ("selected_gene_list.txt", "all_slide_lst.txt"):
        (data / "processed_data" / name).unlink()
    code, text, error = run(*words, "--dry-run")
    assert code == 0
    assert "genes are chosen on the training slides" in error
    assert "[genes]" not in text
    assert "trained on S1, S2" in error


def test_several_slides_are_held_out(run, words):
    words[words.index("S3")] = "S3,S1"
    code, _, error = run(*words, "--dry-run")
    assert code == 1
    assert "all slides are test slides" in error


def test_it_trains_and_stops(run, words, tmp_path):
    code, text, _ = run(*words, "--preset", "small", "--total_epochs", "1", "--json")
    assert code == 0
    assert [s["step"] for s in json.loads(text)["steps"]] == ["convert", "embed", "genes", "train"]
    model = hd.HisDiff.load(tmp_path / "r" / "model")
    assert (model.genes, model.config.training["slides"]) == (["ERBB2", "EPCAM"], ["S1"])
