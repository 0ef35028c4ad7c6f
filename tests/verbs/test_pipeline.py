"""Detect, align, embed and analyze on painted faces: batches, geometry, many sources, broken ones."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mien.errors as errors
from mien.faces import Faces
from mien.verbs import _output, _pipeline
from mien.verbs.align import align
from mien.verbs.analyze import analyze
from mien.verbs.detect import detect
from mien.verbs.embed import embed


def save(path: Path, image: Any) -> str:
    Image.fromarray(image).save(path)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, fakes: Any) -> Path:
    """Four good pictures (one in a folder below), and four broken ones, one of them without faces."""
    save(tmp_path / "a.png", fakes.picture((40, 50, 100, 1)))
    save(tmp_path / "b.png", fakes.picture((60, 20, 60, 2), (180, 100, 90, 3)))
    save(tmp_path / "c.png", fakes.picture(height=300, width=200))
    (tmp_path / "below").mkdir()
    save(tmp_path / "below" / "d.png", fakes.picture((10, 10, 150, 1)))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("this is no picture, whatever its name says\n")
    buffer = io.BytesIO()
    Image.fromarray(fakes.picture((40, 50, 100, 1))).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    return tmp_path


def test_boxes_and_points_are_where_they_were_painted(fakes: Any) -> None:
    faces = detect(fakes.picture((40, 50, 100, 1), (200, 120, 80, 2)), weights="fake-detector")
    order = np.argsort(faces.boxes[:, 0])
    np.testing.assert_allclose(faces.boxes[order], [[40, 50, 140, 150], [200, 120, 280, 200]], atol=2)
    eyes = faces.landmarks5[order][0]
    np.testing.assert_allclose(eyes[0], [40 + 32.3, 50 + 45.7], atol=2)


@pytest.mark.parametrize("shape", [(240, 320), (1500, 900), (700, 2100), (97, 131)])
def test_scaling_comes_back_to_pixels_of_the_photo(fakes: Any, shape: tuple[int, int]) -> None:
    height, width = shape
    side = min(shape) // 2
    image = fakes.picture((width // 4, height // 5, side, 1), height=height, width=width)
    box = detect(image, weights="fake-detector").boxes
    wanted = [width // 4, height // 5, width // 4 + side, height // 5 + side]
    assert len(box) == 1
    np.testing.assert_allclose(box[0], wanted, atol=max(shape) / 640 * 3 + 1)


def test_a_batch_says_the_same_as_each_alone(fakes: Any) -> None:
    pictures = [
        fakes.picture((40, 50, 100, 1)),
        fakes.picture((20, 30, 80, 2), (150, 60, 120, 3), height=260, width=300),
        fakes.picture(),
        fakes.picture((30, 90, 70, 4), height=320, width=240),
    ]
    together = analyze(pictures, **fakes.analyze)
    alone = Faces.concat([analyze(p, **fakes.analyze) for p in pictures])
    assert [i.width for i in together.images] == [320, 300, 320, 240]
    np.testing.assert_array_equal(together.image, alone.image)
    for name in ("boxes", "scores", "landmarks3d", "pose", "quality", "embeddings"):
        np.testing.assert_allclose(together.column(name), alone.column(name), atol=1e-4, err_msg=name)


def test_networks_see_batches_and_never_one_face_at_a_time(fakes: Any) -> None:
    pictures = [fakes.picture((10, 10, 60, i), (100, 30, 60, i + 9), (200, 90, 70, i + 20)) for i in range(6)]
    faces = analyze(pictures, batch_size=6, quality="components", **fakes.analyze)
    assert len(faces) == 18
    # one pass at each of the two scales, and one pass of all faces through each of the others
    assert [call[0] for call in fakes.detector.calls] == [6, 6]
    assert [call[0] for call in fakes.landmarks.calls] == [18]
    assert [call[0] for call in fakes.embedder.calls] == [18]


def test_more_faces_than_a_batch_holds(fakes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = fakes.picture((10, 10, 60, 1), (100, 30, 60, 2), (200, 90, 70, 3))
    whole = embed(picture, **fakes.embed)
    monkeypatch.setattr(_pipeline, "FACE_BATCH", 2)
    fakes.embedder.calls.clear()
    parts = embed(picture, **fakes.embed)
    assert [call[0] for call in fakes.embedder.calls] == [2, 1]
    np.testing.assert_allclose(parts.embeddings, whole.embeddings, atol=1e-6)


def test_embeddings_tell_people_apart_at_any_place_and_size(fakes: Any) -> None:
    first = embed(fakes.picture((40, 50, 100, 1)), **fakes.embed)
    moved = embed(fakes.picture((120, 30, 160, 1)), **fakes.embed)
    other = embed(fakes.picture((40, 50, 100, 2)), **fakes.embed)
    assert first.contract is not None
    assert first.contract.startswith("fake-embedder@")
    assert float(first.embeddings[0] @ moved.embeddings[0]) > 0.9
    assert float(first.embeddings[0] @ other.embeddings[0]) < 0.5


def test_pictures_without_faces_have_all_columns(fakes: Any) -> None:
    blank = analyze(fakes.picture(), **fakes.analyze)
    found = analyze(fakes.picture((40, 50, 100, 1)), **fakes.analyze)
    assert len(blank) == 0
    assert set(blank.columns) == set(found.columns)
    assert blank.embeddings.shape == (0, 64)
    assert blank.landmarks3d.shape == (0, 70, 3)


def test_a_folder_of_nothing_but_broken_pictures_has_all_columns(fakes: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    faces = analyze(tmp_path, **fakes.analyze)
    assert (len(faces), len(faces.images), len(faces.failures)) == (0, 0, 1)
    assert set(faces.columns) == set(analyze(fakes.picture(), **fakes.analyze).columns)


def test_folder_with_broken_pictures(fakes: Any, folder: Path) -> None:
    faces = detect(folder, weights="fake-detector", batch_size=2)
    assert sorted(Path(i.source).name for i in faces.images) == ["a.png", "b.png", "c.png"]
    assert {Path(f.source).name: f.code for f in faces.failures} == {
        "empty.jpg": "empty_media", "text.jpg": "unknown_format", "cut.jpg": "corrupt_media",
    }  # fmt: skip
    assert all(f.hint for f in faces.failures)
    by_name = {Path(i.source).name: len(faces.of_image(k)) for k, i in enumerate(faces.images)}
    assert by_name == {"a.png": 1, "b.png": 2, "c.png": 0}


def test_recursive(fakes: Any, folder: Path) -> None:
    names = {Path(i.source).name for i in detect(folder, recursive=True, weights="fake-detector").images}
    assert "d.png" in names


def test_sources_of_every_kind_together(fakes: Any, folder: Path) -> None:
    image = fakes.picture((40, 50, 100, 1))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    sources = [
        folder / "a.png",
        str(folder / "*.png"),
        image,
        torch.from_numpy(image).permute(2, 0, 1),
        Image.fromarray(image),
        buffer.getvalue(),
        io.BytesIO(buffer.getvalue()),
        folder / "missing.png",
        folder / "no-such-folder-*" / "x?.png",
    ]
    faces = detect(sources, weights="fake-detector")
    assert len(faces.images) == 1 + 3 + 5
    assert [f.code for f in faces.failures] == ["media_not_found"] * 2
    assert len(faces) == 1 + 3 + 5


def test_a_stack_of_arrays_is_many_pictures(fakes: Any) -> None:
    stack = np.stack([fakes.picture((40, 50, 100, i)) for i in range(3)])
    assert len(detect(stack, weights="fake-detector").images) == 3


BAD: dict[str, tuple[Any, type[errors.MienError]]] = {
    "missing": ("no/such/picture.jpg", errors.MediaNotFound),
    "empty file": (b"", errors.EmptyMedia),
    "text": (b"hello, I am no picture at all", errors.UnknownFormat),
    "NaN": (np.full((20, 20, 3), np.nan, np.float32), errors.ValueRangeError),
    "wrong shape": (np.zeros((20, 20, 7), np.uint8), errors.ShapeError),
    "five dimensions": (np.zeros((1, 1, 20, 20, 3), np.uint8), errors.ShapeError),
    "wrong dtype": (np.zeros((20, 20, 3), np.complex64), errors.DtypeError),
    "zero size": (np.zeros((0, 20, 3), np.uint8), errors.MienError),
    "out of range": (np.full((20, 20, 3), 7.5, np.float32), errors.ValueRangeError),
    "no source at all": (None, errors.InputError),
}


@pytest.mark.parametrize("verb", [detect, align, embed, analyze], ids=lambda v: v.__name__)
@pytest.mark.parametrize("kind", BAD)
def test_bad_input_raises_a_typed_error_that_teaches(fakes: Any, verb: Any, kind: str) -> None:
    source, wanted = BAD[kind]
    options = {
        detect: {"weights": "fake-detector"},
        align: fakes.align,
        embed: fakes.embed,
        analyze: fakes.analyze,
    }
    with pytest.raises(wanted) as caught:
        verb(source, **options[verb])
    assert caught.value.hint or caught.value.expected, f"nobody learns from: {caught.value}"


@pytest.mark.parametrize("name", ["empty.jpg", "text.jpg", "cut.jpg"])
def test_one_broken_file_raises(fakes: Any, folder: Path, name: str) -> None:
    with pytest.raises(errors.MediaError, match=name):
        detect(folder / name, weights="fake-detector")


def test_a_folder_without_pictures(fakes: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing to see")
    with pytest.raises(errors.InputError) as caught:
        detect(tmp_path, weights="fake-detector")
    assert caught.value.hint


def test_no_rights(fakes: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = io.open

    def refuse(file: Any, *rest: Any, **more: Any) -> Any:
        if str(file).endswith("a.png"):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *rest, **more)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)  # pathlib's door
    with pytest.raises(errors.MediaForbidden):
        detect(folder / "a.png", weights="fake-detector")


OPTIONS: dict[str, Any] = {
    "threshold": 1.5, "size": 3, "min_face": -1, "batch_size": 0, "backend": "tensorflow",
    "device": "abacus", "weights": "fake-detectr",
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options_without_sense(fakes: Any, name: str) -> None:
    with pytest.raises(errors.MienError) as caught:
        detect(fakes.picture(), **{"weights": "fake-detector", name: OPTIONS[name]})
    assert caught.value.hint or caught.value.expected


def test_weights_of_another_task(fakes: Any) -> None:
    with pytest.raises(errors.OptionError, match="another task"):
        detect(fakes.picture(), weights="fake-embedder")


def test_min_face(fakes: Any) -> None:
    image = fakes.picture((20, 20, 40, 1), (150, 60, 120, 2))
    assert len(detect(image, weights="fake-detector", min_face=60)) == 1


def test_crops_show_the_face_upright(fakes: Any, tmp_path: Path) -> None:
    faces = align(fakes.picture((100, 40, 150, 1)), crop_size=64, out=str(tmp_path / "crops"), **fakes.align)
    assert faces.crops.shape == (1, 64, 64, 3)
    written = sorted((tmp_path / "crops").iterdir())
    assert [w.name for w in written] == ["picture_0.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(written[0])), faces.crops[0])
    with pytest.raises(errors.OptionError, match="template"):
        align(fakes.picture(), template="arcface", **fakes.align)


def test_csv_has_a_row_for_every_face(fakes: Any, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "faces.csv"
    faces = detect(folder, weights="fake-detector", csv=str(path))
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == len(faces) == 3
    assert float(rows[0]["xmin"]) == pytest.approx(float(faces.boxes[0, 0]), abs=0.01)
    assert rows[0]["file"] == faces.images[faces.image[0]].source
    assert [p.name for p in path.parent.iterdir()] == ["faces.csv"], "no half-written file stays behind"


def test_embeddings_are_written_and_read_back(fakes: Any, folder: Path, tmp_path: Path) -> None:
    faces = embed(folder, out=str(tmp_path / "e.npz"), **fakes.embed)
    with np.load(tmp_path / "e.npz") as held:
        np.testing.assert_array_equal(held["embeddings"], faces.embeddings)
        assert str(held["contract"]) == faces.contract
    parquet = pytest.importorskip("pyarrow.parquet")
    _output.write_embeddings(faces, tmp_path / "e.parquet")
    table = parquet.read_table(tmp_path / "e.parquet")
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy(zero_copy_only=False)), faces.embeddings)
    assert table.schema.metadata[b"mien.contract"].decode() == faces.contract


def test_a_wrong_ending_is_told_before_the_work(fakes: Any) -> None:
    with pytest.raises(errors.OptionError, match="parquet"):
        embed(fakes.picture((40, 50, 100, 1)), out="embeddings.txt", **fakes.embed)
    assert fakes.detector.calls == []


def test_annotated_pictures(fakes: Any, folder: Path, tmp_path: Path) -> None:
    source = folder / "a.png"
    analyze(source, out=str(tmp_path / "drawn.png"), **fakes.analyze)
    drawn, plain = Image.open(tmp_path / "drawn.png"), Image.open(source)
    assert drawn.size == plain.size
    assert np.abs(np.asarray(drawn, int) - np.asarray(plain, int)).max() > 50, "something must be drawn"
    detect([source, folder / "b.png", folder / "a.png"], weights="fake-detector", out=str(tmp_path / "many"))
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == ["a-2.jpg", "a.jpg", "b.jpg"]
    with pytest.raises(errors.OptionError, match="one file"):
        detect(folder, weights="fake-detector", out="one.jpg")


def test_progress_counts_to_the_end(fakes: Any, folder: Path) -> None:
    seen: list[tuple[int, int | None, str]] = []
    detect(folder, weights="fake-detector", batch_size=1, progress=lambda *told: seen.append(told))
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert {total for _, total, _ in seen} == {6}


def test_whole_file_leaves_the_old_one_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def half_a_table() -> None:
        with _output.whole_file(path) as file:
            file.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_a_table()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
