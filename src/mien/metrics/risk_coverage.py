"""Does a score of single pictures foretell which of them are recognised wrongly? Risk against coverage.

Pictures are accepted from the best score down. At each coverage (share accepted) the risk is the share of errors among
what is accepted; the area under that curve is small where errors come last (El-Yaniv and Wiener, JMLR 11, 2010).
`mien.metrics.error_versus_discard` is the like for comparisons of two pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mien.errors import ShapeError
from mien.geometry.checks import Double, bools, doubles, same_length

__all__ = ["RiskCoverage", "risk_coverage"]


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """Risk of the accepted pictures at every coverage.

    Parameters
    ----------
    coverage : (n,)
        1/n, 2/n, … 1.
    risk : (n,)
        Share of errors among so many of the best; where scores are equal, its mean over their orders.
    """

    coverage: Double
    risk: Double

    @property
    def area(self) -> float:
        """Mean risk over all coverages. A score that says nothing gives the share of errors, `random`."""
        return float(self.risk.mean())

    @property
    def random(self) -> float:
        """The area that any order by chance gives on average: the share of errors."""
        return float(self.risk[-1])

    @property
    def ideal(self) -> float:
        """The area of an order that puts all errors last."""
        n = len(self.risk)
        errors = round(float(self.risk[-1]) * n)
        return float(np.maximum(0, np.arange(1, n + 1) - (n - errors)) @ (1 / np.arange(1, n + 1)) / n)


def risk_coverage(wrong: ArrayLike, quality: ArrayLike) -> RiskCoverage:
    """The risk-coverage curve of a quality score.

    Parameters
    ----------
    wrong : (n,)
        Whether each picture was recognised wrongly.
    quality : (n,)
        Its quality; higher is better, any scale.

    Raises
    ------
    ShapeError, DtypeError, ValueRangeError
        No pictures, or arrays that do not fit.
    """
    errors, score = bools("wrong", wrong, "n"), doubles("quality", quality, "n")
    same_length(wrong=errors, quality=score)
    if not len(errors):
        raise ShapeError("a risk needs pictures", got="none")
    _, level, count = np.unique(-score, return_inverse=True, return_counts=True)
    # Over all orders of equal scores, each of them has on average the errors of all by their number.
    share = np.bincount(level, errors) / count
    expected = np.repeat(share, count)
    taken = np.arange(1, len(errors) + 1)
    return RiskCoverage(taken / len(errors), np.cumsum(expected) / taken)
