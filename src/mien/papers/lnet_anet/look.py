"""Where the LNets look in a photograph, and what ANet reads there: no detector, no box, no landmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mien.data.pixels import Picture
from mien.nn.anet import CELEBA, Cascade
from mien.nn.inputs import to_input
from mien.nn.lnet import LNet, settled

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Look:
    """What the cascade makes of one photograph.

    Parameters
    ----------
    image : (H, W, 3) uint8
    response : (H, W) float32
        LNet_o's averaged response, less its median; what lies below is 0.
    head, face : (4,) float32
        The windows of LNet_o and LNet_s, xyxy px.
    score
        Of the face window, in units of LNet_s's response.
    attributes
        Decision by name, above 0 is yes; empty where the network has other tags than CelebA's.
    """

    image: Picture
    response: Floats
    head: Floats
    face: Floats
    score: float
    attributes: dict[str, float]


@torch.no_grad()
def look(network: Cascade, source: Any) -> Look:
    """Finds the face of a photograph and reads its attributes.

    Parameters
    ----------
    network
        As `load_cascade` gives it.
    source
        Path, array, PIL image, bytes or file object.

    Raises
    ------
    MediaError, ShapeError …
        As `mien.media.load_image`.
    """
    from mien.media import load_image

    image = load_image(source)
    device = next(network.parameters()).device
    given = to_input(torch.from_numpy(np.ascontiguousarray(image))[None]).to(device)
    read = network.eval()(given)
    tags = read.tags[0].cpu().tolist()
    return Look(
        image=image,
        response=heat(network.lnet_o, image, size=network.size),
        head=read.head[0].cpu().numpy(),
        face=read.face[0].cpu().numpy(),
        score=float(read.scores[0]),
        attributes=dict(zip(CELEBA, tags, strict=True)) if len(tags) == len(CELEBA) else {},
    )


@torch.no_grad()
def heat(network: LNet, image: Picture, *, size: int) -> Floats:
    """(H, W) averaged response of a picture (H, W, 3), less its median, laid over the picture's pixels.

    Parameters
    ----------
    network
        Any LNet.
    image
        The picture.
    size
        Side that its longer side is brought to, px.
    """
    device = next(network.parameters()).device
    height, width = image.shape[:2]
    side = max(height, width)
    given = to_input(torch.from_numpy(np.ascontiguousarray(image))[None]).to(device)
    square = F.pad(given, (0, side - width, 0, side - height))
    small = F.interpolate(square, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    cells = settled(network.response(small))[0].clamp_min(0).cpu().numpy()
    first, pitch = network.cells
    # From cells to the picture's pixels: middles of both, hence the halves.
    factor = pitch * side / size
    shift = first * side / size + 0.5 * factor - 0.5
    matrix = np.array([[factor, 0, shift], [0, factor, shift]])
    drawn = cv2.warpAffine(cells, matrix, (width, height), flags=cv2.INTER_LINEAR)
    return np.asarray(drawn, np.float32)


def overlay(image: Picture, response: Floats, *, strength: float = 0.6) -> Picture:
    """(H, W, 3): the picture in grey, and over it the response (H, W) from dark over red to yellow."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    share = response / max(1e-6, float(response.max()))
    colour = cv2.cvtColor(cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_HOT), cv2.COLOR_BGR2RGB)
    weight = strength * np.sqrt(np.clip(share, 0, 1))[..., None]
    return np.asarray(np.rint((1 - weight) * 0.8 * grey + weight * colour).clip(0, 255), np.uint8)
