"""Verification files: every way in which they are pickled, and no way to run a program."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.data.formats import convert, read, read_bin
from mien.data.formats.verification_bin import _Restricted
from mien.errors import CorruptMedia, MediaNotFound, MienError, OptionError, TableError, UnknownFormat


def put(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["bytes", "bytearray", "uint8", "int8"])
@pytest.mark.parametrize("verdicts", ["list", "array", "scalars", "tuple"])
def test_every_way_of_pickling_is_read(made: Any, tmp_path: Path, protocol: int, kind: str, verdicts: str) -> None:
    files = [made.jpeg(k) for k in range(6)]
    as_kind: Any = {
        "bytes": bytes, "bytearray": bytearray, "uint8": lambda f: np.frombuffer(f, np.uint8),
        "int8": lambda f: np.frombuffer(f, np.int8),
    }[kind]  # fmt: skip
    same: Any = [True, False, True]
    same = {
        "list": same, "array": np.array(same), "scalars": [np.bool_(one) for one in same], "tuple": tuple(same)
    }[verdicts]  # fmt: skip
    samples = read_bin(put(tmp_path / "a.bin", ([as_kind(file) for file in files], same), protocol))
    assert [bytes(part) for part in samples.fetch(range(6))] == files
    pairs = samples.pairs["bin"]
    assert pairs.same.tolist() == [True, False, True]
    assert pairs.first.tolist() == [0, 2, 4]
    assert pairs.second.tolist() == [1, 3, 5]


def test_python_2_wrote_most_of_them(made: Any, tmp_path: Path) -> None:
    """Protocol 2 with str for bytes: SHORT_BINSTRING and BINSTRING."""
    files = [made.jpeg(0), made.jpeg(1)]
    out = io.BytesIO(b"")
    out.write(b"\x80\x02](")
    for file in files:
        out.write(b"T" + len(file).to_bytes(4, "little") + file)
    out.write(b"e]q\x01\x88a\x86.")
    path = tmp_path / "a.bin"
    path.write_bytes(out.getvalue())
    pickletools.dis(out.getvalue(), io.StringIO())
    samples = read_bin(path)
    assert [bytes(part) for part in samples.fetch([0, 1])] == files
    assert samples.pairs["bin"].same.tolist() == [True]


def test_folds_are_ten_in_order(made: Any, tmp_path: Path) -> None:
    samples = read_bin(put(tmp_path / "a.bin", ([made.jpeg(0)] * 46, [True] * 23)))
    assert np.bincount(samples.pairs["bin"].fold).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]


class Program:
    """Makes a file when it is unpickled by pickle itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class Evaluated:
    def __reduce__(self) -> Any:
        return eval, ("[][0]",)


def test_a_program_in_the_file_is_not_run(made: Any, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for protocol in range(6):
        path = put(tmp_path / "evil.bin", ([Program(trap), made.jpeg(0)], [True]), protocol)
        with pytest.raises(UnknownFormat, match="asks for something") as caught:
            read_bin(path)
        assert "mkdir" in str(caught.value)
        assert not trap.exists()
    pickle.loads((tmp_path / "evil.bin").read_bytes())
    assert trap.exists(), "the trap works, so that it not being there above means something"


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.",
        b"\x80\x04\x8c\x09functools\x8c\x07partial\x93.",
        b"(ios\nsystem\n.",
        b"cmien.data.formats\nread\n.",
        b"\x80\x02\x82\x01.",
    ],
)
def test_names_are_not_resolved(tmp_path: Path, stream: bytes) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(stream)
    with pytest.raises(UnknownFormat if b"\x82" not in stream else MienError):
        read_bin(path)


