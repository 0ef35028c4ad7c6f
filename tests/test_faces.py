"""`Faces`: what it takes, what it refuses, and the laws of choosing, joining and carrying it elsewhere."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mien.errors import (
    CorruptMedia,
    DtypeError,
    InputError,
    MissingColumn,
    NoFaceFound,
    OptionError,
    ShapeError,
    TableError,
    ValueRangeError,
)
from mien.faces import LANDMARKS5, Column, Faces, Failure, ImageInfo

FAILURE = Failure("broken.jpg", "truncated.", "corrupt_media", "copy it again")
DECLARED = tuple(Faces.DECLARED)


def some(n: int = 4, *, images: int = 2, seed: int = 0, **more: Any) -> Faces:
    """Faces with every column, all numbers different."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-5, 50, (n, 2))
    embeddings = rng.normal(size=(n, 8))
    return Faces(
        **{
            "image": rng.integers(0, images, n) if images else np.zeros(0, int),
            "boxes": np.concatenate([corners, corners + rng.uniform(0, 90, (n, 2))], axis=1),
            "scores": rng.random(n),
            "landmarks5": rng.normal(size=(n, 5, 2)),
            "landmarks": rng.normal(size=(n, 70, 2)),
            "landmarks3d": rng.normal(size=(n, 70, 3)),
            "pose": rng.uniform(-90, 90, (n, 3)),
            "quality": rng.random(n),
            "age": rng.uniform(25, 75, n),
            "age_groups": rng.random((n, 6)),
            "expressions": rng.random((n, 8)),
            "affect": rng.uniform(-1, 1, (n, 2)),
            "appearance": rng.random((n, 20)),
            "covers": rng.random((n, 3)),
            "parsing": rng.integers(0, 19, (n, 7, 6), np.uint8),
            "parsing_matrix": rng.normal(size=(n, 2, 3)),
            "embeddings": embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
            "crops": rng.integers(0, 256, (n, 6, 5, 3), np.uint8),
            "quality_components": {"Sharpness": rng.random(n)},
            "data": {"age": rng.integers(0, 99, n), "name": np.array([f"p{i}" for i in range(n)], "U8")},
            "images": [ImageInfo(f"{i}.jpg", 640, 480, None if i % 2 else i / 4) for i in range(images)],
            "failures": [FAILURE],
            "contract": "tests/8",
            **more,
        }
    )


finite32 = st.floats(-1e6, 1e6, width=32)


@st.composite
def faces(draw: st.DrawFn) -> Faces:
    """Any faces: any of the columns, odd values, named columns of every kind."""
    n, images = draw(st.integers(0, 5)), draw(st.integers(1, 3))
    columns: dict[str, Any] = {"image": draw(hnp.arrays(np.int32, n, elements=st.integers(0, images - 1)))}
    shapes = {
        "landmarks5": (5, 2),
        "landmarks": (draw(st.integers(1, 3)), 2),
        "landmarks3d": (draw(st.integers(1, 3)), 3),
        "parsing_matrix": (2, 3),
    }
    for name in draw(st.sets(st.sampled_from(DECLARED[1:]))):
        if name == "boxes":
            corner, side = draw(hnp.arrays(np.float32, (2, n, 2), elements=st.floats(0, 1e4, width=32)))
            columns[name] = np.concatenate([corner, corner + side], axis=1)
        elif name == "embeddings":
            rows_ = draw(hnp.arrays(np.float32, (n, 3), elements=st.floats(0.125, 1, width=32)))
            columns[name] = rows_ / np.linalg.norm(rows_, axis=1, keepdims=True)
        elif name == "crops":
            columns[name] = draw(hnp.arrays(np.uint8, (n, 2, 3, 3)))
        elif name == "pose":
            columns[name] = draw(hnp.arrays(np.float32, (n, 3), elements=st.floats(-180, 180, width=32)))
        elif name == "parsing":
            columns[name] = draw(hnp.arrays(np.uint8, (n, 2, 3)))
        elif Faces.DECLARED[name].names:
            wide = (n, len(Faces.DECLARED[name].names))
            columns[name] = draw(hnp.arrays(np.float32, wide, elements=st.floats(0, 1, width=32)))
        elif name in shapes:
            # Random points, not drawn ones: hypothesis would spend its time on the 210 numbers of a face.
            rng = np.random.default_rng(draw(st.integers(0, 9)))
            columns[name] = rng.normal(size=(n, *shapes[name])).astype(np.float32)
        else:
            columns[name] = draw(hnp.arrays(np.float32, n, elements=st.floats(0, 1, width=32)))
    kinds = st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_, "U3", ">f4", ">i2"])
    extra = {}
    for name in draw(st.sets(st.text("abcé_", min_size=1, max_size=4), max_size=3)):
        kind = np.dtype(draw(kinds))
        texts = st.text("aé√", max_size=3) if kind.kind == "U" else None
        extra[name] = draw(hnp.arrays(kind, draw(st.sampled_from([(n,), (n, 2), (n, 0), (n, 2, 1)])), elements=texts))
    parts = {}
    for name in draw(st.sets(st.sampled_from(["Sharpness", "Pose Yaw"]))):
        parts[name] = draw(hnp.arrays(np.float32, n, elements=finite32))
    infos = [
        ImageInfo(
            draw(st.text(max_size=5)), draw(st.integers(1, 99)), 7, draw(st.none() | st.floats(0, 99, allow_nan=False))
        )
        for _ in range(images)
    ]
    failures = draw(st.lists(st.just(FAILURE), max_size=2))
    contract = draw(st.none() | st.just("tests/3"))
    return Faces(**columns, quality_components=parts, data=extra, images=infos, failures=failures, contract=contract)


