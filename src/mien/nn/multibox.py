"""Anchors: from faces to what a single-shot detector regresses, and back; matching, and the losses of all its tasks.

The conventions are those of SSD (Liu et al., 2016) as RetinaFace uses them for faces (Deng et al., 2020). An anchor is
a square at the centre of a cell, (cx, cy, w, h) relative to the picture; a network answers for each with `Raw` numbers.
A face is positive at every anchor that overlaps it enough, and at the one that overlaps it most.

    anchors(640, 640)                 (16800, 4)
    match(boxes, present, anchors)    which face each anchor has
    losses(raw, targets, anchors)     class, box, landmarks, pose; and what each positive anchor's box costs
    Uncertainty()(losses.values)      their sum with learned weights (Kendall et al., 2018)
    faces_of(raw, anchors, …)         boxes, scores, five points and pose, suppressed
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError
from mien.nn.detector import Detections

STRIDES: tuple[int, ...] = (8, 16, 32)
SIZES: tuple[tuple[float, ...], ...] = ((16, 32), (64, 128), (256, 512))
"""Sides of the anchors of each stride, px."""
VARIANCES = (0.1, 0.2)
"""Units of centres (in anchor sides) and of logarithms of sides."""
BINS, STEP, FIRST = 66, 3.0, -99.0
"""Bins of an angle, their width and the first one's lower edge, degrees."""
TASKS = ("class", "box", "landmarks", "pose")
MEAN = (104.0, 117.0, 123.0)
"""Of blue, green and red, taken off pixels of 0 to 255."""


class Raw(NamedTuple):
    """What a network answers: a row for each of A anchors. Class and angles are logits.

    `box` (B, A, 4), `classes` (B, A, 2) background and face, `landmarks` (B, A, 10), `yaw`, `pitch`, `roll`
    (B, A, 66).
    """

    box: Tensor
    classes: Tensor
    landmarks: Tensor
    yaw: Tensor
    pitch: Tensor
    roll: Tensor


# ------------------------------------------------------------------------------------------- anchors


