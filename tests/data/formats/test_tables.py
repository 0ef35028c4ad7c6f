"""Parquet and WebDataset: real metadata, row groups, shards; broken ones; round trips."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.data.formats import convert, read, read_parquet, read_webdataset
from mien.errors import CorruptMedia, MediaNotFound, MienError, TableError, UnknownFormat

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def hugging_face(
    path: Path, files: list[bytes | None], labels: list[int | None], *, group: int = 3, **more: Any
) -> Path:
    """A file as the datasets library writes it."""
    names = ["ann", "bob", "cy"]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    table = pa.table(
        {
            "image": pa.array([{"bytes": one, "path": f"{k}.jpg"} for k, one in enumerate(files)], STRUCT),
            "label": pa.array(labels, pa.int64()),
            **more,
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=group)
    return path


# --- Parquet --------------------------------------------------------------------------------------------------------


def test_pictures_labels_and_names_of_a_table(made: Any, tmp_path: Path) -> None:
    files = [made.jpeg(k) for k in range(8)]
    path = hugging_face(tmp_path / "train-00000-of-00001.parquet", files, [0, 1, 2, 0, 1, 2, None, 1])
    samples = read_parquet(path)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2, 0, 1, 2, -1, 1]
    assert samples.label_names == ("ann", "bob", "cy")
    assert samples.people == 3
    assert samples.blocks is not None
    assert samples.blocks.tolist() == [0, 3, 6, 8]
    order = [7, 0, 4, 0, 5]
    assert [bytes(part) for part in samples.fetch(order)] == [files[row] for row in order]


def test_files_of_a_folder_are_one_set_and_splits_can_be_chosen(made: Any, tmp_path: Path) -> None:
    for part in range(2):
        files = [made.jpeg(10 * part + k) for k in range(4)]
        hugging_face(tmp_path / f"data/train-{part:05d}-of-00002.parquet", files, [part] * 4)
    hugging_face(tmp_path / "data/test-00000-of-00001.parquet", [made.jpeg(99)], [2])
    assert len(read(tmp_path)) == 9
    train = read_parquet(tmp_path, split="train")
    assert train.labels is not None
    assert train.labels.tolist() == [0] * 4 + [1] * 4
    assert bytes(train.fetch([6])[0]) == made.jpeg(12)
    assert train.keys[6] == "train-00001-of-00002.parquet:2"
    with pytest.raises(MediaNotFound):
        read_parquet(tmp_path, split="validation")


def test_some_rows_of_row_groups(made: Any, tmp_path: Path) -> None:
    files = [made.jpeg(k) for k in range(9)]
    samples = read_parquet(hugging_face(tmp_path / "a.parquet", files, [0] * 9)).take([8, 7, 0, 1, 5])
    assert [bytes(part) for part in samples.fetch([4, 0, 2])] == [files[5], files[8], files[0]]
    assert samples.blocks is not None
    assert samples.blocks.tolist() == [0, 2, 4, 5]
    again = pickle.loads(pickle.dumps(samples.coded))
    assert bytes(again.fetch([1])[0]) == files[7]


def test_a_picture_beside_the_table(made: Any, tmp_path: Path) -> None:
    made.write(tmp_path / "1.jpg", made.jpeg(5))
    samples = read_parquet(hugging_face(tmp_path / "a.parquet", [made.jpeg(0), None, None], [0, 0, 0]))
    assert bytes(samples.fetch([1])[0]) == made.jpeg(5)
    assert samples.fetch([2])[0].size == 0


def test_other_columns_and_a_plain_column_of_bytes(made: Any, tmp_path: Path) -> None:
    table = pa.table(
        {
            "jpg": pa.array([made.jpeg(k) for k in range(3)], pa.large_binary()),
            "identity": ["b", "a", "b"],
            "age": [20.5, 30.0, 40.0],
            "points": [[[k, 1.0], [2.0, 3.0]] for k in range(3)],
            "ragged": [[1], [1, 2], []],
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    samples = read(tmp_path / "a.parquet")
    assert samples.labels is not None
    assert (samples.labels.tolist(), samples.label_names) == ([1, 0, 1], ("a", "b"))
    assert samples.points is not None
    assert samples.points.shape == (3, 2, 2)
    assert samples.columns.keys() == {"age"}
    assert bytes(samples.fetch([2])[0]) == made.jpeg(2)


def test_broken_tables(made: Any, told: Any, tmp_path: Path) -> None:
    good = hugging_face(tmp_path / "train-0.parquet", [made.jpeg(0)], [7])
    (tmp_path / "train-1.parquet").write_bytes(good.read_bytes()[:-20])
    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "train-2.parquet")
    assert len(read_parquet(tmp_path, tell=told)) == 1
    assert told.kinds == ["truncated", "row", "wrong_count"]  # label 7 has no name
    with pytest.raises(CorruptMedia):
        read_parquet(tmp_path / "train-1.parquet")
    with pytest.raises(TableError, match="no column of pictures"):
        read_parquet(tmp_path / "train-2.parquet")


# --- WebDataset -----------------------------------------------------------------------------------------------------


def tar(path: Path, files: list[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_samples_of_shards(made: Any, tmp_path: Path) -> None:
    for part in range(2):
        files = []
        for k in range(3):
            files += [(f"a/{part}{k}.jpg", made.jpeg(10 * part + k)), (f"a/{part}{k}.cls", f"{k}\n".encode())]
            files += [(f"a/{part}{k}.json", json.dumps({"age": 20 + k, "points": [[k, 1], [2, None]]}).encode())]
        tar(tmp_path / f"train-{part:06d}.tar", files)
    samples = read(tmp_path)
    assert samples.format == "webdataset"
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert samples.keys[4] == "a/11"
    assert [bytes(part) for part in samples.fetch([5, 1])] == [made.jpeg(12), made.jpeg(1)]
    assert samples.columns["age"].tolist() == [20, 21, 22, 20, 21, 22]
    np.testing.assert_array_equal(samples.points[1], [[1, 1], [2, np.nan]])  # type: ignore[index]
    again = pickle.loads(pickle.dumps(samples.take([4]).coded))
    assert bytes(again.fetch([0])[0]) == made.jpeg(11)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_every_kind_of_tar(made: Any, tmp_path: Path, kind: int) -> None:
    name = "folder" * 14 + "/" + "n" * 90
    longer = "ä" * 120 if kind != tarfile.USTAR_FORMAT else "short"
    path = tar(
        tmp_path / "a.tar",
        [(f"{name}.jpg", made.jpeg(0)), (f"{longer}.png", made.jpeg(1)), ("z.jpg", made.jpeg(2))],
        kind,
    )
    samples = read_webdataset(path)
    assert samples.keys == [name, longer, "z"]
    assert [bytes(part) for part in samples.fetch([0, 1, 2])] == [made.jpeg(k) for k in range(3)]


def test_labels_in_json_may_be_names(made: Any, tmp_path: Path) -> None:
    files = [(f"{k}.jpg", made.jpeg(k)) for k in range(2)]
    abouts = [(f"{k}.json", json.dumps({"identity": "ba"[k]}).encode()) for k in range(2)]
    both = [one for pair in zip(files, abouts, strict=True) for one in pair]
    samples = read_webdataset(tar(tmp_path / "a.tar", both))
    assert samples.labels is not None
    assert (samples.labels.tolist(), samples.label_names) == ([1, 0], ("a", "b"))


def test_broken_shards(made: Any, told: Any, tmp_path: Path) -> None:
    files = [
        ("0.cls", b"1"), ("1.jpg", made.jpeg(1)), ("1.cls", b"x"), ("2.jpg", made.jpeg(2)), ("1.jpg", made.jpeg(1)),
        ("3.jpg", made.jpeg(3)), ("3.json", b"[1"), ("3.cls", b"4"),
    ]  # fmt: skip
    tar(tmp_path / "a.tar", files)
    whole = tar(tmp_path / "b.tar", [("8.jpg", made.jpeg(8)), ("9.jpg", made.jpeg(9))]).read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: 512 + 1024 + 700])
    samples = read_webdataset(tmp_path, tell=told)
    assert samples.keys == ["1", "2", "3", "8"]
    assert told.kinds == ["missing_file", "duplicate", "truncated", "row", "row", "row", "row"]
    (tmp_path / "c.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(UnknownFormat, match="gunzip"):
        read_webdataset(tmp_path / "c.tar")
    (tmp_path / "d.tar").write_bytes(b"x" * 600)
    with pytest.raises(CorruptMedia, match="no header"):
        read_webdataset(tmp_path / "d.tar")


@given(cut=st.integers(0, 9000), flips=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), max_size=5),
       kind=st.sampled_from(["a.tar", "a.parquet"]))  # fmt: skip
@settings(max_examples=60)
def test_garbage_is_an_error_of_ours(
    made: Any, tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]], kind: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / kind
    if kind == "a.tar":
        tar(
            path,
            [(f"{k}.{e}", d) for k in range(3) for e, d in (("jpg", made.jpeg(k)), ("cls", b"1"), ("json", b"{}"))],
        )
    else:
        hugging_face(path, [made.jpeg(k) for k in range(5)], [0, 1, 2, 0, 1])
    data = bytearray(path.read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    path.write_bytes(bytes(data[: max(1, len(data) - cut % len(data))]))
    try:
        samples = read(path)
        fetched = samples.fetch(range(len(samples)))
    except MienError:
        return  # told as ours; any other error fails the test
    assert len(fetched) == len(samples) == len(samples.keys)
    assert all(len(picture) <= len(data) for picture in fetched)  # nothing is read from beyond the file


# --- Round trips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["rec", "parquet", "webdataset", "folder"])
def test_what_is_converted_is_the_same_set(made: Any, tmp_path: Path, to: str) -> None:
    made.folder(tmp_path / "people", people=4, each=5)
    before = read(tmp_path / "people")
    done = convert(tmp_path / "people", tmp_path / "out", to=to, shard=6)
    assert (done.images, done.identities, done.ok) == (20, 4, True)
    after = read(tmp_path / "out")
    assert after.format == to
    assert after.labels is not None
    assert before.labels is not None
    assert after.labels.tolist() == before.labels.tolist()
    rows = [0, 19, 7]
    assert [bytes(one) for one in after.fetch(rows)] == [bytes(one) for one in before.fetch(rows)]
    if to != "rec":
        assert after.label_names == before.label_names
        assert done.dropped == ()
    else:
        assert done.dropped == ("names of the labels",)
    if to in ("parquet", "webdataset"):
        assert len(list((tmp_path / "out").iterdir())) == 4
    again = convert(tmp_path / "out", tmp_path / "back", to="folder")
    assert again.images == 20


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_points_and_columns_go_over(made: Any, tmp_path: Path, to: str) -> None:
    made.cfp(tmp_path / "cfp")
    before = read(tmp_path / "cfp")
    done = convert(tmp_path / "cfp", tmp_path / "out", to=to)
    assert done.dropped == ("pairs FF", "pairs FP")
    after = read(tmp_path / "out")
    np.testing.assert_allclose(after.points, before.points)  # type: ignore[arg-type]
    assert after.columns["profile"].tolist() == before.columns["profile"].tolist()
    assert after.label_names == ("Ann One", "Bob Two", "Cy Three")
