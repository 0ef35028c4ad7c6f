"""Every picture of a set against every other, in memory that does not grow with the number of pairs.

45,000 pictures make a billion pairs, whose scores would fill 4 GB, and sorting them for a ROC curve several times
that. Here a block of scores lives only until it is counted: blocks of a float32 matrix product, small enough for the
cache, go into a histogram with bins of 2^-15 (3.1e-5) of cosine. What remains is 65,540 pairs of counts.

How exact that is:

* FMR and FNMR at the edges of the bins are exact counts. A threshold read off the histogram is such an edge, and lies
  less than a bin above the exact one. Scores at an edge are subject to the rounding of a float32 product of d numbers,
  which is below d 2^-24 (8e-6 for 128).
* The highest impostor scores, 10,000 unless said otherwise, are kept one by one and computed again by the arithmetic
  with which every verb compares faces. Thresholds for rates that reach no further are exact: 1e-5 and below of a
  billion pairs.
* Genuine scores are kept too, as long as they are not more than `KEPT_GENUINE`; FNMR is then exact everywhere.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import DeviceUnavailable, ShapeError, ValueRangeError
from mien.geometry.checks import Bools, Double, Floats, Ints, floats, labels, number, same_length
from mien.metrics.verification import Roc, _allowed, _auc_of, _eer_of

if TYPE_CHECKING:
    import torch

Singles: TypeAlias = NDArray[np.float32]
Counts: TypeAlias = NDArray[np.int64]

STEPS = 1 << 15
"""Bins in one unit of cosine."""

ZERO = STEPS + 2
"""The bin that begins at cosine 0: two more than a unit lie below, since rounding may leave [-1, 1] by a little."""

BINS = 2 * STEPS + 4
WIDTH = 1 / STEPS
"""Width of a bin, which bounds the error of a threshold."""

TOP = 10_000
"""Impostor scores that are kept one by one."""

KEPT_GENUINE = 20_000_000
"""Genuine scores that are kept one by one, at most: 80 MB."""

BLOCK = {"cpu": (256, 1024), "cuda": (8192, 16384)}
"""Rows and columns of a block. On a CPU a megabyte, so that scores are counted where they were made, in the cache."""

CHUNK_ROWS = 8192
"""Embeddings that are brought to length one at a time."""

CANCELLED = 0.0
"""Stands for what is no impostor pair. No cosine lies in this lowest bin: the least, -1, begins two bins above."""


@dataclass(frozen=True, slots=True)
class StreamedPoint:
    """What a threshold for a false match rate does.

    Parameters
    ----------
    fmr
        The rate that was asked for.
    threshold
        Cosine; pairs at or above it are accepted.
    measured_fmr, false_matches
        Impostor pairs that it accepts.
    fnmr
        Share of genuine pairs that it refuses.
    exact
        Whether the threshold is the lowest possible one; otherwise it is less than `WIDTH` above that.
    """

    fmr: float
    threshold: float
    measured_fmr: float
    false_matches: int
    fnmr: float
    exact: bool


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Scores of all pairs, counted.

    Parameters
    ----------
    genuine, impostor : (BINS,)
        Pairs of each bin, rising; bin i holds scores from ``edges[i]`` to below ``edges[i + 1]``.
    best_impostors : (k,)
        The highest impostor scores one by one, falling.
    best_pairs : (k, 2)
        Their rows. Where labels are made by machines, the first of them are more often errors of the labels than of
        the network.
    genuine_scores : (n,), optional
        Rising, one by one, where they are few enough to be kept.
    """

    genuine: Counts
    impostor: Counts
    best_impostors: Singles
    best_pairs: Ints
    genuine_scores: Singles | None

    @property
    def edges(self) -> Double:
        """Lower ends of the bins and the upper end of the last (BINS + 1,); exact binary fractions."""
        return (np.arange(BINS + 1) - ZERO) / STEPS

    @property
    def pairs(self) -> int:
        """All of them."""
        return int(self.genuine.sum() + self.impostor.sum())

    def roc(self) -> Roc:
        """The ROC curve at the edges of those bins that hold anything: exact rates at these thresholds."""
        self._both_kinds()
        filled = np.flatnonzero(self.genuine + self.impostor)[::-1]
        refused = 1 - np.cumsum(self.genuine[filled]) / self.genuine.sum()
        accepted = np.cumsum(self.impostor[filled]) / self.impostor.sum()
        thresholds = np.concatenate([[np.inf], self.edges[filled]])
        return Roc(thresholds, np.concatenate([[0.0], accepted]), np.concatenate([[1.0], np.maximum(refused, 0)]))

    def auc(self) -> float:
        """Area under the ROC curve; pairs that share a bin count by half."""
        curve = self.roc()
        return float(_auc_of(curve.fmr[None], curve.fnmr[None])[0])

    def auc_error(self) -> float:
        """How far `auc` can lie from the exact area: half of the pairs of pairs that share a bin."""
        self._both_kinds()
        shared = (self.genuine / self.genuine.sum()) @ (self.impostor / self.impostor.sum())
        return float(shared / 2)

    def eer(self) -> float:
        """Equal error rate, linear between the edges of bins."""
        curve = self.roc()
        return float(_eer_of(curve.fmr[None], curve.fnmr[None])[0])

    def at_fmr(self, fmr: float) -> StreamedPoint:
        """The threshold for a false match rate, and what it does.

        It is exact where the impostors that may be accepted are fewer than the scores that were kept.

        Raises
        ------
        ValueRangeError
            Too few impostor pairs to measure the rate, or pairs of one kind only.
        """
        self._both_kinds()
        impostors = int(self.impostor.sum())
        allowed = _allowed(impostors, fmr)
        if allowed < len(self.best_impostors):
            refused = self.best_impostors[allowed]
            threshold = float(np.nextafter(refused, np.float32(np.inf)))
            matches = int((self.best_impostors > refused).sum())
            return StreamedPoint(fmr, threshold, matches / impostors, matches, self._refused(threshold), True)
        from_here = np.cumsum(self.impostor[::-1])[::-1]
        first = int(np.argmax(from_here <= allowed))
        matches, threshold = int(from_here[first]), float(self.edges[first])
        return StreamedPoint(fmr, threshold, matches / impostors, matches, self._refused(threshold), False)

    def _refused(self, threshold: float) -> float:
        """Share of genuine pairs below a threshold; where they were not kept, of those below the bin's lower edge."""
        if self.genuine_scores is not None:
            return float(np.searchsorted(self.genuine_scores, np.float32(threshold)) / len(self.genuine_scores))
        return float(self.genuine[: int(np.floor(threshold * STEPS)) + ZERO].sum() / self.genuine.sum())

    def _both_kinds(self) -> None:
        genuine, impostor = int(self.genuine.sum()), int(self.impostor.sum())
        if not genuine or not impostor:
            raise ValueRangeError(
                "pairs of one kind only", got=f"{genuine:,} genuine and {impostor:,} impostor pairs", expected="some"
            )


