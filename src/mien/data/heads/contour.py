"""Points as annotators of pictures mark them: where a turned head hides the jaw, along the outline that is seen.

The 68 points that `render` gives are those of the head itself: on a turned head the far side of the jaw lies behind the
cheek, and so do its points. People who mark photographs cannot see it and follow the outline of the cheek instead. For
each point of the far jaw that outline is found on the mesh, at the point's own height: the vertex that sticks out
farthest between the jaw and the middle of the face ("landmark marching": X. Zhu et al., CVPR 2015).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from mien.data.heads.figure import camera, columns, pose_figure
from mien.data.heads.params import HeadParameters
from mien.data.heads.parts import Model, model
from mien.errors import OptionError

__all__ = ["visible_contour"]

JAW = 17
BAND = 0.012
"""How far, in units of the head's height (v of its texture), a vertex may lie from the point's level."""
BATCH = 32


@lru_cache(1)
def _bands() -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Vertices (17, m) at the level of each point of the jaw, from it to the middle of the face, and which are real."""
    figure: Model = model()
    head = figure.slices["head"]
    around, level = (figure.uv[row, head].numpy() for row in (0, 1))
    rows = []
    for point in range(JAW):
        own = int(figure.landmarks[point]) - head.start
        near = np.abs(level - level[own]) < BAND
        side = np.sign(around[own]) or 1.0
        inside = (around * side <= abs(around[own])) & (around * side > -0.1)
        found = np.flatnonzero(near & inside)
        rows.append(np.unique(np.append(found, own)) + head.start)
    most = max(map(len, rows))
    padded = np.stack([np.pad(row, (0, most - len(row)), mode="edge") for row in rows])
    real = np.stack([np.arange(most) < len(row) for row in rows])
    return padded, real


def visible_contour(parameters: HeadParameters, *, size: int | tuple[int, int]) -> NDArray[np.float32]:
    """The 68 points (n, 68, 2) in pixels with the far side of the jaw on the outline that is seen.

    All but points 0 to 16 are those of `render`; so are those of the near side, and of a head that faces the camera.

    Parameters
    ----------
    parameters
        Controls, as from `sample`.
    size
        Side of the pictures in pixels, or height and width, as given to `render`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 8:
        raise OptionError("no picture is that small", got=f"{height} x {width}", expected="8 pixels or more")
    figure = model()
    bands, real = (torch.from_numpy(one) for one in _bands())
    half = torch.arange(JAW) < JAW // 2
    found = []
    with torch.inference_mode():
        for start in range(0, len(parameters), BATCH):
            rows = parameters[start : start + BATCH]
            p = columns(rows, torch.device("cpu"))
            points, spots = pose_figure(p, figure)
            eye = camera(p, height, width)
            seen = eye.project(spots)[:2].permute(1, 2, 0).clone()  # (n, 68, 2)
            flat = eye.project(points.index_select(2, bands.flatten()))[:2]
            outline = flat.view(2, len(rows), *bands.shape).permute(1, 2, 3, 0)  # (n, 17, m, 2)
            roll, yaw = torch.deg2rad(p["pose"][:, 2]), p["pose"][:, 0]
            axis = torch.stack([roll.cos(), roll.sin()], -1)  # the head's own left to right
            # A face that turns to the right hides the right half of its jaw, and sticks out to the right.
            outwards = torch.sign(yaw)[:, None, None] * axis[:, None]
            out = (outline * outwards[:, :, None]).sum(-1).masked_fill(~real, -torch.inf)
            best = out.argmax(2, keepdim=True)
            edge = outline.gather(2, best[..., None].expand(-1, -1, -1, 2))[:, :, 0]
            own = (seen[:, :JAW] * outwards).sum(-1)
            hidden = torch.where(yaw[:, None] > 0, ~half & (torch.arange(JAW) != JAW // 2), half)
            moves = hidden & (yaw[:, None] != 0) & (out.max(2).values > own + 0.05)
            seen[:, :JAW] = torch.where(moves[..., None], edge, seen[:, :JAW])
            found.append(seen.numpy())
    return np.concatenate(found) if found else np.zeros((0, 68, 2), np.float32)
