"""LNets and ANet: filters, interwoven views, windows, peaks and losses by loops; weights for the verbs."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mien.data.head_scenes import TURNED, clutter, head_scenes
from mien.errors import CheckpointError, MienError, OptionError, ShapeError
from mien.faces import APPEARANCE
from mien.nn.anet import FACE_SIDES, GROW, HEAD_SIDES, Linear
from mien.nn.lnet import coverage, cut, squares
from mien.papers import lnet_anet as paper

SMALL: dict[str, Any] = {
    "variant": "small", "size": 64, "anet_size": 40, "channels": (8, 8, 8, 8), "fc": 16,
}  # fmt: skip


def convs(network: paper.LNet) -> list[nn.Conv2d]:
    return cast("list[nn.Conv2d]", list(network.convs))


# --- LNet ------------------------------------------------------------------------------------------------------------


def test_the_paper_s_size_and_where_its_cells_lie() -> None:
    with torch.device("meta"):
        network = paper.lnet()
        alike = paper.lnet(variant="torchvision")
    assert [tuple(conv.weight.shape) for conv in convs(network)] == [
        (96, 3, 11, 11), (256, 96, 5, 5), (384, 256, 3, 3), (384, 384, 3, 3), (256, 384, 3, 3),
    ]  # fmt: skip
    assert network.maps(torch.empty(1, 3, 227, 227, device="meta")).shape == (1, 256, 13, 13)
    assert network.response(torch.empty(1, 3, 300, 400, device="meta")).shape == (1, 17, 23)
    assert network.cells == (9.5, 16.0)
    assert sum(p.numel() for p in alike.convs.parameters()) == 2_469_696  # torchvision's features


@pytest.mark.parametrize("variant", ["alexnet", "small"])
def test_a_bright_spot_answers_in_the_cell_that_lies_over_it(variant: str) -> None:
    network = paper.lnet(variant=variant, width=0.2, tags=3).double()
    with torch.no_grad():
        for conv in convs(network):
            conv.weight.abs_()  # every cell answers to what it sees
    first, pitch = network.cells
    for y, x in ((88, 140), (120, 72)):
        images = torch.zeros(1, 3, 227, 227, dtype=torch.float64)
        images[:, :, y - 3 : y + 4, x - 3 : x + 4] = 1
        response = network.response(images)[0]
        rows, columns = (response.sum(axis) for axis in (1, 0))
        at = [float((s * torch.arange(len(s))).sum() / s.sum()) for s in (rows.detach(), columns.detach())]
        assert first + (at[0] + 0.5) * pitch == pytest.approx(y + 0.5, abs=0.6 * pitch)
        assert first + (at[1] + 0.5) * pitch == pytest.approx(x + 0.5, abs=0.6 * pitch)


def test_the_response_is_the_mean_of_c5_and_tags_are_read_from_its_largest_values() -> None:
    torch.manual_seed(0)
    network = paper.lnet(variant="small", tags=4, width=0.5)
    images = torch.randn(2, 3, 64, 64)
    x = images
    for conv in convs(network):
        x = F.relu(conv(x))
    assert torch.equal(network.response(images), x.mean(1))
    assert torch.allclose(network(images), network.tags(x.flatten(2).max(2).values))
    other = paper.lnet(variant="small", tags=4, width=0.5, pool="mean")
    other.load_state_dict(network.state_dict())
    assert torch.allclose(other(images), network.tags(x.flatten(2).mean(2)))


def test_torchvision_s_weights_fit_and_see_what_they_were_trained_to_see() -> None:
    torch.manual_seed(0)
    sizes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    state = {f"features.{k}.weight": torch.randn(o, i, s, s) * 0.02 for k, (o, i, s) in sizes.items()}
    state |= {f"features.{k}.bias": torch.randn(o) for k, (o, _, _) in sizes.items()}
    state |= {"classifier.1.weight": torch.zeros(1)}
    network = paper.lnet(variant="torchvision", tags=3)
    paper.start_from_torchvision(network, state)
    pixels = torch.randint(0, 256, (1, 3, 64, 64)).float()
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    first = F.conv2d((pixels / 255 - mean) / std, state["features.0.weight"], state["features.0.bias"], stride=4)
    ours = F.conv2d((pixels - 127.5) / 128, convs(network)[0].weight, convs(network)[0].bias, stride=4)
    assert torch.allclose(ours, first, atol=1e-4)
    assert torch.equal(convs(network)[4].weight, state["features.10.weight"])
    for broken in (
        {**state, "features.1.weight": torch.zeros(1)},
        {k: v for k, v in state.items() if k != "features.8.bias"},
        {**state, "features.8.bias": torch.zeros(3)},
    ):
        with pytest.raises(CheckpointError, match="not the convolutions of torchvision's AlexNet"):
            paper.start_from_torchvision(network, broken)
    with pytest.raises(CheckpointError):
        paper.start_from_torchvision(paper.lnet(variant="small"), state)


# --- Windows ---------------------------------------------------------------------------------------------------------


def inside(row: Any, box: Any) -> tuple[float, float]:
    """Integral and area of a map in a box, cell by cell."""
    total = area = 0.0
    for y in range(row.shape[0]):
        for x in range(row.shape[1]):
            high = max(0.0, min(box[3], y + 1) - max(box[1], y))
            wide = max(0.0, min(box[2], x + 1) - max(box[0], x))
            total += high * wide * float(row[y, x])
            area += high * wide
    return total, area


def test_scores_are_those_of_loops_over_cells() -> None:
    torch.manual_seed(1)
    maps = torch.randn(2, 7, 9, dtype=torch.float64)
    boxes = torch.tensor([[1.0, 2.0, 3.0, 5.0], [0.3, 0.2, 4.6, 6.9], [6.5, 3.2, 9.0, 7.0], [2.0, 2.0, 2.5, 2.5]])
    boxes = boxes.double()
    for ring in (1.0, 2.0, 1.5):
        found = paper.window_scores(maps, boxes, ring=ring)
        for row, scores in zip(maps, found, strict=True):
            for box, score in zip(boxes.tolist(), scores.tolist(), strict=True):
                total, area = inside(row, box)
                want = total / area
                if ring > 1:
                    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                    hx, hy = (box[2] - box[0]) / 2 * ring, (box[3] - box[1]) / 2 * ring
                    outer, larger = inside(row, (cx - hx, cy - hy, cx + hx, cy + hy))
                    want -= (outer - total) / (larger - area)
                assert score == pytest.approx(want, abs=1e-9)
    assert coverage(boxes, 7, 9).sum(1).tolist() == pytest.approx(
        [(b[2] - b[0]) * (b[3] - b[1]) for b in boxes.tolist()]
    )


def test_maps_are_settled_by_median_and_frame() -> None:
    maps = torch.arange(25.0).reshape(1, 5, 5)
    settled = paper.settled(maps)
    assert settled[0, 2, 2] == 0
    assert settled[0, 3, 3] == 6
    assert settled[0, [0, 4]].abs().sum() == 0
    assert settled[0, :, [0, 4]].abs().sum() == 0
    assert torch.equal(paper.settled(maps, frame=0), maps - 12)
    assert torch.equal(paper.settled(maps[:, :2, :2]), maps[:, :2, :2] - maps[:, :2, :2].flatten().median())


def test_the_window_is_about_the_blob_and_of_its_size() -> None:
    network = paper.lnet(variant="small")
    first, pitch = network.cells
    at = first + (torch.arange(16) + 0.5) * pitch
    for x, y, wide in ((44.0, 60.0, 28.0), (84.0, 40.0, 44.0)):
        response = ((at[None, :] - x).abs() < wide / 2) & ((at[:, None] - y).abs() < wide / 2)
        found = paper.best_windows(
            network, torch.zeros(1, 3, 128, 128), sides=(0.12, 0.2, 0.25, 0.36, 0.6), step=0.1,
            response=response[None].float(),
        )  # fmt: skip
        box = found.boxes[0]
        assert float(box[2] - box[0]) == pytest.approx(wide, abs=10)
        assert float(box[0] + box[2]) / 2 == pytest.approx(x, abs=6)
        assert float(box[1] + box[3]) / 2 == pytest.approx(y, abs=6)
        assert box[0] <= found.peaks[0, 0] <= box[2]
        assert box[1] <= found.peaks[0, 1] <= box[3]


def test_windows_and_peaks_stay_in_the_picture_and_candidates_can_be_given() -> None:
    network = paper.lnet(variant="small")
    response = torch.zeros(1, 8, 8)
    response[0, 6, 6], response[0, 2, 2] = 9, 1
    images = torch.zeros(1, 3, 64, 64)
    found = paper.best_windows(network, images, sides=HEAD_SIDES, response=response, within=(1.0, 0.5))
    assert found.boxes[0, 3] <= 32 + 1e-4
    assert found.peaks[0].tolist() == pytest.approx([-3.5 + 20, -3.5 + 20])
    free = paper.best_windows(network, images, sides=HEAD_SIDES, response=response)
    assert free.peaks[0].tolist() == pytest.approx([-3.5 + 52, -3.5 + 52])
    proposals = torch.tensor([[0.0, 0, 10, 10], [40, 40, 60, 60]])
    chosen = paper.best_windows(network, images, sides=(), response=response, candidates=proposals)
    assert torch.equal(chosen.boxes[0], proposals[1])
    strip = paper.sliding((0.5, 0.9), within=(1.0, 0.2))
    assert strip.tolist() == [[0.0, 0.0, 1.0, pytest.approx(0.2)]]
    tall = paper.sliding((0.5,), aspect=1.25)
    assert torch.allclose((tall[:, 3] - tall[:, 1]) / (tall[:, 2] - tall[:, 0]), torch.tensor(1.25))
    assert tall.min() >= 0
    assert tall.max() <= 1
    with pytest.raises(OptionError, match="no such windows"):
        paper.sliding((1.5,))


def test_density_peaks_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    maps = torch.rand(3, 8, 8).round(decimals=1)  # with equal cells
    found = paper.density_peaks(maps, least=0.5, apart=2.0)
    for row, centres in zip(maps, found, strict=True):
        cells = [(float(row[y, x]), y, x) for y in range(8) for x in range(8)]
        order = sorted(range(64), key=lambda k: -cells[k][0])  # stable: of equal ones the first
        want = []
        for place, k in enumerate(order):
            value, y, x = cells[k]
            higher = [math.dist((y, x), cells[j][1:]) for j in order[:place]]
            if value >= 0.5 * float(row.max()) and min(higher, default=math.inf) >= 2:
                want.append([x + 0.5, y + 0.5])
        assert centres.tolist() == want
    assert len(paper.density_peaks(maps, least=0.0, apart=1.5, most=3)[0]) == 3
    assert len(paper.density_peaks(torch.zeros(1, 4, 4))[0]) == 0


def test_every_face_gets_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    network = paper.lnet(variant="small")
    response = torch.zeros(1, 16, 16)
    response[0, 3:6, 3:6], response[0, 9:12, 10:13] = 1, 2
    response[0, 4, 4], response[0, 10, 11] = 1.2, 2.3
    monkeypatch.setattr(network, "response", lambda images: response)
    (found,) = paper.several_windows(network, torch.zeros(1, 3, 128, 128), sides=(0.12, 0.19, 0.3), step=0.1)
    assert len(found.boxes) == 2
    for box, (x, y) in zip(found.boxes.tolist(), ((88.5, 80.5), (32.5, 32.5)), strict=True):
        assert box[2] - box[0] == pytest.approx(24, abs=6)
        assert ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) == pytest.approx((x, y), abs=5)
    monkeypatch.setattr(network, "response", lambda images: torch.zeros(1, 16, 16))
    assert len(paper.several_windows(network, torch.zeros(1, 3, 128, 128), sides=(0.2,))[0].boxes) == 0


def test_crops_are_the_pixels_of_their_boxes() -> None:
    image = torch.arange(20.0 * 30).reshape(1, 1, 20, 30).expand(2, 3, -1, -1).contiguous()
    boxes = torch.tensor([[3.0, 4.0, 13.0, 14.0], [25.0, 15.0, 35.0, 25.0]])
    found = cut(image, boxes, 10)
    assert torch.allclose(found[0], image[0, :, 4:14, 3:13], atol=1e-3)
    assert found[1, :, 6:, :].abs().sum() == 0
    assert torch.allclose(found[1, :, :4, :4], image[1, :, 15:19, 25:29], atol=1e-3)
    fine = torch.rand(1, 3, 64, 64)
    half = cut(fine, torch.tensor([[0.0, 0.0, 32.0, 32.0]]), 16)  # two samples to a side in each pixel
    assert torch.allclose(half, F.avg_pool2d(fine, 2)[:, :, :16, :16], atol=1e-4)
    assert squares(torch.tensor([[0.0, 0.0, 4.0, 10.0]]), grow=2).tolist() == [[-8.0, -5.0, 12.0, 15.0]]
    with pytest.raises(ShapeError, match="a crop needs a box"):
        cut(image, boxes[:1], 10)


# --- ANet ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "side"), [(1, 9), (2, 9), (2, 8), (3, 9), (3, 12)])
def test_locally_shared_filters_are_those_of_their_cell(grid: int, side: int) -> None:
    torch.manual_seed(0)
    layer = paper.LocallyShared(3, 4, 2, grid=grid).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, side, side + 1, dtype=torch.float64, requires_grad=True)
    made = layer(x)
    height, width = side - 1, side
    weight, bias = layer.weight.reshape(grid, grid, 4, 3, 2, 2), layer.bias.reshape(grid, grid, 4)
    high, wide = -(-height // grid), -(-width // grid)
    rows = []
    for y in range(height):
        row = []
        for x0 in range(width):
            i, j = y // high, x0 // wide
            row.append((x[:, None, :, y : y + 2, x0 : x0 + 2] * weight[i, j]).sum((2, 3, 4)) + bias[i, j])
        rows.append(torch.stack(row, 2))
    want = torch.stack(rows, 2)
    assert torch.allclose(made, want)
    factor = torch.randn_like(made)
    got = torch.autograd.grad((made * factor).sum(), (x, layer.weight), retain_graph=True)
    naive = torch.autograd.grad((want * factor).sum(), (x, layer.weight))
    assert all(torch.allclose(a, b) for a, b in zip(got, naive, strict=True))


def test_one_cell_is_an_ordinary_convolution_and_small_maps_are_refused() -> None:
    layer = paper.LocallyShared(3, 4, 3, grid=1)
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(layer(x), F.conv2d(x, layer.weight, layer.bias), atol=1e-6)
    with pytest.raises(ShapeError, match="smaller than the grid"):
        paper.LocallyShared(3, 4, 3, grid=4)(torch.randn(1, 3, 5, 5))
    with pytest.raises(OptionError, match="a grid has cells"):
        paper.LocallyShared(3, 4, 3, grid=0)
    with pytest.raises(OptionError, match="too small"):
        paper.anet(size=24)


@pytest.mark.parametrize(("size", "grid"), [(40, 1), (40, 2), (64, 2), (66, 3)])
def test_interwoven_views_are_those_read_one_by_one(size: int, grid: int) -> None:
    torch.manual_seed(0)
    network = paper.anet(size=size, channels=(8, 8, 9, 10), fc=12, grid=grid, tags=4).double()
    places = ((4, 4), (0, 0), (8, 0), (0, 8), (8, 8), (8, 4))
    x = torch.randn(2, 3, size + 8, size + 8, dtype=torch.float64)
    views = network.views(x, places)
    for number, (left, top) in enumerate(places):
        alone = network.features(x[:, :, top : top + size, left : left + size])
        assert torch.allclose(views[:, number], alone, atol=1e-12)
    for wrong in ((2, 0), (12, 0), (-4, 0)):
        with pytest.raises(ShapeError, match="multiples of 4"):
            network.views(x, (wrong,))
    with pytest.raises(ShapeError, match="views of ANet"):
        network(x)


# --- Losses ----------------------------------------------------------------------------------------------------------


def agree(ours: torch.Tensor, naive: torch.Tensor, *inputs: torch.Tensor) -> None:
    assert ours.item() == pytest.approx(naive.item(), rel=1e-10)
    got, want = (torch.autograd.grad(value, inputs, retain_graph=True) for value in (ours, naive))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(got, want, strict=True))


def test_tag_loss_by_the_paper_s_formula() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    tags = torch.randint(0, 2, (4, 5)).double()
    tags[1, 2] = tags[3, 0] = math.nan
    naive = torch.zeros((), dtype=torch.float64)
    for i in range(4):
        for j in range(5):
            if not math.isnan(tags[i, j]):
                p = 1 / (1 + torch.exp(-logits[i, j]))
                naive = naive - (tags[i, j] * torch.log(p) + (1 - tags[i, j]) * torch.log(1 - p))
    agree(paper.tag_loss(logits, tags), naive / 4, logits)


def test_identity_loss_pulls_pictures_of_one_person_together() -> None:
    torch.manual_seed(0)
    features = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    people = torch.tensor([0, 2, 0, 0, 3])
    entropy = -torch.stack(
        [torch.log(torch.exp(row)[who] / torch.exp(row).sum()) for row, who in zip(logits, people, strict=True)]
    )
    pairs = [(0, 2), (0, 3), (2, 3)]
    alike = torch.stack([((features[i] - features[k]) ** 2).sum() for i, k in pairs]).mean()
    value, told = paper.identity_loss(features, logits, people, beta=0.3)
    assert told.item() == pytest.approx(alike.item())
    agree(value, entropy.mean() + 0.3 * alike, features, logits)
    value, told = paper.identity_loss(features, logits, torch.tensor([0, 1, 2, 3, 3]).clone(), beta=0.0)
    assert value.item() != 0
    alone, told = paper.identity_loss(features[:2], logits[:2], people[:2], beta=1.0)
    assert told.item() == 0
    assert alone.item() == pytest.approx(entropy[:2].mean().item())


def test_hinge_loss_by_liblinear_s_formula_and_its_minimum() -> None:
    torch.manual_seed(0)
    decisions = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    tags = torch.tensor([[0, 1, 1], [1, 0, math.nan], [1, 1, 0], [0, 0, 0]], dtype=torch.float64)
    naive = torch.zeros((), dtype=torch.float64)
    for i in range(4):
        for j in range(3):
            if not math.isnan(tags[i, j]):
                naive = naive + torch.clamp(1 - (1 if tags[i, j] else -1) * decisions[i, j], min=0) ** 2
    agree(paper.hinge_loss(decisions, tags), naive / 4, decisions)

    svm = pytest.importorskip("sklearn.svm", reason="the extra evaluate is not installed")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    y = (x @ [1, -1, 0.5, 0] + rng.normal(0, 1, 60) > 0).astype(float)
    decay = 0.05
    machine = svm.LinearSVC(C=1 / (decay * 60), fit_intercept=False, dual=False, tol=1e-8).fit(x, y)
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        made = paper.hinge_loss((torch.from_numpy(x) @ w)[:, None], torch.from_numpy(y)[:, None])
        value = made + decay / 2 * w.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(step)  # type: ignore[no-untyped-call]
    assert w.detach().numpy() == pytest.approx(machine.coef_[0], rel=1e-3)


def test_figures_are_those_of_loops() -> None:
    decisions = torch.tensor([[1.0, -1, 2, 1], [-1, -1, 2, 1], [1, 1, -2, 1], [1, -1, -2, 1]])
    tags = torch.tensor([[1, 0, math.nan, 1], [1, 0, math.nan, 1], [0, 1, math.nan, 1], [1, 1, math.nan, 1.0]])
    found = paper.attribute_figures(decisions, tags)
    assert found["accuracy"] == pytest.approx((2 / 4 + 3 / 4 + 4 / 4) / 3)  # nobody knows the third
    assert found["balanced"] == pytest.approx(((2 / 3 + 0 / 1) / 2 + (1 / 2 + 2 / 2) / 2) / 2)  # the fourth: all alike
    assert paper.attribute_figures(decisions[:, 2:3], tags[:, 2:3]) == {"accuracy": 0.0, "balanced": 0.0}


# --- The cascade -----------------------------------------------------------------------------------------------------


def test_the_cascade_is_its_parts_one_after_the_other() -> None:
    torch.manual_seed(0)
    network = paper.cascade(**SMALL, tags=5).eval()
    images = torch.randn(2, 3, 90, 70)
    with torch.no_grad():
        read = network(images)
        heads, faces = network.windows(images)
        assert torch.equal(read.head, heads.boxes)
        assert torch.equal(read.face, faces.boxes)
        assert heads.boxes[:, 2].max() <= 70 + 1e-3
        assert heads.boxes.max() <= 90 + 1e-3
        crops = cut(images, squares(heads.boxes, grow=GROW), 64)
        inner = paper.best_windows(network.lnet_s, crops, sides=FACE_SIDES)
        for row in range(2):
            side = GROW * float(heads.boxes[row, 2] - heads.boxes[row, 0])
            corner = (heads.boxes[row, :2] + heads.boxes[row, 2:]) / 2 - side / 2
            want = inner.boxes[row] * side / 64 + corner.repeat(2)
            assert torch.allclose(faces.boxes[row], want, atol=1e-3)
        windows = network.views(images, faces.boxes)
        assert windows.shape == (2, 3, 48, 48)
        parts = [
            network.anet.features(one[:, :, y : y + 40, x : x + 40])
            for one in (windows, windows.flip(3))
            for x, y in ((4, 4), (0, 0), (8, 0), (0, 8), (8, 8))
        ]
        joined = torch.cat(parts, 1)
        assert torch.allclose(network.features(windows), joined, atol=1e-4)
        decisions = (joined - network.svm.mean) / network.svm.std @ network.svm.coef.T + network.svm.intercept
        assert torch.allclose(read.tags, decisions, atol=1e-4)
    mean = paper.cascade(**SMALL, tags=5, join="mean", flip=False, spread=0)
    assert mean.svm.coef.shape == (5, 16)
    with pytest.raises(OptionError, match="share their maps"):
        paper.cascade(**SMALL, spread=6)


def test_standardised_features_have_mean_zero_and_deviation_one() -> None:
    torch.manual_seed(0)
    features = torch.randn(50, 4) * torch.tensor([1.0, 5, 0, 0.1]) + 3
    layer = Linear(4, 2)
    layer.standardise(features)
    scaled = (features - layer.mean) / layer.std
    assert torch.allclose(scaled.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(scaled.std(0, correction=0), torch.tensor([1.0, 1, 0, 1]), atol=1e-4)


def test_look_shows_where_it_answers() -> None:
    torch.manual_seed(0)
    network = paper.cascade(**SMALL).eval()
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    seen = paper.look(network, image)
    assert set(seen.attributes) == set(paper.CELEBA)
    assert seen.response.shape == (50, 90)
    assert seen.response.min() >= 0
    assert seen.face.shape == seen.head.shape == (4,)
    drawn = paper.overlay(seen.image, seen.response)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert np.array_equal(seen.response, paper.look(network, image).response)
    from mien.papers.lnet_anet.look import heat

    torch.nn.init.zeros_(convs(network.lnet_o)[-1].weight)
    assert heat(network.lnet_o, image, size=64).max() == 0
    assert paper.overlay(image, np.zeros((50, 90), np.float32)).std() > 0


# --- Neurons ---------------------------------------------------------------------------------------------------------


def test_neurons_that_stand_for_an_attribute_are_found() -> None:
    rng = np.random.default_rng(0)
    tags = rng.integers(0, 2, (300, 3)).astype(float)
    features = rng.normal(size=(300, 8))
    features[:, 3] += 4 * tags[:, 0]
    features[:, 5] -= 4 * tags[:, 0]
    features[:, 6] += 3 * tags[:, 1]
    features[:, 7] = 1.0
    tags[:, 2] = 1
    found = paper.neurons(features, tags, names=("a", "b", "c"), most=3)
    assert [one.attribute for one in found] == ["a", "b"]  # c is the same everywhere
    assert found[0].best in (3, 5)
    assert set(found[0].chosen[:2]) == {3, 5}
    assert found[1].best == found[1].chosen[0] == 6
    assert list(found[0].explained) == sorted(found[0].explained)
    assert found[0].auc > 0.95
    yes, no = features[tags[:, 1] > 0, 6], features[tags[:, 1] == 0, 6]
    assert found[1].auc == pytest.approx((yes[:, None] > no[None]).mean())
    fit = np.linalg.lstsq(np.column_stack([features[:, list(found[0].chosen)], np.ones(300)]), tags[:, 0], rcond=None)
    assert found[0].explained[-1] == pytest.approx(1 - float(fit[1][0]) / (300 * tags[:, 0].var()))
    with pytest.raises(ShapeError, match="do not fit"):
        paper.neurons(features, tags[:5], names=("a", "b", "c"))


# --- Weights for the verbs -------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run of the last stage leaves."""
    from mien.train.checkpoint import save_weights
    from mien.train.recipes.attributes import AttributesRecipe

    torch.manual_seed(0)
    recipe = AttributesRecipe.make(preset="small", stage="svm", out=str(tmp_path), channels=(8, 8, 8, 8), fc=16)
    module: Any = recipe.build()
    save_weights(tmp_path / "weights.safetensors", recipe.deploy(module), half=True)
    (tmp_path / "config.json").write_text(json.dumps(recipe.to_dict()))
    return tmp_path / "weights.safetensors"