def compare_all(
    embeddings: ArrayLike,
    identities: ArrayLike,
    *,
    others: ArrayLike | None = None,
    other_identities: ArrayLike | None = None,
    top: int = TOP,
    device: str = "cpu",
    threads: int | None = None,
    block: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PairCounts:
    """Scores of every two rows, each pair once, counted into fine bins.

    Parameters
    ----------
    embeddings : (n, d)
        Rows of any length above zero; the score is the cosine.
    identities : (n,)
        Who each is, names or numbers.
    others : (m, d), optional
        Then every row is compared with every one of these instead, n m pairs.
    other_identities : (m,)
        Who these are.
    top
        How many of the highest impostor scores are kept one by one.
    device
        Where blocks are computed: "cpu" or "cuda", "cuda:1".
    threads
        Blocks that are worked on at a time on a CPU. Default: the cores that this process may use.
    block
        Rows and columns of a block. Default: `BLOCK`.
    progress
        Called as ``progress(done, total)`` with numbers of pairs, from time to time, from any thread.

    Returns
    -------
    PairCounts

    Raises
    ------
    ShapeError, DtypeError, ValueRangeError
        Arrays that do not fit together, rows without a direction, or fewer than two of them.
    DeviceUnavailable
        `device` is not there.
    """
    work = _plan(embeddings, identities, others, other_identities, top, device, block)
    workers = 1 if work.device != "cpu" else max(1, threads if threads is not None else _cores())
    done, lock = 0, threading.Lock()

    def tell(pairs: int) -> None:
        nonlocal done
        if progress is not None:
            with lock:
                done += pairs
                progress(done, work.pairs)

    panels = iter(range(0, len(work.left), work.block[0]))

    def next_panel() -> int | None:
        with lock:
            return next(panels, None)

    with _own_threads(workers), ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(lambda _: _count(work, next_panel, tell), range(workers)))
    return _merged(parts, work)


