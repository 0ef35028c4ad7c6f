"""``gallery``: the verbs over a gallery as a whole, and their commands; enrol and search as commands, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.verbs.test_people import _wide, call  # noqa: F401

import mien
from mien import errors
from mien.gallery import Batch, Contract, Gallery
from mien.verbs.gallery import (
    audit_gallery,
    calibrate_gallery,
    create_gallery,
    expire_faces,
    export_faces,
    import_faces,
    info_gallery,
    vacuum_gallery,
)

if TYPE_CHECKING:
    from tests.conftest import Fakes


@pytest.fixture
def place(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(40, 16)), 2, axis=0) + 0.2 * rng.normal(size=(80, 16))
    path = tmp_path / "g.db"
    with Gallery.open(path, contract=Contract(id="made-up@1", dim=16), create=True) as gallery:
        gallery.add(Batch(people=[f"person {i // 2}" for i in range(80)], embeddings=rows))
    return str(path)


def test_info_and_create(place: str, tmp_path: Path, fakes: Fakes) -> None:
    info = info_gallery(place)
    assert (info.people, info.faces) == (40, 80)
    told = call("gallery", "info", place)
    assert "made-up@1" in told.stdout
    made = create_gallery(str(tmp_path / "new.db"), weights="fake-embedder", dtype="float16", audit_searches=False)
    assert (made.faces, made.dtype, made.audit_searches) == (0, "float16", False)
    with pytest.raises(errors.GalleryNotFound):
        info_gallery(str(tmp_path / "none.db"))


def test_calibrate(place: str) -> None:
    kept = calibrate_gallery(place, fpirs=[0.1, 0.25])
    assert [point.fpir for point in kept.points] == [0.25, 0.1]
    assert info_gallery(place).calibration == kept
    told = json.loads(call("gallery", "calibrate", place, "--fpirs", "0.1,0.001", "--json").stdout)
    assert [point["fpir"] for point in told["points"]] == [0.1]
    assert call("gallery", "calibrate", place, "--fpirs", "0.0001").exit_code == 1


def test_export_and_import(place: str, tmp_path: Path) -> None:
    file = str(tmp_path / "people.npz")
    assert export_faces(place, file, purpose="moving").faces == 80
    # A new gallery is made for the bundled embedder unless told otherwise; these are others.
    with pytest.raises(errors.ContractMismatch):
        import_faces(str(tmp_path / "new.db"), file)
    call("people", "delete", "person 3", "--gallery", place)
    back = import_faces(place, file)
    assert (back.faces, back.people, back.already) == (2, 1, 78)
    assert call("gallery", "import", place, file).exit_code == 0


def test_expire_vacuum_and_audit(place: str) -> None:
    mien.people.retain("person 1", gallery=place, until="2020-01-01")
    assert info_gallery(place).expired == 2
    gone = expire_faces(place, on="2020-01-01")
    assert gone.faces == 0
    gone = expire_faces(place, purpose="as every night")
    assert (gone.people, gone.faces, gone.complete) == (1, 2, True)
    cleaned = vacuum_gallery(place)
    assert cleaned.complete
    lines = audit_gallery(place)
    assert [line.action for line in lines] == ["vacuum", "expire", "retain", "enrol", "create"]
    assert lines[1].note == "as every night"
    assert [line.action for line in audit_gallery(place, action="enrol")] == ["enrol"]
    told = call("gallery", "audit", place, "--most", 2)
    assert "expire" in told.stdout
    assert "person 1" not in told.stdout


def test_enrol_and_search_as_commands(fakes: Fakes, tmp_path: Path) -> None:
    words = [
        "--detector",
        "fake-detector",
        "--landmarks",
        "fake-landmarks",
        "--device",
        "cpu",
        "--quality",
        "components",
    ]
    more = [*words, "--min-quality", "0"]
    (tmp_path / "known" / "Ann").mkdir(parents=True)
    mien.save_image(tmp_path / "known" / "Ann" / "1.png", fakes.picture((30, 40, 100, 1)))
    mien.save_image(tmp_path / "known" / "Ann" / "2.png", fakes.picture())
    place = tmp_path / "g.db"
    done = call("enroll", tmp_path / "known", "--gallery", place, "--weights", "fake-embedder", *more)
    assert done.exit_code == 0, done.stderr
    assert "1 face of 1 person, 1 of them new" in done.stdout
    assert "no face" in done.stdout
    photo = tmp_path / "photo.png"
    mien.save_image(photo, fakes.picture((30, 40, 100, 1), (180, 60, 100, 5)))
    found = call("search", photo, "--gallery", place, *more)
    assert found.exit_code == 0, found.stderr
    assert "Ann" in found.stdout
    assert "nobody" in found.stdout
    assert "0.01 of searches for strangers" in found.stdout
    plain = json.loads(call("search", photo, "--gallery", place, *more, "--json").stdout)
    assert [face["person"] for face in plain["faces"]].count("Ann") == 1
    assert plain["threshold"]["fpir"] == 0.01
    nothing = call("enroll", tmp_path / "known" / "Ann" / "2.png", "--gallery", place, *more)
    assert nothing.exit_code == 1