# ------------------------------------------------------------------------------------------- made and looked at


def test_columns_are_what_their_attributes_say() -> None:
    four = some()
    for name, column in Faces.DECLARED.items():
        array = getattr(four, name)
        assert array.dtype == column.dtype
        assert array.shape[0] == len(four) == 4
        assert all(want in (None, have) for have, want in zip(array.shape[1:], column.shape, strict=True))
        assert array is four.column(name)
    assert four.columns == (*DECLARED, "quality_components.Sharpness", "data.age", "data.name")
    assert four.column("data.age") is four.data["age"]
    assert list(four.data) == ["age", "name"]
    assert len(four.quality_components) == 1
    assert len(LANDMARKS5) == Faces.landmarks5.shape[0]


def test_declarations_can_be_read_from_the_class() -> None:
    assert isinstance(Faces.boxes, Column)
    assert Faces.boxes.verb == "detect"
    assert Faces.embeddings.verb == "embed"
    assert {c.verb for c in Faces.DECLARED.values()} <= {"detect", "align", "embed", "analyze"}
    keys = [column.key for column in Faces.DECLARED.values()]
    assert len(set(keys)) == len(keys)
    accepted = inspect.signature(Faces).parameters
    assert set(DECLARED) <= set(accepted)
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in accepted.values())


@pytest.mark.parametrize("name", DECLARED[1:])
def test_a_column_that_nobody_filled_raises_and_names_its_verb(name: str) -> None:
    bare = Faces(image=[])
    assert not hasattr(bare, name)
    with pytest.raises(MissingColumn, match=rf"call mien\.{Faces.DECLARED[name].verb}\(") as caught:
        getattr(bare, name)
    assert caught.value.column == name
    with pytest.raises(MissingColumn):
        bare.column(name)


def test_named_columns_that_are_not_there() -> None:
    four = some()
    assert "age" in four.data
    assert "size" not in four.data
    assert four.data.get("size") is None
    with pytest.raises(MissingColumn, match=r"data\.agee.*did you mean"):
        four.data["agee"]
    with pytest.raises(MissingColumn, match=r"call mien\.analyze"):
        four.quality_components["Noise"]
    with pytest.raises(MissingColumn, match="with_columns"):
        four.column("data.size")
    with pytest.raises(MissingColumn):
        four.column("nonsense.age")
    with pytest.raises(AttributeError):
        four.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_lists_and_narrower_numbers_are_taken() -> None:
    one = Faces(image=[0], boxes=[[0, 1, 2, 3]], scores=[1], images=[ImageInfo("a", 9, 9)])
    assert one.boxes.dtype == np.float32
    assert one.boxes.tolist() == [[0, 1, 2, 3]]
    assert Faces(image=[]).image.dtype == np.int32
    assert len(Faces(image=[])) == 0
    assert len(Faces(image=np.zeros(0, np.int64), boxes=np.zeros((0, 4)))) == 0


