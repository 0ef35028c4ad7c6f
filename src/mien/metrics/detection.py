"""Detection: which faces were found, and what else was taken for a face.

Boxes of all pictures come flat, with the index of each one's picture, as in `Faces` (``boxes``, ``scores``,
``image``). A detection is true when it is matched to an annotated box (`mien.geometry.match_greedy`): best
score first, overlap (IoU) at least 0.5, each annotation once. Detections on ignored annotations count
neither way.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import ValueRangeError
from mien.geometry.boxes import match_greedy
from mien.geometry.checks import Bools, Double, Ints, bools, doubles, floats, indices, number, same_length
from mien.metrics.bootstrap import CHUNK, Interval, bootstrap


@dataclass(frozen=True, slots=True)
class DetectionRates:
    """What a detector does at one threshold."""

    threshold: float
    recall: float
    precision: float
    false_positives_per_image: float

    def to_dict(self) -> dict[str, float]:
        """The fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections of a whole set, judged: everything that the figures below are made from.

    Parameters
    ----------
    scores : (n,)
        Falling; detections on ignored annotations are left out.
    found : (n,)
        True where the detection is a face that no better detection had found.
    image : (n,)
        The picture of each.
    truths : (images,)
        Annotated faces that count, in each picture.
    match : (k,)
        For each detection as it was given, the index of its annotation, or -1.
    """

    scores: Double
    found: Bools
    image: Ints
    truths: Ints
    match: Ints

    def curve(self) -> DetectionCurve:
        """Rates at every distinct score."""
        ends = _ends(self.scores)
        hits = np.cumsum(self.found)[ends]
        misses = ends + 1 - hits
        return DetectionCurve(
            thresholds=self.scores[ends],
            recall=hits / self.truths.sum(),
            precision=hits / np.maximum(ends + 1, 1),
            false_positives_per_image=misses / len(self.truths),
        )

    def average_precision(self) -> float:
        """Area under the precision-recall curve, 0 to 1, every point taken (PASCAL VOC from 2010 on).

        Precision is first made falling: at each recall, the best precision at this or a higher recall.
        """
        return float(self._average_precisions(np.ones((1, len(self.truths)), np.int64))[0])

    def average_precision_interval(self, *, repeats: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
        """Average precision with its bootstrap interval, pictures redrawn."""
        return bootstrap(self._average_precisions, len(self.truths), repeats=repeats, level=level, seed=seed)

    def _average_precisions(self, counts: NDArray[np.int64]) -> Double:
        """Average precisions (r,) of sets in which picture i occurs counts[:, i] times (r, images)."""
        truths = counts @ self.truths
        if not len(self.scores):
            return np.where(truths > 0, 0.0, np.nan)
        # A set's many weak detections times a thousand repeats would not fit into memory at once.
        step = max(1, CHUNK // len(self.scores))
        if len(counts) > step:
            blocks = [self._average_precisions(counts[i : i + step]) for i in range(0, len(counts), step)]
            return np.concatenate(blocks)
        ends = _ends(self.scores)
        drawn = counts[:, self.image]
        hits = np.cumsum(drawn * self.found, axis=1)[:, ends]
        taken = np.cumsum(drawn, axis=1)[:, ends]
        precision = hits / np.maximum(taken, 1)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        gained = np.diff(hits, axis=1, prepend=0)
        with np.errstate(invalid="ignore"):
            return np.asarray((gained * best).sum(1) / truths)


@dataclass(frozen=True, slots=True)
class DetectionCurve:
    """Rates at every threshold that makes a difference; from one to the next, more detections are taken.

    Parameters
    ----------
    thresholds : (m,)
        Falling scores; m is 0 where nothing was detected.
    recall, precision : (m,)
        Of the annotated faces, how many are found; of the detections, how many are faces.
    false_positives_per_image : (m,)
        Detections that are no face, divided by the number of pictures.
    """

    thresholds: Double
    recall: Double
    precision: Double
    false_positives_per_image: Double

    def at(self, threshold: float) -> DetectionRates:
        """Rates when detections with ``score >= threshold`` are taken; precision of no detection is 1."""
        taken = int((self.thresholds >= threshold).sum())
        if taken == 0:
            return DetectionRates(float(threshold), 0.0, 1.0, 0.0)
        values = (a[taken - 1] for a in (self.recall, self.precision, self.false_positives_per_image))
        return DetectionRates(float(threshold), *map(float, values))

    def recall_at(self, false_positives_per_image: float) -> float:
        """The best recall with at most so many false detections per picture (a point of the FROC curve)."""
        number("false_positives_per_image", false_positives_per_image, 0, np.inf)
        taken = int((self.false_positives_per_image <= false_positives_per_image * (1 + 1e-12)).sum())
        return float(self.recall[taken - 1]) if taken else 0.0

    def log_average_miss_rate(self, low: float = 1e-2, high: float = 1.0) -> float:
        """Geometric mean of the miss rate at nine rates of false detections per picture, even on a log scale.

        From `low` to `high` (Dollar et al., PAMI 34(4), 2012); lower is better, 1 is nothing found.
        """
        number("low", low, 0, high, open_low=True)
        missed = [1 - self.recall_at(rate) for rate in np.geomspace(low, high, 9)]
        return float(np.exp(np.log(np.maximum(missed, 1e-10)).mean()))


def judge_detections(
    boxes: ArrayLike,
    scores: ArrayLike,
    image: ArrayLike,
    truth: ArrayLike,
    truth_image: ArrayLike,
    *,
    images: int | None = None,
    iou: float = 0.5,
    ignore: ArrayLike | None = None,
) -> Detections:
    """Match the detections of a set to its annotations.

    Parameters
    ----------
    boxes : (k, 4)
        Detections, xyxy in pixels.
    scores : (k,)
        Higher is surer.
    image : (k,)
        Index of each detection's picture.
    truth : (m, 4)
        Annotated boxes.
    truth_image : (m,)
        Index of each annotation's picture.
    images
        Number of pictures, those without a face included; by default one more than the highest index.
    iou
        Least overlap that counts, above 0, at most 1.
    ignore : (m,), optional
        True for annotations that need not be found (too small, a crowd).

    Raises
    ------
    ShapeError, DtypeError
        Arrays that do not fit together.
    ValueRangeError
        No annotation that counts, or a picture's index outside ``0 .. images - 1``.
    """
    b, t = floats("boxes", boxes, "k 4"), floats("truth", truth, "m 4")
    s = doubles("scores", scores, "k")
    of, truth_of = indices("image", image, "k"), indices("truth_image", truth_image, "m")
    skip = np.zeros(len(t), np.bool_) if ignore is None else bools("ignore", ignore, "m")
    same_length(boxes=b, scores=s, image=of)
    same_length(truth=t, truth_image=truth_of, ignore=skip)
    highest = int(max(of.max(initial=-1), truth_of.max(initial=-1)))
    images = highest + 1 if images is None else images
    if highest >= images or min(of.min(initial=0), truth_of.min(initial=0)) < 0:
        raise ValueRangeError("a picture's index is out of range", got=highest, expected=f"0 to {images - 1}")
    if skip.all():
        raise ValueRangeError(
            "no annotated face that counts",
            got=f"{len(t)} annotations, {int(skip.sum())} of them ignored",
            hint="for pictures without faces, count false detections with `false_positives_per_image`",
        )
    match = np.full(len(b), -1, np.intp)
    rows, truth_rows = _by_image(of, images), _by_image(truth_of, images)
    for i in np.intersect1d(of, truth_of).tolist():
        mine, theirs = rows[i], truth_rows[i]
        local = match_greedy(b[mine], s[mine], t[theirs], iou, ignore=skip[theirs])
        match[mine[local >= 0]] = theirs[local[local >= 0]]
    order = np.argsort(-s, kind="stable")
    counted = order[(match[order] < 0) | ~skip[match[order]]]
    truths = np.bincount(truth_of[~skip], minlength=images)
    return Detections(s[counted], match[counted] >= 0, of[counted], truths, match)


def average_precision(
    boxes: ArrayLike,
    scores: ArrayLike,
    image: ArrayLike,
    truth: ArrayLike,
    truth_image: ArrayLike,
    *,
    iou: float = 0.5,
    ignore: ArrayLike | None = None,
) -> float:
    """Average precision, 0 to 1; arguments as in `judge_detections`, which gives curve and interval too."""
    judged = judge_detections(boxes, scores, image, truth, truth_image, iou=iou, ignore=ignore)
    return judged.average_precision()


def false_positives_per_image(scores: ArrayLike, images: int, threshold: float) -> float:
    """False detections per picture on a set of `images` pictures without faces."""
    s = doubles("scores", scores, "n")
    if images < 1:
        raise ValueRangeError("a rate per picture needs pictures", got=images, expected="at least 1")
    return float((s >= threshold).sum() / images)


def _by_image(index: Ints, images: int) -> list[Ints]:
    order = np.argsort(index, kind="stable")
    return np.split(order, np.searchsorted(index[order], np.arange(1, images)))


def _ends(falling: Double) -> Ints:
    """The last place of each distinct value."""
    if not len(falling):
        return np.zeros(0, np.intp)
    return np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)
