"""A small model in the registry, and a stand-in for the Hugging Face hub on 127.0.0.1."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from hisdiff_sd.encoders._registry import ENCODERS, EncoderRow

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> EncoderRow:
    """Row of a small ViT that takes the same way as UNI."""
    row = EncoderRow(
        name="tiny",
        dim=192,
        licence="none",
        hub_id="lab/tiny",
        filename="pytorch_model.bin",
        gated=True,
        timm_name="vit_tiny_patch16_224",
        timm_args={"depth": 2, "init_values": 1.0, "num_classes": 0, "dynamic_img_size": True},
    )
    monkeypatch.setitem(ENCODERS, row.name, row)
    return row


@pytest.fixture
def tiles() -> torch.Tensor:
    """Six different random tiles."""
    return torch.randint(0, 256, (6, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def build(row: EncoderRow, seed: int = 0) -> torch.nn.Module:
    """The row's model with random weights, straight from timm."""
    import timm

    torch.manual_seed(seed)
    layers = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": torch.nn.SiLU}
    arguments = {k: layers[v] if k in ("mlp_layer", "act_layer") else v for k, v in row.timm_args.items()}
    return timm.create_model(row.timm_name, pretrained=False, **arguments).eval()


@pytest.fixture
def make_model() -> Callable[..., torch.nn.Module]:
    return build


@pytest.fixture
def tiny_file(tiny: EncoderRow, tmp_path: Path) -> Path:
    """Weight file of the small model."""
    path = tmp_path / "pytorch_model.bin"
    torch.save(build(tiny).state_dict(), path)
    return path


@dataclass
class Hub:
    """What the stand-in serves and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # by "owner/name/filename"
    gated: bool = False
    accepted: tuple[str, ...] = ()  # tokens whose accounts have accepted the terms
    known: tuple[str, ...] = ()  # other tokens that are good
    status: int | None = None  # answer everything with this
    asked: list[tuple[str, str]] = field(default_factory=list)

    def refusal(self, path: str, token: str | None) -> tuple[int, dict[str, str]] | None:
        """Status and headers of a refusal, as huggingface.co gives them; None to serve the file."""
        if self.status is not None:
            return self.status, {"X-Error-Message": f"status {self.status} as told"}
        if token is not None and token not in self.accepted + self.known:
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}
        repo, _, name = path.strip("/").partition("/resolve/main/")
        if not any(key.startswith(f"{repo}/") for key in self.files):
            return (401 if token is None else 404), {"X-Error-Code": "RepoNotFound"}
        if self.gated and token not in self.accepted:
            return (401 if token is None else 403), {"X-Error-Code": "GatedRepo", "X-Error-Message": "restricted"}
        if f"{repo}/{name}" not in self.files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        return None


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
        refusal = self.hub.refusal(self.path, token)
        if refusal is not None:
            status, headers, content = *refusal, b""
        else:
            content = self.hub.files[self.path.strip("/").replace("/resolve/main/", "/")]
            status, headers = 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
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
