"""What verbs write: whole files or none, names that do not clash, and typed errors where nothing can be written."""

from __future__ import annotations

import csv
import errno
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mien.errors as errors
from mien.faces import Faces, ImageInfo
from mien.verbs import _output


@pytest.fixture
def faces() -> Faces:
    """Two faces in one picture, none in the next, one in a frame of a video."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(3, 8))
    return Faces(
        image=[0, 0, 2],
        boxes=[[10, 20, 60, 80], [70.256, 20, 100, 60], [1, 2, 30, 40]],
        scores=[0.9, 0.8, 0.75],
        landmarks5=rng.uniform(10, 50, (3, 5, 2)),
        crops=rng.integers(0, 256, (3, 16, 16, 3), np.uint8),
        embeddings=embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        images=[
            ImageInfo("photos/a b.jpg", 200, 100),
            ImageInfo("photos/empty.jpg", 200, 100),
            ImageInfo("film.mp4", 200, 100, 1.5),
        ],
        contract="x@1",
    )


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------- files


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deeper" / "a.txt"
    with _output.whole_file(target) as file:
        file.write("one")
        assert not target.exists(), "nobody sees a part of it"
    assert target.read_text() == "one"
    assert listed(target.parent) == ["a.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask, "readable for whom other files are"
    with _output.whole_file(target, "wb") as file:
        file.write(b"two")
    assert target.read_bytes() == b"two"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_old_file_stays_when_writing_is_broken_off(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def half_a_file() -> None:
        with _output.whole_file(target) as file:
            file.write("half")
            raise error

    with pytest.raises(error):
        half_a_file()
    assert target.read_text() == "old"
    assert listed(tmp_path) == ["a.txt"]


def test_a_name_as_long_as_the_system_takes(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 251 + ".txt")
    with _output.whole_file(target) as file:
        file.write("x")
    assert target.read_text() == "x"


def test_a_folder_stands_there_or_a_file_where_a_folder_should(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for target, told in ((tmp_path, "a folder stands"), (tmp_path / "file" / "a.txt", "a file stands")):
        with pytest.raises(errors.NotAFile, match=told) as caught, _output.whole_file(target):
            pytest.fail("nothing may be written")
        assert caught.value.hint
    with pytest.raises(errors.NotAFile):
        _output.folder(tmp_path / "file")


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (errno.EACCES, errors.MediaForbidden),
        (errno.EROFS, errors.MediaForbidden),
        (errno.ENOSPC, errors.MediaError),
    ],
)
def test_what_the_system_says_becomes_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, wanted: type[errors.MediaError]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_output.os, "replace", refuse)
    with pytest.raises(wanted) as caught, _output.whole_file(tmp_path / "a.txt") as file:
        file.write("x")
    assert caught.value.got == os.strerror(number)
    assert caught.value.hint
    assert listed(tmp_path) == []


# ------------------------------------------------------------------------------------------- names


def test_names() -> None:
    assert _output.file_stem(ImageInfo("some/where/a b&c.jpeg", 1, 1)) == "a_b_c"
    assert _output.file_stem(ImageInfo("film.mp4", 1, 1, 75.25)) == "film_00075.25s"
    assert _output.file_stem(ImageInfo("..", 1, 1)), "never empty"
    names = _output.Names()
    assert [names(stem) for stem in ("a", "b", "a", "a-2", "a")] == ["a", "b", "a-2", "a-2-2", "a-3"]


# ------------------------------------------------------------------------------------------- tables, crops, pictures


def test_csv(faces: Faces, tmp_path: Path) -> None:
    _output.write_csv(faces, tmp_path / "faces.csv")
    rows = list(csv.DictReader((tmp_path / "faces.csv").open()))
    assert [row["file"] for row in rows] == ["photos/a b.jpg", "photos/a b.jpg", "film.mp4"]
    assert [row["time_s"] for row in rows] == ["", "", "1.500"]
    assert rows[1]["xmin"] == "70.26"
    assert rows[2]["score"] == "0.7500"
    points = [[float(rows[0][f"{name}_{axis}"]) for axis in "xy"] for name in
              ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")]  # fmt: skip
    np.testing.assert_allclose(points, faces.landmarks5[0], atol=0.006)


def test_crops(faces: Faces, tmp_path: Path) -> None:
    _output.write_crops(faces, tmp_path / "crops")
    assert listed(tmp_path / "crops") == ["a_b_0.png", "a_b_1.png", "film_00001.50s_0.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "crops" / "a_b_1.png")), faces.crops[1])


def test_embeddings(faces: Faces, tmp_path: Path) -> None:
    _output.write_embeddings(faces, tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz", allow_pickle=False) as held:
        np.testing.assert_array_equal(held["embeddings"], faces.embeddings)
        assert held["source"].tolist() == ["photos/a b.jpg", "photos/a b.jpg", "film.mp4"]
        np.testing.assert_array_equal(held["time_s"], [np.nan, np.nan, 1.5])
        assert str(held["contract"]) == "x@1"
    parquet = pytest.importorskip("pyarrow.parquet")
    for these, name in ((faces, "e.parquet"), (faces[:0], "none.parquet")):
        _output.write_embeddings(these, tmp_path / name)
        table = parquet.read_table(tmp_path / name)
        assert table.schema.field("embedding").type.list_size == 8
        assert table.column("source").to_pylist() == [faces.images[i].source for i in these.image]


@pytest.mark.parametrize("name", ["e.csv", "e", "e.parquet.gz"])
def test_embeddings_in_a_format_of_ones_own(faces: Faces, tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.OptionError, match=r"\.parquet or \.npz"):
        _output.check_embeddings_path(tmp_path / name)
    with pytest.raises(errors.OptionError):
        _output.write_embeddings(faces, tmp_path / name)
    _output.check_embeddings_path(None)
    _output.check_embeddings_path("E.NPZ")


def test_annotated_pictures_go_to_a_file_or_a_folder(fakes: Any, tmp_path: Path) -> None:
    from mien.media import Photo

    assert _output.annotated_to(None, many=True) is None
    with pytest.raises(errors.OptionError, match="one file"):
        _output.annotated_to("a.JPG", many=True)
    image = fakes.picture((10, 10, 60, 1), height=100, width=120)
    photo = Photo(image, ImageInfo("x/one.png", 120, 100))
    nobody = Faces(image=[], boxes=np.zeros((0, 4)), scores=[], landmarks5=np.zeros((0, 5, 2)), images=[photo.info])
    for out, written in (
        ("drawn.png", "drawn.png"),
        ("folder", "folder/one.jpg"),
        ("new/drawn.webp", "new/drawn.webp"),
    ):
        sink = _output.annotated_to(tmp_path / out, many=False)
        assert sink is not None
        sink(photo, nobody)
        with Image.open(tmp_path / written) as opened:
            assert opened.size == (120, 100)
    (tmp_path / "taken").write_text("x")
    sink = _output.annotated_to(tmp_path / "taken", many=True)
    assert sink is not None
    with pytest.raises(errors.NotAFile):
        sink(photo, nobody)