def test_a_run_reads_faces_in_analyze(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mien
    from mien.weights import imported

    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    weights = imported.keep("my-attributes", lambda out: paper.import_official(run, out, name="my-attributes"))
    assert weights.task == "reading"
    network = mien.weights.load("my-attributes")
    whole = paper.load_cascade(run)
    crop = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        faces = whole.faces(crop).boxes
        assert torch.allclose(network(crop), whole.svm(whole.features(whole.views(crop, faces))), atol=1e-4)
    scene = head_scenes(1, seed=0, size=160, scale=(0.9, 1.0)).image[0]
    found = mien.analyze(scene, reader="my-attributes")
    assert len(found) == 1
    assert found.appearance.shape == (1, len(APPEARANCE))


def test_decisions_become_the_appearance_by_name() -> None:
    raw = np.zeros((2, 40), np.float32)
    raw[0, paper.CELEBA.index("Smiling")] = 2
    raw[0, paper.CELEBA.index("No_Beard")] = 3
    raw[1, paper.CELEBA.index("Male")] = 9
    found = paper.decode(raw, {"appearance": 0.5})
    assert set(found) == {"appearance"}
    row = dict(zip(APPEARANCE, found["appearance"][0].tolist(), strict=True))
    assert row["smiling"] == pytest.approx(1 / (1 + math.exp(-4)))
    assert row["beard"] == pytest.approx(1 / (1 + math.exp(6)), rel=1e-4)
    assert {name for name, value in row.items() if value != 0.5} == {"smiling", "beard"}
    assert (found["appearance"][1] == 0.5).all()
    assert paper.decode(np.zeros((0, 40), np.float32), {})["appearance"].shape == (0, 20)


def test_files_that_are_no_cascade_are_refused(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    out = tmp_path / "out.safetensors"
    with pytest.raises(OptionError, match="read attributes"):
        paper.import_official(run, out, task="parsing")
    with pytest.raises(OptionError, match="written as safetensors"):
        paper.import_official(run, tmp_path / "out.pt")
    state = load_file(run)
    for broken in ({**state, "more": torch.zeros(1)}, {k: v for k, v in state.items() if k != "anet.fc.bias"}):
        save_file(broken, run)
        with pytest.raises(MienError):
            paper.import_official(run, out)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "stage": "anet"}))
    with pytest.raises(CheckpointError, match=r"stage anet[\s\S]*stage svm"):
        paper.import_official(run, out)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json beside the weights"):
        paper.load_cascade(run)


