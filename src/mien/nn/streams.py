"""What a multi-task face network is asked, in which order it answers, and the losses of the answers.

Names and order are those of SwinFace (Qin et al., IEEE TCSVT 2024): eleven groups of tasks, which share what they look
at, and 42 answers. The attributes are CelebA's, by CelebA's names, but in an order of their own, which is neither
CelebA's nor that of the groups: whoever has labels maps them by name.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mien.errors import OptionError, ShapeError

__all__ = ["AGE", "ATTRIBUTES", "BRANCHES", "EXPRESSION", "EXPRESSIONS", "age_loss", "analysis_losses", "answers_in"]

AGE, EXPRESSION = "Age", "Expression"

BRANCHES: tuple[tuple[str, ...], ...] = (
    ("Male",),
    (AGE, "Young"),
    (EXPRESSION, "Smiling"),
    ("Attractive", "Blurry", "Chubby", "Heavy_Makeup", "Oval_Face", "Pale_Skin"),
    ("Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Receding_Hairline", "Straight_Hair",
     "Wavy_Hair", "Wearing_Hat"),
    ("Arched_Eyebrows", "Bags_Under_Eyes", "Bushy_Eyebrows", "Eyeglasses", "Narrow_Eyes"),
    ("Big_Nose", "Pointy_Nose"),
    ("High_Cheekbones", "Rosy_Cheeks", "Wearing_Earrings", "Sideburns"),
    ("5_o_Clock_Shadow", "Big_Lips", "Mouth_Slightly_Open", "Mustache", "Wearing_Lipstick", "No_Beard"),
    ("Double_Chin", "Goatee"),
    ("Wearing_Necklace", "Wearing_Necktie"),
)  # fmt: skip
"""Tasks of each branch, in the order of the output layers."""

ATTRIBUTES = (
    "Attractive", "Blurry", "Chubby", "Heavy_Makeup", "Male", "Oval_Face", "Pale_Skin", "Smiling", "Young", "Bald",
    "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Receding_Hairline", "Straight_Hair", "Wavy_Hair",
    "Wearing_Hat", "Arched_Eyebrows", "Bags_Under_Eyes", "Bushy_Eyebrows", "Eyeglasses", "Narrow_Eyes", "Big_Nose",
    "Pointy_Nose", "High_Cheekbones", "Rosy_Cheeks", "Wearing_Earrings", "Sideburns", "5_o_Clock_Shadow", "Big_Lips",
    "Mouth_Slightly_Open", "Mustache", "Wearing_Lipstick", "No_Beard", "Double_Chin", "Goatee", "Wearing_Necklace",
    "Wearing_Necktie",
)  # fmt: skip
"""CelebA's forty, in the order of the network's answers. "Male" is what the released code calls Gender."""

EXPRESSIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""In the order of RAF-DB, whose numbers begin at 1."""


def answers_in(task: str) -> int:
    """How many numbers a task's output layer gives: years, logits of the expressions, or logits of no and yes."""
    return {AGE: 1, EXPRESSION: len(EXPRESSIONS)}.get(task, 2)


def age_loss(age: Tensor, truth: Tensor, done: float, *, sigma: float = 3.0) -> Tensor:
    """The age loss along its curriculum: from half the squared error to a Gaussian kernel, the mean over the batch.

    ``(1 - t) / 2 (a - y)² + t (1 - exp(-(a - y)² / (2 sigma²)))``: far from the truth the kernel has no slope, so that
    wrong labels are let go towards the end, and near it is what the eps-error counts.

    Parameters
    ----------
    age, truth
        Years, of one shape.
    done
        t, the share of the training that is done, 0 to 1.
    sigma
        Width of the kernel, years.

    Raises
    ------
    OptionError
        A share outside of 0 to 1, or a width that is not positive.
    ShapeError
        Two shapes, which would be broadcast in silence.
    """
    if not 0 <= done <= 1 or sigma <= 0:
        raise OptionError("the curriculum is out of its range", got=f"done {done}, sigma {sigma}",
                          expected="done 0 to 1, sigma above 0")  # fmt: skip
    if age.shape != truth.shape:
        raise ShapeError("ages and their labels differ in shape", got=tuple(age.shape), expected=tuple(truth.shape))
    square = (age - truth) ** 2
    return ((1 - done) / 2 * square + done * (1 - torch.exp(-square / (2 * sigma**2)))).mean()


def analysis_losses(
    answers: Mapping[str, Tensor], labels: Mapping[str, Tensor], rows: Mapping[str, slice], *, done: float,
    sigma: float = 3.0, gaussian: bool = True,
) -> dict[str, Tensor]:  # fmt: skip
    """The 42 analysis losses of a batch whose rows come from several streams, by the names of the tasks.

    Age is learnt from the rows "age", Male from "age" and "attributes", the other 39 from "attributes" alone, and
    expressions from "expression". Within these rows an unknown label has no part; a task of which no label is known
    has the loss 0.

    Parameters
    ----------
    answers
        "age" (B, 1) years, "attributes" (B, 40, 2) and "expression" (B, 7) logits of a network.
    labels
        "age" (B,) years, "attributes" (B, 40) 0 or 1, NaN where unknown; "expression" (B,) int64, -1 where unknown.
    rows
        The rows of the streams "age", "attributes" and "expression"; a stream that is not there gives no loss.
    done
        Share of the training that is done.
    sigma
        Of `age_loss`.
    gaussian
        Whether the age loss has its curriculum; without it is half the squared error throughout.
    """
    losses: dict[str, Tensor] = {}
    age, known = labels["age"], torch.isfinite(labels["age"])
    if (part := rows.get("age")) is not None:
        found, told = answers["age"][part, 0].float()[known[part]], age[part][known[part]]
        losses[AGE] = age_loss(found, told, done if gaussian else 0.0, sigma=sigma) if len(told) else 0 * found.sum()
    logits, truth = answers["attributes"], labels["attributes"]
    mask = torch.zeros_like(truth, dtype=torch.bool)
    for stream, columns in (("age", slice(MALE, MALE + 1)), ("attributes", slice(None))):
        if stream in rows:
            mask[rows[stream], columns] = torch.isfinite(truth[rows[stream], columns])
    if "age" in rows or "attributes" in rows:
        target = torch.where(mask, truth, torch.zeros_like(truth)).long()
        each = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none").view_as(truth)
        means = (each * mask).sum(0) / mask.sum(0).clamp_min(1)
        asked = ATTRIBUTES if "attributes" in rows else ("Male",)
        losses |= {name: means[ATTRIBUTES.index(name)] for name in asked}
    if (part := rows.get("expression")) is not None:
        known = labels["expression"][part] >= 0
        scores, told = answers["expression"][part].float()[known], labels["expression"][part][known]
        losses[EXPRESSION] = F.cross_entropy(scores, told) if len(told) else 0 * scores.sum()
    return losses


MALE = ATTRIBUTES.index("Male")
"""The attribute that sets of ages have, too."""
