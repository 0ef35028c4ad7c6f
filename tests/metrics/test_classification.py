"""Each figure against its definition, written naively."""

from __future__ import annotations

import numpy as np
import pytest

from mien.errors import OptionError, ShapeError, ValueRangeError
from mien.metrics.classification import (
    attribute_precision,
    ccc,
    class_recalls,
    confusion,
    expected_calibration_error,
    f1_of_masks,
    fit_temperature,
    mask_counts,
)

RNG = np.random.default_rng(0)


def test_confusion_and_recalls() -> None:
    truth, found = np.array([0, 0, 0, 1, 1, 3]), np.array([0, 1, 0, 1, 1, 2])
    counts = confusion(found, truth, classes=4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    recalls = class_recalls(found, truth, classes=4)
    assert recalls[[0, 1, 3]].tolist() == [2 / 3, 1, 0]
    assert np.isnan(recalls[2])
    with pytest.raises(ValueRangeError, match="out of range"):
        confusion([4], [0], classes=4)


def test_average_precision_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores = RNG.integers(0, 9, (200, 3)).astype(float)  # many are equal
    truth = RNG.random((200, 3)) < 0.3
    wanted = [metrics.average_precision_score(truth[:, k], scores[:, k]) for k in range(3)]
    assert attribute_precision(scores, truth) == pytest.approx(wanted, abs=1e-12)
    assert np.isnan(attribute_precision(scores[:, :1], np.zeros((200, 1), bool)))[0]


def test_concordance() -> None:
    truth = RNG.normal(size=50)
    assert ccc(truth, truth) == pytest.approx(1)
    assert ccc(-truth, truth) < 0
    shifted = truth * 0.5 + 0.3
    covariance = np.cov(shifted, truth, bias=True)
    naive = 2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + (shifted.mean() - truth.mean()) ** 2)
    assert ccc(shifted, truth) == pytest.approx(naive)


def test_calibration_error_of_what_is_true_and_of_what_is_not() -> None:
    p = RNG.random(20_000)
    right = RNG.random(20_000) < p
    assert expected_calibration_error(p, right) < 0.02
    assert expected_calibration_error(np.full(100, 0.9), np.arange(100) < 50) == pytest.approx(0.4)
    with pytest.raises(ValueRangeError, match="probabilities"):
        expected_calibration_error([1.2], [True])
    # three of four annotators agree with an answer of 0.75, whatever most of them say of single pictures
    assert expected_calibration_error(np.full(4, 0.75), [1.0, 0.5, 0.75, 0.75]) == pytest.approx(0)
    with pytest.raises(ValueRangeError, match="share"):
        expected_calibration_error([0.5], [2.0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_sharpened_logits_is_found(temperature: float) -> None:
    z = RNG.normal(size=(6000, 5)) * 1.5
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    truth = np.eye(5)[[RNG.choice(5, p=row) for row in p]]
    fitted = fit_temperature(z * temperature, truth)
    assert fitted.temperature == pytest.approx(temperature, rel=0.08)
    assert fitted.after <= fitted.before + 1e-12
    yes = RNG.random(z.shape) < 1 / (1 + np.exp(-z))
    assert fit_temperature(z * temperature, yes.astype(float), kind="sigmoid").temperature == pytest.approx(
        temperature, rel=0.08
    )


def test_bad_input_of_the_temperature_is_told() -> None:
    with pytest.raises(ShapeError):
        fit_temperature(np.zeros((2, 3)), np.zeros((2, 2)))
    with pytest.raises(OptionError):
        fit_temperature(np.zeros((2, 3)), np.zeros((2, 3)), kind="other")  # type: ignore[arg-type]


def test_masks_are_counted_in_pixels() -> None:
    truth, found = RNG.integers(0, 3, (4, 6, 6)), RNG.integers(0, 3, (4, 6, 6))
    truth[0] = 255
    f1 = f1_of_masks(mask_counts(found, truth, classes=4, ignore=255))
    known = truth != 255
    for k in range(3):
        mine, true = (found == k) & known, truth == k
        precision, recall = (mine & true).sum() / mine.sum(), (mine & true).sum() / true.sum()
        assert f1[k] == pytest.approx(2 * precision * recall / (precision + recall))
    assert np.isnan(f1[3])
    with pytest.raises(ShapeError):
        mask_counts(np.zeros((2, 2)), np.zeros((2, 3)), classes=2)