ONE = [ImageInfo("a.jpg", 10, 10)]


@pytest.mark.parametrize(
    ("columns", "error", "says"),
    [
        ({"image": [1]}, ValueRangeError, "points outside of images"),
        ({"image": [-1]}, ValueRangeError, "out of range"),
        ({"image": [0.0]}, DtypeError, "wrong type"),
        ({"image": [2**40]}, ValueRangeError, "does not fit int32"),
        ({"image": [[0]]}, ShapeError, "'image'"),
        ({"image": 0}, ShapeError, "'image'"),
        ({"image": [True]}, DtypeError, "wrong type"),
        ({"image": [0], "boxes": [[0, 0, 1]]}, ShapeError, r"expected: \(1, 4\)"),
        ({"image": [0], "boxes": np.zeros((2, 4))}, ShapeError, "one row for each face"),
        ({"image": [0], "boxes": [[5, 0, 1, 1]]}, ValueRangeError, "corners in the wrong order"),
        ({"image": [0], "boxes": [[0, 5, 1, 1]]}, ValueRangeError, "width, height"),
        ({"image": [0], "boxes": [[0, 0, np.nan, 1]]}, ValueRangeError, "NaN"),
        ({"image": [0], "boxes": [[0, 0, 1e39, 1]]}, ValueRangeError, "infinity"),
        ({"image": [0], "boxes": [["a", "b", "c", "d"]]}, DtypeError, "'boxes'"),
        ({"image": [0], "boxes": [[0, 1, 2, 3], [0]]}, DtypeError, "rectangular"),
        ({"image": [0], "scores": [1.5]}, ValueRangeError, "at least 0 and at most 1"),
        ({"image": [0], "scores": [True]}, DtypeError, "'scores'"),
        ({"image": [0], "pose": [[0, 0, 181]]}, ValueRangeError, "-180"),
        ({"image": [0], "landmarks": np.zeros((1, 7, 3))}, ShapeError, r"\(1, any, 2\)"),
        ({"image": [0], "landmarks3d": np.zeros((1, 68, 2))}, ShapeError, r"\(1, any, 3\)"),
        ({"image": [0], "embeddings": [[1.0, 1.0]]}, ValueRangeError, "length one"),
        ({"image": [0], "embeddings": np.zeros((1, 4))}, ValueRangeError, "divide each row"),
        ({"image": [0], "crops": np.zeros((1, 8, 8, 3))}, DtypeError, "uint8"),
        ({"image": [0], "crops": np.zeros((1, 8, 8, 4), np.uint8)}, ShapeError, "'crops'"),
        ({"image": [0], "quality_components": {"S": [[1.0]]}}, ShapeError, r"quality_components\.S"),
        ({"image": [0], "quality_components": {"S": [np.nan]}}, ValueRangeError, "NaN"),
        ({"image": [0], "data": {"x": [1, 2]}}, ShapeError, r"'data\.x'"),
        ({"image": [0], "data": {"x": 3}}, ShapeError, r"'data\.x'"),
        ({"image": [0], "data": {"x": [None]}}, DtypeError, "real numbers, booleans or text"),
        ({"image": [0], "data": {"x": [1j]}}, DtypeError, "real numbers"),
        ({"image": [0], "data": {"x.y": [1]}}, OptionError, "without a dot"),
        ({"image": [0], "data": {"": [1]}}, OptionError, "without a dot"),
    ],
)
def test_what_does_not_fit_is_refused(columns: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=f"(?i){says}"):
        Faces(**columns, images=ONE)


def test_tensors_are_taken() -> None:
    import torch

    one = Faces(image=torch.zeros(1, dtype=torch.int64), scores=torch.tensor([0.5]), images=ONE)
    assert one.scores.tolist() == [0.5]
    with pytest.raises(DtypeError):
        Faces(image=[0], scores=torch.ones(1, requires_grad=True), images=ONE)


