"""From pictures and boxes to parts of faces: the paper's inference, and a network for ``mien analyze --parse``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from mien.errors import OptionError
from mien.faces import PARSING
from mien.geometry.checks import floats
from mien.geometry.tanh_polar import Frame, Kind

Sides = Literal["picture", "person"]

_ELEVEN = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "mouth", "l_lip", "hair",
)  # fmt: skip
CLASSES: Mapping[int, tuple[str, ...]] = {11: _ELEVEN, 14: (*_ELEVEN, "l_ear", "r_ear", "eye_g")}
"""Classes of the released networks by their number, in the names of `mien.faces.PARSING`; skin includes the scalp,
mouth is the inside, eye_g glasses."""

CROP, MARGIN = 576, 3.0
"""Of the crop that the verbs cut: side in pixels, and how many times the longer side of the box it is wide."""
ASPECT = 0.9
"""Width by height of a face box: the median of 953 drawn for the detector's training."""
FLOOR = 1e-9
"""Least probability: the logarithm of a class that a network does not have stays finite."""


def other_side(name: str) -> str:
    """The name of the part that a part becomes in the mirror."""
    return {"l": "r", "r": "l"}[name[0]] + name[1:] if name in _SIDED else name


_SIDED = frozenset(f"{side}_{part}" for side in "lr" for part in ("brow", "eye", "ear"))


def mirrored(names: Sequence[str]) -> tuple[int, ...]:
    """Class that each of `names` becomes in the mirror image: left and right change places.

    Raises
    ------
    OptionError
        One side of a pair is missing.
    """
    try:
        return tuple(list(names).index(other_side(name)) for name in names)
    except ValueError as error:
        raise OptionError(
            "a part has no counterpart on the other side", got=names, expected="pairs l_… and r_…"
        ) from error


class CropParser(nn.Module):
    """Square crops about a face -> logits of the 19 classes of `mien.faces.PARSING`, (B, 3, S, S) -> (B, 19, S, S).

    The box is known without being told: the crop was cut so that it lies in the middle, a `margin`-th as high as the
    crop. The crop is warped around it, parsed, and the probabilities come back (`Frame.probabilities`), as logarithms.
    A class that the network does not have gets that of `FLOOR`.

    Parameters
    ----------
    segmenter
        (B, 3, warp, warp), boxes (B, 4) -> (B, classes, warp, warp).
    names
        Of its classes, out of `mien.faces.PARSING`; several may bear one name.
    warp
        Side of its map.
    size, margin
        Side of the crop, and by how much it is higher than the box.
    aspect
        Width of the box by its height.
    sides
        Whose left is meant by the names; "person" changes left and right.
    frame, crop_margin
        See `mien.geometry.tanh_polar.Frame`.
    """

    route: Tensor

    def __init__(
        self,
        segmenter: nn.Module,
        *,
        names: Sequence[str],
        warp: int,
        size: int = CROP,
        margin: float = MARGIN,
        aspect: float = ASPECT,
        sides: Sides = "picture",
        frame: str = "polar",
        crop_margin: float = 1.0,
    ) -> None:
        super().__init__()
        if unknown := [name for name in names if name not in PARSING]:
            raise OptionError("unknown parts of a face", got=unknown, expected=PARSING)
        if sides not in ("picture", "person"):
            raise OptionError.unknown("unknown sides", sides, ("picture", "person"))
        self.segmenter = segmenter
        self.frame = Frame(cast(Kind, frame), warp, margin=crop_margin)
        self.background = list(names).index("background")
        seen = [other_side(name) if sides == "person" else name for name in names]
        route = torch.tensor([[float(part == name) for name in seen] for part in PARSING])
        self.register_buffer("route", route, persistent=False)
        high = size / margin
        middle = (size - 1) / 2
        self.box = (middle - aspect * high / 2, middle - high / 2, middle + aspect * high / 2, middle + high / 2)

    def forward(self, x: Tensor) -> Tensor:
        boxes = x.new_tensor([self.box]).expand(x.shape[0], 4)
        # Outside of the crop is black, as it is in a picture that ends there; zero would be grey.
        maps = self.frame.warp(x + 1, boxes) - 1
        probabilities = self.segmenter(maps, boxes).float().softmax(1)
        shape = (int(x.shape[2]), int(x.shape[3]))
        back = self.frame.probabilities(probabilities, boxes, shape, background=self.background)
        return torch.einsum("pc,bchw->bphw", self.route, back).clamp_min(FLOOR).log()


@torch.inference_mode()
def parse(
    network: nn.Module,
    image: NDArray[np.uint8],
    boxes: ArrayLike,
    *,
    size: int = 513,
    colour: Literal["BGR", "RGB"] = "BGR",
    batch: int = 4,
) -> NDArray[np.uint8]:
    """Classes (n, h, w) of a whole picture for each of its boxes, as the paper does it, numbered as the network does.

    Parameters
    ----------
    network
        A `FaceSegmenter` in eval mode.
    image
        (h, w, 3) uint8 RGB.
    boxes
        (n, 4) pixels, of a detector, not enlarged.
    size
        Side of the map.
    colour
        Order of channels that the network wants; released ones BGR.
    batch
        Faces at a time.
    """
    given = floats("boxes", boxes, "n 4").astype(np.float32)
    frame = Frame("polar", size)
    device = next(network.parameters()).device
    height, width = image.shape[:2]
    classes = np.zeros((len(given), height, width), np.uint8)
    for start in range(0, len(given), batch):
        rows = given[start : start + batch]
        maps = torch.from_numpy(frame.images(np.ascontiguousarray(image), rows)).to(device)
        x = (maps.permute(0, 3, 1, 2).float() - 127.5) / 127.5
        rois = torch.from_numpy(rows).to(device)
        probabilities = network(x.flip(1) if colour == "BGR" else x, rois).float().softmax(1)
        for number in range(len(rows)):  # one at a time: a picture of 12 megapixels with 14 classes is 700 MB
            one = frame.probabilities(probabilities[number : number + 1], rois[number : number + 1], (height, width))
            classes[start + number] = one[0].argmax(0).to(torch.uint8).cpu().numpy()
    return classes
