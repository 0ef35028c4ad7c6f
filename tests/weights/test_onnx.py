"""The same numbers from an exported file: all three kinds of networks, any batch, any size where sizes are free."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mien
from mien.errors import CheckpointError, DeviceUnavailable, MissingExtra, OptionError, ShapeError, WeightsError
from mien.weights import OnnxNetwork, Weights, device, export_onnx, load
from mien.weights import onnx as module

from .conftest import SMALL, written

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Weights, Any, Any]]:
    """By task: weights, the network by torch, and what `export_onnx` said of it. An export takes seconds."""
    folder = tmp_path_factory.mktemp("onnx")
    made = {}
    for task in SMALL:
        weights, _ = written(folder, task)
        made[task] = weights, load(weights, device="cpu"), export_onnx(weights, folder / task / "network.onnx")
    return made


@pytest.mark.parametrize("task", sorted(SMALL))
def test_outputs_agree_with_the_network(task: str, kept: dict[str, tuple[Weights, Any, Any]]) -> None:
    weights, network, exported = kept[task]
    by_onnx = OnnxNetwork(exported.path, size=weights.input.size)
    sizes = [(112, 112)] if weights.input.size else [(32, 32), (64, 160), (352, 96)]
    for batch in (1, 2, 7):
        for height, width in sizes:
            pixels = np.random.default_rng(batch).integers(0, 256, (batch, height, width, 3), np.uint8)
            x = weights.input.tensor(pixels)
            with torch.inference_mode():
                want = network(x)
            got = by_onnx(x)
            assert got.shape == want.shape
            assert got.dtype == torch.float32
            assert float((got - want).abs().max()) <= 1e-4 * max(1.0, float(want.abs().max()))
            assert float(want.std()) > 1e-3


def test_what_was_exported_is_told(kept: dict[str, tuple[Weights, Any, Any]]) -> None:
    weights, _, exported = kept["detection"]
    assert exported.size == exported.path.stat().st_size
    assert exported.input == "images (batch, 3, 32*rows, 32*columns)"
    assert exported.output.startswith("outputs (batch, ")
    assert 0 <= exported.difference <= 1e-4 * max(1, exported.largest)
    assert exported.sha256 == weights.sha256
    assert json.loads(json.dumps(exported.to_dict()))["opset"] == 18
    assert kept["landmarks"][2].output == "outputs (batch, 70, 3)"
    assert kept["embedding"][2].input == "images (batch, 3, 112, 112)"


@pytest.mark.parametrize("task", sorted(SMALL))
def test_the_file_says_what_it_is_and_nothing_of_this_machine(
    task: str, kept: dict[str, tuple[Weights, Any, Any]]
) -> None:
    weights, _, exported = kept[task]
    model = onnx.load(str(exported.path))
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["mien.name"] == weights.name
    assert facts["mien.sha256"] == weights.sha256
    assert facts["mien.licence"] == "MIT"
    assert json.loads(facts["mien.input"])["mean"] == list(weights.input.mean)
    assert ("mien.embedding" in facts) == (task == "embedding")
    assert model.producer_name == "mien"
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    data = exported.path.read_bytes()
    for trace in (b".py", b"stack_trace", str(Path(mien.__file__).parent).encode(), str(Path.home()).encode() + b"/"):
        assert trace not in data


def exported_already(monkeypatch: pytest.MonkeyPatch, exported: Any) -> None:
    """Puts a file in the place of torch's exporter, which takes seconds."""
    program = SimpleNamespace(model_proto=onnx.load(str(exported.path)))
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: program)


