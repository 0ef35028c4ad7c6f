"""From which similarity on somebody is called by name: thresholds of an open-set search by its FPIR.

FPIR, the false positive identification rate (ISO/IEC 19795-1), is the share of searches for strangers that show
anybody. A search compares a face with all N of a gallery, so one false match in a thousand comparisons is a false
alarm in most searches of a gallery of a thousand. With independent comparisons

    FPIR = 1 - (1 - FMR)^N

which is the first estimate: it needs only the calibration that comes with the embedder. Faces of one person are alike,
so that with N faces (not people) it errs to the safe side. Beyond the smallest FMR that was measured, the threshold
goes on along the straight line through the last two points of log FMR; the tail of cosines between strangers falls
faster than that, so this errs to the safe side too, and results say ``extrapolated``.

Better is to measure: `measure` searches the gallery for each of its own people as if they were not in it. A measured
rate is carried to a gallery of another size by the same law, ``1 - (1 - FPIR)^(N' / N)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import GalleryError, OptionError
from mien.gallery.records import FpirPoint, SearchCalibration, today
from mien.metrics.identification import USUAL_FPIRS, Searches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.weights import Operating


@dataclass(frozen=True, kw_only=True)
class SearchThreshold:
    """A threshold, and how it came about.

    Parameters
    ----------
    threshold
        Similarity from which on somebody is shown.
    fpir
        The rate it stands for; None for a threshold the caller gave.
    origin
        "given", "measured on this gallery", or "estimated from the embedder's calibration".
    extrapolated
        Whether the rate lies beyond what was measured.
    fmr
        The false match rate of one comparison that it stands for, if it was estimated.
    faces
        Size of the gallery that it holds for.
    """

    threshold: float
    fpir: float | None
    origin: str
    extrapolated: bool = False
    fmr: float | None = None
    faces: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def given(threshold: float) -> SearchThreshold:
    """The threshold that a caller chose."""
    if not -1 <= threshold <= 1:
        raise OptionError("a threshold is a cosine", got=threshold, expected="-1 to 1")
    return SearchThreshold(threshold=float(threshold), fpir=None, origin="given")


def estimated(fpir: float, faces: int, points: Sequence[Operating]) -> SearchThreshold:
    """The threshold for a rate in a gallery of so many faces, from the embedder's calibration.

    Raises
    ------
    OptionError
        The rate is none, or the embedder comes without a calibration.
    """
    _check(fpir)
    if not points:
        raise OptionError(
            "the embedder comes without a calibration", expected="a threshold",
            hint="give threshold=, or measure one: mien gallery calibrate FILE",
        )  # fmt: skip
    rising = sorted(points, key=lambda point: -point.fmr)
    fmr = -math.expm1(math.log1p(-fpir) / max(1, faces))
    levels = np.array([point.threshold for point in rising])
    rates = np.log10([point.fmr for point in rising])
    level, beyond = _along(math.log10(fmr), rates, levels)
    return SearchThreshold(
        threshold=level, fpir=fpir, origin="estimated from the embedder's calibration", extrapolated=beyond, fmr=fmr,
        faces=faces,
    )  # fmt: skip


def measured(fpir: float, faces: int, calibration: SearchCalibration) -> SearchThreshold:
    """The threshold for a rate in a gallery of so many faces, from what was measured on it at another size."""
    _check(fpir)
    ratio = max(1, faces) / max(1, calibration.faces)
    # The rate that, at the size of the measurement, becomes the wanted one at the size of today.
    then = -math.expm1(math.log1p(-fpir) / ratio)
    rates = np.log10([point.fpir for point in calibration.points])
    levels = np.array([point.threshold for point in calibration.points])
    level, beyond = _along(math.log10(then), rates, levels)
    return SearchThreshold(
        threshold=level, fpir=fpir, origin="measured on this gallery", extrapolated=beyond, faces=faces
    )


def _check(fpir: float) -> None:
    if not 0 < fpir < 1:
        raise OptionError(
            "a false positive identification rate lies between 0 and 1", got=fpir, expected="such as 0.01"
        )


def _along(rate: float, rates: NDArray[Any], levels: NDArray[Any]) -> tuple[float, bool]:
    """The level at a log rate: between points along the line, beyond the last along the last piece; and whether it is
    beyond."""
    if rate >= rates[0] or len(rates) == 1:
        # More alarms than were measured at most: the first threshold makes fewer than that.
        return float(levels[0]), bool(rate > rates[0] + 1e-9 or rate < rates[0] - 1e-9)
    if rate >= rates[-1] - 1e-9:
        return float(np.interp(-rate, -rates, levels)), False
    slope = (levels[-1] - levels[-2]) / (rates[-1] - rates[-2])
    return float(min(1.0, levels[-1] + slope * (rate - rates[-1]))), True


def calibration_of(
    searches: Searches, *, score: str, faces: int, fpirs: Sequence[float] = USUAL_FPIRS, seed: int = 0
) -> SearchCalibration:
    """What searches measured, as the table that is kept with the gallery.

    Raises
    ------
    GalleryError
        Too few of them for any of the rates.
    """
    rates = searches.usable_fpirs(fpirs)
    strangers, mated = int((~searches.mated).sum()), int(searches.mated.sum())
    if not rates:
        raise GalleryError(
            "the gallery is too small to be calibrated on", got=f"{strangers} searches",
            expected=f"at least {math.ceil(1 / max(fpirs))}", hint="enrol more people, or give threshold= yourself",
        )  # fmt: skip
    points = []
    for fpir in rates:
        if mated:
            at = searches.at_fpir(fpir, repeats=200, seed=seed)
            limits = (at.threshold.low, at.threshold.high)
            low, high = (None if math.isnan(limit) else limit for limit in limits)
            points.append(FpirPoint(fpir=fpir, threshold=at.threshold.value, low=low, high=high, fnir=at.fnir.value))
        else:
            points.append(FpirPoint(fpir=fpir, threshold=searches.threshold_at_fpir(fpir)))
    return SearchCalibration(
        points=tuple(points), score=score, searches=strangers, mated=mated, people=searches.people, faces=faces,
        date=today(),
    )  # fmt: skip
