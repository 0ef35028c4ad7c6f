"""The same verbs on Milvus: tested on Milvus Lite, whose results are exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.gallery.conftest import CONTRACT, DIM, crowd, vectors

from mien import errors
from mien.gallery import Batch, Contract, Gallery, export_gallery, import_gallery

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

NAMES, ROWS = crowd(25, 3, noise=0.12)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"milvus://{tmp_path_factory.mktemp('milvus') / 'people.db'}"


@pytest.fixture
def gallery(address: str, request: pytest.FixtureRequest) -> Iterator[Gallery]:
    """A gallery of its own for each test, in one file: starting Milvus Lite takes its time."""
    prefix = "t" + "".join(c for c in request.node.name if c.isalnum())[:30]
    with Gallery.open(f"{address}?prefix={prefix}", contract=CONTRACT, create=True, who="a clerk") as opened:
        yield opened


@pytest.fixture
def filled(gallery: Gallery) -> Gallery:
    gallery.add(
        Batch(people=NAMES, embeddings=ROWS, sources=[f"{i}.jpg" for i in range(75)], qualities=np.full(75, 0.5)),
        note="to begin with",
    )
    return gallery


@pytest.mark.parametrize("score", ["max", "template"])
def test_search_is_that_of_a_gallery_in_a_file(filled: Gallery, tmp_path: Path, score: str) -> None:
    queries = 0.7 * ROWS[::10] + 0.3 * vectors(8, seed=5)
    with Gallery.open(tmp_path / "g.db", contract=CONTRACT, create=True) as local:
        local.add(Batch(people=NAMES, embeddings=ROWS, qualities=np.full(75, 0.5)))
        wanted = local.search(queries, k=4, score=score)
    found = filled.search(queries, k=4, score=score)
    for mine, its in zip(found, wanted, strict=True):
        assert [match.person for match in mine] == [match.person for match in its]
        np.testing.assert_allclose([m.similarity for m in mine], [m.similarity for m in its], atol=1e-5)


def test_opening(gallery: Gallery, address: str, tmp_path: Path) -> None:
    # The address is shown without what is behind the ?, so the gallery is opened by the first prefix again.
    assert gallery.contract == CONTRACT
    with pytest.raises(errors.GalleryNotFound):
        Gallery.open(f"milvus://{tmp_path}/none.db")
    with pytest.raises(errors.GalleryNotFound):
        Gallery.open(f"{address}?prefix=nobody")
    with pytest.raises(errors.OptionError, match=r"\.db"):
        Gallery.open(f"milvus://{tmp_path}/folder", create=True, contract=CONTRACT)
    with pytest.raises(errors.OptionError, match="prefix"):
        Gallery.open(f"{address}?prefix=a-b")
    with pytest.raises(errors.OptionError, match="float32"):
        Gallery.open(f"{address}?prefix=half", create=True, contract=CONTRACT, dtype="float16")


def test_other_embeddings_are_refused(address: str) -> None:
    where = f"{address}?prefix=contract"
    Gallery.open(where, contract=CONTRACT, create=True).close()
    with pytest.raises(errors.ContractMismatch):
        Gallery.open(where, contract=Contract(id="other@1", dim=DIM))
    with Gallery.open(where) as again, pytest.raises(errors.ContractMismatch):
        again.add(Batch(people=["a"], embeddings=vectors(1, dim=DIM + 1)))
    with Gallery.open(where, read_only=True) as reader:
        with pytest.raises(errors.GalleryError, match="reading only"):
            reader.add(Batch(people=["a"], embeddings=vectors(1)))
        assert reader.search(vectors(1)) == [()]


def test_what_is_kept_of_a_face(gallery: Gallery) -> None:
    batch = Batch(
        people=['Ann "A" \\ Lee'], embeddings=vectors(1), sources=["ä.jpg"], sha256=["aa"], sizes=[(640, 480)],
        boxes=[(1, 2, 3, 4)], qualities=[0.5], scores=[0.75], crops=[bytes(range(256)) * 10],
        retain_until="2999-01-01", basis="consent",
    )  # fmt: skip
    added = gallery.add(batch)
    assert added.new_people == 1
    (face,) = gallery.faces('Ann "A" \\ Lee')
    assert face.id == added.ids[0]
    assert (face.source, face.sha256, face.box, face.quality, face.score) == ("ä.jpg", "aa", (1, 2, 3, 4), 0.5, 0.75)
    assert (face.retain_until, face.basis, face.who, face.crop) == ("2999-01-01", "consent", "a clerk", True)
    assert gallery.crop(face.id) == bytes(range(256)) * 10
    assert gallery.add(batch).ids.tolist() == [-1]
    assert gallery.known(["aa", "bb"]) == {"aa": frozenset({'Ann "A" \\ Lee'})}


def test_people(filled: Gallery) -> None:
    assert len(filled) == 75
    assert sorted(person.name for person in filled.people()) == sorted(set(NAMES))
    assert len(filled.people(match="SON 00")) == 10
    page = filled.people(most=10)
    assert [p.id for p in filled.people(after=page[3].id, most=6)] == [p.id for p in page[4:]]
    number = filled.rename("person 000", "Ann")
    assert filled.person("Ann").id == filled.person(f"#{number}").id == number
    # Whoever comes later under the old name is somebody else.
    filled.add(Batch(people=["person 000"], embeddings=vectors(1, seed=3)))
    assert filled.person("person 000").id != number
    with pytest.raises(errors.OptionError):
        filled.rename("Ann", "person 001")
    with pytest.raises(errors.UnknownPerson, match="person 001"):
        filled.person("persn 001")
    assert filled.merge("person 001", "Ann") == 3
    assert filled.person("Ann").faces == 6
    assert {matches[0].person for matches in filled.search(ROWS[:6], k=1)} == {"Ann"}


def test_deletion(filled: Gallery) -> None:
    gone = filled.delete(["person 003"], note="asked by letter")
    assert (gone.people, gone.faces, gone.complete) == (1, 3, False)
    assert filled.search(ROWS[9:10], k=1)[0][0].person != "person 003"
    ids = [face.id for face in filled.faces("person 004")]
    with pytest.raises(errors.OptionError):
        filled.delete_faces("person 004", [1])
    assert filled.delete_faces("person 004", ids[:2]).faces == 2
    assert filled.person("person 004").faces == 1
    with pytest.raises(errors.UnknownPerson):
        filled.delete(["person 005", "nobody"])
    assert filled.person("person 005").faces == 3
    assert filled.audit(action="delete")[-1].note == "asked by letter"


def test_dates(gallery: Gallery) -> None:
    rows = vectors(4)
    dates = ["2020-01-01", None, None, "2020-01-01"]
    gallery.add(Batch(people=["Ann", "Ann", "Bob", "Cid"], embeddings=rows, retain_until=dates))
    gallery.retain("Bob", "2020-06-30")
    assert [bool(m and m[0].similarity > 0.99) for m in gallery.search(rows, k=1)] == [False, True, False, False]
    gone = gallery.expire(on="2020-06-30")
    assert (gone.people, gone.faces) == (1, 2)
    gone = gallery.expire()
    assert (gone.people, gone.faces) == (1, 1)
    assert [person.name for person in gallery.people()] == ["Ann"]
    assert gallery.expire().complete


def test_log_info_and_calibration(filled: Gallery) -> None:
    filled.search(ROWS[:2], note="who came in")
    kept = filled.calibrate(fpirs=(0.1,))
    info = filled.info()
    assert (info.people, info.faces, info.calibration) == (25, 75, kept)
    assert filled.threshold_at(0.1).threshold == pytest.approx(kept.points[0].threshold)
    assert [(line.action, line.count, line.note) for line in filled.audit()] == [
        ("calibrate", 75, ""), ("search", 2, "who came in"), ("enrol", 75, "to begin with"),
        ("create", 0, CONTRACT.id),
    ]  # fmt: skip
    assert len(filled.audit(action="search", most=1)) == 1
    assert {line.who for line in filled.audit(since="2020-01-01")} == {"a clerk"}


def test_people_without_faces_go(filled: Gallery) -> None:
    from mien.gallery.milvus import MilvusGallery

    assert isinstance(filled, MilvusGallery)
    filled._people(["half enrolled"], "2030-01-01")  # as far as one comes who is killed
    assert filled.person("half enrolled").faces == 0
    assert filled.vacuum() is False
    with pytest.raises(errors.UnknownPerson):
        filled.person("half enrolled")


def test_pages_by_an_iterator_are_the_same(filled: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server of several nodes is asked."""
    from mien.gallery import milvus

    assert isinstance(filled, milvus.MilvusGallery)
    monkeypatch.setattr(milvus, "PAGE", 10)
    plain = filled._query("faces", "", ["source"])
    filled.lite = False
    assert filled._query("faces", "", ["source"]) == plain
    filled.lite = True
    assert [row["id"] for row in plain] == sorted(face.id for face in filled.faces())
    assert len(plain) == 75


def test_from_a_file_and_back(filled: Gallery, tmp_path: Path) -> None:
    export_gallery(filled, tmp_path / "people.npz")
    with Gallery.open(tmp_path / "g.db", contract=CONTRACT, create=True) as local:
        assert import_gallery(local, tmp_path / "people.npz").faces == 75
        assert [m[0].person for m in local.search(ROWS, k=1)] == NAMES
    assert import_gallery(filled, tmp_path / "people.npz").already == 75


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    import pymilvus

    asked: dict[str, object] = {}

    def refuses(**options: object) -> None:
        asked.update(options)
        raise pymilvus.MilvusException(message="no route")

    monkeypatch.setattr(pymilvus, "MilvusClient", refuses)
    with pytest.raises(errors.GalleryError, match="does not answer") as raised:
        Gallery.open("milvus://user:secret@example.org:19530/faces")
    assert asked == {"uri": "http://example.org:19530", "token": "user:secret", "db_name": "faces"}
    assert "secret" not in str(raised.value)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(errors.MissingExtra, match="scale"):
        Gallery.open("milvus://example.org:19530")
