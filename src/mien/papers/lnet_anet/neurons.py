"""What single neurons of FC stand for, and how few of them an attribute needs (Liu et al., 2015, sections 3.3 and 4.2).

After pre-training on identities alone, single neurons of FC already tell sex, race and age apart, and each attribute is
well told by a sparse combination of about ten. Here neurons are chosen one after the other, each being the one that
brings most beside those that are chosen (orthogonal matching pursuit); the paper's L1 penalty chooses much the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import OptionError, ShapeError
from mien.nn.anet import CELEBA


@dataclass(frozen=True)
class Neuron:
    """The neurons of one attribute.

    Parameters
    ----------
    attribute
        Its name.
    best
        Number of the neuron that tells it best alone.
    auc
        Area under the curve of that neuron alone, 0.5 to 1; a neuron that falls silent counts too.
    chosen
        Numbers of the combined neurons, in the order they were chosen.
    explained
        Share of the attribute's variance that the combination explains, by the number of neurons.
    """

    attribute: str
    best: int
    auc: float
    chosen: tuple[int, ...]
    explained: tuple[float, ...]


def neurons(features: ArrayLike, tags: ArrayLike, *, names: Sequence[str] = CELEBA, most: int = 10) -> list[Neuron]:
    """Which neurons stand for which attribute.

    Parameters
    ----------
    features : (n, d)
        FC of ANet (`mien.nn.anet.ANet.features`).
    tags : (n, k)
        1, 0 or NaN. Attributes that are unknown, or the same everywhere, are left out.
    names
        Of the k attributes.
    most
        Neurons of a combination.
    """
    x, y = np.asarray(features, np.float64), np.asarray(tags, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or y.shape[1] != len(names):
        raise ShapeError(
            "features and tags do not fit", got=(x.shape, y.shape), expected=f"(n, d) and (n, {len(names)})"
        )
    if most < 1:
        raise OptionError("a combination needs neurons", got=most, expected="at least 1")
    found = []
    for name, column in zip(names, y.T, strict=True):
        known = np.isfinite(column)
        if not known.any() or column[known].min() == column[known].max():
            continue
        areas = _areas(x[known], column[known] > 0.5)
        strength = np.maximum(areas, 1 - areas)
        best = int(strength.argmax())
        chosen, explained = _pursued(x[known], column[known], most)
        found.append(Neuron(name, best, float(strength[best]), chosen, explained))
    return found


def _areas(x: NDArray[Any], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(d,) area under the curve of each column; ties count half (Mann and Whitney)."""
    from scipy.stats import rankdata

    ranks = rankdata(x, axis=0)
    yes, no = int(truth.sum()), int((~truth).sum())
    return np.asarray((ranks[truth].sum(0) - yes * (yes + 1) / 2) / (yes * no), np.float64)


def _pursued(x: NDArray[Any], y: NDArray[Any], most: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    centred, target = x - x.mean(0), y - y.mean()
    norms = np.linalg.norm(centred, axis=0)
    usable = norms > 1e-9 * max(1.0, float(norms.max(initial=0)))
    total, residual = float(target @ target), target
    chosen: list[int] = []
    explained: list[float] = []
    while len(chosen) < min(most, int(usable.sum())):
        gain = np.where(usable, np.abs(centred.T @ residual) / np.where(usable, norms, 1), -1)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        part = centred[:, chosen]
        residual = target - part @ np.linalg.lstsq(part, target, rcond=None)[0]
        explained.append(1 - float(residual @ residual) / total)
    return tuple(chosen), tuple(explained)
