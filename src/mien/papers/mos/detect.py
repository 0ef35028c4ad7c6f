"""From raw numbers to faces: decoding, suppression, many scales with box voting, and pose in the house's convention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mien.errors import OptionError, ShapeError
from mien.geometry.pose_300wlp import pose_from_300wlp
from mien.nn.detector import Detections
from mien.nn.multibox import Raw, as_input, faces_of
from mien.papers.mos.network import MOS

if TYPE_CHECKING:
    from mien.data.pixels import Picture

KEEP = 750
VOTE_IOU = 0.3
SHORT_SIDES = (500, 800, 1100, 1400, 1700)
BASE, LONGEST = 800, 1200
"""Short side that `SHORT_SIDES` are relative to, and the most that its long side may have, px."""


# ------------------------------------------------------------------------------------------- one pass


@torch.no_grad()
def decode(network: Callable[[Tensor], Any], images: Tensor, *, threshold: float = 0.55) -> list[Detections]:
    """Faces of pictures (B, 3, H, W), as the verbs want them: `Weights.decode` of this paper.

    Parameters
    ----------
    network
        `MOS`.
    images
        Blue, green, red of 0 to 255 minus (104, 117, 123).
    threshold
        The authors' demonstration has 0.55, their evaluation 0.02.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ShapeError("images of the detector", got=tuple(images.shape), expected="(B, 3, H, W)")
    if len(images) == 0:
        return []
    height, width = images.shape[2:]
    raw = Raw(*network(images))
    anchor = _anchors(network, height, width, images.device)
    found = faces_of(raw, anchor, height, width, threshold=threshold)
    out = []
    for one in found:
        assert one.pose is not None
        pose = torch.from_numpy(pose_from_300wlp(one.pose.cpu().numpy())).to(images.device)
        out.append(Detections(one.boxes, one.scores, one.landmarks5, pose))
    return out


def _anchors(network: Callable[[Tensor], Any], height: int, width: int, device: torch.device) -> Tensor:
    if not isinstance(network, MOS):
        raise OptionError("the network is not MOS", got=type(network).__name__, expected="MOS, with backend torch")
    return network.anchors(height, width, device)


# ------------------------------------------------------------------------------------------- many scales


def vote(
    detections: ArrayLike, *, iou: float = VOTE_IOU, keep: int = KEEP, single: bool = False
) -> NDArray[np.float64]:
    """Boxes that several passes agree on: (n, 5) x1, y1, x2, y2, score -> (m, 5), most likely first.

    The most likely box gathers all that overlap it by `iou`; they become one box, the mean weighted by their scores,
    with the highest score of them. What overlaps nothing else is dropped, so that a face which one pass alone has found
    is lost; `single=True` keeps it. Sides count one pixel more than their difference.

    Raises
    ------
    ShapeError
        Other than five numbers a row.
    """
    left = np.asarray(detections, np.float64)
    if left.ndim != 2 or left.shape[1] != 5:
        raise ShapeError("detections to vote on", got=left.shape, expected="(n, 5)")
    left = left[np.argsort(-left[:, 4], kind="stable")]
    area = (left[:, 2] - left[:, 0] + 1) * (left[:, 3] - left[:, 1] + 1)
    merged: list[NDArray[np.float64]] = []
    while len(left) and len(merged) < keep:
        first = left[0]
        w = np.minimum(first[2], left[:, 2]) - np.maximum(first[0], left[:, 0]) + 1
        h = np.minimum(first[3], left[:, 3]) - np.maximum(first[1], left[:, 1]) + 1
        common = np.maximum(w, 0) * np.maximum(h, 0)
        together = common / (area[0] + area - common) >= iou
        together[0] = True
        group, left, area = left[together], left[~together], area[~together]
        if len(group) == 1 and not single:
            continue
        merged.append(np.append((group[:, :4] * group[:, 4:]).sum(0) / group[:, 4].sum(), group[:, 4].max()))
    return np.stack(merged) if merged else np.zeros((0, 5))


def scales_of(height: int, width: int, *, sides: Sequence[int] = SHORT_SIDES) -> list[float]:
    """Factors that bring the short side to each of `sides`; where the base's long side would be above 1200 px, all
    shrink with it."""
    base = BASE / min(height, width)
    if round(base * max(height, width)) > LONGEST:
        base = LONGEST / max(height, width)
    return [side / BASE * base for side in sides]


@torch.no_grad()
def detect_multiscale(
    network: MOS,
    picture: Picture,
    *,
    sides: Sequence[int] = SHORT_SIDES,
    flip: bool = True,
    threshold: float = 0.02,
    iou: float = VOTE_IOU,
    single: bool = False,
) -> NDArray[np.float64]:
    """The evaluation on WIDER FACE of one picture (H, W, 3) uint8 RGB: (m, 5) boxes in its pixels, and scores.

    All scales and their mirror images are detected in, each with its own suppression, and merged by `vote`.
    """
    import cv2

    device = next(network.parameters()).device
    height, width = picture.shape[:2]
    parts = []
    for scale in scales_of(height, width, sides=sides):
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        scaled = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        images = as_input(torch.from_numpy(np.ascontiguousarray(scaled))[None].to(device))
        back = np.array([width / size[0], height / size[1]] * 2)
        for mirrored in (False, True) if flip else (False,):
            raw = network(images.flip(3) if mirrored else images)
            (found,) = faces_of(raw, network.anchors(size[1], size[0], device), size[1], size[0], threshold=threshold)
            boxes = found.boxes.double().cpu().numpy()
            if mirrored:
                boxes[:, [0, 2]] = size[0] - boxes[:, [2, 0]]
            parts.append(np.column_stack([boxes * back, found.scores.double().cpu().numpy()]))
    return vote(np.concatenate(parts), iou=iou, single=single)


__all__ = [
    "as_input", "decode", "detect_multiscale", "faces_of", "scales_of", "vote",
]  # fmt: skip
