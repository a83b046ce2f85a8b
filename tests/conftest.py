"""Slides that all tests share, and a stand-in for the Hugging Face hub on 127.0.0.1."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
import torch

import hisdiff_sd as hd
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd.model import Scalers
from hisdiff_sd.tiles import nearest

if TYPE_CHECKING:
    from spatialdata import SpatialData

# Before anything computes, and for the processes that tests start: numbers are compared, whatever the processor.
os.environ["HISDIFF_SD_PRECISION"] = "fp32"
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # workers share the cores; each would take all
    _share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", str(_share))))

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """Keep torch at its threads: numba, which scanpy uses, sets them to all cores when it starts."""
    import numba

    wanted = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(wanted)


@pytest.fixture(scope="session")
def hest_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small synthetic slides in the HEST layout: S1 and S2 of patient A, S3 of patient B. Read only."""
    return hd.datasets.synthetic(
        tmp_path_factory.mktemp("synthetic") / "hest",
        slides=("S1", "S2", "S3"),
        size_um=(1500.0, 1300.0),
        mpp=1.1,
        n_genes=40,
        seed=7,
    )


@pytest.fixture(scope="session")
def real_hest() -> Path:
    """The folder with real slides in the HEST layout, or a skip that says how to name one."""
    named = os.environ.get("HISDIFF_SD_TEST_DATA")
    if not named:
        pytest.skip("no real slides: set HISDIFF_SD_TEST_DATA to a folder in the HEST layout (wsis/, st/, metadata/)")
    for root in (Path(named), Path(named) / "her2st"):
        if (root / "wsis").is_dir():
            return root
    pytest.skip(f"HISDIFF_SD_TEST_DATA={named!r} is no folder in the HEST layout: it has no wsis/")