# ------------------------------------------------------------------------------------------- nobody changes it


def test_nothing_can_be_assigned_or_deleted() -> None:
    four = some()
    with pytest.raises(AttributeError, match="with_columns"):
        four.scores = np.zeros(4)  # type: ignore[misc, assignment]
    with pytest.raises(AttributeError, match="without_columns"):
        del four.scores
    with pytest.raises(AttributeError):
        four.extra = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        four.data["age"] = np.zeros(4)  # type: ignore[index]
    with pytest.raises(TypeError, match="unhashable"):
        hash(four)


def derived(four: Faces) -> dict[str, Faces]:
    return {
        "made": four,
        "slice": four[1:3],
        "mask": four[four.scores > 0.1],
        "indices": four[[0, 2]],
        "row": four[0],
        "iterated": next(iter(four)),
        "of_image": four.of_image(int(four.image[0])),
        "sorted": four.sort_by("scores"),
        "joined": Faces.concat([four, four]),
        "with": four.with_columns(scores=[0.5] * 4),
        "without": four.without_columns("pose"),
        "pickled": pickle.loads(pickle.dumps(four)),
        "out of band": pickle.loads(pickle.dumps(four, protocol=5)),
        "copied": copy.deepcopy(four),
        "from json": Faces.from_json(four.to_json()),
    }


@pytest.mark.parametrize("how", list(derived(some())))
def test_arrays_cannot_be_written_however_they_came_about(how: str) -> None:
    got = derived(some())[how]
    for name in got.columns:
        array = got.column(name)
        assert not array.flags.writeable, name
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_what_was_handed_in_stays_the_callers() -> None:
    scores, age = np.array([0.5], np.float32), np.array([7])
    one = Faces(image=[0], scores=scores, data={"age": age}, images=ONE)
    scores[:], age[:] = 1, 8
    assert one.scores.tolist() == [0.5]
    assert one.data["age"].tolist() == [7]
    assert scores.flags.writeable


def test_a_read_only_view_of_a_writable_array_is_not_trusted() -> None:
    scores = np.array([0.25, 0.5], np.float32)
    view = scores[:]
    view.flags.writeable = False
    two = Faces(image=[0, 0], scores=view, images=ONE)
    scores[:] = 1
    assert two.scores.tolist() == [0.25, 0.5]


# ------------------------------------------------------------------------------------------- choosing rows


def same_rows(chosen: Faces, of: Faces, rows: list[int]) -> None:
    assert len(chosen) == len(rows)
    assert (chosen.images, chosen.failures, chosen.contract) == (of.images, of.failures, of.contract)
    assert chosen.columns == of.columns
    for name in of.columns:
        np.testing.assert_array_equal(chosen.column(name), of.column(name)[rows])


@given(st.data())
def test_choosing_is_what_numpy_does_to_every_column(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 6))
    all_ = some(n, seed=n)
    places = list(range(n))
    key = data.draw(
        st.slices(n)
        | st.lists(st.integers(-n, n - 1))
        | hnp.arrays(np.bool_, n)
        | hnp.arrays(st.sampled_from([np.int8, np.int64]), st.integers(0, 5), elements=st.integers(-n, n - 1))
    )
    expected = places[key] if isinstance(key, slice) else np.array(places)[np.asarray(key, None if len(key) else int)]
    same_rows(all_[key], all_, list(expected))


@given(st.integers(1, 6), st.data())
def test_one_index_gives_one_row(n: int, data: st.DataObject) -> None:
    all_ = some(n)
    row = data.draw(st.integers(-n, n - 1))
    for key in (row, np.int16(row), np.array(row)):
        same_rows(all_[key], all_, [row % n])
    for outside in (n, -n - 1):
        with pytest.raises(IndexError):
            all_[outside]