# --- Heads in clutter ------------------------------------------------------------------------------------------------


def test_scenes_hold_one_head_whose_tags_are_its_own() -> None:
    from mien.data.heads import attributes, sample

    scenes = head_scenes(6, seed=3, size=80, per_identity=3)
    assert scenes.image.shape == (6, 80, 80, 3)
    assert scenes.identity.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(scenes.tags, attributes(sample(6, seed=3, per_identity=3, occluder="none")))
    assert scenes.boxes.min() >= -0.01
    assert scenes.boxes.max() <= 80.01
    wide = (scenes.boxes[:, 2:] - scenes.boxes[:, :2]) / 80
    assert wide.min() > 0.1
    assert wide.max() < 0.6
    again = head_scenes(2, seed=3, size=80, per_identity=3, start=3)
    assert np.array_equal(again.image, scenes.image[3:5])
    for row in range(6):  # the face is there: without it the picture is another in its box and nowhere far from it
        x0, y0, x1, y1 = scenes.boxes[row].astype(int)
        assert scenes.image[row, y0:y1, x0:x1].std() > 5
    assert len(scenes.take([1, 2])) == 2
    assert TURNED == 45
    with pytest.raises(OptionError, match="do not fit"):
        head_scenes(1, seed=0, scale=(1.0, 3.0))


def test_clutter_is_varied_and_repeatable() -> None:
    first, second = (clutter(48, np.random.default_rng(k)) for k in (1, 2))
    assert first.shape == (48, 48, 3)
    assert np.array_equal(first, clutter(48, np.random.default_rng(1)))
    assert not np.array_equal(first, second)
    assert first.std() > 20


def test_the_card_says_what_there_is() -> None:
    assert paper.PAPER.task == "analysis"
    assert paper.WEIGHTS == ()
    assert len(paper.CELEBA) == len(set(paper.CELEBA)) == 40
    assert list(paper.CELEBA) == sorted(paper.CELEBA)
    assert [field.name for field in dataclasses.fields(paper.Read)] == ["tags", "head", "face", "scores", "peaks"]