@pytest.fixture(scope="session")
def stores(hest_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stores of the three slides, embedded with "morphology". Read only: take `open_store` to change one."""
    folder = tmp_path_factory.mktemp("stores")
    for name in ("S1", "S2", "S3"):
        sdata = hd.io.write(hd.io.hest(hest_root, name), folder / f"{name}.zarr")
        hd.pp.embed(sdata, "morphology")
    return {name: folder / f"{name}.zarr" for name in ("S1", "S2", "S3")}


@pytest.fixture(scope="session")
def open_store(stores: dict[str, Path]) -> Callable[[str], SpatialData]:
    """Open a slide anew, cut off from its store: what is added to it or changed stays in memory."""
    import spatialdata

    def opened(name: str) -> SpatialData:
        sdata = spatialdata.read_zarr(stores[name])
        sdata.path = None
        return sdata

    return opened


@pytest.fixture(scope="session")
def panel(stores: dict[str, Path]) -> list[str]:
    """Twelve genes, chosen on S1 and S2."""
    return hd.pp.select_genes([stores["S1"], stores["S2"]])[:12]


@pytest.fixture(scope="session")
def model(stores: dict[str, Path], panel: list[str]) -> hd.HisDiff:
    """A model of S1 and S2 that was trained for two epochs only. Read only."""
    return hd.tl.train([stores["S1"], stores["S2"]], genes=panel, encoder="morphology", preset="small", epochs=2)


@pytest.fixture(scope="session")
def tiny_model(stores: dict[str, Path], panel: list[str], model: hd.HisDiff) -> hd.HisDiff:
    """The same bundle around a tiny, quick network that was trained until its samples look like counts. Read only."""
    import spatialdata

    slides = [spatialdata.read_zarr(stores[name]) for name in ("S1", "S2")]
    expression = np.concatenate([np.log2(s["table"][:, panel].X.toarray() + 1) for s in slides])
    embedding = np.concatenate([s["spots_morphology"].X for s in slides])
    scalers = Scalers(*(v for a in (expression, embedding) for v in _standard(a)))
    targets = torch.from_numpy(((expression - scalers.target_shift) / scalers.target_scale).astype(np.float32))[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = hd.nn.HisDiffNetwork(len(panel), embedding.shape[1], width=16, depth=1, num_heads=2)
        bundle = hd.HisDiff(network, model.config, scalers, model.baselines)
        # what the network sees of a spot stays as it was drawn, so that it is computed once
        seen = torch.cat([bundle.condition(_inputs(s), torch.device("cpu")) for s in slides]).clone()
        network.requires_grad_(True)
        diffusion, optimiser = hd.nn.GaussianDiffusion(), torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(300):
            t, noise = torch.randint(0, 1000, (len(targets),)), torch.randn(targets.shape)
            noisy = diffusion.q_sample(targets, t, noise)
            loss = diffusion.training_loss(network.denoise(noisy, t, seen), targets, noisy, t, noise)
            optimiser.zero_grad()
            loss.loss.mean().backward()
            optimiser.step()
    network.requires_grad_(False)
    return bundle


def _standard(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.mean(0).astype(np.float32), values.std(0).clip(1e-3).astype(np.float32)


def _inputs(sdata: SpatialData) -> SlideInputs:
    xy = np.asarray(sdata["table"].obsm["spatial"])
    return SlideInputs("", sdata["table"].obs_names, xy, sdata["spots_morphology"].X, nearest(xy, 9), nearest(xy, 49))


@pytest.fixture(scope="session")
def predicted(open_store: Callable[[str], SpatialData], tiny_model: hd.HisDiff) -> SpatialData:
    """S3 with a prediction of 20 samples. Read only."""
    sdata = open_store("S3")
    hd.tl.predict(sdata, tiny_model, n_samples=20, steps=5)
    return sdata


@dataclass
class Hub:
    """What the stand-in serves and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # by "owner/name/filename", "datasets/owner/name/filename"
    gated: bool = False
    accepted: tuple[str, ...] = ()  # tokens whose accounts have accepted the terms
    known: tuple[str, ...] = ()  # other tokens that are good
    status: int | None = None  # answer everything with this
    asked: list[tuple[str, str]] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)  # parts of files that were asked for
    breaks_after: int | None = None  # bytes of a file after which the line breaks

    def refusal(self, path: str, token: str | None) -> tuple[int, dict[str, str]] | None:
        """Status and headers of a refusal, as huggingface.co gives them; None to serve the file."""
        if self.status is not None:
            return self.status, {"X-Error-Message": f"status {self.status} as told"}
        if token is not None and token not in self.accepted + self.known:
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}
        repo, name = self.parts(path)
        if not any(key.startswith(f"{repo}/") for key in self.files):
            return (401 if token is None else 404), {"X-Error-Code": "RepoNotFound"}
        if self.gated and name and token not in self.accepted:
            return (401 if token is None else 403), {"X-Error-Code": "GatedRepo", "X-Error-Message": "restricted"}
        if name and f"{repo}/{name}" not in self.files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        return None

    @staticmethod
    def parts(path: str) -> tuple[str, str]:
        """Repository and file of a request; no file if the request is about the repository."""
        repo, resolve, rest = unquote(urlsplit(path).path).strip("/").partition("/resolve/")
        if resolve:
            return repo, rest.partition("/")[2]
        return repo.removeprefix("api/").partition("/tree/")[0], ""

    def about(self, path: str) -> bytes:
        """Answer to a request about a repository: what it is, or the files of its root or in all of it."""
        repo, _ = self.parts(path)
        if "/tree/" not in path:
            return json.dumps({"id": repo.removeprefix("datasets/"), "sha": COMMIT, "siblings": []}).encode()
        deep = parse_qs(urlsplit(path).query).get("recursive", ["false"])[0].lower() in ("1", "true")
        names = {key.removeprefix(f"{repo}/"): len(value) for key, value in self.files.items() if key.startswith(repo)}
        files = [
            {"type": "file", "path": n, "size": s, "oid": COMMIT} for n, s in names.items() if deep or "/" not in n
        ]
        folders = {name.partition("/")[0] for name in names if "/" in name}
        return json.dumps([*files, *({"type": "directory", "path": f, "oid": COMMIT} for f in folders)]).encode()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, body: bool) -> None:
        self.hub.asked.append((self.command, self.path))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        refusal, start = self.hub.refusal(self.path, token), 0
        if refusal is not None:
            status, headers, content = *refusal, b""
        else:
            repo, name = self.hub.parts(self.path)
            content = self.hub.files[f"{repo}/{name}"] if name else self.hub.about(self.path)
            status, headers = 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            if (part := self.headers.get("Range", "")) and name:
                self.hub.ranges.append(part)
                start = int(part.removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                status, content = 206, content[start:]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.hub.breaks_after is not None and self.hub.parts(self.path)[1]:
            self.wfile.write(content[: max(0, self.hub.breaks_after - start)])
            self.close_connection = True
        elif body:
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on 127.0.0.1 that huggingface_hub talks to, with an empty cache and no token."""
    from huggingface_hub import constants

    state = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": state}))
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING")) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    # huggingface_hub reads its environment when it is imported, which another test may have done.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Its pauses between attempts add up to half a minute.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield state
    server.shutdown()
    server.server_close()
    thread.join()
