"""The detector's recipe: which cell learns which face, and the loss, both as plain loops from the words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.sets import detection
from mien.nn.detector import OUTPUTS, STRIDES, cells
from mien.train.recipes.detector import (
    IGNORED,
    NEGATIVE,
    RADIUS,
    RANGES,
    AssignedScenes,
    DetectorRecipe,
    assign,
    giou,
    scene_precision,
)

# --- Which cell learns which face -------------------------------------------------------------------------------------


def plain_cells(size: int) -> list[tuple[int, float, float]]:
    """Stride and centre of every cell, fine grid first, row by row."""
    return [
        (stride, (column + 0.5) * stride, (row + 0.5) * stride)
        for stride in (8, 16, 32)
        for row in range(size // stride)
        for column in range(size // stride)
    ]


def naive_assign(boxes: NDArray[np.float32], kind: NDArray[np.int64], size: int) -> list[int]:
    """Cell by cell, from the words of `assign`."""
    grid = plain_cells(size)
    rows = range(len(boxes))
    sides = [math.sqrt((b[2] - b[0]) * (b[3] - b[1])) for b in boxes.tolist()]

    def within(row: int, x: float, y: float) -> bool:
        return bool(boxes[row, 0] < x < boxes[row, 2] and boxes[row, 1] < y < boxes[row, 3])

    def distance(row: int, x: float, y: float) -> float:
        x0, y0, x1, y1 = boxes[row]
        return float(max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2)))

    claims: list[list[int]] = [[] for _ in grid]
    for row in rows:
        for stride, (low, high) in zip((8, 16, 32), RANGES, strict=True):
            if kind[row] != 1 or not low <= sides[row] < high:
                continue
            level = [k for k, cell in enumerate(grid) if cell[0] == stride]
            near = [k for k in level if within(row, *grid[k][1:]) and distance(row, *grid[k][1:]) < RADIUS * stride]
            for k in near or [min(level, key=lambda k, row=row: distance(row, *grid[k][1:]))]:  # type: ignore[misc]
                claims[k].append(row)
    ignored = [any(kind[row] == 0 and within(row, x, y) for row in rows) for _, x, y in grid]
    return [
        min(claim, key=lambda row: sides[row]) if claim else IGNORED if hidden else NEGATIVE
        for claim, hidden in zip(claims, ignored, strict=True)
    ]


@pytest.mark.parametrize("seed", range(25))
def test_assignment_is_that_of_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 7))
    corner = rng.uniform(0, 110, (count, 2))
    extent = np.exp(rng.uniform(np.log(3), np.log(128), (count, 2)))
    boxes = np.concatenate([corner, np.minimum(corner + extent, 128)], 1).astype(np.float32)
    kind = rng.choice([1, 1, 1, 0, -1], count).astype(np.int64)
    assert assign(boxes, kind, 128).tolist() == naive_assign(boxes, kind, 128)


def test_a_face_of_any_size_owns_a_cell() -> None:
    boxes = np.array([[3, 3, 9, 9], [20, 20, 52, 60], [0, 0, 128, 128]], np.float32)
    assert set(assign(boxes, np.ones(3, np.int64), 128).tolist()) == {NEGATIVE, 0, 1, 2}


# --- The loss ---------------------------------------------------------------------------------------------------------


def naive_giou(a: list[float], b: list[float]) -> tuple[float, float]:
    """IoU and generalised IoU of two boxes (Rezatofighi et al., 2019, algorithm 1)."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, wide) * max(0.0, high)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return overlap / union, overlap / union - (hull - union) / hull


def boxes_of(rng: np.random.Generator, count: int) -> Tensor:
    corner, extent = rng.uniform(0, 40, (count, 2)), rng.uniform(1, 30, (count, 2))
    return torch.from_numpy(np.concatenate([corner, corner + extent], 1))


def test_giou_is_the_published_one_with_its_gradient() -> None:
    a, b = (boxes_of(np.random.default_rng(seed), 40) for seed in (0, 1))
    iou, generalised = giou(a, b)
    expected = torch.tensor([naive_giou(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    torch.testing.assert_close(torch.stack([iou, generalised], 1).float(), expected.float())
    assert (iou == 0).any()
    assert (iou > 0).any()
    assert torch.autograd.gradcheck(lambda x: giou(x, b)[1], a.requires_grad_())


def test_giou_of_equal_nested_and_distant_boxes() -> None:
    one = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1]])
    two = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [3, 0, 4, 1]])
    iou, generalised = giou(one, two)
    assert iou.tolist() == [1, 0.25, 0]
    assert generalised.tolist() == [1, 0.25, -0.5]