def test_an_export_that_computes_something_else_is_refused_and_not_written(
    kept: dict[str, tuple[Weights, Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, _, exported = kept["embedding"]
    exported_already(monkeypatch, exported)
    right = OnnxNetwork.__call__
    target = tmp_path / "out" / "network.onnx"
    for wrong in (lambda y: y * 1.001, lambda y: y[:, :-1], lambda y: y * float("nan")):
        with monkeypatch.context() as spoilt:
            spoilt.setattr(OnnxNetwork, "__call__", lambda self, x, wrong=wrong: wrong(right(self, x)))
            with pytest.raises(WeightsError, match="does not compute what the network computes"):
                export_onnx(weights, target)
        assert not target.exists()
    export_onnx(weights, target)
    assert target.exists()


def test_wrong_options_of_the_export(tmp_path: Path) -> None:
    weights, _ = written(tmp_path, "embedding")
    with pytest.raises(OptionError, match="operator set"):
        export_onnx(weights, tmp_path / "a.onnx", opset=9)
    with pytest.raises(OptionError, match=r"ends in \.onnx"):
        export_onnx(weights, tmp_path / "a.pb")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OptionError, match="folder"):
        export_onnx(weights, tmp_path / "folder.onnx")


def test_the_backend_exports_once_and_again_only_when_the_file_was_altered(
    kept: dict[str, tuple[Weights, Any, Any]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, by_torch, exported = kept["embedding"]
    exports: list[Path] = []

    def copied(weights: Weights, out: Path) -> None:  # an export takes seconds
        out.write_bytes(exported.path.read_bytes())
        exports.append(out)

    monkeypatch.setattr(module, "export_onnx", copied)
    first = load(weights, device="cpu", backend="onnx")
    assert isinstance(first, OnnxNetwork)
    assert first.path.parent == home / "onnx"
    assert first.path.name.startswith(f"small-embedding-{weights.sha256[:12]}-")
    second = load(weights, device="cpu", backend="onnx")
    assert isinstance(second, OnnxNetwork)
    assert second.path == first.path
    assert exports == [first.path]
    data = bytearray(first.path.read_bytes())
    data[len(data) // 2] ^= 1
    first.path.write_bytes(data)
    third = load(weights, device="cpu", backend="onnx")
    assert len(exports) == 2
    x = weights.input.tensor(np.full((3, 112, 112, 3), 90, np.uint8))
    want = by_torch(x)
    assert torch.allclose(third(x), want, atol=1e-4 * max(1.0, float(want.abs().max())))
    assert {file.suffix for file in (home / "onnx").iterdir()} == {".onnx", ".sha256", ".lock"}


def test_the_backend_exports_by_itself(
    kept: dict[str, tuple[Weights, Any, Any]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, by_torch, exported = kept["landmarks"]
    exported_already(monkeypatch, exported)
    by_onnx = load(weights, device="cpu", backend="onnx")
    x = weights.input.tensor(np.full((1, 112, 112, 3), 90, np.uint8))
    want = by_torch(x)
    assert torch.allclose(by_onnx(x), want, atol=1e-4 * max(1.0, float(want.abs().max())))
    assert list((home / "onnx").glob("small-landmarks-*.onnx"))


def test_input_of_another_shape(kept: dict[str, tuple[Weights, Any, Any]]) -> None:
    network = OnnxNetwork(kept["embedding"][2].path, size=112)
    for shape in ((3, 112, 112), (1, 1, 112, 112), (1, 3, 96, 112)):
        with pytest.raises(ShapeError, match=r"\(B, 3, 112, 112\)"):
            network(torch.zeros(shape))


def test_any_layout_and_gradients_in_the_input_are_fine(kept: dict[str, tuple[Weights, Any, Any]]) -> None:
    network = OnnxNetwork(kept["embedding"][2].path, size=112)
    x = torch.rand(2, 3, 112, 112)
    want = network(x)
    assert torch.equal(network(x.to(memory_format=torch.channels_last).requires_grad_()), want)
    assert torch.equal(network(x.double()), want)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="onnxruntime cannot read"):
        OnnxNetwork(tmp_path / "net.onnx")


def test_devices_of_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(module, "kinds", lambda: ("cpu",))
    assert device("auto", backend="onnx") == torch.device("cpu")
    for name in ("cuda", "mps"):
        with pytest.raises(DeviceUnavailable, match=f"onnxruntime cannot run on {name}"):
            device(name, backend="onnx")
    monkeypatch.setattr(module, "kinds", lambda: ("cpu", "cuda"))
    assert device("auto", backend="onnx") == torch.device("cuda")


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_provider_that_does_not_start_is_an_error(
    kept: dict[str, tuple[Weights, Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime would go on with the CPU after a warning; a provider that is not there behaves the same."""
    monkeypatch.setitem(module._PROVIDERS, "cuda", "CPUExecutionProvider")
    monkeypatch.setitem(module._PROVIDERS, "cpu", "TensorrtExecutionProvider")
    with pytest.raises(DeviceUnavailable, match="cannot start on cpu"):
        OnnxNetwork(kept["embedding"][2].path)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_its_extra(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._package.__wrapped__

    def package_or_none(name: str) -> Any:
        if name == package:
            raise MissingExtra(name, extra="onnx")
        return real(name)

    monkeypatch.setattr(module, "_package", package_or_none)
    weights, _ = written(tmp_path, "embedding")
    with pytest.raises(MissingExtra, match=r"mien\[onnx\]"):
        load(weights, device="cpu", backend="onnx")


def test_a_package_that_cannot_be_imported_is_a_missing_extra() -> None:
    with pytest.raises(MissingExtra, match="nobody_has_this"):
        module._package("nobody_has_this")
