"""MOS: matching and losses derived again, sizes, converter, golden tensors, voting, WIDER FACE's rules, feedback."""

from __future__ import annotations

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

from mien.data.posed_faces import (
    HeadScenes,
    PosedFaces,
    PosedList,
    PosedPictures,
    augmented,
    cropped,
    distorted,
    read_posed_faces,
    stitched,
)
from mien.errors import CheckpointError, EmptyMedia, MediaNotFound, OptionError, ShapeError, TableError
from mien.geometry.pose import rotation_from_euler
from mien.nn import multibox
from mien.nn.count import count_parameters
from mien.nn.multibox import Losses, Raw, Targets, Uncertainty
from mien.papers import mos
from mien.papers.mos.checkpoint import released
from mien.papers.mos.network import BRANCHES, DeformableConv, Stitched
from mien.train.feedback import Feedback
from mien.weights import registered

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"body": "shufflenet", **mos.SMALL}


# --- Anchors ---------------------------------------------------------------------------------------------------------


def test_anchors_are_those_of_loops_in_any_size() -> None:
    for height, width in ((640, 640), (37, 70)):
        wanted = []
        for stride, sizes in zip((8, 16, 32), ((16, 32), (64, 128), (256, 512)), strict=True):
            for i in range(math.ceil(height / stride)):
                for j in range(math.ceil(width / stride)):
                    for side in sizes:
                        cx, cy = (j + 0.5) * stride / width, (i + 0.5) * stride / height
                        wanted.append((cx, cy, side / width, side / height))
        got = mos.anchors(height, width)
        torch.testing.assert_close(got, torch.tensor(wanted))
    assert len(mos.anchors(640, 640)) == 16800


def test_encoding_is_ssd_s_and_decoding_its_inverse() -> None:
    torch.manual_seed(0)
    anchor = torch.rand(9, 4, dtype=torch.float64) + 0.2
    boxes = torch.rand(9, 4, dtype=torch.float64).sort(1).values
    boxes = torch.stack([boxes[:, 0], boxes[:, 1], boxes[:, 2] + 0.1, boxes[:, 3] + 0.1], 1)
    points = torch.rand(9, 5, 2, dtype=torch.float64)
    raw = multibox.encode_boxes(boxes, anchor)
    for k in range(9):
        x1, y1, x2, y2 = boxes[k].tolist()
        cx, cy, w, h = anchor[k].tolist()
        wanted = [((x1 + x2) / 2 - cx) / (0.1 * w), ((y1 + y2) / 2 - cy) / (0.1 * h),
                  math.log((x2 - x1) / w) / 0.2, math.log((y2 - y1) / h) / 0.2]  # fmt: skip
        assert raw[k].tolist() == pytest.approx(wanted)
        flat = multibox.encode_points(points, anchor)[k]
        assert flat[3].item() == pytest.approx((points[k, 1, 1].item() - cy) / (0.1 * h))
    torch.testing.assert_close(multibox.decode_boxes(raw, anchor), boxes)
    torch.testing.assert_close(multibox.decode_points(multibox.encode_points(points, anchor), anchor), points)


def test_bins_and_angles_have_no_half_bin() -> None:
    edges = np.arange(-99, 102, 3)
    angles = torch.tensor([-99.0, -96.01, -96.0, 0.0, 2.99, 95.9, 98.9])
    wanted = np.digitize(angles.numpy(), edges) - 1
    assert multibox.angle_bins(angles).tolist() == wanted.tolist()
    sure = torch.full((66, 66), -1e4).fill_diagonal_(0.0)
    torch.testing.assert_close(multibox.expected_angle(sure), torch.arange(66) * 3.0 - 99)


def naive_match(boxes: Tensor, present: Tensor, anchor: Tensor, threshold: float, least: float) -> list[int]:
    """One picture's matching in loops, in the order of the port: forced anchors last, the later face wins."""

    def iou(a: list[float], p: list[float]) -> float:
        q = [p[0] - p[2] / 2, p[1] - p[3] / 2, p[0] + p[2] / 2, p[1] + p[3] / 2]
        w, h = (max(0.0, min(a[k + 2], q[k + 2]) - max(a[k], q[k])) for k in (0, 1))
        return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + p[2] * p[3] - w * h)

    pairs = zip(boxes, present, strict=True)
    table = [[iou(b.tolist(), p.tolist()) if there else -1.0 for p in anchor] for b, there in pairs]
    found = []
    for k in range(len(anchor)):
        column = [row[k] for row in table]
        best = max(range(len(column)), key=lambda i: column[i])
        found.append(best if column[best] >= threshold else -1)
    for row, there in enumerate(present):
        if there and max(table[row]) >= least:
            found[max(range(len(anchor)), key=lambda k: table[row][k])] = row
    return found


def test_matching_is_that_of_loops() -> None:
    rng = np.random.default_rng(3)
    anchor = mos.anchors(64, 64)
    low = rng.uniform(0, 0.7, (5, 6, 2))
    boxes = torch.tensor(np.concatenate([low, low + rng.uniform(0.05, 0.5, (5, 6, 2))], 2), dtype=torch.float32)
    boxes[0, 1] = boxes[0, 0]  # two faces with one best anchor
    boxes[1, 2] = torch.tensor([0.5, 0.5, 0.51, 0.51])  # too small for any anchor
    present = torch.tensor(rng.random((5, 6)) < 0.8)
    present[4] = False
    got = mos.match(boxes, present, anchor)
    for row in range(5):
        assert got[row].tolist() == naive_match(boxes[row], present[row], anchor, 0.35, 0.2)
    literal = mos.match(boxes, present, anchor, least=0.0)
    assert (literal == 2).any(1).tolist()[1]
    assert (got[4] == -1).all()
    assert (mos.match(boxes[:, :0], present[:, :0], anchor) == -1).all()
    with pytest.raises(ShapeError, match="to be matched"):
        mos.match(boxes[0], present, anchor)


def test_matching_in_parts_is_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    low = torch.rand(7, 3, 2) * 0.6
    boxes, present, anchor = torch.cat([low, low + 0.3], 2), torch.ones(7, 3, dtype=torch.bool), mos.anchors(48, 48)
    whole = mos.match(boxes, present, anchor)
    monkeypatch.setattr(multibox, "MOST_OVERLAPS", 2 * 3 * len(anchor))
    assert torch.equal(mos.match(boxes, present, anchor), whole)


# --- Losses ----------------------------------------------------------------------------------------------------------