class Answer(nn.Module):
    """A network that answers the same raw predictions, whatever it sees."""

    def __init__(self, raw: Tensor) -> None:
        super().__init__()
        self.raw = nn.Parameter(raw)

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, 64, 64)
        return self.raw


def naive_loss(raw: Tensor, batch: dict[str, Tensor], recipe: DetectorRecipe) -> Tensor:
    """Cell by cell, from the docstring of the recipe's module; differentiable, in the type of `raw`."""
    grid = plain_cells(recipe.size)
    score, box, point = (raw.new_zeros(()) for _ in range(3))
    positive = known = 0
    for k in range(len(raw)):
        for cell, (stride, x, y) in enumerate(grid):
            out, owner = raw[k, cell], int(batch["owner"][k, cell])
            target = 0.0
            if owner >= 0:
                positive += 1
                truth = batch["boxes"][k, owner].to(raw.dtype)
                middle_x, middle_y = x + out[1] * stride, y + out[2] * stride
                width, height = out[3].exp() * stride, out[4].exp() * stride
                sides = [middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2]
                iou, generalised = giou(torch.stack(sides)[None], truth[None])
                box = box + (1 - generalised[0])
                target = float(iou[0].detach())
                points = batch["points"][k, owner].to(raw.dtype)
                if torch.isfinite(points).all():
                    known += 1
                    size = float(((truth[2] - truth[0]) * (truth[3] - truth[1])).sqrt())
                    for place in range(5):
                        for axis, centre in enumerate((x, y)):
                            off = (centre + out[5 + 2 * place + axis] * stride - points[place, axis]).abs() / size
                            point = point + (off**2 / 0.1 if float(off.detach()) < 0.05 else off - 0.025) / 10
            if owner != IGNORED:
                probability = 1 / (1 + (-out[0]).exp())
                entropy = -(target * probability.log() + (1 - target) * (1 - probability).log())
                score = score + float((target - probability.detach()).abs()) ** 2 * entropy
    count = max(1, positive)
    # 4 is the loss's own: it brings the points to the size of the other terms.
    return score / count + recipe.box_weight * box / count + 4 * recipe.point_weight * point / max(1, known)


def batch_of(rng: np.random.Generator, *, faces: int, size: int = 64) -> dict[str, Tensor]:
    """Two pictures; of `faces` faces the second has no points and the third is ignored."""
    corner = rng.uniform(0, size / 2, (2, 4, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, size / 2, (2, 4, 2))], 2).astype(np.float32)
    kind = np.tile([1, 1, 0, 1], (2, 1)).astype(np.int64)
    kind[:, faces:] = -1
    points = (boxes[:, :, None, :2] + rng.uniform(0, 20, (2, 4, 5, 2))).astype(np.float32)
    points[:, 1] = np.nan
    owner = np.stack([assign(boxes[k], kind[k], size) for k in range(2)])
    return {
        "image": torch.zeros(2, size, size, 3, dtype=torch.uint8),
        "boxes": torch.from_numpy(boxes),
        "points": torch.from_numpy(points),
        "owner": torch.from_numpy(owner),
    }


def recipe_of(**options: Any) -> DetectorRecipe:
    return DetectorRecipe(out="unused", faces="", scenes="", size=64, **options)


@pytest.mark.parametrize("faces", [4, 1, 0])
def test_the_loss_is_that_of_a_plain_loop_with_its_gradient(faces: int) -> None:
    rng = np.random.default_rng(faces)
    raw = torch.from_numpy(rng.normal(0, 0.7, (2, 84, OUTPUTS)).astype(np.float32))
    batch, recipe = batch_of(rng, faces=faces), recipe_of(box_weight=1.7, point_weight=0.6)
    network = Answer(raw.clone())
    loss, parts = recipe.loss(network, batch, 0)
    loss.backward()
    exact = raw.double().requires_grad_()
    expected = naive_loss(exact, batch, recipe)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert network.raw.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(network.raw.grad.double(), exact.grad, rtol=2e-3, atol=1e-5)
    assert set(parts) == {"score", "box", "point", "iou"}
    assert all(torch.isfinite(value) for value in parts.values())


