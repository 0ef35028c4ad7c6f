"""Enrolment, search, gates, thresholds, people, dates, deletion, the log: on a gallery in a file."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gallery.conftest import CONTRACT, DIM, crowd, vectors

from mien import errors, metrics
from mien.gallery import Batch, Contract, Gallery, RefusalReason
from mien.gallery.base import pooled
from mien.gallery.local import LocalGallery
from mien.gallery.records import day, tidy_name

Make = Callable[..., Gallery]


def one(name: str, row: Any, **more: Any) -> Batch:
    return Batch(people=[name], embeddings=np.asarray(row)[None], **more)


# ------------------------------------------------------------------------------------------- making and opening


def test_a_new_gallery_is_empty_and_remembers_its_contract(make: Make, path: Path) -> None:
    gallery = make()
    assert len(gallery) == 0
    assert gallery.search(vectors(2)) == [(), ()]
    gallery.close()
    again = make(contract=None, create=False)
    assert again.contract == CONTRACT
    assert again.id == gallery.id
    assert again.info().people == 0


@pytest.mark.parametrize(
    "other",
    [
        Contract(id="other@0123456789ab", dim=DIM),
        Contract(id=CONTRACT.id, dim=DIM + 1),
        Contract(id=CONTRACT.id, dim=DIM, sha256="cd" * 32),
        Contract(id=CONTRACT.id, dim=DIM, preprocessing="grey"),
    ],
)
def test_other_embeddings_are_refused(make: Make, other: Contract) -> None:
    make().close()
    with pytest.raises(errors.ContractMismatch):
        make(contract=other)
    with make() as gallery, pytest.raises(errors.ContractMismatch):
        gallery.check(other)


def test_embeddings_of_another_length_or_without_contract_are_refused(gallery: Gallery) -> None:
    with pytest.raises(errors.ContractMismatch):
        gallery.add(Batch(people=["a"], embeddings=vectors(1, dim=DIM + 1)))
    with pytest.raises(errors.ContractMismatch):
        gallery.search(vectors(1, dim=DIM - 1))
    with pytest.raises(errors.ContractMismatch, match="no contract"):
        gallery.check(None)
    gallery.check(CONTRACT.id)


def test_contract_of_the_bundled_embedder() -> None:
    from mien.weights import info

    contract = Contract.of("mien-embedder")
    declared = info("mien-embedder")
    assert contract.id == declared.embedding.id  # type: ignore[union-attr]
    assert contract.weights == "mien-embedder"
    assert "mirror" in contract.preprocessing
    with pytest.raises(errors.WeightsError):
        Contract.of("mien-detector")


def test_there_must_be_a_gallery(tmp_path: Path) -> None:
    with pytest.raises(errors.GalleryNotFound):
        Gallery.open(tmp_path / "none.db")
    with pytest.raises(errors.GalleryNotFound):
        Gallery.open(tmp_path / "none.db", create=True, contract=CONTRACT, read_only=True)
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("not a database at all, but long enough to be read as one" * 10)
    with pytest.raises(errors.GalleryError, match="cannot be opened"):
        Gallery.open(tmp_path / "text.db")
    with pytest.raises(errors.GalleryError, match="folder"):
        Gallery.open(tmp_path)
    with pytest.raises(errors.OptionError):
        Gallery.open("postgres://somewhere")


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    import sqlite3

    file = tmp_path / "other.db"
    with sqlite3.connect(file) as c:
        c.execute("CREATE TABLE songs (title TEXT)")
    c.close()
    with pytest.raises(errors.GalleryError, match="something else"):
        Gallery.open(file, create=True, contract=CONTRACT)
    with sqlite3.connect(file) as c:
        assert [row[0] for row in c.execute("SELECT name FROM sqlite_master")] == ["songs"]


def test_read_only(make: Make, path: Path) -> None:
    with make() as gallery:
        gallery.add(one("Ann", vectors(1)[0]))
    reader = make(read_only=True, contract=None, create=False)
    assert reader.search(vectors(1))[0][0].person == "Ann"
    with pytest.raises(errors.GalleryError, match="reading only"):
        reader.add(one("Bob", vectors(2)[1]))
    assert [entry.action for entry in reader.audit()] == ["enrol", "create"]


# ------------------------------------------------------------------------------------------- search


@pytest.mark.parametrize("k", [1, 3, 7])
def test_search_by_the_best_face_is_that_of_all_pairs(filled: Gallery, k: int) -> None:
    names, rows = crowd(30, 4)
    queries = vectors(5, seed=9) * 0.7 + rows[[0, 17, 40, 80, 119]]
    cosines = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ rows.T
    for line, matches in zip(cosines, filled.search(queries, k=k), strict=True):
        best: dict[str, float] = {}
        for name, cosine in zip(names, line.tolist(), strict=True):
            best[name] = max(best.get(name, -1.0), cosine)
        wanted = sorted(best.items(), key=lambda item: -item[1])[:k]
        assert [match.person for match in matches] == [name for name, _ in wanted]
        np.testing.assert_allclose([match.similarity for match in matches], [c for _, c in wanted], atol=1e-5)
        assert all(match.source.startswith(match.person) for match in matches)


def test_a_person_of_many_faces_does_not_hide_the_others(gallery: Gallery) -> None:
    query = vectors(1)[0]
    _, rows = crowd(1, 400, noise=0.01)
    gallery.add(Batch(people=["many"] * 400, embeddings=rows))
    far = vectors(3, seed=5)
    gallery.add(Batch(people=["x", "y", "z"], embeddings=far))
    found = gallery.search(query[None], k=3)[0]
    nearest = np.argsort(-(far @ query))
    assert [match.person for match in found] == ["many", *(("x", "y", "z")[i] for i in nearest[:2])]


def test_templates_are_quality_weighted_means(filled: Gallery) -> None:
    names, rows = crowd(30, 4)
    weights = np.linspace(0.3, 1, len(names))
    made = metrics.pool_templates(rows, np.array(names), weights=weights)
    query = rows[41] + 0.1 * vectors(1, seed=3)[0]
    query /= np.linalg.norm(query)
    best = filled.search(query[None], k=2, score="template")[0]
    cosines = made.vectors @ query
    order = np.argsort(-cosines)
    assert [match.person for match in best] == [str(made.names[i]) for i in order[:2]]
    np.testing.assert_allclose([match.similarity for match in best], cosines[order[:2]], atol=1e-5)


def test_pooling_keeps_people_whose_faces_weigh_nothing(filled: Gallery) -> None:
    rows = filled._rows_of_people([1, 2])
    zero = type(rows)(**{**vars(rows), "qualities": np.zeros(len(rows), np.float32)})
    owners, templates = pooled(zero)
    assert owners.tolist() == [1, 2]
    np.testing.assert_allclose(np.linalg.norm(templates, axis=1), 1, atol=1e-6)


def test_nobody_below_the_threshold(filled: Gallery) -> None:
    stranger = vectors(1, seed=77)
    best = filled.search(stranger, k=1)[0][0].similarity
    assert filled.search(stranger, threshold=best + 0.01) == [()]
    assert len(filled.search(stranger, threshold=best - 0.01)[0]) >= 1


def test_wrong_searches(filled: Gallery) -> None:
    with pytest.raises(errors.OptionError):
        filled.search(vectors(1), score="mean")
    with pytest.raises(errors.OptionError):
        filled.search(vectors(1), k=0)
    with pytest.raises(errors.ValueRangeError):
        filled.search(np.zeros((1, DIM)))
    with pytest.raises(errors.ShapeError):
        filled.search(vectors(1)[0])


def test_half_precision_is_near_enough(make: Make) -> None:
    gallery = make(dtype="float16")
    names, rows = crowd(20, 3)
    gallery.add(Batch(people=names, embeddings=rows))
    found = gallery.search(rows[:10], k=1)
    assert [matches[0].person for matches in found] == names[:10]
    np.testing.assert_allclose([matches[0].similarity for matches in found], 1, atol=1e-3)
    assert gallery.info().dtype == "float16"


# ------------------------------------------------------------------------------------------- enrolment


def test_what_is_added_is_found_at_once_with_its_provenance(gallery: Gallery) -> None:
    row = vectors(1)[0]
    added = gallery.add(
        one("  Ann\u00a0 Lee ", 3 * row, sources=["ann.jpg"], sha256=["11" * 32], sizes=[(640, 480)],
            boxes=[(1, 2, 30, 40)], qualities=[0.7], scores=[0.9], retain_until="2099-01-01",
            basis="consent, form 12", crops=[b"jpeg"]),
    )  # fmt: skip
    assert (added.ids.tolist(), added.generation, added.new_people) == ([1], 1, 1)
    (match,) = gallery.search(row[None], k=1)[0]
    assert (match.person, match.face_id, match.source) == ("Ann Lee", 1, "ann.jpg")
    (face,) = gallery.faces("Ann Lee")
    assert (face.source, face.sha256, face.box, face.basis) == (
        "ann.jpg",
        "11" * 32,
        (1, 2, 30, 40),
        "consent, form 12",
    )
    assert (face.quality, face.score, face.retain_until, face.crop) == (0.7, 0.9, "2099-01-01", True)
    assert gallery.crop(1) == b"jpeg"
    assert gallery.crop(2) is None
    assert gallery.people()[0].basis == ("consent, form 12",)
    assert gallery.known(["11" * 32, "22" * 32]) == {"11" * 32: frozenset({"Ann Lee"})}


def test_a_picture_counts_once_for_a_person(gallery: Gallery) -> None:
    rows = vectors(3)
    batch = Batch(people=["Ann", "Bob", "Ann"], embeddings=rows, sha256=["aa", "aa", "aa"])
    assert gallery.add(batch).ids.tolist() == [1, 2, -1]  # a group picture, and Ann twice on it
    again = gallery.add(batch)
    assert again.ids.tolist() == [-1, -1, -1]
    assert (again.generation, again.new_people, len(gallery)) == (1, 0, 2)
    # Without a picture the embedding stands for it.
    assert gallery.add(one("Cid", rows[0])).ids.tolist() == [3]
    assert gallery.add(one("Cid", rows[0])).ids.tolist() == [-1]


def test_batches_are_checked(gallery: Gallery) -> None:
    with pytest.raises(errors.ShapeError):
        Batch(people=["a"], embeddings=vectors(2))
    with pytest.raises(errors.ShapeError):
        Batch(people=["a"], embeddings=vectors(1), boxes=[(1, 2, 3)])
    with pytest.raises(errors.ValueRangeError):
        Batch(people=["a"], embeddings=np.full((1, DIM), np.nan))
    for name in ("", "  ", "#3", "x" * 201):
        with pytest.raises(errors.OptionError):
            tidy_name(name)
    for text in ("soon", "2030-13-01", "01.02.2030"):
        with pytest.raises(errors.OptionError):
            day(text)
    assert day(datetime.date(2030, 1, 2)) == "2030-01-02"
    assert day("") is None


def test_gates_of_an_enrolment(gallery: Gallery) -> None:
    ann, bob = vectors(2)
    gallery.add(Batch(people=["Ann", "Bob"], embeddings=[ann, bob], sources=["ann.jpg", "bob.jpg"]))
    near = ann + 0.02 * vectors(1, seed=4)[0]
    mixed = 0.8 * ann + 0.3 * bob

    def judge(people: list[str], rows: Any, **more: Any) -> list[str | None]:
        refusals = gallery.judge(people, np.asarray(rows), **more)
        return [None if refusal is None else refusal.reason.value for refusal in refusals]

    assert judge(["Ann", "Cid", "Dan"], [near, near, vectors(3)[2]]) == ["same_face", "looks_like_other", None]
    assert judge(["Ann"], [mixed]) == judge(["Bob"], [mixed]) == [None]
    assert judge(["Ann"], [mixed], conflict=0.5, same_face=None) == [None]
    assert judge(["Bob"], [mixed], conflict=0.5, same_face=None) == ["looks_like_other"]
    assert judge(["Ann"], [near], same_face=None) == [None]
    # Among themselves, in the order given.
    fresh = vectors(1, seed=8)[0]
    assert judge(["Eve", "Eve", "Fay"], [fresh, fresh, fresh]) == [None, "same_face", "looks_like_other"]
    (refusal,) = gallery.judge(["Cid"], near[None], sources=["cid.jpg"])
    assert refusal is not None
    assert refusal.reason is RefusalReason.LOOKS_LIKE_OTHER
    assert "Ann (ann.jpg)" in refusal.text
    assert refusal.source == "cid.jpg"
    assert refusal.value is not None
    assert refusal.value > 0.985


# ------------------------------------------------------------------------------------------- thresholds


def test_thresholds_by_fpir(make: Make) -> None:
    from mien.gallery import thresholds
    from mien.weights import info

    points = info("mien-embedder").calibration
    of = {point.fmr: point.threshold for point in points}
    exact = thresholds.estimated(1 - (1 - 1e-4) ** 100, 100, points)
    assert exact.threshold == pytest.approx(of[1e-4])
    assert exact.fmr == pytest.approx(1e-4)
    assert not exact.extrapolated
    levels = [thresholds.estimated(0.01, size, points).threshold for size in (1, 10, 100, 1000, 10_000, 10**6)]
    assert levels == sorted(levels)
    beyond = thresholds.estimated(0.01, 10**6, points)
    assert beyond.extrapolated
    slope = (of[1e-5] - of[1e-4]) * 3
    assert beyond.threshold == pytest.approx(min(1.0, of[1e-5] + slope), abs=2e-3)
    with pytest.raises(errors.OptionError):
        thresholds.estimated(0.01, 10, ())
    with pytest.raises(errors.OptionError):
        thresholds.estimated(0, 10, points)
    with pytest.raises(errors.OptionError):
        thresholds.given(1.5)


def test_an_unknown_embedder_needs_a_calibration(filled: Gallery) -> None:
    with pytest.raises(errors.OptionError, match="without a calibration"):
        filled.threshold_at(0.1)


@pytest.mark.parametrize("score", ["max", "template"])
def test_calibration_is_that_of_metrics(make: Make, score: str) -> None:
    gallery = make()
    names, rows = crowd(60, 3, noise=0.2)
    gallery.add(Batch(people=names, embeddings=rows))
    kept = gallery.calibrate(fpirs=(0.5, 0.1, 1e-4), score=score, most=10_000)
    assert [point.fpir for point in kept.points] == [0.5, 0.1]
    assert (kept.searches, kept.mated, kept.people, kept.faces) == (180, 180, 60, 180)
    assert gallery.info().calibration == kept
    assert gallery.threshold_at(0.1, score=score).threshold == pytest.approx(kept.points[1].threshold, abs=1e-6)
    if score == "template":
        return
    # Each search by hand: the best of everybody else, and the best of the person's other pictures.
    cosines = rows @ rows.T
    same = np.array(names)[:, None] == np.array(names)
    strangers = np.where(same, -1, cosines).max(1)
    mates = np.where(same & ~np.eye(len(names), dtype=bool), cosines, -1).max(1)
    level = np.sort(strangers)[::-1][18]
    assert kept.points[1].threshold == pytest.approx(level, abs=1e-5)
    missed = (mates < kept.points[1].threshold) | (mates <= strangers)
    assert kept.points[1].fnir == pytest.approx(missed.mean(), abs=1e-6)


def test_a_measured_rate_is_carried_to_another_size() -> None:
    from mien.gallery import FpirPoint, SearchCalibration, thresholds

    points = (FpirPoint(fpir=0.1, threshold=0.4), FpirPoint(fpir=0.01, threshold=0.5))
    kept = SearchCalibration(points=points, score="max", searches=500, mated=0, people=50, faces=100, date="2030-01-01")
    assert SearchCalibration.from_dict(kept.to_dict()) == kept
    assert thresholds.measured(0.1, 100, kept).threshold == pytest.approx(0.4)
    # In twice the gallery twice the alarms: the same threshold stands for 1 - 0.9^2.
    assert thresholds.measured(1 - 0.9**2, 200, kept).threshold == pytest.approx(0.4)
    assert thresholds.measured(0.01, 1000, kept).extrapolated
    assert thresholds.measured(0.01, 1000, kept).threshold > 0.5
    assert thresholds.measured(0.05, 50, kept).threshold < thresholds.measured(0.05, 100, kept).threshold


def test_too_few_people_to_calibrate(gallery: Gallery) -> None:
    gallery.add(one("Ann", vectors(1)[0]))
    with pytest.raises(errors.GalleryError, match="too small"):
        gallery.calibrate()


# ------------------------------------------------------------------------------------------- people


def test_people_by_page_and_by_part_of_the_name(filled: Gallery) -> None:
    assert len(filled.people()) == 30
    page = filled.people(after=10, most=5)
    assert [person.id for person in page] == [11, 12, 13, 14, 15]
    assert [person.name for person in filled.people(match="SON 01")] == [f"person 01{i}" for i in range(10)]
    assert filled.people(match="%") == ()
    assert filled.person("#3").name == "person 002"
    assert len(filled.faces("person 004")) == 4
    assert len(filled.faces(after=100, most=7)) == 7
    with pytest.raises(errors.UnknownPerson, match="person 003"):
        filled.person("persn 003")
    with pytest.raises(errors.UnknownPerson):
        filled.person("#999")


def test_renaming(filled: Gallery) -> None:
    row = filled._rows_of_people([3]).embeddings[0]
    assert filled.rename("person 002", "Ann") == 3
    assert filled.search(row[None], k=1)[0][0].person == "Ann"
    with pytest.raises(errors.OptionError, match="has that name"):
        filled.rename("Ann", "person 005")
    with pytest.raises(errors.UnknownPerson):
        filled.rename("person 002", "Bob")
    assert filled.rename("Ann", "Ann") == 3


def test_merging(filled: Gallery) -> None:
    filled.retain("person 000", "2030-05-01")
    filled.retain("person 001", "2029-05-01")
    rows = filled._rows_of_people([1]).embeddings
    assert filled.merge("person 000", "person 001") == 4
    person = filled.person("person 001")
    assert (person.faces, person.retain_until) == (8, "2029-05-01")
    assert {matches[0].person for matches in filled.search(rows, k=1)} == {"person 001"}
    assert len(filled) == 120
    with pytest.raises(errors.UnknownPerson):
        filled.person("person 000")
    with pytest.raises(errors.OptionError):
        filled.merge("#2", "person 001")


def test_merging_people_on_one_picture(gallery: Gallery) -> None:
    rows = vectors(3)
    gallery.add(Batch(people=["Ann", "Bob", "Bob"], embeddings=rows, sha256=["aa", "aa", "bb"]))
    assert gallery.merge("Bob", "Ann") == 1
    assert [face.sha256 for face in gallery.faces("Ann")] == ["aa", "bb"]
    assert len(gallery) == 2
    assert gallery.search(rows[1:2], k=1)[0][0].similarity < 0.9


# ------------------------------------------------------------------------------------------- dates and deletion


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def test_deleted_is_gone_from_every_file(make: Make, path: Path) -> None:
    gallery = make()
    assert isinstance(gallery, LocalGallery)
    names, rows = crowd(40, 3)
    gallery.add(Batch(people=names, embeddings=rows))
    row = vectors(1, seed=50)[0]
    secret = {
        "sources": ["/photos/of-the-secret-person.jpg"],
        "sha256": ["5ec2e7" * 10],
        "crops": [b"\xff\xd8SECRETCROP" * 40],
    }
    gallery.add(one("Secret Person", row, basis="consent of Secret Person", **secret))  # type: ignore[arg-type]
    index = gallery.projection._index
    assert index is not None
    view = index._refresh()
    assert view is not None
    code = np.array(view.rows.codes[int(np.flatnonzero(view.rows.ids == 121)[0])]).tobytes()
    traces = [row.tobytes(), b"Secret Person", b"secret-person", b"5ec2e7", b"SECRETCROP", code]
    before = everything(path.parent)
    assert all(trace in before for trace in traces)
    gone = gallery.delete(["Secret Person"], note="asked by letter")
    assert (gone.people, gone.faces, gone.complete) == (1, 1, True)
    after = everything(path.parent)
    assert [trace for trace in traces if trace in after] == []
    assert gallery.search(row[None], k=1)[0][0].person != "Secret Person"
    assert gallery.vacuum()
    assert [trace for trace in traces if trace in everything(path.parent)] == []
    last = gallery.audit(action="delete")[0]
    assert (last.people, last.count, last.note) == ((41,), 1, "asked by letter")
    # Nobody gets the number again.
    assert gallery.add(one("Somebody", vectors(1, seed=51)[0])).ids.tolist() == [122]
    assert gallery.person("Somebody").id == 42


def test_deletion_tells_when_somebody_still_reads(filled: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    import mien.gallery.store as store

    assert isinstance(filled, LocalGallery)
    monkeypatch.setattr(store, "SETTLE_S", 0)
    with filled.store.read() as c:
        c.exec_driver_sql("SELECT count(*) FROM faces").scalar()
        assert not filled.delete(["person 003"]).complete
    assert filled.vacuum()


def test_all_or_nobody(filled: Gallery) -> None:
    with pytest.raises(errors.UnknownPerson):
        filled.delete(["person 001", "nobody"])
    assert len(filled) == 120


def test_some_faces(filled: Gallery) -> None:
    ids = [face.id for face in filled.faces("person 001")]
    with pytest.raises(errors.OptionError, match="no face of this person"):
        filled.delete_faces("person 001", [ids[0], 1])
    assert filled.delete_faces("person 001", ids[:3]).faces == 3
    assert filled.person("person 001").faces == 1
    assert len(filled) == 117


def test_dates(gallery: Gallery) -> None:
    rows = vectors(5)
    dates = ["2020-01-01", None, None, "2020-01-01", "2999-01-01"]
    gallery.add(Batch(people=["Ann", "Ann", "Bob", "Cid", "Dan"], embeddings=rows, retain_until=dates))
    gallery.retain("Bob", "2020-06-30")
    # Past their date they are not found, whether `expire` has run or not.
    assert [matches[0].similarity > 0.99 if matches else False for matches in gallery.search(rows, k=1)] == [
        False, True, False, False, True,
    ]  # fmt: skip
    assert gallery.info().expired == 3
    gone = gallery.expire(on="2020-06-30")
    assert (gone.people, gone.faces) == (1, 2)  # Cid, and a face of Ann: Bob's last day is this
    gone = gallery.expire()
    assert (gone.people, gone.faces) == (1, 1)
    assert [person.name for person in gallery.people()] == ["Ann", "Dan"]
    assert gallery.expire() == type(gone)(people=0, faces=0, complete=True)
    gallery.retain("Dan", None)
    assert gallery.person("Dan").retain_until is None
    with pytest.raises(errors.OptionError):
        gallery.retain("Dan", "tomorrow")


# ------------------------------------------------------------------------------------------- the log


def test_the_log_has_no_names_and_cannot_be_changed(make: Make, path: Path) -> None:
    import sqlite3

    gallery = make(who="a clerk")
    gallery.add(one("Ann", vectors(1)[0]), note="visitors of today")
    gallery.search(vectors(3), note="who came in")
    gallery.search(vectors(3), log=False)
    gallery.rename("Ann", "Bea")
    lines = gallery.audit()
    assert [(line.action, line.count, line.note) for line in lines] == [
        ("rename", 1, ""), ("search", 3, "who came in"), ("enrol", 1, "visitors of today"), ("create", 0, CONTRACT.id),
    ]  # fmt: skip
    assert {line.who for line in lines} == {"a clerk"}
    assert lines[0].people == (1,)
    assert not any(name in str(lines) for name in ("Ann", "Bea"))
    assert len(gallery.audit(most=2)) == 2
    assert len(gallery.audit(action="search")) == 1
    assert gallery.audit(since="2999-01-01") == ()
    with sqlite3.connect(path) as c:
        for change in ("DELETE FROM audit", "UPDATE audit SET count = 0"):
            with pytest.raises(sqlite3.IntegrityError, match="only ever added to"):
                c.execute(change)
    c.close()


def test_searches_need_not_be_logged(make: Make) -> None:
    gallery = make(audit_searches=False)
    gallery.search(vectors(3))
    assert gallery.audit(action="search") == ()


def test_info(filled: Gallery) -> None:
    info = filled.info()
    assert (info.people, info.faces, info.pictures, info.crops, info.expired) == (30, 120, 120, 0, 0)
    assert info.generation == info.indexed == 1
    assert info.size_mb is not None
    assert info.size_mb > 0
    assert info.to_dict()["contract"]["id"] == CONTRACT.id


def test_a_place_that_cannot_be_written(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = make()
    gallery.add(one("Ann", vectors(1)[0]))
    gallery.close()
    before = sorted(path.parent.rglob("*"))
    real = os.access
    monkeypatch.setattr(os, "access", lambda file, mode: mode != os.W_OK and real(file, mode))
    reader = make(read_only=True, contract=None, create=False)
    assert isinstance(reader, LocalGallery)
    own = reader.projection.folder
    assert own.parent != path.parent
    assert reader.search(vectors(1))[0][0].person == "Ann"
    assert sorted(path.parent.rglob("*")) == before
    reader.close()
    assert not own.exists()
