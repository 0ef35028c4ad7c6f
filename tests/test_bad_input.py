"""Bad input of every kind, to every verb that takes pictures: a typed error that says what to do, and no result.

Alone a bad picture raises. Among others it lands in ``failures`` with its code and hint, and the others are analysed.
On the command line the exit code says which it was: 1 and 3.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image as Pillow

from mien.errors import (
    CorruptMedia,
    DtypeError,
    EmptyMedia,
    ImageTooLarge,
    InputError,
    MediaError,
    MediaForbidden,
    MediaNotFound,
    MienError,
    NotAFile,
    OptionError,
    ShapeError,
    UnknownFormat,
    ValueRangeError,
)
from mien.faces import Faces

if TYPE_CHECKING:
    from tests.conftest import Fakes


# --------------------------------------------------------------------------------------------- bad pictures


def jpeg() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Pillow.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def file(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def huge_header() -> bytes:
    """A PNG of a few bytes that says it is 100,000 pixels wide and high."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def closed() -> io.BytesIO:
    used = io.BytesIO(jpeg())
    used.close()
    return used


def read_to_the_end() -> io.BytesIO:
    used = io.BytesIO(jpeg())
    used.read()
    return used


def link_to_itself(folder: Path) -> str:
    path = folder / "loop.jpg"
    path.symlink_to(path)
    return str(path)


def pipe(folder: Path) -> str:
    path = folder / "pipe.jpg"
    os.mkfifo(path)
    return str(path)


def listening(folder: Path) -> str:
    path = folder / "s.jpg"
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # the name of a socket must be short
        try:
            server.bind("s.jpg")
        finally:
            os.chdir(here)
    return str(path)


Make = Callable[[Path], Any]

FILES: dict[str, tuple[Make, type[MienError]]] = {
    "empty file": (lambda at: file(at, "a.jpg", b""), EmptyMedia),
    "truncated JPEG": (lambda at: file(at, "a.jpg", jpeg()[:900]), CorruptMedia),
    "JPEG of a header only": (lambda at: file(at, "a.jpg", jpeg()[:20]), CorruptMedia),
    "huge header": (lambda at: file(at, "a.png", huge_header()), ImageTooLarge),
    "text named .jpg": (lambda at: file(at, "a.jpg", b"Dear Sir or Madam, this is a letter.\n"), UnknownFormat),
    "web page named .jpg": (lambda at: file(at, "a.jpg", b"<!doctype html><title>404</title>"), UnknownFormat),
    "text named .mp4": (lambda at: file(at, "a.mp4", b"Dear Sir or Madam, this is a letter.\n"), UnknownFormat),
    "garbage": (lambda at: file(at, "a.jpg", bytes(range(1, 200))), UnknownFormat),
    "missing": (lambda at: str(at / "none.jpg"), MediaNotFound),
    "missing, as a Path": (lambda at: at / "none.jpg", MediaNotFound),
    "below a file": (lambda at: file(at, "a.jpg", b"x") + "/b.jpg", MediaNotFound),
    "name too long": (lambda at: str(at / ("x" * 5000)), MediaNotFound),
    "address": (lambda at: "https://example.org/a.jpg", MediaNotFound),
    "no name": (lambda at: "", MediaNotFound),
    "link to itself": (link_to_itself, MediaNotFound),
    "link to nothing": (lambda at: (at / "l.jpg").symlink_to(at / "gone") or at / "l.jpg", MediaNotFound),
    "pipe": (pipe, NotAFile),
    "socket": (listening, NotAFile),
}
"""What can stand at a path, and so be given on the command line too."""

OBJECTS: dict[str, tuple[Make, type[MienError]]] = {
    "NUL in the name": (lambda at: "a\0.jpg", MediaNotFound),
    "no bytes": (lambda at: b"", EmptyMedia),
    "bytes of garbage": (lambda at: bytes(range(1, 200)), UnknownFormat),
    "half of the bytes": (lambda at: jpeg()[:900], CorruptMedia),
    "closed file object": (lambda at: closed(), MediaError),
    "file object at its end": (lambda at: read_to_the_end(), EmptyMedia),
    "file object of text": (lambda at: io.StringIO("a"), UnknownFormat),
    "NaN array": (lambda at: np.full((40, 40, 3), np.nan, np.float32), ValueRangeError),
    "infinite array": (lambda at: np.full((40, 40, 3), np.inf, np.float32), ValueRangeError),
    "negative array": (lambda at: np.full((40, 40, 3), -1.0), ValueRangeError),
    "array of 0 to 255 in floats": (lambda at: np.full((40, 40, 3), 128.0), ValueRangeError),
    "two channels": (lambda at: np.zeros((40, 40, 2), np.uint8), ShapeError),
    "channels first": (lambda at: np.zeros((3, 40, 40), np.uint8), ShapeError),
    "one dimension": (lambda at: np.zeros(40, np.uint8), ShapeError),
    "five dimensions": (lambda at: np.zeros((1, 1, 40, 40, 3), np.uint8), ShapeError),
    "no dimension": (lambda at: np.array(3, np.uint8), ShapeError),
    "int64 array": (lambda at: np.zeros((40, 40, 3), np.int64), DtypeError),
    "negative integers": (lambda at: np.full((40, 40, 3), -5, np.int16), DtypeError),
    "boolean array": (lambda at: np.zeros((40, 40, 3), bool), DtypeError),
    "complex array": (lambda at: np.zeros((40, 40, 3), complex), DtypeError),
    "object array": (lambda at: np.full((40, 40, 3), None), DtypeError),
    "zero-size array": (lambda at: np.zeros((0, 40, 3), np.uint8), EmptyMedia),
    "None": (lambda at: None, UnknownFormat),
    "number": (lambda at: 7, UnknownFormat),
}