def naive_losses(raw: Raw, targets: Targets, anchor: Tensor, negatives: float, alpha: float) -> list[Tensor]:
    """The four losses of a batch in loops."""

    def smooth(a: Tensor, b: Tensor) -> Tensor:
        d = (a - b).abs()
        return torch.where(d < 1, 0.5 * d * d, d - 0.5).sum()

    total = [torch.zeros((), dtype=torch.float64) for _ in range(3)]
    poses: list[list[Tensor]] = [[], [], []]
    bins: list[list[Tensor]] = [[], [], []]
    count = pointed = 0
    for b in range(len(raw.box)):
        logs = raw.classes[b].log_softmax(-1)
        own = [k for k in range(len(anchor)) if targets.face[b, k] >= 0]
        others = sorted((k for k in range(len(anchor)) if k not in own), key=lambda k: logs[k, 0].item())
        for k in others[: int(min(negatives * len(own), len(anchor) - 1))]:
            total[0] = total[0] - logs[k, 0]
        for k in own:
            face = int(targets.face[b, k])
            count += 1
            total[0] = total[0] - logs[k, 1]
            total[1] = total[1] + smooth(raw.box[b, k], multibox.encode_boxes(targets.boxes[b, face], anchor[k]))
            points = targets.points[b, face]
            if torch.isfinite(points).all():
                pointed += 1
                total[2] = total[2] + smooth(raw.landmarks[b, k], multibox.encode_points(points, anchor[k]))
            angles = targets.pose[b, face]
            if torch.isfinite(angles).all() and bool((angles.abs() <= 99).all()):
                for a, logits in enumerate((raw.yaw, raw.pitch, raw.roll)):
                    p = logits[b, k].softmax(-1)
                    where = min(65, int((float(angles[a]) + 99) // 3))
                    bins[a].append(-p[where].log())
                    expected = 3 * sum(i * p[i] for i in range(66)) - 99
                    poses[a].append((expected - angles[a]) ** 2)
    pose = sum(torch.stack(bins[a]).mean() + alpha * torch.stack(poses[a]).mean() for a in range(3))
    assert isinstance(pose, Tensor)
    return [total[0] / count, total[1] / count, total[2] / pointed, pose]


def example(seed: int = 0) -> tuple[Raw, Targets, Tensor]:
    """Raw numbers of two pictures in float64, and their faces: one without landmarks, one turned too far."""
    torch.manual_seed(seed)
    anchor = mos.anchors(48, 48).double()
    many = len(anchor)
    raw = Raw(*(torch.randn(2, many, k, dtype=torch.float64, requires_grad=True) for k in (4, 2, 10, 66, 66, 66)))
    low = torch.rand(2, 3, 2, dtype=torch.float64) * 0.4
    boxes = torch.cat([low, low + 0.3 + 0.3 * torch.rand(2, 3, 2, dtype=torch.float64)], 2)
    points = low[:, :, None] + 0.3 * torch.rand(2, 3, 5, 2, dtype=torch.float64)
    pose = torch.randn(2, 3, 3, dtype=torch.float64) * 30
    points[0, 1], pose[1, 0, 1], pose[0, 0] = torch.nan, 120.0, torch.nan
    face = mos.match(boxes, torch.ones(2, 3, dtype=torch.bool), anchor)
    assert {0, 1, 2} <= set(face[0].tolist()) | set(face[1].tolist())
    return raw, Targets(face, boxes, points, pose), anchor


def test_losses_and_their_gradients_are_those_of_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    # The losses work in float32 whatever comes; here they keep what they get.
    monkeypatch.setattr(Tensor, "float", lambda self: self)
    raw, targets, anchor = example()
    for negatives, alpha in ((2.0, 0.5), (7.0, 1.0)):
        got = mos.losses(raw, targets, anchor, negatives=negatives, alpha=alpha)
        want = naive_losses(raw, targets, anchor, negatives, alpha)
        weights = torch.tensor([1.0, 2.0, 0.5, 0.1], dtype=torch.float64)
        torch.testing.assert_close(got.values, torch.stack(want), rtol=1e-10, atol=1e-10)
        ours = torch.autograd.grad((got.values * weights).sum(), list(raw))
        theirs = torch.autograd.grad((torch.stack(want) * weights).sum(), list(raw))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_what_the_feedback_sees_is_told_with_the_losses() -> None:
    raw, targets, anchor = example(4)
    got = mos.losses(raw, targets, anchor)
    rows, places = (targets.face >= 0).nonzero(as_tuple=True)
    each = []
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        truth = targets.boxes[row, int(targets.face[row, place])]
        aim = multibox.encode_boxes(truth, anchor[place])
        each.append((F.smooth_l1_loss(raw.box[row, place], aim, reduction="sum").item(),
                     float((truth[2] - truth[0]) * (truth[3] - truth[1]))))  # fmt: skip
    area = float(np.median([a for _, a in each]))
    want = sum(loss for loss, a in each if a < area) / sum(loss for loss, _ in each)
    assert got.small_share(area).item() == pytest.approx(want, rel=1e-5)
    background = targets.face < 0
    for row in range(2):
        highest = raw.classes[row].softmax(-1)[:, 1][background[row]].max()
        assert got.false[row].item() == pytest.approx(highest.item(), rel=1e-5)


def test_a_batch_without_faces_has_finite_losses_and_gradients() -> None:
    raw, targets, anchor = example()
    none = Targets(torch.full_like(targets.face, -1), targets.boxes, targets.points, targets.pose)
    got = mos.losses(raw, none, anchor)
    assert got.values.tolist() == [0.0, 0.0, 0.0, 0.0]
    (grad,) = torch.autograd.grad(got.values.sum(), [raw.classes])
    assert torch.isfinite(grad).all()
    assert got.small_share(0.1).item() == 1.0  # nothing is no reason to stitch


def test_learned_weights_end_at_the_logarithms_of_the_losses() -> None:
    """The sum of exp(-s) L + s is least at s = log L; one step's gradient is 1 - exp(-s) L."""
    values = torch.tensor([0.5, 3.0, 40.0])
    weights = Uncertainty(3)
    total = weights(values)
    assert total.item() == pytest.approx(43.5)
    total.backward()
    assert weights.log_variances.grad is not None
    torch.testing.assert_close(weights.log_variances.grad, 1 - values)
    update = torch.optim.Adam(weights.parameters(), 0.1)
    for _ in range(600):
        update.zero_grad()
        weights(values).backward()
        update.step()
    torch.testing.assert_close(weights.log_variances.detach(), values.log(), atol=1e-2, rtol=0)
    assert Uncertainty(3, half=True)(values).item() == pytest.approx(21.75)
    assert multibox.fixed(values, (1, 2, 0)).item() == pytest.approx(6.5)
    with pytest.raises(ShapeError, match="to be weighted"):
        weights(values[:2])
    with pytest.raises(OptionError, match="weights of the losses"):
        multibox.fixed(values, (1, -1, 0))


# --- Network ---------------------------------------------------------------------------------------------------------


def on_meta(build: Any, **options: Any) -> nn.Module:
    with torch.device("meta"):
        made: nn.Module = build(**options)
    return made


def test_sizes_are_those_of_the_released_networks_without_what_they_never_call() -> None:
    dead = 128 * 64 * 9 + 2 * 128
    page = (ROOT / "docs" / "papers" / "mos.md").read_text("utf-8")
    for build, wanted in ((mos.mos_s, "2.15"), (mos.mos_m, "3.16")):
        made = on_meta(build)
        assert f"{(count_parameters(made) + dead) / 1e6:.2f}" == wanted
        (line,) = [row for row in page.splitlines() if row.startswith(f"| `{build.__name__}`")]
        assert f"{count_parameters(made):,}" in line
    network = mos.mos_s(**mos.SMALL)
    levels = network.levels(torch.randn(1, 3, 70, 100))[2]
    assert [tuple(level.shape[2:]) for level in levels] == [(9, 13), (5, 7), (3, 4)]
    assert network(torch.randn(1, 3, 70, 100)).box.shape[1] == len(network.anchors(70, 100))
    for wrong in ({"body": "resnet"}, {"strides": (2, 4, 8)}, {"channels": 6}, {"sizes": ((1,), (2,), (3, 4))}):
        with pytest.raises(OptionError):
            mos.MOS(**wrong)


def test_a_unit_is_a_weighted_sum_of_branches() -> None:
    torch.manual_seed(0)
    layer = Stitched(8).double()
    assert layer.mix is not None
    torch.testing.assert_close(layer.mix[0, 0], torch.full((8,), 0.9, dtype=torch.float64))
    torch.testing.assert_close(layer.mix[2, 5], torch.full((8,), 0.1, dtype=torch.float64))
    nn.init.normal_(layer.mix)
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    branches = [F.conv2d(x, layer.weight[j][..., None, None], layer.bias[j]) for j in range(6)]
    wanted = [sum(layer.mix[i, j][None, :, None, None] * branches[j] for j in range(6)) for i in range(len(BRANCHES))]
    torch.testing.assert_close(layer(x), torch.cat([w for w in wanted if isinstance(w, Tensor)], 1))
    plain = Stitched(8, stitched=False).double()
    assert plain.mix is None
    torch.testing.assert_close(plain(x)[:, :8], F.conv2d(x, plain.weight[0][..., None, None], plain.bias[0]))


def test_deformable_convolution_is_that_of_loops() -> None:
    """Bilinear samples at shifted taps, times a mask; offsets are dy, dx for each tap."""
    torch.manual_seed(0)
    layer = DeformableConv(4, 3).double()
    assert layer.offset is not None
    assert layer.bias is not None
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=1) / 2 + layer.bias[:, None, None])
    nn.init.normal_(layer.offset.weight, std=0.3)
    told = layer.offset(x)[0].detach()

    def at(c: int, y: float, z: float) -> float:
        value = 0.0
        for i in (math.floor(y), math.floor(y) + 1):
            for j in (math.floor(z), math.floor(z) + 1):
                if 0 <= i < 5 and 0 <= j < 6:
                    value += (1 - abs(y - i)) * (1 - abs(z - j)) * float(x[0, c, i, j])
        return value

    got = layer(x)[0]
    for i, j in ((0, 0), (2, 3), (4, 5)):
        want = layer.bias.detach().clone()
        for tap in range(9):
            dy, dx, mask = told[2 * tap, i, j], told[2 * tap + 1, i, j], torch.sigmoid(told[18 + tap, i, j])
            y, z = i - 1 + tap // 3 + float(dy), j - 1 + tap % 3 + float(dx)
            for c in range(4):
                want += layer.weight[:, c, tap // 3, tap % 3].detach() * at(c, y, z) * mask.item()
        torch.testing.assert_close(got[:, i, j], want)


def test_backbones_take_torchvision_s_files(tmp_path: Path) -> None:
    from torchvision.models import MobileNetV2, ShuffleNetV2

    torch.manual_seed(0)
    classifier = ShuffleNetV2([1, 1, 1], list(mos.SMALL["widths"]), num_classes=7)
    network = mos.mos_s(**mos.SMALL)
    network.fill_body(classifier.state_dict())
    x = torch.randn(2, 3, 64, 64)
    classifier.eval(), network.eval()
    with torch.no_grad():
        level = classifier.stage2(classifier.maxpool(classifier.conv1(x)))
        torch.testing.assert_close(network.body(x)[0], level)
        torch.testing.assert_close(network.body(x)[2], classifier.stage4(classifier.stage3(level)))
    light = mos.mos_m(width=0.25, channels=32, pose=16)
    mobile = MobileNetV2(num_classes=7, width_mult=0.25)
    light.fill_body(mobile.state_dict())
    mobile.eval(), light.eval()
    with torch.no_grad():
        torch.testing.assert_close(light.body(x)[1], mobile.features[:14](x))
        torch.testing.assert_close(light.body(x)[2], mobile.features[:18](x))
    with pytest.raises(CheckpointError, match="not of this backbone"):
        network.fill_body({**classifier.state_dict(), "stage5.0.weight": torch.zeros(1)})


# --- Checkpoints -----------------------------------------------------------------------------------------------------


def official(network: mos.MOS, *, mobile: bool = False) -> dict[str, Tensor]:
    """The released layout of our network's tensors, written out the other way round."""
    out: dict[str, Tensor] = {}
    state = network.state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for name, value in state.items():
        if name.startswith("body.blocks."):
            _, _, block, rest = name.split(".", 3)
            out[f"body.feature_{2 * int(block) + 2}.{rest}"] = value
        elif name.startswith("body."):
            out[name] = value
    feeds = ("stitch_classhead", "stitch_BboxHead", "stitch_LandmarkHead",
             "stitch_PoseHead_y", "stitch_PoseHead_p", "stitch_PoseHead_r")  # fmt: skip
    unit = ("bboxhead", "classhead", "landmarkhead", "pose_y", "pose_p", "pose_r")
    parts = {"near": "conv3X3", "shared": "conv5X5_1", "middle": "conv5X5_2", "between": "conv7X7_2"}
    parts["far"] = "conv7x7_3"
    for level in range(3):
        out[f"fpn.output{level + 1}.0.weight"] = state[f"lateral.{level}.0.weight"]
        deformed = {f"context.{level}.{ours}": f"ssh{level + 1}.{theirs}" for ours, theirs in parts.items()}
        if level < 2:
            deformed[f"merge.{level}"] = f"fpn.merge{level + 1}"
        for ours, theirs in deformed.items():
            for part in ("weight", "bias"):
                out[f"{theirs}.conv.{part}"] = state[f"{ours}.0.{part}"]
                out[f"{theirs}.conv.conv_offset_mask.{part}"] = state[f"{ours}.0.offset.{part}"]
            for part in norm:
                out[f"{theirs}.actf.0.{part}"] = state[f"{ours}.1.{part}"]
        for part in norm:
            out[f"fpn.output{level + 1}.1.{part}"] = state[f"lateral.{level}.1.{part}"]
        for i in range(6):
            out[f"{feeds[i]}.{level}.conv1x1.weight"] = state[f"stitch.{level}.weight"][i][..., None, None]
            out[f"{feeds[i]}.{level}.conv1x1.bias"] = state[f"stitch.{level}.bias"][i]
            for j in range(6):
                key = f"cross_stitch.fpn{level + 1}.cross_stitch_unit.{unit[i]}.{unit[j]}.param"
                out[key] = state[f"stitch.{level}.mix"][i, j]
        for ours, theirs in (("box", "BboxHead"), ("class", "ClassHead"), ("landmarks", "LandmarkHead")):
            for part in ("weight", "bias"):
                out[f"{theirs}.{level}.conv1x1.{part}"] = state[f"heads.{level}.out.{ours}.{part}"]
        for place, letter in enumerate("ypr"):
            head = f"PoseHead_{letter}.{level}"
            for ours, theirs in (("pose.0", "Conv_pose.0"), ("pose.1", "Conv_pose.1"), ("pose.3", "conv1x1")):
                for name in [n for n in state if n.startswith(f"heads.{level}.{ours}.")]:
                    value = state[name]
                    part = value if value.ndim == 0 else value.chunk(3)[place]
                    out[f"{head}.{theirs}.{name.rpartition('.')[2]}"] = part
    out["Conv_pose.0.weight"] = torch.zeros(4)
    return out


def scrambled(network: mos.MOS) -> mos.MOS:
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) * 0.3 + 0.1)
    return network.eval()


