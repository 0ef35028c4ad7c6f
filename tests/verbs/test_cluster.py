"""``cluster``: an album of who is with whom."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from tests.verbs.test_enroll import EASY
from tests.verbs.test_people import _wide, call  # noqa: F401

import mien
from mien import errors
from mien.verbs.cluster import Album

if TYPE_CHECKING:
    from tests.conftest import Fakes


@pytest.fixture
def photos(fakes: Fakes, tmp_path: Path) -> Path:
    """Person 1 on three pictures, person 2 on two (one of them with 1), person 3 on one, and a broken picture."""
    folder = tmp_path / "photos & more"
    folder.mkdir()
    for name, faces in (
        ("a.png", [(30, 40, 100, 1)]), ("b.png", [(20, 40, 90, 1), (180, 60, 90, 2)]), ("c.png", [(60, 40, 80, 1)]),
        ("d.png", [(60, 40, 80, 2)]), ("e.png", [(60, 40, 80, 3)]), ("f.png", []),
    ):  # fmt: skip
        mien.save_image(folder / name, fakes.picture(*faces))
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return folder


def cluster(source: Any, **more: Any) -> Album:
    return mien.cluster(source, **{**EASY, "fmr": 1e-2, **more})


def pictures(album: Album) -> list[list[str]]:
    return [sorted(Path(face.source).name for face in person.faces) for person in album.people]


def test_who_is_with_whom(photos: Path) -> None:
    album = cluster(photos)
    assert pictures(album) == [["a.png", "b.png", "c.png"], ["b.png", "d.png"]]
    assert [person.name for person in album.people] == ["person-001", "person-002"]
    assert [Path(face.source).name for face in album.alone] == ["e.png"]
    assert (album.pictures, album.faces, album.poor, album.out) == (6, 6, (), "")
    assert [failure.code for failure in album.failures] == ["corrupt_media"]
    assert album.threshold == 0.5
    assert "painted faces" in album.threshold_from
    assert all(a.quality >= b.quality for p in album.people for a, b in zip(p.faces, p.faces[1:], strict=False))


def test_the_album(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "album"
    album = cluster(photos, out=out, title="Us <3", every_s=None)
    assert album.out == str(out)
    assert sorted(path.name for path in out.iterdir()) == [
        "album.json", "faces", "index.html", "person-001", "person-002",
    ]  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["album"], "nothing is left beside it"
    assert sorted(path.name for path in (out / "person-001").iterdir()) == ["a.png", "b.png", "c.png"]
    assert (out / "person-001" / "a.png").is_symlink()
    assert (out / "person-001" / "a.png").read_bytes() == (photos / "a.png").read_bytes()
    plain = json.loads((out / "album.json").read_text())
    assert [person["folder"] for person in plain["people"]] == ["person-001", "person-002"]
    page = (out / "index.html").read_text()
    assert "<title>Us &lt;3</title>" in page
    assert "http" not in page
    for source in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert (out / unquote(source)).exists(), source
    crops = [face.crop for person in album.people for face in person.faces] + [face.crop for face in album.alone]
    assert len(set(crops)) == 6
    assert mien.load_image(out / crops[0]).shape == (112, 112, 3)


def test_what_is_in_the_folder_is_not_lost(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "album"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(errors.OptionError, match="holds something"):
            cluster(photos, out=out, overwrite=overwrite)
    assert (out / "letter.txt").read_text() == "dear"
    (out / "letter.txt").unlink()
    cluster(photos, out=out, pictures="copy")
    assert not (out / "person-001" / "a.png").is_symlink()
    with pytest.raises(errors.OptionError, match="overwrite"):
        cluster(photos, out=out)
    cluster(photos, out=out, overwrite=True, pictures="none")
    assert not (out / "person-001").exists()
    with pytest.raises(errors.NotAFile):
        cluster(photos, out=out / "index.html")


def test_a_failure_leaves_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "symlink", None)
    monkeypatch.setattr(Path, "symlink_to", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    with pytest.raises(errors.OptionError, match="copy"):
        cluster(photos, out=tmp_path / "out" / "album")
    assert list((tmp_path / "out").iterdir()) == []


def test_names_from_a_gallery(photos: Path, tmp_path: Path, fakes: Fakes) -> None:
    place = tmp_path / "g.db"
    mien.enroll({"faces": fakes.picture((30, 40, 100, 2))}, gallery=place, **EASY)
    album = cluster(photos, out=tmp_path / "album", gallery=place)
    assert [(person.name, person.known) for person in album.people] == [("person-001", False), ("faces", True)]
    assert album.people[1].similarity is not None
    # A folder of that name is the album's own.
    assert (tmp_path / "album" / "faces_" / "d.png").exists()
    empty = tmp_path / "e.db"
    from mien.verbs.gallery import create_gallery

    create_gallery(str(empty), weights="fake-embedder")
    assert not any(person.known for person in cluster(photos, gallery=empty).people)


def test_options(photos: Path) -> None:
    assert pictures(cluster(photos, least=1))[-1] == ["e.png"]
    assert len(cluster(photos, cluster_threshold=-1.0, method="connected").people) == 1
    assert len(cluster(photos, min_quality=1.0).poor) == 6
    for options in ({"method": "single"}, {"pictures": "move"}, {"least": 0}, {"cluster_threshold": 2.0}):
        with pytest.raises(errors.OptionError):
            cluster(photos, **options)


def test_nothing_at_all(fakes: Fakes, tmp_path: Path) -> None:
    mien.save_image(tmp_path / "f.png", fakes.picture())
    album = cluster(tmp_path / "f.png", out=tmp_path / "album")
    assert (album.people, album.faces, album.pictures) == ((), 0, 1)
    assert (tmp_path / "album" / "index.html").exists()


def test_the_command(photos: Path, tmp_path: Path) -> None:
    words = ["--detector", "fake-detector", "--landmarks", "fake-landmarks", "--weights", "fake-embedder"]
    more = ["--device", "cpu", "--quality", "components", "--min-quality", "0", "--fmr", "0.01"]
    done = call("cluster", photos, "--out", tmp_path / "album", *words, *more)
    assert done.exit_code == 3  # a picture is broken
    assert "person-002" in done.stdout
    assert "6 faces in 6 pictures: 2 people, 1 alone" in done.stdout
    assert "index.html" in done.stdout
