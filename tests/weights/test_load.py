"""From a file to a network: strictly filled, frozen, folded without a change of result, on the device asked for."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mien.errors import CheckpointError, DeviceUnavailable, HashMismatch, OptionError, WeightsError
from mien.weights import InputContract, Weights, build, device, load
from mien.weights.load import fill, fold_normalisation, read_state

from .conftest import SMALL, declared, lively, written

TASKS = sorted(SMALL)


def pictures(weights: Weights, batch: int = 2) -> torch.Tensor:
    side = weights.input.size or 96
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    return weights.input.tensor(pixels)


# ------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("task", TASKS)
def test_the_loaded_network_computes_what_was_saved(task: str, tmp_path: Path) -> None:
    weights, network = written(tmp_path, task)
    for tensor in network.state_dict().values():  # what float16 kept of it
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().float())
    x = pictures(weights)
    with torch.no_grad():
        want = network(x)
    plain, folded = load(weights, device="cpu", fold=False), load(weights, device="cpu")
    assert torch.equal(plain(x), want)
    difference = (folded(x) - want).abs().max()
    assert 0 < difference <= 1e-4 * max(1.0, float(want.abs().max()))
    assert any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_it_is_frozen_and_laid_out_for_speed(tmp_path: Path) -> None:
    weights, _ = written(tmp_path, "detection")
    for fold in (False, True):
        network = load(weights, device="cpu", fold=fold)
        assert not network.training
        assert all(not p.requires_grad and p.dtype == torch.float32 for p in network.parameters())
        kernels = [p for p in network.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
        assert kernels
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def test_loading_draws_nothing_from_the_callers_generator(tmp_path: Path) -> None:
    weights, _ = written(tmp_path, "embedding")
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    load(weights, device="cpu")
    assert torch.equal(torch.rand(3), want)


def test_a_network_loaded_in_inference_mode_is_an_ordinary_one(tmp_path: Path) -> None:
    weights, _ = written(tmp_path, "embedding")
    with torch.inference_mode():
        network = load(weights, device="cpu", fold=False)
    assert not any(p.is_inference() for p in network.state_dict().values())
    network.requires_grad_(True)(pictures(weights)).sum().backward()


def test_the_file_is_verified_first(tmp_path: Path) -> None:
    weights, _ = written(tmp_path, "embedding")
    data = bytearray(Path(weights.file or "").read_bytes())
    data[-1] ^= 1
    Path(weights.file or "").write_bytes(data)
    with pytest.raises(HashMismatch):
        load(weights)


def test_the_backend_has_a_name(tmp_path: Path) -> None:
    weights, _ = written(tmp_path, "embedding")
    with pytest.raises(OptionError, match="did you mean 'onnx'"):
        load(weights, backend="onyx")


def test_a_declaration_of_code_that_is_not_there() -> None:
    for reference in ("mien.nn.none:Net", "mien.nn.embedder:Net", "nobody_has_this.package:Net"):
        with pytest.raises(WeightsError, match="names code that is not there"):
            build(declared(b"x", file="x.safetensors", build=reference))
    with pytest.raises(WeightsError, match="does not build the network") as caught:
        build(declared(b"x", file="x.safetensors", build="mien.nn.embedder:Embedder", arguments={"depth": 3}))
    assert "depth" in str(caught.value.got)


# ------------------------------------------------------------------------------------------- strictness


def network_and_state() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    network = lively(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1)))
    return network, {key: value.clone() for key, value in network.state_dict().items()}


def _without(state: dict[str, torch.Tensor]) -> None:
    del state["0.weight"], state["2.bias"]


def _with_more(state: dict[str, torch.Tensor]) -> None:
    state["3.weight"] = torch.zeros(2)


def _reshaped(state: dict[str, torch.Tensor]) -> None:
    state["2.weight"] = torch.zeros(5, 3, 1, 1)


def _integer(state: dict[str, torch.Tensor]) -> None:
    state["2.bias"] = torch.zeros(5, dtype=torch.int64)


def _broken(state: dict[str, torch.Tensor]) -> None:
    state["1.running_var"][1] = float("inf")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_without, "2 missing (0.weight, 2.bias)"),
        (_with_more, "1 unknown (3.weight)"),
        (_reshaped, "1 of another shape (2.weight (5, 3, 1, 1) for (5, 4, 1, 1))"),
        (_integer, "1 of another kind of numbers (2.bias torch.int64 for torch.float32)"),
        (_broken, "1 not finite (1.running_var)"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_copied(spoil: Any, told: str) -> None:
    _, state = network_and_state()
    fresh, _ = network_and_state()
    lively(fresh, seed=1)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    spoil(state)
    with pytest.raises(CheckpointError) as caught:
        fill(fresh, state, source="trial")
    assert told in caught.value.what
    assert all(torch.equal(before[key], value) for key, value in fresh.state_dict().items())


def test_several_troubles_are_told_at_once_and_long_lists_cut() -> None:
    network, state = network_and_state()
    _with_more(state)
    _reshaped(state)
    for k in range(7):
        state[f"extra.{k}"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        fill(network, state, source="trial")
    assert "8 unknown (3.weight, extra.0, extra.1, extra.2 and 4 more); 1 of another shape" in caught.value.what


def test_narrow_floats_are_widened_and_counters_may_be_absent() -> None:
    _, state = network_and_state()
    want = {key: value.half().float() if value.is_floating_point() else value for key, value in state.items()}
    del state["1.num_batches_tracked"]
    target, _ = network_and_state()
    fill(target, {key: value.half() for key, value in state.items()}, source="trial")
    for key, value in target.state_dict().items():
        assert value.dtype == want[key].dtype
        assert torch.equal(value, want[key])


# ------------------------------------------------------------------------------------------- files


class Code:
    """A pickle of it makes a folder when it is read without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_pickles_with_code_are_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    new, old, bare = tmp_path / "new.pth", tmp_path / "old.pt", tmp_path / "bare.bin"
    content = {"state_dict": {"w": torch.zeros(2)}, "callback": Code(trap)}
    torch.save(content, new)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    bare.write_bytes(pickle.dumps(content["callback"]))
    for file in (new, old, bare):
        with pytest.raises(CheckpointError, match="without running code") as caught:
            read_state(file)
        assert "safetensors" in str(caught.value.hint)
        data = file.read_bytes()
        weights = declared(data, file=str(file), build="torch.nn:Identity", convert="operator:itemgetter")
        with pytest.raises(CheckpointError, match="without running code"):
            load(weights)
    assert not trap.exists()
    with pytest.raises(Exception, match=r".*"):
        torch.load(new, weights_only=False)["none"]
    assert trap.exists()  # the trap works where nobody takes care


