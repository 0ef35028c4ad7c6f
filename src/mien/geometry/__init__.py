"""Pure functions on arrays: similarity alignment, warps, boxes, landmark schemes, head pose.

Pixels: x to the right, y down, (0, 0) at the centre of the top left pixel; angles in degrees. Everything
takes and gives stacks; one face is a stack of one. Importing this needs numpy only; the warps import OpenCV
or torch when called.
"""

from __future__ import annotations

from mien.geometry.boxes import batched_nms, iou, match_greedy, nms
from mien.geometry.landmarks import five_from_68, flip_points
from mien.geometry.pose import (
    euler_from_rotation,
    pose_from_landmarks3d,
    rotation_from_euler,
)
from mien.geometry.similarity import (
    TEMPLATES,
    angle_of,
    apply,
    apply3d,
    compose,
    invert,
    scale_of,
    similarity_from_points,
    template,
)
from mien.geometry.warp import paste_back, warp_images, warp_tensor

__all__ = [
    "TEMPLATES",
    "angle_of",
    "apply",
    "apply3d",
    "batched_nms",
    "compose",
    "euler_from_rotation",
    "five_from_68",
    "flip_points",
    "invert",
    "iou",
    "match_greedy",
    "nms",
    "paste_back",
    "pose_from_landmarks3d",
    "rotation_from_euler",
    "scale_of",
    "similarity_from_points",
    "template",
    "warp_images",
    "warp_tensor",
]
