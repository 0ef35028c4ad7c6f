"""Processes that are killed lose nothing that was acknowledged, and processes that work at once see each other."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.gallery.conftest import CONTRACT, face_of

from mien.gallery import Batch, Gallery
from mien.gallery.local import LocalGallery

CHILD = Path(__file__).with_name("enrolling.py")


def start(path: Path, name: str, first: int, *more: object) -> subprocess.Popen[str]:
    words = [sys.executable, str(CHILD), str(path), name, str(first), *map(str, more)]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=quiet)


def acknowledged(lines: str) -> list[int]:
    """Numbers in whole lines; the last may have been cut by the kill."""
    spans = re.findall(r"^(\d+) (\d+)\n", lines, flags=re.MULTILINE)
    return [number for a, b in spans for number in range(int(a), int(b) + 1)]


def check(path: Path, name: str, numbers: list[int]) -> int:
    """That all of `numbers` are there and found, batches are whole, and index and store agree; the next free number."""
    gallery = Gallery.open(path, contract=CONTRACT, create=True)
    assert isinstance(gallery, LocalGallery)
    with gallery:
        there = {person.name for person in gallery.people()}
        missing = [number for number in numbers if f"{name}-{number}" not in there]
        assert missing == [], f"{len(missing)} acknowledged people are lost"
        for start_ in range(0, len(numbers), 256):
            some = numbers[start_ : start_ + 256]
            found = gallery.search(np.stack([face_of(name, number) for number in some]), k=1, log=False)
            assert [matches[0].person for matches in found] == [f"{name}-{number}" for number in some]
            assert all(matches[0].similarity > 0.9999 for matches in found)
        index = gallery.projection._index
        assert index is not None
        assert len(index) == len(gallery) == len(gallery.faces())
        assert all(person.faces == 1 for person in gallery.people())
        assert index.generation == gallery.store.generation()
        with gallery.store.read() as c:
            assert c.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
            assert c.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        kept = [int(one.rpartition("-")[2]) for one in there if one.startswith(f"{name}-")]
        return max(kept, default=-1) + 1


def killed_at_random(tmp_path: Path, rounds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path, first, numbers = tmp_path / "0.db", 0, list[int]()
    midway = 0
    for round_ in range(rounds):
        if round_ % 5 == 4:  # a new one, so that some are killed while it is being made
            path, first, numbers = tmp_path / f"{round_}.db", 0, []
        child = start(path, "p", first)
        assert child.stdout is not None
        lines = ""
        if rng.random() < 0.8:
            lines = child.stdout.readline()
            time.sleep(rng.uniform(0, 0.4))
        else:
            time.sleep(rng.uniform(0.2, 1.5))
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read()
        child.wait()
        assert child.returncode == -signal.SIGKILL
        new = acknowledged(lines)
        midway += bool(new)
        numbers += new
        first = check(path, "p", numbers)
    assert midway >= rounds // 3, "too few were killed while they enrolled"


def test_killed_ten_times(tmp_path: Path) -> None:
    killed_at_random(tmp_path, 10, seed=int.from_bytes(os.urandom(4), "big"))


@pytest.mark.slow
def test_killed_fifty_times(tmp_path: Path) -> None:
    killed_at_random(tmp_path, 50, seed=int.from_bytes(os.urandom(4), "big"))


def test_two_enrol_and_one_searches_at_once(tmp_path: Path) -> None:
    """Both make the gallery, both enrol, and what one acknowledges is found by a third at its next search."""
    path = tmp_path / "g.db"
    children = {name: start(path, name, 0, 12) for name in ("a", "b")}
    told: dict[str, list[int]] = {name: [] for name in children}
    reader: Gallery | None = None
    try:
        open_ones = dict(children)
        while open_ones:
            for name, child in list(open_ones.items()):
                assert child.stdout is not None
                line = child.stdout.readline()
                if not line:
                    del open_ones[name]
                    continue
                new = acknowledged(line)
                told[name] += new
                reader = reader or Gallery.open(path)
                found = reader.search(np.stack([face_of(name, number) for number in new]), k=1)
                assert [matches[0].person for matches in found] == [f"{name}-{number}" for number in new]
        assert all(child.wait() == 0 for child in children.values())
        assert reader is not None
        assert len(reader) == len(told["a"]) + len(told["b"]) + 1
        assert [person.faces for person in reader.people(match="shared")] == [1]
        assert len(reader.audit(action="create")) == 1
        assert len(reader.audit(action="enrol")) == 24
    finally:
        for child in children.values():
            child.kill()
        if reader is not None:
            reader.close()
    for name, numbers in told.items():
        check(path, name, numbers)


def test_threads_share_a_gallery(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with Gallery.open(tmp_path / "g.db", contract=CONTRACT, create=True) as gallery:

        def work(number: int) -> str:
            row = face_of("t", number)
            gallery.add(Batch(people=[f"t-{number}"], embeddings=row[None]))
            return gallery.search(row[None], k=1)[0][0].person

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(work, range(40))) == [f"t-{number}" for number in range(40)]
        assert len(gallery) == 40
