"""ASPL: classifiers against scikit-learn and by gradient, selections against slow loops, the rounds, the files."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from mien.errors import (
    CheckpointError,
    MediaNotFound,
    OptionError,
    ShapeError,
    TableError,
    TrainingError,
    ValueRangeError,
)
from mien.nn.count import count_macs, count_parameters
from mien.papers import aspl
from mien.papers.aspl import REJECT, SKIP, ActiveSelfPaced, Answer, Numbers, Oracle, Question
from mien.papers.aspl import network as networks

svm: Any = importlib.import_module("mien.papers.aspl.svm")
loops: Any = importlib.import_module("mien.papers.aspl.loop")

Floats = NDArray[np.float64]


def crowd(
    people: int = 6, each: int = 20, dim: int = 12, spread: float = 0.5, seed: int = 0
) -> tuple[Floats, NDArray[np.int64], list[str]]:
    """Unit vectors about one direction a person, who it is, and the names."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people, dim))
    labels = np.repeat(np.arange(people), each)
    x = centres[labels] / np.linalg.norm(centres[labels], axis=1, keepdims=True)
    x = x + spread * rng.normal(size=x.shape) / math.sqrt(dim)
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels, [f"p{label}" for label in labels]


# --- Classifiers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cost", "scale", "bias"), [(1.0, 1.0, -1.0), (10.0, 1.0, 1.0), (1e-3, 60.0, -1.0)])
def test_classifiers_are_those_of_liblinear(cost: float, scale: float, bias: float) -> None:
    pytest.importorskip("sklearn", reason="the extra evaluate is not installed")
    x, labels, _ = crowd()
    x, weights = scale * x, np.random.default_rng(1).random(len(x))
    options: dict[str, Any] = {"persons": 6, "cost": cost, "bias": bias, "sample_weights": weights}
    ours = aspl.fit_one_vs_rest(x, labels, tolerance=1e-7, **options)
    theirs = aspl.fit_one_vs_rest(x, labels, tolerance=1e-9, solver="liblinear", **options)
    np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-4 * np.abs(theirs.weights).max())
    np.testing.assert_allclose(ours.bias, theirs.bias, atol=1e-4)
    assert (np.abs(ours.bias) > 0).all() == (bias > 0)


def test_the_call_of_the_sheet_is_met() -> None:
    """LinearSVC as the published code's settings translate to it, person by person, without our wrapper."""
    LinearSVC = pytest.importorskip("sklearn.svm", reason="the extra evaluate is not installed").LinearSVC
    x, labels, _ = crowd(people=3)
    ours = aspl.fit_one_vs_rest(50 * x, labels, persons=3, cost=1e-3, tolerance=1e-7)
    for person in range(3):
        machine = LinearSVC(
            loss="squared_hinge",
            dual=False,
            C=1e-3,
            fit_intercept=False,
            class_weight={1: 5},
            tol=1e-9,
            max_iter=10_000,
        )
        machine.fit(50 * x, np.where(labels == person, 1, -1))
        np.testing.assert_allclose(ours.decisions(50 * x)[:, person], machine.decision_function(50 * x), atol=1e-3)


def naive_objective(
    x: Floats, labels: NDArray[np.int64], w: torch.Tensor, person: int, weights: Floats
) -> torch.Tensor:
    """1/2 |w|^2 + sum of C times squared hinges, picture by picture, in float64."""
    total = 0.5 * (w * w).sum()
    for row, label, weight in zip(torch.from_numpy(x), labels, weights, strict=True):
        y, factor = (1.0, 5.0) if label == person else (-1.0, 1.0)
        slack = 1 - y * (row @ w)
        if slack > 0:
            total = total + 2.0 * factor * weight * slack**2
    return total


def test_the_gradient_vanishes_at_the_minimum_and_the_objective_is_the_naive_one() -> None:
    x, labels, _ = crowd(people=4, each=8, dim=6)
    weights = np.random.default_rng(0).random(len(x))
    found = aspl.fit_one_vs_rest(x, labels, persons=4, cost=2.0, sample_weights=weights, tolerance=1e-9)
    signs = torch.from_numpy(np.where(labels[:, None] == np.arange(4), 1.0, -1.0))
    costs = 2.0 * torch.from_numpy(weights)[:, None] * torch.where(signs > 0, 5.0, 1.0)
    values = svm.objective(torch.from_numpy(x), signs, costs, torch.from_numpy(found.weights.T))
    for person in range(4):
        w = torch.from_numpy(found.weights[person]).requires_grad_()
        value = naive_objective(x, labels, w, person, weights)
        assert float(value.detach()) == pytest.approx(float(values[person]), rel=1e-12)
        value.backward()
        assert w.grad is not None
        assert float(w.grad.norm()) < 1e-7
        for step in np.random.default_rng(person).normal(size=(5, 6)):
            moved = torch.from_numpy(found.weights[person] + 0.01 * step)
            assert float(naive_objective(x, labels, moved, person, weights)) > float(value.detach())


def test_a_start_changes_the_time_and_not_the_result() -> None:
    x, labels, _ = crowd()
    cold = aspl.fit_one_vs_rest(x, labels, persons=6, tolerance=1e-8)
    far = dataclasses.replace(cold, weights=cold.weights + 3.0)
    warm = aspl.fit_one_vs_rest(x, labels, persons=6, tolerance=1e-8, start=far)
    np.testing.assert_allclose(cold.weights, warm.weights, atol=1e-5)


