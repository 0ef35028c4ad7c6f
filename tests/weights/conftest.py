"""A server that misbehaves as it is told, a home of one's own, and small networks with weights on the disk."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mien.weights import EmbeddingContract, InputContract, Weights

if TYPE_CHECKING:
    from torch import nn

Behaviour = Callable[["Request", bytes], None]


class Request(BaseHTTPRequestHandler):
    """One request; what it does is the next behaviour of the server's script, or an honest answer."""

    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        seen = {"path": self.path, "range": self.headers.get("Range"), "if-range": self.headers.get("If-Range")}
        self.server.requests.append({**seen, "headers": dict(self.headers), "sent": 0})
        self.log = self.server.requests[-1]
        script = self.server.script
        behaviour = script.pop(0) if script else self.server.usual
        self.close_connection = True
        behaviour(self, self.server.data)

    def answer(self, status: int, body: bytes = b"", **headers: object) -> None:
        """Sends status, headers (``Content_Length=…``) and body; a length is announced unless it is given."""
        self.send_response(status)
        for name, value in {"Content_Length": len(body), "Connection": "close", **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.send(body)

    def send(self, body: bytes) -> None:
        self.wfile.write(body)
        self.wfile.flush()
        self.log["sent"] += len(body)

    def start(self) -> int:
        """The first byte that is asked for."""
        asked = self.headers.get("Range")
        return int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0

    def log_message(self, *_: Any) -> None: ...


class FileServer(ThreadingHTTPServer):
    """Serves `data` at every path. `script` holds what the next requests do, `requests` what they were."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.data = b""
        self.script: list[Behaviour] = []
        self.usual: Behaviour = honest
        self.requests: list[dict[str, Any]] = []
        self.etag = '"one"'

    def url(self, name: str = "file.safetensors") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""

    @property
    def sent(self) -> list[int]:
        """Bytes of body sent for each request."""
        return [request["sent"] for request in self.requests]


def honest(request: Request, data: bytes) -> None:
    start, etag = request.start(), request.server.etag
    if request.headers.get("If-Range") not in (None, etag):
        start = 0
    if start >= len(data) > 0:
        request.answer(416, Content_Range=f"bytes */{len(data)}")
    elif start:
        request.answer(206, data[start:], ETag=etag, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
    else:
        request.answer(200, data, ETag=etag)


def cut(most: int) -> Behaviour:
    """Announces all that was asked for, sends `most` bytes and hangs up."""

    def behaviour(request: Request, data: bytes) -> None:
        start = request.start()
        body = data[start : start + most]
        more: dict[str, Any] = {"ETag": request.server.etag, "Content_Length": len(data) - start}
        if start:
            request.answer(206, body, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}", **more)
        else:
            request.answer(200, body, **more)

    return behaviour


@pytest.fixture
def server() -> Iterator[FileServer]:
    made = FileServer()
    made.data = np.random.default_rng(0).bytes(300_000)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MIEN_HOME in a fresh folder, online; no proxy between the tests and their server."""
    for name in ("MIEN_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def declared(data: bytes, *urls: str, **more: Any) -> Weights:
    """A declaration of `data` at those addresses."""
    facts: dict[str, Any] = {
        "name": "trial", "task": "embedding", "licence": "MIT", "source": "tests", "build": "tests:none",
        "input": InputContract(size=112), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data),
    }  # fmt: skip
    return Weights(**{**facts, "urls": urls, **more})


# ------------------------------------------------------------------------------------------- networks

SMALL: dict[str, dict[str, Any]] = {
    "detection": {
        "build": "mien.nn.detector:Detector",
        "arguments": {"stem": 8, "widths": (8, 8, 16), "depths": (1, 0, 1), "neck": 8},
        "input": InputContract(size=None, multiple_of=32),
    },
    "landmarks": {
        "build": "mien.nn.landmarks:Landmarks",
        "arguments": {"widths": (8, 8, 16), "depths": (1, 0, 1), "head": 8},
        "input": InputContract(size=112, template="box", margin=1.2),
    },
    "embedding": {
        "build": "mien.nn.embedder:Embedder",
        "arguments": {"widths": (8, 8, 16), "depths": (1, 0, 1), "head": 16, "dim": 8},
        "input": InputContract(size=112, template="chip112"),
        "embedding": EmbeddingContract(dim=8, flip=True),
    },
}
"""The architectures of the bundled networks with few channels."""


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """`network` in eval mode with all its numbers drawn at random: no zero or unit scale hides a mistake."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point():
            spread = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.3
            tensor.normal_(1.0 if "weight" in name and tensor.ndim == 1 else 0.0, spread, generator=generator)
    return network.eval()


def written(folder: Path, task: str, **more: Any) -> tuple[Weights, nn.Module]:
    """Weights of a small network for `task` as a file in `folder` (float16), and that network."""
    from mien.train.checkpoint import save_weights
    from mien.weights.load import _resolve

    network = lively(_resolve(SMALL[task]["build"])(**SMALL[task]["arguments"]))
    file = folder / f"small-{task}.safetensors"
    save_weights(file, network, half=True)
    facts = {"name": f"small-{task}", "task": task, "urls": (), "file": str(file), **SMALL[task], **more}
    return declared(file.read_bytes(), **facts), network
