"""Commands on stores: what they write, what they skip, what they say of slides that fail."""

from __future__ import annotations

import json
import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata

import hisdiff_sd as hd

QUICK = ("--n-samples", "2", "--steps", "2")


@pytest.fixture
def bare(hest_root, tmp_path):
    """A folder with the stores of S1 and S2 without embeddings."""
    for name in ("S1", "S2"):
        hd.io.write(hd.io.hest(hest_root, name), tmp_path / "bare" / f"{name}.zarr")
    return tmp_path / "bare"


def statuses(text: str) -> list[str]:
    return [row["status"] for row in json.loads(text)["stores"]]


def test_stores_are_embedded_once(run, bare):
    code, text, _ = run("embed", bare, "--encoder", "morphology", "--json")
    assert code == 0
    assert statuses(text) == ["done", "done"]
    assert "spots_morphology" in spatialdata.read_zarr(bare / "S2.zarr").tables
    assert statuses(run("embed", bare, "--encoder", "morphology", "--json")[1]) == ["skipped", "skipped"]
    code, text, _ = run("embed", bare / "S1.zarr", "--encoder", "morphology", "--overwrite", "--json")
    assert statuses(text) == ["done"]


def test_slides_that_fail_alike_are_named_together_and_the_option_is_that_of_the_command(run, bare):
    assert run("embed", bare, "--encoder", "morphology")[0] == 0
    code, _, error = run("embed", bare, "--encoder", "morphology", "--padding", "white")
    assert code == 3
    assert (
        error.count("give --overwrite to replace it, or --key for another name") == 3
    )  # as each fails, and at the end
    assert "overwrite=" not in error
    last = error[error.index("2 of 2 slides failed") :].splitlines()
    assert last[1].startswith(f"  {bare / 'S1.zarr'}, {bare / 'S2.zarr'}: ")
    code, _, _ = run("embed", bare, "--encoder", "morphology", "--padding", "white", "--key", "white")
    assert code == 0
    assert "white" in spatialdata.read_zarr(bare / "S1.zarr").tables


def test_a_slide_that_fails_is_named_and_the_others_are_done(run, bare):
    shutil.rmtree(bare / "S1.zarr" / "shapes" / "spots")
    code, text, error = run("embed", bare, "--encoder", "morphology", "--json")
    assert code == 3
    assert statuses(text) == ["failed", "done"]
    assert json.loads(text)["stores"][0]["error"]
    assert "1 of 2 slides failed" in error
    assert "run the same command again" in error
    assert "Traceback" not in error


def test_what_was_interrupted_goes_on(run, bare, monkeypatch):
    whole = hd.pp.embed

    def second_interrupted(sdata, **how):
        if "S2" in str(sdata.path):
            raise KeyboardInterrupt
        whole(sdata, **how)

    with monkeypatch.context() as patch:
        patch.setattr("hisdiff_sd.pp.embed", second_interrupted)
        assert run("embed", bare, "--encoder", "morphology")[0] == 130
    code, text, _ = run("embed", bare, "--encoder", "morphology", "--json")
    assert code == 0
    assert statuses(text) == ["skipped", "done"]


def test_genes_are_those_of_the_api(run, own_stores, tmp_path):
    out = tmp_path / "genes.txt"
    words = [own_stores / "S1.zarr", own_stores / "S2.zarr", "--n-top", "15", "--include", "ERBB2, EPCAM"]
    code, text, _ = run("genes", *words, "--out", out)
    assert code == 0
    chosen = hd.pp.select_genes(words[:2], n_top=15, include=["ERBB2", "EPCAM"])
    assert text.split() == out.read_text().split() == chosen
    assert run("genes", *words, "--out", out)[0] == 1
    assert run("genes", *words, "--out", out, "--overwrite")[0] == 0
    assert json.loads(run("genes", *words, "--json")[1])["genes"] == chosen