@dataclass(frozen=True, slots=True)
class _Work:
    """Rows sorted by person, so that the genuine partners of a row lie side by side.

    `first` and `last` (n,) say where those of each row begin and end; `order` and `other_order` give the rows as they
    came. `triangle` tells that both sides are the same rows and only partners further down count.
    """

    left: Singles
    right: Singles
    scaled: torch.Tensor
    columns: torch.Tensor
    first: Ints
    last: Ints
    order: Ints
    other_order: Ints
    triangle: bool
    top: int
    keep: bool
    device: str
    block: tuple[int, int]

    @property
    def pairs(self) -> int:
        n = len(self.left)
        return n * (n - 1) // 2 if self.triangle else n * len(self.right)


@dataclass(slots=True)
class _Part:
    """What one thread has counted."""

    total: torch.Tensor
    genuine: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    scores: list[Singles] = field(default_factory=list)
    rows: list[Ints] = field(default_factory=list)
    genuine_scores: list[Singles] = field(default_factory=list)
    above: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    held: int = 0
    least: float = -np.inf


def _plan(
    embeddings: ArrayLike,
    identities: ArrayLike,
    others: ArrayLike | None,
    other_identities: ArrayLike | None,
    top: int,
    device: str,
    block: tuple[int, int] | None,
) -> _Work:
    import torch

    number("top", top, 0, np.inf)
    rows, who = _side("embeddings", embeddings, "identities", identities)
    if (others is None) != (other_identities is None):
        raise ValueRangeError("others and other_identities belong together", hint="give both or neither")
    triangle = others is None
    if triangle:
        columns, whose = rows, who
        if len(rows) < 2:
            raise ValueRangeError("one row has nothing to be compared with", got=len(rows), expected="at least 2")
    else:
        assert others is not None
        assert other_identities is not None
        columns, whose = _side("others", others, "other_identities", other_identities)
        if columns.shape[1] != rows.shape[1]:
            raise ShapeError("the two sides have embeddings of different length", got=(rows.shape, columns.shape))
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise DeviceUnavailable(f"the device {device} is not there")
    _, codes = labels("identities", np.concatenate([who, whose]), "n")
    own, theirs = codes[: len(who)], codes[len(who) :]
    order, other_order = np.argsort(own, kind="stable"), np.argsort(theirs, kind="stable")
    own, theirs = own[order], theirs[other_order]
    first, last = np.searchsorted(theirs, own, "left"), np.searchsorted(theirs, own, "right")
    if triangle:
        first = np.arange(1, len(own) + 1)
    left = rows[order]
    right = left if triangle else columns[other_order]
    height, width = block or BLOCK["cpu" if device == "cpu" else "cuda"]
    number("block", min(height, width), 1, np.inf)
    # A power of two: scaling by it rounds nothing.
    return _Work(
        left, right, torch.from_numpy(left * np.float32(STEPS)).to(device), torch.from_numpy(right).to(device).T,
        first.astype(np.intp), last.astype(np.intp), order, other_order, triangle, int(top),
        int((last - first).sum()) <= KEPT_GENUINE, device, (int(height), int(width)),
    )  # fmt: skip


