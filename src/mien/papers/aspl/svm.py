"""One linear SVM per person against all others: LIBLINEAR's L2-regularised squared hinge, for all persons at once.

    min_w  1/2 ||w||^2 + sum_i C_i max(0, 1 - y_i w.x_i)^2,    C_i = C * (class weight) * (sample weight)

All persons share the pictures, and differ in the signs y only. So Newton's steps of all of them are taken together: a
product of the Hessians with directions is two matrix products over all pictures and all persons, and conjugate
gradients need nothing else (Keerthi and DeCoste, 2005; Lin, Weng and Keerthi, 2008). The minimum is the one that
LIBLINEAR's solver 2 finds, which ``solver="liblinear"`` calls, person by person, through scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.errors import MissingExtra, OptionError, ShapeError, ValueRangeError

Floats = NDArray[np.floating]
Solver = Literal["newton", "liblinear"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)

BLOCK = 1 << 26
"""Numbers in an array of pictures by persons that are worked on at a time: 512 MB in float64."""


@dataclass(frozen=True, eq=False)
class OneVsRest:
    """Linear classifiers of k persons.

    Parameters
    ----------
    weights
        (k, d) float64.
    bias
        (k,) float64, added to the decision; 0 without a bias term.
    trained
        (k,) bool: which persons have a classifier. The others decide -inf for every picture.
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    trained: NDArray[np.bool_]

    @classmethod
    def untrained(cls, persons: int, dim: int) -> OneVsRest:
        """No classifier for any of `persons`."""
        return cls(np.zeros((persons, dim)), np.zeros(persons), np.zeros(persons, np.bool_))

    def __len__(self) -> int:
        return len(self.weights)

    def decisions(self, x: Floats) -> NDArray[np.floating]:
        """(n, d) features to (n, k) decisions in the type of `x`, by one matrix product; a margin is 1."""
        if x.ndim != 2 or x.shape[1] != self.weights.shape[1]:
            raise ShapeError(
                "the features do not fit the classifiers", got=x.shape, expected=("n", self.weights.shape[1])
            )
        found = x @ self.weights.astype(x.dtype).T
        found += self.bias.astype(x.dtype)
        found[:, ~self.trained] = -np.inf
        return cast(NDArray[np.floating], found)


