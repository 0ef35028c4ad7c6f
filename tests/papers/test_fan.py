"""FAN: sizes, golden tensors, networks and losses derived again, geometry, converters, building sets, the verbs."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.io import savemat
from torch import Tensor, nn

from mien.errors import CheckpointError, MediaNotFound, OptionError, ShapeError, TableError, ValueRangeError
from mien.geometry.landmarks import FLIP68
from mien.geometry.mean_shape import MEAN70
from mien.geometry.pose import rotation_from_euler
from mien.nn import heatmaps
from mien.nn.count import count_parameters
from mien.papers import fan
from mien.train.loop import fit
from mien.train.recipes.heatmaps import HeatmapsRecipe, PosedFaces, augmented
from mien.weights import registered

SMALL: dict[str, Any] = {"width": 32, "levels": 2}


def on_meta(build: Any, **options: Any) -> nn.Module:
    with torch.device("meta"):
        made: nn.Module = build(**options)
    return made


# --- Networks --------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_paper_and_of_the_page() -> None:
    counted = [count_parameters(on_meta(fan.fan, stacks=stacks)) for stacks in (1, 2, 3, 4)]
    assert [round(count / 1e6, 2) for count in counted] == [6.25, 12.11, 17.96, 23.82]
    assert count_parameters(on_meta(fan.depth)) == 58_496_388
    page = (Path(__file__).parents[2] / "docs" / "papers" / "fan.md").read_text("utf-8")
    for count in (*counted, 58_496_388, count_parameters(on_meta(fan.fan_2d_to_3d))):
        assert f"{count:,}" in page


def rule(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    spread = 1.0 if len(shape) < 2 else 0.9 / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(rng.normal(0, spread, shape)).float()


def released(stacks: int = 2, width: int = 32, levels: int = 2, points: int = 68) -> dict[str, Tensor]:
    """A made-up state dict in the layout of the released 2D-FAN and 3D-FAN."""
    rng = np.random.default_rng(0)
    state: dict[str, Tensor] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{part}"] = rule((channels,), rng).abs() + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def conv(name: str, ins: int, outs: int, kernel: int, *, bias: bool = True) -> None:
        state[f"{name}.weight"] = rule((outs, ins, kernel, kernel), rng)
        if bias:
            state[f"{name}.bias"] = rule((outs,), rng)

    def block(name: str, ins: int, outs: int) -> None:
        for number, (a, b) in enumerate(((ins, outs // 2), (outs // 2, outs // 4), (outs // 4, outs // 4)), 1):
            norm(f"{name}.bn{number}", a)
            conv(f"{name}.conv{number}", a, b, 3, bias=False)
        if ins != outs:
            norm(f"{name}.downsample.0", ins)
            conv(f"{name}.downsample.2", ins, outs, 1, bias=False)

    narrow, half = width // 4, width // 2
    conv("conv1", 3, narrow, 7)
    norm("bn1", narrow)
    block("conv2", narrow, half)
    block("conv3", half, half)
    block("conv4", half, width)
    for k in range(stacks):
        for level in range(levels, 0, -1):
            block(f"m{k}.b1_{level}", width, width)
            block(f"m{k}.b2_{level}", width, width)
            block(f"m{k}.b3_{level}", width, width)
        block(f"m{k}.b2_plus_1", width, width)
        block(f"top_m_{k}", width, width)
        conv(f"conv_last{k}", width, width, 1)
        norm(f"bn_end{k}", width)
        conv(f"l{k}", width, points, 1)
        if k < stacks - 1:
            conv(f"bl{k}", width, width, 1)
            conv(f"al{k}", points, width, 1)
    return state


def naive(state: dict[str, Tensor], x: Tensor, levels: int) -> list[Tensor]:
    """The network written out on the released names."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        out = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
        return out * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]

    def block(name: str, x: Tensor) -> Tensor:
        o1 = F.conv2d(norm(f"{name}.bn1", x).relu(), state[f"{name}.conv1.weight"], padding=1)
        o2 = F.conv2d(norm(f"{name}.bn2", o1).relu(), state[f"{name}.conv2.weight"], padding=1)
        o3 = F.conv2d(norm(f"{name}.bn3", o2).relu(), state[f"{name}.conv3.weight"], padding=1)
        if f"{name}.downsample.2.weight" in state:
            x = F.conv2d(norm(f"{name}.downsample.0", x).relu(), state[f"{name}.downsample.2.weight"])
        return torch.cat([o1, o2, o3], 1) + x

    def hourglass(k: int, level: int, x: Tensor) -> Tensor:
        low = block(
            f"m{k}.b2_{level}", (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        )
        low = hourglass(k, level - 1, low) if level > 1 else block(f"m{k}.b2_plus_1", low)
        low = block(f"m{k}.b3_{level}", low)
        return low.repeat_interleave(2, 2).repeat_interleave(2, 3) + block(f"m{k}.b1_{level}", x)

    def point(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = norm("bn1", F.conv2d(x, state["conv1.weight"], state["conv1.bias"], 2, 3)).relu()
    x = F.avg_pool2d(block("conv2", x), 2)
    x = block("conv4", block("conv3", x))
    found = []
    for k in itertools.count():
        ll = norm(f"bn_end{k}", point(f"conv_last{k}", block(f"top_m_{k}", hourglass(k, levels, x)))).relu()
        found.append(point(f"l{k}", ll))
        if f"bl{k}.weight" not in state:
            return found
        x = x + point(f"bl{k}", ll) + point(f"al{k}", found[-1])
    raise AssertionError


@pytest.mark.parametrize("stacks", [1, 3])
def test_a_released_state_becomes_the_network_that_is_written_out(stacks: int) -> None:
    state = released(stacks)
    made = fan.convert_official(state)
    assert fan.shape_of(made) == {"stacks": stacks, "channels": 3, "points": 68, **SMALL}
    network = fan.fan(**SMALL, stacks=stacks).eval()
    network.load_state_dict(made, strict=True)
    x = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        got, want = network(x), naive(state, x, 2)
    assert len(got) == stacks
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    bare = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    again = fan.convert_official(bare)
    assert all(torch.equal(value, again[name]) for name, value in made.items() if "tracked" not in name)


@pytest.mark.parametrize(
    ("change", "gone", "message"),
    [
        ({"extra": torch.zeros(1)}, "", r"1 unknown \(extra\)"),
        ({"m0.b1_0.bn1.weight": torch.zeros(8)}, "", r"1 unknown \(m0.b1_0.bn1.weight\)"),
        ({"m0.b4_1.bn1.weight": torch.zeros(8)}, "", r"1 unknown \(m0.b4_1"),
        ({"al1.weight": torch.zeros(32, 68, 1, 1)}, "", r"1 unknown \(stacks.1.heatmaps_on.weight\)"),
        ({"epoch": 3}, "", r"1 unknown \(epoch\)"),
        ({}, "bl0.bias", r"1 missing \(stacks.0.features_on.bias\)"),
        ({}, "m1.b2_plus_1.conv3.weight", r"1 missing \(stacks.1.hourglass.inside.conv3.weight\)"),
        ({}, "l0.weight", r"1 missing \(the tensors that tell its shape"),
        ({"l1.bias": torch.zeros(5)}, "", r"of another shape \(stacks.1.heatmaps.bias \(5,\) for \(68,\)\)"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(change: dict[str, Any], gone: str, message: str) -> None:
    state: dict[str, Any] = {**released(), **change}
    state.pop(gone, None)
    with pytest.raises(CheckpointError, match=message):
        fan.convert_official(state)


def depth_released(depths: tuple[int, ...] = (1, 2, 1, 1)) -> tuple[dict[str, Any], nn.Module]:
    """A made-up file in the layout of the released depth network, and torchvision's network of it."""
    from torchvision.models.resnet import Bottleneck, ResNet

    torch.manual_seed(0)
    network = ResNet(Bottleneck, list(depths), num_classes=68)
    network.conv1 = nn.Conv2d(71, 64, 7, 2, 3, bias=False)
    network.avgpool = nn.AvgPool2d(7)  # type: ignore[assignment]
    for name, value in network.named_buffers():
        if "running_var" in name:
            value.uniform_(0.5, 1.5)
    state = {f"module.{name}": value.clone() for name, value in network.state_dict().items()}
    return {"state_dict": state}, network.eval()


def test_the_depth_network_is_a_residual_network_that_averages_the_upper_left() -> None:
    content, reference = depth_released()
    made = fan.convert_official(content)
    assert fan.shape_of(made) == {"points": 68, "depths": (1, 2, 1, 1), "width": 64}
    network = fan.depth(depths=(1, 2, 1, 1)).eval()
    network.load_state_dict(made, strict=True)
    x = torch.rand(1, 71, 256, 256)
    with torch.no_grad():
        torch.testing.assert_close(network(x), reference(x), rtol=1e-4, atol=1e-6)
        whole = fan.depth(depths=(1, 2, 1, 1), pool=0).eval()
        whole.load_state_dict(made)
        assert not torch.allclose(whole(x), reference(x), rtol=1e-4, atol=1e-6)
    del content["state_dict"]["module.fc.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing \(fc.bias\)"):
        fan.convert_official(content)


def test_variants_differ_where_they_should() -> None:
    torch.manual_seed(0)
    average, greatest = fan.fan(**SMALL, stacks=1).eval(), fan.fan(**SMALL, stacks=1, pool="max").eval()
    greatest.load_state_dict(average.state_dict())
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(average(x)[-1], greatest(x)[-1])
    bare = fan.fan(**SMALL, stacks=1, affine=False)
    assert not [name for name, _ in bare.named_parameters() if ".hourglass." in name and ".bn" in name]
    assert fan.fan(**SMALL, stacks=2, stride=2)(x)[1].shape == (1, 68, 16, 16)
    direct = fan.PointRegressor(size=64, width=32, levels=3)
    ratio = count_parameters(direct) / count_parameters(fan.fan(stacks=1, width=32, levels=3))
    assert ratio == pytest.approx(1.07, abs=0.02)
    torch.testing.assert_close(direct(torch.rand(2, 3, 64, 64)).mean(), torch.tensor(0.5), atol=0.1, rtol=0)
    with pytest.raises(ShapeError, match="multiples of 16"):
        average(torch.rand(1, 3, 40, 40))
    with pytest.raises(OptionError, match="multiple of 4"):
        fan.HierarchicalBlock(8, 10)
    with pytest.raises(OptionError, match="unknown way"):
        fan.fan(**SMALL, pool="mean")
    with pytest.raises(OptionError, match="stride"):
        fan.fan(**SMALL, stride=3)


@pytest.mark.data
def test_one_stack_answers_as_the_released_code(golden: Any) -> None:
    state, inputs, outputs, _ = golden("fan-1stack")
    network = fan.fan(stacks=1).eval()
    network.load_state_dict(fan.convert_official(state), strict=True)
    seen: dict[str, Tensor] = {}
    network.stem.register_forward_hook(lambda _m, _i, out: seen.update(stem=out.mean((2, 3))))
    first: Any = network.stacks[0]
    first.hourglass.register_forward_hook(lambda _m, _i, out: seen.update(hourglass_0=out.mean((2, 3))))
    with torch.no_grad():
        seen["heatmaps_0"] = network(inputs["image"])[0]
    for name, want in outputs.items():
        assert float((seen[name] - want).abs().max()) <= 2e-5 * float(want.abs().max()), name


# --- Drawing, decoding, loss -----------------------------------------------------------------------------------------


@pytest.mark.data
def test_decoding_crop_and_drawing_are_those_of_the_released_code(golden: Any) -> None:
    _, inputs, outputs, _ = golden("fan-decode")
    cells, scores = fan.decode(inputs["heatmaps"])
    assert torch.equal(cells, outputs["points_64"])
    assert torch.equal(scores, outputs["scores"])
    centre, scale, points = (inputs[name].double().numpy() for name in ("centers", "scales", "points"))
    every = np.repeat(cells.double().numpy(), len(centre), 0)
    assert np.array_equal(fan.from_crop(every, centre, scale, 64, whole=True), outputs["points_image"][:, 0].numpy())
    assert np.array_equal(fan.to_crop(points, centre, scale, 256, whole=True), outputs["points_to_crop"].numpy())
    assert np.array_equal(fan.from_crop(points, centre, scale, 256, whole=True), outputs["points_from_crop"].numpy())
    crops = fan.official_crop(inputs["image"].numpy(), centre[:2], scale[:2])
    assert np.abs(crops.astype(int) - outputs["crops"].numpy().astype(int)).max() <= 1
    drawn = fan.draw_official(inputs["draw_points"][:, None].double(), 256, kernel=13)[:, 0]
    torch.testing.assert_close(drawn, outputs["drawn"].double(), atol=1e-6, rtol=0)


def drawn_by_loops(x: float, y: float, size: int, kernel: int) -> Tensor:
    """Cell by cell, by the description of the released code."""
    out = torch.zeros(size, size, dtype=torch.float64)
    half = kernel // 2
    low, high = [math.floor(v - half) for v in (x, y)], [math.floor(v + half) for v in (x, y)]
    if min(high) < 1 or max(low) > size:
        return out
    values = [math.exp(-(((i - half) / (0.25 * kernel)) ** 2) / 2) for i in range(kernel)]
    ranges = []
    for lo, hi in zip(low, high, strict=True):
        first, place = max(0, lo - 1), max(1, -lo) - 1
        ranges.append([(cell, values[place + cell - first]) for cell in range(first, min(hi, size))])
    for (column, a), (row, b) in itertools.product(*ranges):
        out[row, column] = a * b
    return out


@pytest.mark.parametrize("kernel", [7, 13])
def test_points_are_drawn_to_the_cell_as_described(kernel: int) -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate(
        [rng.uniform(-9, 40, (20, 2)), rng.integers(-6, 40, (12, 2)), [[0, 16], [31.9, 32], [3, 3]]]
    )
    got = fan.draw_official(torch.from_numpy(points)[None], 32, kernel=kernel)[0]
    for one, (x, y) in zip(got, points, strict=True):
        torch.testing.assert_close(one, drawn_by_loops(x, y, 32, kernel), atol=1e-12, rtol=0)
    nobody = torch.tensor([[[torch.nan, 3.0], [torch.inf, 3.0], [-40.0, 3.0]]])
    assert fan.draw_official(nobody, 32).abs().sum() == 0
    with pytest.raises(OptionError, match="odd"):
        fan.draw_official(nobody, 32, kernel=6)
    with pytest.raises(ShapeError, match="two coordinates"):
        fan.draw_official(nobody[0], 32)


def test_points_are_drawn_exactly_where_they_are() -> None:
    points = torch.tensor([[[10.3, 5.8], [0.2, 31.9], [-2.0, 3.0], [torch.nan, 4.0]]], dtype=torch.float64)
    points.requires_grad_()
    got = fan.draw_gaussians(points, 32)
    want = torch.zeros(4, 32, 32, dtype=torch.float64)
    for k, (x, y) in enumerate(points[0].tolist()):
        for row, column in itertools.product(range(32), range(32)):
            dx, dy = column + 0.5 - x, row + 0.5 - y
            if abs(dx) <= 3.5 and abs(dy) <= 3.5:
                want[k, row, column] = math.exp(-(dx * dx + dy * dy) / 2 / 1.75**2)
    torch.testing.assert_close(got[0], want, atol=1e-12, rtol=0)
    assert got[0, 3].abs().sum() == 0
    weights = torch.randn_like(want[:1])
    (slope,) = torch.autograd.grad((got[0, :1] * weights).sum(), points)
    x, y = points[0, 0].tolist()
    middle = torch.arange(32, dtype=torch.float64) + 0.5
    rows, columns = torch.meshgrid(middle, middle, indexing="ij")
    by_x = float((want[0] * weights[0] * (columns - x) / 1.75**2).sum())
    by_y = float((want[0] * weights[0] * (rows - y) / 1.75**2).sum())
    assert slope[0, 0].tolist() == pytest.approx([by_x, by_y], abs=1e-9)


def decoded_by_loops(one: Tensor) -> tuple[float, float, float]:
    height, width = one.shape
    best = max((float(one[y, x]), -y, -x) for y in range(height) for x in range(width))
    y, x = -best[1], -best[2]
    out = [x + 0.5, y + 0.5]
    if 0 < x < width - 1 and 0 < y < height - 1:
        for axis, (ahead, behind) in enumerate(((one[y, x + 1], one[y, x - 1]), (one[y + 1, x], one[y - 1, x]))):
            out[axis] += 0.25 * (float(ahead > behind) - float(ahead < behind))
    return out[0], out[1], best[0]


def test_heatmaps_are_read_as_described_at_any_size() -> None:
    torch.manual_seed(0)
    maps = torch.randint(0, 6, (3, 5, 7, 9)).double()  # many ties
    maps[0, 0] = 0
    maps[0, 1, 3, 4], maps[0, 2, 0, 3], maps[0, 3, 6, 8] = 9, 9, 9
    points, scores = fan.decode(maps)
    for b, k in itertools.product(range(3), range(5)):
        x, y, score = decoded_by_loops(maps[b, k])
        assert (*points[b, k].tolist(), float(scores[b, k])) == (x, y, score)
    with pytest.raises(ShapeError, match="a map for each point"):
        fan.decode(maps[0])


def test_drawing_and_reading_lose_at_most_a_quarter_of_a_cell() -> None:
    points = torch.rand(4, 68, 2) * 56 + 4
    read, scores = fan.decode(fan.draw_gaussians(points, 64))
    assert float((read - points).abs().max()) <= 0.25 + 1e-5
    assert float(scores.min()) > 0.9


def test_the_loss_is_the_mean_of_each_stack_summed() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    target = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    loss = fan.heatmap_loss(maps, target)
    want = 0.0
    for one in maps:
        pairs = zip(one.detach().flatten().tolist(), target.flatten().tolist(), strict=True)
        want += sum((a - b) ** 2 for a, b in pairs) / target.numel()
    assert float(loss.detach()) == pytest.approx(want, rel=1e-12)
    for one, slope in zip(maps, torch.autograd.grad(loss, maps), strict=True):
        torch.testing.assert_close(slope, 2 * (one.detach() - target) / target.numel())


# --- Geometry --------------------------------------------------------------------------------------------------------


def test_squares_are_those_of_the_box() -> None:
    centre, scale = fan.centre_scale([[10, 20, 110, 220]])
    assert centre.tolist() == [[60, 120 - 0.12 * 200]]
    assert scale.tolist() == pytest.approx([300 / 195])
    points = np.random.default_rng(0).uniform(0, 200, (1, 5, 2))
    inside = fan.to_crop(points, centre, scale, 256)
    np.testing.assert_allclose(fan.from_crop(inside, centre, scale, 256), points, atol=1e-9)
    np.testing.assert_allclose(fan.to_crop(centre[:, None], centre, scale, 64), [[[32, 32]]])
    # In pixels whose first middle is 0, the matrices say the same.
    matrix = fan.crop_matrices(centre, scale, 256)[0]
    placed = fan.to_crop(points + 0.5, centre, scale, 256) - 0.5
    np.testing.assert_allclose(points[0] @ matrix[:, :2].T + matrix[:, 2], placed[0])
    assert np.array_equal(fan.from_crop([[[0.0, 0.0]]], [[0.0, 0.0]], [1.0], 64, whole=True), [[[-100, -100]]])
    with pytest.raises(ValueRangeError, match="no extent"):
        fan.centre_scale([[5, 5, 5, 5]])
    with pytest.raises(ValueRangeError, match="scale above 0"):
        fan.to_crop(points, centre, [0.0], 64)
    with pytest.raises(ShapeError, match="one scale"):
        fan.crop_matrices(centre, [1.0, 2.0], 64)
    with pytest.raises(ShapeError, match="no picture"):
        fan.official_crop(np.zeros((4, 4, 3), np.float32), centre, scale)  # type: ignore[arg-type]
    with pytest.raises(ValueRangeError, match="less than a pixel"):
        fan.official_crop(np.zeros((4, 4, 3), np.uint8), [[2.2, 2.2]], [1e-4])
    outside = fan.official_crop(np.full((4, 4, 3), 9, np.uint8), [[500.0, 500.0]], [0.5], size=32)
    assert outside.shape == (1, 32, 32, 3)
    assert outside.max() == 0


def test_the_yaw_of_projected_points_is_that_of_the_head() -> None:
    angles = np.array([[-80, 5, 10], [-35, -10, 0], [0, 0, 20], [50, 15, -30], [85, 0, 0]], np.float64)
    turned = np.asarray(MEAN70[:68] @ rotation_from_euler(angles).swapaxes(1, 2))[..., :2] * 90 + 120
    np.testing.assert_allclose(fan.yaw_of(turned), angles[:, 0], atol=1e-6)
    with pytest.raises(ShapeError, match="68 points"):
        fan.yaw_of(turned[:, :5])
    with pytest.raises(ValueRangeError, match="coincide"):
        fan.yaw_of(np.zeros((1, 68, 2)))


def test_the_visible_contour_leaves_the_far_jaw_only() -> None:
    from mien.data.heads import render, sample
    from mien.data.heads.contour import visible_contour

    some = sample(4, seed=3, hat=0, occluder="none")
    some = some.with_(pose=np.array([[60, 0, 0], [-60, 0, 20], [0, 0, 0], [25, 0, 0]], np.float32))
    head = render(some, size=64, what=("landmarks",)).landmarks_2d
    seen = visible_contour(some, size=64)
    moved = np.linalg.norm(seen - head, axis=2)
    assert moved[:, 17:].max() < 1e-3
    assert moved[0, :9].max() < 1e-3  # turned to the right: the right half lies behind
    assert moved[0, 10:15].min() > 0.5
    assert (seen[0, 10:15, 0] > head[0, 10:15, 0]).all()
    assert moved[1, 8:].max() < 1e-3
    assert moved[1, 2:7].min() > 0.5
    assert moved[2].max() < 1e-3
    assert moved[3].max() < moved[0].max()
    assert visible_contour(some[:0], size=64).shape == (0, 68, 2)
    with pytest.raises(OptionError, match="that small"):
        visible_contour(some, size=4)


# --- From pictures to points -----------------------------------------------------------------------------------------


class Bright(fan.FAN):
    """Every heatmap is the brightness of the picture's red, or each its own of the guidance."""

    def __init__(self, channels: int = 3, stacks: int = 1) -> None:
        super().__init__(stacks=stacks, channels=channels, **SMALL)

    def forward(self, x: Tensor) -> list[Tensor]:
        shown = x[:, 3:] if self.channels > 3 else x[:, :1].expand(-1, 68, -1, -1)
        return [F.avg_pool2d(shown, 4)]


def dotted(x: float, y: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rows, columns = np.mgrid[:300, :360]
    blob = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 5.0**2))
    return np.repeat(blob[..., None], 3, 2).astype(np.uint8)


def test_points_are_found_where_they_are_and_to_the_pixel_of_the_released_code() -> None:
    box = np.array([[120.0, 90.0, 220.0, 210.0], [140.0, 100.0, 215.0, 205.0]])
    for mirror in (False, True):
        network = fan.Landmarker(Bright(), mirror=mirror).eval()
        for x, y in ((171.2, 140.7), (150.0, 118.4), (205.9, 171.3)):
            exact = fan.align(network, dotted(x, y), box)
            cell = 200 * fan.centre_scale(box)[1].max() / 256 * 4
            assert np.abs(exact.points - [x, y]).max() < 0.3 * cell
            whole = fan.align(network, dotted(x, y), box, mode="parity")
            assert np.array_equal(whole.points, np.trunc(whole.points))
            assert np.abs(whole.points - [x, y]).max() < 0.5 * cell + 1.5
            assert exact.scores.shape == (2, 68)
            assert float(exact.scores.max()) == pytest.approx(2.0 if mirror else 1.0, abs=0.25)
    assert fan.align(network, dotted(9, 9), np.zeros((0, 4))).points.shape == (0, 68, 2)
    with pytest.raises(OptionError, match="unknown mode"):
        fan.align(network, dotted(9, 9), box, mode="nearly")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="no picture"):
        fan.align(network, dotted(9, 9)[..., 0], box)
    with pytest.raises(OptionError, match="2D-FAN or 3D-FAN"):
        fan.Landmarker(fan.fan_2d_to_3d(**SMALL, stacks=1))


def test_a_mirrored_crop_gives_mirrored_points() -> None:
    torch.manual_seed(0)
    network = fan.landmarker(**SMALL, stacks=1).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        plain, turned = network(x), network(x.flip(3))
        maps, other = network.network(x)[-1], network.network(x.flip(3))[-1]
        summed = maps + other.flip(3)[:, FLIP68.copy()]
    torch.testing.assert_close(turned[..., 0], 63 - plain[:, FLIP68.copy(), 0])
    torch.testing.assert_close(turned[..., 1], plain[:, FLIP68.copy(), 1])
    torch.testing.assert_close(plain, fan.decode(summed)[0] * 4 - 0.5)
    alone = fan.landmarker(**SMALL, stacks=1, mirror=False).eval()
    alone.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(alone(x), fan.decode(maps)[0] * 4 - 0.5)


def test_depth_is_read_off_the_points_that_were_found_and_its_sign_turned() -> None:
    torch.manual_seed(0)
    network = fan.landmarker(**SMALL, stacks=1, mirror=False, deep=True, depths=(1, 1, 1, 1), depth_width=8).eval()
    x = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        points = network(x)
        cells = (points[..., :2] + 0.5) / 4
        shown = torch.stack([drawn_by_loops(*(4 * cells[0, k]).tolist(), 256, 13) for k in range(68)]).float()[None]
        assert network.depth is not None
        want = network.depth(torch.cat([x, shown], 1))
    assert points.shape == (1, 68, 3)
    torch.testing.assert_close(points[..., 2], -want, atol=1e-5, rtol=1e-4)
    image = (x[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    box = np.array([[60.0, 70.0, 160.0, 190.0]])
    exact, parity = (fan.align(network, image, box, mode=mode) for mode in fan.MODES)
    assert exact.points.shape == parity.points.shape == (1, 68, 3)
    assert np.sign(exact.points[..., 2].sum()) == -np.sign(parity.points[..., 2].sum())
    with pytest.raises(OptionError, match="no depth network"):
        fan.landmarker(**SMALL, stacks=1).depths(x, cells)


def test_guidance_shows_no_point_outside_to_the_released_network() -> None:
    points = torch.tensor([[[0.0, 30.0], [-1.0, 30.0], [40.0, 50.0]]])
    assert fan.guidance(points, 256, official=True).amax((2, 3)).tolist() == [[0, 0, 1]]
    assert (fan.guidance(points, 64).amax((2, 3)) > 0).tolist() == [[True, True, True]]
    exact = fan.guidance(points, 256)
    torch.testing.assert_close(exact, heatmaps.draw_gaussians(points, 256, kernel=13))


# --- Sets ------------------------------------------------------------------------------------------------------------


def face(x: float = 150.0, y: float = 150.0, size: float = 90.0, yaw: float = 0.0) -> np.ndarray[Any, Any]:
    turned = np.asarray(MEAN70[:68] @ rotation_from_euler(np.array([yaw, 0.0, 0.0])).T)
    return np.asarray(turned[:, :2] * size + [x, y])


@pytest.mark.parametrize("mirror", [False, True])
def test_guided_points_come_back_from_a_network_that_believes_them(mirror: bool) -> None:
    points = np.stack([face(), face(140, 160, 70)])
    found = fan.guided(Bright(71), dotted(1, 1), points, mirror=mirror)
    cell = 200 * (np.ptp(points[0], 0).sum() / 195) / 64
    assert np.abs(found.points - points).max() < 0.3 * cell
    parity = fan.guided(Bright(71), dotted(1, 1), points, mode="parity", mirror=mirror)
    assert np.abs(parity.points - points).max() < 1.5 * cell
    assert np.array_equal(parity.points, np.trunc(parity.points))


def test_a_set_of_visible_points_is_made_over(tmp_path: Path) -> None:
    from mien.data.formats import read_300w
    from mien.data.formats.landmarks import write_pts

    source, out = tmp_path / "in", tmp_path / "out"
    (source / "a").mkdir(parents=True)
    faces = {"a/one.png": face(yaw=10.0), "a/two.png": face(yaw=45.0), "three.png": face(yaw=-70.0)}
    for name, points in faces.items():
        Image.fromarray(dotted(30, 40)).save(source / name)
        write_pts((source / name).with_suffix(".pts"), points)
    (source / "broken.png").write_bytes(b"no picture")
    write_pts(source / "broken.pts", face())
    seen: list[int] = []
    table = fan.build_ls3dw(source, out, Bright(71), progress=lambda done, total, what: seen.append(done))
    assert len(seen) == 3
    again = read_300w(out)
    assert again.points is not None
    assert sorted(again.keys) == sorted(faces)
    for key, points in zip(again.keys, again.points, strict=True):
        assert np.abs(points - faces[key]).max() < 2.0
    rows = {row["file"]: row for row in csv.DictReader(table.open())}
    assert {name: row["yaw_range"] for name, row in rows.items()} == {
        "a/one.png": "0-30", "a/two.png": "30-60", "three.png": "60-90",
    }  # fmt: skip
    assert float(rows["three.png"]["yaw"]) == pytest.approx(-70, abs=6)
    assert {"x0", "y67"} <= rows["three.png"].keys()
    (tmp_path / "five").mkdir()
    write_pts(tmp_path / "five" / "x.pts", face()[:5])
    Image.fromarray(dotted(1, 1)).save(tmp_path / "five" / "x.png")
    with pytest.raises(TableError, match="68 points"):
        fan.build_ls3dw(tmp_path / "five", tmp_path / "o", Bright(71))


def test_the_balanced_part_has_a_third_of_each_range() -> None:
    yaw = np.random.default_rng(0).uniform(-95, 95, 400)
    rows = fan.balanced(yaw, 90, seed=1)
    assert len(set(rows.tolist())) == 90
    turned = np.abs(yaw[rows])
    assert [(turned < 30).sum(), ((turned >= 30) & (turned < 60)).sum(), (turned >= 60).sum()] == [30, 30, 30]
    assert not np.array_equal(rows, fan.balanced(yaw, 90, seed=2))
    for count in (10, 0, 600):
        with pytest.raises(OptionError, match="cannot be balanced"):
            fan.balanced(yaw, count)


def test_accuracy_is_that_of_the_loop() -> None:
    rng = np.random.default_rng(0)
    true = np.stack([face(yaw=yaw, size=60 + 5 * yaw / 10) for yaw in (0, 20, 40, 70, 80)])
    predicted = true + rng.normal(0, 3, true.shape)
    errors = []
    for p, t in zip(predicted, true, strict=True):
        size = math.sqrt((t[:, 0].max() - t[:, 0].min()) * (t[:, 1].max() - t[:, 1].min()))
        errors.append(sum(math.dist(a, b) for a, b in zip(p, t, strict=True)) / 68 / size)
    found = fan.accuracy(predicted, true, yaw=[0, -20, 40, 70, -80])
    assert found.nme == pytest.approx(sum(errors) / 5)
    assert found.auc == pytest.approx(sum(max(0.0, 1 - e / 0.07) for e in errors) / 5)
    curve = [sum(e < i * 0.001 for e in errors) / 5 for i in range(70)]
    assert found.auc_script == pytest.approx(sum(curve) / 70)
    assert found.auc_script == pytest.approx(found.auc, abs=0.01)
    assert found.nme_by_yaw["60-90"] == pytest.approx((errors[3] + errors[4]) / 2)
    assert set(found.auc_by_yaw) == {"0-30", "30-60", "60-90"}
    assert fan.accuracy(true - 1.75, true, shift=1.75).nme == pytest.approx(0, abs=1e-9)
    assert fan.accuracy(true - 1.75, true).auc < 0.85


# --- Training --------------------------------------------------------------------------------------------------------

FEW: dict[str, Any] = {
    "steps": 2, "batch_size": 2, "workers": 0, "threads": 1, "device": "cpu", "tensorboard": "no", "width": 32,
    "levels": 2, "size": 64, "depths": (1, 1, 1, 1), "depth_width": 8,
}  # fmt: skip


@pytest.fixture
def w300lp(tmp_path: Path) -> Path:
    """300W-LP in its own form, tiny: two pictures in two turned versions each, and one of AFLW2000."""
    root = tmp_path / "300W_LP"
    for folder in ("AFW", "landmarks/AFW", "AFLW2000"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for who, (turn, yaw) in itertools.product(range(2), enumerate((0.0, 50.0))):
        name = f"AFW_10{who}_1_{turn}"
        Image.fromarray(rng.integers(0, 256, (450, 450, 3), dtype=np.uint8)).save(root / "AFW" / f"{name}.jpg")
        points = face(225, 275, 110, yaw)
        savemat(root / "AFW" / f"{name}.mat", {"pt2d": np.zeros((2, 21)), "Pose_Para": np.zeros((1, 7))})
        savemat(root / "landmarks" / "AFW" / f"{name}_pts.mat", {"pts_2d": points + 1, "pts_3d": points + 3})
    Image.fromarray(rng.integers(0, 256, (450, 450, 3), dtype=np.uint8)).save(root / "AFLW2000" / "image00002.jpg")
    solid = np.concatenate([face(225, 275, 110), -np.asarray(MEAN70[:68, 2:]) * 110], 1)
    savemat(
        root / "AFLW2000" / "image00002.mat",
        {"pt3d_68": solid.T + np.array([[1], [1], [400]]), "pt2d": np.zeros((2, 21))},
    )
    return root


def test_300w_lp_is_read_with_both_kinds_of_points(w300lp: Path) -> None:
    from mien.data.w300lp import read_w300lp

    both = read_w300lp(w300lp)
    assert len(both) == 4
    assert both.points_2d is not None
    assert both.points_3d is not None
    np.testing.assert_allclose(both.points_2d[0], face(225, 275, 110), atol=1e-4)
    np.testing.assert_allclose(both.points_3d[1], face(225, 275, 110, 50.0) + 2, atol=1e-4)
    assert len(read_w300lp(w300lp / "AFW")) == 4  # the tables lie beside the part
    deep = read_w300lp(w300lp, need=("3d",), deep=True)
    assert [file.name for file in deep.files] == ["image00002.jpg"]
    assert deep.points_3d is not None
    want = np.asarray(MEAN70[:68, 2]) * 110
    np.testing.assert_allclose(deep.points_3d[0, :, 2], want - want.mean(), atol=1e-3)
    assert len(read_w300lp(w300lp, need=("3d",))) == 5
    with pytest.raises(MediaNotFound, match="no such folder"):
        read_w300lp(w300lp / "nowhere")
    with pytest.raises(MediaNotFound, match="no picture has the points"):
        read_w300lp(w300lp / "AFLW2000", need=("2d",))
    with pytest.raises(OptionError, match="unknown points"):
        read_w300lp(w300lp, need=("4d",))
    (w300lp / "AFLW2000" / "image00002.mat").write_bytes(b"no Matlab")
    with pytest.raises(TableError, match="cannot be read"):
        read_w300lp(w300lp)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("2d", {"crop": "w300lp", "official": True}),
        ("3d", {"max_yaw": 30.0, "augment": "paper", "schedule": "steps", "drops": (0.5,), "factors": (0.1,)}),
        ("2d-to-3d", {"stacks": 2, "augment": "none"}),
        ("depth", {"held": 0.0}),
        ("3d", {"answer": "points"}),
    ],
)
def test_every_kind_of_network_is_trained_on_300w_lp(
    w300lp: Path, tmp_path: Path, kind: str, more: dict[str, Any]
) -> None:
    options = {"held": 0.5, "stacks": 1, "optimizer": "rmsprop", "warmup": 0, **FEW, **more}
    run = HeatmapsRecipe.make(data=str(w300lp), out=str(tmp_path / "run"), kind=kind, **options)
    result = fit(run)
    assert result.steps == 2
    assert all(math.isfinite(value) for value in result.figures.values())
    train, held = run._sets
    names = [{Path(file).stem.rpartition("_")[0] for file in part.pictures} for part in (train, held)]
    assert not names[0] & names[1]
    if more.get("max_yaw"):
        assert all(Path(file).stem.endswith("_0") or "image" in Path(file).stem for file in train.pictures)


def test_pts_files_are_enough_for_visible_points(tmp_path: Path) -> None:
    from mien.data.formats.landmarks import write_pts

    for name in ("one_1", "two_1"):
        Image.fromarray(dotted(150, 150)).save(tmp_path / f"{name}.png")
        write_pts(tmp_path / f"{name}.pts", face())
    run = HeatmapsRecipe.make(data=str(tmp_path), out=str(tmp_path / "run"), kind="2d", held=0.0, stacks=1, **FEW)
    fit(run)
    sample = run.source().sample(0, np.random.default_rng(0))
    assert np.isfinite(sample["flat"]).any()
    assert not np.isfinite(sample["head"]).any()
    with pytest.raises(MediaNotFound, match="no picture has the points"):
        HeatmapsRecipe.make(data=str(tmp_path), out=str(tmp_path / "b"), kind="3d", **FEW).source()


@pytest.mark.parametrize("how", ["none", "script", "paper"])
def test_points_stay_on_what_they_mark_when_crops_are_changed(how: Any) -> None:
    rng = np.random.default_rng(0)
    point = np.array([150.3, 121.6])
    points = np.repeat(point[None, None], 68, 1) + np.stack([np.linspace(-40, 40, 68)] * 2, 1)[None]
    points[0, 8], points[0, 30] = point, point  # both lie on the midline: a mirror leaves them where they are
    faces = PosedFaces([dotted(*point)], points.astype(np.float32), None, size=96, augment=how)
    turned = 0
    for _ in range(12):
        sample = faces.sample(0, rng)
        turned += int(sample["flat"][0, 1] > sample["flat"][16, 1])  # a mirror changes numbers too, so x stays
        if not np.isfinite(sample["flat"][8]).all():
            continue
        image = sample["image"].astype(np.float64)[..., 0]
        around = np.mgrid[:96, :96][::-1]
        x, y = sample["flat"][8] - 0.5
        near = (around[0] - x) ** 2 + (around[1] - y) ** 2 < 8**2
        if how == "paper" and image[near].std() > 60:  # noise was painted over it
            continue
        weight = np.where(near, image - 0.5 * image[near].max(), 0).clip(0)
        middle = (around * weight).sum((1, 2)) / weight.sum()
        assert np.abs(middle - (x, y)).max() < 1.0 if how != "paper" else np.abs(middle - (x, y)).max() < 6
    assert (turned > 0) == (how != "none")


def test_crops_turn_about_their_middle() -> None:
    rng = np.random.default_rng(0)
    scales, angles, mirrors = [], [], 0
    for _ in range(300):
        matrix, gains, mirror = augmented(np.array([80.0, 90.0]), 0.8, 64, rng, "script")
        np.testing.assert_allclose(matrix[:, :2] @ [79.5, 89.5] + matrix[:, 2], [31.5, 31.5])
        turn = matrix[:, :2] * ([[-1], [1]] if mirror else 1)
        scales.append(64 / (160 * math.sqrt(np.linalg.det(turn))))
        angles.append(abs(math.degrees(math.atan2(turn[1, 0], turn[0, 0]))))
        mirrors += mirror
        assert ((gains >= 0.7) & (gains <= 1.3)).all()
    assert (min(scales), max(scales)) == pytest.approx((0.7, 1.3))
    assert max(angles) <= 60 + 1e-9
    assert 0.3 < np.mean(np.array(angles) > 1e-9) < 0.5
    assert 100 < mirrors < 200


def test_the_rate_falls_as_the_released_script_says() -> None:
    run = HeatmapsRecipe.make(preset="released", out="x")
    epoch = 61_225 / 10
    rates = [run.lr * run.pace(int(epoch * at)) for at in (0.1, 49, 51, 69, 71, 89, 91, 99)]
    assert rates == pytest.approx([2.5e-4, 2.5e-4, 1e-4, 1e-4, 5e-5, 5e-5, 1e-5, 1e-5])
    text = HeatmapsRecipe.make(preset="paper", out="x")
    assert [text.pace(int(epoch * at)) for at in (1, 16, 31)] == [1, 0.1, 0.01]
    warm = HeatmapsRecipe.make(preset="paper", out="x", warmup=10)
    assert warm.pace(4) == 0.5
    for wrong in ({"drops": (0.5,)}, {"held": 1.0}, {"max_yaw": 0.0}, {"drops": (0.9, 0.1), "factors": (0.1, 0.1)}):
        with pytest.raises(OptionError, match="out of its range"):
            HeatmapsRecipe.make(out="x", **wrong)
    with pytest.raises(OptionError, match="directly"):
        HeatmapsRecipe.make(out="x", kind="depth", answer="points")


# --- The verbs -------------------------------------------------------------------------------------------------------


def analysed(fakes: Any, name: str) -> Any:
    from mien.verbs import _pipeline

    picture = fakes.picture((60, 50, 100, 1), (180, 80, 80, 2))
    return _pipeline.run(picture, _pipeline.Plan(detector="fake-detector", landmarks=name))


def test_released_files_become_landmarks_of_the_verbs(fakes: Any, tmp_path: Path) -> None:
    torch.save(released(levels=4, width=32, stacks=1), tmp_path / "3DFAN4-7835d9f11d.pth.tar")
    torch.save(released(levels=4, width=32, stacks=1), tmp_path / "2DFAN4-11f355bf06.pth.tar")
    flat = fan.import_official(tmp_path / "2DFAN4-11f355bf06.pth.tar", tmp_path / "flat.safetensors", name="flat")
    assert flat.input.template == "box"
    assert (flat.input.size, flat.input.up, flat.input.std) == (256, 0.12, (255.0, 255.0, 255.0))
    assert flat.input.margin == pytest.approx(2 * 0.94 * 200 / 195, abs=1e-3)
    assert "2D-FAN" in flat.source
    assert flat.macs
    with registered(flat):
        faces = analysed(fakes, "flat")
    assert faces.landmarks.shape == (2, 68, 2)
    assert np.isfinite(faces.landmarks).all()
    content, _ = depth_released((1, 1, 1, 1))
    torch.save(content, tmp_path / "depth-2a464da4ea.pth.tar")
    deep = fan.import_official(tmp_path / "3DFAN4-7835d9f11d.pth.tar", tmp_path / "deep.safetensors", name="deep",
                               task="landmarks", mirror=False)  # fmt: skip
    assert deep.arguments["deep"]
    assert deep.arguments["mirror"] is False
    assert "depth-2a464da4ea" in deep.source
    with registered(deep):
        faces = analysed(fakes, "deep")
        assert faces.landmarks3d.shape == (2, 68, 3)
        assert faces.pose.shape == (2, 3)
    again = fan.import_official(tmp_path / "2DFAN4-11f355bf06.pth.tar", tmp_path / "again.safetensors", name="again")
    assert "deep" not in again.arguments  # points of the visible contour have no depth
    bare = fan.import_official(tmp_path / "3DFAN4-7835d9f11d.pth.tar", tmp_path / "bare.safetensors", depth=None)
    assert "deep" not in bare.arguments


def test_what_cannot_be_imported_says_why(tmp_path: Path) -> None:
    file, out = tmp_path / "3DFAN4.pth.tar", tmp_path / "out.safetensors"
    torch.save(released(), file)
    with pytest.raises(OptionError, match="finds landmarks"):
        fan.import_official(file, out, task="embedding")
    with pytest.raises(OptionError, match="safetensors"):
        fan.import_official(file, tmp_path / "out.pt")
    with pytest.raises(CheckpointError, match="no depth network"):
        fan.import_official(file, out, depth=file)
    content, _ = depth_released((1, 1, 1, 1))
    torch.save(content, tmp_path / "depth-a.pth.tar")
    with pytest.raises(CheckpointError, match="alone finds no points"):
        fan.import_official(tmp_path / "depth-a.pth.tar", out)
    torch.save(content, tmp_path / "depth-b.pth.tar")
    with pytest.raises(OptionError, match="several files"):
        fan.import_official(file, out)
    guided = {**released(), "conv1.weight": torch.zeros(8, 71, 7, 7)}
    torch.save(guided, tmp_path / "2d-to-3d.pth.tar")
    with pytest.raises(CheckpointError, match="needs points"):
        fan.import_official(tmp_path / "2d-to-3d.pth.tar", out)
    with pytest.raises(CheckpointError, match="cannot be read"):
        fan.declaration(tmp_path / "nothing.safetensors")


def test_a_run_of_one_s_own_becomes_landmarks_of_the_verbs(fakes: Any, w300lp: Path, tmp_path: Path) -> None:
    runs = {
        name: fit(
            HeatmapsRecipe.make(data=str(w300lp), out=str(tmp_path / name), held=0.0, stacks=1, **{**FEW, **more})
        )
        for name, more in {"points": {"kind": "3d", "stride": 2}, "depth": {"kind": "depth"}}.items()
    }
    own = fan.import_official(
        runs["points"].weights, tmp_path / "own.safetensors", name="own", depth=runs["depth"].weights
    )
    assert own.input.size == 64
    assert own.licence == "none stated: trained by the user"
    assert (own.arguments["stride"], own.arguments["official"], own.arguments["towards"]) == (2, False, 1.0)
    with registered(own):
        faces = analysed(fakes, "own")
    assert faces.landmarks3d.shape == (2, 68, 3)
    (tmp_path / "points" / "config.json").write_text('{"recipe": "ParserRecipe"}')
    with pytest.raises(CheckpointError, match="mien train heatmaps"):
        fan.import_official(runs["points"].weights, tmp_path / "x.safetensors")
    (tmp_path / "points" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        fan.import_official(runs["points"].weights, tmp_path / "x.safetensors")