def test_from_stores_to_scores_and_a_file_for_others(run, own_stores, tmp_path):
    model, genes = tmp_path / "model", tmp_path / "genes.txt"
    genes.write_text("ERBB2\nEPCAM\n# a comment\n\nCOL1A1\n")
    train = [own_stores / "S1.zarr", own_stores / "S2.zarr", "--out", model, "--encoder", "morphology"]
    code, text, _ = run("train", *train, "--genes", genes, "--epochs", "1", "--preset", "small", "--json")
    assert code == 0
    made = json.loads(text)
    assert (made["genes"], made["slides"], made["epochs"]) == (3, ["S1", "S2"], 1)
    assert made["hash"] == hd.HisDiff.load(model).fingerprint

    code, text, _ = run("predict", own_stores / "S3.zarr", "--model", model, *QUICK, "--json")
    assert (code, statuses(text)) == (0, ["done"])
    assert statuses(run("predict", own_stores / "S3.zarr", "--model", model, *QUICK, "--json")[1]) == ["skipped"]
    code, text, error = run("predict", own_stores / "S3.zarr", "--model", model, *QUICK, "--seed", "1", "--json")
    assert code == 3
    assert "was made in another way" in error
    assert "give --overwrite to replace it" in error

    scores = tmp_path / "scores.csv"
    code, text, _ = run("evaluate", own_stores / "S3.zarr", "--model", model, "--out", scores, "--json")
    assert code == 0
    table = pd.read_csv(scores)
    expected = hd.tl.evaluate(spatialdata.read_zarr(own_stores / "S3.zarr"), model)
    np.testing.assert_allclose(table["pcc_all"], expected["pcc_all"])
    assert set(table["slide"]) == {"S3"}
    assert set(table["protocol"]) == {"held-out slide and patient"}
    assert [row["method"] for row in json.loads(text)["scores"]] == list(expected["method"])

    code, text, _ = run("export", own_stores / "S3.zarr", tmp_path / "S3.h5ad", "--json")
    assert code == 0
    found = ad.read_h5ad(tmp_path / "S3.h5ad")
    assert json.loads(text) == {
        "command": "export",
        "path": str(tmp_path / "S3.h5ad"),
        "spots": found.n_obs,
        "genes": 3,
    }
    assert list(found.var_names) == ["ERBB2", "EPCAM", "COL1A1"]
    assert run("export", own_stores / "S3.zarr", tmp_path / "S3.h5ad")[0] == 1
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".") and p.suffix == ".h5ad"]


def test_predict_at_another_depth(run, own_stores, saved_model):
    words = ("predict", own_stores / "S3.zarr", "--model", saved_model, *QUICK)
    assert run(*words, "--depth", "0.1")[0] == 0
    assert spatialdata.read_zarr(own_stores / "S3.zarr")["hisdiff"].uns["hisdiff_sd"]["depth"] == 0.1
    code, _, error = run(*words, "--depth", "0")
    assert code != 0
    assert "--depth 0.0 is no sequencing depth" in error


def test_stores_of_others_get_companions(run, own_stores, tmp_path, saved_model):
    words = ["--model", saved_model, "--companions", tmp_path / "mine", *QUICK]
    before = sorted(p.name for p in (own_stores / "S3.zarr" / "tables").iterdir())
    assert run("predict", own_stores / "S3.zarr", *words)[0] == 0
    assert sorted(p.name for p in (own_stores / "S3.zarr" / "tables").iterdir()) == before
    assert "hisdiff" in spatialdata.read_zarr(tmp_path / "mine" / "S3.zarr").tables
    words = ["--model", saved_model, "--companions", tmp_path / "mine", "--json"]
    code, text, _ = run("evaluate", own_stores / "S3.zarr", *words)
    assert code == 0
    assert {row["slide"] for row in json.loads(text)["scores"]} == {"S3"}
    # the companion by itself stands for both
    code, alone, _ = run("evaluate", tmp_path / "mine" / "S3.zarr", "--model", saved_model, "--json")
    assert (code, alone) == (0, text)
    assert run("report", tmp_path / "mine" / "S3.zarr", "--out", tmp_path / "S3.html")[0] == 0
    assert sorted(p.name for p in (own_stores / "S3.zarr" / "tables").iterdir()) == before


def test_the_way_out_of_a_read_only_folder_is_an_option(run, bare, monkeypatch):
    import os

    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **how: mode != os.W_OK and allowed(path, mode, **how))
    code, _, error = run("embed", bare / "S1.zarr", "--encoder", "morphology")
    assert code == 3
    assert "S1.zarr may not be written to; give a folder for the results: --companions FOLDER" in error
    assert "hd.io.open" not in error


def test_a_folder_stands_for_its_stores_once(run, own_stores):
    again = f"{own_stores / 'S1.zarr'}/"
    code, text, _ = run("embed", own_stores, again, "--encoder", "morphology", "--dry-run", "--json")
    assert code == 0
    assert [row["slide"] for row in json.loads(text)["stores"]] == ["S1", "S2", "S3"]


def test_methods_are_compared(run, own_stores, tmp_path):
    words = [own_stores, "--encoder", "morphology", "--by", "patient", "--rows", "mean,ridge", "--out", tmp_path / "cv"]
    code, text, _ = run("cross-validate", *words, "--json")
    assert code == 0
    found = json.loads(text)
    scores = hd.tl.CrossValidation.load(tmp_path / "cv").scores()
    assert [(s["slide"], s["row"]) for s in found["scores"]] == list(zip(scores["slide"], scores["row"], strict=True))
    assert {s["row"] for s in found["summary"]} == {"mean", "ridge"}
    assert found["out"] == str(tmp_path / "cv")


@pytest.mark.slow
def test_workers_do_the_same(run, bare):
    code, text, _ = run("embed", bare, "--encoder", "morphology", "--workers", "2", "--json")
    assert code == 0
    assert statuses(text) == ["done", "done"]
