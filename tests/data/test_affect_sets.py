"""AffectNet and Aff-Wild2 as they are handed out, upright faces, rendered heads, and files of word vectors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mien.data import affect
from mien.data.affect import affectnet, affwild2, balanced_weights, class_weights, drawn_heads, read_affect, upright
from mien.data.word_vectors import glove, word_vectors
from mien.errors import MediaNotFound, MienError, OptionError, TableError, UnknownFormat, ValueRangeError


def painted(path: Path, seed: int, height: int = 90, width: int = 120) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 6, width // 6, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST))


def points(left: tuple[float, float], right: tuple[float, float]) -> str:
    at = np.full((68, 2), 50.0)
    at[36:42], at[42:48] = left, right
    return ";".join(f"{value:g}" for value in at.ravel())


ROWS = [("1/a.jpg", 0, 0.1, -0.2), ("2/b.jpg", 7, 0.3, 0.1), ("2/c.jpg", 5, -2, -2), ("3/d.jpg", 9, -2, -2),
        ("3/e.jpg", 1, 0.9, 0.2)]  # fmt: skip


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """The first release: tables, whole pictures."""
    lines = []
    for number, (name, label, valence, arousal) in enumerate(ROWS):
        painted(tmp_path / "Manually_Annotated_Images" / name, number)
        lines.append(f"{name},30,20,50,48,{points((40, 40), (70, 40))},{label},{valence},{arousal}")
    (tmp_path / "Manually_Annotated_file_lists").mkdir()
    (tmp_path / "Manually_Annotated_file_lists" / "training.csv").write_text(
        "\n".join([",".join(affect.COLUMNS), *lines]) + "\n"
    )
    (tmp_path / "validation.csv").write_text("\n".join(lines[:1]) + "\n")  # without a header
    return tmp_path


def test_affectnet_s_tables_are_read_and_other_classes_left_out(tables: Path) -> None:
    found = affectnet(tables, split="train")
    assert found.names == ("1/a.jpg", "2/c.jpg", "3/e.jpg")
    assert found.labels.tolist() == [0, 5, 1]
    assert np.isnan(found.affect[1]).all()  # -2 is AffectNet's mark of what is not known
    assert np.allclose(found.affect[2], [0.9, 0.2])
    assert found.boxes[0].tolist() == [30, 20, 50, 48]
    assert found.eyes[0].tolist() == [[40, 40], [70, 40]]
    assert found.picture(0).shape == (48, 50, 3)
    assert found.counts(7).tolist() == [1, 1, 0, 0, 0, 1, 0]
    assert found.take([2, 0]).names == ("3/e.jpg", "1/a.jpg")
    assert len(affectnet(tables, split="train", classes=8)) == 4
    assert len(read_affect(tables, split="validation")) == 1


@pytest.mark.parametrize(
    ("line", "match"),
    [("x.jpg,1,2,3", "line 2"), ("x.jpg,1,2,3,4,1;2;3,0,0.1,0.1", "line 2"), ("x.jpg,a,2,3,4,{},0,0.1,0.1", "line 2")],
)
def test_a_damaged_table_names_its_line(tmp_path: Path, line: str, match: str) -> None:
    text = ",".join(affect.COLUMNS) + "\n" + line.format(points((1, 1), (2, 2))) + "\n"
    (tmp_path / "training.csv").write_text(text)
    with pytest.raises(TableError, match=match):
        affectnet(tmp_path, split="train")
    (tmp_path / "training.csv").write_text("subDirectory_filePath,expression\n")
    with pytest.raises(TableError, match="lacks columns"):
        affectnet(tmp_path, split="train")


def test_affectnet_s_second_release_holds_faces(tmp_path: Path) -> None:
    folder = tmp_path / "val_set" / "annotations"
    folder.mkdir(parents=True)
    for number, (_, label, valence, arousal) in enumerate(ROWS):
        for part, value in (("exp", str(label)), ("val", f"{valence}"), ("aro", f"{arousal}")):
            np.save(folder / f"{number}_{part}.npy", np.array(value))
        painted(tmp_path / "val_set" / "images" / f"{number}.jpg", number, 60, 60)
    found = affectnet(tmp_path, split="validation", classes=8)
    assert found.names == ("0.jpg", "1.jpg", "2.jpg", "4.jpg")
    assert found.labels.tolist() == [0, 7, 5, 1]
    assert np.isnan(found.boxes).all()
    assert found.picture(0).shape == (60, 60, 3)
    (folder / "0_val.npy").unlink()
    with pytest.raises(TableError, match="picture 0"):
        affectnet(tmp_path, split="validation")
    with pytest.raises(MediaNotFound, match=r"training\.csv"):
        affectnet(tmp_path, split="train")
    with pytest.raises(OptionError, match="no such part"):
        affectnet(tmp_path, split="test")  # type: ignore[arg-type]


@pytest.fixture
def wild(tmp_path: Path) -> Path:
    header = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise"
    files = {
        "EXPR_Set/Training_Set/one.txt": f"{header}\n4\n-1\n6\n0\n5\n",
        "EXPR_Set/Training_Set/alone.txt": f"{header}\n1\n",
        "EXPR_Set/Validation_Set/two.txt": f"{header}\n3\n2\n",
        "VA_Set/Training_Set/two.txt": "valence,arousal\n0.1,0.2\n-0.3,0.4\n",
        "VA_Set/Validation_Set/one.txt": "valence,arousal\n0.5,0.6\n0.1,0.1\n0.2,-0.2\n-5,-5\n",
    }
    for name, text in files.items():
        (tmp_path / "annotations" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "annotations" / name).write_text(text)
    for video, frames in (("one", (1, 2, 3, 4, 5)), ("two", (1,))):
        for frame in frames:
            painted(tmp_path / "cropped_aligned" / video / f"{frame:05d}.jpg", frame, 48, 48)
    return tmp_path


def test_frames_of_aff_wild2_have_both_labels_and_the_expressions_split(wild: Path) -> None:
    train = affwild2(wild, split="train")
    # Frame 2 has no class, 4 no valence, 5 no line of the other file; "alone" has no valence at all.
    assert train.names == ("one/00001.jpg", "one/00003.jpg")
    assert train.labels.tolist() == [1, 3]  # happiness and surprise by AffectNet's numbers
    assert np.allclose(train.affect, [[0.5, 0.6], [0.2, -0.2]])
    assert train.picture(1).shape == (48, 48, 3)
    # The labels of valence lie in the other split; the second frame has no crop.
    held = read_affect(wild, split="validation")
    assert (held.names, held.labels.tolist()) == (("two/00001.jpg",), [4])


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("EXPR_Set/Training_Set/one.txt", "Neutral,Anger\n2\n"),
        ("EXPR_Set/Training_Set/one.txt", "0\nx\n"),
        ("VA_Set/Validation_Set/one.txt", "valence,arousal\n0.1\n"),
    ],
)
def test_damaged_files_of_aff_wild2_are_named(wild: Path, file: str, text: str) -> None:
    (wild / "annotations" / file).write_text(text)
    with pytest.raises(TableError, match=r"one\.txt"):
        affwild2(wild, split="train")
    with pytest.raises(MediaNotFound, match="cropped_aligned"):
        affwild2(wild / "annotations", split="train")
    with pytest.raises(OptionError, match="unknown kind"):
        read_affect(wild, split="train", kind="wild")  # type: ignore[arg-type]


def test_faces_become_upright() -> None:
    picture = np.zeros((100, 140, 3), np.uint8)
    cv2.line(picture, (50, 60), (80, 30), (255, 255, 255), 3)  # eyes on a slope of 45 degrees
    cut = upright(picture, [40, 20, 60, 50], [[50, 60], [80, 30]])
    turned = upright(picture, [0, 0, 140, 100], [[50, 60], [80, 30]])
    rows = np.flatnonzero(turned.max((1, 2)) > 128)
    assert rows[-1] - rows[0] <= 4  # level now
    assert cut.shape[2] == 3
    level = upright(picture, [40, 20, 60, 50], [[50, 45], [80, 45]])
    assert np.array_equal(level, picture[20:70, 40:100])
    assert np.array_equal(upright(picture, [40, 20, 60, 50], np.full((2, 2), np.nan)), picture[20:70, 40:100])
    # The released code makes a turned picture as wide as it was high.
    assert upright(picture, [60, 20, 80, 50], [[50, 45], [80, 45]], official=True).shape == (50, 40, 3)
    with pytest.raises(ValueRangeError, match="outside"):
        upright(picture, [150, 0, 10, 10], np.full((2, 2), np.nan))


def test_rare_classes_count_more() -> None:
    weights = class_weights([100, 20, 0, 10])
    assert np.allclose(weights, [0.1, 0.5, 0, 1])
    counts = np.array([100, 20, 10])
    assert (balanced_weights(counts) * counts).sum() == pytest.approx(counts.sum())
    with pytest.raises(ValueRangeError):
        class_weights([0, 0])


def test_heads_show_what_their_labels_say() -> None:
    one = drawn_heads(21, seed=3, size=32)
    assert one.crops.shape == (21, 32, 32, 3)
    assert np.bincount(one.labels).tolist() == [3] * 7
    assert np.abs(one.affect).max() <= 1
    assert np.array_equal(one.crops, drawn_heads(21, seed=3, size=32, plain=False).crops)
    happy, angry = (one.affect[one.labels == label].mean(0) for label in (1, 6))
    assert happy[0] > 0 > angry[0]
    some = drawn_heads(14, seed=3, size=32, prior=(0, 1, 0, 0, 0, 0, 0), plain=True)
    assert set(some.labels) == {1}
    assert not np.array_equal(some.crops[0], one.crops[0])


# --- Words -----------------------------------------------------------------------------------------------------------

WORDS = ("happiness", "fear", "arousal")


def test_glove_s_text_is_read_to_the_last_word(tmp_path: Path) -> None:
    file = tmp_path / "glove.6B.4d.txt"
    file.write_text("the 1 1 1 1\nhappy 9 9 9 9\nfear 1 2 3 4\nhappiness 5 6 7 8\narousal 0 0 0 1\nbroken line\n")
    assert glove(file, WORDS).tolist() == [[5, 6, 7, 8], [1, 2, 3, 4], [0, 0, 0, 1]]
    file.write_text("happy 9 9\nfear 1 2\narousal 0 1\n")
    assert word_vectors(file, WORDS)[0].tolist() == [9, 9]  # a word that stands for the one that is not there
    with pytest.raises(TableError, match="disgust"):
        glove(file, ("disgust",))
    file.write_text("fear 1 2\narousal 0 1 3\n")
    with pytest.raises(TableError, match="line 2"):
        glove(file, ("fear", "arousal"))
    with pytest.raises(MediaNotFound):
        glove(tmp_path / "no.txt", WORDS)


def test_matrices_of_all_kinds_are_read(tmp_path: Path) -> None:
    want = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "a.npy", want)
    save_file({"x": want}, tmp_path / "b.safetensors")
    torch.save(torch.from_numpy(want), tmp_path / "c.pt")
    (tmp_path / "emb.pkl").write_bytes(pickle.dumps(torch.from_numpy(want)[None]))
    (tmp_path / "array.pkl").write_bytes(pickle.dumps(want))
    for file in tmp_path.iterdir():
        assert np.array_equal(word_vectors(file, WORDS), want), file
    with pytest.raises(TableError, match="rows in the order"):
        word_vectors(tmp_path / "a.npy", WORDS[:2])


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/mien-was-run"),))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "emb.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnknownFormat, match="something else"):
        word_vectors(tmp_path / "emb.pkl", WORDS)
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps(torch.zeros(3, 4))[:-20])
    (tmp_path / "x.bin").write_bytes(b"")
    for name in ("cut.pkl", "x.bin", "none.npy"):
        with pytest.raises(MienError):
            word_vectors(tmp_path / name, WORDS)
    assert not Path("/tmp/mien-was-run").exists()
