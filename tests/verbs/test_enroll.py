"""``enroll``: who is on what, what is refused and why, and what happens when it is done again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import mien
from mien import errors
from mien.gallery import Gallery
from mien.verbs.enroll import Enrolment

if TYPE_CHECKING:
    from tests.conftest import Fakes

EASY = {
    "weights": "fake-embedder", "detector": "fake-detector", "landmarks": "fake-landmarks", "device": "cpu",
    "quality": "components", "min_quality": 0.0,
}  # fmt: skip
"""The fakes; they see no texture, so quality is no obstacle."""


@pytest.fixture
def known(fakes: Fakes, tmp_path: Path) -> Path:
    """A folder of people: Ann with two pictures, Bob with one, and Cid's picture beside their folders."""
    folder = tmp_path / "known"
    for name, person, side in (("Ann/1.png", 1, 100), ("Ann/2.png", 1, 70), ("Bob/b.png", 2, 100), ("Cid.png", 3, 90)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        mien.save_image(folder / name, fakes.picture((30, 40, side, person)))
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "g.db"


def enroll(source: Any, place: Any, **more: Any) -> Enrolment:
    return mien.enroll(source, gallery=place, **{**EASY, "same_face": 2.0, **more})


def names(place: Path) -> dict[str, int]:
    with Gallery.open(place) as gallery:
        return {person.name: person.faces for person in gallery.people()}


def reasons(done: Enrolment) -> dict[str, str]:
    return {Path(refusal.source).name: refusal.reason.value for refusal in done.refused}


def test_a_folder_of_people(known: Path, place: Path) -> None:
    seen: list[tuple[int, int | None, str]] = []
    done = enroll(known, place, progress=lambda *told: seen.append(told), batch_size=2, purpose="visitors")
    assert (done.pictures, done.enrolled, done.new_people, done.already, done.ok) == (4, 4, 3, 0, True)
    assert done.refused == ()
    assert done.failures == ()
    assert names(place) == {"Ann": 2, "Bob": 1, "Cid": 1}
    assert seen[-1] == (4, 4, "pictures")
    with Gallery.open(place) as gallery:
        assert gallery.contract.weights == "fake-embedder"
        face = gallery.faces("Bob")[0]
        assert face.source == str(known / "Bob" / "b.png")
        assert len(face.sha256) == 64
        assert face.box is not None
        assert gallery.audit(action="enrol")[0].note == "visitors"
        assert len({entry.run for entry in gallery.audit(action="enrol")}) == 1


def test_done_again_it_goes_on_where_it_stopped(known: Path, place: Path, fakes: Fakes) -> None:
    enroll(known / "Ann", place, person="Ann")
    before = len(fakes.embedder.calls)
    again = enroll(known / "Ann", place, person="Ann")
    assert (again.enrolled, again.already, again.ok) == (0, 2, True)
    assert len(fakes.embedder.calls) == before, "nothing is looked at again"
    whole = enroll(known, place)
    assert (whole.enrolled, whole.already) == (2, 2)
    # Under another name of the file it is the same picture.
    shutil.copy(known / "Bob" / "b.png", known / "Bob" / "copy.png")
    assert enroll(known, place).already == 5


def test_a_run_that_is_broken_off_keeps_what_is_done(known: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, total: int | None, what: str) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enroll(known, place, batch_size=1, progress=stop)
    assert sum(names(place).values()) == 2
    done = enroll(known, place)
    assert (done.enrolled, done.already) == (2, 2)


def test_a_table(known: Path, place: Path) -> None:
    table = known / "people.csv"
    table.write_text(
        "file,identity,basis,retain_until\n"
        "Ann/1.png,Ann Lee,contract 7,2999-01-01\nBob/b.png,Bob,,\nCid.png,Cid,,2998-01-01\n"
    )
    done = enroll(table, place, basis="consent", retain_until="2997-01-01")
    assert done.enrolled == 3
    with Gallery.open(place) as gallery:
        told = {face.person: (face.basis, face.retain_until) for face in gallery.faces()}
    assert told == {
        "Ann Lee": ("contract 7", "2999-01-01"), "Bob": ("consent", "2997-01-01"), "Cid": ("consent", "2998-01-01"),
    }  # fmt: skip
    table.write_text("file,identity,retain_until\nAnn/1.png,Ann,soon\n")
    with pytest.raises(errors.TableError, match="line 2"):
        enroll(table, place)
    with pytest.raises(errors.OptionError, match="who is who"):
        enroll(table, place, person="Ann")


def test_pictures_and_names(known: Path, place: Path, fakes: Fakes) -> None:
    assert enroll([known / "Cid.png", known / "Bob" / "b.png"], place).enrolled == 2
    assert names(place) == {"Cid": 1, "b": 1}
    arrays = [fakes.picture((30, 40, side, 4)) for side in (80, 100)]
    assert enroll(arrays, place, person="Dan").enrolled == 2
    assert enroll(arrays[0], place, person="Dan").already == 1
    assert enroll({"Eve": arrays[1], "Fay": [known / "Ann" / "1.png"]}, place).enrolled == 2
    assert names(place)["Eve"] == 1
    with pytest.raises(errors.OptionError, match="whose these pictures are"):
        enroll(arrays, place)
    assert enroll((known / "Ann" / "1.png").read_bytes(), place, person="Gus").enrolled == 1
    with open(known / "Ann" / "2.png", "rb") as file:
        assert enroll(file, place, person="Gus").enrolled == 1


def test_what_is_refused_and_why(known: Path, place: Path, fakes: Fakes, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    (odd / "Ann").mkdir(parents=True)
    (odd / "empty").mkdir()
    mien.save_image(odd / "Ann" / "nobody.png", fakes.picture())
    mien.save_image(odd / "Ann" / "two.png", fakes.picture((20, 40, 90, 1), (180, 60, 100, 2)))
    mien.save_image(odd / "Ann" / "small.png", fakes.picture((20, 40, 14, 1)))
    mien.save_image(odd / "Ann" / "behind.png", fakes.picture((20, 40, 120, 1), (200, 60, 30, 2)))
    shutil.copy(odd / "Ann" / "behind.png", odd / "Ann" / "copy.png")
    mien.media.write_video(odd / "Ann" / "film.mp4", [fakes.picture((20, 40, 90, 1))] * 3, fps=10)
    (odd / "Ann" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    done = enroll(odd, place, recursive=True)
    assert done.enrolled == 1
    assert reasons(done) == {
        "nobody.png": "no_face", "two.png": "several_faces", "small.png": "too_small", "copy.png": "same_picture",
        "film.mp4": "video",
    }  # fmt: skip
    small = next(refusal for refusal in done.refused if refusal.source.endswith("small.png"))
    assert small.value is not None
    assert small.limit is not None
    assert small.value < small.limit
    assert "px between the eyes" in small.text
    assert {Path(failure.source).name: failure.code for failure in done.failures} == {
        "torn.jpg": "corrupt_media", "empty": "empty_media",
    }  # fmt: skip
    # What was refused is looked at again, with other options taken.
    again = enroll(odd, place, recursive=True, only_one=False, choose="largest")
    assert again.enrolled == 1
    assert "two.png" not in reasons(again)


def test_nothing_taken_is_not_ok(fakes: Fakes, place: Path, tmp_path: Path) -> None:
    mien.save_image(tmp_path / "nobody.png", fakes.picture())
    assert not enroll(tmp_path / "nobody.png", place).ok


def test_duplicates_and_mistaken_people(known: Path, place: Path, fakes: Fakes) -> None:
    (known / "Zoe").mkdir()
    mien.save_image(known / "Zoe" / "z.png", fakes.picture((60, 50, 100, 2)))  # Bob, moved in the picture
    done = enroll(known, place, same_face=0.985)
    assert reasons(done) == {"2.png": "same_face", "z.png": "looks_like_other"}
    (other,) = [refusal for refusal in done.refused if refusal.person == "Zoe"]
    assert "enrolled as Bob" in other.text
    assert names(place) == {"Ann": 1, "Bob": 1, "Cid": 1}


def test_strict(known: Path, place: Path, fakes: Fakes) -> None:
    enroll(known, place)
    mixed = fakes.picture((30, 40, 100, 2))
    mixed[40:140, 30:130] = (
        0.65 * mixed[40:140, 30:130] + 0.35 * fakes.picture((30, 40, 100, 3))[40:140, 30:130]
    ).astype(np.uint8)
    assert enroll(mixed, place, person="Dan").enrolled == 1
    refused = enroll(mixed, place, person="Eve", strict=True, same_face=2.0)
    assert [refusal.reason.value for refusal in refused.refused] == ["looks_like_other"]


def test_crops_are_kept_only_if_asked_for(known: Path, place: Path) -> None:
    enroll(known / "Ann", place, person="Ann")
    enroll(known / "Bob", place, person="Bob", crops=True)
    with Gallery.open(place) as gallery:
        (bob,) = gallery.faces("Bob")
        assert [face.crop for face in gallery.faces("Ann")] == [False, False]
        jpeg = gallery.crop(bob.id)
    assert jpeg is not None
    assert mien.load_image(jpeg).shape == (112, 112, 3)


def test_a_gallery_of_other_weights(known: Path, place: Path, tmp_path: Path) -> None:
    enroll(known, place)
    with pytest.raises(errors.ContractMismatch):
        enroll(known, place, weights="mien-embedder")
    # Without a name those of the gallery are taken.
    assert enroll(known, place, weights=None).already == 4
    with Gallery.open(place) as gallery, pytest.raises(errors.ContractMismatch):
        enroll(known, gallery, weights="mien-embedder")


def test_an_open_gallery_stays_open(known: Path, place: Path) -> None:
    enroll(known / "Ann", place, person="Ann")
    with Gallery.open(place) as gallery:
        assert enroll(known / "Bob", gallery, person="Bob").enrolled == 1
        assert len(gallery) == 3


@pytest.mark.parametrize("options", [{"min_quality": 2}, {"same_face": 0}, {"dtype": "int8"}, {"retain_until": "soon"}])
def test_wrong_options_are_told_before_anything_is_made(known: Path, place: Path, options: dict[str, Any]) -> None:
    with pytest.raises(errors.OptionError):
        enroll(known, place, **options)
    assert not place.exists()


def test_nothing_to_enrol(place: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.MediaNotFound):
        enroll(tmp_path / "nowhere", place)
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.EmptyMedia):
        enroll(tmp_path / "empty", place)
    assert not place.exists()
