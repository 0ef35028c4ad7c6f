"""Losses of many tasks on one face crop, where each picture has labels for some of them only.

What a picture does not tell has no part in the loss: NaN in numbers, -1 in classes, 255 in masks, and a task of which a
batch tells nothing costs 0, still joined to the network, so that several processes agree on what gets a gradient.

====================  =====================  ==================================================================
task                  label of a row         loss
====================  =====================  ==================================================================
parsing               (S, S) class           mean of cross-entropy and of 1 - Dice over the classes that are there
landmarks             (136,) -1 to 1         wing, in units of its width
pose                  (3, 3) rotation        angle between the rotations, radians
attributes            (40,) 0 or 1           binary cross-entropy
visibility            (29,) 0 or 1           binary cross-entropy
age                   () years               cross-entropy of the decade, and its distance to the expected age, decades
gender, race          () class               cross-entropy
expression            () class               cross-entropy
====================  =====================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mien.geometry.pose import euler_from_rotation
from mien.train.recipes.landmarks import wing

Floats = NDArray[np.float32]

ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes",
    "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling",
    "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
)  # fmt: skip
"""CelebA's, in its order (Z. Liu et al., 2015)."""
CLASSES = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "mouth", "l_lip", "hair",
)  # fmt: skip
"""Of the parsing, by the names of `mien.faces.PARSING` and in the order of LaPa; left and right as seen."""
MIRRORED = (0, 1, 3, 2, 5, 4, 6, 7, 8, 9, 10)
"""Class that each becomes in the mirror image."""
UNKNOWN = 255
"""Class of pixels that nobody knows."""
AGE_CENTRES = (5.0, 15.0, 25.0, 35.0, 45.0, 55.0, 65.0, 75.0)
"""Middles of the eight groups of age, years: decades, the last of them open."""
GENDERS = ("Male", "Female")
RACES = ("White", "Black", "Asian", "Indian", "Other")
"""UTKFace's labels, for audits only."""
EXPRESSION = "expression"
EXPRESSIONS7 = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""RAF-DB's, in its order; a task of the paper's second version."""
COFW29: tuple[tuple[int, ...], ...] = (
    (17,), (26,), (21,), (22,), (19,), (19,), (24,), (24,), (36,), (45,), (39,), (42,), (37, 38), (40, 41), (43, 44),
    (46, 47), (36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47), (31,), (35,), (30,), (33,), (48,), (54,), (51,),
    (62,), (66,), (57,), (8,),
)  # fmt: skip
"""COFW's 29 points (Burgos-Artizzu et al., 2013) by those of iBUG's 68 that stand nearest: brows (outer, inner, above
and below the middle), eyes (outer, inner, lids, pupils), nose (sides, tip, below), mouth (corners, lips), chin. One is
visible where all of its points are."""
COFW_FLIP = (1, 0, 3, 2, 6, 7, 4, 5, 9, 8, 11, 10, 14, 15, 12, 13, 17, 16, 19, 18, 20, 21, 23, 22, 24, 25, 26, 27, 28)
"""Row i of a mirrored face is row COFW_FLIP[i] of the face."""

WING = 6.0, 1.0
"""Width and sharpness of the wing loss, in 112ths of the crop's side."""


# ------------------------------------------------------------------------------------------- poses


def rotation_of(angles: Tensor) -> Tensor:
    """Rotations (B, 3, 3) of pitch, yaw and roll (B, 3), radians, with the order and the signs of 300W-LP.

    Axes are those of the picture (x right, y down, z away), as in `mien.geometry.pose`. 300W-LP turns by roll first,
    then yaw, then pitch; its yaw is positive towards the picture's left, its pitch upwards, its roll clockwise.
    """
    p, y, r = angles.unbind(1)
    sp, cp, sy, cy, sr, cr = p.sin(), p.cos(), y.sin(), y.cos(), r.sin(), r.cos()
    # Rx(-pitch) @ Ry(yaw) @ Rz(roll), multiplied out
    rows = [
        cy * cr, -cy * sr, sy,
        cp * sr - sp * sy * cr, cp * cr + sp * sy * sr, sp * cy,
        -sp * sr - cp * sy * cr, -sp * cr + cp * sy * sr, cp * cy,
    ]  # fmt: skip
    return torch.stack(rows, 1).reshape(-1, 3, 3)


def angles_of(rotation: ArrayLike) -> Floats:
    """Pitch, yaw and roll (n, 3), radians, with the order and the signs of 300W-LP, of rotations (n, 3, 3)."""
    r = np.asarray(rotation, np.float64)
    pitch, yaw = np.arctan2(r[:, 1, 2], r[:, 2, 2]), np.arcsin(np.clip(r[:, 0, 2], -1, 1))
    return np.stack([pitch, yaw, np.arctan2(-r[:, 0, 1], r[:, 0, 0])], 1).astype(np.float32)