@lru_cache(maxsize=64)
def anchors(
    height: int,
    width: int,
    *,
    strides: tuple[int, ...] = STRIDES,
    sizes: tuple[tuple[float, ...], ...] = SIZES,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Anchors (A, 4) cx, cy, w, h relative to a picture of `height` x `width`; finest stride first, then rows, columns,
    sizes.

    A grid has ceil(side / stride) cells. Squares in pixels, so that w and h differ where the picture is no square.
    """
    parts = []
    with torch.inference_mode(False):  # kept, and training may want them next
        for stride, sides in zip(strides, sizes, strict=True):
            y = (torch.arange(math.ceil(height / stride), device=device, dtype=torch.float32) + 0.5) * stride / height
            x = (torch.arange(math.ceil(width / stride), device=device, dtype=torch.float32) + 0.5) * stride / width
            grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
            side = torch.tensor(sides, device=device, dtype=torch.float32)
            cell = torch.stack([grid_x, grid_y], -1).view(-1, 1, 2).expand(-1, len(side), -1)
            extent = torch.stack([side / width, side / height], -1).expand(len(cell), -1, -1)
            parts.append(torch.cat([cell, extent], -1).reshape(-1, 4))
        return torch.cat(parts)


def corners(anchor: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy of anchors (..., 4) cx, cy, w, h."""
    return torch.cat([anchor[..., :2] - anchor[..., 2:] / 2, anchor[..., :2] + anchor[..., 2:] / 2], -1)


def encode_boxes(boxes: Tensor, anchor: Tensor) -> Tensor:
    """Targets (..., 4) of boxes (..., 4) xyxy at their anchors, both in one unit: SSD's offsets over `VARIANCES`."""
    centre, side = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    shift = (centre - anchor[..., :2]) / (VARIANCES[0] * anchor[..., 2:])
    return torch.cat([shift, torch.log(side / anchor[..., 2:]) / VARIANCES[1]], -1)


def decode_boxes(raw: Tensor, anchor: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy of raw numbers (..., 4): the inverse of `encode_boxes`."""
    centre = anchor[..., :2] + raw[..., :2] * VARIANCES[0] * anchor[..., 2:]
    half = anchor[..., 2:] * torch.exp(raw[..., 2:] * VARIANCES[1]) / 2
    return torch.cat([centre - half, centre + half], -1)


def encode_points(points: Tensor, anchor: Tensor) -> Tensor:
    """Targets (..., 2 k) of points (..., k, 2) at their anchors (..., 4)."""
    return ((points - anchor[..., None, :2]) / (VARIANCES[0] * anchor[..., None, 2:])).flatten(-2)


def decode_points(raw: Tensor, anchor: Tensor) -> Tensor:
    """Points (..., k, 2) of raw numbers (..., 2 k): the inverse of `encode_points`."""
    pairs = raw.reshape(*raw.shape[:-1], raw.shape[-1] // 2, 2)
    return anchor[..., None, :2] + pairs * VARIANCES[0] * anchor[..., None, 2:]


def angle_bins(angles: Tensor) -> Tensor:
    """Bin 0 to 65 of angles in degrees: the one whose lower edge, -99 + 3 k, is the last that is not above."""
    return ((angles - FIRST) / STEP).floor().long().clamp(0, BINS - 1)


def expected_angle(logits: Tensor) -> Tensor:
    """Degrees (...,) of logits (..., 66): the expectation of the bins' lower edges (no half bin is added)."""
    place = torch.arange(BINS, dtype=logits.dtype, device=logits.device)
    return (logits.softmax(-1) * place).sum(-1) * STEP + FIRST


# ------------------------------------------------------------------------------------------- in and out


def as_input(pictures: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32, blue, green, red minus their means."""
    mean = torch.tensor(MEAN, device=pictures.device)
    return (pictures.flip(-1).float() - mean).permute(0, 3, 1, 2)


def faces_of(
    raw: Raw,
    anchor: Tensor,
    height: int,
    width: int,
    *,
    threshold: float = 0.55,
    iou: float = 0.4,
    top_k: int = 5000,
    keep: int = 750,
) -> list[Detections]:
    """Faces of each picture from raw numbers; `pose` is as the network tells it, in 300W-LP's convention.

    Parameters
    ----------
    raw
        Logits of a batch.
    anchor
        (A, 4) of those pictures.
    height, width
        Of the network's input, px.
    threshold
        Probabilities of a face must be above it.
    iou
        Of two boxes that overlap more, the less likely one is dropped (a box of one pixel has side 1, not 0).
    top_k, keep
        Most boxes of a picture before and after that.
    """
    from torchvision.ops import nms

    scale = torch.tensor([width, height], dtype=torch.float32, device=anchor.device)
    scores = raw.classes.float().softmax(-1)[..., 1]
    found = []
    for row, score in enumerate(scores):
        index = (score > threshold).nonzero()[:, 0]
        index = index[score[index].argsort(descending=True, stable=True)[:top_k]]
        boxes = decode_boxes(raw.box[row, index].float(), anchor[index]) * scale.repeat(2)
        wide = boxes.clone()
        wide[:, 2:] += 1
        index_kept = nms(wide, score[index], iou)[:keep]
        index, boxes = index[index_kept], boxes[index_kept]
        points = decode_points(raw.landmarks[row, index].float(), anchor[index]) * scale
        pose = torch.stack([expected_angle(logits[row, index].float()) for logits in (raw.yaw, raw.pitch, raw.roll)], 1)
        found.append(Detections(boxes, score[index], points, pose))
    return found


# ------------------------------------------------------------------------------------------- matching


@dataclass(frozen=True)
class Targets:
    """What each of A anchors of B pictures has to answer.

    Parameters
    ----------
    face : (B, A) int64
        Row of its face, -1 where there is none.
    boxes : (B, n, 4)
        xyxy relative to the picture.
    points : (B, n, 5, 2)
        Relative; NaN where they are not known.
    pose : (B, n, 3)
        Yaw, pitch, roll in degrees; NaN where they are not known.
    """

    face: Tensor
    boxes: Tensor
    points: Tensor
    pose: Tensor


MOST_OVERLAPS = 1 << 26
"""Overlaps that are held at a time."""


@torch.no_grad()
def match(boxes: Tensor, present: Tensor, anchor: Tensor, *, threshold: float = 0.35, least: float = 0.2) -> Tensor:
    """Face of every anchor: (B, A) int64, row of `boxes` or -1.

    An anchor takes the face that it overlaps most if that is by `threshold`; besides, the best anchor of a face is that
    face's if it overlaps by `least` (of two such faces, the later one's, as in the loops of the code).

    Parameters
    ----------
    boxes
        (B, n, 4) xyxy, relative to the picture.
    present
        (B, n) bool: rows that are faces.
    anchor
        (A, 4) cx, cy, w, h.
    """
    count, most, many = len(boxes), boxes.shape[1], len(anchor)
    if boxes.ndim != 3 or boxes.shape[2] != 4 or present.shape != boxes.shape[:2]:
        raise ShapeError(
            "faces to be matched", got=f"{tuple(boxes.shape)}, {tuple(present.shape)}", expected="(B, n, 4), (B, n)"
        )
    if most == 0:
        return torch.full((count, many), -1, dtype=torch.long, device=boxes.device)
    step = max(1, MOST_OVERLAPS // (most * many))
    if count > step:
        parts = zip(torch.split(boxes, step), torch.split(present, step), strict=True)
        return torch.cat([match(b, p, anchor, threshold=threshold, least=least) for b, p in parts])
    overlap = _overlaps(boxes, corners(anchor)).masked_fill(~present[..., None], -1.0)
    best, face = overlap.max(1)
    face = face.masked_fill(best < threshold, -1)
    top, place = overlap.max(2)
    row, which = ((top >= least) & present).nonzero(as_tuple=True)
    # The later face wins: faces are numbered from 1, and the largest number that is put on an anchor stays.
    forced = torch.zeros_like(face).view(-1)
    forced.scatter_reduce_(0, row * many + place[row, which], which + 1, reduce="amax")
    forced = forced.view_as(face)
    return torch.where(forced > 0, forced - 1, face)


def _overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU (B, n, A) of boxes (B, n, 4) with (A, 4)."""
    a, b = boxes[:, :, None], others
    sides = [
        (torch.minimum(a[..., k + 2], b[:, k + 2]) - torch.maximum(a[..., k], b[:, k])).clamp_min(0) for k in (0, 1)
    ]
    common = sides[0] * sides[1]
    areas = [((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1])) for x in (a, b)]
    return common / (areas[0] + areas[1] - common).clamp_min(1e-12)


# ------------------------------------------------------------------------------------------- losses


@dataclass(frozen=True)
class Losses:
    """Losses of a batch: `values` (4,) in the order of `TASKS`; `box` (p,) and `area` (p,) of its positive anchors.

    `area` is that of the anchor's face, relative to the picture. `false` (B,) is each picture's highest probability of
    a face at an anchor that has none.
    """

    values: Tensor
    box: Tensor
    area: Tensor
    false: Tensor

    def small_share(self, area: float) -> Tensor:
        """Share of the box loss that lies on faces of less than `area` (relative): the feedback of OFS, 0 to 1."""
        box = self.box.detach()
        total = box.sum()
        return torch.where(total > 0, (box * (self.area < area)).sum() / total.clamp_min(1e-12), torch.ones_like(total))


def losses(raw: Raw, targets: Targets, anchor: Tensor, *, negatives: float = 7.0, alpha: float = 1.0) -> Losses:
    """The losses of all tasks.

    - class: cross-entropy of all positive anchors and of each picture's hardest negative ones, `negatives` for a
      positive, over the number of positives;
    - box, landmarks: smooth L1, summed over the numbers of an anchor, mean over the positives (that have landmarks);
    - pose: for each angle cross-entropy of its bin plus `alpha` times the squared error in degrees of the expected
      angle (HopeNet: Ruiz et al., 2018), mean over the positives whose three angles lie within 99 degrees.

    Means over nothing are 0.
    """
    face = targets.face
    row, place = (face >= 0).nonzero(as_tuple=True)
    which = face[row, place]
    count = max(1, len(row))
    at = anchor[place]
    zero = raw.classes.sum() * 0

    positive = face >= 0
    cost = F.cross_entropy(raw.classes.flatten(0, 1).float(), positive.flatten().long(), reduction="none")
    cost = cost.view_as(face)
    with torch.no_grad():
        hard = cost.masked_fill(positive, -1.0)
        order = hard.argsort(dim=1, descending=True)
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(face.shape[1], device=face.device).expand_as(order)
        )
        wanted = (positive.sum(1, keepdim=True) * negatives).clamp_max(face.shape[1] - 1)
        taken = positive | ((rank < wanted) & ~positive)
        false = raw.classes.detach().float().softmax(-1)[..., 1].masked_fill(positive, 0.0).amax(1)
    class_loss = (cost * taken).sum() / count

    truth = targets.boxes[row, which]
    aim = encode_boxes(truth, at)
    each = F.smooth_l1_loss(raw.box[row, place].float(), aim, reduction="none").sum(1)
    box_loss = each.sum() / count

    points = targets.points[row, which]
    known = torch.isfinite(points).flatten(1).all(1)
    aim = encode_points(torch.nan_to_num(points), at)
    apart = F.smooth_l1_loss(raw.landmarks[row, place].float(), aim, reduction="none").sum(1)
    point_loss = (apart * known).sum() / known.sum().clamp_min(1)

    pose = targets.pose[row, which]
    known = (pose.abs() <= -FIRST).all(1)  # False for NaN
    angles = pose[known]
    pose_loss = zero
    if len(angles):
        parts = []
        for k, logits in enumerate((raw.yaw, raw.pitch, raw.roll)):
            mine = logits[row, place][known].float()
            bins = F.cross_entropy(mine, angle_bins(angles[:, k]))
            parts.append(bins + alpha * F.mse_loss(expected_angle(mine), angles[:, k]))
        pose_loss = torch.stack(parts).sum()
    values = torch.stack([class_loss, box_loss, point_loss, pose_loss])
    return Losses(values, each.detach(), (truth[:, 2] - truth[:, 0]) * (truth[:, 3] - truth[:, 1]), false)