BAD = FILES | OBJECTS

if not hasattr(os, "mkfifo"):  # pragma: no cover - Windows
    for name in ("pipe", "socket"):
        del BAD[name], FILES[name]


# ---------------------------------------------------------------------------------------------------- verbs


def told(error: MienError, kind: type[MienError]) -> None:
    """The error is of the kind, and says what is wrong and what to do, in words."""
    assert isinstance(error, kind)
    assert isinstance(error, InputError)
    assert len(error.what) > 8
    assert error.hint, f"{error!r} does not say what to do"
    assert error.code == error.to_dict()["code"]


def verb(name: str, fakes: Fakes) -> Callable[..., Any]:
    """The verb with the fakes behind it, on the processor, where every machine gives the same."""
    from mien.verbs.align import align
    from mien.verbs.analyze import analyze
    from mien.verbs.detect import detect
    from mien.verbs.embed import embed
    from mien.verbs.verify import verify

    made, options = {
        "detect": (detect, {"weights": "fake-detector"}),
        "align": (align, fakes.align),
        "embed": (embed, fakes.embed),
        "analyze": (analyze, fakes.analyze),
        "verify": (verify, fakes.embed),
    }[name]
    return lambda *sources: made(*sources, device="cpu", **options)  # type: ignore[operator]


VERBS = ("detect", "align", "embed", "analyze")


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("kind", list(BAD))
def test_alone_it_raises(kind: str, name: str, fakes: Fakes, tmp_path: Path) -> None:
    make, expected = BAD[kind]
    with pytest.raises(MienError) as caught:
        verb(name, fakes)(make(tmp_path))
    told(caught.value, expected)
    assert not fakes.detector.calls  # nothing was looked at


@pytest.mark.parametrize("kind", list(BAD))
def test_verify_raises_whichever_side_it_is_on(kind: str, fakes: Fakes, tmp_path: Path) -> None:
    make, expected = BAD[kind]
    good = fakes.picture((30, 40, 100, 1))
    for side in (0, 1):
        place = tmp_path / str(side)
        place.mkdir()
        pair = [good, good]
        pair[side] = make(place)
        with pytest.raises(MienError) as caught:
            verb("verify", fakes)(*pair)
        told(caught.value, expected)
    assert not fakes.detector.calls


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("folder", lambda at, good: at),
        ("list of one", lambda at, good: [good]),
        ("generator of one", lambda at, good: (each for each in [good])),
        ("stack of arrays", lambda at, good: good[None]),
        ("empty list", lambda at, good: []),
    ],
)
def test_verify_wants_one_picture_and_not_a_collection(
    kind: str, make: Callable[[Path, Any], Any], fakes: Fakes, tmp_path: Path
) -> None:
    good = fakes.picture((30, 40, 100, 1))
    with pytest.raises(OptionError, match="one picture") as caught:
        verb("verify", fakes)(make(tmp_path, good), good)
    assert caught.value.hint


