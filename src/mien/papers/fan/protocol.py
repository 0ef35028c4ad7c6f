"""The paper's measurements, and LS3D-W: sets with 2D points made over into sets with 3D ones.

The error of a face is the mean distance of its points by the root of the area of the box around the true ones; the
figure is the area under the curve of errors up to 7 % (`mien.metrics.auc_at`; the scripts sample it at 70 thresholds,
`mien.metrics.auc_sampled`). LS3D-W's balanced part has a third of its pictures in each range of yaw: 0 to 30, 30 to 60
and 60 to 90 degrees.
"""

from __future__ import annotations

import csv
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import MienError, OptionError, TableError
from mien.geometry.checks import doubles
from mien.geometry.projected import yaw_of
from mien.metrics import auc_at, auc_sampled, nme
from mien.nn.fan import FAN
from mien.papers.fan.align import guided

__all__ = ["LIMIT", "RANGES", "Accuracy", "accuracy", "balanced", "build_ls3dw", "yaw_of"]

LIMIT = 0.07
RANGES: tuple[tuple[float, float], ...] = ((0.0, 30.0), (30.0, 60.0), (60.0, 90.0))
"""Ranges of absolute yaw, degrees; the last one takes what is beyond it too."""
MISMATCH = 1.75
"""Pixels that the released evaluation adds to predictions on 300W, where points are counted from 1; nowhere else."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How well points were found.

    Parameters
    ----------
    faces
        How many.
    nme
        Mean error, a share of the root of the area of the points' box.
    auc, auc_script
        Area under the curve of errors up to 7 %, by 7 %: exact, and as the released script samples it.
    nme_by_yaw, auc_by_yaw
        For each of `RANGES`, where yaws were given and somebody is in it.
    """

    faces: int
    nme: float
    auc: float
    auc_script: float
    nme_by_yaw: dict[str, float] = field(default_factory=dict)
    auc_by_yaw: dict[str, float] = field(default_factory=dict)


def accuracy(predicted: ArrayLike, true: ArrayLike, *, yaw: ArrayLike | None = None, shift: float = 0.0) -> Accuracy:
    """The paper's figures.

    Parameters
    ----------
    predicted, true : (n, k, 2 or 3)
        Points in pixels; a third coordinate has no say.
    yaw : (n,)
        Degrees, for the figures by yaw.
    shift
        Pixels added to x and y of the predictions. The released evaluation adds 1.75 on 300W, whose points count from
        1; on LS3D-W that would cost 17 points of AUC.

    Raises
    ------
    ShapeError, ValueRangeError
        Arrays that do not fit, no faces, or a face without extent.
    """
    p, t = doubles("predicted", predicted, "n k d"), doubles("true", true, "n k d")
    errors = nme(p[..., :2] + shift, t[..., :2], normaliser="box")
    rows: dict[str, NDArray[np.bool_]] = {}
    if yaw is not None:
        where = _range_of(doubles("yaw", yaw, "n"))
        rows = {f"{low:g}-{high:g}": where == number for number, (low, high) in enumerate(RANGES)}
    return Accuracy(
        faces=len(errors),
        nme=float(errors.mean()),
        auc=auc_at(errors, LIMIT),
        auc_script=auc_sampled(errors, LIMIT),
        nme_by_yaw={name: float(errors[some].mean()) for name, some in rows.items() if some.any()},
        auc_by_yaw={name: auc_at(errors[some], LIMIT) for name, some in rows.items() if some.any()},
    )


def _range_of(yaw: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.searchsorted([low for low, _ in RANGES[1:]], np.abs(yaw), side="right").astype(np.int64)


def balanced(yaw: ArrayLike, count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Rows (count,) of a set, sorted, a third of them in each of `RANGES`: LS3D-W's balanced part has 7,200.

    Raises
    ------
    OptionError
        A count that is no multiple of 3, or too few pictures in a range.
    """
    where = _range_of(doubles("yaw", yaw, "n"))
    each, rest = divmod(count, len(RANGES))
    there = np.bincount(where, minlength=len(RANGES))
    if rest or each < 1 or (there < each).any():
        raise OptionError(
            "the set cannot be balanced so", got=f"{count} of {there.tolist()} in the ranges of yaw",
            expected=f"a multiple of 3, at most {3 * int(there.min())}",
        )  # fmt: skip
    rng = np.random.default_rng(seed)
    rows = [rng.choice(np.flatnonzero(where == number), each, replace=False) for number in range(len(RANGES))]
    return np.sort(np.concatenate(rows)).astype(np.int64)


def build_ls3dw(
    source: str | os.PathLike[str], out: str | os.PathLike[str], network: FAN, *, mirror: bool = False,
    size: int = 256, progress: Callable[[int, int | None, str], None] | None = None,
) -> Path:  # fmt: skip
    """Makes a set of 2D points over into one of 3D points, as LS3D-W was made: 2D-to-3D-FAN, guided by the 2D ones.

    No human has a say but by the 2D points. Next to each picture, which is copied, a ``.pts`` file with the projected
    points of the head is written, the form of 300W, and ``points.csv`` lists all with their yaw, for
    ``mien evaluate landmarks --points``.

    Parameters
    ----------
    source
        Folder with 68 points a picture: 300W and kin (``.pts`` beside the pictures: 300W, Menpo, 300VW's frames).
    out
        Folder of the new set.
    network
        2D-to-3D-FAN, in eval mode.
    mirror
        Whether the mirrored crop has a say.
    size
        Side of the crops in pixels.
    progress
        Called as ``progress(done, total, what)``.

    Returns
    -------
    The table.

    Raises
    ------
    MediaNotFound, TableError
        No such set, or its points are not 68.
    """
    from mien.data.formats import read_300w
    from mien.data.formats.landmarks import write_pts

    samples = read_300w(source)
    if samples.points is None or samples.points.shape[1] != 68:
        raise TableError("68 points are made over", got=None if samples.points is None else samples.points.shape,
                         expected="68 points a picture")  # fmt: skip
    out = Path(out)
    names, heads = [], []
    for row, key, placed in _made_over(samples.keys, source, samples.points, network, mirror=mirror, size=size):
        target = out / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(source) / key, target)
        write_pts(target.with_suffix(".pts"), placed.astype(np.float32))
        names.append(key)
        heads.append(placed)
        if progress is not None:
            progress(row + 1, len(samples), "pictures")
    table = out / "points.csv"
    if not heads:
        raise TableError("no picture of the set can be read", got=str(source))
    yaws = yaw_of(np.stack(heads))
    with table.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        columns = [f"{axis}{index}" for index in range(68) for axis in "xy"]
        writer.writerow(["file", "yaw", "yaw_range", *columns])
        for name, yaw, placed in zip(names, yaws, heads, strict=True):
            low, high = RANGES[int(_range_of(np.array([yaw]))[0])]
            writer.writerow([name, f"{yaw:.1f}", f"{low:g}-{high:g}", *(f"{v:.3f}" for v in placed.ravel())])
    return table


def _made_over(
    keys: Sequence[str], source: str | os.PathLike[str], points: Iterable[NDArray[np.float32]], network: FAN, *,
    mirror: bool, size: int,
) -> Iterator[tuple[int, str, NDArray[np.float64]]]:  # fmt: skip
    from mien.data.pixels import read

    for row, (key, given) in enumerate(zip(keys, points, strict=True)):
        try:
            picture = read(Path(source) / key)
        except MienError as error:
            log.warning("%s is left out: %s", key, error)
            continue
        yield row, key, guided(network, picture, given[None], mirror=mirror, size=size).points[0]
