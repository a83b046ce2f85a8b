"""Downloads from stand-ins that answer as huggingface.co and zenodo.org do."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import logging
import threading
import urllib.error
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io import _zenodo

REPO = "datasets/MahmoodLab/hest"
TITLE = "Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated cell type interactions"
CATALOGUE = f"""dataset_title,id,organ,st_technology,oncotree_code,subseries
{TITLE},SPA148,Breast,Spatial Transcriptomics,IDC,H1
{TITLE},SPA14,Breast,Spatial Transcriptomics,IDC,G2
spatialLIBD,MISC2,Brain,Visium,,151675
Human breast,TENX14,Breast,Visium,IDC,
"""


@pytest.fixture
def served(hub: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hub with four slides behind a gate, and a token that is accepted."""
    hub.gated, hub.accepted, hub.known = True, ("hf_accepted",), ("hf_other",)
    hub.files = {
        f"{REPO}/HEST_v1_0_0.csv": b"id\nOLD\n",
        f"{REPO}/HEST_v1_10_0.csv": b"\xef\xbb\xbf" + CATALOGUE.encode(),
    }
    hub.files[f"{REPO}/README.md"] = b"terms"
    for name in ("SPA148", "SPA14", "MISC2", "TENX14"):
        for file, size in (
            (f"wsis/{name}.tif", 3000),
            (f"st/{name}.h5ad", 200),
            (f"metadata/{name}.json", 20),
            (f"cellvit_seg/{name}_cellvit_seg.parquet", 50),
            (f"patches/{name}.h5", 9000),
            (f"spatial_plots/{name}_spatial_plots.png", 900),
        ):
            hub.files[f"{REPO}/{file}"] = (name.encode() + bytes(range(256)) * 40)[:size]
    monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    return hub


def files_of(*ids: str) -> list[str]:
    patterns = ("cellvit_seg/{}_cellvit_seg.parquet", "metadata/{}.json", "st/{}.h5ad", "wsis/{}.tif")
    return [pattern.format(name) for name in ids for pattern in patterns]


def fetched(served: Any) -> list[str]:
    """Files that were sent, in the order of their names."""
    return sorted(
        {path.partition("/resolve/")[2].partition("/")[2] for verb, path in served.asked if verb == "GET"} - {""}
    )


def test_a_slide_is_fetched_with_what_is_read_of_it_and_no_other(served, tmp_path, caplog):
    caplog.set_level(logging.INFO, "hisdiff_sd")
    report = hd.io.download("SPA14", tmp_path / "hest")
    assert report["file"].tolist() == files_of("SPA14")
    assert report["status"].tolist() == ["fetched"] * 4
    assert report["bytes"].tolist() == [50, 20, 200, 3000]
    assert set(report["sample"]) == {"SPA14"}
    for file in files_of("SPA14"):
        assert (tmp_path / "hest" / file).read_bytes() == served.files[f"{REPO}/{file}"]
    # the newest catalogue lies beside it, where hd.io.hest looks for it
    assert fetched(served) == sorted([*files_of("SPA14"), "HEST_v1_10_0.csv"])
    assert (tmp_path / "hest" / "HEST_v1_10_0.csv").exists()
    assert any(text.startswith("4 files of 1 slides, 0.0 MiB; 0.0 MiB to fetch; ") for text in caplog.messages)


def test_a_dry_run_says_what_would_be_fetched(served, tmp_path):
    report = hd.io.download(["SPA148", "MISC2"], tmp_path / "hest", dry_run=True)
    assert report["file"].tolist() == files_of("SPA148", "MISC2")
    assert set(report["status"]) == {"wanted"}
    assert not (tmp_path / "hest").exists()
    assert fetched(served) == ["HEST_v1_10_0.csv"]


