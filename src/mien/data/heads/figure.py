"""Moves the figure of `mien.data.heads.parts` by a batch of controls, and places the camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mien.data.heads.chance import uniform
from mien.data.heads.params import BEARDS, HAIR, HATS, OCCLUDERS, HeadParameters
from mien.data.heads.parts import CURTAIN_HANG, LONG, PARTS, Model
from mien.data.heads.template import EYE

__all__ = ["Camera", "Columns", "camera", "columns", "pose_figure", "rotations", "shown_parts", "vertex_normals"]

Columns = dict[str, torch.Tensor]
"""Controls as tensors on the device of the work, by name."""

LID = 1.285
"""Least distance of a lid from the middle of the eye, cm: just outside of the cornea."""

FACE_CM = 13.0
"""Height of the face, brows to chin, by which pictures are framed."""

# Thickness in cm on top, at the sides and at the back, and how much it curls, by style
_THICKNESS = torch.tensor(
    [
        (0.0, 0.0, 0.0, 0.0),
        (0.16, 0.12, 0.12, 0.02),
        (0.75, 0.30, 0.35, 0.10),
        (1.75, 0.28, 0.40, 0.15),
        (1.55, 1.10, 1.20, 0.75),
        (3.60, 3.10, 3.20, 0.45),
        (0.45, 0.28, 0.35, 0.03),
        (0.90, 0.55, 0.80, 0.08),
        (0.80, 0.50, 0.70, 0.08),
        (1.05, 0.80, 0.90, 0.30),
    ]
)
_LENGTH = torch.tensor([0, 0, 0, 0, 0, 0, 0, 8.6, 18.0, 15.0])
"""How far the hair hangs below the ears' upper edge, cm, by style."""


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole: pixel = focal * (x, y) / (z + distance) + centre; all (n,) or (n, 2), pixels and cm."""

    focal: torch.Tensor
    distance: torch.Tensor
    centre: torch.Tensor

    def project(self, points: torch.Tensor) -> torch.Tensor:
        """(3, n, k) pixels and depth in cm of points (3, n, k) in the picture's axes about the head's middle."""
        depth = points[2] + self.distance[:, None]
        scale = self.focal[:, None] / depth.clamp(min=1.0)
        return torch.stack([points[0] * scale + self.centre[:, :1], points[1] * scale + self.centre[:, 1:], depth])


def columns(parameters: HeadParameters, device: torch.device) -> Columns:
    """All controls as tensors."""
    return {name: torch.from_numpy(np.array(value)).to(device) for name, value in vars(parameters).items()}


def rotations(angles: torch.Tensor) -> torch.Tensor:
    """(n, 3, 3) rotations of (n, 3) yaw, pitch, roll in degrees, as `mien.geometry.pose.rotation_from_euler`."""
    yaw, pitch, roll = torch.deg2rad(angles.double()).unbind(-1)
    sy, cy, sp, cp, sr, cr = yaw.sin(), yaw.cos(), pitch.sin(), pitch.cos(), roll.sin(), roll.cos()
    rows = [
        cy * cr + sy * sp * sr,
        -cy * sr + sy * sp * cr,
        -sy * cp,
        cp * sr,
        cp * cr,
        sp,
        sy * cr - cy * sp * sr,
        -sy * sr - cy * sp * cr,
        cy * cp,
    ]
    return torch.stack(rows, -1).view(-1, 3, 3).to(angles.dtype)


def camera(p: Columns, height: int, width: int) -> Camera:
    """The camera that frames the face as asked."""
    scale = p["face_share"] * height / FACE_CM
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=scale.device)
    extent = torch.tensor([width, height], dtype=torch.float32, device=scale.device)
    centre = middle + p["shift"] * extent - torch.stack([0 * scale, 1.0 * scale], -1)
    return Camera(scale * p["distance"], p["distance"], centre)


def shown_parts(p: Columns) -> torch.Tensor:
    """(n, parts) bool: which meshes a row has."""
    n, device = len(p["seed"]), p["seed"].device
    shown = torch.zeros(n, len(PARTS), dtype=torch.bool, device=device)
    shown[
        :, [PARTS.index(name) for name in ("head", "eye_left", "eye_right", "teeth", "cavity", "ear_left", "ear_right")]
    ] = True
    style, hat = p["hair_style"], p["hat"]
    sunglasses = p["occluder"] == OCCLUDERS.index("sunglasses")
    hanging = torch.zeros_like(sunglasses)
    for number in LONG:
        hanging |= style == number
    for name, present in {
        "curtain": hanging,
        "bun": (style == HAIR.index("bun")) & (hat == 0),
        "frame": (p["glasses"] > 0) | sunglasses,
        "lens": sunglasses,
        "hat": hat > 0,
        "brim": hat == HATS.index("cap"),
        "mask": p["occluder"] == OCCLUDERS.index("mask"),
        "hand": p["occluder"] == OCCLUDERS.index("hand"),
        "earrings": p["earrings"] > 0,
    }.items():
        shown[:, PARTS.index(name)] = present
    return shown


def fringe(p: Columns) -> torch.Tensor:
    """(n, 2) how far the fringe comes down, 0 to 1, and how much more at the picture's right, -0.8 to 0.8."""
    tucked = (p["hat"] > 0) | (p["hair_style"] == HAIR.index("bun"))
    sweep = 1.6 * uniform(p["identity"], 13, 1)[:, 0] - 0.8
    return torch.stack([torch.where(tucked, 0.15, 1.0) * p["hair_fringe"], sweep], -1)


