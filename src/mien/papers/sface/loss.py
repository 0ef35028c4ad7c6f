"""The loss: a pull to the own class and a push from the others, each re-scaled by a sigmoid of its angle.

`SFaceLoss` holds the vectors of all classes in one place and reports what the released head reports. The same loss with
its classes shared among processes is `mien.train.classes.SFaceLayer`, which ``mien train margin head=sface`` uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError, ValueRangeError
from mien.train.classes import sface_factors

SCALE, SLOPE, A, B = 64.0, 80.0, 0.80, 1.23
"""Defaults of the released code: s, k (1/radian), and the two angles in radians, 45.8 and 70.5 degrees."""

ANGLES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"casia-webface": (0.87, 1.20), "vggface2": (0.88, 1.25), "ms1mv2": (0.90, 1.20)}
)
"""a and b by training set. They are tied to its number of people and to the length of the embedding."""


def intra_scale(theta: Tensor, *, a: float = A, k: float = SLOPE, scale: float = SCALE) -> Tensor:
    """r_intra: the pull to the own class at angles in radians, near `scale` where they are large, 0 where small."""
    return scale * torch.sigmoid(k * (theta - a))


def inter_scale(theta: Tensor, *, b: float = B, k: float = SLOPE, scale: float = SCALE) -> Tensor:
    """r_inter: the push from another class at angles in radians, near `scale` where they are small, 0 where large."""
    return scale * torch.sigmoid(-k * (theta - b))


class Loss(NamedTuple):
    """What the loss tells of a batch.

    Parameters
    ----------
    loss
        Scalar, ``intra + inter``. It is negative from the start or soon after, and its size means nothing: it may rise
        while the embedding gets better, since the factors in it shrink.
    intra, inter
        Its two terms.
    logits
        (B, C), `scale` times the cosines.
    own_cosine, other_cosine
        Means of the cosines to the own class and to the others; the latter is the sum over the others divided by B C,
        own columns counted, as the released head has it.
    """

    loss: Tensor
    intra: Tensor
    inter: Tensor
    logits: Tensor
    own_cosine: Tensor
    other_cosine: Tensor


def sface_loss(
    cosines: Tensor, labels: Tensor, *, scale: float = SCALE, k: float = SLOPE, a: float = A, b: float = B
) -> Loss:
    """The loss of cosines (B, C) to all classes, given labels (B,).

    The factors are constants for the gradient, which so is exactly ``-r_intra / B`` of the own cosine and
    ``r_inter / B`` of the others. Computed in float32 at least.
    """
    if cosines.ndim != 2 or labels.shape != cosines.shape[:1]:
        raise ShapeError(
            "cosines and labels do not fit together",
            got=f"{tuple(cosines.shape)}, {tuple(labels.shape)}",
            expected="(B, C), (B,)",
        )
    if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= cosines.shape[1]:
        raise ValueRangeError(
            "labels are not classes", got=labels.tolist()[:8], expected=f"0 to {cosines.shape[1] - 1}"
        )
    if cosines.dtype in (torch.float16, torch.bfloat16):
        cosines = cosines.float()
    terms = sface_factors(cosines, labels, scale=scale, a=a, b=b, k=k) * cosines
    own = F.one_hot(labels, cosines.shape[1]).bool()
    intra, inter = terms[own].sum() / len(labels), terms.masked_fill(own, 0).sum() / len(labels)
    detached = cosines.detach()
    return Loss(
        loss=intra + inter, intra=intra, inter=inter, logits=scale * cosines, own_cosine=detached[own].mean(),
        other_cosine=detached.masked_fill(own, 0).mean(),
    )  # fmt: skip


class SFaceLoss(nn.Module):
    """Class vectors and the loss: (B, dim), (B,) -> `Loss`.

    Parameters
    ----------
    dim, classes
        Length of an embedding, number of people.
    scale, k, a, b
        See `intra_scale` and `inter_scale`; angles in radians, ``0 < a < b < pi``.

    Attributes
    ----------
    weight
        (classes, dim), not normalised, as in the released ``Head_….pth``.

    Raises
    ------
    OptionError
        A number out of its range.
    """

    def __init__(
        self, dim: int, *, classes: int, scale: float = SCALE, k: float = SLOPE, a: float = A, b: float = B
    ) -> None:
        super().__init__()
        if not (0 < a < b < math.pi and k > 0 and scale > 0):
            raise OptionError("a number of the loss is out of its range", got=f"scale={scale}, k={k}, a={a}, b={b}",
                              expected="0 < a < b < pi radians; k and scale above 0")  # fmt: skip
        self.scale, self.k, self.a, self.b = scale, k, a, b
        self.weight = nn.Parameter(torch.empty(classes, dim).normal_(0, 2 * math.sqrt(2 / classes)))

    def extra_repr(self) -> str:
        classes, dim = self.weight.shape
        return f"{dim}, classes={classes}, scale={self.scale}, k={self.k}, a={self.a}, b={self.b}"

    def forward(self, embeddings: Tensor, labels: Tensor) -> Loss:
        """Loss and figures of a batch; `embeddings` need not be normalised."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.weight.shape[1]:
            raise ShapeError(
                "embeddings do not fit the head",
                got=tuple(embeddings.shape),
                expected=f"(B, {self.weight.shape[1]})",
            )
        with torch.autocast(embeddings.device.type, enabled=False):
            z = embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings
            cosines = F.linear(F.normalize(z, dim=1), F.normalize(self.weight, dim=1))
        return sface_loss(cosines, labels, scale=self.scale, k=self.k, a=self.a, b=self.b)
