"""Out to a file and in again: everything but the log, whole, and only what belongs together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gallery.conftest import CONTRACT, crowd, vectors

from mien import errors
from mien.gallery import Batch, Gallery, export_gallery, import_gallery

KINDS = [".npz", ".parquet"]


def told(gallery: Gallery) -> list[tuple[Any, ...]]:
    """What is to survive, without numbers and accounts."""
    return [
        (f.person, f.source, f.sha256, f.box, f.quality, f.score, f.created,
         f.retain_until, f.basis, gallery.crop(f.id))
        for f in gallery.faces()
    ]  # fmt: skip


@pytest.fixture
def full(gallery: Gallery) -> Gallery:
    names, rows = crowd(5, 2)
    gallery.add(
        Batch(
            people=names, embeddings=rows, sources=[f"fotos/ä {i}\n.jpg" for i in range(10)],
            sha256=[f"{i:064x}" for i in range(10)], sizes=[(640, 480 + i) for i in range(10)],
            boxes=[(i, 1, 20 + i, 30.5) for i in range(10)], qualities=np.full(10, 0.5), scores=np.full(10, 0.25),
            crops=[b"", b"jpeg two", *[None] * 7, b"last"], retain_until=["2999-01-02", *[None] * 9],
            basis=["contract", *[""] * 9],
        )
    )  # fmt: skip
    gallery.retain("person 003", "2999-05-05")
    return gallery


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(full: Gallery, tmp_path: Path, kind: str) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    file = tmp_path / f"out/people{kind}"
    seen: list[tuple[int, int | None]] = []
    done = export_gallery(full, file, note="moving house", progress=lambda n, total, what: seen.append((n, total)))
    assert (done.people, done.faces) == (5, 10)
    assert seen == [(10, 10)]
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    with Gallery.open(tmp_path / "new.db", contract=CONTRACT, create=True) as new:
        added = import_gallery(new, file)
        assert (added.faces, added.people, added.already) == (10, 5, 0)
        assert told(new) == told(full)
        assert new.person("person 003").retain_until == "2999-05-05"
        _, rows = crowd(5, 2)
        assert [m[0].face_id for m in new.search(rows, k=1)] == list(range(1, 11))
        again = import_gallery(new, file)
        assert (again.faces, again.people, again.already) == (0, 0, 10)
        assert new.audit(action="import")[0].count == 10
    assert full.audit(action="export")[0].note == "moving house"


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_gallery(gallery: Gallery, tmp_path: Path, kind: str) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    file = tmp_path / f"none{kind}"
    assert export_gallery(gallery, file).faces == 0
    assert import_gallery(gallery, file).faces == 0


def test_an_export_is_a_file_of_embeddings_for_evaluate(full: Gallery, tmp_path: Path) -> None:
    from mien.verbs.evaluate._embedded import read_embeddings

    file = tmp_path / "people.npz"
    export_gallery(full, file)
    columns = read_embeddings(file)
    assert columns["contract"] == CONTRACT.id
    assert columns["embedding"].shape == (10, CONTRACT.dim)
    assert columns["source"][3] == "fotos/ä 3\n.jpg"


def test_embeddings_from_elsewhere(gallery: Gallery, tmp_path: Path) -> None:
    rows = vectors(3)
    plain = tmp_path / "plain.npz"
    np.savez(plain, person=np.array(["Ann", "Bob", "Ann"]), embeddings=5 * rows)
    with pytest.raises(errors.ContractMismatch, match="does not say"):
        import_gallery(gallery, plain)
    assert import_gallery(gallery, plain, trust=True).faces == 3
    assert import_gallery(gallery, plain, trust=True).already == 3
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, identity=np.array(["Cid"]), embedding=rows[:1], contract=np.array("other@1"))
    with pytest.raises(errors.ContractMismatch):
        import_gallery(gallery, foreign, trust=True)
    assert len(gallery) == 3


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"identity": np.array(["Ann"])}, errors.TableError),
        ({"embedding": vectors(1)}, errors.TableError),
        ({"identity": np.array(["Ann", "Bob"]), "embedding": vectors(1)}, errors.TableError),
        ({"identity": np.array([{"Ann": 1}]), "embedding": vectors(1)}, errors.TableError),
    ],
)
def test_files_that_are_none(gallery: Gallery, tmp_path: Path, columns: Any, error: type[Exception]) -> None:
    np.savez(tmp_path / "bad.npz", allow_pickle=True, **columns)
    with pytest.raises(error):
        import_gallery(gallery, tmp_path / "bad.npz", trust=True)


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_cannot_be_read(gallery: Gallery, tmp_path: Path, kind: str) -> None:
    with pytest.raises(errors.MediaNotFound):
        import_gallery(gallery, tmp_path / f"none{kind}")
    (tmp_path / f"torn{kind}").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(errors.TableError):
        import_gallery(gallery, tmp_path / f"torn{kind}")


@pytest.mark.parametrize("act", [export_gallery, import_gallery])
def test_other_kinds_of_files(gallery: Gallery, tmp_path: Path, act: Callable[..., Any]) -> None:
    with pytest.raises(errors.OptionError, match=r"\.npz or \.parquet"):
        act(gallery, tmp_path / "people.csv")


def test_an_export_that_fails_leaves_nothing(full: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Any:
        yield next(iter(rows))
        raise RuntimeError("unplugged")

    rows = list(full.export_rows())
    monkeypatch.setattr(full, "export_rows", fails)
    (tmp_path / "out").mkdir()
    with pytest.raises(RuntimeError):
        export_gallery(full, tmp_path / "out" / "people.npz")
    assert list((tmp_path / "out").iterdir()) == []
