"""The benchmark of search: its people are as the docs say, and its rows are whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# benchmarks/ is no part of the package, and pytest's import mode puts no folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import gallery, report, scans
from benchmarks.__main__ import chosen
from benchmarks.simulated import People, unevenness


@pytest.fixture
def unbound() -> Iterator[None]:
    """Puts back what a measuring process would have kept."""
    import cv2
    import torch

    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    threads = torch.get_num_threads(), cv2.getNumThreads()
    yield
    if cores is not None:
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


def test_people_are_drawn_again_as_they_were() -> None:
    people = People.load()
    blocks = list(people.batches(40_000))
    assert [first for first, _ in blocks] == [0, 32_768]
    drawn = np.concatenate([vectors for _, vectors in blocks])
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-5)
    who = np.array([39_999, 5, 32_768])
    np.testing.assert_array_equal(people.probes(who, picture=0), drawn[who])
    assert np.abs(people.probes(who) - drawn[who]).max() > 0.05


@pytest.mark.parametrize("dim", [128, 512])
def test_scores_are_as_wide_as_those_of_real_faces(dim: int) -> None:
    """Against what `python -m benchmarks.simulated` told of LFW and FairFace."""
    people = People.load(dim)
    first, second = (next(people.batches(2000, pictures=picture))[1] for picture in (0, 1))
    mated, strangers = (first * second).sum(1), (first @ first.T)[np.triu_indices(2000, 1)]
    assert mated.mean() == pytest.approx(0.617, abs=0.05)
    assert strangers.mean() == pytest.approx(0, abs=0.01)
    assert strangers.std() == pytest.approx(0.150 * (128 / dim) ** 0.5, rel=0.05)
    if dim == 128:
        assert mated.std() == pytest.approx(0.147, abs=0.01)


def test_unevenness_gives_the_deviation_asked_for() -> None:
    people = People.load()
    spread = unevenness(people, 0.12)
    made = People(people.mean, people.between, people.within, spread)
    first, second = (next(made.batches(4000, seed=1, pictures=picture))[1] for picture in (0, 1))
    assert (first * second).sum(1).std() == pytest.approx(0.12, abs=0.002)


def test_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 128"):
        People.load(200)


@pytest.mark.usefixtures("unbound")
def test_rows_of_a_small_gallery(tmp_path: Path) -> None:
    setting = gallery.Setting(
        people=3000, dim=128, mated=100, strangers=100, graph=500, repeats=2, budget_s=0.05, threads=1
    )
    (made,) = [gallery.inside(setting, tmp_path / "people.index")]
    by = {(row.system, row.metric, row.batch): row for row in made}
    for system in ("mien", "mien, all bytes", "NumPy", "faiss flat"):
        for batch in gallery.BATCHES:
            row = by[system, "searches", batch]
            assert row.value is not None
            assert row.value > 0
            if batch == 1:
                assert row.limit is not None
                assert row.times_from_limit == pytest.approx(row.limit / row.value)
    assert by["mien", "recall", 0].value == 1.0
    assert by["mien", "FPIR difference", 0].value == 0.0
    error = by["mien", "score error", 0].value
    assert error is not None
    assert error < 1e-3
    assert by["mien", "disk", 0].value == 2 * 128 + 16 + 12
    assert by["mien", "enrolled, searched", 0].value is not None
    tables = {section.title: section for section in report.sections(made)}
    assert len(tables["Search among people"].rows) == 2 * len({s for s, m, _ in by if m == "searches"})
    assert tables["What a gallery's index costs, and what it misses"].rows[0][:2] == ("3,000 x 128", "mien")


@pytest.mark.usefixtures("unbound")
def test_a_gallery_too_large_for_floats_is_measured_against_its_own_scan(tmp_path: Path) -> None:
    setting = gallery.Setting(
        people=2000, dim=512, floats=False, mated=20, strangers=20, graph=0, repeats=2, budget_s=0.05, threads=1
    )
    made = gallery.inside(setting, tmp_path / "people.index")
    assert {row.system for row in made if row.metric == "searches"} == {"mien", "mien, all bytes"}
    assert not any(row.metric == "score error" for row in made)
    assert next(row for row in made if row.metric == "recall").value == 1.0


def test_codes_of_one_bit_miss_less_the_better_the_query_is_kept() -> None:
    told = scans.missed(4000, 128, 100)
    at_512 = {name: mated[0] + strangers[0] for name, (mated, strangers) in told.items()}
    assert at_512["signs; query in float32"] <= at_512["signs of both"]
    for mated, strangers in told.values():
        assert sorted(mated, reverse=True) == mated
        assert sorted(strangers, reverse=True) == strangers


def test_it_can_be_chosen_alone() -> None:
    what = chosen(["gallery"])
    assert what.gallery
    assert (what.speed, what.pairs, what.loading) == (False, False, False)
    assert not chosen(["pairs"]).gallery
