"""Readers of the sets: what they give on drawn sets of the real layout, how they fail, and what the real ones hold."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.data import sets
from mien.data.sets import READERS, held_out
from mien.errors import CorruptMedia, MediaNotFound, OptionError, TableError


def read(name: str, root: Path | None, **options: Any) -> Any:
    """The set by its reader, whole where the reader asks for a split."""
    reader = READERS[name]
    if "split" in inspect.signature(reader).parameters:
        options.setdefault("split", "all")
    return reader(root, **options)


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_set_gives_one_row_a_picture(made_up: Any, name: str) -> None:
    found = read(name, made_up(name))
    assert len(found) == len(found.names) == len(found.files) > 1
    for row in (0, len(found) - 1):
        assert found.files[row].is_file()
        picture = found.picture(row)
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
    columns = [value for value in vars(found).values() if isinstance(value, np.ndarray)]
    assert all(len(column) == len(found) for column in columns)


@pytest.mark.parametrize("name", sorted(READERS))
def test_sets_are_found_below_mien_data(made_up: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MIEN_DATA", str(made_up(name).parent))
    assert read(name, None).names == read(name, made_up(name)).names


def test_rows_are_joined_by_file_name_and_not_by_order(made_up: Any) -> None:
    chips = read("fairface_faces", made_up("fairface_faces"))
    with np.load(made_up("fairface_faces") / "embeddings.npz") as stored:
        by_name = dict(zip(stored["files"].tolist(), stored["embedding"], strict=True))
    for row, name in enumerate(chips.names):
        np.testing.assert_array_equal(chips.embeddings[row], by_name[name].astype(np.float32))
    unknown = np.isnan(chips.points).any((1, 2))
    assert unknown.tolist() == [True] * 2 + [False] * 18
    assert np.isnan(chips.five[unknown]).all()
    left_eye = chips.points[5, 36:42, :2].mean(0)
    np.testing.assert_allclose(chips.five[5, 0], left_eye, atol=1e-4)


def test_boxes_follow_their_pictures(made_up: Any) -> None:
    scenes = read("detection", made_up("detection"))
    assert [len(scenes.boxes.of_image(k)) for k in range(12)] == [0, 1, 2, 3] * 3
    assert (np.diff(scenes.boxes.image) >= 0).all()
    for row in range(12):
        assert scenes.picture(row).shape[1::-1] == tuple(scenes.size[row])
    some = scenes.take([7, 3, 0])
    assert [len(some.boxes.of_image(k)) for k in range(3)] == [3, 3, 0]
    np.testing.assert_array_equal(some.boxes.of_image(1), scenes.boxes.of_image(3))
    assert some.boxes.label.tolist() == [*scenes.boxes.label[scenes.boxes.image == 7],
                                         *scenes.boxes.label[scenes.boxes.image == 3]]  # fmt: skip


def test_pairs_point_to_pictures_and_lose_those_left_out(made_up: Any) -> None:
    people = read("lfw", made_up("lfw"))
    pairs = people.pairs
    same = [people.identity[a] == people.identity[b] for a, b in zip(pairs.first, pairs.second, strict=True)]
    assert same == pairs.same.tolist() == [True, False, True, False]
    assert pairs.of_folds([2]).same.tolist() == [True, False]
    kept = people.take(people.identity != "Ann_Ash")
    assert kept.identity[kept.pairs.first].tolist() == ["Cy_Cedar", "Bo_Birch"]
    assert kept.identity[kept.pairs.second].tolist() == ["Cy_Cedar", "Cy_Cedar"]


def test_columns_have_their_types_and_orders(made_up: Any) -> None:
    celeba = read("celeba10k", made_up("celeba10k"))
    assert celeba.attribute_names == ("5_o_Clock_Shadow", "Male", "Smiling")
    assert celeba.attributes[:2].tolist() == [[False, True, False], [True, True, False]]
    assert celeba.identity[:4].tolist() == [100, 100, 100, 101]
    votes = read("ferplus", made_up("ferplus"))
    assert (votes.vote_names[0], votes.votes[1].argmax(), votes.votes.sum(1).tolist()) == ("neutral", 1, [10, 10, 10])
    cifar = read("cifar10_test", made_up("cifar10_test"))
    assert (cifar.votes.argmax(1) == cifar.label).all()
    assert cifar.class_names[3] == "cat"
    cfp = read("cfp", made_up("cfp"))
    assert cfp.points.shape == (4, 30, 2)
    assert cfp.points[1, 2].tolist() == [3.0, 3.5]  # x2, y2 of row 1: 0.5 * (4, 5) + 1
    masks = read("fasseg", made_up("fasseg"))
    assert (masks.mask(1) == 2).all()
    assert masks.class_names[2] == "hair"
    assert masks.pan.tolist() == [0, -45]
    assert read("nuaa", made_up("nuaa")).live.tolist() == [True, False, True]
    assert read("real_fake", made_up("real_fake")).real.tolist() == [True, False]


def test_take_reads_masks_numbers_and_slices_alike(made_up: Any) -> None:
    people = read("celeb24", made_up("celeb24"))
    expected = people.names[1:3]
    for rows in (slice(1, 3), [1, 2], np.array([1, 2]), np.array([False, True, True, False])):
        taken = people.take(rows)
        assert taken.names == expected
        assert taken.files == people.files[1:3]
        assert taken.identity.tolist() == people.identity[1:3].tolist()
    assert len(people.take([])) == 0


# --- Splits ---------------------------------------------------------------------------------------------------------


def test_held_out_are_the_keys_with_the_smallest_hashes() -> None:
    keys = [f"{k}.jpg" for k in range(200)]
    hashes = {key: hashlib.sha256(key.encode()).hexdigest() for key in keys}
    smallest = sorted(keys, key=hashes.__getitem__)[:50]
    assert {k for k, held in zip(keys, held_out(keys, 0.25), strict=True) if held} == set(smallest)


def test_a_split_depends_neither_on_the_order_nor_on_repetition() -> None:
    keys = [f"person {k}" for k in range(40)]
    whole = dict(zip(keys, held_out(keys, 0.25), strict=True))
    shuffled = [keys[k] for k in np.random.default_rng(0).permutation(40)] * 3
    assert all(held == whole[key] for key, held in zip(shuffled, held_out(shuffled, 0.25), strict=True))
    assert sum(whole.values()) == 10
    assert not held_out(keys, 0).any()
    assert held_out(keys, 1).all()


def test_a_split_written_down_once_stays() -> None:
    # From sha256sum; a change of the rule would put trained pictures into the test.
    assert [k for k, held in enumerate(held_out([f"{k}.jpg" for k in range(1, 9)], 0.5), 1) if held] == [1, 5, 6, 7]


@pytest.mark.parametrize(
    ("name", "held", "share"),
    [("detection", "test", 0.25), ("landmarks68", "test", 0.25), ("fairface_faces", "validation", 0.1)],
)
def test_splits_are_disjoint_and_complete(made_up: Any, name: str, held: str, share: float) -> None:
    whole, train, rest = (read(name, made_up(name), split=split) for split in ("all", "train", held))
    assert sorted(train.names + rest.names) == sorted(whole.names)
    assert len(rest) == round(share * len(whole))


def test_no_person_is_on_both_sides(made_up: Any) -> None:
    train, test = (read("landmarks68", made_up("landmarks68"), split=split) for split in ("train", "test"))
    assert not set(train.identity) & set(test.identity)
    assert len(set(test.identity)) == 2


def test_an_unknown_split_is_refused_and_none_is_taken_for_granted(made_up: Any) -> None:
    with pytest.raises(OptionError, match="train, test, all"):
        sets.landmarks68(made_up("landmarks68"), split="validation")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="split"):
        sets.detection(made_up("detection"))  # type: ignore[call-arg]


# --- Errors ---------------------------------------------------------------------------------------------------------


def test_a_set_that_is_absent_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MIEN_DATA", raising=False)
    with pytest.raises(MediaNotFound, match="MIEN_DATA"):
        sets.lfw()
    monkeypatch.setenv("MIEN_DATA", str(tmp_path))
    with pytest.raises(MediaNotFound, match=r"tar xf lfw\.tar"):
        sets.lfw()
    with pytest.raises(OptionError, match="did you mean 'lfw'"):
        sets.find_set("lwf")


SPOILED: list[tuple[str, Callable[[str], str | None], str]] = [
    ("missing", lambda text: None, "missing"),
    ("empty", lambda text: "", "empty"),
    ("lacks columns", lambda text: text.replace("identity", "who", 1), "lacks columns.*identity"),
    ("a short row", lambda text: text.rstrip().rsplit(",", 1)[0] + "\n", "line 7 is not whole"),
]


@pytest.mark.parametrize(("what", "spoil", "message"), SPOILED, ids=[case[0] for case in SPOILED])
def test_spoiled_tables_are_named(
    made_up: Any, tmp_path: Path, what: str, spoil: Callable[[str], str | None], message: str
) -> None:
    root = made_up.anew("lfw", tmp_path)
    path = root / "images.csv"
    text = spoil(path.read_text())
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(TableError, match=message) as raised:
        sets.lfw(root)
    assert "images.csv" in str(raised.value) or "columns" in str(raised.value)


def test_pairs_of_unlisted_pictures_and_words_for_numbers_are_named(made_up: Any, tmp_path: Path) -> None:
    root = made_up.anew("lfw", tmp_path)
    pairs = root / "pairs.csv"
    good = pairs.read_text()
    pairs.write_text(good.replace("Cy_Cedar_0001.jpg", "Nobody_0001.jpg"))
    with pytest.raises(TableError, match=r"does not list.*Nobody_0001\.jpg"):
        sets.lfw(root)
    pairs.write_text(good.replace("2,1,", "two,1,"))
    with pytest.raises(TableError, match=r"not a number.*two"):
        sets.lfw(root)


def test_an_archive_that_is_missing_or_short_is_named(made_up: Any, tmp_path: Path) -> None:
    root = made_up.anew("fairface_faces", tmp_path)
    with np.load(root / "points.npz") as stored:
        np.savez(root / "points.npz", files=stored["files"][1:], xyz=stored["xyz"][1:])
    with pytest.raises(TableError, match=r"points\.npz"):
        sets.fairface_faces(root)
    (root / "embeddings.npz").unlink()
    with pytest.raises(TableError, match=r"embeddings\.npz"):
        sets.fairface_faces(root)


def test_a_broken_picture_is_an_error_only_when_it_is_opened(made_up: Any, tmp_path: Path) -> None:
    root = made_up.anew("no_faces", tmp_path)
    (root / "images" / "1.jpg").write_bytes((root / "images" / "1.jpg").read_bytes()[:100])
    found = sets.no_faces(root)
    assert found.picture(0).shape == (60, 80, 3)
    with pytest.raises(CorruptMedia):
        found.picture(1)


# --- The real sets --------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("celeb24", 2_158),
        ("celeba10k", 10_000),
        ("cfp", 3_500),
        ("cifar10_test", 10_000),
        ("detection", 300),
        ("fairface_faces", 29_978),
        ("fairface_val", 420),
        ("fasseg", 258),
        ("ferplus", 8_744),
        ("landmarks68", 3_457),
        ("lfw", 3_811),
        ("no_faces", 220),
        ("nuaa", 1_206),
        ("real_fake", 287),
        ("thermal", 213),
    ],
)
def test_real_sets_hold_what_their_page_says(real_set: Callable[[str], Path], name: str, pictures: int) -> None:
    found = read(name, real_set(name))
    assert len(found) == pictures
    assert len(set(found.names)) == pictures
    for row in np.random.default_rng(0).integers(pictures, size=5):
        assert found.picture(int(row)).dtype == np.uint8


@pytest.mark.data
def test_real_pairs_people_boxes_and_splits(real_set: Callable[[str], Path]) -> None:
    people = sets.lfw(real_set("lfw"))
    assert np.bincount(people.pairs.fold).tolist() == [0] + [600] * 5
    assert people.pairs.same.sum() == 1_500
    right = people.identity[people.pairs.first] == people.identity[people.pairs.second]
    np.testing.assert_array_equal(right, people.pairs.same)
    cfp = sets.cfp(real_set("cfp"))
    assert len(set(cfp.identity)) == 250
    assert (len(cfp.pairs_ff), len(cfp.pairs_fp)) == (3_500, 3_500)
    celeba = sets.celeba10k(real_set("celeba10k"))
    assert len(set(celeba.identity.tolist())) == 5_429
    assert celeba.attributes.shape == (10_000, 40)
    scenes, test = (sets.detection(real_set("detection"), split=split) for split in ("all", "test"))
    assert len(scenes.boxes) == 1_337
    assert len(test) == 75
    train, test68 = (sets.landmarks68(real_set("landmarks68"), split=split) for split in ("train", "test"))
    assert not set(train.identity) & set(test68.identity)
    assert len(set(train.identity)) + len(set(test68.identity)) == 347
    chips = sets.fairface_faces(real_set("fairface_faces"))
    norms = np.linalg.norm(chips.embeddings, axis=1)
    assert norms.mean() == pytest.approx(1.41, abs=0.02)
    votes = sets.cifar10_test(real_set("cifar10_test")).votes.sum(1)
    assert 45 < votes.mean() < 55