def test_iterating_ends_and_gives_rows() -> None:
    four = some()
    assert [row.scores[0] for row in four] == four.scores.tolist()
    assert Faces.concat(list(four)).scores.tolist() == four.scores.tolist()
    assert list(Faces.empty()) == []


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (np.ones(3, bool), ShapeError),
        (np.ones((4, 1), bool), ShapeError),
        ([[0, 1]], ShapeError),
        ([0.0, 1.0], DtypeError),
        (1.0, ShapeError),
        (True, DtypeError),
        (np.True_, DtypeError),
        ("scores", ShapeError),
        (["scores"], DtypeError),
        ([4], IndexError),
    ],
)
def test_keys_that_choose_nothing(key: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        some()[key]


def test_of_image() -> None:
    five = some(5, images=3, image=[2, 0, 2, 1, 0])
    same_rows(five.of_image(2), five, [0, 2])
    same_rows(five.of_image(1), five, [3])
    for outside in (3, -1):
        with pytest.raises(ValueRangeError, match="0 to 2"):
            five.of_image(outside)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.booleans())
def test_sorting_keeps_the_order_of_equals(values: list[int], descending: bool) -> None:
    n = len(values)
    made = Faces(image=[0] * n, data={"key": values, "place": list(range(n))}, images=ONE)
    expected = sorted(range(n), key=lambda i: -values[i] if descending else values[i])
    for key in ("data.key", values, np.array(values, np.float32)):
        assert made.sort_by(key, descending=descending).data["place"].tolist() == expected


def test_sorting_by_area_and_largest() -> None:
    three = Faces(image=[0] * 3, boxes=[[0, 0, 2, 2], [0, 0, 9, 1], [5, 5, 7, 7]], images=ONE)
    assert three.areas.tolist() == [4, 9, 4]
    same_rows(three.sort_by("area"), three, [1, 0, 2])
    same_rows(three.sort_by("area", descending=False), three, [0, 2, 1])
    same_rows(three.largest(), three, [1])
    with pytest.raises(NoFaceFound):
        three[[]].largest()


@pytest.mark.parametrize("key", ["boxes", [1, 2], [[1, 2, 3, 4]]])
def test_only_one_number_a_face_sorts(key: Any) -> None:
    with pytest.raises(ShapeError, match="one number a face"):
        some().sort_by(key)


# ------------------------------------------------------------------------------------------- columns in and out


def test_with_columns_adds_replaces_and_merges() -> None:
    four = some()
    more = four.with_columns(
        scores=[0.5] * 4, quality_components={"Noise": [1.0] * 4}, data={"age": [1, 2, 3, 4], "new": ["x"] * 4}
    )
    assert more.scores.tolist() == [0.5] * 4
    assert list(more.quality_components) == ["Sharpness", "Noise"]
    assert list(more.data) == ["age", "name", "new"]
    assert more.data["age"].tolist() == [1, 2, 3, 4]
    assert more.contract == "tests/8"
    assert four.with_columns(contract="other").contract == "other"
    assert four.data["age"].tolist() != [1, 2, 3, 4]
    with pytest.raises(OptionError, match="did you mean 'scores'"):
        four.with_columns(score=[1] * 4)
    with pytest.raises(ShapeError):
        four.with_columns(scores=[1])


def test_without_columns() -> None:
    four = some()
    less = four.without_columns("pose", "data.age")
    assert set(four.columns) - set(less.columns) == {"pose", "data.age"}
    assert less.contract == "tests/8"
    assert "data.name" not in four.without_columns("data").columns
    assert four.without_columns("quality_components").quality_components == {}
    assert four.without_columns("embeddings").contract is None
    assert four.without_columns() == four
    for name in ("image", "sccores", "data.agee", "dat"):
        with pytest.raises(OptionError):
            four.without_columns(name)


def test_with_images() -> None:
    four = some()
    named = four.with_images([ImageInfo(f"n{i}", 1, 1) for i in range(3)], failures=[])
    assert [info.source for info in named.images] == ["n0", "n1", "n2"]
    assert named.failures == ()
    assert named.columns == four.columns
    assert four.with_images(four.images) == four
    with pytest.raises(ValueRangeError):
        some(image=[1] * 4).with_images(four.images[:1])


