"""Batches: right pixels, one order whatever the threads, resumption, broken pictures, arrays that are kept."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.data.formats import convert, read
from mien.data.formats.samples import InMemory
from mien.data.loading import Batches, _Arrays
from mien.errors import CorruptMedia, MienError, OptionError, ShapeError
from mien.media import load_image

SIDE = 24


@pytest.fixture(scope="module")
def sets(made: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One set of 35 pictures in every format that is loaded."""
    home = tmp_path_factory.mktemp("sets")
    made.folder(home / "folder", people=5, each=7, side=SIDE)
    for to in ("rec", "parquet", "webdataset"):
        convert(home / "folder", home / to, to=to, shard=10)
    return {name: home / name for name in ("folder", "rec", "parquet", "webdataset")}


def batches(path: Any, size: int = 8, **more: Any) -> Batches:
    return Batches(path, size, size=SIDE, **{"threads": 2, "epochs": 1, **more})


def rows_of(made: Batches) -> list[list[int]]:
    return [batch["row"].tolist() for batch in made]


@pytest.mark.parametrize("name", ["folder", "rec", "parquet", "webdataset"])
def test_pictures_are_those_that_the_door_reads(sets: dict[str, Path], name: str) -> None:
    source = read(sets[name])
    seen = 0
    for batch in batches(sets[name]):
        assert batch["image"].shape == (8, SIDE, SIDE, 3)
        assert batch["image"].dtype == np.uint8
        for row, image, label in zip(batch["row"], batch["image"], batch["label"], strict=True):
            np.testing.assert_array_equal(image, load_image(bytes(source.fetch([row])[0])))
            assert source.labels is not None
            assert label == source.labels[row]
            seen += 1
    assert seen == 32


@pytest.mark.parametrize("name", ["folder", "parquet"])
@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_holds_every_picture_once(sets: dict[str, Path], name: str, drop_last: bool) -> None:
    made = batches(sets[name], epochs=2, drop_last=drop_last, window=2)
    rows = rows_of(made)
    assert len(rows) == 2 * len(made) == (8 if drop_last else 10)
    first, second = (list(itertools.chain(*half)) for half in (rows[: len(made)], rows[len(made) :]))
    assert len(set(first)) == len(first) == (32 if drop_last else 35)
    assert first != second


@pytest.mark.parametrize("name", ["rec", "parquet"])
def test_the_order_follows_from_the_seed_alone(sets: dict[str, Path], name: str) -> None:
    assert rows_of(batches(sets[name], threads=1, ahead=1)) == rows_of(batches(sets[name], threads=4, ahead=5))
    assert rows_of(batches(sets[name], seed=1)) != rows_of(batches(sets[name]))
    assert rows_of(batches(sets[name], shuffle=False))[0] == list(range(8))


@given(stop=st.integers(0, 9), ahead=st.integers(1, 4))
def test_a_run_goes_on_where_it_stopped(sets: dict[str, Path], stop: int, ahead: int) -> None:
    whole = rows_of(batches(sets["rec"], epochs=3))
    first = batches(sets["rec"], epochs=3, ahead=ahead)
    before = [batch["row"].tolist() for batch in itertools.islice(first, stop)]
    second = batches(sets["rec"], epochs=3)
    second.load_state_dict(first.state_dict())
    assert before + rows_of(second) == whole
    assert rows_of(first) == whole[stop:], "iterating again goes on too"


def test_the_state_of_other_batches_is_refused(sets: dict[str, Path]) -> None:
    state = batches(sets["rec"]).state_dict()
    for other in (batches(sets["rec"], 4), batches(sets["rec"], seed=3), batches(sets["rec"], shuffle=False)):
        with pytest.raises(OptionError, match="state of other batches"):
            other.load_state_dict(state)
    with pytest.raises(OptionError):
        batches(sets["rec"]).load_state_dict({**state, "position": None})


def test_processes_share_every_batch(sets: dict[str, Path]) -> None:
    whole = rows_of(batches(sets["rec"]))
    shares = [rows_of(batches(sets["rec"], process=(rank, 2))) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(rows) for rows in whole]
    assert all(len(rows) == 4 for share in shares for rows in share)


