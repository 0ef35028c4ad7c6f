"""Many pictures: folders, patterns and lists in order; broken ones in their place; no more memory than promised."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.errors import EmptyMedia, MediaForbidden, MediaNotFound, OptionError
from mien.faces import Failure, ImageInfo
from mien.media import Photo, expand_sources, folders, load_image, read_images, save_image, write_video


def flat(value: int, *, height: int = 6, width: int = 8) -> Any:
    return np.full((height, width, 3), value, np.uint8)


def names(outcomes: list[Any], root: Path) -> list[str]:
    return [os.path.relpath(path, root).replace(os.sep, "/") for path in outcomes]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """b.png, a.PNG, notes.txt, .hidden.png, ._a.png, sub/c.png, sub/deep/d.png, .git/e.png"""
    for name in ("b.png", "a.PNG", ".hidden.png", "sub/c.png", "sub/deep/d.png", ".git/e.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, flat(9))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._a.png").write_bytes(b"macOS was here")
    return tmp_path


def test_a_folder_gives_its_pictures_sorted_and_not_what_is_hidden(tree: Path) -> None:
    assert names(expand_sources(tree), tree) == ["a.PNG", "b.png"]
    assert names(expand_sources(str(tree), recursive=True), tree) == ["a.PNG", "b.png", "sub/c.png", "sub/deep/d.png"]


def test_patterns(tree: Path) -> None:
    assert names(expand_sources(f"{tree}/*.png"), tree) == ["b.png"]
    assert names(expand_sources(f"{tree}/**/*.png"), tree) == ["b.png", "sub/c.png", "sub/deep/d.png"]
    assert names(expand_sources(f"{tree}/s*"), tree) == ["sub/c.png"]  # a folder that matches gives its pictures
    assert names(expand_sources(f"{tree}/s*", recursive=True), tree) == ["sub/c.png", "sub/deep/d.png"]
    assert names(expand_sources(f"{tree}/**"), tree) == ["a.PNG", "b.png", "notes.txt", "sub/c.png", "sub/deep/d.png"]
    with pytest.raises(MediaNotFound, match="pattern"):
        expand_sources(f"{tree}/*.jpg")
    with pytest.raises(MediaNotFound):
        expand_sources(f"{tree}/*\0.jpg")


def test_a_name_may_hold_what_patterns_are_made_of(tmp_path: Path) -> None:
    odd = save_image(tmp_path / "a[1]*.png", flat(3))
    assert expand_sources(str(odd)) == [odd]
    folder = tmp_path / "[2020]"
    folder.mkdir()
    inner = save_image(folder / "x.png", flat(4))
    assert expand_sources(str(folder)) == [inner]
    assert [each.info.source for each in read_images([str(odd), inner]) if isinstance(each, Photo)] == [
        str(odd),
        str(inner),
    ]


def test_links_are_followed_once_and_loops_end(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save_image(elsewhere / "z.png", flat(5))
    try:
        (tree / "sub" / "loop").symlink_to(tree, target_is_directory=True)
        (tree / "sub" / "self").symlink_to(tree / "sub", target_is_directory=True)
        (tree / "linked").symlink_to(elsewhere, target_is_directory=True)
        (tree / "again").symlink_to(elsewhere, target_is_directory=True)
        (tree / "gone.png").symlink_to(tree / "nowhere.png")
    except OSError:
        pytest.skip("links cannot be made here")
    found = names([source for source, _ in _read(tree, recursive=True)], tree)
    assert found == ["a.PNG", "b.png", "gone.png", "again/z.png", "sub/c.png", "sub/deep/d.png"]
    (tree / "gone.png").unlink()
    assert names(expand_sources(f"{tree}/**/*.png"), tree) == ["again/z.png", "b.png", "sub/c.png", "sub/deep/d.png"]
    assert names(expand_sources(f"{tree}/s*/**"), tree)[:2] == ["sub/c.png", "sub/deep/d.png"]


def _read(source: Any, **options: Any) -> list[tuple[str, Photo | Failure]]:
    outcomes = list(read_images(source, **options))
    return [(each.info.source if isinstance(each, Photo) else each.source, each) for each in outcomes]


def test_an_empty_folder_says_where_pictures_may_be(tree: Path) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(EmptyMedia) as caught:
        expand_sources(tree / "empty")
    assert "another folder" in str(caught.value.hint)
    (tree / "outer" / "inner").mkdir(parents=True)
    with pytest.raises(EmptyMedia) as caught:
        expand_sources(tree / "outer")
    assert "recursive=True" in str(caught.value.hint)


def test_a_folder_without_rights_is_reported(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def refused(path: Any = ".") -> Any:
        if os.fspath(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)
    outcomes = _read(tree, recursive=True)
    assert names([source for source, _ in outcomes], tree) == ["a.PNG", "b.png", "sub"]
    failure = outcomes[-1][1]
    assert isinstance(failure, Failure)
    assert failure.code == "media_forbidden"
    with pytest.raises(MediaForbidden):
        expand_sources(tree, recursive=True)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_broken_files_come_as_failures_in_their_places(tmp_path: Path, workers: int) -> None:
    good = save_image(tmp_path / "a.png", flat(1)).read_bytes()
    (tmp_path / "b.png").write_bytes(good[:40])
    (tmp_path / "c.jpg").write_text("I am a letter")
    (tmp_path / "d.png").write_bytes(b"")
    save_image(tmp_path / "e.png", flat(2, height=3))
    outcomes = [each for _, each in _read(tmp_path, workers=workers)]
    kinds = [each.code if isinstance(each, Failure) else int(each.image[0, 0, 0]) for each in outcomes]
    assert kinds == [1, "corrupt_media", "unknown_format", "empty_media", 2]
    for each in outcomes:
        if isinstance(each, Failure):
            assert each.hint
            assert each.source in each.error
    last = outcomes[-1]
    assert isinstance(last, Photo)
    assert last.info == ImageInfo(str(tmp_path / "e.png"), 8, 3)


def test_sources_of_every_kind_in_one_list(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", flat(7))
    write_video(tmp_path / "v.mp4", [flat(v, height=16, width=16) for v in (10, 200)], 5)
    sources = [path, path.read_bytes(), flat(3), np.stack([flat(4), flat(5)]), tmp_path / "v.mp4", None, "no.png"]
    outcomes = _read(sources)
    assert [source for source, _ in outcomes] == [
        str(path), "bytes[1]", "array[2]", "array[3][0]", "array[3][1]",
        str(tmp_path / "v.mp4"), str(tmp_path / "v.mp4"), "NoneType[5]", "no.png",
    ]  # fmt: skip
    assert [isinstance(each, Failure) for _, each in outcomes] == [False] * 7 + [True] * 2
    times = [each.info.time_s for _, each in outcomes if isinstance(each, Photo)]
    assert times == [None] * 5 + [0.0, 0.2]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_order_is_kept_however_long_each_takes(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(source: Any, **options: Any) -> Any:
        time.sleep(0.02 if source[0, 0, 0] % 3 == 0 else 0)
        return load_image(source, **options)

    monkeypatch.setattr(folders, "load_image", slow)
    outcomes = read_images((flat(value) for value in range(20)), workers=workers)
    assert [int(each.image[0, 0, 0]) for each in outcomes if isinstance(each, Photo)] == list(range(20))


def test_a_generator_is_read_only_as_far_as_needed() -> None:
    taken = []

    def endless() -> Iterator[Any]:
        value = 0
        while True:
            taken.append(value)
            yield flat(value % 256)
            value += 1

    stream = read_images(endless(), workers=2)
    for _ in range(3):
        next(stream)
    assert len(taken) <= 3 + 2 * 2
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [1, 3])
def test_read_ahead_is_bounded(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded and not yet taken: never more than READ_AHEAD bytes and one picture for each worker."""
    one = flat(0).nbytes
    monkeypatch.setattr(folders, "READ_AHEAD", one * 3 // 2)
    lock, made, most = threading.Lock(), [0], [0]
    taken = 0

    def counted(source: Any, **options: Any) -> Any:
        with lock:
            made[0] += 1
            most[0] = max(most[0], made[0] - taken)
        return load_image(source, **options)

    monkeypatch.setattr(folders, "load_image", counted)
    for _ in read_images([flat(v) for v in range(40)], workers=workers):
        taken += 1
        time.sleep(0.005)  # a slow reader: the threads have all the time to run ahead
    assert taken == 40
    # At the moment of a decode its own picture counts too, and the one the reader is about to be given.
    assert most[0] <= 2 + workers + 1


def test_small_pictures_are_decoded_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    monkeypatch.setattr(folders, "load_image", lambda source, **_: done.append(1) or load_image(source))
    stream = read_images([flat(v) for v in range(10)], workers=2)
    next(stream)
    deadline = time.monotonic() + 5
    while len(done) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(done) >= 3
    stream.close()  # type: ignore[attr-defined]


def test_letting_go_of_the_stream_ends_its_threads() -> None:
    stream = read_images([flat(v) for v in range(50)], workers=3)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mien-read")]


@pytest.mark.parametrize("options", [{"workers": -1}, {"every_s": 0.0}, {"every_s": float("nan")}, {"max_pixels": 0}])
def test_options_are_checked_before_anything_is_read(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        read_images([], **options)
