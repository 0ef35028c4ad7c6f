"""Checking and converting: what is counted, what is found, and that a broken part costs itself only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.data.formats import FORMATS, KINDS, check, convert, read
from mien.data.formats.samples import Samples
from mien.errors import MediaNotFound, OptionError, ShapeError, TableError, UnknownFormat


def test_a_whole_set_is_counted(made: Any, tmp_path: Path) -> None:
    made.folder(tmp_path, people=3, each=4, side=20)
    made.write(tmp_path / "person_00/wide.jpg", made.jpeg(9, 30, 50))
    made.write(tmp_path / "person_01/again.jpg", made.jpeg(0, 20))
    report = check(tmp_path)
    (one,) = report.sets
    assert report.ok
    assert (one.format, one.decoded) == ("folder", 14)
    assert one.counts is not None
    assert (one.counts.images, one.counts.identities, one.counts.repeated) == (14, 3, 1)
    assert one.counts.sizes == {"20 x 20": 13, "50 x 30": 1}
    assert (one.counts.smallest, one.counts.largest) == ((20, 20), (50, 30))
    assert one.counts.bytes == sum(file.stat().st_size for file in tmp_path.rglob("*.jpg"))


def test_every_format_says_what_is_in_it(made: Any, tmp_path: Path) -> None:
    def counts(name: str) -> Any:
        report = check(getattr(made, name)(tmp_path / name))
        assert report.ok, report
        return report.sets[-1].counts

    assert counts("lfw").pairs == {"view2": 60}
    assert (counts("cfp").pairs, counts("cfp").points, counts("cfp").points_each) == ({"FF": 8, "FP": 8}, 42, 30)
    assert counts("ijb").more == {"templates": 6, "template pairs": 3, "gallery G1": 2, "probe mixed": 2}
    assert (counts("celeba").identities, counts("celeba").points) == (3, 6)
    assert (counts("w300").points, counts("w300").points_each) == (4, 68)
    assert counts("wider").boxes == 3
    assert (counts("wflw").boxes, counts("wflw").points_each) == (3, 98)


def test_broken_pictures_are_listed_and_the_others_counted(made: Any, tmp_path: Path) -> None:
    made.folder(tmp_path)
    whole = made.jpeg(77)
    made.write(tmp_path / "person_00/cut.jpg", whole[: len(whole) // 2])
    made.write(tmp_path / "person_01/empty.jpg", b"")
    made.write(tmp_path / "person_02/text.jpg", "not a picture")
    report = check(tmp_path)
    (one,) = report.sets
    assert not report.ok
    assert one.found == {"undecodable": 3}
    assert {problem.where for problem in one.problems} == {
        "person_00/cut.jpg",
        "person_01/empty.jpg",
        "person_02/text.jpg",
    }
    assert one.counts is not None
    assert sum(one.counts.sizes.values()) == 12
    assert all(problem.kind in KINDS and problem.what for problem in one.problems)
    plain = report.to_dict()
    assert plain["ok"] is False
    assert plain["sets"][0]["found"] == {"undecodable": 3}


def test_all_are_counted_and_some_listed(made: Any, tmp_path: Path) -> None:
    for k in range(9):
        made.write(tmp_path / f"{k}.jpg", b"x")
    (one,) = check(tmp_path, most=2).sets
    assert (one.found, len(one.problems)) == ({"undecodable": 9}, 2)


def test_a_sample_is_spread_evenly(made: Any, tmp_path: Path) -> None:
    made.folder(tmp_path, people=5, each=2)
    made.write(tmp_path / "person_04/1.jpg", b"x")  # the last
    seen = []
    (one,) = check(tmp_path, sample=4, progress=lambda done, total, what: seen.append((done, total))).sets
    assert one.decoded == 4
    assert not one.ok
    assert seen[-1] == (4, 4)
    (one,) = check(tmp_path, sample=0).sets
    assert one.ok
    assert one.decoded == 0


def test_what_cannot_be_read_at_all_is_a_report_too(made: Any, tmp_path: Path) -> None:
    made.write(tmp_path / "a.rec", b"")
    made.write(tmp_path / "lfw.bin", b"\x80\x04garbage")
    report = check(tmp_path)
    assert [one.format for one in report.sets] == ["rec", "bin"]
    assert [one.counts for one in report.sets] == [None, None]
    assert not report.ok


def test_wrong_use(made: Any, tmp_path: Path) -> None:
    made.folder(tmp_path / "a")
    for wrong in ({"sample": -1}, {"most": -1}, {"threads": 0}, {"format": "zip"}):
        with pytest.raises(OptionError):
            check(tmp_path / "a", **wrong)
    with pytest.raises(UnknownFormat):
        check(tmp_path / "a", format="rec")
    with pytest.raises(MediaNotFound):
        check(tmp_path / "b")


# --- Converting -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_left_out_and_listed(made: Any, tmp_path: Path) -> None:
    made.folder(tmp_path / "a")
    made.write(tmp_path / "a/person_00/1.jpg", b"")
    made.write(tmp_path / "a/person_01/2.jpg", b"garbage\x00")
    done = convert(tmp_path / "a", tmp_path / "b", to="parquet", shard=5)
    assert {failure.source for failure in done.failures} == {"person_00/1.jpg", "person_01/2.jpg"}
    assert done.images == 10
    assert sorted(file.name for file in (tmp_path / "b").iterdir()) == [
        f"train-0000{k}-of-00002.parquet" for k in range(2)
    ]
    assert check(tmp_path / "b").ok


def test_a_bin_leaves_out_pairs_that_lack_a_picture(made: Any, tmp_path: Path) -> None:
    made.lfw(tmp_path / "a")
    made.write(tmp_path / "a/lfw/Person_A/Person_A_0001.jpg", b"")
    done = convert(tmp_path / "a", tmp_path / "a.bin", to="bin")
    assert done.pairs == 58
    assert len(done.failures) == 1
    assert check(tmp_path / "a.bin").ok


def test_nothing_is_overwritten_unless_asked(made: Any, tmp_path: Path) -> None:
    made.folder(tmp_path / "a")
    made.write(tmp_path / "b/precious.txt", "x")
    with pytest.raises(OptionError, match="at the target already"):
        convert(tmp_path / "a", tmp_path / "b", to="rec")
    convert(tmp_path / "a", tmp_path / "b", to="rec", overwrite=True)
    assert sorted(file.name for file in (tmp_path / "b").iterdir()) == ["property", "train.idx", "train.rec"]


def test_a_set_is_not_replaced_by_its_own_copy(made: Any, tmp_path: Path) -> None:
    made.folder(tmp_path / "sets/a")
    for target in (tmp_path / "sets/a", tmp_path / "sets", tmp_path / "sets/../sets/a"):
        with pytest.raises(OptionError, match="the set itself"):
            convert(tmp_path / "sets/a", target, to="rec", overwrite=True)
    assert len(list((tmp_path / "sets/a").rglob("*.jpg"))) == 12


def test_nothing_is_left_behind_when_it_fails(made: Any, tmp_path: Path) -> None:
    for k in range(2):
        made.write(tmp_path / "a" / f"{k}.jpg", made.jpeg(k))
    with pytest.raises(TableError, match="needs people"):
        convert(tmp_path / "a", tmp_path / "b", to="folder")
    assert os.listdir(tmp_path) == ["a"]
    with pytest.raises(OptionError, match="webdataset"):
        convert(tmp_path / "a", tmp_path / "b", to="webdatset")
    with pytest.raises(OptionError, match="no such format"):
        convert(tmp_path / "a", tmp_path / "b", to="lfw")


def test_names_of_people_do_not_lead_out_of_the_folder(made: Any, tmp_path: Path) -> None:
    for k in range(3):
        made.write(tmp_path / "a" / f"{k}.jpg", made.jpeg(k))
    made.write(tmp_path / "a/images.csv", "file,identity\n0.jpg,../../up\n1.jpg,..\n2.jpg,.._.._up\n")
    convert(tmp_path / "a/images.csv", tmp_path / "b/c", to="folder")
    assert len(list((tmp_path / "b/c").glob("*/*.jpg"))) == 3
    assert len(list((tmp_path / "b/c").iterdir())) == 3, "two people must not share a folder"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


# --- Samples --------------------------------------------------------------------------------------------------------


def test_a_part_of_a_set_keeps_all_columns_in_step(made: Any, tmp_path: Path) -> None:
    samples = read(made.cfp(tmp_path))
    rows = np.flatnonzero(samples.labels != 1)  # not the second person
    part = samples.take(rows)
    assert len(part) == 28
    assert samples.points is not None
    np.testing.assert_array_equal(part.points, samples.points[rows])
    assert [bytes(one) for one in part.fetch([0, 27])] == [bytes(one) for one in samples.fetch([rows[0], rows[27]])]
    pairs = part.pairs["FF"]
    assert len(pairs) == 4  # (1, 2) same and (2, 21) different, in both folds
    assert part.keys[pairs.second[1]] == "003/frontal/01.jpg"
    assert len(samples.take(slice(0, 5))) == len(samples.take([0, 1, 2, 3, 4])) == 5


def test_columns_out_of_step_are_refused(made: Any, tmp_path: Path) -> None:
    samples = read(made.folder(tmp_path))
    with pytest.raises(ShapeError, match="labels"):
        Samples(format="folder", root=tmp_path, keys=samples.keys, coded=samples.coded, labels=np.zeros(3, np.int64))


def test_formats_are_described() -> None:
    assert {name for name, known in FORMATS.items() if known.writes} == {
        "rec",
        "bin",
        "parquet",
        "webdataset",
        "folder",
    }
    assert all(known.what for known in FORMATS.values())
