"""Does a quality score foretell recognition? Error versus discard (Grother, Tabassi, PAMI 29(4), 2007).

Comparisons with the poorest pictures are discarded first; a good quality score makes the false non-match
rate of the rest fall fast (ISO/IEC 29794-1 calls the curve EDC).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mien.errors import ValueRangeError
from mien.geometry.checks import Double, bools, doubles, number, same_length
from mien.metrics.verification import threshold_at_fmr


@dataclass(frozen=True, slots=True)
class ErrorVersusDiscard:
    """False non-match rate of what remains, as genuine comparisons of poor quality are discarded.

    Parameters
    ----------
    discarded : (m,)
        Share of genuine comparisons that is gone, rising from 0; the curve holds each rate until the next
        share.
    fnmr : (m,)
        Of the remaining ones, at the fixed threshold.
    minimum_quality : (m,)
        What remains has at least this quality.
    threshold
        Of the comparison score; it does not move along the curve.
    """

    discarded: Double
    fnmr: Double
    minimum_quality: Double
    threshold: float

    def at(self, discarded: float) -> float:
        """The rate after at most this share, 0 to below 1, was discarded."""
        number("discarded", discarded, 0, 1, open_high=True)
        return float(self.fnmr[np.searchsorted(self.discarded, discarded * (1 + 1e-12), "right") - 1])

    def area(self, limit: float = 0.3) -> float:
        """Mean rate while the share discarded goes from 0 to `limit` (the area, divided by `limit`)."""
        return _area(self.discarded, self.fnmr, limit)

    def gain(self, limit: float = 0.3) -> float:
        """How much of what quality could give it gives: 0 discards at random, 1 discards just the errors.

        ``(random - area) / (random - ideal)`` up to `limit`. Below 0 it is worse than chance.
        """
        start = float(self.fnmr[0])
        if start == 0:
            raise ValueRangeError(
                "without an error nothing can be gained by discarding",
                got="FNMR 0 at the threshold",
                hint="set the threshold for a lower false match rate",
            )
        # Errors go first: (start - x) / (1 - x) remains after a share x, integrated.
        stop = min(start, number("limit", limit, 0, 1, open_low=True, open_high=True))
        ideal = (stop + (1 - start) * np.log1p(-stop)) / limit
        return float((start - self.area(limit)) / (start - ideal))

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        curve = {k: getattr(self, k).tolist() for k in ("discarded", "fnmr", "minimum_quality")}
        return {**curve, "threshold": self.threshold}


def error_versus_discard(
    scores: ArrayLike,
    same: ArrayLike,
    quality_a: ArrayLike,
    quality_b: ArrayLike,
    *,
    fmr: float | None = None,
    threshold: float | None = None,
) -> ErrorVersusDiscard:
    """The error-versus-discard curve of a quality score.

    A comparison is as good as the worse of its two pictures. Comparisons of equal quality go together.

    Parameters
    ----------
    scores, same : (n,)
        Comparison scores, and whether they are genuine.
    quality_a, quality_b : (n,)
        Quality of the two pictures of each comparison; higher is better, any scale.
    fmr, threshold
        One of them: the threshold, or the false match rate on all of the set that it is made for.

    Raises
    ------
    ShapeError, DtypeError
        Arrays that do not fit together.
    ValueRangeError
        Not exactly one of `fmr` and `threshold`, or too few impostor comparisons for `fmr`.
    """
    s, genuine = doubles("scores", scores, "n"), bools("same", same, "n")
    a, b = doubles("quality_a", quality_a, "n"), doubles("quality_b", quality_b, "n")
    same_length(scores=s, same=genuine, quality_a=a, quality_b=b)
    if (fmr is None) == (threshold is None):
        raise ValueRangeError("the curve needs one threshold", hint="give either fmr or threshold")
    if not genuine.any():
        raise ValueRangeError("no genuine comparison", got=f"{len(s)} impostor comparisons")
    if fmr is not None:
        threshold = threshold_at_fmr(scores, same, fmr)
    assert threshold is not None
    quality = np.minimum(a, b)[genuine]
    order = np.argsort(quality, kind="stable")
    wrong, quality = (s[genuine] < threshold)[order], quality[order]
    starts = np.concatenate([[0], np.flatnonzero(quality[1:] != quality[:-1]) + 1])
    wrong_from = wrong.sum() - np.concatenate([[0], np.cumsum(wrong)])[starts]
    n = len(quality)
    return ErrorVersusDiscard(starts / n, wrong_from / (n - starts), quality[starts], float(threshold))


def _area(discarded: Double, fnmr: Double, limit: float) -> float:
    number("limit", limit, 0, 1, open_low=True, open_high=True)
    inside = discarded < limit
    edges = np.append(discarded[inside], limit)
    return float((np.diff(edges) * fnmr[inside]).sum() / limit)
