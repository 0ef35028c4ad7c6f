"""``doctor``: what is there is told as it is, and what is missing with what to do about it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import features

import mien.errors as errors
from mien.verbs import doctor as module
from mien.verbs.doctor import NETWORKS, Diagnosis, doctor


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One small network with random numbers stands for all that the main job needs; yields its file."""
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
    monkeypatch.setattr(module, "NETWORKS", ("tiny-embedder",))
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    with registered(declared):
        yield file


def needed(told: Diagnosis) -> list[str]:
    return [problem.what for problem in told.problems if problem.needed]


def test_a_machine_on_which_all_is_well(tiny: Path, tmp_path: Path) -> None:
    import torch

    told = doctor(device="cpu", measure=False)
    assert told.ok
    assert needed(told) == []
    (network,) = told.networks
    assert (network.name, network.ok, network.output) == ("tiny-embedder", True, "(1, 128)")
    assert network.milliseconds > 0
    assert {row.name: row.verified for row in told.weights}["tiny-embedder"] is True
    assert (told.device, told.threads) == ("cpu", torch.get_num_threads())
    assert told.packages["torch"] == torch.__version__.partition("+")[0]
    assert 1 <= told.cores <= (os.cpu_count() or 1)
    assert (told.home, told.home_writable) == (str(tmp_path / "home"), True)
    assert not (tmp_path / "home").exists(), "nothing is changed"
    assert (told.gemm_gflops, told.decode_mpx_s) == (None, None)


def test_decoders_are_told_as_they_are(tiny: Path) -> None:
    told = doctor(device="cpu", measure=False)
    assert told.formats["JPEG"]
    assert told.formats["PNG"]
    assert told.formats["WebP"] == features.check("webp")
    assert told.formats["AVIF"] == features.check("avif")
    assert told.formats["HEIC"] == (importlib.util.find_spec("pillow_heif") is not None)
    for name, there in told.formats.items():
        assert there != any(problem.what.startswith(f"{name} pictures") for problem in told.problems)


def test_a_needed_decoder_that_is_missing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_decodes", lambda head: not head.startswith(b"\x89PNG"))
    told = doctor(device="cpu", measure=False)
    assert not told.ok
    assert needed(told) == ["PNG pictures cannot be decoded"]
    assert told.problems[0].hint == "pip install --upgrade pillow"


def test_rates_are_measured(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.01)
    told = doctor(device="cpu")
    assert told.gemm_gflops is not None
    assert told.decode_mpx_s is not None
    assert told.gemm_gflops > 0
    assert told.decode_mpx_s > 0


def test_networks_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import mien.weights as weights

    monkeypatch.setattr(weights, "list_weights", list)
    told = doctor(device="cpu", measure=False)
    assert not told.ok
    assert [what.partition(" ")[0] for what in needed(told)] == list(NETWORKS)
    assert all(problem.hint for problem in told.problems)
    assert told.networks == ()


def test_a_file_of_weights_that_was_altered_or_removed(tiny: Path) -> None:
    data = bytearray(tiny.read_bytes())
    data[-1] ^= 1
    tiny.write_bytes(data)
    told = doctor(device="cpu", measure=False)
    assert not told.ok
    assert {row.name: row.verified for row in told.weights}["tiny-embedder"] is False
    assert "not the file that was declared" in needed(told)[0]
    assert told.networks == (), "what is not verified is not run"
    tiny.unlink()
    told = doctor(device="cpu", measure=False)
    assert not told.ok
    assert {row.name: (row.verified, row.state) for row in told.weights}["tiny-embedder"] == (None, "missing")


def test_a_network_that_breaks_or_gives_nonsense(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import mien.weights as weights

    def broken(images: Any) -> Any:
        raise RuntimeError("no kernel image is available")

    for network, told_of in ((lambda images: images * torch.nan, "gives NaN"), (broken, "no kernel image")):
        monkeypatch.setattr(weights, "load", lambda name, device, network=network: network)
        told = doctor(device="cpu", measure=False)
        assert not told.ok
        assert told_of in needed(told)[0]
        assert not told.networks[0].ok


def test_a_home_that_cannot_be_written(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "file" / "home"))
    told = doctor(device="cpu", measure=False)
    assert told.ok, "the main job writes nothing there"
    assert not told.home_writable
    assert any("MIEN_HOME" in problem.hint for problem in told.problems)


def test_an_odd_offline_switch_is_told_and_not_raised(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    assert doctor(device="cpu", measure=False).offline
    monkeypatch.setenv("MIEN_OFFLINE", "perhaps")
    assert any("MIEN_OFFLINE" in problem.what for problem in doctor(device="cpu", measure=False).problems)


def test_extras_by_what_the_package_requires() -> None:
    requirements = [
        "numpy>=1.26",
        "onnx>=1.16; extra == 'onnx'",
        'no-such-package-of-mien>=3; extra == "onnx"',
        'pytest>=8.2; python_version > "3" and extra == "tables"',
        "rubbish ; extra == 'docs'",
    ]
    states = {state.extra: state for state in module._extras(requirements)}
    assert set(states) == {"onnx", "tables"}
    assert not states["onnx"].installed
    assert "no-such-package-of-mien" in states["onnx"].missing
    assert (states["tables"].installed, states["tables"].missing) == (True, "")


def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(errors.OptionError):
        doctor(device="abacus", measure=False)


def test_the_command_and_its_exit_code(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import click

    from mien.cli import build

    build()(["doctor", "--device=cpu", "--no-measure", "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert set(told) == set(Diagnosis.__dataclass_fields__)
    assert all(math.isfinite(network["milliseconds"]) for network in told["networks"])
    tiny.unlink()
    try:
        code = build()(["doctor", "--device=cpu", "--no-measure"], standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    assert code == 1
    assert "is missing" in capsys.readouterr().out