def test_blocks_of_persons_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels, _ = crowd()
    whole = aspl.fit_one_vs_rest(x, labels, persons=6, tolerance=1e-8)
    monkeypatch.setattr(svm, "BLOCK", 2 * len(x))
    np.testing.assert_allclose(
        aspl.fit_one_vs_rest(x, labels, persons=6, tolerance=1e-8).weights, whole.weights, atol=1e-6
    )


def test_a_picture_of_no_weight_has_no_say() -> None:
    x, labels, _ = crowd(people=3)
    weights = np.ones(len(x))
    weights[::3] = 0
    kept = weights > 0
    some = aspl.fit_one_vs_rest(x[kept], labels[kept], persons=3, tolerance=1e-9)
    all_ = aspl.fit_one_vs_rest(x, labels, persons=3, sample_weights=weights, tolerance=1e-9)
    np.testing.assert_allclose(some.weights, all_.weights, atol=1e-6)


def test_who_cannot_be_trained_decides_nothing() -> None:
    x, labels, _ = crowd(people=3)
    found = aspl.fit_one_vs_rest(x, labels, persons=5)
    assert found.trained.tolist() == [True, True, True, False, False]
    assert np.isneginf(found.decisions(x)[:, 3:]).all()
    alone = aspl.fit_one_vs_rest(x[:20], labels[:20], persons=1)  # nobody to tell from
    assert not alone.trained.any()
    some = aspl.fit_one_vs_rest(x, labels, persons=3, trained=np.array([True, False, True]))
    assert some.trained.tolist() == [True, False, True]


def test_decisions_keep_the_type_of_the_features() -> None:
    x, labels, _ = crowd()
    found = aspl.fit_one_vs_rest(x, labels, persons=6)
    assert found.decisions(x.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(found.decisions(x), x @ found.weights.T)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"cost": 0.0}, OptionError), ({"solver": "libsvm"}, OptionError), ({"tolerance": math.inf}, OptionError),
        ({"sample_weights": -np.ones(120)}, ValueRangeError), ({"sample_weights": np.ones(3)}, ShapeError),
        ({"persons": 2}, ValueRangeError),
    ],
)  # fmt: skip
def test_wrong_numbers_are_refused(change: dict[str, Any], error: type[Exception]) -> None:
    x, labels, _ = crowd()
    with pytest.raises(error):
        aspl.fit_one_vs_rest(x, labels, **{"persons": 6, **change})


def test_features_that_are_none_are_refused() -> None:
    x, labels, _ = crowd(people=2)
    x[3, 1] = np.nan
    with pytest.raises(ValueRangeError, match="NaN"):
        aspl.fit_one_vs_rest(x, labels, persons=2)


# --- Closed forms ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(loss=st.floats(0, 3), pace=st.floats(0.05, 2), cost=st.floats(0.2, 5))
def test_the_weight_is_what_minimises_its_objective(loss: float, pace: float, cost: float) -> None:
    grid = np.linspace(0, 1, 2001)
    values = cost * grid * loss + aspl.regulariser(grid, pace)
    best = grid[values.argmin()]
    found = float(aspl.self_paced_weights(np.array([loss]), pace, cost=cost)[0])
    assert found == pytest.approx(best, abs=1e-3)
    assert (found > 0) == (cost * loss < pace)  # a picture counts iff its loss is below pace / C
    assert aspl.self_paced_weights(np.array([loss]), pace, cost=cost, weighting="hard")[0] == float(found > 0)


def slow_select(
    decisions: Floats, pace: Floats, eligible: NDArray[np.bool_], denied: set[tuple[int, int]], soft: bool, floor: float
) -> tuple[list[int], list[float], list[bool], list[bool]]:
    """The exactly-one rule, picture by picture and person by person."""
    names, weights, unclear, ambiguous = [], [], [], []
    for i in range(len(decisions)):
        candidates = [
            j
            for j in range(decisions.shape[1])
            if eligible[i] and (i, j) not in denied and max(0.0, 1 - decisions[i, j]) < pace[j]
        ]
        if len(candidates) == 1:
            (j,) = candidates
            names.append(j)
            v = min(1.0, 1 - max(0.0, 1 - decisions[i, j]) / pace[j]) if soft else 1.0
            weights.append(max(floor, v))
        else:
            names.append(-1)
            weights.append(0.0)
        unclear.append(bool(eligible[i]) and not candidates)
        ambiguous.append(len(candidates) > 1)
    return names, weights, unclear, ambiguous


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 30), k=st.integers(1, 6), soft=st.booleans())
def test_selections_are_those_of_a_slow_loop(seed: int, n: int, k: int, soft: bool) -> None:
    rng = np.random.default_rng(seed)
    decisions = rng.normal(0.3, 0.8, (n, k))
    decisions[:, rng.random(k) < 0.2] = -np.inf
    pace = rng.uniform(0.1, 1.2, k)
    eligible = rng.random(n) < 0.8
    denied = (rng.integers(n, size=4), rng.integers(k, size=4))
    floor = float(rng.choice([0.0, 0.05]))
    found = aspl.select(
        decisions, pace, eligible=eligible, denied=denied, weighting="soft" if soft else "hard", floor=floor,
        entropy=True,
    )  # fmt: skip
    names, weights, unclear, ambiguous = slow_select(
        decisions, pace, eligible, {(int(a), int(b)) for a, b in zip(*denied, strict=True)}, soft, floor
    )
    assert found.person.tolist() == names
    np.testing.assert_allclose(found.weight, weights, atol=1e-12)
    assert found.unclear.tolist() == unclear
    assert found.ambiguous.tolist() == ambiguous
    for i in range(n):
        finite = sorted((value for value in decisions[i] if np.isfinite(value)), reverse=True)
        assert found.best[i] == (int(decisions[i].argmax()) if finite else -1)
        assert found.top[i] == (finite[0] if finite else -np.inf)
        assert found.second[i] == (finite[1] if len(finite) > 1 else -np.inf)
        shares = np.exp(np.array(finite)) / np.exp(np.array(finite)).sum() if finite else np.ones(1)
        assert found.entropy[i] == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-9)


