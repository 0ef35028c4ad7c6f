"""Masks of faces in the pixels of the picture: from the crop in which a network saw them, and as colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mien.errors import OptionError, ValueRangeError
from mien.faces import PARSING
from mien.media.images import Image

if TYPE_CHECKING:
    from mien.faces import Faces

__all__ = ["PARSING_COLOURS", "lay_parsing", "parsing_mask"]

PARSING_COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "skin": (255, 178, 140), "nose": (255, 133, 102), "eye_g": (110, 120, 255), "l_eye": (64, 200, 255),
    "r_eye": (64, 200, 255), "l_brow": (150, 104, 60), "r_brow": (150, 104, 60), "l_ear": (255, 150, 170),
    "r_ear": (255, 150, 170), "mouth": (150, 20, 50), "u_lip": (235, 60, 100), "l_lip": (245, 85, 120),
    "hair": (92, 242, 195), "hat": (250, 210, 70), "ear_r": (255, 255, 120), "neck_l": (255, 240, 160),
    "neck": (214, 160, 220), "cloth": (120, 150, 200),
}  # fmt: skip
"""Colour of each class; the background has none."""

OPACITY: Final = 0.5


def parsing_mask(faces: Faces, row: int, *, height: int, width: int) -> NDArray[np.uint8]:
    """(height, width) uint8: the class of each pixel of the picture by the face in `row`, 0 (background) around it.

    Parameters
    ----------
    faces
        With `parsing` and `parsing_matrix`.
    row
        Which of them.
    height, width
        Of the picture in pixels.

    Raises
    ------
    MissingColumn
        Nobody has parsed the faces.
    ValueRangeError
        There is no such row.
    OptionError
        The size is not positive.
    """
    return _placed(faces, row, np.eye(2, 3), (height, width))


def lay_parsing(canvas: Image, faces: Faces, row: int, *, scale: float = 1.0) -> None:
    """Colours the parts of a face into a picture that is `scale` times as large as that of the faces; in place.

    Errors as `parsing_mask`.
    """
    grown = np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]])
    mask = _placed(faces, row, grown, canvas.shape[:2])
    table = np.zeros((256, 4), np.float32)
    for name, colour in PARSING_COLOURS.items():
        table[PARSING.index(name)] = (*colour, OPACITY)
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return
    for start in range(int(rows[0]), int(rows[-1]) + 1, 256):
        strip = canvas[start : min(start + 256, int(rows[-1]) + 1)]
        paint = table[mask[start : start + len(strip)]]
        strip[:] = np.rint(strip + (paint[..., :3] - strip) * paint[..., 3:])


def _placed(faces: Faces, row: int, grown: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The classes in a picture whose pixels are `grown` (2, 3) times those of the faces' picture."""
    import cv2

    if not -len(faces) <= row < len(faces):
        raise ValueRangeError("there is no such face", got=row, expected=f"0 to {len(faces) - 1}")
    height, width = shape[:2]
    if height < 1 or width < 1:
        raise OptionError("a picture has pixels", got=f"{height} x {width}", expected="at least one")
    whole = np.vstack([grown, [0, 0, 1]]) @ np.linalg.inv(np.vstack([faces.parsing_matrix[row], [0, 0, 1]]))
    # One class at a time would be smooth; nearest is exact, and on faces larger than the crop a soft edge is made by
    # enlarging each class of the crop first.
    crop = np.ascontiguousarray(faces.parsing[row])
    zoom = float(np.sqrt(abs(np.linalg.det(whole[:2, :2]))))
    if zoom <= 1.0:
        near = cv2.warpAffine(crop, whole[:2], (width, height), flags=cv2.INTER_NEAREST, borderValue=0)
        return np.asarray(near, np.uint8)
    best = np.full((height, width), 0.5, np.float32)
    mask: NDArray[np.uint8] = np.zeros((height, width), np.uint8)
    corners = np.array([[0, 0, 1], [crop.shape[1], 0, 1], [0, crop.shape[0], 1], [*crop.shape[::-1], 1]]).T
    placed = (whole @ corners)[:2]
    x0, y0 = (max(0, int(v) - 2) for v in placed.min(1))
    x1, y1 = (min(most, int(v) + 3) for most, v in zip((width, height), placed.max(1), strict=True))
    if x1 <= x0 or y1 <= y0:
        return mask
    local = whole[:2].copy()
    local[:, 2] -= (x0, y0)
    for number in np.unique(crop):
        share = cv2.warpAffine((crop == number).astype(np.float32), local, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        part = best[y0:y1, x0:x1]
        stronger = share > part if number else share >= 1.0
        part[stronger] = share[stronger]
        mask[y0:y1, x0:x1][stronger] = number
    return mask