@pytest.mark.parametrize("name", VERBS)
def test_a_folder_without_pictures_raises(name: str, fakes: Fakes, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam")
    for source in (tmp_path, str(tmp_path)):
        with pytest.raises(EmptyMedia) as caught:
            verb(name, fakes)(source)
        told(caught.value, EmptyMedia)
    with pytest.raises(MediaNotFound) as missing:
        verb(name, fakes)(str(tmp_path / "*.jpg"))
    told(missing.value, MediaNotFound)


# ------------------------------------------------------------------------------------------- among others


@pytest.mark.parametrize("kind", list(BAD))
def test_among_others_it_is_reported_and_the_others_are_analysed(kind: str, fakes: Fakes, tmp_path: Path) -> None:
    make, expected = BAD[kind]
    first, last = fakes.picture((30, 40, 100, 1)), fakes.picture((150, 60, 90, 2))
    faces = verb("analyze", fakes)([first, make(tmp_path), last])
    assert isinstance(faces, Faces)
    assert len(faces.images) == 2
    assert faces.image.tolist() == [0, 1]
    assert faces.embeddings.shape == (2, 64)
    [failure] = faces.failures
    assert failure.code == expected("x").code
    assert failure.hint
    assert failure.error
    alone = verb("analyze", fakes)([first, last])
    np.testing.assert_array_equal(alone.embeddings, faces.embeddings)  # the bad one left no trace in the good ones


@pytest.mark.parametrize("name", VERBS)
def test_all_at_once(name: str, fakes: Fakes, tmp_path: Path) -> None:
    sources: list[Any] = []
    for index, (make, _) in enumerate(BAD.values()):
        place = tmp_path / str(index)
        place.mkdir()
        sources += [make(place), fakes.picture((30, 40, 100, index))]
    faces = verb(name, fakes)(sources)
    assert len(faces) == len(faces.images) == len(BAD)
    assert [failure.code for failure in faces.failures] == [kind("x").code for _, kind in BAD.values()]


def test_nothing_but_bad_ones_gives_no_faces_and_all_columns(fakes: Fakes, tmp_path: Path) -> None:
    faces = verb("analyze", fakes)([None, str(tmp_path / "none.jpg")])
    assert len(faces) == 0
    assert [failure.code for failure in faces.failures] == ["unknown_format", "media_not_found"]
    assert faces.embeddings.shape == (0, 64)
    assert faces.quality.shape == (0,)


def test_a_generator_of_one_bad_picture_is_several_pictures(fakes: Fakes) -> None:
    faces = verb("detect", fakes)(each for each in [np.zeros((0, 4, 3), np.uint8)])
    assert [failure.code for failure in faces.failures] == ["empty_media"]


# ------------------------------------------------------------------------------------------------- no rights


@pytest.fixture
def forbidden(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "locked.jpg"
    path.write_bytes(jpeg())
    path.chmod(0)
    yield str(path)
    path.chmod(0o600)


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may read everything")
def test_no_right_to_read(forbidden: str, fakes: Fakes) -> None:
    for name in VERBS:
        with pytest.raises(MediaForbidden) as caught:
            verb(name, fakes)(forbidden)
        told(caught.value, MediaForbidden)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (PermissionError(13, "Permission denied"), MediaForbidden),
        (FileNotFoundError(2, "No such file or directory"), MediaNotFound),  # gone between the look and the reading
        (IsADirectoryError(21, "Is a directory"), NotAFile),
        (OSError(5, "Input/output error"), MediaError),
        (OSError(24, "Too many open files"), MediaError),
    ],
)
@pytest.mark.parametrize("name", [*VERBS, "verify"])
def test_what_the_system_refuses_when_a_file_is_opened(
    name: str, raised: OSError, expected: type[MienError], fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(tmp_path, "a.jpg", jpeg())
    real = open

    def refusing(target: Any, *rest: Any, **more: Any) -> Any:
        if str(target) == path:
            raise raised
        return real(target, *rest, **more)

    monkeypatch.setattr("builtins.open", refusing)
    sources = (path, fakes.picture((30, 40, 100, 1))) if name == "verify" else (path,)
    with pytest.raises(MienError) as caught:
        verb(name, fakes)(*sources)
    told(caught.value, expected)
    assert path in str(caught.value)
    if name == "analyze":
        faces = verb(name, fakes)([path, fakes.picture((30, 40, 100, 1))])
        assert [failure.code for failure in faces.failures] == [expected("x").code]
        assert len(faces) == 1


# --------------------------------------------------------------------------------------------- command line

OPTIONS = {
    "detect": ["--weights", "fake-detector"],
    "analyze": ["--detector", "fake-detector", "--landmarks", "fake-landmarks", "--embedder", "fake-embedder"],
    "verify": ["--detector", "fake-detector", "--landmarks", "fake-landmarks", "--weights", "fake-embedder"],
}


def call(name: str, *words: str) -> Any:
    """The verb as a command; an exception that is no error of mien comes through."""
    import importlib

    import typer
    from typer.testing import CliRunner

    from mien.cli import command

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command(getattr(importlib.import_module(f"mien.verbs.{name}"), name)))
    result = CliRunner().invoke(app, [*words, *OPTIONS[name], "--device", "cpu"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("name", ["detect", "analyze", "verify"])
@pytest.mark.parametrize("kind", list(FILES))
def test_on_the_command_line_alone_it_is_exit_code_1(kind: str, name: str, fakes: Fakes, tmp_path: Path) -> None:
    make, expected = FILES[kind]
    words = [str(make(tmp_path))]
    if name == "verify":
        words.append(file(tmp_path, "good.png", png(fakes.picture((30, 40, 100, 1)))))
    result = call(name, *words, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)["error"]
    assert answer["code"] == expected("x").code
    assert answer["hint"]


@pytest.mark.parametrize("name", ["detect", "analyze"])
def test_on_the_command_line_among_others_it_is_exit_code_3(name: str, fakes: Fakes, tmp_path: Path) -> None:
    good = file(tmp_path, "good.png", png(fakes.picture((30, 40, 100, 1))))
    bad = file(tmp_path, "bad.jpg", jpeg()[:900])
    for words in ([good, bad], [str(tmp_path)]):
        result = call(name, *words, "--json")
        assert result.exit_code == 3
        answer = json.loads(result.stdout)
        assert len(answer["faces"]) == 1
        assert [(each["source"], each["code"]) for each in answer["failures"]] == [(bad, "corrupt_media")]
        for_people = call(name, *words)
        assert for_people.exit_code == 3
        assert "could not be read" in for_people.output
    assert call(name, good, "--json").exit_code == 0


def png(image: Any) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