def fit_one_vs_rest(
    x: Floats,
    labels: NDArray[np.integer],
    *,
    persons: int,
    cost: float = 1.0,
    positive: float = 5.0,
    negative: float = 1.0,
    sample_weights: Floats | None = None,
    trained: NDArray[np.bool_] | None = None,
    bias: float = -1.0,
    start: OneVsRest | None = None,
    tolerance: float = 1e-4,
    solver: Solver = "newton",
    device: str = "cpu",
) -> OneVsRest:
    """Classifiers of `persons`; the pictures of the others are the negatives of each.

    Parameters
    ----------
    x
        (n, d) features.
    labels
        (n,) person of each, 0 to `persons` - 1.
    persons
        Number of persons k.
    cost
        C. The published code's is 1e-3 on features of a length of 50 to 100; unit vectors want 1 to 10.
    positive, negative
        Factors on C for pictures of the person and for all others.
    sample_weights
        (n,) factors on C for each picture, at least 0. Default: 1.
    trained
        (k,) for whom a classifier is to be trained. Default: whoever has a picture, while somebody else has one too.
    bias
        A feature of this value is added, if it is not negative; its weight is regularised like the others.
    start
        Classifiers to start from; it saves time and does not change the result.
    tolerance
        Norm of the gradient at which to stop, as a share of that at w = 0. LIBLINEAR multiplies its own by the share
        of the rarer class.
    solver
        "newton", all persons at once; "liblinear", one after another (extra ``evaluate``).
    device
        Where "newton" computes.

    Raises
    ------
    ShapeError, ValueRangeError, OptionError
        The arrays do not fit each other, hold NaN, or name persons that are not there; an option is out of range.
    MissingExtra
        `solver` is "liblinear" and scikit-learn is not installed.
    """
    _check(x, labels, persons, sample_weights, cost, positive, negative, tolerance, solver)
    weights = np.ones(len(x)) if sample_weights is None else np.asarray(sample_weights, np.float64)
    counts = np.bincount(labels[weights > 0], minlength=persons)
    possible = (counts > 0) & (counts < counts.sum())
    wanted = possible if trained is None else np.asarray(trained, np.bool_) & possible
    features = np.asarray(x, np.float64)
    if bias >= 0:
        features = np.concatenate([features, np.full((len(x), 1), bias)], 1)
    found = np.zeros((persons, features.shape[1]))
    rows = np.flatnonzero(wanted)
    if solver == "liblinear":
        found[rows] = _liblinear(features, labels, rows, cost, positive, negative, weights, tolerance)
    elif len(rows):
        first = np.zeros_like(found)
        if start is not None and start.weights.shape[1] == x.shape[1]:
            known = min(persons, len(start))
            first[:known, : x.shape[1]] = start.weights[:known]
            if bias > 0:
                first[:known, -1] = start.bias[:known] / bias
        used = torch.from_numpy(features).to(device)
        labelled, weighted = (
            torch.from_numpy(np.asarray(labels, np.int64)).to(device),
            torch.from_numpy(weights).to(device),
        )
        step = max(1, BLOCK // max(1, len(x)))
        for block in np.split(rows, range(step, len(rows), step)):
            signs = torch.where(labelled[:, None] == torch.from_numpy(block).to(device)[None, :], 1.0, -1.0).to(
                used.dtype
            )
            costs = cost * weighted[:, None] * torch.where(signs > 0, positive, negative)
            w = torch.from_numpy(first[block]).to(device).T.contiguous()
            found[block] = _newton(used, signs, costs, w, tolerance).T.cpu().numpy()
    offset = found[:, -1] * bias if bias >= 0 else np.zeros(persons)
    return OneVsRest(np.ascontiguousarray(found[:, : x.shape[1]]), offset, wanted)


def objective(x: Tensor, signs: Tensor, costs: Tensor, w: Tensor) -> Tensor:
    """(k,) values of what is minimised: features (n, d), signs and costs (n, k), weights (d, k)."""
    slack = (1 - signs * (x @ w)).clamp_min(0)
    return 0.5 * w.square().sum(0) + (costs * slack.square()).sum(0)


def _newton(x: Tensor, signs: Tensor, costs: Tensor, w: Tensor, tolerance: float, *, most: int = 200) -> Tensor:
    """(d, k) weights at the minimum, from `w` on; columns that have arrived are left alone."""
    scale = 2 * (x.T @ (costs * signs)).norm(dim=0)
    square = x.square()
    alive = torch.arange(w.shape[1], device=w.device)
    w = w.clone()
    outputs = x @ w
    for _ in range(most):
        y, c, f, v = signs[:, alive], costs[:, alive], outputs[:, alive], w[:, alive]
        slack = (1 - y * f).clamp_min(0)
        gradient = v - 2 * (x.T @ (c * slack * y))
        left = gradient.norm(dim=0) > tolerance * scale[alive]
        if not bool(left.any()):
            break
        alive, y, c, f, v, slack = alive[left], y[:, left], c[:, left], f[:, left], v[:, left], slack[:, left]
        gradient = gradient[:, left]
        active = 2 * c * (slack > 0)
        step = _conjugate_gradients(x, active, gradient, 1 + square.T @ active)
        moved = x @ step
        # Armijo's rule for every person on its own; a full step is nearly always right.
        before = 0.5 * v.square().sum(0) + (c * slack.square()).sum(0)
        slope = (gradient * step).sum(0)
        length = torch.ones_like(before)
        for _ in range(40):
            after = 0.5 * (v + length * step).square().sum(0)
            after = after + (c * (1 - y * (f + length * moved)).clamp_min(0).square()).sum(0)
            short = after > before + 1e-4 * length * slope + 1e-12 * before.abs()
            if not bool(short.any()):
                break
            length = torch.where(short, length / 2, length)
        w[:, alive] = v + length * step
        outputs[:, alive] = f + length * moved
    return w


def _conjugate_gradients(x: Tensor, active: Tensor, gradient: Tensor, diagonal: Tensor, *, most: int = 200) -> Tensor:
    """(d, k) steps s of (I + X^T diag(active) X) s = -gradient, preconditioned by the diagonal."""
    s = torch.zeros_like(gradient)
    r = -gradient
    z = r / diagonal
    p = z.clone()
    rz = (r * z).sum(0)
    enough = 0.03 * gradient.norm(dim=0)
    for _ in range(most):
        left = r.norm(dim=0) > enough
        if not bool(left.any()):
            break
        hp = p + x.T @ (active * (x @ p))
        a = torch.where(left, rz / (p * hp).sum(0).clamp_min(1e-300), 0.0)
        s += a * p
        r -= a * hp
        z = r / diagonal
        new = (r * z).sum(0)
        p = z + torch.where(left, new / rz.clamp_min(1e-300), 0.0) * p
        rz = new
    return s


def _liblinear(
    x: NDArray[np.float64], labels: NDArray[np.integer], rows: NDArray[np.integer], cost: float, positive: float,
    negative: float, weights: NDArray[np.float64], tolerance: float,
) -> NDArray[np.float64]:  # fmt: skip
    try:
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise MissingExtra("scikit-learn", extra="evaluate") from error
    found = np.empty((len(rows), x.shape[1]))
    for place, person in enumerate(rows):
        machine = LinearSVC(
            loss="squared_hinge", dual=False, C=cost, fit_intercept=False, tol=tolerance, max_iter=10_000,
            class_weight={1: positive, -1: negative},
        )  # fmt: skip
        found[place] = machine.fit(x, np.where(labels == person, 1, -1), sample_weight=weights).coef_[0]
    return found


def _check(
    x: Floats, labels: NDArray[np.integer], persons: int, weights: Floats | None, cost: float, positive: float,
    negative: float, tolerance: float, solver: str,
) -> None:  # fmt: skip
    if x.ndim != 2 or labels.shape != (len(x),) or (weights is not None and weights.shape != (len(x),)):
        raise ShapeError(
            "features, labels and weights do not fit",
            got=(x.shape, labels.shape, None if weights is None else weights.shape), expected="(n, d), (n,) and (n,)",
        )  # fmt: skip
    if not np.isfinite(x).all():
        raise ValueRangeError("a feature is NaN or infinite", got=x)
    if len(labels) and (labels.min() < 0 or labels.max() >= persons):
        raise ValueRangeError("a label names nobody", got=(labels.min(), labels.max()), expected=f"0 to {persons - 1}")
    if weights is not None and not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueRangeError("a sample weight is negative, NaN or infinite", got=weights)
    for name, value in (("cost", cost), ("positive", positive), ("negative", negative), ("tolerance", tolerance)):
        if not 0 < value < np.inf:
            raise OptionError(f"{name} is out of range", got=value, expected="a finite number above 0")
    if solver not in SOLVERS:
        raise OptionError.unknown("unknown solver", solver, SOLVERS)
