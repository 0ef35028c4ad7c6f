"""300W-LP and its kin: pictures with 68 points in Matlab's files, visible ones and those of the head behind them.

    300W_LP/AFW/AFW_1051618982_1_0.jpg          450 x 450 px, turned by 3D profiling
    300W_LP/AFW/AFW_1051618982_1_0.mat          pt2d (2, k)
    300W_LP/landmarks/AFW/AFW_…_1_0_pts.mat     pts_2d, pts_3d (68, 2)
    AFLW2000/image00002.jpg, image00002.mat     pt3d_68 (3, 68): x, y and depth

X. Zhu et al., "Face Alignment Across Large Poses", CVPR 2016. The sets are for research only. Matlab counts pixels from
1; as in `mien.data.formats.read_pts`, 1 is subtracted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.errors import MediaNotFound, OptionError, TableError

__all__ = ["KINDS", "Landmarked", "read_w300lp"]

KINDS = ("2d", "3d")
"""Points of the visible contour; points of the head, projected."""

PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, eq=False)
class Landmarked:
    """Pictures and their points.

    Parameters
    ----------
    files
        Paths of the pictures.
    points_2d, points_3d : (n, 68, 2), (n, 68, 2 or 3) or None
        Points of the visible contour; those of the head, with a depth where the set has one. Pixels, the middle of the
        first is 0; smaller depth is nearer.
    """

    files: tuple[Path, ...]
    points_2d: NDArray[np.float32] | None
    points_3d: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.files)


def read_w300lp(root: str | os.PathLike[str], *, need: tuple[str, ...] = KINDS, deep: bool = False) -> Landmarked:
    """All pictures below `root` that have the points needed.

    Parameters
    ----------
    root
        Folder of 300W-LP, of one of its parts, or of a set in the same form.
    need
        Of `KINDS`: which points a picture must have; others are left out.
    deep
        Whether the points of the head need a depth, as AFLW2000-3D gives it.

    Raises
    ------
    MediaNotFound
        No folder, or no picture with the points needed.
    TableError
        A file of points cannot be read, or holds another number of points.
    OptionError
        Unknown `need`.
    """
    root = Path(root)
    if not need or not set(need) <= set(KINDS):
        raise OptionError("unknown points", got=need, expected=KINDS)
    if not root.is_dir():
        raise MediaNotFound("there is no such folder", got=root)
    tables = root / "landmarks" if (root / "landmarks").is_dir() else root.parent / "landmarks"
    files: list[Path] = []
    rows: list[dict[str, NDArray[np.float32]]] = []
    for file in sorted(path for path in root.rglob("*") if path.suffix.lower() in PICTURES):
        found = _points_of(file, tables)
        if set(need) <= found.keys() and (not deep or found["3d"].shape[1] == 3):
            files.append(file)
            rows.append(found)
    if not files:
        raise MediaNotFound(
            "no picture has the points", got=root,
            expected=f"pictures with .mat files of {' and '.join(need)} points{', with depth' if deep else ''}",
        )  # fmt: skip

    def column(kind: str) -> NDArray[np.float32] | None:
        if kind not in need:
            return None
        flat = min(row[kind].shape[1] for row in rows)
        return np.stack([row[kind][:, :flat] for row in rows])

    return Landmarked(tuple(files), column("2d"), column("3d"))


def _points_of(file: Path, tables: Path) -> dict[str, NDArray[np.float32]]:
    """Points by kind, of the file in `tables` and of that beside the picture."""
    found: dict[str, NDArray[np.float32]] = {}
    for table in (tables / file.parent.name / f"{file.stem}_pts.mat", file.with_suffix(".mat")):
        if not table.is_file():
            continue
        content = _matlab(table)
        for name, kind in (("pts_2d", "2d"), ("pts_3d", "3d"), ("pt3d_68", "3d"), ("pt2d", "2d")):
            if name in content and kind not in found:
                points = np.asarray(content[name], np.float32)
                points = points.T if len(points) in (2, 3) else points
                if points.shape[0] == 68:  # pt2d of some pictures has 21, those of AFLW
                    found[kind] = _zero_based(points, table)
    return found


def _zero_based(points: NDArray[np.float32], table: Path) -> NDArray[np.float32]:
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not np.isfinite(points).all():
        raise TableError(f"{table.name} holds what are no points", got=points.shape, expected="(68, 2 or 3), finite")
    moved = points.copy()
    moved[:, :2] -= 1
    if moved.shape[1] == 3:
        # The model's z grows towards the camera.
        moved[:, 2] = moved[:, 2].mean() - moved[:, 2]
    return moved


def _matlab(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        return dict(loadmat(path))
    except Exception as error:  # scipy raises ValueError, TypeError, NotImplementedError, OSError … for damaged files
        raise TableError(
            f"{path.name} cannot be read", got=f"{type(error).__name__}: {error}", expected="a Matlab file up to v7.2"
        ) from error