@pytest.mark.parametrize("body", ["shufflenet", "mobilenet"])
def test_a_released_layout_comes_back_whole(body: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = scrambled(mos.mos_s(**mos.SMALL) if body == "shufflenet" else mos.mos_m(width=1.0, channels=16, pose=16))
    state = official(network)
    made = mos.convert_official({"state_dict": {f"module.{k}": v for k, v in state.items()}})
    assert set(made) == set(network.state_dict())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(made[name], value, msg=name)
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "MOS.pth")
    declared = mos.import_official(tmp_path / "MOS.pth", tmp_path / "mos.safetensors", name="mos-test")
    assert (declared.task, declared.threshold, declared.input.colour) == ("detection", 0.55, "BGR")
    assert mos.declaration(tmp_path / "mos.safetensors", name="mos-test") == declared
    again = released(**declared.arguments)
    assert set(again.state_dict()) == set(network.state_dict())


def test_the_converter_is_strict() -> None:
    state = official(scrambled(mos.mos_s(**mos.SMALL)))
    for change, message in (
        ({"extra.weight": torch.zeros(1)}, r"1 unknown \(extra.weight\)"),
        ({"ssh2.conv7x7_3.conv.bias": None}, r"1 missing \(ssh2.conv7x7_3.conv.bias\)"),
        ({"cross_stitch.fpn1.cross_stitch_unit.pose_y.pose_p.param": None}, "missing .*pose_y.pose_p"),
        ({"fpn.merge1.conv.weight": torch.zeros(2, 2, 3, 3)}, "of another shape .*merge.0"),
        ({"PoseHead_y.0.Conv_pose.1.running_mean": torch.zeros(5)}, "of another shape"),
        ({"body.stage3.0.branch1.0.weight": None}, "missing .*stage3.0.branch1"),
        ({"fpn.output1.0.weight": None}, "missing .*fpn.output1"),
    ):
        changed = {k: v for k, v in {**state, **change}.items() if v is not None}
        with pytest.raises(CheckpointError, match=message):
            mos.convert_official(changed)
    with pytest.raises(CheckpointError, match="missing"):
        mos.convert_official({"a": torch.zeros(1)})
    mobile = official(scrambled(mos.mos_m(width=1.0, channels=16, pose=16)))
    lost = next(k for k in mobile if k.startswith("body.feature_4.") and k.endswith("weight"))
    with pytest.raises(CheckpointError, match="feature_4"):
        mos.convert_official({k: v for k, v in mobile.items() if k != lost})


