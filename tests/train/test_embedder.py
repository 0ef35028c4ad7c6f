"""The embedder's recipe: targets and losses derived again in plain numpy, crops where the template says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.data.pixels import read
from mien.geometry import angle_of, apply, scale_of, template
from mien.nn.embedder import Embedder
from mien.train.recipes.embedder import (
    EmbedderRecipe,
    FairFaceChips,
    Student,
    celeba_pairs,
    degrade,
    distillation_loss,
    random_similarity,
    whitened_targets,
)

TERMS = ("bank", "relation", "cosine", "contrast")

# --- Targets ----------------------------------------------------------------------------------------------------------


def teacher(count: int = 300, dim: int = 12) -> NDArray[np.float64]:
    """Vectors with a large common part and axes of unequal spread, as the teacher's are."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return 1.3 * rng.normal(size=dim) + (rng.normal(size=(count, dim)) * np.geomspace(1, 0.05, dim)) @ turn


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_targets_are_centred_whitened_and_normalised(strength: float) -> None:
    vectors = teacher()
    centred = vectors - vectors.mean(0)
    covariance = centred.T @ centred / len(centred)
    # By the symmetric square root: the same up to a rotation of the axes, which no cosine sees.
    values, axes = np.linalg.eigh(covariance)
    expected = centred @ axes @ np.diag(np.maximum(values, 1e-4 * values.max()) ** (-strength / 2)) @ axes.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = whitened_targets(vectors, strength).double().numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-4)


def test_axes_of_noise_are_not_blown_up() -> None:
    vectors = teacher()
    vectors[:, 0] = 1e-9 * np.random.default_rng(1).normal(size=len(vectors))  # a degenerate axis
    assert whitened_targets(vectors, 1.0).isfinite().all()


# --- Losses -----------------------------------------------------------------------------------------------------------


def unit(rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    x = rng.normal(size=shape)
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def naive_terms(
    z: NDArray[np.float64], scale: float, index: list[int], targets: NDArray[np.float64], sharpness: float
) -> dict[str, float]:
    """The four terms of the module's docstring, number by number."""
    count, batch = len(targets), len(z)
    bank = relation = cosine = contrast = 0.0
    for row, own in enumerate(index):
        likeness = [float(z[row] @ targets[j]) for j in range(count)]
        bank -= scale * likeness[own] - math.log(sum(math.exp(scale * s) for s in likeness))
        p = np.exp([sharpness * float(targets[own] @ targets[j]) for j in range(count)])
        q = np.exp([sharpness * s for s in likeness])
        p, q = p / p.sum(), q / q.sum()
        relation += sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
        cosine += 1 - likeness[own]
    own_targets = targets[index]
    logits = scale * z @ own_targets.T
    for row in range(batch):
        contrast -= 0.5 * (logits[row, row] - math.log(np.exp(logits[row]).sum()))
        contrast -= 0.5 * (logits[row, row] - math.log(np.exp(logits[:, row]).sum()))
    return {"bank": bank / batch, "relation": relation / batch, "cosine": cosine / batch, "contrast": contrast / batch}


def inputs() -> tuple[NDArray[np.float64], list[int], NDArray[np.float64]]:
    rng = np.random.default_rng(4)
    return unit(rng, 5, 6), [3, 0, 8, 3, 7], unit(rng, 9, 6)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_is_that_of_the_docstring(term: str) -> None:
    z, index, targets = inputs()
    weights = {name: 1.7 if name == term else 0.0 for name in TERMS}
    loss, _ = distillation_loss(
        torch.from_numpy(z), torch.tensor(8.0).double(), torch.tensor(index), torch.from_numpy(targets), sharpness=6.0,
        **weights,
    )  # fmt: skip
    assert float(loss) == pytest.approx(1.7 * naive_terms(z, 8.0, index, targets, 6.0)[term], rel=1e-9)


def test_terms_are_summed_by_weight_and_their_gradients_are_right() -> None:
    z, index, targets = inputs()
    weights = {"bank": 0.5, "relation": 0.3, "cosine": 2.0, "contrast": 0.7}

    def loss(z: Tensor, scale: Tensor) -> Tensor:
        return distillation_loss(
            z, scale, torch.tensor(index), torch.from_numpy(targets), sharpness=6.0, **weights
        )[0]  # fmt: skip

    points = (torch.from_numpy(z).requires_grad_(), torch.tensor(8.0).double().requires_grad_())
    terms = naive_terms(z, 8.0, index, targets, 6.0)
    assert float(loss(*points).detach()) == pytest.approx(sum(weights[k] * terms[k] for k in TERMS), rel=1e-9)
    assert torch.autograd.gradcheck(loss, points)


def test_the_bank_s_and_the_relation_s_minimum_is_the_teacher() -> None:
    targets = torch.from_numpy(unit(np.random.default_rng(2), 9, 6))
    index = torch.arange(9)
    own = distillation_loss(targets, torch.tensor(20.0), index, targets, bank=0, relation=1, cosine=1, contrast=0,
                            sharpness=6)  # fmt: skip
    assert float(own[0]) == pytest.approx(0, abs=1e-9)
    assert float(own[1]["cos"]) == pytest.approx(1)


def test_the_student_gives_unit_vectors_and_a_bounded_temperature() -> None:
    student = Student(Embedder(widths=(8, 8, 8), depths=(1, 1, 1), head=8, dim=4), 10.0).eval()
    z, scale = student(torch.randn(3, 3, 112, 112))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))
    assert float(scale.detach()) == pytest.approx(10)
    with torch.no_grad():
        student.log_scale.fill_(9.0)
    assert float(student(torch.randn(1, 3, 112, 112))[1].detach()) == 64


