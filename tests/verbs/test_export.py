"""``export``: the verb around `mien.weights.export_onnx`, which has tests of its own."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mien.errors as errors
from mien.verbs.export import export


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[str]:
    """A small embedder with random numbers, declared under the name it yields."""
    import torch
    from safetensors.torch import save_file

    from mien.nn.embedder import embedder_small
    from mien.weights import EmbeddingContract, InputContract, Weights, registered

    torch.manual_seed(0)
    file = tmp_path / "tiny.safetensors"
    save_file(embedder_small().state_dict(), file)
    data = file.read_bytes()
    declared = Weights(
        name="tiny-embedder", task="embedding", sha256=hashlib.sha256(data).hexdigest(), size=len(data),
        licence="Apache-2.0", source="tests", build="mien.nn.embedder:embedder_small", file=str(file),
        input=InputContract(size=112, template="chip112"), embedding=EmbeddingContract(dim=128),
    )  # fmt: skip
    with registered(declared):
        yield declared.name


def test_the_file_computes_what_the_network_computes(tiny: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    import torch

    from mien.weights import load

    told = export(tiny, out=tmp_path / "new" / "net.onnx")
    assert told.path == tmp_path / "new" / "net.onnx"
    assert told.size == told.path.stat().st_size
    assert 0 <= told.difference <= 1e-4 * max(1, told.largest)
    assert set(told.to_dict()) >= {"path", "weights", "sha256", "opset", "input", "output", "difference", "size"}
    session = runtime.InferenceSession(str(told.path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    crops = np.random.default_rng(3).normal(size=(3, 3, 112, 112)).astype(np.float32)
    with torch.inference_mode():
        want = load(tiny, device="cpu")(torch.from_numpy(crops)).numpy()
    np.testing.assert_allclose(session.run(None, {given.name: crops})[0], want, atol=2e-4)


def test_the_default_name_and_the_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import mien.weights as weights
    from mien.weights.onnx import OPSET

    asked: list[tuple[Any, ...]] = []

    def recorded(name: str, out: Any, *, opset: int) -> Any:
        asked.append((name, str(out), opset))

    monkeypatch.setattr(weights, "export_onnx", recorded)
    export("mien-embedder")
    export("mien-embedder", out=tmp_path / "x.onnx", opset=20)
    assert asked == [("mien-embedder", "mien-embedder.onnx", 18), ("mien-embedder", str(tmp_path / "x.onnx"), 20)]
    assert inspect.signature(export).parameters["opset"].default == OPSET


def test_what_cannot_be_exported(tiny: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(errors.UnknownWeights, match="tiny-embedder"):
        export("tiny-embeder", out=tmp_path / "x.onnx")
    for options in ({"opset": 3}, {"out": tmp_path / "x.pt"}):
        with pytest.raises(errors.OptionError):
            export(tiny, **{"out": tmp_path / "x.onnx", **options})
    assert not list(tmp_path.glob("*.onnx"))


def test_the_command(tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import mien.weights as weights
    from mien.cli import build
    from mien.weights import Exported

    def made(name: str, out: Any, *, opset: int) -> Exported:
        return Exported(
            path=Path(out), weights=name, sha256="0" * 64, opset=opset, input="images (B, 3, 112, 112)",
            output="outputs (B, 128)", difference=1e-6, largest=2.0, size=123,
        )  # fmt: skip

    monkeypatch.setattr(weights, "export_onnx", made)
    build()(["export", tiny, "--out", "a.onnx", "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["weights"], told["opset"], told["size"]) == ("a.onnx", tiny, 18, 123)
