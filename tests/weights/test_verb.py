"""``mien weights list | info | get | verify``: by Python and by the command line; `test_imported` has the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mien.cli import main
from mien.errors import HashMismatch, LicenceNotAccepted, OfflineError, OptionError, UnknownWeights, WeightsUnavailable
from mien.verbs.weights import get_weights, list_weights, verify_weights, weights_info
from mien.weights import Weights, path, registered, where

from .conftest import FileServer, cut, declared


@pytest.fixture
def two(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Weights, Weights]]:
    """Two downloads, alone in the registry: "free" is permissive, "bound" is not."""
    alone: dict[str, Weights] = {}
    monkeypatch.setattr("mien.weights.declare.WEIGHTS", alone)
    monkeypatch.setattr("mien.weights.WEIGHTS", alone)
    free = declared(server.data, server.url("free.safetensors"), name="free", macs=250_000_000)
    bound = declared(
        server.data, server.url("bound.safetensors"), name="bound", task="detection", licence="CC-BY-NC-4.0"
    )
    with registered(free, bound):
        yield free, bound


class Program:
    """``mien weights …`` as from a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def text(self, *words: str) -> tuple[int, str]:
        """Exit code and standard output."""
        self.monkeypatch.setattr("sys.argv", ["mien", "weights", *words])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), self.capsys.readouterr().out

    def __call__(self, *words: str) -> tuple[int, Any]:
        """Exit code and what was printed as JSON."""
        code, out = self.text(*words, "--json")
        return code, json.loads(out)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    monkeypatch.setenv("COLUMNS", "200")
    return Program(monkeypatch, capsys)


def test_the_list(two: tuple[Weights, Weights], call: Program) -> None:
    bound, free = list_weights()
    assert (free.name, free.task, free.licence, free.permissive) == ("free", "embedding", "MIT", True)
    assert (free.size_mb, free.gmac, free.state) == (0.3, 0.25, "not downloaded")
    assert (bound.name, bound.permissive, bound.gmac) == ("bound", False, None)
    assert list_weights(permissive_only=True) == [free]
    assert list_weights(task="detection") == [bound]
    assert list_weights(here_only=True) == []
    get_weights("free")
    assert [row.state for row in list_weights(here_only=True)] == ["downloaded"]
    with pytest.raises(OptionError, match="did you mean 'detection'"):
        list_weights(task="detect")
    code, told = call("list", "--task", "detection")
    assert (code, told) == (0, [bound.to_dict()])


def test_the_list_as_a_table(two: tuple[Weights, Weights], call: Program) -> None:
    code, out = call.text("list")
    assert code == 0
    for word in ("name", "licence", "free", "CC-BY-NC-4.0", "not downloaded", "0.25"):
        assert word in out


def test_info_tells_everything(two: tuple[Weights, Weights], call: Program) -> None:
    free, _ = two
    told = weights_info("free")
    assert told.weights == free
    assert told.path == where(free)
    assert told.state == "not downloaded"
    code, plain = call("info", "free")
    assert code == 0
    assert plain["sha256"] == free.sha256
    assert plain["input"]["size"] == 112
    assert plain["path"] == str(where(free))
    assert list(plain)[:4] == ["name", "task", "state", "path"]
    with pytest.raises(UnknownWeights):
        weights_info("fee")
    code, out = call.text("info", "free")
    assert "MIT" in out


def test_get_downloads_and_tells_how_far_it_is(two: tuple[Weights, Weights], server: FileServer) -> None:
    told: list[tuple[int, int | None, str]] = []
    report = get_weights("free", progress=lambda done, total, what: told.append((done, total, what)))
    assert report.ok
    (row,) = report.weights
    assert (row.name, row.state, row.path, row.error) == ("free", "downloaded", str(where("free")), "")
    assert Path(row.path).read_bytes() == server.data
    assert told[-1] == (len(server.data), len(server.data), "free, bytes")


def test_get_by_the_command_line_asks_for_the_licence(two: tuple[Weights, Weights], call: Program) -> None:
    code, told = call("get", "bound")
    assert code == 1
    assert told["error"]["code"] == "licence_not_accepted"
    assert "--accept-licence" in told["error"]["hint"]
    code, told = call("get", "bound", "--offline", "--accept-licence")
    assert code == 1
    assert told["error"]["code"] == "offline_error"
    code, told = call("get", "bound")  # accepted by the call before
    assert code == 0
    assert told["ok"] is True
    assert told["weights"][0]["state"] == "downloaded"


def test_get_of_one_raises(two: tuple[Weights, Weights]) -> None:
    with pytest.raises(LicenceNotAccepted):
        get_weights("bound")
    with pytest.raises(OfflineError):
        get_weights("free", offline=True)
    with pytest.raises(UnknownWeights):
        get_weights("nobody")


def test_get_of_all_survives_those_that_cannot_be_had(
    two: tuple[Weights, Weights], tmp_path: Path, call: Program
) -> None:
    with registered(declared(b"x", name="local", file=str(tmp_path / "local.safetensors"))):
        report = get_weights("all")
        assert [(row.name, row.ok) for row in report.weights] == [("bound", False), ("free", True)]
        assert not report.ok
        assert "not permissive" in report.weights[0].error
        code, told = call("get", "all")
        assert code == 1
        assert told["ok"] is False
        assert get_weights("all", accept_licence=True).ok


def test_get_goes_on_by_itself(two: tuple[Weights, Weights], server: FileServer) -> None:
    server.script = [cut(100_000)]
    assert get_weights("free").ok
    assert server.sent == [100_000, 200_000]


def test_verify_reads_the_files_again(two: tuple[Weights, Weights], call: Program) -> None:
    report = verify_weights()
    assert report.ok  # nobody has asked for them
    assert [row.state for row in report.weights] == ["not downloaded"] * 2
    get_weights("free")
    file = path("free")
    assert verify_weights("free").ok
    data = bytearray(file.read_bytes())
    data[7] ^= 1
    file.write_bytes(data)
    for name in ("free", None):
        report = verify_weights(name)
        assert not report.ok
        row = report.weights[-1]
        assert (row.name, row.state) == ("free", "wrong")
        assert "mien weights get free" in row.error
    code, told = call("verify")
    assert code == 1
    assert [row["state"] for row in told["weights"]] == ["not downloaded", "wrong"]
    assert get_weights("free").ok  # replaced
    assert verify_weights().ok
    assert call("verify")[0] == 0


def test_verify_of_one_that_is_not_there(two: tuple[Weights, Weights]) -> None:
    report = verify_weights("free")
    assert not report.ok
    assert report.weights[0].state == "not downloaded"
    assert "mien weights get free" in report.weights[0].error
    with pytest.raises(UnknownWeights):
        verify_weights("nobody")


def test_a_file_of_the_package_that_is_missing_is_wrong_even_among_all(two: tuple[Weights, Weights]) -> None:
    with registered(declared(b"x", name="packed", file="no-such-file.safetensors")):
        report = verify_weights()
        assert not report.ok
        assert [row.ok for row in report.weights] == [True, True, False]
        assert "install mien again" in report.weights[2].error


def test_help_of_the_group(call: Program) -> None:
    code, out = call.text("--help")
    assert code == 0
    for word in ("list", "info", "get", "verify", "import", "remove"):
        assert word in out


def test_another_file_at_the_address_is_refused(two: tuple[Weights, Weights], server: FileServer) -> None:
    free, _ = two
    server.data = bytes(len(server.data))
    with pytest.raises(HashMismatch):
        get_weights("free")
    with pytest.raises(WeightsUnavailable):
        path(free)