def test_a_plain_pickled_checkpoint_is_read_and_converted(tmp_path: Path) -> None:
    network, state = network_and_state()
    file = tmp_path / "foreign.pth.tar"
    torch.save({"epoch": 3, "model": {f"module.{key}": value for key, value in state.items()}}, file)
    with pytest.raises(CheckpointError, match="holds no state dict") as caught:
        read_state(file)
    assert "epoch" in str(caught.value.got)
    assert "convert=" in str(caught.value.hint)
    read = read_state(file, convert="tests.weights.test_load:taken_out")
    target, _ = network_and_state()
    fill(target, read, source="foreign")
    assert torch.equal(target[0].weight, network[0].weight)  # type: ignore[index, union-attr]


def taken_out(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {key.removeprefix("module."): value for key, value in checkpoint["model"].items()}


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
@pytest.mark.parametrize("data", [b"", b"text named so", b"\xff" * 100], ids=["empty", "text", "bytes"])
def test_damaged_files_are_told(tmp_path: Path, name: str, data: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="net"):
        read_state(file)


def test_a_truncated_file_is_told(tmp_path: Path) -> None:
    weights, _ = written(tmp_path, "embedding")
    file = Path(weights.file or "")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state(file)


# ------------------------------------------------------------------------------------------- folding


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_folding_is_the_formula(bias: bool, groups: int) -> None:
    """A convolution with kernel W g / sqrt(v + e) and bias (b - m) g / sqrt(v + e) + h, in float64."""
    network = lively(
        nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups, bias=bias), nn.BatchNorm2d(6, eps=0.01), nn.ReLU()).double()
    )
    conv, norm = network[0], network[1]  # type: ignore[index]
    scale = norm.weight / (norm.running_var + 0.01).sqrt()
    kernel = conv.weight * scale[:, None, None, None]
    offset = ((conv.bias if bias else 0) - norm.running_mean) * scale + norm.bias
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    want = network(x)
    fold_normalisation(network)
    assert torch.allclose(network[0].weight, kernel, atol=1e-12)  # type: ignore[index]
    assert torch.allclose(network[0].bias, offset, atol=1e-12)  # type: ignore[index]
    assert torch.allclose(network(x), want, atol=1e-12)
    assert isinstance(network[1], nn.Identity)  # type: ignore[index]


