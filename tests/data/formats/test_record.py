"""RecordIO: the layout byte by byte, round trips, and everything that can be out of step."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.data.formats import RecordWriter, convert, find, read, read_records
from mien.errors import CorruptMedia, MediaError, MienError, TableError

MAGIC = 0xCED7230A


def record(data: bytes, cflag: int = 0) -> bytes:
    """One record, written as dmlc-core's documentation draws it."""
    return struct.pack("<II", MAGIC, cflag << 29 | len(data)) + data + bytes(-len(data) % 4)


def image(label: float, data: bytes, key: int = 0) -> bytes:
    return struct.pack("<IfQQ", 0, label, key, 0) + data


def many(labels: list[float], data: bytes = b"") -> bytes:
    return struct.pack("<IfQQ", len(labels), 0.0, 0, 0) + struct.pack(f"<{len(labels)}f", *labels) + data


def put(path: Path, records: list[bytes], *, index: bool = True) -> Path:
    """A .rec, and an .idx with keys from 0."""
    at, lines = 0, []
    for key, one in enumerate(records):
        lines.append(f"{key}\t{at}")
        at += len(one)
    path.write_bytes(b"".join(records))
    if index:
        path.with_suffix(".idx").write_text("\n".join(lines) + "\n")
    return path


def face_set(made: Any, path: Path, **more: Any) -> Path:
    """Two people with two pictures and one, as InsightFace writes it: record 0, pictures, identity records."""
    pictures = [image(float(label), made.jpeg(k)) for k, label in enumerate((0, 0, 1))]
    records = [many([4, 6]), *pictures, many([1, 3]), many([3, 4])]
    return put(path, [record(one) for one in records], **more)


def test_a_face_set_is_read(made: Any, tmp_path: Path) -> None:
    samples = read_records(face_set(made, tmp_path / "train.rec"))
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 0, 1]
    assert tuple(samples.keys) == ("1", "2", "3")
    assert [bytes(part) for part in samples.fetch([2, 0])] == [made.jpeg(2), made.jpeg(0)]
    assert samples.people == 2
    assert samples.facts == {"identity records": 2}
    assert samples.picture(1).shape == (24, 24, 3)


def test_without_an_index_the_records_are_walked(made: Any, tmp_path: Path) -> None:
    walked = read_records(face_set(made, tmp_path / "train.rec", index=False))
    assert walked.labels is not None
    assert walked.labels.tolist() == [0, 0, 1]
    assert bytes(walked.fetch([1])[0]) == made.jpeg(1)


def test_a_set_without_record_0_is_read(made: Any, tmp_path: Path) -> None:
    path = put(tmp_path / "a.rec", [record(image(7.0, made.jpeg(0))), record(many([3.0, 0.5, 9.0], made.jpeg(1)))])
    samples = read_records(path)
    assert samples.labels is not None
    assert samples.labels.tolist() == [7, 3]
    np.testing.assert_array_equal(samples.columns["labels"], [[7, np.nan, np.nan], [3, 0.5, 9]])
    assert [bytes(part) for part in samples.fetch([0, 1])] == [made.jpeg(0), made.jpeg(1)]


def test_a_record_in_parts_gets_its_magic_numbers_back(made: Any, tmp_path: Path) -> None:
    inside = struct.pack("<I", MAGIC)
    data = image(5.0, b"\xff\xd8\xff" + b"a" * 5 + inside + b"bc12" + inside + b"tail")
    parts = [data[:32], b"bc12", b"tail"]
    assert len(parts[0]) % 4 == 0
    assert inside.join(parts) == data
    whole = b"".join(record(part, cflag) for part, cflag in zip(parts, (1, 2, 3), strict=True))
    path = put(tmp_path / "a.rec", [record(image(1.0, made.jpeg(0))), whole, record(image(2.0, made.jpeg(1)))])
    for index in (True, False):
        if not index:
            path.with_suffix(".idx").unlink()
        samples = read_records(path)
        assert samples.labels is not None
        assert samples.labels.tolist() == [1, 5, 2]
        assert bytes(samples.fetch([1])[0]) == data[24:]
        assert bytes(samples.take(np.array([2, 1])).fetch([1])[0]) == data[24:]


@given(
    data=st.lists(
        st.tuples(
            st.lists(st.one_of(st.binary(max_size=9), st.just(struct.pack("<I", MAGIC))), max_size=6).map(
                lambda parts: b"\xff" + b"".join(parts)
            ),
            st.one_of(st.integers(0, 1 << 24), st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5)),
        ),
        min_size=1,
        max_size=8,
    ),
    walk=st.booleans(),
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, data: Any, walk: bool) -> None:
    """Whatever the bytes: lengths that are no multiple of four, magic numbers inside."""
    folder = tmp_path_factory.mktemp("rec")
    with RecordWriter(folder / "a") as writer:
        for key, (picture, label) in enumerate(data, 1):
            writer.write(key, picture, label)
    if walk:
        (folder / "a.idx").unlink()
    samples = read_records(folder / "a.rec")
    first = [label[0] if isinstance(label, list) else label for _, label in data]
    assert [bytes(part) for part in samples.fetch(range(len(data)))] == [picture for picture, _ in data]
    assert samples.labels is not None
    assert samples.labels.tolist() == [int(value) for value in first]