def hair_shift(p: Columns, hair: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """(n, k) cm above the hairline of each row's head, from (k, 3) as in `Model.hair` and angles on the loft (k,)."""
    low, sweep = fringe(p).unbind(-1)
    lean = (1 + sweep[:, None] * angle / 0.9).clamp(0.0, 1.25)
    return hair[:, 0] + low[:, None] * lean * hair[:, 1] - p["hair_recede"][:, None] * hair[:, 2]


def pose_figure(p: Columns, model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    """(3, n, V) cm: all vertices in the axes of the picture, about the middle of the head; and landmarks (3, n, 68),
    which lie on the skin, below hair and beard."""
    n = len(p["seed"])
    coefficients = torch.cat([p["shape"], p["sagging"][:, None], p["units"]], 1)
    # In double precision the product does not depend on how many rows are multiplied together.
    moved = torch.mm(coefficients.double(), model.fields.view(len(model.fields), -1)).float()
    points = model.neutral + moved.view(n, 3, -1)
    at = model.slices

    # Hair of the head, and beards
    above = hair_shift(p, model.hair, model.angle[at["head"]])
    grow = ((above + 0.1) / 1.5).clamp(0, 1)
    grow = grow * grow * (3 - 2 * grow)
    out = model.outward
    thickness = _THICKNESS.to(points.device)[p["hair_style"]]
    where = torch.stack([(-out[1]).clamp(0), out[0].abs(), out[2].clamp(0)]) + 1e-3
    where = where / where.sum(0)
    thick = (thickness[:, :3] @ where) * p["hair_volume"][:, None] * grow
    theta, level = model.angle[at["head"]], model.neutral[1, at["head"]]
    phase = 6.2832 * uniform(p["identity"], 11, 4)
    curl = torch.sin(theta * 9 + phase[:, :1] + 1.3 * torch.sin(level * 1.1 + phase[:, 1:2])) * torch.sin(
        level * 1.35 + phase[:, 2:3] + 1.2 * torch.sin(theta * 5 + phase[:, 3:])
    )
    thick = thick * (1 + thickness[:, 3:] * curl * 0.55)
    # Tufts
    thick = thick * (0.88 + 0.24 * uniform(p["identity"], 14, thick.shape[1]))
    # Partings and sweeps: a style is a little fuller at one side.
    thick = thick * (1 + 0.22 * torch.sin(phase[:, :1]) * model.neutral[0, at["head"]] / 7)
    covered = (p["hat"] > 0)[:, None] & (level < -6.0 + 2.4 * (1 - torch.cos(theta)))
    thick = torch.where(covered, thick.clamp(max=0.35), thick)
    full = torch.tensor(
        [(0, 0, 0), (0.04, 0.04, 0.04), (0.28, 0, 0), (0.25, 0.55, 0), (0.25, 0.5, 0.5)], device=points.device
    )
    assert len(full) == len(BEARDS)
    beard = (full[p["beard_style"]] @ model.beard.T) * p["beard_density"][:, None]
    grown = (thick + beard)[:, None] * out
    points[:, :, at["head"]] += grown

    # Eyes
    for name, sign in (("eye_left", -1.0), ("eye_right", 1.0)):
        turn = rotations(torch.cat([p["gaze"], torch.zeros_like(p["gaze"][:, :1])], 1))
        local = model.neutral[:, at[name]] - torch.tensor([[sign * EYE[0]], [EYE[1]], [EYE[2]]], device=points.device)
        centre = points[:, :, at["at_" + name]]
        points[:, :, at[name]] = centre + turn @ local
        # Lids lie on the ball, whatever moved them.
        lids = points.index_select(2, model.lids[name]) - centre
        distance = lids.square().sum(1, keepdim=True).sqrt()
        points.index_copy_(2, model.lids[name], centre + lids * (LID / distance.clamp(min=0.5)).clamp(min=1))

    # Long hair falls from the level of the ears.
    around, along = model.uv[0, at["curtain"]], model.uv[1, at["curtain"]]
    fall = ((along - CURTAIN_HANG) / (1 - CURTAIN_HANG)).clamp(0)
    x, y, z = points[:, :, at["curtain"]].unbind(1)
    length = _LENGTH.to(points.device)[p["hair_style"]][:, None]
    down = fall * length
    wavy = (p["hair_style"] == HAIR.index("wavy")).float()[:, None]
    bob = (p["hair_style"] == HAIR.index("bob")).float()[:, None]
    swing = 0.045 * wavy * torch.sin(down * 1.05 + 23 * around + phase[:, :1]) + 0.012 * torch.sin(
        61 * around + phase[:, 1:2]
    )
    inward = (
        1
        + (p["hair_volume"][:, None] - 1) * 0.12
        + swing
        - 0.10 * bob * fall**2
        - 0.05 * (1 - bob) * (fall * 1.4).clamp(max=1)
    )
    # Long hair lies before the shoulders at its front edges and behind them elsewhere.
    edge = (1 - torch.minimum(around, 1 - around) / 0.10).clamp(0)
    forward = -edge * (down / 9).clamp(0, 1) * 2.4 * (1 - bob)
    # Under a hat it lies flat.
    tucked = 1 - 0.13 * ((p["hat"] > 0)[:, None] & (model.neutral[1, at["curtain"]] < -5.5)).float()
    x, y, z = x * tucked, y * tucked, 7 + (z - 7) * tucked
    points[:, :, at["curtain"]] = torch.stack([x * inward, y + down, 7 + (z - 7) * inward + forward], 1)

    # Glasses sit on the nose, as wide as eyes and temples ask.
    style = torch.where(p["glasses"] > 0, p["glasses"] - 1, torch.where(p["seed"] % 2 == 0, 0, 2)).clamp(0, 3)
    eye, root, temple = (points[:, :, at[name]][..., 0] for name in ("at_eye_right", "at_nose_root", "at_temple"))
    for name, table in (("frame", model.frames), ("lens", model.lenses)):
        x, y, z = table[style].unbind(1)
        back = ((z + 2.4) / 8.0).clamp(0, 1)
        wide = (1 - back) * (0.35 + 0.65 * eye[:, :1] / EYE[0]) + back * (temple[:, :1] / 7.3 + 0.03)
        forward = (root[:, 2:] + 2.0) * (1 - back)
        points[:, :, at[name]] = torch.stack([x * wide, y + (eye[:, 1:2] - EYE[1]), z + forward], 1)

    # A hand before the face, mirrored to the side it comes from
    spot = p["occluder_at"]
    side = torch.sign(spot[:, :1] + 1e-6)
    tilt = torch.deg2rad(uniform(p["seed"], 12, 1) * 36 - 8) * side
    x, y, z = model.neutral[:, at["hand"]]
    x = x * side
    turned = torch.stack([x * tilt.cos() - y * tilt.sin(), x * tilt.sin() + y * tilt.cos(), z.expand(n, -1)], 1)
    rest = torch.stack([spot[:, 0], spot[:, 1], -1.9 + 0.05 * spot[:, 0] ** 2], -1)
    points[:, :, at["hand"]] = points[:, :, at["at_nose_tip"]] + turned + rest[..., None]

    # Pose: the head as asked, the shoulders a part of the way
    lazy = p["pose"] * torch.stack([p["torso"], 0.15 * p["torso"], 0.35 * p["torso"]], -1)
    spots = points[:, :, model.landmarks] - grown[:, :, model.landmarks]
    points, follow = torch.cat([points, spots], 2), torch.cat([model.follow, model.follow[model.landmarks]])
    whole, part = rotations(p["pose"]) @ points, rotations(lazy) @ points
    points = torch.lerp(part, whole, follow).transpose(0, 1).contiguous()
    return points[..., : len(model.follow)], points[..., len(model.follow) :]


def vertex_normals(points: torch.Tensor, triangles: torch.Tensor, weld: torch.Tensor) -> torch.Tensor:
    """(3, n, V) unit normals of points (3, n, V) in triangles (T, 3); vertices that are welded to another share its."""
    corner = [triangles[:, k].contiguous() for k in range(3)]
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = ([axis.index_select(1, k) for axis in points] for k in corner)
    bx, by, bz, cx, cy, cz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    faces = (by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx)
    total = torch.zeros_like(points)
    for axis, face in zip(total, faces, strict=True):
        for k in corner:
            axis.index_add_(1, weld[k], face)
    total = total.index_select(2, weld)
    return total / (total.square().sum(0).sqrt() + 1e-9)