def test_folding_leaves_alone_what_is_not_affine_in_a_row() -> None:
    network = lively(
        nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
            nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)),
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        )
    )
    kinds = [type(module) for module in network.modules()]
    fold_normalisation(network)
    assert [type(module) for module in network.modules()] == kinds


def test_a_convolution_that_two_normalisations_share_is_folded_into_each() -> None:
    shared = nn.Conv2d(3, 4, 1)
    network = lively(nn.ModuleList([nn.Sequential(shared, nn.BatchNorm2d(4)) for _ in range(2)]))
    x = torch.randn(1, 3, 2, 2)
    want = [part(x) for part in network]  # type: ignore[attr-defined]
    fold_normalisation(network)
    for part, expected in zip(network, want, strict=True):  # type: ignore[call-overload]
        assert torch.allclose(part(x), expected, atol=1e-5)
    assert not torch.allclose(want[0], want[1], atol=1e-2)


def test_a_network_in_training_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match="eval"):
        fold_normalisation(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))


# ------------------------------------------------------------------------------------------- devices


def _pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_auto_is_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch)
    assert device("auto") == device("cpu") == torch.device("cpu")
    _pretend(monkeypatch, mps=True)
    assert device() == torch.device("mps")
    _pretend(monkeypatch, cuda=2)
    assert device() == torch.device("cuda")


def test_a_device_that_was_asked_for_is_given_or_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, cuda=2)
    assert device("cuda:1") == torch.device("cuda", 1)
    assert device(torch.device("cuda", 0)) == torch.device("cuda", 0)
    for name in ("cuda:2", "mps"):
        with pytest.raises(DeviceUnavailable, match=f"{name} is not there") as caught:
            device(name)
        assert caught.value.expected == "cuda:0, cuda:1, cpu"
    _pretend(monkeypatch)
    for name in ("cuda", "cuda:0", "mps", "cpu:1"):
        with pytest.raises(DeviceUnavailable) as caught:
            device(name)
        assert caught.value.expected == "cpu"
        assert "auto" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "CPU", "tpu", "auto:1"])
def test_names_of_no_device(name: str) -> None:
    with pytest.raises(OptionError, match="unknown device"):
        device(name)


def test_a_network_is_never_put_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights, _ = written(tmp_path, "embedding")
    _pretend(monkeypatch)
    with pytest.raises(DeviceUnavailable):
        load(weights, device="cuda")
    assert next(load(weights, device="auto").parameters()).device.type == "cpu"


# ------------------------------------------------------------------------------------------- input


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize(("mean", "std"), [((127.5,) * 3, (128.0,) * 3), ((10.0, 20.0, 30.0), (1.0, 2.0, 4.0))])
def test_pictures_become_what_the_contract_says(
    colour: str, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    before = pixels.copy()
    got = InputContract(size=None, mean=mean, std=std, colour=colour).tensor(pixels)
    assert np.array_equal(pixels, before)
    assert got.shape == (2, 3, 5, 7)
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)
    for channel in range(3):
        source = pixels[..., channel if colour == "RGB" else 2 - channel].astype(np.float64)
        assert np.allclose(got[:, channel].numpy(), (source - mean[channel]) / std[channel], atol=1e-6)