def test_acc_is_one_less_the_contested_share() -> None:
    decisions = np.array([[1.0, 1.0], [1.0, -1.0], [1.0, -1.0], [-1.0, -1.0]])
    found = aspl.select(decisions, np.full(2, 0.5))
    assert found.accuracy.tolist() == pytest.approx([1 - 1 / 3, 0.0])
    assert aspl.select(-decisions - 5, np.full(2, 0.5)).accuracy.tolist() == [1.0, 1.0]


def test_the_paces_of_the_paper_are_thresholds_of_the_decision() -> None:
    """0.12 means a decision above 0.88; 0.9 above 0.1."""
    for pace, edge in ((0.12, 0.88), (0.9, 0.1)):
        found = aspl.select(np.array([[edge + 1e-6], [edge - 1e-6]]), np.array([pace]))
        assert found.person.tolist() == [0, -1]
        assert 0 < found.weight[0] < 1e-4


def test_the_pace_reaches_its_end_after_ten_question_rounds() -> None:
    pace, rounds = np.array([0.12]), 0
    while pace[0] < 0.9:
        pace, rounds = aspl.loosened(pace, 1.0), rounds + 1
    assert rounds == 10
    assert aspl.loosened(pace, 1.0)[0] == 0.9
    assert aspl.loosened(np.array([0.3]), np.array([0.5]))[0] == pytest.approx(0.34)
    assert aspl.loosened(np.array([1.5]), 1.0)[0] == 1.5  # never tighter than it was


def test_contradictions_are_another_name_or_another_number_of_positive_decisions() -> None:
    decisions = np.array([[0.5, -0.5], [-0.5, 0.5], [0.5, 0.4], [-0.1, -0.2]])
    assert aspl.contradicted(decisions, np.array([0, 0, 0, 0])).tolist() == [False, True, True, True]


def test_a_calibrated_pace_is_a_quantile_of_the_loss() -> None:
    decisions = np.linspace(0.0, 1.0, 101)
    assert aspl.calibrated_pace(decisions, quantile=0.5) == pytest.approx(0.5)
    assert aspl.calibrated_pace(np.full(3, 2.0)) == 0.05
    assert aspl.calibrated_pace(np.zeros(0)) == 0.9


def test_wrong_paces_are_refused() -> None:
    with pytest.raises(ShapeError):
        aspl.select(np.zeros((2, 3)), np.ones(2))
    with pytest.raises(ValueRangeError):
        aspl.self_paced_weights(np.zeros(1), 0.0)
    with pytest.raises(OptionError):
        aspl.self_paced_weights(np.zeros(1), 1.0, weighting="medium")  # type: ignore[arg-type]
    with pytest.raises(ValueRangeError):
        aspl.select(np.zeros((2, 3)), np.ones(3), floor=2.0)


# --- The loop --------------------------------------------------------------------------------------------------------

QUICK = Numbers(
    cost=1.0,
    min_positives=1,
    pace=0.4,
    floor=0.05,
    query_every=1,
    queries=5,
    neighbours=0,
    accuracy="one",
    second="off",
)


def started(seed: int = 0, first: int = 2, **numbers: Any) -> tuple[ActiveSelfPaced, list[str]]:
    x, labels, names = crowd(seed=seed)
    pool = ActiveSelfPaced(x, numbers=dataclasses.replace(QUICK, **numbers), seed=seed)
    rows = np.concatenate([np.flatnonzero(labels == person)[:first] for person in range(6)])
    pool.label(rows, [names[row] for row in rows])
    return pool, names


def test_a_round_does_what_the_pseudocode_says() -> None:
    """Round by round against a loop written out with scikit-like pieces: names, weights, questions and paces."""
    pool, names = started(query_every=2)
    x = pool.features
    labels, pace, free, v = pool.labels.copy(), np.full(6, 0.4), np.full(len(x), -1), np.zeros(len(x))
    asked = pool.asked.copy()
    for turn in range(4):
        rows = np.flatnonzero((labels >= 0) | (free >= 0))
        named = np.where(labels >= 0, labels, free)[rows]
        machines = aspl.fit_one_vs_rest(
            x[rows], named, persons=6, sample_weights=np.where(labels[rows] >= 0, 1.0, v[rows]), tolerance=1e-10
        )
        decisions = machines.decisions(x)
        done = pool.turn(Oracle(names))
        np.testing.assert_allclose(pool.features @ pool.classifiers.weights.T, decisions, atol=5e-3)
        if (turn + 1) % 2 == 0:
            left = [row for row in range(len(x)) if labels[row] < 0 and not asked[row] and free[row] < 0]
            ranked = sorted(left, key=lambda row: decisions[row].max())[:5]
            assert {row for row in range(len(x)) if pool.labels[row] >= 0 and labels[row] < 0} == set(ranked)
            labels, asked = pool.labels.copy(), pool.asked.copy()
            pace = np.minimum(0.9, pace + 0.08)
            assert done.asked == len(ranked)
        names_free, weights, unclear, _ = slow_select(decisions, pace, labels < 0, set(), True, 0.05)
        assert pool.free.tolist() == names_free
        np.testing.assert_allclose(pool.weights, weights, atol=0.02)
        assert done.unclear == sum(unclear)
        np.testing.assert_allclose(pool.pace, pace)
        free, v = pool.free.copy(), pool.weights.copy()
    assert [one.turn for one in pool.history] == list(range(4))