def test_ignored_cells_and_unknown_points_have_no_gradient() -> None:
    rng = np.random.default_rng(7)
    batch = batch_of(rng, faces=4)
    network = Answer(torch.from_numpy(rng.normal(0, 0.5, (2, 84, OUTPUTS)).astype(np.float32)))
    recipe_of().loss(network, batch, 0)[0].backward()
    grad, owner = network.raw.grad, batch["owner"]
    assert grad is not None
    assert (owner == IGNORED).any()
    assert (grad[owner == IGNORED] == 0).all()
    assert (grad[owner == NEGATIVE][:, 1:] == 0).all()
    assert (grad[owner == NEGATIVE][:, 0] > 0).all()  # pushed down
    assert (grad[owner == 1][:, 5:] == 0).all()
    assert (grad[owner == 0][:, 5:] != 0).any()


def test_perfect_answers_cost_next_to_nothing() -> None:
    batch = batch_of(np.random.default_rng(3), faces=2)
    centres, strides = cells(64, 64)
    raw = torch.zeros(2, 84, OUTPUTS)
    raw[..., 0] = -12
    for k in range(2):
        for cell in (batch["owner"][k] >= 0).nonzero()[:, 0].tolist():
            face = int(batch["owner"][k, cell])
            x0, y0, x1, y1 = batch["boxes"][k, face]
            here, stride = centres[cell], strides[cell]
            middle = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2])
            raw[k, cell, 0] = 12
            raw[k, cell, 1:3] = (middle - here) / stride
            raw[k, cell, 3:5] = (torch.stack([x1 - x0, y1 - y0]) / stride).log()
            raw[k, cell, 5:] = torch.nan_to_num((batch["points"][k, face] - here) / stride).flatten()
    loss, parts = recipe_of().loss(Answer(raw), batch, 0)
    assert float(loss) < 1e-3
    assert float(parts["iou"]) == pytest.approx(1, abs=1e-4)


# --- Source and evaluation --------------------------------------------------------------------------------------------


def test_samples_carry_owners_of_the_faces_they_show(made_up: Any) -> None:
    recipe = DetectorRecipe(
        out="unused", faces=str(made_up("fairface_faces")), scenes=str(made_up("detection")), size=96, real=0.2
    )
    source = recipe.source()
    assert isinstance(source, AssignedScenes)
    for seed in range(8):
        sample = source.sample(seed, np.random.default_rng(seed))
        kind = source.scenes.sample(seed, np.random.default_rng(seed))["kind"]
        assert sample["owner"].shape == (sum((96 // s) ** 2 for s in STRIDES),)
        assert sample["owner"].tolist() == assign(sample["boxes"], kind, 96).tolist()
        assert all(kind[face] == 1 for face in set(sample["owner"].tolist()) if face >= 0)


def test_precision_is_one_for_a_network_that_knows_the_boxes_and_nought_for_one_that_sees_nothing(made_up: Any) -> None:
    scenes = detection(made_up("detection"), split="train")

    class Oracle(nn.Module):
        """Answers the true boxes of the scenes, one picture after the other."""

        def __init__(self, logit: float) -> None:
            super().__init__()
            self.logit = nn.Parameter(torch.tensor(logit))
            self.row = -1

        def forward(self, images: Tensor) -> Tensor:
            height, width = images.shape[2:]
            centres, strides = cells(height, width)
            raw = torch.full((1, len(centres), OUTPUTS), -20.0)
            if max(height, width) < 200:  # the small pass
                return raw
            self.row += 1
            # The long side became 640 px, but no more than twice as large.
            scale = min(640 / float(scenes.size[self.row].max()), 2)
            for box in torch.from_numpy(scenes.boxes.of_image(self.row)) * scale:
                middle = (box[:2] + box[2:]) / 2
                at = int((centres - middle).abs().sum(1).argmin())
                raw[0, at, 0] = self.logit
                raw[0, at, 1:3] = (middle - centres[at]) / strides[at]
                raw[0, at, 3:5] = ((box[2:] - box[:2]) / strides[at]).log()
            return raw

    assert scene_precision(Oracle(5.0), scenes) == pytest.approx(1.0)
    assert scene_precision(Oracle(-20.0), scenes) == 0.0