def _side(name: str, rows: ArrayLike, label: str, identities: ArrayLike) -> tuple[Singles, NDArray[Any]]:
    x = floats(name, rows, "n d")
    who = np.asarray(identities)
    labels(label, who, "n")
    same_length(**{name: x, label: who})
    return unit_rows(name, x), who


def unit_rows(name: str, rows: Floats) -> Singles:
    """Rows (n, d) at length one, in float32.

    Raises
    ------
    ValueRangeError
        A row is zero: it has no direction, so no cosine.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    if not lengths.all():
        raise ValueRangeError(
            f"{name} has rows without a direction",
            got=f"{int((lengths == 0).sum())} zero rows, the first at {int(np.argmin(lengths))}",
            hint="drop the rows of faces that could not be embedded",
        )
    unit = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), CHUNK_ROWS):  # divided in double precision, but not all at once
        part = slice(start, start + CHUNK_ROWS)
        unit[part] = rows[part] / lengths[part, None]
    return unit


def exact_scores(left: Singles, right: Singles) -> Singles:
    """Cosine of unit rows (n, d) and (n, d), by the arithmetic of the verbs: float32 products, summed in float64."""
    return np.clip(np.sum(left * right, axis=1, dtype=np.float64), -1, 1).astype(np.float32)


def _count(work: _Work, next_panel: Callable[[], int | None], tell: Callable[[int], None]) -> _Part:
    """Takes panels of rows until there are none left."""
    import torch

    torch.set_num_threads(1)  # of this thread: several work side by side, and one each is quickest
    part = _Part(torch.zeros(BINS, dtype=torch.int64, device=work.device))
    height, width = work.block
    room = torch.empty(height * width, device=work.device)
    bins = torch.empty(height * width, dtype=torch.int32, device=work.device)
    if work.device == "cpu":
        part.above = np.empty(height * width, np.bool_)
    while (top := next_panel()) is not None:
        bottom, pairs = min(top + height, len(work.left)), 0
        for start in range(top + 1 if work.triangle else 0, len(work.right), width):
            stop = min(start + width, len(work.right))
            shape = (bottom - top, stop - start)
            size = shape[0] * shape[1]
            scores, cells = room[:size].view(shape), bins[:size].view(shape)
            # Where a score lies in the row of bins, counted from its left end: 2^15 cosine + ZERO.
            scores.fill_(ZERO).addmm_(work.scaled[top:bottom], work.columns[:, start:stop])
            pairs += _count_block(work, part, scores, cells, (top, start))
        tell(pairs)
    _thin(part, work.top)
    return part


def _count_block(work: _Work, part: _Part, scores: torch.Tensor, cells: torch.Tensor, corner: tuple[int, int]) -> int:
    """Counts a block of scores, in units of bins, whose first pair is `corner`; returns how many pairs it holds."""
    import torch

    top, start = corner
    height, width = scores.shape
    outside = 0
    if work.triangle and start < top + height:  # the block meets the diagonal: a pair would come twice, or alone
        below = torch.ones(height, width, dtype=torch.bool, device=scores.device).tril(top - start)
        outside = int(below.sum())
        scores.masked_fill_(below, CANCELLED)
    cells.copy_(scores)  # cuts the fraction off
    part.total += torch.bincount(cells.view(-1), minlength=BINS)
    part.total[0] -= outside

    # Partners of row `top + i` are columns first[i] to below last[i] of this block.
    first = (work.first[top : top + height] - start).clip(0, width)
    last = (work.last[top : top + height] - start).clip(first, width)
    if (last > first).any():
        mated = _runs(first, last, width)
        index = torch.from_numpy(mated).to(scores.device)
        part.genuine += torch.bincount(cells.view(-1)[index], minlength=BINS).cpu().numpy()
        scores.view(-1)[index] = CANCELLED
        if work.keep:
            part.genuine_scores.append(exact_scores(work.left[top + mated // width], work.right[start + mated % width]))
    if work.top:
        _keep_best(work, part, scores, corner)
    return height * width - outside


def _runs(first: Ints, last: Ints, width: int) -> Ints:
    """Flat places of columns ``first[i]`` to below ``last[i]`` of each row i of a block `width` wide."""
    length = last - first
    begin = np.repeat(np.arange(len(first)) * width + first - np.cumsum(length) + length, length)
    return begin + np.arange(len(begin))


def _keep_best(work: _Work, part: _Part, scores: torch.Tensor, corner: tuple[int, int]) -> None:
    """Adds to the highest impostor scores those of this block that can be among them."""
    # A score may be off by the rounding of the product, which a bin covers many times over.
    level = max(part.least - 1, CANCELLED + 1)
    if scores.is_cuda:
        at = (scores.view(-1) >= level).nonzero()[:, 0].cpu().numpy()
    else:
        above = part.above[: scores.numel()]
        np.greater_equal(scores.numpy().ravel(), np.float32(level), out=above)
        at = np.flatnonzero(above)
    if not len(at):
        return
    if len(at) > 2 * work.top:
        rough = scores.view(-1).cpu().numpy()[at]
        at = at[rough >= np.partition(rough, -work.top)[-work.top] - 1]
    row, column = corner[0] + at // scores.shape[1], corner[1] + at % scores.shape[1]
    part.scores.append(exact_scores(work.left[row], work.right[column]))
    part.rows.append(np.stack([work.order[row], work.other_order[column]], axis=1))
    part.held += len(at)
    if part.held > 4 * work.top:
        _thin(part, work.top)


def _thin(part: _Part, top: int) -> None:
    """Leaves the `top` highest of the scores, and raises the level below which none is looked at."""
    if not part.scores:
        return
    scores, rows = np.concatenate(part.scores), np.concatenate(part.rows)
    if len(scores) > top:
        chosen = np.argpartition(scores, -top)[-top:]
        scores, rows = scores[chosen], rows[chosen]
        part.least = float(scores.min()) * STEPS + ZERO
    part.scores, part.rows, part.held = [scores], [rows], len(scores)


def _merged(parts: list[_Part], work: _Work) -> PairCounts:
    whole = _Part(sum((part.total for part in parts[1:]), parts[0].total))
    for part in parts:
        whole.genuine += part.genuine
        whole.scores += part.scores
        whole.rows += part.rows
        whole.genuine_scores += part.genuine_scores
    _thin(whole, work.top)
    scores = np.concatenate([*whole.scores, np.zeros(0, np.float32)])
    rows = np.concatenate([*whole.rows, np.zeros((0, 2), np.intp)])
    if work.triangle:
        rows = np.sort(rows, axis=1)
    # By rows where scores are equal, so that the order does not depend on which thread was first.
    order = np.lexsort((rows[:, 1], rows[:, 0], -scores))
    genuine = np.sort(np.concatenate([*whole.genuine_scores, np.zeros(0, np.float32)])) if work.keep else None
    return PairCounts(whole.genuine, whole.total.cpu().numpy() - whole.genuine, scores[order], rows[order], genuine)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _own_threads:
    """While it is open, products are float32 throughout (no TF32), and torch's threads are put back at its end."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __enter__(self) -> None:
        import torch

        self.threads, self.precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")

    def __exit__(self, *_: object) -> None:
        import torch

        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)
