"""LFW, CFP, IJB, CelebA, 300W, WFLW, WIDER FACE, folders and lists: exact layouts, and what breaks them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mien.data.formats import (
    find,
    read,
    read_300w,
    read_celeba,
    read_cfp,
    read_folder,
    read_ijb,
    read_lfw,
    read_list,
    read_pts,
    read_wflw,
    read_wider,
    write_pts,
)
from mien.errors import EmptyMedia, MediaNotFound, MienError, OptionError, TableError, UnknownFormat

Edit = Callable[[Path, str, str], None]


def test_every_layout_is_told_by_its_files(made: Any, tmp_path: Path) -> None:
    for name in ("folder", "lfw", "cfp", "ijb", "celeba", "w300", "wflw", "wider"):
        home = getattr(made, name)(tmp_path / f"x_{name}")
        expected = {"w300": ["300w"], "wflw": ["wflw"] * 2, "wider": ["wider"] * 2}.get(name, [name])
        assert made.kinds(home) == expected
    made.write(tmp_path / "other/readme.md", "nothing")
    with pytest.raises(UnknownFormat):
        find(tmp_path / "other")
    with pytest.raises(MediaNotFound):
        find(tmp_path / "none")
    with pytest.raises(OptionError, match="webdataset"):
        find(tmp_path, format="webdatasets")
    with pytest.raises(OptionError, match="several sets"):
        read(tmp_path / "x_wider")


# --- Folders and lists ----------------------------------------------------------------------------------------------


def test_folders_name_people(made: Any, tmp_path: Path) -> None:
    made.folder(tmp_path)
    made.write(tmp_path / "person_01/deeper/9.png", made.jpeg(9, ending=".png"))
    made.write(tmp_path / ".hidden/1.jpg", made.jpeg(9))
    samples = read_folder(tmp_path)
    assert samples.label_names == ("person_00", "person_01", "person_02")
    assert len(samples) == 13
    assert np.bincount(samples.labels).tolist() == [4, 5, 4]  # type: ignore[arg-type]
    assert samples.keys[4] == "person_01/0.jpg"


def test_loose_pictures_belong_to_nobody(made: Any, told: Any, tmp_path: Path) -> None:
    made.write(tmp_path / "1.jpg", made.jpeg(1))
    assert read_folder(tmp_path).labels is None
    made.write(tmp_path / "ann/1.jpg", made.jpeg(2))
    (tmp_path / "bob").mkdir()
    samples = read_folder(tmp_path, tell=told)
    assert samples.labels is not None
    assert sorted(samples.labels.tolist()) == [-1, 0]
    assert told.kinds == ["wrong_count"]
    with pytest.raises(EmptyMedia):
        read_folder(tmp_path / "bob")


def test_a_list_with_a_header(made: Any, tmp_path: Path) -> None:
    for k in range(3):
        made.write(tmp_path / "images" / f"{k}.jpg", made.jpeg(k))
    made.write(
        tmp_path / "images.csv",
        "file,identity,age,x0,y0,x1,y1,note\n0.jpg,b,20,1,2,3,4,x\n1.jpg,a,30.5,1,2,,4,\n2.jpg,b,,5,6,7,8,y\n",
    )
    samples = read(tmp_path)
    assert samples.format == "list"
    assert samples.labels is not None
    assert (samples.labels.tolist(), samples.label_names) == ([1, 0, 1], ("a", "b"))
    np.testing.assert_array_equal(samples.columns["age"], np.float32([20, 30.5, np.nan]))
    assert samples.columns["note"].tolist() == ["x", "", "y"]
    assert samples.points is not None
    np.testing.assert_array_equal(samples.points[1], [[1, 2], [np.nan, 4]])
    assert bytes(samples.fetch([2])[0]) == made.jpeg(2)


@pytest.mark.parametrize(
    "text", ["a.jpg 5\nb.jpg 7\n", "a.jpg,5\nb.jpg,7\n", "0\t5\ta.jpg\n1\t7\tb.jpg\n", "5 a.jpg\n7 b.jpg"]
)
def test_lists_without_a_header(made: Any, tmp_path: Path, text: str) -> None:
    for k, name in enumerate("ab"):
        made.write(tmp_path / f"{name}.jpg", made.jpeg(k))
    made.write(tmp_path / "train.lst", text)
    samples = read(tmp_path / "train.lst")
    assert samples.labels is not None
    assert (samples.labels.tolist(), list(samples.keys)) == ([5, 7], ["a.jpg", "b.jpg"])


def test_broken_lists(made: Any, told: Any, tmp_path: Path) -> None:
    made.write(tmp_path / "a.jpg", made.jpeg(0))
    path = made.write(tmp_path / "l.csv", "path,label\na.jpg,1\nb.jpg,2\na.jpg,1\nc.jpg\n,3\n")
    samples = read_list(path, tell=told)
    assert list(samples.keys) == ["a.jpg"]
    assert sorted(told.kinds) == ["duplicate", "missing_file", "row", "row"]
    with pytest.raises(MienError):
        read_list(path)
    with pytest.raises(TableError, match="no column of pictures"):
        read_list(made.write(tmp_path / "m.csv", "x,y\n1,2\n"))
    with pytest.raises(TableError, match="no text"):
        read_list(made.write(tmp_path / "n.csv", b"\xff\xfe\x00"))


# --- LFW and CFP ----------------------------------------------------------------------------------------------------


def test_lfw(made: Any, tmp_path: Path) -> None:
    samples = read_lfw(made.lfw(tmp_path))
    pairs = samples.pairs["view2"]
    assert len(pairs) == 60
    assert pairs.fold.tolist() == np.repeat(np.arange(10), 6).tolist()
    assert pairs.same.tolist() == [True, True, True, False, False, False] * 10
    first, second = (samples.keys[row] for row in (pairs.first[9], pairs.second[9]))
    assert (first, second) == ("Person_A/Person_A_0002.jpg", "Person_B/Person_B_0002.jpg")
    labels = samples.labels
    assert labels is not None
    np.testing.assert_array_equal(labels[pairs.first] == labels[pairs.second], pairs.same)


def test_lfw_development_lists_and_pictures_at_the_top(made: Any, tmp_path: Path) -> None:
    made.lfw(tmp_path / "x")
    (tmp_path / "x/lfw").rename(tmp_path / "y")
    made.write(tmp_path / "y/pairsDevTrain.txt", "1\nPerson_A\t1\t2\nPerson_A\t1\tPerson_B\t2\n")
    pairs = read_lfw(tmp_path / "y").pairs
    assert list(pairs) == ["dev_train"]
    assert pairs["dev_train"].same.tolist() == [True, False]


def test_broken_lfw(made: Any, told: Any, edit: Edit, tmp_path: Path) -> None:
    made.lfw(tmp_path)
    (tmp_path / "lfw/Person_A/Person_A_0001.jpg").unlink()
    pairs = tmp_path / "pairs.txt"
    edit(pairs, "Person_B\t2\t3\n", "Person_C\t2\t3\n")  # twice then
    edit(pairs, "Person_B\t5\t6\n", "Person_B\tfive\t6\n")
    pairs.write_text(pairs.read_text() + "Person_A\t3\t4\n")
    samples = read_lfw(tmp_path, tell=told)
    assert sorted(told.kinds) == ["duplicate", "duplicate", "missing_file", "missing_file", "row", "wrong_count"]
    assert len(samples.pairs["view2"]) == 61 - 2 - 1
    with pytest.raises(MienError):
        read_lfw(tmp_path)


def test_cfp(made: Any, tmp_path: Path) -> None:
    samples = read_cfp(made.cfp(tmp_path))
    assert len(samples) == 42
    assert samples.columns["profile"].sum() == 12
    assert samples.label_names == ("Ann One", "Bob Two", "Cy Three")
    labels = samples.labels
    assert labels is not None
    for name in ("FF", "FP"):
        pairs = samples.pairs[name]
        assert pairs.fold.tolist() == [0] * 4 + [1] * 4
        np.testing.assert_array_equal(labels[pairs.first] == labels[pairs.second], pairs.same)
        assert samples.columns["profile"][pairs.second].all() == (name == "FP")
        assert not samples.columns["profile"][pairs.first].any()
    assert samples.keys[samples.pairs["FP"].second[1]] == "002/profile/01.jpg"
    assert samples.points is not None
    np.testing.assert_allclose(samples.points[0, 3], [4.5, 7])


def test_broken_cfp(made: Any, told: Any, edit: Edit, tmp_path: Path) -> None:
    made.cfp(tmp_path)
    (tmp_path / "Data/Images/001/frontal/02.jpg").unlink()
    (tmp_path / "Protocol/Split/FP/02/same.txt").unlink()
    (tmp_path / "Data/Fiducials/003/profile/01.txt").unlink()
    edit(tmp_path / "Data/Fiducials/002/frontal/01.txt", "1.5,2", "1.5")
    edit(tmp_path / "Protocol/Split/FF/01/diff.txt", "1,11", "1,99")
    samples = read_cfp(tmp_path, tell=told)
    assert sorted(told.kinds) == ["missing_file", "missing_file", "missing_file", "row", "row"]
    assert (len(samples), len(samples.pairs["FF"]), len(samples.pairs["FP"])) == (41, 8 - 1 - 4, 6)


# --- IJB ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ijbb", "ijbc"])
def test_ijb(made: Any, tmp_path: Path, name: str) -> None:
    templates = read_ijb(made.ijb(tmp_path, name))
    assert templates.name == name
    assert templates.template.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert templates.media.tolist() == [100] * 4 + [101] * 4 + [102] * 4
    pairs = templates.pairs
    assert (pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist()) == (
        [1, 1, 4],
        [2, 3, 5],
        [True, False, False],
    )
    assert templates.galleries["G1"].template.tolist() == [1, 3]
    assert templates.galleries["G1"].subject.tolist() == [7, 8]
    assert templates.probes["mixed"].template.tolist() == [2, 4]
    assert templates.samples.points is not None
    np.testing.assert_allclose(templates.samples.points[3, 2], [5, 6])
    assert templates.score[3] == pytest.approx(0.54)
    assert templates.samples.facts["template pairs"] == 3
    assert bytes(templates.samples.fetch([11])[0]) == made.jpeg(12)
    assert read(tmp_path).format == "ijb"


def test_broken_ijb(made: Any, told: Any, edit: Edit, tmp_path: Path) -> None:
    made.ijb(tmp_path)
    meta = tmp_path / "meta"
    (tmp_path / "loose_crop/9.jpg").unlink()
    edit(meta / "ijbc_face_tid_mid.txt", "3.jpg 2 100", "3.jpg two 100")
    edit(meta / "ijbc_face_tid_mid.txt", "4.jpg 2 100", "1.jpg 1 100")
    edit(meta / "ijbc_name_5pts_score.txt", "5.jpg 1.250", "50.jpg 1.250")
    edit(meta / "ijbc_template_pair_label.txt", "1 3 0", "1 3")
    edit(meta / "ijbc_1N_gallery_G1.csv", "1,7,img/2", "1,9,img/2")
    templates = read_ijb(tmp_path, tell=told)
    assert sorted(told.kinds) == sorted(
        ["missing_file", "row", "duplicate", "wrong_count", "row", "missing_file", "wrong_count", "missing_file"]
    )  # picture 9; line 3; row 1 again; points of 5; a pair; template 2 unknown (pairs, probes); two subjects
    assert len(templates.pairs) == 2
    assert np.isnan(templates.score).sum() == 1
    (meta / "ijbc_template_pair_label.txt").unlink()
    with pytest.raises(MienError):
        read_ijb(tmp_path)


# --- CelebA ---------------------------------------------------------------------------------------------------------


def test_celeba(made: Any, tmp_path: Path) -> None:
    samples = read_celeba(made.celeba(tmp_path))
    assert samples.labels is not None
    assert samples.labels.tolist() == [10, 10, 11, 11, 12, 12]
    assert samples.columns["partition"].tolist() == [0, 1, 2, 0, 1, 2]
    assert samples.columns["Male"].tolist() == [True, False, True, False, True, False]
    assert samples.columns["Smiling"].dtype == bool
    assert samples.points is not None
    np.testing.assert_array_equal(samples.points[2], np.arange(20, 30).reshape(5, 2))
    assert samples.boxes is None
    assert bytes(samples.fetch([3])[0]) == made.jpeg(3)


def test_celeba_in_the_wild_has_boxes(made: Any, tmp_path: Path) -> None:
    samples = read_celeba(made.celeba(tmp_path, wild=True))
    assert samples.boxes is not None
    np.testing.assert_array_equal(samples.boxes.xyxy[2], [2, 3, 22, 33])
    part = samples.take([4, 2])
    assert part.boxes is not None
    np.testing.assert_array_equal(part.boxes.of_image(0), [[4, 5, 24, 35]])
    with pytest.raises(MediaNotFound):
        read_celeba(tmp_path, aligned=True)


def test_broken_celeba(made: Any, told: Any, edit: Edit, tmp_path: Path) -> None:
    made.celeba(tmp_path)
    (tmp_path / "Img/img_align_celeba/000002.jpg").unlink()
    edit(tmp_path / "Anno/list_attr_celeba.txt", "6\n", "7\n")
    edit(tmp_path / "Anno/list_attr_celeba.txt", "000003.jpg -1", "000003.jpg 5")
    edit(tmp_path / "Anno/identity_CelebA.txt", "000004.jpg 11\n", "")
    samples = read_celeba(tmp_path, tell=told)
    assert sorted(told.kinds) == ["missing_file", "row", "wrong_count", "wrong_count", "wrong_count"]
    assert len(samples) == 5
    assert samples.labels is not None
    assert samples.labels.tolist() == [10, 11, -1, 12, 12]


# --- Landmarks ------------------------------------------------------------------------------------------------------


def test_300w(made: Any, tmp_path: Path) -> None:
    samples = read_300w(made.w300(tmp_path))
    assert samples.points is not None
    assert samples.points.shape == (4, 68, 2)
    by_key = dict(zip(samples.keys, samples.points, strict=True))
    np.testing.assert_array_equal(by_key["helen/image_1.jpg"][:2], [[1, 2], [3, 4]])  # iBUG counts from 1


def test_broken_300w(made: Any, told: Any, edit: Edit, tmp_path: Path) -> None:
    made.w300(tmp_path, count=6)
    (tmp_path / "afw/image_0.png").unlink()
    (tmp_path / "helen/image_1.pts").unlink()
    edit(tmp_path / "afw/image_2.pts", "n_points:  68", "n_points:  67")
    edit(tmp_path / "helen/image_3.pts", "{", "[")
    made.write(tmp_path / "afw/image_4.pts", made.pts(np.zeros((5, 2))))
    made.write(tmp_path / "helen/more.jpg", made.jpeg(1))
    made.write(tmp_path / "helen/more.pts", made.pts(np.zeros((68, 2))))
    samples = read_300w(tmp_path, tell=told)
    assert sorted(told.kinds) == ["missing_file", "missing_file", "row", "wrong_count", "wrong_count"]
    assert list(samples.keys) == ["helen/image_5.jpg", "helen/more.jpg"]


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 100), st.just(2)), elements=st.floats(-1e4, 1e4)))
def test_points_are_read_as_written(tmp_path_factory: pytest.TempPathFactory, points: Any) -> None:
    path = tmp_path_factory.mktemp("pts") / "a.pts"
    write_pts(path, points)
    np.testing.assert_allclose(read_pts(path), points, atol=2e-3)


@given(st.text(alphabet="version: 1n_points{}\n 0.5-x", max_size=60))
def test_garbage_is_no_file_of_points(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("pts") / "a.pts"
    path.write_text(text)
    with contextlib.suppress(TableError):
        assert read_pts(path).shape[1] == 2


def test_wflw(made: Any, tmp_path: Path) -> None:
    made.wflw(tmp_path)
    (kind, _), (_, train) = find(tmp_path)
    assert kind == "wflw"
    samples = read_wflw(train)
    assert samples.points is not None
    assert samples.points.shape == (3, 98, 2)
    assert samples.points[1, 0].tolist() == [1.25, 2.25]
    assert list(samples.keys) == ["0--Parade/a.jpg", "0--Parade/a.jpg", "1--Hand/b.jpg"]
    assert samples.boxes is not None
    assert samples.boxes.xyxy[2].tolist() == [5, 6, 52, 62]
    assert samples.boxes.flags[2].tolist() == [1, 0, 0, 1, 0, 2]  # type: ignore[attr-defined]
    assert samples.boxes.flag_names[3] == "make-up"  # type: ignore[attr-defined]


def test_broken_wflw(made: Any, told: Any, edit: Edit, tmp_path: Path) -> None:
    made.wflw(tmp_path)
    path = tmp_path / "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[0], lines[1][5:], lines[2].replace("b.jpg", "z.jpg")]))
    samples = read_wflw(path, tell=told)
    assert len(samples) == 1
    assert sorted(told.kinds) == ["duplicate", "missing_file", "row"]


# --- WIDER FACE -----------------------------------------------------------------------------------------------------


def test_wider(made: Any, tmp_path: Path) -> None:
    made.wider(tmp_path)
    assert [place.name for _, place in find(tmp_path)] == [
        "wider_face_test_filelist.txt",
        "wider_face_train_bbx_gt.txt",
    ]
    samples = read_wider(tmp_path / "wider_face_split/wider_face_train_bbx_gt.txt")
    boxes = samples.boxes
    assert boxes is not None
    assert boxes.image.tolist() == [0, 0, 2]
    assert boxes.xyxy.tolist() == [[1, 2, 31, 42], [5, 6, 12, 14], [9, 9, 19, 19]]
    assert boxes.flags[0].tolist() == [0, 1, 0, 0, 2, 1]  # type: ignore[attr-defined]
    assert len(boxes.of_image(1)) == 0
    assert samples.columns["event"].tolist() == ["0--Parade", "0--Parade", "1--Handshaking"]
    part = samples.take([2, 1, 0])
    assert part.boxes is not None
    assert part.boxes.image.tolist() == [0, 2, 2]
    test = read_wider(tmp_path / "wider_face_split/wider_face_test_filelist.txt")
    assert len(test) == 3
    assert test.boxes is not None
    assert len(test.boxes) == 0


def test_broken_wider(made: Any, told: Any, edit: Edit, tmp_path: Path) -> None:
    made.wider(tmp_path)
    path = tmp_path / "wider_face_split/wider_face_train_bbx_gt.txt"
    edit(path, "\n2\n", "\n3\n")
    edit(path, "5 6 7 8 2", "5 6 7 8 two")
    edit(path, "\n0\n0 0", "\n1--Handshaking/none.jpg\n1\n1 1 1 1 0 0 0 0 0 0\n0\n0 0")
    path.write_text(path.read_text() + "0--Parade/last.jpg\n")
    samples = read_wider(path, tell=told)
    # The second picture has lost its count; a stray 0 is a line of the one put in; the list ends in a name.
    assert sorted(set(told.kinds)) == ["missing_file", "row", "truncated", "wrong_count"]
    assert len(samples) == 3
    with pytest.raises(MienError):
        read_wider(path)