# ------------------------------------------------------------------------------------------- joining


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_joining_is_row_after_row_and_image_after_image(sizes: list[int]) -> None:
    parts = [some(n, images=n % 3 + 1, seed=seed) for seed, n in enumerate(sizes)]
    joined = Faces.concat(parts)
    rows = [row for part in parts for row in part]
    assert len(joined) == len(rows)
    assert joined.images == tuple(info for part in parts for info in part.images)
    assert joined.failures == (FAILURE,) * len(parts)
    for got, row in zip(joined, rows, strict=True):
        assert joined.images[got.image[0]] == row.images[row.image[0]]
        for name in set(row.columns) - {"image"}:
            np.testing.assert_array_equal(got.column(name), row.column(name))


@settings(max_examples=50)
@given(faces(), st.integers(0, 5))
def test_cutting_and_joining_gives_the_same(whole: Faces, at: int) -> None:
    """The images stand twice, so that the rows of the second half point into the second copy."""
    joined = Faces.concat([whole[:at], whole[at:]])
    assert joined.images == whole.images * 2
    back = joined.with_columns(image=joined.image % len(whole.images)).with_images(whole.images, whole.failures)
    assert back == whole
    assert Faces.concat([whole]) == whole


def test_joining_nothing_and_joining_the_empty() -> None:
    assert Faces.concat([]) == Faces.empty()
    four, nobody = some(), Faces.empty(images=[ImageInfo("nobody.jpg", 5, 5)])
    joined = Faces.concat([nobody, four, nobody])
    assert joined.columns == four.columns
    assert joined.image.tolist() == (four.image + 1).tolist()
    assert [info.source for info in joined.images] == ["nobody.jpg", "0.jpg", "1.jpg", "nobody.jpg"]
    # With no row anywhere, what is known about columns is kept.
    assert Faces.concat([nobody, four[:0]]).columns == four.columns


def test_what_cannot_be_joined() -> None:
    four = some()
    with pytest.raises(TableError, match="pose only in some"):
        Faces.concat([four, four.without_columns("pose")])
    with pytest.raises(InputError, match="different weights"):
        Faces.concat([four, four.with_columns(contract="other")])
    with pytest.raises(ShapeError, match="'crops' has different widths"):
        Faces.concat([four, four.with_columns(crops=np.zeros((4, 2, 2, 3), np.uint8))])
    with pytest.raises(TableError, match="text in some and numbers in others"):
        Faces.concat([four, four.with_columns(data={"age": ["old"] * 4})])
    # One without embeddings has no say in whose they are.
    assert Faces.concat([four[:0].with_columns(contract="other"), four]).contract == "tests/8"


def test_joined_numbers_and_texts_become_as_wide_as_needed() -> None:
    one = Faces(image=[0], data={"x": np.array([1], np.uint8), "t": ["a"]}, images=ONE)
    two = Faces(image=[0], data={"x": np.array([300]), "t": ["longer"]}, images=ONE)
    joined = Faces.concat([one, two])
    assert joined.data["x"].tolist() == [1, 300]
    assert joined.data["t"].tolist() == ["a", "longer"]


# ------------------------------------------------------------------------------------------- carried elsewhere


@settings(max_examples=60)
@given(faces())
def test_every_way_out_leads_back(original: Faces) -> None:
    assert Faces.from_dict(original.to_dict()) == original
    assert Faces.from_json(original.to_json()) == original
    assert Faces.from_json(original.to_json(indent=1)) == original
    assert pickle.loads(pickle.dumps(original)) == original
    assert copy.copy(original) == original


def test_json_is_strict_and_reads_like_json() -> None:
    two = some(2, data={"x": [np.nan, np.inf], "y": np.float32([0.1, 0.2])})
    plain = json.loads(two.to_json(), parse_constant=pytest.fail)
    assert [face["data"]["x"] for face in plain["faces"]] == [None, "inf"]
    assert [face["data"]["y"] for face in plain["faces"]] == [0.1, 0.2]  # not 0.10000000149011612
    first = plain["faces"][0]
    assert set(first) == {c.key for c in Faces.DECLARED.values()} | {"quality_components", "data"}
    assert len(first["box"]) == 4
    assert first["image"] == two.image[0]
    assert plain["images"][0] == {"source": "0.jpg", "width": 640, "height": 480, "time_s": 0.0}
    assert plain["failures"][0]["code"] == "corrupt_media"
    assert plain["contract"] == "tests/8"
    assert Faces.from_dict(plain) == two


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[]", "3", "{}", '{"faces": []}', '{"images": 1, "failures": [], "columns": {}, "faces": []}'],
)
def test_what_to_json_did_not_write_is_a_table_error(text: str) -> None:
    with pytest.raises(TableError, match="to_json"):
        Faces.from_json(text)