# --- Crops ------------------------------------------------------------------------------------------------------------


def test_jitter_is_a_similarity_of_the_stated_spread_mirrored_half_the_time() -> None:
    rng = np.random.default_rng(0)
    maps = np.stack([random_similarity(rng, 1.0) for _ in range(4000)])
    mirrored = np.linalg.det(maps[:, :, :2]) < 0
    assert mirrored.mean() == pytest.approx(0.5, abs=0.03)
    upright = maps.copy()
    upright[mirrored, 0] *= -1  # undo the mirror
    gram = upright[:, :, :2] @ upright[:, :, :2].swapaxes(1, 2)
    np.testing.assert_allclose(gram, (scale_of(upright) ** 2)[:, None, None] * np.eye(2), atol=1e-5)
    assert angle_of(upright).std() == pytest.approx(6, rel=0.05)
    assert np.log(scale_of(upright)).std() == pytest.approx(0.05, rel=0.05)
    moved = apply(maps, np.full((4000, 1, 2), 55.5, np.float32))[:, 0] - 55.5
    np.testing.assert_allclose(moved.std(0), 2.5, rtol=0.05)


def test_without_strength_the_crop_is_the_template_s_or_its_mirror_image(made_up: Any) -> None:
    chips = FairFaceChips(made_up("fairface_faces"), strength=0.0)
    assert len(chips) == 18  # two chips have no points
    for index in (0, 7):
        placed = apply(chips.matrices[index], np.asarray(_five(chips, index)))
        np.testing.assert_allclose(placed, template("chip112"), atol=2.5)
        whole = cv2.warpAffine(read(chips.files[index]), chips.matrices[index], (112, 112))
        seen = set()
        for seed in range(12):
            crop = chips.sample(index, np.random.default_rng(seed))["image"]
            assert crop.shape == (112, 112, 3)
            inner = slice(20, 92)  # the border is black or smeared
            distance = [
                np.abs(crop[inner, inner].astype(int) - w[inner, inner]).mean() for w in (whole, whole[:, ::-1])
            ]
            assert min(distance) < 1.5
            seen.add(int(np.argmin(distance)))
        assert seen == {0, 1}