@pytest.mark.parametrize("name", [b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n"])
def test_a_pickle_cannot_change_the_names(tmp_path: Path, name: bytes) -> None:
    """BUILD with a pair of dicts would set attributes on what a name stands for."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x80\x02" + name + b"N}X\x04\x00\x00\x00evilK\x01s\x86b.")
    with pytest.raises(MienError):
        read_bin(path)
    assert not any(hasattr(value, "evil") for value in _Restricted.NAMES.values())


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()], object),
        np.array(["a"], "U1"),
        np.zeros(2, [("a", "u1"), ("b", "u1")]),
        np.array([], "M8[s]"),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(made: Any, tmp_path: Path, array: Any) -> None:
    path = put(tmp_path / "a.bin", ([made.jpeg(0), made.jpeg(1)], [True]), 4)
    value = [1] if array.dtype == object else None
    array = np.array(value, object) if value else array
    put(path, ([array, made.jpeg(1)], [True]))
    with pytest.raises(MienError):
        read_bin(path)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([1, 2, 3], TableError),
        (([b"a"], "yes"), TableError),
        (([b"a", b"b", b"c"], [True]), TableError),
        (([b"a", b"b"], [3]), TableError),
        (([b"a", 7], [True]), TableError),
        ({"a": 1}, TableError),
    ],
)
def test_what_is_no_verification_set_is_refused(tmp_path: Path, value: Any, error: type[MienError]) -> None:
    with pytest.raises(error):
        read_bin(put(tmp_path / "a.bin", value))


def test_odd_entries_are_told_and_the_rest_is_read(made: Any, told: Any, tmp_path: Path) -> None:
    files = [made.jpeg(0), 7, made.jpeg(2), made.jpeg(3), made.jpeg(4)]
    samples = read_bin(put(tmp_path / "a.bin", (files, [True, "no"])), tell=told)
    assert told.kinds == ["undecodable", "row", "wrong_count"]
    assert len(samples) == 5
    assert len(samples.pairs["bin"]) == 2


def test_truncated_and_missing_files(made: Any, tmp_path: Path) -> None:
    path = put(tmp_path / "a.bin", ([made.jpeg(k) for k in range(20)], [True] * 10))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CorruptMedia):
        read_bin(path)
    with pytest.raises(MediaNotFound):
        read_bin(tmp_path / "none.bin")


@given(st.binary(max_size=200))
def test_garbage_is_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bin") / "a.bin"
    path.write_bytes(data)
    with pytest.raises(MienError):
        read_bin(path)


@given(st.integers(0, 5000), st.integers(0, 255), st.integers(0, 5))
def test_a_flipped_byte_is_read_or_an_error_of_ours(
    made: Any, tmp_path_factory: pytest.TempPathFactory, at: int, value: int, protocol: int
) -> None:
    files = [np.frombuffer(made.jpeg(0), np.uint8), made.jpeg(1)]
    data = bytearray(pickle.dumps((files, np.array([True])), protocol))
    data[at % min(len(data), 200)] = value
    path = tmp_path_factory.mktemp("bin") / "a.bin"
    path.write_bytes(bytes(data))
    with contextlib.suppress(MienError):
        assert len(read_bin(path).pairs["bin"]) <= 1


# --- Writing --------------------------------------------------------------------------------------------------------


def test_lfw_becomes_a_bin(made: Any, tmp_path: Path) -> None:
    made.lfw(tmp_path / "lfw")
    before = read(tmp_path / "lfw")
    done = convert(tmp_path / "lfw", tmp_path / "lfw.bin", to="bin")
    after = read(tmp_path / "lfw.bin")
    assert (done.pairs, done.images) == (60, 120)
    view2, pairs = before.pairs["view2"], after.pairs["bin"]
    assert pairs.same.tolist() == view2.same.tolist()
    assert pairs.fold.tolist() == view2.fold.tolist()
    for row in (0, 17, 59):
        want = before.fetch([view2.first[row], view2.second[row]])
        got = after.fetch([pairs.first[row], pairs.second[row]])
        assert [bytes(one) for one in want] == [bytes(one) for one in got]
    # The reference reads it with pickle itself.
    pictures, same = pickle.loads((tmp_path / "lfw.bin").read_bytes())
    assert len(pictures) == 2 * len(same) == 120
    assert type(pictures[0]) is bytes
    assert type(same[0]) is bool


def test_which_pairs_must_be_said(made: Any, tmp_path: Path) -> None:
    made.cfp(tmp_path / "cfp")
    with pytest.raises(OptionError, match="FF, FP"):
        convert(tmp_path / "cfp", tmp_path / "a.bin", to="bin")
    assert convert(tmp_path / "cfp", tmp_path / "a.bin", to="bin", pairs="FP").pairs == 8
    made.folder(tmp_path / "people")
    with pytest.raises(TableError, match="needs pairs"):
        convert(tmp_path / "people", tmp_path / "b.bin", to="bin")