@pytest.mark.parametrize("path", ["images", "failures", "contract", "columns", "faces"])
def test_a_part_that_is_missing_is_a_table_error(path: str) -> None:
    plain = some().to_dict()
    del plain[path]
    with pytest.raises(TableError):
        Faces.from_dict(plain)


def test_damaged_rows_are_typed_errors() -> None:
    def damaged(**change: Any) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(some(2).to_json())
        plain["faces"][1] |= change
        return plain

    for change in ({"box": [1, 2]}, {"crop": "%%%"}, {"crop": "AAAA"}, {"score": "high"}, {"pose": None}):
        with pytest.raises(TableError):
            Faces.from_dict(damaged(**change))
    with pytest.raises(ValueRangeError):
        Faces.from_dict(damaged(score=2.0))
    plain = some(2).to_dict()
    plain["columns"]["scores"]["dtype"] = "object"
    with pytest.raises(InputError):
        Faces.from_dict(plain)


def test_equality_is_of_everything() -> None:
    four = some()
    assert four == some()
    assert four != some(seed=1)
    assert four != four.without_columns("pose")
    assert four != four.with_columns(contract="other")
    assert four != four.with_images(four.images, failures=[])
    assert four != four[:3]
    assert four != "faces"
    nan = some(data={"x": [np.nan] * 4})
    assert nan == some(data={"x": [np.nan] * 4})


def test_repr_is_one_line() -> None:
    text = repr(some())
    assert text.startswith("Faces(4 in 2 images; image (4,), boxes (4, 4)")
    assert text.endswith("1 failures)")
    assert "\n" not in text


def test_a_failure_says_what_its_error_says() -> None:
    error = CorruptMedia("truncated", got="100 bytes")
    failure = Failure.of("a.jpg", error)
    assert failure == Failure("a.jpg", str(error), "corrupt_media", CorruptMedia.advice)


# ------------------------------------------------------------------------------------------- as a table


def test_pandas_has_one_row_a_face() -> None:
    pandas = pytest.importorskip("pandas", reason="needs the extra tables")
    three = some(3, image=[1, 0, 1])
    table = three.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert len(table) == 3
    assert table["source"].tolist() == ["1.jpg", "0.jpg", "1.jpg"]
    assert np.isnan(table["time_s"][0])
    assert table["time_s"][1] == 0.0
    np.testing.assert_array_equal(table[["x0", "y0", "x1", "y1"]].to_numpy(), three.boxes)
    np.testing.assert_array_equal(table[["yaw", "pitch", "roll"]].to_numpy(), three.pose)
    np.testing.assert_array_equal(table["left_eye_x"], three.landmarks5[:, 0, 0])
    np.testing.assert_array_equal(table["right_mouth_y"], three.landmarks5[:, 4, 1])
    np.testing.assert_array_equal(np.stack(table["landmarks"])[2], three.landmarks[2].ravel())
    np.testing.assert_array_equal(np.stack(table["embedding"]), three.embeddings)
    np.testing.assert_array_equal(table["quality_Sharpness"], three.quality_components["Sharpness"])
    assert table["name"].tolist() == ["p0", "p1", "p2"]
    assert "crop" not in table.columns


def test_pandas_of_nobody_has_the_same_columns() -> None:
    pytest.importorskip("pandas", reason="needs the extra tables")
    four = some()
    assert four[:0].to_pandas().columns.tolist() == four.to_pandas().columns.tolist()
    assert len(Faces.empty().to_pandas()) == 0


def test_pandas_keeps_a_named_column_beside_one_of_the_same_name() -> None:
    pytest.importorskip("pandas", reason="needs the extra tables")
    table = some(1, data={"score": [9]}).to_pandas()
    assert table["data.score"].tolist() == [9]
    assert table["score"][0] < 1


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from mien.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"mien\[tables\]"):
        some().to_pandas()