def test_names_for_free_are_made_anew_every_round() -> None:
    pool, names = started(pace=0.8)
    pool.turn(None)
    assert (pool.free >= 0).any()
    row = int(np.flatnonzero(pool.free >= 0)[0])
    pool.free[:] = -1
    pool.free[row] = (pool.persons.index(names[row]) + 1) % 6  # a mistake of the last round
    pool.weights[row] = 0.05
    pool._fitted = False
    pool.turn(None)
    assert pool.free[row] != (pool.persons.index(names[row]) + 1) % 6


def test_what_a_human_said_is_not_up_to_the_formulas() -> None:
    pool, names = started(pace=0.9)
    pool.fit()
    pool.select()
    named = np.flatnonzero(pool.free >= 0)
    rejected, denied = int(named[0]), int(named[1])
    pool.answer(rejected, REJECT)
    name = pool.persons[pool.free[denied]]
    pool.deny(denied, name)
    assert pool.free[rejected] == pool.free[denied] == -1
    for _ in range(4):
        pool.turn(Oracle(names))
        assert pool.rejected[rejected]
        assert pool.labels[rejected] == pool.free[rejected] == -1
        assert pool.free[denied] < 0 or pool.persons[pool.free[denied]] != name
        assert (pool.free[pool.labels >= 0] == -1).all()
    assert rejected not in pool.pool()
    pool.allow(denied, name)
    pool.withdraw(rejected)
    assert not pool.rejected[rejected]
    assert not len(pool.denied[0])
    assert rejected in set(pool.pool()) | set(np.flatnonzero(pool.free >= 0))


def test_without_self_pacing_nothing_is_named_for_free() -> None:
    pool, names = started(self_paced=False, pace=0.9)
    pool.turn(Oracle(names))
    assert (pool.free == -1).all()
    assert not pool.weights.any()


def test_a_person_needs_enough_labels_for_a_classifier() -> None:
    pool, names = started(min_positives=4)
    pool.fit()
    assert not pool.classifiers.trained.any()
    assert np.isnan(pool.pace).all()
    assert pool.predict(pool.features[:2]) == [None, None]
    own = [row for row, name in enumerate(names) if name in ("p0", "p1")]
    pool.label(own[:4] + own[20:24], [names[row] for row in own[:4] + own[20:24]])
    pool.fit()
    assert pool.classifiers.trained.tolist() == [True, True, False, False, False, False]
    assert pool.pace[:2].tolist() == [0.4, 0.4]


def test_somebody_new_gets_a_classifier_and_the_first_pace() -> None:
    pool, names = started(queries=3)
    rows = np.flatnonzero(pool.labels == pool.persons.index("p5"))
    for row in rows:
        pool.withdraw(int(row))
    pool.persons.remove("p5")  # as if nobody had ever said it
    pool._index.pop("p5")
    pool.pace = pool.pace[:5]
    pool.set_features(pool.features)
    for _ in range(8):
        pool.turn(Oracle(names))
        if "p5" in pool.persons:
            break
    assert pool.persons[-1] == "p5"
    others = pool.pace[:5].copy()
    pool.turn(Oracle(names))
    assert pool.classifiers.trained[5]
    assert pool.pace[5] == pytest.approx(0.48)  # the first pace, loosened once
    assert (others > 0.4).all()


def test_unclear_pictures_near_somebody_new_are_asked_too() -> None:
    rng = np.random.default_rng(0)
    x, _, names = crowd(people=3, each=10, spread=0.6)
    new = -x.mean(0)  # far from everybody
    twins = new / np.linalg.norm(new) + 0.02 * rng.normal(size=(8, 12))
    x, names = np.concatenate([x, twins]), [*names, *["new"] * 8]
    numbers = dataclasses.replace(QUICK, queries=1, pace=0.1, neighbours=5, nearness=3.0)
    pool = ActiveSelfPaced(x, numbers=numbers)
    pool.label([0, 1, 10, 11, 20, 21], [names[row] for row in (0, 1, 10, 11, 20, 21)])
    pool.fit()
    pool.select()
    near = pool.near(30)
    unclear = [row for row in pool.pool() if pool.selection is not None and pool.selection.unclear[row] and row != 30]
    distances = {row: float(np.linalg.norm(x[row] - x[30])) for row in unclear}
    mean = sum(distances.values()) / len(distances)
    slow = [row for row in sorted(unclear, key=distances.__getitem__) if mean > 3 * distances[row]][:5]
    assert near.tolist() == slow
    assert set(near) <= set(range(31, 38))
    told: list[Question] = []

    class Listening(Oracle):
        def __call__(self, questions: Sequence[Question]) -> Iterator[Answer]:
            told.extend(questions)
            return super().__call__(questions)

    pool.turn(Listening(names))
    for _ in range(10):
        pool.turn(Listening(names))
    new_first = next(number for number, question in enumerate(told) if names[question.row] == "new")
    assert [question.why for question in told[new_first + 1 : new_first + 6]] == ["near"] * 5
    assert all(names[question.row] == "new" for question in told[new_first : new_first + 6])


