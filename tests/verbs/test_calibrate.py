"""Thresholds for false match rates: on scores of known distribution, from tables of pairs and of people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import norm

import mien.errors as errors
from mien.verbs._pairs import read_pairs
from mien.verbs._score import similarity
from mien.verbs.calibrate import Calibration, OperatingPoint, bundled_calibration, calibrate, operating_points


@given(st.lists(st.floats(-1, 1, width=32), min_size=10, max_size=60), st.sampled_from([0.1, 0.2, 0.35]))
@settings(max_examples=60, deadline=None)
def test_the_threshold_is_the_lowest_that_keeps_the_rate(values: list[float], rate: float) -> None:
    different = np.array(values, np.float32)
    scores, same = np.append(different, 0.5), np.append(np.zeros(len(different), bool), True)
    (point,) = operating_points(scores, same, [rate], rounds=2)
    assert (different >= np.float32(point.threshold)).mean() <= rate
    lower = different[different < np.float32(point.threshold)]
    if len(lower) and point.threshold > different.min():
        assert (different >= lower.max()).mean() > rate


def test_normal_scores_give_the_quantiles_of_the_normal() -> None:
    rng = np.random.default_rng(0)
    different, genuine = rng.normal(0, 0.1, 200_000), rng.normal(0.6, 0.1, 20_000)
    scores = np.concatenate([different, genuine])
    same = np.arange(len(scores)) >= len(different)
    for point in operating_points(scores, same, [1e-2, 1e-3], rounds=200):
        true = 0.1 * norm.isf(point.fmr)
        assert point.threshold == pytest.approx(true, abs=0.006)
        assert point.low is not None
        assert point.high is not None
        assert point.low < true < point.high
        # spread of a sample quantile: sqrt(p (1 - p) / n) / density
        spread = np.sqrt(point.fmr / len(different)) / (norm.pdf(norm.isf(point.fmr)) / 0.1)
        assert point.high - point.low == pytest.approx(2 * 1.96 * spread, rel=0.35)
        assert point.fnmr == pytest.approx(norm.cdf((true - 0.6) / 0.1), abs=0.005)


def test_intervals_are_wider_when_people_are_drawn() -> None:
    # Every person is alike to all others by an own amount: pairs of one person say little new.
    rng = np.random.default_rng(1)
    looks = rng.normal(0, 0.2, 60)
    i, j = np.triu_indices(60, 1)
    scores = np.append(looks[i] + looks[j] + rng.normal(0, 0.02, len(i)), [1.0])
    same = np.append(np.zeros(len(i), bool), True)
    units = np.append(np.stack([i, j], 1), [[0, 0]], 0)
    (pairs,) = operating_points(scores, same, [0.05])
    (people,) = operating_points(scores, same, [0.05], units=units)
    assert people.threshold == pairs.threshold
    assert people.high is not None
    assert people.low is not None
    assert pairs.high is not None
    assert pairs.low is not None
    assert people.high - people.low > 2 * (pairs.high - pairs.low)


@pytest.mark.parametrize("spread", [0.2, 2.0])
def test_redrawn_people_naively(spread: float) -> None:
    """Pairs written out as often as they were drawn; also where the redrawn threshold lies far from the first."""
    from mien.metrics.bootstrap import counts

    rng = np.random.default_rng(3)
    looks = rng.exponential(spread, 50)
    i, j = np.triu_indices(100, 1)
    units = np.stack([i // 2, j // 2], 1)
    same = units[:, 0] == units[:, 1]
    scores = (looks[units[:, 0]] + looks[units[:, 1]] + rng.normal(0, 0.05, len(i)) + 3 * same).astype(np.float32)
    (point,) = operating_points(scores, same, [0.01], units=units, rounds=40)
    thresholds = []
    for drawn in (row for block in counts(len(i), people=units, repeats=40) for row in block):
        impostors = np.sort(np.repeat(scores[~same], drawn[~same]).astype(np.float64))[::-1]
        thresholds.append(np.nextafter(impostors[int(len(impostors) * 0.01)], np.inf))
    low, high = np.quantile(thresholds, [0.025, 0.975], method="closest_observation")
    assert (point.low, point.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_rates_that_need_more_pairs_are_left_out() -> None:
    scores, same = np.linspace(-1, 1, 501), np.arange(501) == 500
    assert [p.fmr for p in operating_points(scores, same, [1e-1, 1e-2, 1e-3], rounds=3)] == [1e-1, 1e-2]
    with pytest.raises(errors.TableError, match="too few pairs"):
        operating_points(scores, same, [1e-4])


def test_similarity_is_the_cosine_of_rows() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    naive = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(similarity(a, b), naive, atol=1e-6)
    np.testing.assert_allclose(similarity(a * 100, b / 9), naive, atol=1e-6)
    assert similarity(a[0], a[0]) <= 1
    with pytest.raises(errors.ShapeError):
        similarity(a, b[:, :3])
    with pytest.raises(errors.ValueRangeError):
        similarity(a, np.zeros_like(b))


@pytest.fixture
def album(tmp_path: Path, fakes: Any) -> Path:
    """Twelve people, two pictures each; a table of pairs and a table of people."""
    people, pairs = ["file,identity"], ["a,b,same,fold"]
    for who in range(12):
        for turn in range(2):
            name = f"{who:02d}_{turn}.png"
            Image.fromarray(fakes.picture((30 + 20 * turn, 40, 100 + 20 * turn, who))).save(tmp_path / name)
            people.append(f"{name},person {who}")
        pairs.append(f"{who:02d}_0.png,{who:02d}_1.png,1,{who % 3}")
        pairs.append(f"{who:02d}_0.png,{(who + 1) % 12:02d}_1.png,0,{who % 3}")
    (tmp_path / "people.csv").write_text("\n".join(people) + "\n")
    (tmp_path / "pairs.csv").write_text("\n".join(pairs) + "\n")
    return tmp_path


def test_from_pairs_and_from_people(fakes: Any, album: Path) -> None:
    by_pairs = calibrate(album / "pairs.csv", rates=[0.1], **fakes.embed)
    assert (by_pairs.same, by_pairs.different) == (12, 12)
    by_people = calibrate(album / "people.csv", rates=[0.1, 0.01], out=album / "table.json", **fakes.embed)
    assert (by_people.same, by_people.different) == (12, 24 * 23 // 2 - 12)
    assert [p.fmr for p in by_people.points] == [0.1, 0.01]
    assert all(p.fnmr == 0 for p in by_people.points)
    assert Calibration.load(album / "table.json") == by_people
    assert by_people.contract.startswith("fake-embedder@")


def test_pictures_that_are_missing_or_faceless_are_left_out(fakes: Any, album: Path) -> None:
    (album / "00_0.png").unlink()
    Image.fromarray(fakes.picture()).save(album / "05_0.png")
    table = calibrate(album / "pairs.csv", rates=[0.1], **fakes.embed)
    assert (table.same, table.different) == (10, 10)
    assert [Path(f.source).name for f in table.failures] == ["00_0.png"]


TABLES = {
    "no columns": ("left,right,label\nx,y,1\n", "lacks the columns a, b, same"),
    "no rows": ("a,b,same\n", "no row"),
    "empty": ("", "lacks the columns"),
    "not 0 or 1": ("a,b,same\n00_0.png,01_0.png,maybe\n", "line 2"),
    "empty cell": ("a,b,same\n00_0.png,,1\n", "line 2"),
    "only same": ("a,b,same\n00_0.png,00_1.png,1\n", "only same pairs"),
    "elsewhere": ("a,b,same\nx.png,y.png,1\nx.png,z.png,0\n", "none of the pictures"),
    "fold": ("a,b,same,fold\n00_0.png,00_1.png,1,one\n", "fold is not a number"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_that_cannot_be_used(fakes: Any, album: Path, kind: str) -> None:
    text, told = TABLES[kind]
    (album / "bad.csv").write_text(text)
    with pytest.raises(errors.TableError, match=told):
        calibrate(album / "bad.csv", **fakes.embed)


def test_a_misspelt_column_is_named(album: Path) -> None:
    (album / "bad.csv").write_text("a,b,Same\n00_0.png,00_1.png,1\n")
    with pytest.raises(errors.TableError) as caught:
        read_pairs(album / "bad.csv")
    assert caught.value.hint == "rename 'Same' to 'same'"


def test_tables_that_are_not_there(fakes: Any, album: Path) -> None:
    for path, images in (("no.csv", None), ("pairs.csv", album / "nowhere"), (".", None)):
        with pytest.raises(errors.MediaNotFound):
            calibrate(album / path, images=images, **fakes.embed)


def test_points_in_order_and_interpolated() -> None:
    table = Calibration((OperatingPoint(1e-2, 0.4), OperatingPoint(1e-4, 0.6)), "x@1", "set", "2026-01-01")
    assert table.threshold_at(1e-2) == 0.4
    assert table.threshold_at(1e-3) == pytest.approx(0.5)
    assert table.fmr_at(0.5) == (pytest.approx(1e-3), True)
    assert table.fmr_at(0.9) == (pytest.approx(1e-4), False)
    with pytest.raises(errors.TableError, match="out of order"):
        Calibration((OperatingPoint(1e-2, 0.6), OperatingPoint(1e-4, 0.4)), "x@1", "set", "2026-01-01")
    with pytest.raises(errors.TableError):
        Calibration((), "x@1", "set", "2026-01-01")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"points": 3}', '{"points": [{"fmr": 1}]}', "null"])
def test_files_that_are_no_calibration(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(errors.TableError):
        Calibration.load(tmp_path / "t.json")


def test_the_bundled_table(fakes: Any) -> None:
    table = bundled_calibration("fake-embedder")
    assert table.threshold_at(1e-3) == 0.7
    with pytest.raises(errors.WeightsError, match="without a calibration"):
        bundled_calibration("fake-detector")
