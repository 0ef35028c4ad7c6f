"""The tree of errors is the one that is drawn, every error says what to do, and errors travel."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mien import errors
from mien.errors import MienError, MissingColumn, MissingExtra, OptionError, describe

CLASSES: list[type[MienError]] = [getattr(errors, name) for name in errors.__all__]


def made(kind: type[MienError]) -> MienError:
    """An error of any class, by its own arguments."""
    if kind is MissingColumn:
        return MissingColumn("embeddings", verb="embed", columns=["image", "boxes"])
    if kind is MissingExtra:
        return MissingExtra("onnxruntime", extra="onnx")
    return kind("the thing is broken", got="one", expected=["two", "three"], hint="mend it")


def drawn() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(class, parent, further bases) of every line of the drawing in the docstring."""
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)(?: \(([\w, ]+)\))?  +\S", line)
        if found is None:
            continue
        stem, name, others = found.groups()
        depth = len(stem) // 4
        assert len(stem) % 4 == 0, line
        parents[depth:] = [name]
        yield name, parents[depth - 1] if depth else "Exception", tuple((others or "").split(", ")) if others else ()


def test_the_drawn_tree_is_the_real_one() -> None:
    real = {
        kind.__name__: (kind.__bases__[0].__name__, tuple(base.__name__ for base in kind.__bases__[1:]))
        for kind in CLASSES
    }
    assert {name: (parent, others) for name, parent, others in drawn()} == real


def test_all_names_every_error_once_and_in_order() -> None:
    defined = [name for name, thing in vars(errors).items() if inspect.isclass(thing) and issubclass(thing, MienError)]
    assert errors.__all__ == sorted(defined)


def test_codes_are_words_with_underscores_and_unique() -> None:
    codes = {kind.__name__: made(kind).code for kind in CLASSES}
    assert len(set(codes.values())) == len(CLASSES)
    assert codes["MienError"] == "mien_error"
    assert codes["CorruptMedia"] == "corrupt_media"
    assert codes["NotAFile"] == "not_a_file"
    assert codes["LicenceNotAccepted"] == "licence_not_accepted"
    for name, code in codes.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code), code
        assert "".join(code.split("_")) == name.lower()


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_a_docstring_that_ends_its_sentence(kind: type[MienError]) -> None:
    first = (kind.__doc__ or "").strip().splitlines()[0]
    assert first.endswith(".")
    assert kind.advice is None or not kind.advice.endswith("."), "advice is a clause; __str__ ends it"


@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_raised_far_away_arrives_whole(kind: type[MienError]) -> None:
    error = made(kind)
    error.add_note("while reading the album")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert twin.args == error.args
        assert vars(twin) == vars(error)
        assert twin.to_dict() == error.to_dict()


def test_errors_are_caught_as_the_python_error_they_are_a_kind_of() -> None:
    with pytest.raises(ValueError, match="no such shape"):
        raise errors.ShapeError("no such shape")
    with pytest.raises(RuntimeError):
        raise errors.DeviceUnavailable("no accelerator")
    with pytest.raises(ImportError):
        raise MissingExtra("pandas", extra="tables")
    with pytest.raises(KeyError):
        raise MissingColumn("age")
    with pytest.raises(AttributeError):
        raise MissingColumn("age")


def test_a_message_says_what_got_expected_and_do() -> None:
    error = MienError("the picture is odd", got="a cube", expected=["a square", "a circle"], hint="flatten it")
    assert str(error) == "the picture is odd. Got: a cube. Expected: a square, a circle. Do: flatten it."
    assert str(MienError("it broke")) == "it broke."
    # KeyError would show the repr of its argument.
    assert str(MissingColumn("age", columns=["image"])).startswith("no verb has filled the column 'age'. Got:")


@pytest.mark.parametrize("end", [".", "!", "?", "…"])
def test_a_sentence_is_ended_once(end: str) -> None:
    assert str(MienError(f"so it is{end}")) == f"so it is{end}"


def test_general_advice_stands_in_for_a_hint() -> None:
    general = errors.CorruptMedia("truncated")
    assert general.hint == errors.CorruptMedia.advice
    assert f"Do: {errors.CorruptMedia.advice}." in str(general)
    assert errors.CorruptMedia("truncated", hint="buy a new camera").hint == "buy a new camera"
    assert errors.ShapeError("flat").hint is None
    assert "Do:" not in str(errors.ShapeError("flat"))