@pytest.mark.parametrize("rule", aspl.RULES)
def test_questions_are_ranked_as_a_slow_loop_ranks_them(rule: Any) -> None:
    pool, _ = started(rule=rule)
    pool.fit()
    pool.select()
    found = pool.rank(8)
    decisions = pool.classifiers.decisions(pool.features)
    key = {}
    for row in pool.pool():
        values = sorted(decisions[row], reverse=True)
        shares = np.exp(values) / np.exp(values).sum()
        key[int(row)] = {
            "lowest": values[0], "margin": values[0] - values[1], "entropy": float((shares * np.log(shares)).sum()),
            "random": 0.0,
        }[str(rule)]  # fmt: skip
    if rule == "random":
        assert set(found) <= set(key)
        assert found.tolist() != sorted(key)[:8]
        assert found.tolist() == pool.rank(8).tolist()
    else:
        assert found.tolist() == sorted(key, key=key.__getitem__)[:8]


def test_diverse_questions_lie_farther_from_each_other() -> None:
    plain, _ = started()
    wide, _ = started(diversity=6)
    gaps = []
    for pool in (plain, wide):
        pool.fit()
        pool.select()
        x = pool.features[pool.rank(6)]
        gaps.append(min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(x, 2)))
    assert gaps[1] > gaps[0]
    assert wide.rank(6)[0] == plain.rank(6)[0]


def test_only_so_many_pictures_are_looked_at() -> None:
    pool, _ = started(scan=10)
    pool.fit()
    first = pool.pool()
    assert len(first) == 10
    assert (np.diff(first) > 0).all()
    pool.turns = 1
    assert first.tolist() != pool.pool().tolist()


@pytest.mark.parametrize("second", ["return", "ask", "off"])
def test_labels_that_are_contradicted_more_than_three_times(second: Any) -> None:
    pool, names = started(first=6, second=second, queries=0)
    wrong = int(np.flatnonzero(pool.labels == 0)[0])
    pool.label([wrong], ["p3"])
    seen = []
    for _ in range(6):
        pool.turn(None)
        seen.append(int(pool.misses[wrong]))
    if second == "off":
        assert seen == [0] * 6
        assert pool.labels[wrong] == pool.persons.index("p3")
        return
    if second == "return":
        assert seen[:3] == [1, 2, 3]
        assert pool.labels[wrong] == -1
        assert wrong not in pool.pool()  # asked once, and never again
        assert pool.persons[pool.free[wrong]] == "p0"  # named for free since
        assert sum(turn.expelled for turn in pool.history) >= 1
        return
    assert wrong in pool.again
    assert pool.question(wrong, "again").said == "p3"
    pool.turn(Oracle(names))
    assert pool.persons[pool.labels[wrong]] == "p0"
    assert wrong not in pool.again
    assert pool.misses[wrong] <= 1


def test_an_oracle_errs_as_often_as_it_says() -> None:
    truth = [f"p{row % 5}" for row in range(2000)]
    oracle = Oracle(truth, error=0.2, seed=3)
    said = [oracle.answer(row).name for row in range(2000)]
    wrong = np.mean([one != name for one, name in zip(said, truth, strict=True)])
    assert abs(float(wrong) - 0.2) < 0.03
    assert said == [oracle.answer(row).name for row in range(2000)]
    wavering = Oracle(truth, error=0.5, wavering=True)
    assert len({wavering.answer(7).name for _ in range(20)}) > 1
    assert Oracle(["", "a"]).answer(0) == REJECT
    with pytest.raises(OptionError):
        Oracle(truth, error=2.0)


def test_a_human_behind_a_function() -> None:
    answers = iter(["  Ada  Lovelace ", "", None])
    said = list(aspl.Interactive(lambda question: next(answers))([Question(0, "unclear")] * 3))
    assert said == [Answer("Ada Lovelace"), REJECT, SKIP]
    pool, _ = started()
    row = int(pool.rank(1)[0])
    pool.answer(row, SKIP)
    assert pool.labels[row] == -1
    assert not pool.rejected[row]
    assert row not in pool.pool()  # skipped is asked


def test_suggestions_are_the_highest_decisions() -> None:
    pool, _ = started()
    pool.fit()
    row = int(np.flatnonzero(pool.labels < 0)[0])
    decisions = pool.classifiers.decisions(pool.features[[row]])[0]
    question = pool.question(row)
    assert [name for name, _ in question.suggestions] == [pool.persons[j] for j in np.argsort(-decisions)[:5]]
    pool.deny(row, question.suggestions[0][0])
    assert question.suggestions[0][0] not in dict(pool.question(row).suggestions)


def test_accuracy_counts_people_without_a_classifier() -> None:
    pool, names = started()
    x = pool.features
    assert pool.accuracy(x, names) == pytest.approx(
        np.mean([one == name for one, name in zip(pool.predict(x), names, strict=True)])
    )
    assert pool.accuracy(x, ["somebody"] * len(x)) == 0
    assert all(name is None for name in pool.predict(x, threshold=50.0))


def test_a_first_pace_from_the_labelled_pictures() -> None:
    pool, _ = started(pace="calibrated")
    pool.fit()
    rows = np.flatnonzero(pool.labels >= 0)
    own = pool.classifiers.decisions(pool.features[rows])[np.arange(len(rows)), pool.labels[rows]]
    assert pool.pace == pytest.approx(np.full(6, aspl.calibrated_pace(own)))


