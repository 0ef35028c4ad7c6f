"""How the paper measures: the true accept rate at the point of the curve whose false accept rate is nearest.

`mien.metrics` states a rate at a threshold that keeps the false match rate; the paper's tables, as IJB's customary
script, take the nearest point of the curve, which may lie above. Templates are `mien.metrics.templates` with
``weights="norm"``: vectors of one medium are averaged and media summed as they come from the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import ValueRangeError
from mien.metrics.templates import Templates, pool_templates

__all__ = ["FARS", "ijb_templates", "tar_at_nearest_far"]

FARS = (1e-5, 1e-4)
"""Of the paper's tables on IJB-B, IJB-C and K-FACE."""


def tar_at_nearest_far(scores: ArrayLike, same: ArrayLike, fars: Sequence[float] = FARS) -> NDArray[np.float64]:
    """TAR (len(fars),) at the points of the ROC curve whose FAR is nearest; of equally near ones the higher.

    Parameters
    ----------
    scores : (n,)
        The higher, the more alike.
    same : (n,)
        Whether a pair shows one person.
    fars
        False accept rates.

    Raises
    ------
    ValueRangeError
        There is no pair of one person, or none of two.
    """
    from sklearn.metrics import roc_curve

    truth = np.asarray(same, bool)
    if truth.all() or not truth.any():
        raise ValueRangeError("a curve needs both kinds of pairs", got=f"{int(truth.sum())} of {truth.size} the same")
    far, tar, _ = roc_curve(truth, np.asarray(scores))
    far, tar = far[::-1], tar[::-1]
    return np.array([tar[np.abs(far - wanted).argmin()] for wanted in fars])


def ijb_templates(vectors: ArrayLike, template: ArrayLike, media: ArrayLike) -> Templates:
    """Templates of IJB as the paper pools them: no mirror image, no normalisation before the sum over media.

    Parameters
    ----------
    vectors : (n, d)
        Of faces, *not* normalised: their lengths are weights.
    template, media : (n,)
        To which template each face belongs, and to which medium of it.
    """
    return pool_templates(vectors, template, media=media, weights="norm")
