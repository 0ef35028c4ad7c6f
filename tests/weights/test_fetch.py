"""Downloads from a server that cuts off, lies, sends other bytes, and worse: the right file, or none."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from mien.errors import DownloadError, HashMismatch
from mien.weights import fetch as module
from mien.weights.fetch import fetch

from .conftest import FileServer, Request, cut, honest


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file.safetensors"


def run(server: FileServer, target: Path, *urls: str, data: bytes | None = None, **options: Any) -> None:
    data = server.data if data is None else data
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pause": 0.0, "timeout": 5.0}
    fetch(urls or (server.url(),), target, **{**facts, **options})


def leftovers(target: Path) -> set[str]:
    return {file.name for file in target.parent.iterdir()} - {target.name}


def test_brings_the_file_in_one_request(server: FileServer, target: Path) -> None:
    told: list[tuple[int, int]] = []
    run(server, target, progress=lambda done, total: told.append((done, total)))
    assert target.read_bytes() == server.data
    assert len(server.requests) == 1
    assert not leftovers(target)
    assert told == sorted(told)
    assert told[-1] == (len(server.data), len(server.data))
    assert server.requests[0]["headers"]["Accept-Encoding"] == "identity"
    assert server.requests[0]["headers"]["User-Agent"].startswith("mien/")


def test_goes_on_where_the_server_broke_off_and_asks_for_no_byte_twice(server: FileServer, target: Path) -> None:
    server.script = [cut(100_000), cut(50_000)]
    run(server, target)
    assert target.read_bytes() == server.data
    assert server.sent == [100_000, 50_000, len(server.data) - 150_000]
    assert [request["range"] for request in server.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert [request["if-range"] for request in server.requests] == [None, '"one"', '"one"']


def test_a_later_call_goes_on_with_what_an_earlier_one_left(server: FileServer, target: Path) -> None:
    server.script = [cut(120_000), *[cut(0)] * 3]
    with pytest.raises(DownloadError, match="broke off after 120000 of 300000") as caught:
        run(server, target)
    assert "120000 of 300000 bytes" in str(caught.value.got)
    assert "same command again" in str(caught.value.hint)
    assert not target.exists()
    assert leftovers(target) == {"file.safetensors.part", "file.safetensors.part.json"}
    server.requests.clear()
    run(server, target)
    assert server.sent == [180_000]
    assert target.read_bytes() == server.data
    assert not leftovers(target)


def test_starts_anew_when_the_file_changed_at_the_server(server: FileServer, target: Path) -> None:
    old, server.data = server.data, bytes(len(server.data))
    server.script = [cut(100_000), *[cut(0)] * 3]
    with pytest.raises(DownloadError):
        run(server, target, data=old)
    server.data, server.etag = old, '"two"'
    run(server, target)
    assert target.read_bytes() == old
    assert server.sent[-1] == len(old)  # If-Range did not hold, so the whole file came


def test_a_weak_etag_promises_nothing_and_is_not_used(server: FileServer, target: Path) -> None:
    server.etag = 'W/"one"'
    server.script = [cut(10)]
    run(server, target)
    assert server.requests[1]["range"] == "bytes=10-"
    assert server.requests[1]["if-range"] is None


def test_wrong_bytes_kept_from_before_cost_one_clean_start(server: FileServer, target: Path) -> None:
    target.with_name(target.name + ".part").write_bytes(b"x" * 100_000)
    run(server, target)
    assert [request["range"] for request in server.requests] == ["bytes=100000-", None]
    assert target.read_bytes() == server.data


def test_a_whole_part_needs_no_network(server: FileServer, target: Path) -> None:
    target.with_name(target.name + ".part").write_bytes(server.data)
    run(server, target, "http://127.0.0.1:9/none")
    assert target.read_bytes() == server.data
    assert not server.requests


def test_a_part_larger_than_the_file_is_dropped(server: FileServer, target: Path) -> None:
    target.with_name(target.name + ".part").write_bytes(server.data + b"more")
    run(server, target)
    assert server.requests[0]["range"] is None
    assert target.read_bytes() == server.data


def test_a_damaged_note_beside_the_part_does_no_harm(server: FileServer, target: Path) -> None:
    for text in ("{", "[1]", "7", "\udcff"):
        target.with_name(target.name + ".part").write_bytes(server.data[:1000])
        target.with_name(target.name + ".part.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        run(server, target)
        assert target.read_bytes() == server.data
        assert server.requests[-1]["range"] == "bytes=1000-"


def test_other_bytes_are_refused_after_one_download(server: FileServer, target: Path) -> None:
    other = bytes(len(server.data))
    wanted, server.data = server.data, other
    with pytest.raises(HashMismatch) as caught:
        run(server, target, data=wanted)
    assert caught.value.got == hashlib.sha256(other).hexdigest()
    assert caught.value.expected == hashlib.sha256(wanted).hexdigest()
    assert len(server.requests) == 1
    assert not target.exists()
    assert not leftovers(target)


def test_an_existing_file_stays_until_the_right_one_is_there(server: FileServer, target: Path) -> None:
    target.write_bytes(b"the former one")
    wanted, server.data = server.data, bytes(len(server.data))
    with pytest.raises(HashMismatch):
        run(server, target, data=wanted)
    assert target.read_bytes() == b"the former one"
    server.data = wanted
    run(server, target)
    assert target.read_bytes() == wanted


@pytest.mark.parametrize("said", [299_999, 300_001, 10**15])
def test_a_wrong_length_is_believed_only_to_give_up(server: FileServer, target: Path, said: int) -> None:
    server.usual = lambda request, data: request.answer(200, data[:10], Content_Length=said)
    with pytest.raises(DownloadError, match=f"says it has {said} bytes, and 300000 are declared"):
        run(server, target)
    assert len(server.requests) == 1


def test_without_a_length_the_declared_size_ends_the_download(server: FileServer, target: Path) -> None:
    let_go = threading.Event()

    def endless(request: Request, data: bytes) -> None:
        request.answer(200, data + b"and on", Content_Length=None)
        let_go.wait(10)  # neither closes nor goes on

    server.usual = endless
    run(server, target, timeout=1.0, attempts=1)  # waiting for more would be the one failure that is allowed
    let_go.set()
    assert target.read_bytes() == server.data


def test_endless_bytes_that_are_not_the_file_are_cut_at_the_declared_size(server: FileServer, target: Path) -> None:
    def endless(request: Request, data: bytes) -> None:
        request.answer(200, Content_Length=None)
        try:
            while True:
                request.send(b"x" * 65536)
        except OSError:  # the other side has hung up
            return

    server.usual = endless
    with pytest.raises(HashMismatch):
        run(server, target)
    assert not leftovers(target)


def test_chunks_and_a_break_among_them(server: FileServer, target: Path) -> None:
    def chunked(request: Request, data: bytes) -> None:
        request.answer(200, Content_Length=None, Transfer_Encoding="chunked", ETag='"one"')
        request.send(b"%x\r\n%s\r\n" % (1000, data[:1000]))
        request.send(b"ffff\r\nshort")

    server.script = [chunked]
    run(server, target)
    assert target.read_bytes() == server.data
    assert server.requests[1]["range"] in ("bytes=1000-", "bytes=1005-")


def test_a_server_that_ignores_ranges_starts_anew_and_still_ends_well(server: FileServer, target: Path) -> None:
    server.script = [cut(100_000)]
    server.usual = lambda request, data: request.answer(200, data)
    run(server, target)
    assert target.read_bytes() == server.data
    assert server.sent == [100_000, 300_000]


def test_a_server_that_ignores_ranges_and_always_breaks_off_is_given_up(server: FileServer, target: Path) -> None:
    server.usual = lambda request, data: request.answer(200, data[:200_000], Content_Length=len(data))
    with pytest.raises(DownloadError):
        run(server, target, attempts=3)
    assert len(server.requests) == 3


@pytest.mark.parametrize("said", ["bytes 5-299999/300000", "bytes 0-9/300000", "nonsense", ""])
def test_another_part_than_was_asked_for_is_not_appended(server: FileServer, target: Path, said: str) -> None:
    server.script = [cut(100_000), lambda request, data: request.answer(206, data[5:], Content_Range=said)]
    run(server, target)
    assert target.read_bytes() == server.data


def test_416_drops_what_was_kept(server: FileServer, target: Path) -> None:
    target.with_name(target.name + ".part").write_bytes(b"x" * 299_000)
    server.script = [lambda request, data: request.answer(416, Content_Range="bytes */1000")]
    run(server, target)
    assert target.read_bytes() == server.data
    assert server.requests[1]["range"] is None


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_passing_troubles_are_tried_again(server: FileServer, target: Path, status: int) -> None:
    server.script = [lambda request, data: request.answer(status)] * 2
    run(server, target)
    assert target.read_bytes() == server.data


@pytest.mark.parametrize("status", [204, 400, 401, 403, 404, 410, 451])
def test_lasting_troubles_are_not(server: FileServer, target: Path, status: int) -> None:
    server.usual = lambda request, data: request.answer(status)
    with pytest.raises(DownloadError, match=f"HTTP {status}"):
        run(server, target)
    assert len(server.requests) == 1


def test_the_pause_that_a_server_asks_for_is_kept(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []
    monkeypatch.setattr(module.time, "sleep", paused.append)
    for after in ("7", "86400", "soon"):
        server.script.append(lambda request, data, after=after: request.answer(503, Retry_After=after))
    run(server, target)
    assert paused[0] == 7
    assert paused[1] == module.LONGEST_PAUSE  # not a day
    assert paused[2] == 0  # not understood: the usual pause


def test_a_date_is_a_pause_too() -> None:
    assert module._retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert module._retry_after("Wed, 21 Oct 2099 07:28:00 GMT") > 1e8
    assert module._retry_after("9" * 400) == float("inf")


def test_pauses_grow_and_end_at_half_a_minute(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []
    monkeypatch.setattr(module.time, "sleep", paused.append)
    server.usual = lambda request, data: request.answer(500)
    with pytest.raises(DownloadError):
        run(server, target, pause=1.0, attempts=9)
    assert len(paused) == 8
    for k, pause in enumerate(paused):
        assert 0.75 * min(30, 2**k) <= pause <= 1.25 * 30


def test_a_server_that_falls_silent_is_given_up_and_continued(server: FileServer, target: Path) -> None:
    let_go = threading.Event()

    def silent(request: Request, data: bytes) -> None:
        cut(1000)(request, data)
        let_go.wait(10)

    server.script = [silent]
    run(server, target, timeout=0.5)
    let_go.set()
    assert server.requests[1]["range"] == "bytes=1000-"
    assert target.read_bytes() == server.data


def test_headway_keeps_a_long_download_going(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADWAY", 20_000)
    server.usual = cut(20_000)  # fifteen requests, with two attempts allowed in a row
    run(server, target, attempts=2)
    assert target.read_bytes() == server.data
    assert server.sent == [20_000] * 15


def test_the_next_mirror_goes_on_with_the_bytes_of_the_first(server: FileServer, target: Path) -> None:
    server.script = [cut(100_000), lambda request, data: request.answer(404)]
    run(server, target, server.url("first"), server.url("second"))
    assert [(r["path"], r["range"]) for r in server.requests] == [
        ("/first", None), ("/first", "bytes=100000-"), ("/second", "bytes=100000-"),
    ]  # fmt: skip
    assert server.requests[2]["if-range"] is None  # an ETag is one server's word
    assert target.read_bytes() == server.data


def test_a_mirror_with_another_file_does_not_spoil_the_next(server: FileServer, target: Path) -> None:
    server.script = [lambda request, data: request.answer(200, bytes(len(data)))]
    run(server, target, server.url("wrong"), server.url("right"))
    assert target.read_bytes() == server.data
    assert len(server.requests) == 2


def test_all_reasons_are_told(server: FileServer, target: Path) -> None:
    server.usual = lambda request, data: request.answer(404 if request.path == "/a" else 403)
    with pytest.raises(DownloadError, match=r"/a: HTTP 404.*/b: HTTP 403") as caught:
        run(server, target, server.url("a"), server.url("b"))
    assert caught.value.hint == "check the network"


def test_redirects_are_followed_with_the_range(server: FileServer, target: Path) -> None:
    server.script = [cut(1000), lambda request, data: request.answer(302, Location=server.url("moved"))]
    run(server, target)
    assert server.requests[2]["path"] == "/moved"
    assert server.requests[2]["range"] == "bytes=1000-"
    assert target.read_bytes() == server.data


def test_a_redirect_in_circles_ends(server: FileServer, target: Path) -> None:
    server.usual = lambda request, data: request.answer(302, Location=server.url("again"))
    with pytest.raises(DownloadError):
        run(server, target)
    assert len(server.requests) < 50


def test_a_redirect_to_a_file_of_this_machine_is_refused(server: FileServer, target: Path, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(server.data)
    for scheme in ("file", "ftp"):
        server.script = [lambda request, data, scheme=scheme: request.answer(302, Location=f"{scheme}://{local}")]
        with pytest.raises(DownloadError):
            run(server, target)
        assert not target.exists()


def test_a_redirect_from_https_to_http_is_refused() -> None:
    request = urllib.request.Request("https://example.org/file")
    redirects = module._Redirects()
    with pytest.raises(module._Useless, match="redirects from https to http"):
        redirects.redirect_request(request, None, 302, "Found", {}, "http://example.org/file")  # type: ignore[arg-type]
    there = redirects.redirect_request(request, None, 302, "Found", {}, "https://example.net/file")  # type: ignore[arg-type]
    assert there is not None
    assert there.full_url == "https://example.net/file"


def test_nobody_at_the_address(server: FileServer, target: Path) -> None:
    with pytest.raises(DownloadError, match="refused"):
        run(server, target, "http://127.0.0.1:1/none", attempts=2)


def test_no_room_is_told_before_the_download(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(DownloadError, match="is full") as caught:
        run(server, target)
    assert "0.3 MB more" in str(caught.value.expected)
    assert not server.requests


def test_no_folder_to_write_to(server: FileServer, target: Path) -> None:
    with pytest.raises(DownloadError, match="could not be written"):
        run(server, target.parent / "none" / "file.safetensors")
    target.with_name(target.name + ".part").mkdir()
    with pytest.raises(DownloadError, match="could not be written"):
        run(server, target)


def test_an_interrupted_download_keeps_its_bytes(server: FileServer, target: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done >= 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(server, target, progress=stop)
    kept = target.with_name(target.name + ".part").stat().st_size
    assert kept >= 100_000
    server.requests.clear()
    run(server, target)
    assert server.sent == [len(server.data) - kept]


def test_the_note_holds_one_address(server: FileServer, target: Path) -> None:
    server.script = [cut(10), *[cut(0)] * 3]
    with pytest.raises(DownloadError):
        run(server, target)
    note = json.loads(target.with_name(target.name + ".part.json").read_text())
    assert note == {server.url(): '"one"'}


def test_the_server_of_these_tests_is_honest_when_not_told_otherwise(server: FileServer) -> None:
    request = urllib.request.Request(server.url(), headers={"Range": "bytes=299990-"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 206
        assert answer.read() == server.data[299_990:]
    assert server.usual is honest