def test_the_state_goes_over_the_disk(tmp_path: Path) -> None:
    one, names = started(second="ask")
    other, _ = started(second="ask")
    other.deny(40, "p1")
    one.deny(40, "p1")
    for turn in range(6):
        one.turn(Oracle(names))
        other.turn(Oracle(names), folder=tmp_path)
        if turn == 2:
            other = ActiveSelfPaced.load(tmp_path, other.features)
    for name in ("labels", "asked", "rejected", "misses", "free", "weights", "pace"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-4)
    assert other.persons == one.persons
    assert [t.labels for t in other.history] == [t.labels for t in one.history]
    with pytest.raises(CheckpointError):
        ActiveSelfPaced.load(tmp_path, other.features[:10])
    with pytest.raises(CheckpointError):
        ActiveSelfPaced.load(tmp_path / "nowhere", other.features)
    (tmp_path / "state.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(CheckpointError):
        ActiveSelfPaced.load(tmp_path, other.features)


def test_an_interrupted_round_asks_nothing_twice(tmp_path: Path) -> None:
    pool, names = started()
    asked: list[int] = []

    def ask(question: Question) -> str:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(question.row)
        return names[question.row]

    with pytest.raises(KeyboardInterrupt):
        pool.turn(aspl.Interactive(ask), folder=tmp_path)
    again = ActiveSelfPaced.load(tmp_path, pool.features)
    assert again.turns == 0
    assert all(again.labels[row] >= 0 for row in asked)
    more: list[int] = []

    def go_on(question: Question) -> str:
        more.append(question.row)
        return names[question.row]

    done = again.turn(aspl.Interactive(go_on), folder=tmp_path)
    assert len(more) == 2
    assert not set(more) & set(asked)
    assert done.asked == 5


def test_the_published_numbers() -> None:
    assert (aspl.CACD.queries, aspl.WEBFACE.queries) == (1000, 5000)
    plain = Numbers()
    assert (plain.cost, plain.positive, plain.min_positives, plain.pace, plain.pace_step) == (1e-3, 5.0, 4, 0.12, 0.08)
    assert (plain.pace_most, plain.query_every, plain.scan, plain.miss_limit, plain.bias) == (0.9, 5, 40_000, 3, -1.0)


@pytest.mark.parametrize(
    "change",
    [{"rule": "highest"}, {"second": "never"}, {"pace": "soon"}, {"pace": 0.0}, {"queries": -1}, {"floor": 2.0},
     {"query_every": 0}, {"weighting": "medium"}, {"cost": -1.0}],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Numbers(**change)


def test_features_must_fit(tmp_path: Path) -> None:
    pool, _ = started()
    with pytest.raises(ShapeError):
        pool.set_features(np.zeros((3, 4)))
    with pytest.raises(ValueRangeError):
        pool.set_features(np.full((120, 4), np.nan))
    with pytest.raises(ValueRangeError):
        pool.person("  ")


# --- Networks --------------------------------------------------------------------------------------------------------


def test_alexnet_has_the_layers_of_the_paper() -> None:
    with torch.device("meta"):
        network = aspl.alexnet()
    assert count_parameters(network) - count_parameters(network.fc8) == 56_868_224
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [96, 256, 384, 384, 256]
    assert [layer.groups for layer in convolutions] == [1, 2, 1, 2, 2]
    assert network.fc6.in_features == 256 * 6 * 6
    assert network.fc8.out_features == 500
    assert count_macs(network, (1, 3, 227, 227)) / 1e9 == pytest.approx(0.72, abs=0.006)
    assert f"{count_parameters(network) / 1e6:.1f} M" in (aspl.alexnet.__doc__ or "")


def small() -> aspl.AlexNet:
    torch.manual_seed(0)
    return aspl.alexnet(classes=3, width=0.125, hidden=16, size=67, init="he")


def test_features_are_those_of_fc7_after_relu() -> None:
    network = small().eval()
    x = torch.randn(2, 3, 67, 67)
    z = network.features(x)
    assert z.shape == (2, 16)
    assert (z >= 0).all()
    torch.testing.assert_close(network(x), network.fc8(z))
    with pytest.raises(ShapeError):
        network(torch.randn(1, 3, 64, 64))
    with pytest.raises(OptionError):
        aspl.alexnet(size=60)


def test_local_normalisation_is_caffe_s() -> None:
    x = torch.randn(1, 7, 2, 2, dtype=torch.float64)
    want = torch.empty_like(x)
    for c in range(7):
        near = x[:, max(0, c - 2) : c + 3]
        want[:, c] = x[:, c] / (1 + 1e-4 / 5 * (near**2).sum(1)) ** 0.75
    torch.testing.assert_close(small().norm(x), want)


def test_the_last_layer_follows_the_persons() -> None:
    network = small()
    before = network.fc8.weight.detach().clone()
    network.resize_classes(5, [2, -1, 0])
    assert network.fc8.weight.shape == (5, 16)
    torch.testing.assert_close(network.fc8.weight[0], before[2])
    torch.testing.assert_close(network.fc8.weight[2], before[0])
    assert not torch.equal(network.fc8.weight[1], before[1])
    network.resize_classes(2)
    with pytest.raises(OptionError):
        network.resize_classes(1, [7])


def test_blobs_of_caffe_are_taken_strictly() -> None:
    network, other = small(), small()
    state = {name: torch.randn_like(tensor) for name, tensor in network.state_dict().items()}
    kept = other.fc8.weight.detach().clone()
    aspl.start_from(other, state)
    torch.testing.assert_close(other.conv3.weight, state["conv3.weight"])
    torch.testing.assert_close(other.fc8.weight, kept)
    for wrong in ({**state, "conv6.weight": torch.zeros(1)}, {k: v for k, v in state.items() if k != "fc7.bias"}):
        with pytest.raises(CheckpointError):
            aspl.start_from(other, wrong)
    with pytest.raises(CheckpointError, match="shape"):
        aspl.start_from(other, {**state, "conv1.weight": torch.zeros(2, 2)})


def test_what_alexnet_sees() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 3), np.uint8)
    mean = np.arange(9 * 9 * 3).reshape(9, 9, 3)
    plain = aspl.caffe_input(images, crop=5, mean=mean)
    for n, c, y, x in itertools.product(range(3), range(3), range(5), range(5)):
        assert plain[n, c, y, x] == float(images[n, 2 + y, 2 + x, 2 - c]) - mean[2 + y, 2 + x, c]
    drawn = aspl.caffe_input(images, crop=5, mean=(1.0, 2.0, 3.0), rng=np.random.default_rng(1))
    whole = images[..., ::-1].astype(np.float32) - np.array([1, 2, 3], np.float32)
    for n in range(3):
        cuts = [whole[n, y : y + 5, x : x + 5] for y in range(5) for x in range(5)]
        pieces = [cut.transpose(2, 0, 1) for one in cuts for cut in (one, one[:, ::-1])]
        assert any(np.array_equal(drawn[n].numpy(), piece) for piece in pieces)
    with pytest.raises(ShapeError):
        aspl.caffe_input(images, crop=11)
    assert networks.CROP == 227