@pytest.mark.parametrize(
    ("what", "ids"),
    [
        ("her2st", ["SPA148", "SPA14"]),
        ("DLPFC", ["MISC2"]),
        ("organ=breast", ["SPA148", "SPA14", "TENX14"]),
        ("subseries=1516", ["MISC2"]),
        (["DLPFC", "TENX14", "MISC2"], ["MISC2", "TENX14"]),
        ({"organ": "Breast", "st_technology": "Visium"}, ["TENX14"]),
    ],
)
def test_slides_are_chosen_by_dataset_and_by_condition(served, tmp_path, what, ids):
    report = hd.io.download(what, tmp_path, dry_run=True)
    assert list(dict.fromkeys(report["sample"])) == ids


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("SPA149", r"no slide 'SPA149'; near: SPA14"),
        ("HER2", r"no slide 'HER2'; near: HER2ST"),
        ("cSCC", "no dataset whose title begins with 'Single Cell and Spatial"),
        ("../SPA148", r"'\.\./SPA148' is no id"),
        ("SPA*", r"'SPA\*' is no id"),
        ("organ=Brest", r"no slide has organ 'Brest'; there are: Breast, Brain\. Did you mean 'Breast'"),
        ("organs=Breast", r"no column of the catalogue 'organs'.*Did you mean 'organ'"),
        ({"organ": "Brain", "oncotree_code": "IDC"}, "no slide of the catalogue fulfils all of"),
        ([], "nothing asked for"),
        ({}, "no condition given"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(served, tmp_path, what, said):
    with pytest.raises(HisDiffError, match=said):
        hd.io.download(what, tmp_path / "out", dry_run=True)


def test_an_id_of_the_catalogue_that_is_a_pattern_is_refused(served, tmp_path):
    served.files[f"{REPO}/HEST_v1_10_0.csv"] = b"id,organ\n*,Breast\n"
    with pytest.raises(HisDiffError, match=r"an id '\*', which is no name of a file"):
        hd.io.download("organ=Breast", tmp_path, dry_run=True)


def test_a_broken_line_is_taken_up_where_it_broke(served, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)  # not 10 MiB
    served.breaks_after = 1000
    with pytest.raises(HisDiffError, match="could not be fetched"):
        hd.io.download("SPA148", tmp_path)
    assert set(served.ranges) == {"bytes=1000-"}
    assert not (tmp_path / "wsis" / "SPA148.tif").exists()
    assert not list(tmp_path.rglob("*.incomplete"))
    served.breaks_after = None
    served.asked.clear()
    report = hd.io.download("SPA148", tmp_path)
    assert dict(zip(report["file"], report["status"], strict=True))["wsis/SPA148.tif"] == "fetched"
    assert fetched(served) == sorted(report["file"][report["status"] == "fetched"])
    assert (tmp_path / "wsis" / "SPA148.tif").read_bytes() == served.files[f"{REPO}/wsis/SPA148.tif"]
    served.asked.clear()
    assert hd.io.download("SPA148", tmp_path)["status"].tolist() == ["there"] * 4
    assert fetched(served) == []


def test_a_disk_that_is_too_small_is_said_before(served, tmp_path, monkeypatch):
    monkeypatch.setattr("hisdiff_sd.io._download.free_bytes", lambda target: 100)
    with pytest.raises(HisDiffError, match="do not fit on the disk of"):
        hd.io.download("SPA148", tmp_path)
    assert not (tmp_path / "wsis").exists()


PAGE = r"https://huggingface\.co/datasets/MahmoodLab/hest"


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, rf"it is gated and no token was found; accept its terms at {PAGE}, then run `hf auth login`"),
        ("hf_other", rf"terms are not accepted yet; accept them at {PAGE} with the account of the token"),
        ("hf_mistyped", r"refused the token; make a new one at https://huggingface\.co/settings/tokens"),
    ],
)
def test_terms_and_tokens(served, tmp_path, monkeypatch, token, said):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HisDiffError, match=rf"of HEST-1k .* could not be fetched: .*{said}"):
        hd.io.download("SPA148", tmp_path, token=token)