class Uncertainty(nn.Module):
    """A sum of losses with learned weights: sum of exp(-s_t) L_t + s_t (Kendall, Gal, Cipolla, CVPR 2018).

    Parameters
    ----------
    tasks
        Number of losses; s starts at 0 for each, the weight at 1.
    half
        Halve both terms, as Kendall et al. do for regression. It moves the optimum of s by nothing.
    """

    def __init__(self, tasks: int = len(TASKS), *, half: bool = False) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(tasks))
        self.halved = half

    def forward(self, values: Tensor) -> Tensor:
        """Total of losses (tasks,)."""
        return weighted(values, self.log_variances, half=self.halved)


def weighted(values: Tensor, log_variances: Tensor, *, half: bool = False) -> Tensor:
    """The sum of `Uncertainty` for given logarithms of variances (tasks,)."""
    if values.shape != log_variances.shape:
        raise ShapeError("losses to be weighted", got=tuple(values.shape), expected=tuple(log_variances.shape))
    total = (torch.exp(-log_variances) * values + log_variances).sum()
    return total / 2 if half else total


def fixed(values: Tensor, weights: Sequence[float]) -> Tensor:
    """The sum of losses (tasks,) with fixed weights.

    Raises
    ------
    OptionError
        There is not one weight for each loss, or one is negative.
    """
    if len(weights) != len(values) or min(weights) < 0:
        raise OptionError("weights of the losses", got=tuple(weights), expected=f"{len(values)} numbers, at least 0")
    return (values * values.new_tensor(list(weights))).sum()
