"""``search``: everybody on every picture, strangers and poor faces among them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.verbs.test_enroll import EASY

import mien
from mien import errors
from mien.gallery import Gallery
from mien.gallery.thresholds import estimated
from mien.verbs.search import Found
from mien.weights import info

if TYPE_CHECKING:
    from tests.conftest import Fakes


@pytest.fixture
def place(fakes: Fakes, tmp_path: Path) -> Path:
    """A gallery of Ann (two faces), Bob and Cid."""
    pictures = {
        "Ann": [fakes.picture((30, 40, side, 1)) for side in (100, 60)],
        "Bob": fakes.picture((30, 40, 100, 2)),
        "Cid": fakes.picture((30, 40, 100, 3)),
    }
    mien.enroll(pictures, gallery=tmp_path / "g.db", **{**EASY, "same_face": 2.0})
    return tmp_path / "g.db"


def search(source: Any, place: Any, **more: Any) -> Found:
    return mien.search(source, gallery=place, **{**EASY, "weights": None, **more})


def test_everybody_in_a_picture(place: Path, fakes: Fakes) -> None:
    group = fakes.picture((10, 40, 80, 2), (110, 60, 80, 1), (210, 60, 80, 9))
    found = search(group, place, fpir=0.02, purpose="who is here")
    assert len(found.faces) == 3
    assert {face.person for face in found.faces} == {"Ann", "Bob", None}
    assert found.people == tuple(face.person for face in found.faces if face.person)
    by_name = {face.person: face for face in found.faces}
    assert by_name["Bob"].box == pytest.approx((10, 40, 90, 120), abs=6)
    assert by_name["Bob"].matches[0].similarity > 0.95
    assert by_name[None].matches == ()
    assert found.enrolled == 4
    level = found.threshold
    assert level == estimated(0.02, 4, info("fake-embedder").calibration)
    assert level.fmr == pytest.approx(1 - 0.98 ** (1 / 4))
    with Gallery.open(place) as gallery:
        entry = gallery.audit(action="search")[0]
    assert (entry.count, entry.note) == (3, "who is here")


def test_a_threshold_of_ones_own_and_those_below_it(place: Path, fakes: Fakes) -> None:
    stranger = fakes.picture((30, 40, 100, 9))
    assert search(stranger, place, threshold=0.99).faces[0].matches == ()
    below = search(stranger, place, threshold=0.99, below=True, k=2)
    assert len(below.faces[0].matches) == 2
    assert below.faces[0].person is None
    assert below.threshold.origin == "given"
    assert search(stranger, place, threshold=-1).faces[0].person is not None


def test_many_pictures_and_broken_ones(place: Path, fakes: Fakes, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    mien.save_image(folder / "a.png", fakes.picture((30, 40, 100, 1)))
    mien.save_image(folder / "b.png", fakes.picture())
    (folder / "c.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    found = search(folder, place)
    assert [face.person for face in found.faces] == ["Ann"]
    assert found.faceless == (str(folder / "b.png"),)
    assert [failure.code for failure in found.failures] == ["corrupt_media"]
    with pytest.raises(errors.CorruptMedia):
        search(folder / "c.jpg", place)


def test_poor_faces_get_no_name(place: Path, fakes: Fakes) -> None:
    found = search(fakes.picture((30, 40, 100, 1)), place, min_quality=1.0)
    assert found.faces[0].person is None
    assert "too low quality" in found.faces[0].remark


def test_faces_that_were_made_before(place: Path, fakes: Fakes) -> None:
    options = {**fakes.analyze, "device": "cpu", "quality": "components"}
    faces = mien.analyze(fakes.picture((30, 40, 100, 3)), **options)
    assert search(faces, place).people == ("Cid",)
    foreign = mien.Faces(
        image=faces.image, boxes=faces.boxes, quality=faces.quality, embeddings=faces.embeddings, images=faces.images,
        contract="other@1",
    )  # fmt: skip
    with pytest.raises(errors.ContractMismatch):
        search(foreign, place)


def test_templates(place: Path, fakes: Fakes) -> None:
    found = search(fakes.picture((30, 40, 100, 1)), place, score="template")
    assert found.people == ("Ann",)
    assert found.score == "template"


def test_no_gallery_and_wrong_options(place: Path, fakes: Fakes, tmp_path: Path) -> None:
    picture = fakes.picture((30, 40, 100, 1))
    with pytest.raises(errors.GalleryNotFound):
        search(picture, tmp_path / "none.db")
    for options in ({"score": "mean"}, {"fpir": 0.0}, {"threshold": 3.0}, {"min_quality": -1.0}, {"k": 0}):
        with pytest.raises(errors.OptionError):
            search(picture, place, **options)
    with pytest.raises(errors.ContractMismatch):
        search(picture, place, weights="mien-embedder")


def test_an_empty_gallery_knows_nobody(fakes: Fakes, tmp_path: Path) -> None:
    from mien.verbs.gallery import create_gallery

    create_gallery(str(tmp_path / "e.db"), weights="fake-embedder")
    assert search(fakes.picture((30, 40, 100, 1)), tmp_path / "e.db").people == ()