def test_a_token_can_be_given(served, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert len(hd.io.download("SPA148", tmp_path, token="hf_accepted")) == 4


def test_no_network(served, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        HisDiffError, match=r"could not be fetched: no connection to the hub \(Connect\w*: .*; look at the net"
    ):
        hd.io.download("SPA148", tmp_path)


def test_slides_that_were_fetched_are_converted(served, tmp_path):
    root = hd.datasets.synthetic(tmp_path / "made", slides=("S1",), size_um=(900, 800), mpp=1.0)
    served.files = {f"{REPO}/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*") if path.is_file()}
    hd.io.download("S1", tmp_path / "hest")
    assert hd.io.convert(tmp_path / "hest", tmp_path / "stores")["error"].tolist() == [""]


class Zenodo:
    """What the stand-in for zenodo.org serves."""

    def __init__(self, url: str) -> None:
        self.url, self.files, self.asked = url, {}, []

    def answer(self, path: str) -> bytes | None:
        self.asked.append(path)
        if path == f"/api/records/{_zenodo.RECORD}":
            return json.dumps({"files": [self.entry(name) for name in self.files]}).encode()
        return self.files.get(path.removeprefix("/files/"))

    def entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        checksum = f"md5:{hashlib.md5(content).hexdigest()}"
        return {"key": name, "size": len(content), "checksum": checksum, "links": {"self": f"{self.url}/files/{name}"}}


@pytest.fixture
def zenodo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zenodo]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = state.answer(self.path)
            self.send_response(200 if content is not None else 404)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Zenodo(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setattr(_zenodo, "API", f"{state.url}/api/records")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("data/st/SPA148.h5ad", b"counts")
    state.files = {"data.zip": packed.getvalue(), "notes.txt": b"read me"}
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_the_paper_published_is_fetched_checked_and_unpacked(zenodo, tmp_path):
    report = hd.io.download("zenodo", tmp_path / "paper", dry_run=True)
    assert dict(zip(report["file"], report["status"], strict=True)) == {"data.zip": "wanted", "notes.txt": "wanted"}
    assert not (tmp_path / "paper").exists()
    report = hd.io.download("zenodo", tmp_path / "paper")
    assert report["bytes"].tolist() == [len(zenodo.files[name]) for name in report["file"]]
    assert (tmp_path / "paper" / "data" / "st" / "SPA148.h5ad").read_bytes() == b"counts"
    zenodo.asked.clear()
    (tmp_path / "paper" / "notes.txt").write_bytes(b"red me!")  # of the same size
    assert hd.io.download("zenodo", tmp_path / "paper")["status"].tolist() == ["there", "there"]
    assert (tmp_path / "paper" / "notes.txt").read_bytes() == b"read me"
    assert "/files/data.zip" not in zenodo.asked


def test_what_zenodo_sends_wrongly_is_said(zenodo, tmp_path, monkeypatch):
    right = Zenodo.entry
    monkeypatch.setattr(Zenodo, "entry", lambda self, name: right(self, name) | {"checksum": "md5:" + "0" * 32})
    with pytest.raises(HisDiffError, match=r"of Zenodo record 17709073 could not be fetched .*hash"):
        hd.io.download("zenodo", tmp_path)
    assert not (tmp_path / "notes.txt").exists()
    monkeypatch.setattr(Zenodo, "entry", lambda self, name: right(self, name) | {"key": f"../{name}"})
    with pytest.raises(HisDiffError, match="would lie outside the folder"):
        hd.io.download("zenodo", tmp_path)


def test_zenodo_that_does_not_answer_is_said(zenodo, tmp_path, monkeypatch):
    monkeypatch.setattr(_zenodo, "RECORD", "1")
    monkeypatch.setattr(Zenodo, "answer", lambda self, path: None)
    with pytest.raises(HisDiffError, match="answered 404"):
        hd.io.download("zenodo", tmp_path)

    def unplugged(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("unplugged")

    monkeypatch.setattr("urllib.request.urlopen", unplugged)
    with pytest.raises(HisDiffError, match="no connection to Zenodo .*unplugged"):
        hd.io.download("zenodo", tmp_path)


def test_nothing_is_left_in_the_home(served, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    hd.io.download("SPA148", tmp_path / "hest")
    assert not [p for p in Path(tmp_path).glob("home/**/*") if p.is_file()]