def degrees_of(angles: ArrayLike) -> Floats:
    """`mien.faces.Faces.pose` (n, 3) yaw, pitch, roll, degrees, of pitch, yaw and roll (n, 3), radians, of 300W-LP."""
    rotation = rotation_of(torch.from_numpy(np.asarray(angles, np.float64).reshape(-1, 3)))
    return np.asarray(euler_from_rotation(rotation.numpy()), np.float32)


# ------------------------------------------------------------------------------------------- losses


def _mean(each: Tensor, known: Tensor) -> Tensor:
    return (each * known).sum() / known.sum().clamp_min(1)


def parsing_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean of cross-entropy and of one minus Dice, the latter averaged over the classes that are there; a scalar.

    Parameters
    ----------
    logits
        (B, c, H, W).
    mask
        (B, H, W) classes; `UNKNOWN` counts nowhere.
    """
    truth = mask.long()
    known = truth != UNKNOWN
    safe = torch.where(known, truth, 0)
    shares = logits.log_softmax(1)
    chosen = shares.gather(1, safe[:, None])[:, 0]
    probability = shares.exp()
    # Sums by class from the pixels' own classes: a picture of 0 and 1 for each class would be most of the work.
    none = logits.new_zeros(logits.shape[1])
    both = none.index_add(0, safe.flatten(), (chosen.exp() * known).flatten())
    there = none.index_add(0, safe.flatten(), known.flatten().to(logits.dtype))
    dice = 2 * both / ((probability * known[:, None]).sum((0, 2, 3)) + there).clamp_min(1e-6)
    return 0.5 * (_mean(-chosen, known) + _mean(1 - dice, there > 0))


def landmark_loss(found: Tensor, truth: Tensor) -> Tensor:
    """Wing loss (Feng et al., 2018) of coordinates (B, 2 k) from -1 to 1, divided by its width; NaN is unknown."""
    known = torch.isfinite(truth)
    width, sharpness = WING
    away = torch.where(known, found - torch.nan_to_num(truth), 0.0) * 56
    return _mean(wing(away, width=width, sharpness=sharpness) / width, known)


def geodesic_loss(angles: Tensor, rotation: Tensor) -> Tensor:
    """Mean angle, radians, between predicted pitch, yaw and roll (B, 3) and true rotations (B, 3, 3); NaN is unknown.

    ``acos((trace(P R^T) - 1) / 2)``; where the two agree to a twelfth of a degree the gradient, which would be
    infinite, is 0.
    """
    known = torch.isfinite(rotation).flatten(1).all(1)
    truth = torch.where(known[:, None, None], rotation, torch.eye(3, dtype=rotation.dtype, device=rotation.device))
    cosine = ((rotation_of(angles) * truth).sum((1, 2)) - 1) / 2
    return _mean(cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos(), known)


def flag_loss(logits: Tensor, flags: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (B, k) against 0 or 1; NaN is unknown."""
    known = torch.isfinite(flags)
    return _mean(F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(flags), reduction="none"), known)


def class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, k) against classes (B,); -1 is unknown."""
    return _mean(F.cross_entropy(logits, classes.long().clamp_min(0), reduction="none"), classes >= 0)


def age_loss(logits: Tensor, years: Tensor) -> Tensor:
    """Cross-entropy of the decade plus the distance, in decades, of expected and true age; NaN is unknown."""
    known = torch.isfinite(years)
    true = torch.nan_to_num(years)
    group = (true / 10).long().clamp(0, logits.shape[1] - 1)
    centres = 10 * torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device) + 5
    away = (logits.softmax(1) @ centres - true).abs() / 10
    return _mean(F.cross_entropy(logits, group, reduction="none") + away, known)


LOSSES = {
    "landmarks": landmark_loss, "pose": geodesic_loss, "attributes": flag_loss, "visibility": flag_loss,
    "age": age_loss, "gender": class_loss, "race": class_loss, EXPRESSION: class_loss, "parsing": parsing_loss,
}  # fmt: skip


def task_losses(
    answers: Mapping[str, Tensor], labels: Mapping[str, Tensor], weights: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Weighted loss of each task that was answered; its rows are those whose label is known.

    Parameters
    ----------
    answers
        Of `mien.nn.facex.FaceXFormer`, (B, …) by task.
    labels
        By task, see the module.
    weights
        Factors by task, 1 where there is none.
    """
    factors = weights or {}
    return {name: factors.get(name, 1.0) * LOSSES[name](found.float(), labels[name]) for name, found in answers.items()}
