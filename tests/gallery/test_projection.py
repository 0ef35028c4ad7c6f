"""The index follows the store, heals itself, and is never needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.gallery.conftest import crowd, vectors

from mien.gallery import Batch, Gallery, projection
from mien.gallery.local import LocalGallery

Make = Callable[..., LocalGallery]
NAMES, ROWS = crowd(40, 3)


def right(gallery: Gallery) -> bool:
    """Whether the gallery holds the crowd and finds everybody of it."""
    found = gallery.search(ROWS, k=1, log=False)
    exact = all(matches[0].similarity > 0.9999 for matches in found)
    return exact and [matches[0].person for matches in found] == NAMES


@pytest.fixture
def crowded(make: Make) -> LocalGallery:
    gallery = make()
    gallery.add(Batch(people=NAMES, embeddings=ROWS))
    return gallery


def index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.index")


def test_an_index_that_is_whole_is_not_built_again(crowded: LocalGallery, make: Make) -> None:
    crowded.close()
    again = make()
    assert right(again)
    assert again.projection.built == 0


def torn(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            with open(file, "r+b") as f:
                f.write(b"\x5a" * 100)


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


def emptied(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def of_another_gallery(folder: Path) -> None:
    (folder / "gallery.json").write_text(json.dumps({"gallery": "somebody else's"}))


def without_owner(folder: Path) -> None:
    (folder / "gallery.json").write_text("{")


@pytest.mark.parametrize("harm", [torn, removed, emptied, of_another_gallery, without_owner])
def test_a_harmed_index_is_built_anew(
    crowded: LocalGallery, make: Make, path: Path, harm: Callable[[Path], None]
) -> None:
    crowded.close()
    harm(index_of(path))
    healed = make()
    assert healed.projection.built == 1
    assert right(healed)
    healed.add(Batch(people=["Zoe"], embeddings=vectors(1, seed=99)))
    assert healed.search(vectors(1, seed=99), k=1)[0][0].person == "Zoe"
    healed.close()
    assert make().projection.built == 0


def test_an_index_that_vanishes_under_way(crowded: LocalGallery, path: Path) -> None:
    shutil.rmtree(index_of(path))
    crowded.add(Batch(people=["Zoe"], embeddings=vectors(1, seed=99)))
    assert crowded.search(vectors(1, seed=99), k=1)[0][0].person == "Zoe"
    assert right(crowded)


def copy(path: Path, target: Path) -> None:
    for name in (path.name, f"{path.name}-wal"):
        if path.with_name(name).exists():
            shutil.copy(path.with_name(name), target / name)


def test_a_gallery_put_back_from_a_backup(crowded: LocalGallery, make: Make, path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    crowded.close()
    copy(path, backup)
    later = make()
    for seed in range(3):
        later.add(Batch(people=[f"later {seed}"], embeddings=vectors(1, seed=100 + seed)))
    later.close()
    for file in path.parent.glob(f"{path.name}-*"):
        file.unlink()
    copy(backup / path.name, path.parent)
    restored = make()
    assert restored.projection.built == 1
    assert right(restored)
    assert not any(m.person.startswith("later") for ms in restored.search(vectors(5, seed=100)) for m in ms)


def test_a_copied_index_that_is_behind_catches_up(
    crowded: LocalGallery, make: Make, path: Path, tmp_path: Path
) -> None:
    crowded.close()
    shutil.copytree(index_of(path), tmp_path / "old", symlinks=True)
    later = make()
    added = later.add(Batch(people=["x", "y"], embeddings=vectors(2, seed=7)))
    later.delete(["x", "person 003"])
    later.close()
    shutil.rmtree(index_of(path))
    shutil.copytree(tmp_path / "old", index_of(path), symlinks=True)
    again = make()
    assert again.projection.built == 0
    assert again.projection._index is not None
    assert len(again.projection._index) == len(again) == 120 + 2 - 1 - 3
    assert again.search(vectors(2, seed=7), k=1)[1][0].face_id == added.ids[1]
    assert again.search(vectors(2, seed=7), k=1)[0][0].similarity < 0.9


def test_after_a_vacuum_an_old_index_is_built_anew(
    crowded: LocalGallery, make: Make, path: Path, tmp_path: Path
) -> None:
    crowded.close()
    shutil.copytree(index_of(path), tmp_path / "old", symlinks=True)
    later = make()
    later.delete(["person 003"])
    later.vacuum()
    later.close()
    shutil.rmtree(index_of(path))
    shutil.copytree(tmp_path / "old", index_of(path), symlinks=True)
    again = make()
    assert again.projection.built == 1
    assert again.search(ROWS[9:10], k=1)[0][0].person != "person 003"


def test_a_long_backlog_is_written_in_parts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "WRITE", 7)
    one, other = make(), make()
    run = "r"
    for start in range(0, 120, 10):  # behind the back of both indexes
        part = slice(start, start + 10)
        one.store.add(Batch(people=NAMES[part], embeddings=ROWS[part]), run=run)
    one.store.delete(["person 000"], run=run)
    one.store.add(Batch(people=NAMES[:3], embeddings=ROWS[:3]), run=run)
    assert right(other)
    assert right(one)
    assert other.projection.generation == one.projection.generation == one.store.generation() == 14
    assert other.projection._index is not None
    assert len(other.projection._index) == 120


def test_two_galleries_see_each_other(make: Make) -> None:
    one, other = make(), make()
    rows = vectors(20, seed=3)
    for number, row in enumerate(rows):
        writer, reader = (one, other) if number % 2 else (other, one)
        writer.add(Batch(people=[str(number)], embeddings=row[None]))
        assert reader.search(row[None], k=1, log=False)[0][0].person == str(number)
    one.delete(["4"])
    assert other.search(rows[4:5], k=1)[0][0].person != "4"
    other.vacuum()
    assert one.search(rows, k=1)[5][0].person == "5"
    one.add(Batch(people=["new"], embeddings=vectors(1, seed=4)))
    assert other.search(vectors(1, seed=4), k=1)[0][0].person == "new"


def test_what_the_index_says_is_scored_again(crowded: LocalGallery) -> None:
    query = 0.5 * ROWS[:1] + 0.5 * vectors(1, seed=12)
    (match,) = crowded.search(query, k=1)[0]
    face = crowded._rows([match.face_id])
    wanted = face.embeddings[0] @ (query[0] / np.linalg.norm(query[0]))
    assert match.similarity == pytest.approx(float(wanted), abs=1e-6)