def test_parts_are_read_once_an_epoch(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source = read(sets["parquet"])
    groups: list[int] = []
    made = source.coded._group  # type: ignore[attr-defined]
    monkeypatch.setattr(source.coded._kept, "make", lambda number: groups.append(number) or made(number))  # type: ignore[attr-defined, func-returns-value]
    assert len(rows_of(batches(source, window=2, ahead=1))) == 4
    assert sorted(groups) == [0, 1, 2, 3]


def test_kept_batches_are_not_written_over(sets: dict[str, Path]) -> None:
    source = read(sets["rec"])
    kept = [(batch["row"], batch["image"]) for batch in batches(source, epochs=4)]
    views = [batch["image"][1:3, ::2] for batch in batches(source, epochs=4)]
    assert len(views) == len(kept) == 16
    for (rows, images), view in zip(kept, views, strict=True):
        expected = np.stack([load_image(bytes(one)) for one in source.fetch(rows)])
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(view, expected[1:3, ::2])


def test_arrays_are_used_again_when_nobody_holds_them(sets: dict[str, Path]) -> None:
    places = {batch["image"].ctypes.data for batch in batches(sets["rec"], epochs=20, ahead=1)}
    assert len(places) <= 4


def test_an_array_is_taken_while_a_view_of_it_lives() -> None:
    pool = _Arrays()
    first = pool.take((2, 3))
    place, view = first.ctypes.data, first[1:]
    del first
    other = pool.take((2, 3))
    assert other.ctypes.data != place
    del view
    assert pool.take((2, 3)).ctypes.data == place
    assert pool.take((4, 3)).shape == (4, 3)


def test_columns_go_along(made: Any, tmp_path: Path) -> None:
    source = read(made.cfp(tmp_path))
    for batch in batches(source, columns=("points", "profile")):
        np.testing.assert_array_equal(batch["points"], source.points[batch["row"]])  # type: ignore[index]
        np.testing.assert_array_equal(batch["profile"], source.columns["profile"][batch["row"]])
    with pytest.raises(OptionError, match="profile"):
        batches(source, columns=("profil",))


class Plain:
    """Not one of our formats: anything with these four is a source."""

    def __init__(self, data: list[bytes]) -> None:
        self.coded, self.labels, self.blocks = InMemory(data), None, None

    def __len__(self) -> int:
        return len(self.coded)

    def fetch(self, rows: Any) -> Any:
        return self.coded.fetch(rows)


def test_broken_pictures_stop_or_are_dropped(made: Any) -> None:
    data = [made.jpeg(k) for k in range(40)]
    data[5], data[17], data[30] = b"", b"garbage", data[30][:60]
    source = Plain(data)
    with pytest.raises(MienError, match=r"row (5|17|30)"):
        rows_of(batches(source))
    dropping = batches(source, broken="drop")
    rows = list(itertools.chain(*rows_of(dropping)))
    assert sorted(rows) == [row for row in range(40) if row not in (5, 17, 30)]
    assert sorted(failure.source for failure in dropping.failures) == ["17", "30", "5"]


def test_a_file_that_vanished_is_named(made: Any, tmp_path: Path) -> None:
    source = read(made.folder(tmp_path))
    (tmp_path / "person_01/2.jpg").unlink()
    with pytest.raises(MienError, match=r"2\.jpg"):
        rows_of(batches(source, 4))
    dropping = batches(source, 4, broken="drop")
    assert len(list(itertools.chain(*rows_of(dropping)))) == 11
    assert dropping.failures[0].source == "person_01/2.jpg"


def test_other_sizes_are_refused_or_scaled(made: Any) -> None:
    source = Plain([made.jpeg(k, *((SIDE, SIDE) if k else (40, 60))) for k in range(8)])
    with pytest.raises(ShapeError, match="row 0"):
        rows_of(batches(source))
    assert [len(rows) for rows in rows_of(batches(source, resize=True))] == [8]


def test_formats_that_opencv_does_not_read_go_through_the_door(made: Any, tmp_path: Path) -> None:
    from PIL import Image

    data = [made.jpeg(k) for k in range(4)]
    image = Image.fromarray(load_image(data[2])).convert("CMYK")
    image.save(tmp_path / "a.jpg", quality=100)
    Image.fromarray(load_image(data[3])).save(tmp_path / "b.gif")
    data[2:] = [(tmp_path / name).read_bytes() for name in ("a.jpg", "b.gif")]
    (batch,) = batches(Plain(data), 4, shuffle=False)
    np.testing.assert_array_equal(batch["image"][3], load_image(data[3]))
    assert np.abs(batch["image"][2].astype(int) - load_image(data[2])).mean() < 8


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"threads": 0}, {"window": 0}, {"epochs": 0}, {"ahead": 0}, {"size": 0}, {"batch_size": 99},
     {"process": (2, 2)}, {"process": (0, 3)}, {"broken": "skip"}],
)  # fmt: skip
def test_wrong_numbers_are_refused(sets: dict[str, Path], wrong: dict[str, Any]) -> None:
    options = {"batch_size": 8, **wrong}
    with pytest.raises(OptionError):
        Batches(sets["rec"], options.pop("batch_size"), **options)


def test_leaving_early_stops_the_threads(sets: dict[str, Path]) -> None:
    import threading

    for _ in batches(sets["rec"], epochs=None):
        break
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("mien-decode")]
    assert left == []


def test_an_error_in_a_thread_is_the_callers(sets: dict[str, Path]) -> None:
    class Failing(Plain):
        def fetch(self, rows: Any) -> Any:
            raise CorruptMedia("the disk is gone")

    with pytest.raises(CorruptMedia, match="disk is gone"):
        rows_of(batches(Failing([b"x"] * 8)))
