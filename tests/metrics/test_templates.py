"""Pooling derived again by plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien import metrics
from mien.errors import OptionError, ShapeError, ValueRangeError
from mien.metrics import templates as module


def pooled_by_hand(rows, template, media, weights):  # type: ignore[no-untyped-def]
    """{template: vector}: mean of each medium by weights, times the medium's mean weight, summed, normed."""
    out = {}
    for name in sorted(set(template)):
        total = np.zeros(rows.shape[1])
        for medium in {m for t, m in zip(template, media, strict=True) if t == name}:
            mine = [i for i in range(len(rows)) if template[i] == name and media[i] == medium]
            units = [rows[i] / np.linalg.norm(rows[i]) for i in mine]
            w = [weights[i] for i in mine]
            if sum(w):
                mean = sum(a * u for a, u in zip(w, units, strict=True)) / sum(w)
                total += np.mean(w) * mean
        out[name] = total / np.linalg.norm(total)
    return out


@settings(max_examples=50)
@given(
    st.integers(1, 30),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["equal", "norm", "given"]),
)
def test_pooling_is_media_first_then_templates(n: int, templates: int, media: int, seed: int, how: str) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, 6)) + 0.5
    template, medium = rng.integers(0, templates, n), rng.integers(0, media, n)
    weights = {"equal": np.ones(n), "norm": np.linalg.norm(rows, axis=1), "given": rng.random(n) + 0.01}[how]
    given = {"equal": None, "norm": "norm", "given": weights}[how]
    told = metrics.pool_templates(rows, template, media=medium, weights=given)
    by_hand = pooled_by_hand(rows, template.tolist(), medium.tolist(), weights.tolist())
    assert told.names.tolist() == list(by_hand)
    np.testing.assert_allclose(told.vectors, np.array(list(by_hand.values())), atol=2e-6)
    assert told.faces.sum() == n
    assert told.media.tolist() == [
        len({m for t, m in zip(template, medium, strict=True) if t == name}) for name in by_hand
    ]
    # In any order of faces it is the same.
    order = rng.permutation(n)
    again = metrics.pool_templates(
        rows[order], template[order], media=medium[order],
        weights=given if given is None or isinstance(given, str) else weights[order],
    )  # fmt: skip
    np.testing.assert_allclose(again.vectors, told.vectors, atol=2e-6)


def test_a_video_of_many_frames_counts_as_one_photo() -> None:
    frame, photo = np.array([1.0, 0]), np.array([0, 1.0])
    rows = np.stack([frame] * 9 + [photo])
    flat = metrics.pool_templates(rows, ["t"] * 10).vectors[0]
    by_media = metrics.pool_templates(rows, ["t"] * 10, media=["video"] * 9 + ["photo"]).vectors[0]
    np.testing.assert_allclose(flat, np.array([9, 1]) / np.sqrt(82), atol=1e-6)
    np.testing.assert_allclose(by_media, np.array([1, 1]) / np.sqrt(2), atol=1e-6)


def test_norm_weights_add_vectors_as_they_come() -> None:
    rows = np.array([[3.0, 0], [0, 4.0]])
    np.testing.assert_allclose(metrics.pool_templates(rows, [0, 0], weights="norm").vectors[0], [0.6, 0.8], atol=1e-6)
    np.testing.assert_allclose(metrics.pool_templates(rows, [0, 0]).vectors[0], [0.5**0.5] * 2, atol=1e-6)


def test_scores_of_named_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    told = metrics.pool_templates(rng.standard_normal((20, 5)), [f"t{i % 7}" for i in range(20)])
    a, b = ["t3", "t0", "t6", "t3"], ["t0", "t0", "t1", "t5"]
    monkeypatch.setattr(module, "CHUNK_PAIRS", 3)
    rows = dict(zip(told.names.tolist(), told.vectors, strict=True))
    np.testing.assert_allclose(told.scores(a, b), [rows[x] @ rows[y] for x, y in zip(a, b, strict=True)], atol=1e-6)
    with pytest.raises(ValueRangeError, match="no such template"):
        told.scores(["t3"], ["t9"])


def test_ijb_rates_of_a_list_of_pairs() -> None:
    rng = np.random.default_rng(1)
    who = np.repeat(np.arange(60), 6)
    rows = rng.standard_normal((60, 32))[who] + 1.5 * rng.standard_normal((360, 32))
    template = who * 2 + np.tile([0, 0, 0, 1, 1, 1], 60)
    told = metrics.pool_templates(rows, template)
    a, b = (x.ravel() for x in np.meshgrid(told.names[::2], told.names[1::2], indexing="ij"))
    scores, same = told.scores(a, b), a // 2 == b // 2
    tars = [metrics.tar_at_far(scores, same, far) for far in metrics.IJB_FARS if far * (~same).sum() >= 1]
    assert len(tars) == 3
    assert tars == sorted(tars)
    single = metrics.pool_templates(rows[[0, 3] * 60 + np.repeat(np.arange(60) * 6, 2)], np.arange(120))
    assert metrics.eer(single.scores(a, b), same) > metrics.eer(scores, same), "more pictures tell more"


def test_what_cannot_be_pooled() -> None:
    rows = np.array([[1.0, 0], [-1.0, 0]])
    with pytest.raises(ValueRangeError, match="no direction"):
        metrics.pool_templates(rows, [0, 0])
    with pytest.raises(ValueRangeError, match="no direction"):
        metrics.pool_templates(rows, [0, 1], weights=[1, 0])
    with pytest.raises(ValueRangeError, match="negative"):
        metrics.pool_templates(rows, [0, 1], weights=[1, -1])
    with pytest.raises(OptionError, match="unknown weights"):
        metrics.pool_templates(rows, [0, 1], weights="length")
    with pytest.raises(ShapeError):
        metrics.pool_templates(rows, [0, 1, 2])


def test_galleries_share_nobody() -> None:
    metrics.check_disjoint_galleries([["a", "b"], ["c"]])
    with pytest.raises(ValueRangeError, match="two galleries"):
        metrics.check_disjoint_galleries([["a", "b"], ["c", "a"]])