def test_a_converted_set_has_identity_records_that_fit(made: Any, tmp_path: Path) -> None:
    made.folder(tmp_path / "people")
    convert(tmp_path / "people", tmp_path / "out", to="rec")
    assert (tmp_path / "out/property").read_text() == "3,24,24\n"
    raw = (tmp_path / "out/train.rec").read_bytes()
    flag, _, _, _, first, last = struct.unpack_from("<IfQQff", raw, 8)
    assert (flag, first, last) == (2, 13, 16)  # 12 pictures from key 1, then 3 people
    samples = read(tmp_path / "out")
    assert samples.people == 3
    assert samples.facts == {"identity records": 3}


def test_verification_files_beside_it_are_found_too(made: Any, tmp_path: Path) -> None:
    face_set(made, tmp_path / "train.rec")
    made.lfw(tmp_path / "lfw")
    convert(tmp_path / "lfw", tmp_path / "lfw.bin", to="bin")
    assert find(tmp_path) == [("rec", tmp_path / "train.rec"), ("bin", tmp_path / "lfw.bin")]
    assert read(tmp_path).format == "rec"


# --- Broken ---------------------------------------------------------------------------------------------------------


def test_a_truncated_file_keeps_what_comes_before(made: Any, told: Any, tmp_path: Path) -> None:
    path = put(tmp_path / "a.rec", [record(image(float(k), made.jpeg(k))) for k in range(4)])
    path.write_bytes(path.read_bytes()[:-100])
    samples = read_records(path, tell=told)
    assert tuple(samples.keys) == ("0", "1", "2")
    assert told.kinds == ["truncated"]
    with pytest.raises(CorruptMedia, match="cut off"):
        read_records(path)
    path.with_suffix(".idx").unlink()
    with pytest.raises(CorruptMedia, match="cut off"):
        read_records(path)


def test_an_index_of_another_file_is_noticed(made: Any, told: Any, tmp_path: Path) -> None:
    path = put(tmp_path / "a.rec", [record(image(float(k), made.jpeg(k))) for k in range(4)])
    index = path.with_suffix(".idx")
    lines = index.read_text().splitlines()
    index.write_text(
        "\n".join([lines[0], f"1\t{int(lines[1].split()[1]) + 4}", "2\t99999996", "3\t6", lines[3]]) + "\n"
    )
    samples = read_records(path, tell=told)
    assert sorted(told.kinds) == ["duplicate", "index", "index", "index"]
    assert tuple(samples.keys) == ("0",)


def test_an_index_that_is_too_short_is_noticed(made: Any, told: Any, tmp_path: Path) -> None:
    path = put(tmp_path / "a.rec", [record(image(float(k), made.jpeg(k))) for k in range(4)])
    index = path.with_suffix(".idx")
    index.write_text("\n".join(index.read_text().splitlines()[:2]) + "\n")
    assert len(read_records(path, tell=told)) == 2
    assert told.kinds == ["index"]
    assert "2 more" in str(told.all[0][2])


def test_an_index_with_a_broken_line_is_read_for_the_rest(made: Any, told: Any, tmp_path: Path) -> None:
    path = put(tmp_path / "a.rec", [record(image(float(k), made.jpeg(k))) for k in range(3)])
    index = path.with_suffix(".idx")
    index.write_text(index.read_text().replace("1\t", "one\t"))
    assert tuple(read_records(path, tell=told).keys) == ("0", "2")
    assert told.kinds == ["index"]
    assert told.all[0][1] == "a.idx line 2"


@pytest.mark.parametrize(
    ("zero", "identities", "expected"),
    [
        ([4, 7], [[1, 3], [3, 4]], "identity records"),
        ([4, 6], [[1, 3], [3, 5]], "not there"),
        ([4, 6], [[1, 2], [3, 4]], "no identity record"),
        ([4, 6], [[1, 2], [2, 4]], "different labels"),
    ],
)
def test_ranges_that_do_not_fit_are_noticed(
    made: Any, told: Any, tmp_path: Path, zero: list[float], identities: list[list[float]], expected: str
) -> None:
    pictures = [image(float(label), made.jpeg(k)) for k, label in enumerate((0, 0, 1))]
    records = [many(zero), *pictures, *map(many, identities)]
    samples = read_records(put(tmp_path / "a.rec", [record(one) for one in records]), tell=told)
    assert len(samples) == 3
    assert set(told.kinds) == {"wrong_count"}
    assert any(expected in str(error) for _, _, error in told.all)


def test_a_damaged_flag_is_an_error_and_no_memory(made: Any, told: Any, tmp_path: Path) -> None:
    bad = struct.pack("<IfQQ", 0xFFFFFFF0, 0.0, 0, 0) + made.jpeg(1)
    samples = read_records(put(tmp_path / "a.rec", [record(image(3.0, made.jpeg(0))), record(bad)]), tell=told)
    assert tuple(samples.keys) == ("0",)
    assert told.kinds == ["truncated"]


@given(cut=st.integers(0, 10_000), flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
       index=st.booleans())  # fmt: skip
def test_garbage_is_an_error_of_ours(
    made: Any, tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]], index: bool
) -> None:
    path = face_set(made, tmp_path_factory.mktemp("fuzz") / "train.rec", index=index)
    for file in (path, *([path.with_suffix(".idx")] if index else [])):
        data = bytearray(file.read_bytes())
        for at, value in flips:
            data[at % len(data)] = value
        file.write_bytes(bytes(data[: max(1, len(data) - cut % len(data))]))
    told = made.Told()
    with contextlib.suppress(MediaError, TableError):
        samples = read_records(path, tell=told)
        samples.fetch(range(len(samples)))
    if told.all:
        with pytest.raises(MienError):
            read_records(path)
