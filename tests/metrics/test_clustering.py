"""Figures of clusterings derived again by loops over pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien import metrics
from mien.errors import ShapeError, ValueRangeError

Partition = tuple[list[int], list[int]]


@st.composite
def partitions(draw: st.DrawFn) -> Partition:
    n = draw(st.integers(1, 14))
    labels = st.lists(st.integers(0, 4), min_size=n, max_size=n)
    return draw(labels), draw(labels)


def test_an_example_by_hand() -> None:
    """Two clusters: a a b | a b b."""
    people, clusters = list("aababb"), [0, 0, 0, 1, 1, 1]
    told = metrics.bcubed(people, clusters)
    # In each cluster two pictures see 2 of 3 and one sees 1 of 3; each person lies the same way.
    assert told.precision == pytest.approx((2 / 3 * 2 + 1 / 3) / 3)
    assert told.recall == pytest.approx((2 / 3 * 2 + 1 / 3) / 3)
    assert told.f == pytest.approx(5 / 9)
    # Pairs: 6 in clusters, 2 of them of one person; 6 of one person, 2 of them together.
    pairs = metrics.pairwise(people, clusters)
    assert (pairs.precision, pairs.recall, pairs.f) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert pairs.to_dict() == {"precision": pairs.precision, "recall": pairs.recall, "f": pairs.f}


@given(partitions())
def test_figures_are_those_of_all_pairs(case: Partition) -> None:
    people, clusters = case
    n = len(people)
    together = [(i, j) for i, j in itertools.combinations(range(n), 2) if clusters[i] == clusters[j]]
    mates = [(i, j) for i, j in itertools.combinations(range(n), 2) if people[i] == people[j]]
    both = len(set(together) & set(mates))
    told = metrics.pairwise(people, clusters)
    assert told.precision == pytest.approx(both / len(together) if together else 1)
    assert told.recall == pytest.approx(both / len(mates) if mates else 1)

    precision, recall = [], []
    for i in range(n):
        cluster = [j for j in range(n) if clusters[j] == clusters[i]]
        person = [j for j in range(n) if people[j] == people[i]]
        shared = len(set(cluster) & set(person))
        precision.append(shared / len(cluster))
        recall.append(shared / len(person))
    each = metrics.bcubed_of_each(people, clusters)
    np.testing.assert_allclose(each[0], precision)
    np.testing.assert_allclose(each[1], recall)
    cubed = metrics.bcubed(people, clusters)
    p, r = np.mean(precision), np.mean(recall)
    assert (cubed.precision, cubed.recall, cubed.f) == pytest.approx((p, r, 2 * p * r / (p + r)))


@given(partitions(), st.permutations(range(5)), st.randoms(use_true_random=False))
def test_names_and_order_do_not_matter(case: Partition, names: list[int], random: object) -> None:
    people, clusters = (np.array(part) for part in case)
    order = np.random.default_rng(len(people)).permutation(len(people))
    for figure in (metrics.bcubed, metrics.pairwise):
        assert figure(people, clusters).to_dict() == pytest.approx(
            figure([f"p{w}" for w in people[order]], np.array(names)[clusters[order]]).to_dict()
        )
    # Exchanged, precision and recall change places.
    one, other = metrics.bcubed(people, clusters), metrics.bcubed(clusters, people)
    assert (one.precision, one.recall) == pytest.approx((other.recall, other.precision))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=14))
def test_the_right_clusters_are_perfect(people: list[int]) -> None:
    renamed = [7 - w for w in people]
    for figure in (metrics.bcubed, metrics.pairwise):
        assert figure(people, renamed).f == pytest.approx(1)
    assert metrics.ari(people, renamed) == pytest.approx(1)
    if len(set(people)) > 1:
        assert metrics.nmi(people, renamed) == pytest.approx(1)


def test_nmi_and_ari_of_an_example() -> None:
    people, clusters = [0, 0, 1, 1], [0, 0, 0, 1]
    # ARI by its definition: pairs together in both 1, expected 2 * 3 / 6 = 1, mean of maxima 2.5.
    assert metrics.ari(people, clusters) == pytest.approx((1 - 2 * 3 / 6) / (2.5 - 2 * 3 / 6))
    joint = np.array([[2, 0], [1, 1]]) / 4
    p, q = joint.sum(1), joint.sum(0)
    shared = sum(joint[i, j] * np.log(joint[i, j] / p[i] / q[j]) for i in (0, 1) for j in (0, 1) if joint[i, j])
    entropy = [-(v * np.log(v)).sum() for v in (p, q)]
    assert metrics.nmi(people, clusters) == pytest.approx(shared / np.mean(entropy))


def test_what_is_left_over_is_alone() -> None:
    assert len(set(metrics.singletons([-1, 3, -1, 3]).tolist())) == 3
    people = [0, 1, 2, 2]
    assert metrics.bcubed(people, metrics.singletons([-1, -1, 5, 5])).f == 1
    assert metrics.bcubed(people, [-1, -1, 5, 5]).f < 1
    assert len(set(metrics.singletons(["x", "", ""], "").tolist())) == 3


def test_the_interval_holds_the_figure_and_knows_few_people() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(30), 6)
    clusters = np.where(rng.random(180) < 0.2, rng.integers(0, 30, 180), people)
    told = metrics.bcubed_interval(people, clusters, repeats=300)
    assert told.value == pytest.approx(metrics.bcubed(people, clusters).f)
    assert told.low < told.value < told.high
    few = metrics.bcubed_interval(people[:30], clusters[:30], repeats=300)
    assert few.high - few.low > told.high - told.low


def test_what_cannot_be_judged() -> None:
    with pytest.raises(ShapeError):
        metrics.bcubed([0, 1], [0])
    with pytest.raises(ValueRangeError, match="nothing to judge"):
        metrics.pairwise([], [])
