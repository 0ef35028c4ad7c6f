"""Where files lie, that they are the declared ones, licences, and `get`: explicit, alone, and never offline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mien.errors import (
    DownloadError,
    HashMismatch,
    LicenceNotAccepted,
    OfflineError,
    OptionError,
    UnknownWeights,
    WeightsError,
    WeightsUnavailable,
)
from mien.weights import accepted, get, home, path, registered, state, verify, where
from mien.weights import store as module

from .conftest import FileServer, Request, cut, declared

# ------------------------------------------------------------------------------------------- places


def test_home_is_what_mien_home_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "there"))
    assert home() == tmp_path / "there"
    monkeypatch.setenv("MIEN_HOME", "~/faces")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / "faces"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIEN_HOME", "near")
    assert home() == tmp_path / "near"


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {}, "/u/.local/share/mien"),
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/mien"),
        ("linux", {"XDG_DATA_HOME": "relative"}, "/u/.local/share/mien"),
        ("linux", {"MIEN_HOME": "  ", "XDG_DATA_HOME": ""}, "/u/.local/share/mien"),
        ("darwin", {"XDG_DATA_HOME": "/data"}, "/u/Library/Application Support/mien"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/mien"),
        ("win32", {}, "/u/AppData/Local/mien"),
    ],
)
def test_home_of_each_system(
    monkeypatch: pytest.MonkeyPatch, system: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("MIEN_HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/u", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module.sys, "platform", system)
    assert home() == Path(expected)


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HOME", "~nobody-of-this-name/faces")
    with pytest.raises(OptionError, match="MIEN_HOME"):
        home()


def test_places_of_the_three_kinds_of_files(tmp_path: Path, home: Path) -> None:
    download = declared(b"data", "https://example.org/a/net.PTH?x=1")
    assert where(download) == home / "weights" / f"trial-{download.sha256[:12]}.pth"
    local = declared(b"data", file=str(tmp_path / "own.safetensors"))
    assert where(local) == tmp_path / "own.safetensors"
    bundled = declared(b"data", file="trial.safetensors")
    assert where(bundled) == Path(module.__file__).parent / "files" / "trial.safetensors"


# ------------------------------------------------------------------------------------------- verification


def test_a_file_is_hashed_once_while_it_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"data")
    weights = declared(b"data", file=str(file))
    hashed = 0
    digest = module.hashlib.file_digest

    def counted(*arguments: object) -> object:
        nonlocal hashed
        hashed += 1
        return digest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module.hashlib, "file_digest", counted)
    for _ in range(3):
        assert path(weights) == file
    assert hashed == 1
    assert verify(weights) == file
    assert hashed == 2  # asked to look again
    os.utime(file)
    path(weights)
    assert hashed == 3


def test_an_edit_that_sets_the_time_back_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"data")
    weights = declared(b"data", file=str(file))
    path(weights)
    before = file.stat()
    time.sleep(0.02)
    file.write_bytes(b"date")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(HashMismatch) as caught:
        path(weights)
    assert caught.value.expected == weights.sha256
    assert caught.value.got != weights.sha256


def test_what_is_not_there_names_the_command(home: Path) -> None:
    weights = declared(b"data", "https://example.org/net.safetensors")
    with registered(weights), pytest.raises(WeightsUnavailable, match="mien weights get trial") as caught:
        path("trial")
    assert str(home) in str(caught.value)
    assert not home.exists()  # asking leaves no trace


def test_other_files_that_are_missing_say_what_to_do(tmp_path: Path) -> None:
    for weights, hint in (
        (declared(b"data", file="none.safetensors"), "install mien again"),
        (declared(b"data", file=str(tmp_path / "none.safetensors")), "put it there"),
    ):
        assert state(weights) == "missing"
        for function in (path, verify, get):
            with pytest.raises(WeightsUnavailable, match=hint):
                function(weights)


def test_another_size_is_told_without_reading(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"data and more")
    with pytest.raises(HashMismatch) as caught:
        path(declared(b"data", file=str(file)))
    assert (caught.value.got, caught.value.expected) == ("13 bytes", "4 bytes")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_file_without_rights_is_told(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"data")
    file.chmod(0)
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        path(declared(b"data", file=str(file)))


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        path(declared(b"data", file=str(_made(tmp_path / "own.safetensors"))))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_an_unknown_name_names_the_nearest() -> None:
    with registered(declared(b"data", file="x.safetensors")):
        for function in (path, verify, get, where, state):
            with pytest.raises(UnknownWeights, match="did you mean 'trial'"):
                function("trail")


# ------------------------------------------------------------------------------------------- licences


def test_a_licence_that_is_not_permissive_has_to_be_accepted_once(server: FileServer, home: Path) -> None:
    terms = {"licence": "CC-BY-NC-4.0", "licence_url": "https://example.org/licence"}
    weights = declared(server.data, server.url(), **terms)
    assert not accepted(weights)
    with pytest.raises(LicenceNotAccepted) as caught:
        get(weights)
    assert "CC-BY-NC-4.0" in str(caught.value)
    assert "https://example.org/licence" in str(caught.value)
    assert "mien weights get trial --accept-licence" in str(caught.value)
    assert not server.requests
    assert not home.exists()

    assert get(weights, accept_licence=True).read_bytes() == server.data
    assert accepted(weights)
    noted = json.loads((home / "licences.json").read_text())
    assert noted["trial"].keys() == {"licence", "licence_url", "accepted"}
    where(weights).unlink()
    get(weights)  # remembered
    assert len(server.requests) == 2


def test_another_licence_of_the_same_weights_is_accepted_anew(server: FileServer) -> None:
    module.accept(declared(server.data, server.url(), licence="CC-BY-NC-4.0"))
    module.accept(declared(server.data, server.url(), licence="CC-BY-NC-4.0", name="other"))
    assert accepted(declared(server.data, server.url(), licence="CC-BY-NC-4.0"))
    changed = declared(server.data, server.url(), licence="CC-BY-NC-ND-4.0")
    with pytest.raises(LicenceNotAccepted):
        get(changed)
    module.accept(changed)
    assert accepted(changed)
    assert accepted(declared(server.data, server.url(), licence="CC-BY-NC-4.0", name="other"))


def test_permissive_licences_are_neither_asked_for_nor_noted(server: FileServer, home: Path) -> None:
    get(declared(server.data, server.url()), accept_licence=True)
    assert not (home / "licences.json").exists()


def test_a_damaged_list_of_licences_is_told(server: FileServer, home: Path) -> None:
    home.mkdir()
    for text in ("{", "[]", '{"trial": 7}'):
        (home / "licences.json").write_text(text)
        with pytest.raises(WeightsError, match="accepted licences cannot be read"):
            get(declared(server.data, server.url(), licence="research only"), accept_licence=True)
    assert not server.requests


# ------------------------------------------------------------------------------------------- get


def test_get_downloads_once_and_path_then_finds_it(server: FileServer, home: Path) -> None:
    weights = declared(server.data, server.url())
    assert state(weights) == "not downloaded"
    told: list[tuple[int, int]] = []
    file = get(weights, progress=lambda done, total: told.append((done, total)))
    assert file == path(weights) == where(weights)
    assert file.parent == home / "weights"
    assert file.read_bytes() == server.data
    assert state(weights) == "downloaded"
    assert told[-1] == (len(server.data), len(server.data))
    get(weights)
    assert len(server.requests) == 1


def test_get_replaces_a_file_that_is_wrong(server: FileServer) -> None:
    weights = declared(server.data, server.url())
    file = get(weights)
    file.write_bytes(bytes(len(server.data)))
    with pytest.raises(HashMismatch, match="mien weights get trial"):
        path(weights)
    assert get(weights).read_bytes() == server.data


def test_get_of_another_file_fails_and_leaves_nothing(server: FileServer) -> None:
    weights = declared(b"what was declared", server.url())
    server.data = b"something else 17"
    with pytest.raises(HashMismatch):
        get(weights, pause=0)
    assert state(weights) == "not downloaded"


def test_get_goes_on_after_a_break(server: FileServer) -> None:
    weights = declared(server.data, server.url())
    server.script = [cut(100_000), cut(0)]
    with pytest.raises(DownloadError):
        get(weights, pause=0, attempts=2)
    get(weights, pause=0)
    assert server.sent == [100_000, 0, 200_000]


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_offline_by_the_environment(server: FileServer, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    weights = declared(server.data, server.url())
    monkeypatch.setenv("MIEN_OFFLINE", value)
    with pytest.raises(OfflineError) as caught:
        get(weights)
    assert str(where(weights)) in str(caught.value)
    assert not server.requests


def test_offline_by_the_caller_gives_what_is_there(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = declared(server.data, server.url())
    with pytest.raises(OfflineError):
        get(weights, offline=True)
    for value in ("", "0", "no", "False", "off"):
        monkeypatch.setenv("MIEN_OFFLINE", value)
        get(weights)
    assert get(weights, offline=True).read_bytes() == server.data
    assert len(server.requests) == 1


def test_offline_must_be_yes_or_no(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_OFFLINE", "perhaps")
    with pytest.raises(OptionError, match="MIEN_OFFLINE"):
        get(declared(server.data, server.url()))
    assert not server.requests


def test_a_home_that_is_a_file_is_told(server: FileServer, home: Path) -> None:
    home.write_text("in the way")
    with pytest.raises(WeightsError, match="MIEN_HOME") as caught:
        get(declared(server.data, server.url()))
    assert str(home) in str(caught.value.got)


# ------------------------------------------------------------------------------------------- processes

GET = """
import sys
from mien.weights import get, InputContract, Weights
url, sha256, size = sys.argv[1:]
weights = Weights(
    name="trial", task="embedding", licence="MIT", source="tests", build="tests:none", input=InputContract(size=112),
    sha256=sha256, size=int(size), urls=(url,),
)
print(get(weights, pause=0))
"""


def another_process(server: FileServer) -> subprocess.Popen[str]:
    weights = declared(server.data, server.url())
    command = [sys.executable, "-c", GET, server.url(), weights.sha256, str(weights.size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def slow(begun: threading.Event, go_on: threading.Event) -> object:
    """Sends a third, and the rest when it is told to."""

    def behaviour(request: Request, data: bytes) -> None:
        request.answer(200, data[:100_000], Content_Length=len(data), ETag='"one"')
        begun.set()
        go_on.wait(30)
        request.send(data[100_000:])

    return behaviour


def test_of_processes_and_threads_that_want_the_same_file_one_downloads(server: FileServer) -> None:
    begun, go_on = threading.Event(), threading.Event()
    server.script = [slow(begun, go_on)]  # type: ignore[list-item]
    processes = [another_process(server), another_process(server)]
    assert begun.wait(60)
    files: list[Path] = []
    threads = [threading.Thread(target=lambda: files.append(get(declared(server.data, server.url())))) for _ in "ab"]
    for thread in threads:
        thread.start()
    time.sleep(1.0)  # time for the other process to start, and to download too if nothing held it back
    assert len(server.requests) == 1
    assert not files
    go_on.set()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert Path(out.strip()).read_bytes() == server.data
    for thread in threads:
        thread.join(30)
    assert len(files) == 2
    assert server.sent == [len(server.data)]


def test_a_killed_process_leaves_bytes_to_go_on_with_and_no_lock(server: FileServer) -> None:
    begun, go_on = threading.Event(), threading.Event()
    server.script = [slow(begun, go_on)]  # type: ignore[list-item]
    process = another_process(server)
    assert begun.wait(60)
    weights = declared(server.data, server.url())
    part = where(weights).with_name(where(weights).name + ".part")
    deadline = time.monotonic() + 30
    while (not part.exists() or part.stat().st_size == 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    process.communicate(timeout=30)
    kept = part.stat().st_size
    assert state(weights) == "not downloaded"
    go_on.set()
    assert get(weights).read_bytes() == server.data
    assert server.requests[1]["range"] == f"bytes={kept}-"
