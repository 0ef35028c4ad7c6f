"""The benchmark of all pairs: both ways tell the same, and its rows are whole."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

# benchmarks/ is no part of the package, and pytest's import mode puts no folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import streaming
from benchmarks.__main__ import chosen


def test_both_ways_tell_the_same() -> None:
    embeddings, who = streaming.made_up(900)
    counted, sorted_ = streaming.streamed(embeddings, who, 1), streaming.score_matrix(embeddings, who, 1)
    assert counted[1] == sorted_[1] == 900 * 899 // 2
    assert counted[0] == pytest.approx(sorted_[0], abs=2 / 3600)


def test_made_up_people_can_be_told_apart_and_are_the_same_again() -> None:
    embeddings, who = streaming.made_up(500)
    again, _ = streaming.made_up(500)
    np.testing.assert_array_equal(embeddings, again)
    assert embeddings.dtype == np.float32
    assert 20 < len(np.unique(who)) < 100


def test_rows_of_a_run() -> None:
    said: list[str] = []
    made = streaming.rows([700], threads=1, repeats=1, say=said.append)
    by = {(row.system, row.metric): row for row in made}
    for system in ("mien", "score matrix"):
        rate = by[system, "rate by processor time"]
        assert rate.value is not None
        assert rate.limit is not None
        assert rate.times_from_limit == pytest.approx(rate.limit / rate.value)
        assert by[system, "rate"].value is not None
        assert by[system, "memory"].unit == "MB"
    ways = [row for row in made if row.stage == "histogram"]
    assert len(ways) == 8
    assert all(row.value is not None and row.value > 0 for row in ways)
    assert said[0] == "all pairs of 700, streamed"


def test_it_can_be_chosen_alone() -> None:
    only = chosen(["pairs"])
    assert (only.pairs, only.speed, only.accuracy, only.loading) == (True, False, False, False)