# --- Fine-tuning -----------------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x))).mean((2, 3))


def coloured(people: int = 4, each: int = 12) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """Pictures with a colour of their own for each person."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(people), each)
    means = rng.integers(30, 226, (people, 1, 1, 3))
    pictures = np.clip(means[labels] + rng.normal(0, 25, (len(labels), 16, 16, 3)), 0, 255).astype(np.uint8)
    return pictures, labels, [f"p{label}" for label in labels]


def tuner(pictures: Any, **more: Any) -> aspl.FineTune:
    torch.manual_seed(0)
    options = {"steps": 60, "batch": 16, "lr": 0.05, "lr_every": 40, "unit": True, "batch_norm": True, **more}
    return aspl.FineTune(network=aspl.Classified(Tiny(), dim=8, classes=2), pictures=pictures, **options)


def test_biases_learn_twice_as_fast_and_do_not_decay() -> None:
    groups = tuner(coloured()[0]).optimiser().param_groups
    assert [group["lr"] for group in groups] == [0.05, 0.1]
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]
    assert all(parameter.ndim == 1 for parameter in groups[1]["params"])
    assert len(groups[1]["params"]) == 3


def test_the_loop_with_fine_tuning_ends_with_better_features(tmp_path: Path) -> None:
    pictures, labels, names = coloured()
    tune = tuner(pictures)
    numbers = dataclasses.replace(QUICK, queries=4)
    pool = ActiveSelfPaced(tune.extract(), numbers=numbers)
    rows = [int(np.flatnonzero(labels == person)[0]) for person in range(3)]  # the fourth comes up by a question
    pool.label(rows, [names[row] for row in rows])
    before = pool.accuracy(pool.features, names)
    for _ in range(7):
        pool.turn(Oracle(names), refresh=tune, folder=tmp_path)
    assert tune.network.fc8.out_features == len(tune.persons) == 4
    assert set(tune.persons) == set(pool.persons)
    assert tune.losses[-1] < tune.losses[0]
    pool.fit()
    assert pool.accuracy(pool.features, names) > max(before, 0.9)
    other = tuner(pictures)
    other.load(tmp_path / "network.safetensors")
    assert other.persons == tune.persons
    np.testing.assert_allclose(other.extract(), tune.extract(), atol=1e-6)
    with pytest.raises(CheckpointError):
        other.load(tmp_path / "state.npz")


def test_what_a_refresh_is_given() -> None:
    pool, _ = started(pace=0.9, min_positives=2)
    pool.label([5], ["lonely"])  # too few labels: no classifier, so not in the softmax
    given: dict[str, Any] = {}

    def refresh(rows: Any, labels: Any, weights: Any, *, persons: tuple[str, ...], turn: int) -> Any:
        given.update(rows=rows, labels=labels, weights=weights, persons=persons, turn=turn)
        return 2 * pool.features

    before = pool.features
    pool.turn(None, refresh=refresh)
    np.testing.assert_array_equal(pool.features, 2 * before)
    assert not pool.classifiers.trained.any()  # they do not fit the new features
    assert "lonely" not in given["persons"]
    assert len(given["persons"]) == len(set(given["labels"].tolist())) == 6
    for row, label, weight in zip(given["rows"], given["labels"], given["weights"], strict=True):
        said = pool.labels[row] if pool.labels[row] >= 0 else pool.free[row]
        assert given["persons"][label] == pool.persons[said]
        assert weight == (1.0 if pool.labels[row] >= 0 else pool.weights[row])


def test_pictures_may_come_from_a_function_and_weights_may_count() -> None:
    pictures, labels, _ = coloured()
    options: dict[str, Any] = {"count": len(pictures), "steps": 5}
    rows, persons = np.arange(len(labels)), ("a", "b", "c", "d")
    plain = tuner(lambda rows: pictures[rows], **options)
    np.testing.assert_array_equal(plain.extract(), tuner(pictures).extract())
    plain.tune(rows, labels, np.ones(len(rows)), persons=persons)
    same = tuner(lambda rows: pictures[rows], weighted=True, **options)
    same.tune(rows, labels, np.ones(len(rows)), persons=persons)
    np.testing.assert_allclose(plain.extract(), same.extract(), atol=1e-6)
    less = tuner(lambda rows: pictures[rows], weighted=True, **options)
    less.tune(rows, labels, np.linspace(0, 1, len(rows)), persons=persons)
    assert np.abs(plain.extract() - less.extract()).max() > 1e-4
    with pytest.raises(OptionError, match="how many"):
        tuner(lambda rows: pictures[rows])
    with pytest.raises(TrainingError):
        plain.tune(np.zeros(0, np.int64), np.zeros(0, np.int64), persons=persons)


def test_features_of_the_bundled_weights() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    z = aspl.embedded(crops)
    assert z.shape == (3, 128)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(aspl.embedded(lambda rows: crops[rows], 3), z, atol=1e-6)


# --- Files -----------------------------------------------------------------------------------------------------------


def test_models_as_liblinear_writes_them(tmp_path: Path) -> None:
    file = tmp_path / "7_model.xml"
    aspl.write_liblinear(file, np.array([0.5, -0.25]))
    assert file.read_text().splitlines() == [
        "solver_type L2R_L2LOSS_SVC", "nr_class 2", "label 1 -1", "nr_feature 2", "bias -1", "w", "0.5 ", "-0.25 ",
    ]  # fmt: skip
    weights, offset = aspl.read_liblinear(file)
    assert weights.tolist() == [0.5, -0.25]
    assert offset == 0
    file.write_text(file.read_text().replace("label 1 -1", "label -1 1"))
    assert aspl.read_liblinear(file)[0].tolist() == [-0.5, 0.25]  # the first label is the positive side
    aspl.write_liblinear(file, np.array([0.5, -0.25]), bias=2.0, offset=0.3)
    assert aspl.read_liblinear(file)[1] == pytest.approx(0.3)
    with pytest.raises(ValueRangeError):
        aspl.write_liblinear(file, np.ones(2), offset=1.0)


def test_all_models_of_a_folder(tmp_path: Path) -> None:
    x, labels, _ = crowd()
    found = aspl.fit_one_vs_rest(x, labels, persons=6, trained=np.arange(6) != 4, bias=1.0)
    persons = [f"p{person}" for person in range(6)]
    assert len(aspl.write_models(tmp_path, found, persons, bias=1.0)) == 5
    back = aspl.read_models(tmp_path, persons)
    np.testing.assert_allclose(back.decisions(x), found.decisions(x), atol=1e-12)
    assert back.trained.tolist() == found.trained.tolist()
    with pytest.raises(MediaNotFound):
        aspl.read_models(tmp_path, ["nobody"])


@pytest.mark.parametrize(
    "change",
    [("nr_class 2", "nr_class 3"), ("w\n", ""), ("0.5 ", "half"), ("-0.25 \n", ""), ("L2R_L2LOSS_SVC", "MCSVM_CS"),
     ("label 1 -1", "label 3 4"), ("bias -1\n", "")],
)  # fmt: skip
def test_what_is_no_model_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    file = tmp_path / "model"
    aspl.write_liblinear(file, np.array([0.5, -0.25]))
    file.write_text(file.read_text().replace(*change))
    with pytest.raises(TableError):
        aspl.read_liblinear(file)


def test_feature_files(tmp_path: Path) -> None:
    file = tmp_path / "features.bin"
    x = np.array([[0, 1.5, 0, 2], [0, 0, 0, 0], [3, 0, 0, 0]], np.float32)
    aspl.write_features(file, x)
    words = np.frombuffer(file.read_bytes(), "<i4")
    assert words[:4].tolist() == [3, 2, 1, 3]
    assert words[4:6].view("<f4").tolist() == [1.5, 2.0]
    assert words[6:].tolist()[:3] == [0, 1, 0]
    np.testing.assert_array_equal(aspl.read_features(file), x)
    assert aspl.read_features(file, dim=9).shape == (3, 9)
    aspl.write_features(file, x, first=1)
    np.testing.assert_array_equal(aspl.read_features(file, first=1), x)
    with pytest.raises(TableError, match="outside"):
        aspl.read_features(file, dim=4)
    whole = file.read_bytes()
    for broken in (whole[:-4], whole + whole[:4], whole[:-1], b""):
        file.write_bytes(broken)
        with pytest.raises(TableError):
            aspl.read_features(file)
    with pytest.raises(MediaNotFound):
        aspl.read_features(tmp_path / "none")


def test_split_lists(tmp_path: Path) -> None:
    file = tmp_path / "train_init.txt"
    aspl.write_split(file, ["a b.jpg", "c.jpg"], ["3", "14"])
    assert file.read_text() == "a b.jpg 3\nc.jpg 14\n"
    assert aspl.read_split(file) == (["a b.jpg", "c.jpg"], ["3", "14"])
    with pytest.raises(ValueRangeError):
        aspl.write_split(file, ["a.jpg"], ["two words"])
    file.write_text("alone\n")
    with pytest.raises(TableError, match="line 1"):
        aspl.read_split(file)
    with pytest.raises(MediaNotFound):
        aspl.read_split(tmp_path / "none")
