"""Figures of classes, valence and arousal, derived again by loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mien.errors import ShapeError
from mien.metrics.affect import abaw_score, affect_figures, class_f1, expression_figures

RNG = np.random.default_rng(0)


def test_figures_of_classes_are_those_of_loops_and_of_scikit_learn() -> None:
    truth = RNG.choice(5, 80, p=[0.5, 0.3, 0.1, 0.1, 0])
    found = np.where(RNG.random(80) < 0.6, truth, RNG.integers(0, 5, 80))
    figures = expression_figures(found, truth, classes=5)
    assert figures["accuracy"] == sum(f == t for f, t in zip(found, truth, strict=True)) / 80
    recalls = [sum((found == c) & (truth == c)) / sum(truth == c) for c in range(4)]
    assert figures["balanced_accuracy"] == pytest.approx(sum(recalls) / 4)
    occurring = list(range(4))
    assert figures["macro_f1"] == pytest.approx(f1_score(truth, found, labels=occurring, average="macro"))
    assert figures["weighted_f1"] == pytest.approx(f1_score(truth, found, average="weighted", zero_division=0))
    assert figures["abaw"] == pytest.approx(0.67 * figures["macro_f1"] + 0.33 * figures["accuracy"])
    assert abaw_score(1, 0) == 0.67
    assert np.isnan(class_f1([0, 0], [0, 1], classes=3)[2])
    with pytest.raises(ShapeError, match="nothing to count"):
        expression_figures(np.zeros(0, int), np.zeros(0, int), classes=3)
    with pytest.raises(ShapeError):
        expression_figures([0], [0, 1], classes=3)


def test_figures_of_valence_and_arousal_are_those_of_loops() -> None:
    t = RNG.uniform(-1, 1, (30, 2))
    f = 0.5 * t + RNG.normal(0, 0.2, (30, 2))
    figures = affect_figures(f, t)
    for k, name in enumerate(("valence", "arousal")):
        a, b = f[:, k].tolist(), t[:, k].tolist()
        ma, mb = sum(a) / 30, sum(b) / 30
        cov = sum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True)) / 30
        var = sum((x - ma) ** 2 for x in a) / 30 + sum((y - mb) ** 2 for y in b) / 30
        assert figures[f"ccc_{name}"] == pytest.approx(2 * cov / (var + (ma - mb) ** 2))
        squares = [(x - y) ** 2 for x, y in zip(a, b, strict=True)]
        assert figures[f"rmse_{name}"] == pytest.approx(math.sqrt(sum(squares) / 30))
        assert figures[f"sagr_{name}"] == sum((x > 0) == (y > 0) for x, y in zip(a, b, strict=True)) / 30
    assert figures["ccc"] == pytest.approx((figures["ccc_valence"] + figures["ccc_arousal"]) / 2)
    with pytest.raises(ShapeError):
        affect_figures(f[:3], t)