def test_to_dict_is_plain_and_complete() -> None:
    error = errors.ShapeError("wrong", got=np.zeros((2, 3), np.float32), expected=(4,), hint="turn it")
    plain = json.loads(json.dumps(error.to_dict()))
    assert plain == {
        "code": "shape_error",
        "error": "ShapeError",
        "message": str(error),
        "what": "wrong",
        "got": "ndarray of shape (2, 3), float32",
        "expected": "4",
        "hint": "turn it",
    }
    assert json.loads(json.dumps(MienError("bare").to_dict()))["got"] is None


def test_an_error_does_not_keep_the_picture_alive() -> None:
    picture = np.zeros((9, 9))
    assert isinstance(MienError("bad", got=picture).got, str)


def test_describe() -> None:
    import torch

    assert describe("as it is") == "as it is"
    assert describe("over\n two   lines") == "over two lines"
    assert describe(np.zeros((4, 5, 3), np.uint8)) == "ndarray of shape (4, 5, 3), uint8"
    assert describe(torch.zeros(2, 3)) == "Tensor of shape (2, 3), torch.float32"
    assert describe(b"1234") == describe(bytearray(4)) == describe(memoryview(b"abcd")) == "4 bytes"
    assert describe(Path("a") / "b.jpg") == str(Path("a") / "b.jpg")
    assert describe(3.5) == "3.5"
    assert describe(None) == "None"
    assert describe({"a": [1, 2]}) == "{'a': [1, 2]}"


def test_describe_is_short_whatever_it_gets() -> None:
    for value in ("x" * 1000, list(range(1000)), dict.fromkeys(range(99), "y" * 50), "z " * 500, 10**3000):
        text = describe(value)
        assert len(text) <= errors.SHOWN
        assert text.endswith("…") or "..." in text
    assert describe("x" * errors.SHOWN) == "x" * errors.SHOWN


def test_describe_looks_at_the_beginning_of_a_long_list_only() -> None:
    class Counted:
        seen = 0

        def __repr__(self) -> str:
            Counted.seen += 1
            return "c"

    describe([Counted()] * 100_000)
    assert Counted.seen <= errors.SHOWN


@pytest.mark.parametrize(
    ("expected", "shown"),
    [("a square", "a square"), (["a", "b"], "a, b"), ((1, 2), "1, 2"), ([], "nothing"), ({"k": 1}, "k"), (7, "7")],
)
def test_what_was_expected_is_shown_as_its_items(expected: object, shown: str) -> None:
    assert MienError("x", expected=expected).expected == shown


def test_an_unknown_option_is_answered_with_the_nearest() -> None:
    error = OptionError.unknown("unknown backend", "onyx", ["onnx", "torch"])
    assert type(error) is OptionError
    assert error.expected == "one of onnx, torch"
    assert error.hint == "did you mean 'onnx'?"
    assert OptionError.unknown("unknown backend", "zzz", iter(["onnx", "torch"])).hint == "choose one of these"


def test_a_missing_column_names_the_verb_that_fills_it() -> None:
    assert MissingColumn("embeddings", verb="embed").hint == "call mien.embed(...), which fills it"
    assert MissingColumn("data.agee", columns=["data.age"]).hint == "did you mean 'data.age'?"
    assert "with_columns" in str(MissingColumn("data.size", columns=["image"]))
    assert MissingColumn("age").got == "columns nothing"
    assert MissingColumn("age").column == "age"


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    error = MissingExtra("onnxruntime", extra="onnx")
    assert error.hint == "pip install 'mien[onnx]'"
    assert (error.package, error.extra) == ("onnxruntime", "onnx")


def test_the_errors_that_people_catch_are_at_the_top() -> None:
    """The root, its branches, and MediaError, which is what a picture fails with."""
    import mien

    branches = {kind.__name__ for kind in CLASSES if kind.__bases__[0] is MienError}
    wanted = {"MienError", "MediaError", *branches}
    assert {name for name in mien.__all__ if name in errors.__all__} == wanted
    for name in wanted:
        assert getattr(mien, name) is getattr(errors, name)


def test_docstring_examples() -> None:
    import doctest

    results = doctest.testmod(errors)
    assert results.attempted >= 2
    assert results.failed == 0