def _five(chips: FairFaceChips, index: int) -> Any:
    from mien.data.sets import fairface_faces

    root = chips.files[index].parents[1]
    faces = fairface_faces(root)
    return faces.five[faces.names.index(chips.files[index].name)]


def test_samples_follow_from_their_draw_and_name_their_target(made_up: Any) -> None:
    chips = FairFaceChips(made_up("fairface_faces"), strength=1.0)
    first, second = (chips.sample(5, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first["image"], second["image"])
    assert first["index"] == 5
    recipe = EmbedderRecipe(out="unused", data=str(made_up("fairface_faces")))
    source = recipe.source()
    assert len(source) == len(recipe._targets) == 18


def test_degradation_grows_with_its_strength_and_leaves_the_picture_given() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    before = image.copy()
    changed = {}
    for strength in (0.0, 0.3, 1.0):
        made = [degrade(image, np.random.default_rng(k), strength) for k in range(60)]
        assert {m.dtype for m in made} == {np.dtype(np.uint8)}
        assert {m.shape for m in made} == {(112, 112, 3)}
        changed[strength] = sum((m != image).any() for m in made)
    assert changed[0.0] == 0
    assert 0 < changed[0.3] < changed[1.0]
    np.testing.assert_array_equal(image, before)


# --- Evaluation -------------------------------------------------------------------------------------------------------


def test_pairs_are_of_one_person_or_of_two(made_up: Any) -> None:
    from mien.data.sets import celeba10k

    root = Path(made_up("celeba10k"))
    crops, first, second, same = celeba_pairs(root, seed=0, pairs=6)
    assert crops.shape[1:] == (112, 112, 3)
    assert (same.sum(), len(same)) == (6, 12)
    again = celeba_pairs(root, seed=0, pairs=6)
    np.testing.assert_array_equal(again[1], first)
    # Which pictures these are follows from their pixels, for every drawn face differs.
    people = celeba10k(root)
    matrix = _alignment()
    drawn = [cv2.warpAffine(people.picture(k), matrix, (112, 112), borderMode=cv2.BORDER_REPLICATE) for k in range(24)]
    person = [int(people.identity[int(np.argmin([np.abs(c.astype(int) - d).sum() for d in drawn]))]) for c in crops]
    assert [person[a] == person[b] for a, b in zip(first, second, strict=True)] == same.tolist()
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert celeba_pairs(root, seed=0)[3].sum() == 8  # no more than there are people


def _alignment() -> Any:
    from mien.geometry import similarity_from_points

    source = np.array([[34.5, 56.0], [54.0, 56.0], [44.25, 66.5], [36.0, 76.5], [52.5, 76.5]], np.float32)
    return similarity_from_points(source, template("chip112"))


def test_evaluation_gives_the_best_accuracy_and_the_area(made_up: Any) -> None:
    recipe = EmbedderRecipe(out="unused", data="unused", validation=str(made_up("celeba10k")))
    network = Embedder(widths=(8, 8, 8), depths=(1, 1, 1), head=8, dim=4).eval()
    with torch.no_grad():
        figures = recipe.evaluate(network)
        crops, first, second, same = celeba_pairs(Path(made_up("celeba10k")), seed=0)
        z = network((torch.from_numpy(crops).permute(0, 3, 1, 2).float() - 127.5) / 128)
    z = z / z.norm(dim=1, keepdim=True)
    scores = (z[first] * z[second]).sum(1).numpy()
    best = max(float(((scores >= threshold) == same).mean()) for threshold in scores)
    wins = [(a > b) + 0.5 * (a == b) for a in scores[same] for b in scores[~same]]
    assert figures["celeba_accuracy"] == pytest.approx(best)
    assert figures["celeba_auc"] == pytest.approx(float(np.mean(wins)))
    assert EmbedderRecipe(out="unused", data="unused").evaluate(network) == {}
