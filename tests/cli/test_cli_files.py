"""Commands on files, once the functions they call are there."""

from __future__ import annotations

import json
import re
import shutil

import spatialdata

import hisdiff_sd as hd


def test_slides_are_converted_once(run, hest_root, tmp_path):
    words = ["convert", hest_root, tmp_path / "stores", "--samples", "S1,S3"]
    plan = json.loads(run(*words, "--dry-run", "--json")[1])["stores"]
    assert [(s["slide"], s["status"]) for s in plan] == [("S1", "to do"), ("S3", "to do")]
    code, text, _ = run(*words, "--json")
    assert code == 0
    assert [s["status"] for s in json.loads(text)["stores"]] == ["done", "done"]
    assert "table" in spatialdata.read_zarr(tmp_path / "stores" / "S3.zarr").tables
    assert [s["status"] for s in json.loads(run(*words, "--json")[1])["stores"]] == ["skipped", "skipped"]
    assert run("convert", hest_root, tmp_path / "stores", "--samples", "S9")[0] == 1


def test_a_plan_names_slides_that_are_not_there(run, hest_root, tmp_path):
    code, _, error = run("convert", hest_root, tmp_path / "stores", "--samples", "S9", "--dry-run")
    assert code == 1
    assert re.search(r"no slide .*'S9'", error)
    assert "S1" in error
    assert run("convert", tmp_path / "none", tmp_path / "stores", "--dry-run")[0] == 1


def test_samples_are_listed(run, hest_root):
    code, text, _ = run("samples", hest_root, "--patient", "A", "--json")
    assert code == 0
    assert [s["id"] for s in json.loads(text)["samples"]] == ["S1", "S2"]
    assert all(isinstance(s["spots"], int) for s in json.loads(text)["samples"])
    code, text, _ = run("samples", hest_root)
    assert code == 0
    assert ".0 " not in text  # counts are whole numbers
    assert run("samples", hest_root, "--organ", "Breest")[0] == 1


def test_whole_stores_are_found_whole(run, own_stores):
    code, text, _ = run("check", own_stores, "--json")
    assert (code, json.loads(text)) == (0, {"command": "check", "stores": 3, "findings": []})


def test_a_store_with_an_error_ends_with_3_until_it_is_mended(run, own_stores):
    shutil.rmtree(own_stores / "S1.zarr" / "shapes" / "spots")
    code, text, error = run("check", own_stores, "--json")
    assert code == 3
    assert {f["store"] for f in json.loads(text)["findings"] if f["severity"] == "error"} == {
        str(own_stores / "S1.zarr")
    }
    assert "1 of 3 stores have errors" in error


def test_a_folder_that_is_no_store_does_not_hide_the_others(run, own_stores):
    (own_stores / "A0.zarr").mkdir()
    shutil.rmtree(own_stores / "S1.zarr" / "shapes" / "spots")
    code, text, error = run("check", own_stores, "--json")
    assert code == 3
    errors = {f["store"] for f in json.loads(text)["findings"] if f["severity"] == "error"}
    assert errors == {str(own_stores / name) for name in ("A0.zarr", "S1.zarr")}
    assert "2 of 4 stores have errors" in error
    assert "A0.zarr is no zarr store" in run("check", own_stores)[1]
    code, text, _ = run("qc", own_stores, "--json")
    assert (code, len(json.loads(text)["slides"])) == (3, 4)


def test_options_reach_the_download(run, monkeypatch, tmp_path):
    import pandas as pd

    asked = []

    def remember(*words, **options):
        asked.append((*words, options))
        return pd.DataFrame({"file": ["st/SPA148.h5ad"], "sample": ["SPA148"], "bytes": [3], "status": ["wanted"]})

    monkeypatch.setattr("hisdiff_sd.io.download", remember)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    code, text, _ = run("download", "SPA147", "HER2ST", "--out", tmp_path, "--dry-run", "--json")
    assert code == 0
    assert asked == [(["SPA147", "HER2ST"], tmp_path, {"token": None, "dry_run": True})]
    assert json.loads(text)["files"][0]["status"] == "wanted"


def test_the_quality_of_slides_is_said(run, own_stores):
    code, text, _ = run("qc", own_stores, "--json")
    assert code == 0
    assert [s["slide"] for s in json.loads(text)["slides"]] == ["S1", "S2", "S3"]
    assert run("qc", own_stores / "S1.zarr")[1] == f"{hd.io.qc(own_stores / 'S1.zarr')}\n"