def test_import_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no such task"):
        mos.import_official(tmp_path / "a.pth", tmp_path / "b.safetensors", task="reading")
    with pytest.raises(OptionError, match="safetensors"):
        mos.import_official(tmp_path / "a.pth", tmp_path / "b.pth")
    with pytest.raises(OptionError, match="not of this paper"):
        mos.trained_network(network="os:system", arguments=("true",))
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        mos.declaration(tmp_path / "c.safetensors")


def test_an_imported_network_serves_the_verbs_with_pose(tmp_path: Path) -> None:
    """A network that sees one face in the middle of whatever it is shown."""
    from mien.verbs.detect import detect

    network = mos.mos_s(**mos.SMALL).eval()
    for value in network.parameters():
        nn.init.zeros_(value)
    made: Any = network.heads
    for heads in made:
        heads.out["class"].bias.data.copy_(torch.tensor([4.0, -4.0] * 2))
        bias = heads.pose[3].bias.data.view(3, 2, 66)
        for angle, place in enumerate((43, 33, 33)):  # yaw 30, pitch 0, roll 0
            bias[angle, :, place] = 50.0
    # One stride sees a face everywhere; suppression leaves a grid of which the largest scores are the same.
    made[2].out["class"].bias.data.copy_(torch.tensor([-2.0, 2.0, 4.0, -4.0]))
    points = torch.tensor([[-1.0, -1], [1, -1], [0, 0], [-0.7, 1], [0.7, 1]]).flatten()
    made[2].out["landmarks"].bias.data.copy_(points.repeat(2))
    torch.save(official(network), tmp_path / "MOS-S.pth")
    declared = mos.import_official(tmp_path / "MOS-S.pth", tmp_path / "mos.safetensors", name="mos-centre")
    picture = np.full((256, 256, 3), 90, np.uint8)
    with registered(declared):
        faces = detect(picture, weights="mos-centre", size=256)
    assert len(faces)
    sides = faces.boxes[:, 2:] - faces.boxes[:, :2]
    np.testing.assert_allclose(sides, 256, rtol=1e-4)
    assert faces.scores[0] == pytest.approx(1 / (1 + math.exp(-4)), rel=1e-4)
    np.testing.assert_allclose(faces.pose[0], [-30, 0, 0], atol=1e-3)


# --- Golden tensors --------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_the_released_network_s_numbers_come_out(golden: Any) -> None:
    state, inputs, wanted, _ = golden("mos-s")
    network = mos.MOS(**mos.shape_of(state)).eval()
    network.load_state_dict(mos.convert_official(state))
    with torch.no_grad():
        body, pyramid, context = network.levels(inputs["image"])
        raw = network(inputs["image"])
    got = {f"body{k + 1}": level[:, ::8] for k, level in enumerate(body)}
    for name, levels in (("fpn", pyramid), ("context", context)):
        got |= {f"{name}{k + 1}": level[:, ::4] for k, level in enumerate(levels)}
    got |= {"box": raw.box, "classes": raw.classes, "landmarks": raw.landmarks}
    got |= {name: getattr(raw, name)[:, ::3] for name in ("yaw", "pitch", "roll")}
    got["class_probability"] = raw.classes.softmax(-1)
    got["anchors"] = anchor = network.anchors(96, 128)
    size = torch.tensor([128.0, 96.0])
    got["box_pixels"] = multibox.decode_boxes(raw.box, anchor) * size.repeat(2)
    got["landmarks_pixels"] = (multibox.decode_points(raw.landmarks, anchor) * size).flatten(2)
    got["angles"] = torch.stack([multibox.expected_angle(logits) for logits in raw[3:]], -1)
    assert set(got) == set(wanted)
    for name, value in got.items():
        gap = (value - wanted[name]).abs().max() / wanted[name].abs().max()
        assert gap < 1e-4, name


@pytest.mark.data
def test_targets_detections_and_votes_are_the_released_code_s(golden: Any) -> None:
    _, inputs, wanted, _ = golden("mos-encode")
    anchor = mos.anchors(96, 128)[inputs["anchor"]]
    torch.testing.assert_close(multibox.encode_boxes(inputs["boxes"], anchor), wanted["box"], atol=1e-5, rtol=1e-5)
    points = inputs["landmarks"].view(-1, 5, 2)
    torch.testing.assert_close(multibox.encode_points(points, anchor), wanted["landmarks"], atol=1e-5, rtol=1e-5)
    _, inputs, wanted, _ = golden("mos-postprocess")
    raw = Raw(*(inputs[name][None] for name in ("box", "classes", "landmarks", "yaw", "pitch", "roll")))
    (found,) = mos.faces_of(raw, mos.anchors(96, 80), 96, 80, threshold=0.55)
    assert found.pose is not None
    rows = torch.cat([found.boxes, found.scores[:, None]], 1)
    torch.testing.assert_close(rows, wanted["detections"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.landmarks5.flatten(1), wanted["landmarks"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.pose, wanted["angles"], atol=1e-4, rtol=0)
    _, inputs, wanted, _ = golden("mos-vote")
    np.testing.assert_allclose(mos.vote(inputs["detections"].numpy()), wanted["detections"].numpy(), atol=1e-6)


# --- Detection -------------------------------------------------------------------------------------------------------


def test_pose_changes_its_convention_and_back() -> None:
    np.testing.assert_allclose(
        mos.pose_from_300wlp([[30, 0, 0], [0, 20, 0], [0, 0, 15]]), [[-30, 0, 0], [0, 20, 0], [0, 0, 15]], atol=1e-4
    )
    rng = np.random.default_rng(0)
    angles = rng.uniform(-80, 80, (100, 3))
    np.testing.assert_allclose(mos.pose_to_300wlp(mos.pose_from_300wlp(angles)), angles, atol=1e-3)
    # The nose of HopeNet's drawing: (-sin yaw, -cos yaw sin pitch) in the picture.
    yaw, pitch, _ = np.radians(angles).T
    nose = rotation_from_euler(mos.pose_from_300wlp(angles).astype(np.float64)) @ np.array([0.0, 0.0, -1.0])
    np.testing.assert_allclose(nose[:, 0], -np.sin(yaw), atol=1e-5)
    np.testing.assert_allclose(nose[:, 1], -np.cos(yaw) * np.sin(pitch), atol=1e-5)


def test_votes_are_means_of_what_overlaps() -> None:
    first, second = [0.0, 0, 9, 9, 0.9], [1.0, 0, 10, 9, 0.3]
    alone = [50.0, 50, 60, 60, 0.8]
    got = mos.vote([second, alone, first])
    np.testing.assert_allclose(got, [[0.25, 0, 9.25, 9, 0.9]])
    assert len(mos.vote([second, alone, first], single=True)) == 2
    assert mos.vote(np.zeros((0, 5))).shape == (0, 5)
    assert len(mos.vote([[k * 100.0, 0, k * 100 + 9, 9, 0.5] for k in range(9) for _ in (0, 1)], keep=4)) == 4
    with pytest.raises(ShapeError, match="vote"):
        mos.vote(np.zeros((2, 4)))


def test_scales_are_those_of_the_evaluation() -> None:
    assert mos.scales_of(800, 1000) == pytest.approx([0.625, 1.0, 1.375, 1.75, 2.125])
    assert mos.scales_of(400, 2000) == pytest.approx([0.6 * side / 800 for side in (500, 800, 1100, 1400, 1700)])


class Marked(mos.MOS):
    """Finds the white square of a black picture, wherever and however large."""

    def forward(self, x: Tensor) -> Raw:
        anchor = self.anchors(x.shape[2], x.shape[3])
        many = len(anchor)
        raw = Raw(*(torch.zeros(len(x), many, k) for k in (4, 2, 10, 66, 66, 66)))
        raw.classes[..., 0] = 6.0
        for row, picture in enumerate(x):
            ys, xs = (picture[0] > 0).nonzero(as_tuple=True)
            if not len(ys):
                continue
            box = torch.tensor([xs.min() / x.shape[3], ys.min() / x.shape[2],
                                (xs.max() + 1) / x.shape[3], (ys.max() + 1) / x.shape[2]])  # fmt: skip
            overlap = multibox._overlaps(box[None, None], multibox.corners(anchor))[0, 0]
            at = int(overlap.argmax())
            raw.box[row, at] = multibox.encode_boxes(box, anchor[at])
            raw.classes[row, at] = torch.tensor([-2.0, 2.0])
            raw.yaw[row, at, 43] = 50.0
            raw.pitch[row, at, 36] = 50.0
            raw.roll[row, at, 33] = 50.0
        return raw


@pytest.fixture
def marked() -> mos.MOS:
    return Marked(**SMALL).eval()


def test_many_scales_and_mirror_images_agree_on_a_face(marked: mos.MOS) -> None:
    picture = np.zeros((100, 140, 3), np.uint8)
    picture[20:60, 70:110] = 255
    got = mos.detect_multiscale(marked, picture, sides=(80, 120, 160))
    assert got.shape == (1, 5)
    np.testing.assert_allclose(got[0, :4], [70, 20, 110, 60], atol=1.0)
    # What one scale alone finds is dropped, as the released code does.
    assert mos.detect_multiscale(marked, picture, sides=(80,), flip=False).shape == (0, 5)
    assert mos.detect_multiscale(marked, picture, sides=(80,), flip=False, single=True).shape == (1, 5)


def test_the_verbs_decoder_wants_pictures_and_this_network(marked: mos.MOS) -> None:
    images = torch.full((2, 3, 96, 96), -110.0)
    images[1, :, 30:60, 40:70] = 120.0
    nothing, found = mos.decode(marked, images, threshold=0.5)
    assert (len(nothing), len(found)) == (0, 1)
    assert found.pose is not None
    torch.testing.assert_close(found.boxes[0], torch.tensor([40.0, 30, 70, 60]), atol=0.1, rtol=0)
    # Yaw 30 and pitch 9 of 300W-LP.
    np.testing.assert_allclose(found.pose[0].numpy(), mos.pose_from_300wlp([30, 9, 0]), atol=1e-3)
    assert mos.decode(marked, images[:0]) == []
    with pytest.raises(ShapeError, match="images of the detector"):
        mos.decode(marked, images[0])
    with pytest.raises(OptionError, match="not MOS"):
        mos.decode(lambda x: marked(x), images)


def test_pose_is_compared_on_the_largest_face(marked: mos.MOS, tmp_path: Path) -> None:
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[50:110, 60:120] = 255
    for name, degrees in (("a", (5.0, 20.0, 0.0)), ("b", (10.0, 33.0, -6.0)), ("c", (100.0, 0.0, 0.0))):
        Image.fromarray(picture).save(tmp_path / f"{name}.jpg")
        savemat(tmp_path / f"{name}.mat", {"Pose_Para": np.radians([[*degrees, 0, 0, 0, 0]])})
    Image.fromarray(picture).save(tmp_path / "without.jpg")
    got = mos.pose_errors(marked, tmp_path)
    assert got == pytest.approx({"pitch": 2.5, "yaw": 6.5, "roll": 3.0, "mae": 4.0, "found": 1.0}, abs=1e-3)
    with pytest.raises(EmptyMedia):
        mos.pose_errors(marked, tmp_path, threshold=0.999)
    with pytest.raises(MediaNotFound):
        mos.pose_errors(marked, tmp_path / "none")


# --- WIDER FACE ------------------------------------------------------------------------------------------------------


def truth_files(folder: Path, faces: list[Any], easy: list[list[int]]) -> None:
    """The four files of the official evaluation: one event of pictures p0, p1 …"""

    def cells(values: list[Any]) -> Any:
        made = np.empty((len(values), 1), object)
        for row, value in enumerate(values):
            made[row, 0] = value
        return made

    folder.mkdir(parents=True)
    names = cells([f"p{k}" for k in range(len(faces))])
    boxes = cells([np.asarray(f, float).reshape(-1, 4) for f in faces])
    savemat(folder / "wider_face_val.mat", {"event_list": cells(["0--Parade"]), "file_list": cells([names]),
                                            "face_bbx_list": cells([boxes])})  # fmt: skip
    everything = [list(range(1, len(f) + 1)) for f in faces]
    for part, kept in (("easy", easy), ("medium", everything), ("hard", everything)):
        lists = cells([np.asarray(k, np.uint16).reshape(-1, 1) for k in kept])
        savemat(folder / f"wider_{part}_val.mat", {"gt_list": cells([lists])})


def naive_wider(found: dict[str, Any], truth: Any, part: str) -> float:
    """The official rules in loops, one threshold at a time."""
    scores = np.concatenate([rows[:, 4] for rows in found.values()])
    low, high = scores.min(), scores.max()
    counts = sum(int(mask.sum()) for mask in truth.counted[part])
    taken, hit = np.zeros(1000), np.zeros(1000)
    for name, faces, mask in zip(truth.names, truth.boxes, truth.counted[part], strict=True):
        rows = found.get(name, np.zeros((0, 5)))
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        if not len(rows) or not len(faces):
            continue
        state, judged = np.zeros(len(faces)), []
        for row in rows:
            overlaps = []
            for x, y, w, h in faces:
                iw = min(row[2], x + w) - max(row[0], x) + 1
                ih = min(row[3], y + h) - max(row[1], y) + 1
                common = max(0, iw) * max(0, ih)
                overlaps.append(common / ((row[2] - row[0] + 1) * (row[3] - row[1] + 1) + (w + 1) * (h + 1) - common))
            best = int(np.argmax(overlaps))
            counted = True
            if overlaps[best] >= 0.5:
                if not mask[best]:
                    counted = False
                elif state[best] == 0:
                    state[best] = 1
            judged.append((counted, int(state.sum())))
        for t in range(1000):
            threshold = 1 - (t + 1) / 1000
            until = [k for k, row in enumerate(rows) if (row[4] - low) / (high - low) >= threshold]
            if until:
                taken[t] += sum(judged[k][0] for k in range(until[-1] + 1))
                hit[t] += judged[until[-1]][1]
    recall, precision = hit / counts, np.where(taken > 0, hit / np.maximum(taken, 1), 0)
    area, before = 0.0, 0.0
    for k in range(1000):
        if recall[k] > before:
            area += (recall[k] - before) * precision[k:].max()
            before = recall[k]
    return area


def test_wider_s_precision_is_that_of_the_official_loops(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    faces, found = [], {}
    for k in range(6):
        boxes = np.column_stack([rng.uniform(0, 200, (k, 2)), rng.uniform(10, 60, (k, 2))]) if k else np.zeros((0, 4))
        faces.append(boxes)
        near = boxes[rng.integers(0, k, 2 * k)] if k else np.zeros((0, 4))
        shaken = near + rng.normal(0, 4, near.shape)
        wrong = np.column_stack([rng.uniform(0, 200, (3, 2)), rng.uniform(10, 60, (3, 2))])
        rows = np.concatenate([shaken, wrong])
        rows[:, 2:] += rows[:, :2]
        found[f"0--Parade/p{k}"] = np.column_stack([rows, rng.uniform(0.02, 1, len(rows))])
    truth_files(tmp_path / "gt", faces, [list(range(1, 1 + k // 2)) for k in range(6)])
    truth = mos.read_truth(tmp_path / "gt")
    assert truth.names == [f"0--Parade/p{k}" for k in range(6)]
    got = mos.wider_ap(found, truth)
    for part in ("easy", "medium", "hard"):
        assert got[part] == pytest.approx(naive_wider(found, truth, part), abs=1e-12)
    assert 0 < got["easy"] < 1
    assert got["medium"] == got["hard"] != got["easy"]
    assert mos.wider_ap({}, truth) == {"easy": 0.0, "medium": 0.0, "hard": 0.0}
    mos.write_results(found, tmp_path / "out")
    lines = (tmp_path / "out" / "0--Parade" / "p1.txt").read_text().splitlines()
    assert lines[:2] == ["p1", "5"]
    assert len(lines[2].split()) == 5
    with pytest.raises(TableError, match="not of the set"):
        mos.wider_ap({"x": np.zeros((0, 5))}, truth)
    with pytest.raises(ShapeError):
        mos.wider_ap({truth.names[0]: np.zeros((1, 4))}, truth)
    with pytest.raises(MediaNotFound, match="not complete"):
        mos.read_truth(tmp_path)


def test_the_evaluation_reads_pictures_and_finds_their_faces(marked: mos.MOS, tmp_path: Path) -> None:
    truth_files(tmp_path / "ground_truth", [[[70, 20, 40, 40]], [[10, 30, 50, 50]]], [[1], [1]])
    folder = tmp_path / "WIDER_val" / "images" / "0--Parade"
    folder.mkdir(parents=True)
    for name, (x, y, side) in (("p0", (70, 20, 40)), ("p1", (10, 30, 50))):
        picture = np.zeros((100, 140, 3), np.uint8)
        picture[y : y + side, x : x + side] = 255
        Image.fromarray(picture).save(folder / f"{name}.jpg", quality=95)
    told: list[tuple[int, int]] = []
    got = mos.evaluate(
        marked, tmp_path, sides=(80, 120), results=tmp_path / "out", progress=lambda d, t: told.append((d, t))
    )
    assert got == pytest.approx({"easy": 1.0, "medium": 1.0, "hard": 1.0})
    assert told == [(1, 2), (2, 2)]
    assert (tmp_path / "out" / "0--Parade" / "p1.txt").is_file()
    assert mos.evaluate(marked, tmp_path, sides=(80, 120), limit=1)["easy"] == pytest.approx(1.0)


# --- Data ------------------------------------------------------------------------------------------------------------


def posed(count: int, *, size: float = 20.0, seed: int = 0) -> PosedFaces:
    rng = np.random.default_rng(seed)
    low = rng.uniform(5, 60, (count, 2))
    boxes = np.concatenate([low, low + size], 1).astype(np.float32)
    points = (low[:, None] + rng.uniform(0.1 * size, 0.9 * size, (count, 5, 2))).astype(np.float32)
    return PosedFaces(boxes, points, rng.uniform(-60, 60, (count, 3)).astype(np.float32))


def test_label_files_are_read_with_pose_without_and_without_landmarks(tmp_path: Path) -> None:
    one = "10 20 30 40 " + " ".join(f"{k} {k + 1} 0.0" for k in range(11, 16)) + " 0.9 5 -20 3"
    file = tmp_path / "label.txt"
    text = f"# 0--P/a.jpg\n{one}\n1 2 3 4 {'-1 -1 -1 ' * 5}0.5\n\n# b.jpg\n# c.jpg\n5 6 7 8\n"
    file.write_text(text)
    got = read_posed_faces(file, tmp_path)
    assert [Path(f).name for f in got.files] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [len(f) for f in got.faces] == [2, 0, 1]
    first = got.faces[0]
    assert first.boxes[0].tolist() == [10, 20, 40, 60]
    assert first.points[0, 2].tolist() == [13, 14]
    assert first.pose[0].tolist() == [-20, 5, 3]  # files have pitch, yaw, roll
    assert np.isnan(first.points[1]).all()
    assert np.isnan(first.pose[1]).all()
    assert len(got.take(np.array([True, False, True]))) == 2
    for broken, message in (("1 2 3 4\n", "line 1"), ("# a\n1 2 3\n", "line 2"), ("# a\n1 2 x 4\n", "line 2")):
        file.write_text(broken)
        with pytest.raises(TableError, match=message):
            read_posed_faces(file, tmp_path)
    file.write_text("\n")
    with pytest.raises(EmptyMedia):
        read_posed_faces(file, tmp_path)
    with pytest.raises(MediaNotFound):
        read_posed_faces(tmp_path / "no.txt", tmp_path)


def test_a_mirror_image_swaps_points_and_turns_yaw_and_roll() -> None:
    faces = posed(3)
    turned = faces.mirrored(100)
    np.testing.assert_allclose(turned.boxes[:, [0, 2]], 100 - faces.boxes[:, [2, 0]])
    np.testing.assert_allclose(turned.points[:, 0, 0], 100 - faces.points[:, 1, 0])
    np.testing.assert_allclose(turned.points[:, 4, 1], faces.points[:, 3, 1])
    np.testing.assert_allclose(turned.pose, faces.pose * [-1, 1, -1])
    again = turned.mirrored(100)
    np.testing.assert_allclose(again.points, faces.points, atol=1e-4)


def test_crops_hold_a_whole_face_and_nothing_too_small() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (90, 140, 3), dtype=np.uint8)
    faces = posed(6, size=12)
    for _ in range(30):
        image, kept, found = cropped(picture, faces, 64, rng)
        assert found
        assert image.shape[0] == image.shape[1] <= 90
        assert len(kept) >= 1
        assert (kept.boxes >= 0).all()
        assert (kept.boxes <= image.shape[0]).all()
        assert ((kept.boxes[:, 2:] - kept.boxes[:, :2]).min(1) * 64 / image.shape[0] > 5).all()
    same, all_faces, found = cropped(picture, posed(2, size=2), 64, rng)  # all too small: nothing is cropped
    assert not found
    assert same is picture
    assert len(all_faces) == 2


def test_augmentation_moves_faces_with_the_picture() -> None:
    """A white face on black: wherever it lands, the box says so."""
    picture = np.zeros((80, 120, 3), np.uint8)
    picture[30:60, 40:70] = 255
    box, points = np.array([[40, 30, 70, 60]], np.float32), np.full((1, 5, 2), 50, np.float32)
    faces = PosedFaces(box, points, np.zeros((1, 3), np.float32))
    for seed in range(12):
        image, moved = augmented(picture, faces, 64, np.random.default_rng(seed))
        assert image.shape == (64, 64, 3)
        ys, xs = np.nonzero(image.max(2) > 0.5 * image.max())
        np.testing.assert_allclose(moved.boxes[0], [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=2.0)
    nothing, _ = augmented(picture, PosedFaces.none(), 64, np.random.default_rng(0))
    assert nothing.shape == (64, 64, 3)  # padded to a square
    assert any(not np.array_equal(distorted(picture, np.random.default_rng(s)), picture) for s in range(4))


def test_four_pictures_are_stitched_with_their_faces() -> None:
    parts = [(np.full((32, 32, 3), 50 * k, np.uint8), posed(k).moved(0.3)) for k in range(4)]
    image, faces = stitched(parts)
    assert image.shape == (64, 64, 3)
    assert [int(image[y, x, 0]) for y, x in ((0, 0), (0, 40), (40, 0), (40, 40))] == [0, 50, 100, 150]
    assert len(faces) == 6
    np.testing.assert_allclose(faces.boxes[0], parts[1][1].boxes[0] + [32, 0, 32, 0])
    np.testing.assert_allclose(faces.points[-1], parts[3][1].points[-1] + 32)
    with pytest.raises(ShapeError, match="stitched"):
        stitched(parts[:3])


def test_samples_have_the_largest_faces_first_and_depend_on_index_and_chance_alone(tmp_path: Path) -> None:
    faces = PosedFaces.joined([posed(2, size=12), posed(1, size=30, seed=5)])
    padded = faces.padded(2)
    assert padded["present"].tolist() == [True, True]
    assert padded["boxes"][0].tolist() == faces.boxes[2].tolist()
    assert np.isnan(faces.padded(5)["pose"][3:]).all()
    files = []
    for k in range(3):
        files.append(str(tmp_path / f"{k}.png"))
        Image.fromarray(np.full((90, 90, 3), 60 * k, np.uint8)).save(files[-1])
    source = PosedPictures(PosedList(files, [faces] * 3), size=64, most=4)
    one, two = (source.sample(1, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(one[k], two[k], equal_nan=True) for k in ("image", "boxes", "points", "pose", "present"))
    quad = source.drawn(1, np.random.default_rng(3), stitch=True)
    assert quad["image"].shape == one["image"].shape
    assert quad["index"] == 1
    lost = PosedPictures(PosedList([str(tmp_path / "no.png")], [faces]), size=64)
    with pytest.raises(MediaNotFound, match="cannot be read"):
        lost.sample(0, np.random.default_rng(0))
    with pytest.raises(OptionError, match="halves"):
        PosedPictures(PosedList([], []), size=63)


def test_rendered_scenes_have_faces_where_they_say() -> None:
    scenes = HeadScenes(4, heads=3, size=64, seed=1, smallest=10, largest=24, most=8, augment=False)
    again = HeadScenes(4, heads=3, size=64, seed=1, smallest=10, largest=24, most=8, augment=False)
    assert np.array_equal(scenes.images, again.images)
    faces = PosedFaces.joined(scenes.faces)
    assert len(faces) >= 4
    sides = np.sqrt((faces.boxes[:, 2:] - faces.boxes[:, :2]).prod(1))
    assert ((sides > 8) & (sides < 27)).all()
    assert (faces.boxes >= 0).all()
    assert (faces.boxes <= 64).all()
    assert (np.abs(faces.pose[:, 0]) <= 90).all()
    middle = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
    assert (np.abs(faces.points.mean(1) - middle) < sides[:, None]).all()
    half = scenes.drawn(0, np.random.default_rng(0), stitch=True)
    assert half["image"].shape == (64, 64, 3)
    with pytest.raises(OptionError, match="need heads"):
        HeadScenes(0, heads=3, size=64, seed=1)


# --- Feedback --------------------------------------------------------------------------------------------------------


def told(box: list[float], area: list[float], false: list[float]) -> Losses:
    return Losses(torch.zeros(4), torch.tensor(box), torch.tensor(area), torch.tensor(false))


def test_the_next_batch_is_stitched_when_small_faces_were_neglected() -> None:
    feedback = Feedback(5, tau=0.1, area=0.01)
    assert not feedback.stitch()  # nothing is known at first
    feedback.told(told([1.0, 9.5], [0.001, 0.5], [0.0, 0.0]), torch.tensor([0, 1]))
    assert feedback.ratio.item() == pytest.approx(1 / 10.5)
    assert feedback.stitch()
    feedback.told(told([2.0, 9.5], [0.001, 0.5], [0.0, 0.0]), None)
    assert not feedback.stitch()
    feedback.told(told([], [], [0.0]), torch.tensor([0]))
    assert not feedback.stitch()
    assert not Feedback(5, tau=0.0).stitch()
    with pytest.raises(OptionError, match="feedback"):
        Feedback(5, tau=2.0)


def test_false_detections_bring_their_pictures_back() -> None:
    feedback = Feedback(6, share=0.5)
    rng = np.random.default_rng(0)
    assert len(feedback.hard(8, rng)) == 0
    feedback.told(told([1.0], [0.5], [0.9, 0.2, 0.6]), torch.tensor([4, 1, 2]))
    assert set(feedback.hard(8, rng).tolist()) == {2, 4}
    feedback.told(told([1.0], [0.5], [0.99]), None)  # of a stitched batch nothing is noted
    assert feedback.false.tolist() == pytest.approx([0, 0.2, 0.6, 0, 0.9, 0])
    first = [int(feedback.hard(2, rng)[0]) for _ in range(400)]
    assert 0.5 < np.mean([f == 4 for f in first]) < 0.7  # 0.9 against 0.6
    feedback.told(told([1.0], [0.5], [0.1]), torch.tensor([4]))  # learnt in the meantime
    assert feedback.hard(8, rng).tolist() == [2]
    feedback.sized(3)
    assert feedback.false.tolist() == [0, 0, 0]


def test_a_resumed_run_decides_and_draws_as_one_that_never_stopped(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from mien.train.loop import fit
    from mien.train.recipes.pose_detector import PoseDetectorRecipe

    numbers: dict[str, Any] = {
        "preset": "small", "size": 64, "scenes": 8, "heads": 4, "checked": 0, "batch_size": 4, "steps": 4, "workers": 0,
        "threads": 1, "tensorboard": "no", "device": "cpu", "smallest": 16.0, "largest": 30.0, "small": 14.0,
        "warmup": 0,
        "arguments": ("repeats=(1,1,1)", "widths=(16,32,32,32,32)", "channels=32", "pose=16", "strides=(4,8,16)",
                      "sizes=((6,12),(20,32),(48,72))", "deformable=False"),
    }  # fmt: skip
    whole = fit(PoseDetectorRecipe.make(out=str(tmp_path / "a"), **numbers))
    log = (tmp_path / "a" / "log.csv").read_text()
    assert "4,stitched,1\n" in log  # no face is small: after the first step all is stitched
    fit(PoseDetectorRecipe.make(out=str(tmp_path / "b"), **numbers), stop_at=2)
    resumed = fit(PoseDetectorRecipe.make(out=str(tmp_path / "b"), **numbers))
    one, two = load_file(whole.weights), load_file(resumed.weights)
    assert all(torch.equal(one[name], two[name]) for name in one)
    declared = mos.import_official(whole.weights, tmp_path / "own.safetensors", name="mos-own")
    assert declared.licence == "that of your training data"
    assert mos.trained_network(**declared.arguments).strides == (4, 8, 16)


def test_recipes_learn_from_pictures_with_labels_in_every_way(tmp_path: Path) -> None:
    from mien.train.loop import fit
    from mien.train.recipes.pose_detector import PoseDetectorRecipe

    lines = []
    scenes = HeadScenes(5, heads=3, size=96, seed=0, smallest=16, largest=40)
    for k, (image, faces) in enumerate(zip(scenes.images, scenes.faces, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{k}.jpg")
        lines.append(f"# {k}.jpg")
        for box, points, pose in zip(faces.boxes, faces.points, faces.pose, strict=True):
            x, y, w, h = np.concatenate([box[:2], box[2:] - box[:2]]).tolist()
            marks = " ".join(f"{p[0]} {p[1]} 0.0" for p in points)
            lines.append(f"{x} {y} {w} {h} {marks} 0.9 {pose[1]} {pose[0]} {pose[2]}")
    (tmp_path / "label.txt").write_text("\n".join(lines))
    base: dict[str, Any] = {
        "preset": "wider_s", "data": str(tmp_path), "labels": str(tmp_path / "label.txt"), "steps": 2, "batch_size": 2,
        "workers": 0, "threads": 1, "size": 96, "held": 0.4, "tensorboard": "no", "device": "cpu", "alpha": 0.01,
        "arguments": ("repeats=(1,1,1)", "widths=(16,32,32,32,32)", "channels=32", "pose=16"),
    }  # fmt: skip
    for name, more in (
        ("fixed", {"weighting": "fixed", "weights": (1, 2, 1, 0.5), "pose": False}),
        ("stitched", {"sampling": "stitched"}),
    ):
        recipe = PoseDetectorRecipe.make(out=str(tmp_path / name), **{**base, **more})
        result = fit(recipe)
        assert 0 <= result.figures["average_precision"] <= 1
        assert recipe.trained(result.weights)(torch.randn(1, 3, 64, 64)).box.shape[0] == 1
        module = recipe.build()
        assert len([n for n, _ in module.named_parameters() if "log_variances" in n]) == (name != "fixed")
    recipe = PoseDetectorRecipe.make(out="x", preset="wider_s")
    assert [recipe.pace(s) for s in (0, 80_000, 104_000)] == pytest.approx([1.0, 0.1, 0.01])
    for wrong, message in (
        ({"data": "a"}, "belong together"), ({"weights": (1, 2)}, "weights of the losses"), ({"size": 33}, "size"),
        ({"network": "mien.papers.mos:none"}, "no such network"), ({"arguments": ("channels",)}, "an argument"),
        ({"arguments": ("colour=1",)}, "no such arguments"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=message):
            PoseDetectorRecipe.make(out="x", **wrong).build()
