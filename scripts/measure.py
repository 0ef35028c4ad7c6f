"""Measure every figure of the bundled weights, on pictures that none of them was trained on.

    MIEN_DATA=FOLDER python scripts/measure.py                      # all parts, one after another
    python scripts/measure.py --data FOLDER --only embedder groups  # some; what the others wrote stays
    python scripts/measure.py --data FOLDER --limit 40 --out /dev/stdout     # a trial on a few pictures

Every part writes its figures into ``src/mien/weights/files/figures.json`` (see `mien.weights.bundled`) as soon as it is
done, so a run that was stopped goes on with ``--only`` and the parts that are left. Figures of a former file of weights
are dropped.

==============  =================================================  ==========================================
part            measured on                                        figures
==============  =================================================  ==========================================
``detector``    `detection` test quarter, `lfw`, `no_faces`        average precision, recall, false faces
``landmarks``   `landmarks68` test people                          NME by part of the face, AUC, failures
``embedder``    `lfw` folds 1 to 5, `cfp`                          accuracy, FNMR, calibration, quality
``groups``      `fairface_val`                                     all three networks by group
==============  =================================================  ==========================================
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mien.data import sets
from mien.data.degrade import DEGRADATIONS
from mien.data.scenes import face_outline
from mien.faces import Faces, ImageInfo
from mien.geometry import apply3d, compose, flip_points, invert
from mien.geometry.landmarks import IBUG68
from mien.media import Photo
from mien.metrics import (
    Interval,
    auc_at,
    bootstrap,
    by_group,
    error_versus_discard,
    failure_rate,
    fnmr_at_fmr,
    judge_detections,
    kfold_accuracy,
    mean_interval,
    nme,
    threshold_at_fmr,
    verification_interval,
)
from mien.metrics.landmarks import face_size
from mien.verbs import _choose, quality
from mien.verbs._pipeline import Networks, Plan, crop_matrices, cut, embed_crops, forward, run_photos
from mien.verbs._score import normalised, similarity
from mien.weights import info
from mien.weights.bundled import FIGURES, write_facts
from mien.weights.declare import BUNDLED, Figure, Operating

PARTS = ("detector", "landmarks", "embedder", "groups")
NAMES = {"detector": "mien-detector", "landmarks": "mien-landmarks", "embedder": "mien-embedder"}

RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
STATED = 1e-3
"""The false match rate that verdicts use unless told otherwise, and figures by group and by quality refer to."""
ROUNDS = 400
"""Times that people are redrawn for the intervals of the thresholds."""
LOWEST = 0.02
"""Detection score from which on average precision counts detections."""
PAD = 0.5
"""Grey border that the detector sees about pictures which are cut tightly around a face, in sides of the picture."""
SEVERITY = 0.4
"""Of the degradations in the groups part: a face of 112 px keeps 49 px, blur of 2.2 px, noise of 26 levels, JPEG
quality 58, 2.4 stops less light."""
JITTERS = ((-6.0, 1.0, 0.0, 0.0), (6.0, 1.0, 0.0, 0.0), (0.0, 0.93, 3.0, -3.0), (0.0, 1.07, -3.0, 3.0))
"""Degrees, scale, and shift in pixels of 112, of the crops whose points are compared."""

Set = TypeVar("Set", bound=sets.PictureSet)
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass
class Part:
    """What one part of the measurement yields: figures, and what else a declaration needs, by name of the weights."""

    figures: dict[str, list[Figure]] = field(default_factory=dict)
    calibration: dict[str, list[Operating]] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    temperatures: dict[str, dict[str, float]] = field(default_factory=dict)
    grouped: bool = False

    def add(
        self, name: str, metric: str, value: Interval | float, data: str, protocol: str, *, n: int, unit: str = "%",
        group: str = "",
    ) -> None:  # fmt: skip
        """Notes a figure; shares become percentages. The line on the screen is the same as in the file."""
        factor = 100.0 if unit == "%" else 1.0
        low = high = None
        if isinstance(value, Interval):
            low, high = round(factor * value.low, 4), round(factor * value.high, 4)
            value = value.value
        figure = Figure(
            metric=metric, value=round(factor * float(value), 4), data=data, protocol=protocol,
            date=date.today().isoformat(), unit=unit, low=low, high=high, group=group, n=n,
        )  # fmt: skip
        self.figures.setdefault(name, []).append(figure)
        say(f"  {metric}{f' ({group})' if group else ''}: {figure.text}  n={n:,}")


def say(text: str) -> None:
    """A line of progress, at once."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# --- Pictures to faces -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """The options of the command line that the parts need."""

    device: str
    batch: int
    limit: int | None
    threshold: float

    def some(self, pictures: Set, *pairs: sets.Pairs) -> Set:
        """All pictures; in a trial `limit` of them evenly spread, or those of `limit` pairs of each list."""
        if self.limit is None:
            return pictures
        if not pairs:
            return pictures.take(spread(len(pictures), self.limit))
        listed = [np.stack([p.first, p.second], 1)[spread(len(p), self.limit)] for p in pairs]
        return pictures.take(np.unique(np.concatenate(listed)))

    def lfw(self) -> sets.Lfw:
        """LFW, in a trial the pictures of some pairs."""
        whole = sets.lfw()
        return self.some(whole, whole.pairs)

    def plan(self, **more: Any) -> Plan:
        """The plan of the verbs' defaults, at the threshold that is measured."""
        return Plan(**{"threshold": self.threshold, "device": self.device, "batch_size": self.batch, **more})


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` of `count` rows, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def photos(pictures: sets.PictureSet) -> Iterator[Photo]:
    """The pictures, one after another."""
    for row, name in enumerate(pictures.names):
        image = pictures.picture(row)
        yield Photo(image, ImageInfo(name, image.shape[1], image.shape[0]))


def faces_in(
    pictures: sets.PictureSet, plan: Plan, what: str, *, each: Callable[[list[Photo], Faces], None] | None = None,
) -> Faces:  # fmt: skip
    """All faces of a set, by the path that the verbs take; `each` sees every batch while its photos are there."""
    parts, batch, told = list[Faces](), list[Photo](), time.monotonic()
    for done, photo in enumerate(photos(pictures), 1):
        batch.append(photo)
        if len(batch) == plan.batch_size or done == len(pictures):
            parts.append(run_photos(batch, plan))
            if each is not None:
                each(batch, parts[-1])
            batch = []
        if time.monotonic() - told > 15:
            told = time.monotonic()
            say(f"  {what}: {done:,} of {len(pictures):,} pictures")
    return Faces.concat(parts)


def covers_centre(faces: Faces) -> Bools:
    """(pictures,) whether a box covers the middle of the picture."""
    middle = np.array([(i.width / 2, i.height / 2) for i in faces.images], np.float32)[faces.image]
    inside = (faces.boxes[:, :2] <= middle).all(1) & (middle <= faces.boxes[:, 2:]).all(1)
    return np.bincount(faces.image[inside], minlength=len(faces.images)) > 0


# --- Detector ----------------------------------------------------------------------------------------------------


SPURIOUS = 0.2
"""False faces per portrait that the detector's threshold may let through: one in five."""


def chosen_threshold(device: str, batch: int) -> float:
    """The lowest score, in steps of 0.05, that lets through at most `SPURIOUS` false faces per portrait.

    Portraits of `real_fake` and `fasseg` show one face each, so every detection but the best is false. Nothing is
    trained on them and no figure is measured on them. (The bound of one in five was set after the false faces on
    `no_faces` had been seen at several thresholds.)
    """
    plan = Plan(threshold=LOWEST, min_face=0, device=device, batch_size=batch)
    spurious, count = [], 0
    for portraits in (sets.real_fake(), sets.fasseg()):
        faces = faces_in(portraits, plan, "portraits")
        count += len(portraits)
        spurious += [np.sort(faces.scores[faces.image == index])[:-1] for index in range(len(portraits))]
    scores = np.concatenate(spurious)
    steps = np.round(np.arange(0.2, 0.9, 0.05), 2)
    rates = [float((scores >= step).sum() / count) for step in steps]
    for step, rate in zip(steps, rates, strict=True):
        say(f"  threshold {step:.2f}: {rate:.3f} false faces per portrait")
    return float(next(step for step, rate in zip(steps, rates, strict=True) if rate <= SPURIOUS))


def detector(options: Options) -> Part:
    """Average precision and recall on the test quarter, the central face on LFW, false faces where there are none."""
    part, name = Part(), NAMES["detector"]
    part.thresholds[name] = options.threshold
    scenes = options.some(sets.detection(split="test"))
    faces = faces_in(scenes, options.plan(threshold=LOWEST, min_face=0), "scenes")
    truth, of = scenes.boxes.xyxy, scenes.boxes.image
    judged = judge_detections(faces.boxes, faces.scores, faces.image, truth, of, images=len(scenes))
    data = f"detection, held-out quarter: {len(scenes)} scenes"
    never = "scenes held out by hash, never trained on; looked at with long side 640 px"
    part.add(
        name, "average precision at IoU 0.5", judged.average_precision_interval(), data,
        f"{never}; every point of the curve (VOC 2010), detections from score {LOWEST}; pictures redrawn",
        n=len(truth),
    )  # fmt: skip

    taken = faces.scores >= options.threshold
    found = np.zeros(len(truth), np.bool_)
    found[judged.match[taken & (judged.match >= 0)]] = True
    hits = np.bincount(of[found], minlength=len(scenes))
    wanted = np.bincount(of, minlength=len(scenes))
    all_taken = np.bincount(faces.image[taken], minlength=len(scenes))
    at = f"{never}; at the threshold {options.threshold:g}; pictures redrawn"
    recall = bootstrap(lambda c: c @ hits / np.maximum(c @ wanted, 1), len(scenes))
    part.add(name, "recall at IoU 0.5", recall, data, at, n=len(truth))
    precision = bootstrap(lambda c: c @ hits / np.maximum(c @ all_taken, 1), len(scenes))
    part.add(name, "precision at IoU 0.5", precision, data, at, n=int(taken.sum()))
    side = np.sqrt((truth[:, 2:] - truth[:, :2]).prod(1))
    kinds = {
        "below 16 px": side < 16, "16 to 32 px": (side >= 16) & (side < 32), "32 px and more": side >= 32,
        "with mask": scenes.boxes.label == "with_mask", "without mask": scenes.boxes.label == "without_mask",
    }  # fmt: skip
    for label, mask in kinds.items():
        if mask.sum() >= 10:
            value = mean_interval(found[mask].astype(float), people=of[mask])
            part.add(name, f"recall at IoU 0.5, {label}", value, data, at, n=int(mask.sum()))

    people = options.lfw()
    central = covers_centre(lfw_faces(options).faces)
    part.add(
        name, "central face found", mean_interval(central.astype(float), people=people.identity),
        f"LFW folds 1 to 5: {len(people):,} pictures",
        f"no picture of LFW was trained on; a box at or above the threshold {options.threshold:g} covers the middle of "
        "the picture; people redrawn",
        n=len(people),
    )  # fmt: skip

    empty = options.some(sets.no_faces())
    wrong = faces_in(empty, options.plan(), "pictures without faces")
    per_picture = np.bincount(wrong.image, minlength=len(empty)).astype(float)
    part.add(
        name, "false faces per picture", mean_interval(per_picture), f"BSDS500 without faces: {len(empty)} pictures",
        f"test only; boxes at or above the threshold {options.threshold:g}; pictures redrawn", n=len(empty), unit="",
    )  # fmt: skip
    return part


# --- Landmarks ---------------------------------------------------------------------------------------------------

FACE_PARTS = {
    "jaw": IBUG68["jaw"],
    "brows": IBUG68["left_brow"] + IBUG68["right_brow"],
    "nose": IBUG68["nose_bridge"] + IBUG68["nostrils"],
    "eyes": IBUG68["left_eye"] + IBUG68["right_eye"],
    "mouth": IBUG68["outer_lips"] + IBUG68["inner_lips"],
}


def landmarks(options: Options) -> Part:
    """NME on people that the network has not seen, with the detector in the loop and with the box given."""
    part, name = Part(), NAMES["landmarks"]
    frames = options.some(sets.landmarks68(split="test"))
    people = f"landmarks68 (YouTube Faces), test people: {len(frames):,} frames of {len(set(frames.identity))} people"
    protocol = (
        "people held out by hash, never trained on; divided by the distance of the outer eye corners; frames are cut "
        f"tightly, so the detector sees them with {PAD:g} of their side as grey border; people redrawn"
    )
    plan = options.plan(landmarks=NAMES["landmarks"], pad=PAD)
    networks = Networks(plan)
    assert networks.landmarks is not None
    weights, network = networks.landmarks
    given: list[Floats] = []
    truth = frames.points
    outline = face_outline(truth)
    boxes = np.concatenate([outline.min(1), outline.max(1)], 1)

    def with_box(batch: list[Photo], _: Faces) -> None:
        rows = slice(len(given), len(given) + len(batch))
        matrices = crop_matrices(weights.input, boxes[rows], np.zeros((len(batch), 5, 2), np.float32))
        crops = cut(batch, np.arange(len(batch), dtype=np.int32), matrices, weights.input.size or 112)
        local = forward(network, weights.input, crops, networks.device).reshape(len(batch), -1, 3)
        given.extend(apply3d(invert(matrices), local)[:, :68, :2])

    faces = faces_in(frames, plan, "frames", each=with_box)
    rows = _choose.one_of_each(faces, "central")
    there = rows >= 0
    who = frames.identity
    errors = nme(faces.landmarks[rows[there], :68], truth[there])
    loop = f"{protocol}; own detector in the loop, faces that it misses left out"
    part.add(name, "NME, inter-ocular", mean_interval(errors, people=who[there]), people, loop, n=int(there.sum()))
    for label, points in FACE_PARTS.items():
        values = nme(faces.landmarks[rows[there], :68], truth[there], points=points)
        interval = mean_interval(values, people=who[there])
        part.add(name, f"NME, inter-ocular, {label}", interval, people, loop, n=int(there.sum()))
    boxed = nme(np.stack(given), truth)
    part.add(
        name, "NME, inter-ocular, box given", mean_interval(boxed, people=who), people,
        f"{protocol}; the box is drawn about the annotated points", n=len(frames),
    )  # fmt: skip
    every = np.full(len(frames), 1e3)
    every[there] = errors
    missed = f"{protocol}; own detector in the loop, faces that it misses count as failures"
    gained = np.maximum(0, 1 - every / 0.08)
    assert np.isclose(gained.mean(), auc_at(every, 0.08))
    part.add(name, "AUC up to 8 %", mean_interval(gained, people=who), people, missed, n=len(frames))
    failed = (every > 0.08).astype(float)
    assert np.isclose(failed.mean(), failure_rate(every, 0.08))
    part.add(name, "failures above 8 %", mean_interval(failed, people=who), people, missed, n=len(frames))
    return part


# --- Embedder ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Enrolled:
    """One face a picture: all faces found, the chosen row of each picture (-1: none), and what is known of it.

    `embeddings`, `norms` and the `scores` by quality method have one row a picture; where there is no face the
    embedding is NaN and the quality 0.
    """

    faces: Faces
    rows: NDArray[np.int64]
    embeddings: Floats
    qualities: dict[str, Floats]
    norms: Floats

    @property
    def there(self) -> Bools:
        """Pictures in which a face was found."""
        return self.rows >= 0


def enrolled(
    options: Options, pictures: sets.PictureSet, what: str, *, pad: float = 0.0, judged: bool = False
) -> Enrolled:
    """Finds, aligns and embeds the central face of every picture; with `judged`, its quality by every method too."""
    weights = info(NAMES["embedder"])
    plan = options.plan(
        landmarks=NAMES["landmarks"], template=weights.input.template, crop_size=weights.input.size or 112, pad=pad,
        quality="components" if judged else None,
    )  # fmt: skip
    faces = faces_in(pictures, plan, what)
    rows = _choose.one_of_each(faces, "central")
    there = rows >= 0
    mine = faces[rows[there]]
    networks = Networks(options.plan(embedder=weights.name))
    say(f"  {what}: embedding {len(mine):,} faces")
    crops = np.array(mine.crops)  # `Faces` are read-only, which torch warns of
    features = embed_crops(networks, crops)
    embeddings = np.full((len(rows), features.shape[1]), np.nan, np.float32)
    embeddings[there] = normalised(features)
    norms = np.zeros(len(rows), np.float32)
    norms[there] = np.linalg.norm(features, axis=1)
    qualities: dict[str, Floats] = {}
    if judged:
        say(f"  {what}: quality of {len(mine):,} faces")
        parts = dict(mine.quality_components)
        low, high = norm_range(norms[there])
        stable = [
            quality.from_stability(
                features[s : s + 256], lambda worse: embed_crops(networks, worse), crops[s : s + 256]
            )
            for s in range(0, len(mine), 256)
        ]
        told = {
            "components": mine.quality,
            "norm": quality.unified({"Recognisability": np.clip((norms[there] - low) / (high - low), 0, 1), **parts}),
            "stability": quality.unified({"Recognisability": np.concatenate(stable), **parts}),
        }
        for method, values in told.items():
            qualities[method] = np.zeros(len(rows), np.float32)
            qualities[method][there] = values
    return Enrolled(faces, rows, embeddings, qualities, norms)


def norm_range(norms: Floats) -> tuple[float, float]:
    """Feature lengths that stand for 0 and 1: declared ones, otherwise the 1 % and 90 % quantiles measured here."""
    low, high = quality.NORM_RANGE.get(NAMES["embedder"], tuple(np.quantile(norms, [0.01, 0.9]).tolist()))
    return float(low), float(max(high, low + 1e-6))


@functools.cache
def lfw_faces(options: Options) -> Enrolled:
    """LFW is gone through once for all parts of a run."""
    return enrolled(options, options.lfw(), "LFW", judged=True)


def pair_scores(given: Enrolled, pairs: sets.Pairs) -> Floats:
    """Similarity of pairs; -1 where a face was not found, so that such a pair is never called the same."""
    both = given.there[pairs.first] & given.there[pairs.second]
    scores = np.full(len(pairs), -1, np.float32)
    scores[both] = similarity(given.embeddings[pairs.first[both]], given.embeddings[pairs.second[both]])
    return scores


def out_of_fold(scores: Floats, pairs: sets.Pairs) -> tuple[Interval, float]:
    """Accuracy over folds with its interval (pairs redrawn, thresholds kept), and the mean of the thresholds."""
    folds = kfold_accuracy(scores, pairs.same, pairs.fold)
    threshold = dict(zip(folds.folds, folds.thresholds, strict=True))
    cut_at = np.array([threshold[str(fold)] for fold in pairs.fold])
    right = ((scores >= cut_at) == pairs.same).astype(float)
    return mean_interval(right), float(np.mean(folds.thresholds))


def all_pairs(given: Enrolled, identity: NDArray[np.str_]) -> tuple[Floats, Bools, NDArray[np.int32]]:
    """Scores of every two pictures with a face, whether they show one person, and the two people."""
    codes = np.unique(identity, return_inverse=True)[1][given.there].astype(np.int32)
    rows = given.embeddings[given.there]
    first, second = np.triu_indices(len(rows), 1)
    scores = np.clip((rows @ rows.T)[first, second], -1, 1)
    units = np.stack([codes[first], codes[second]], 1)
    return scores.astype(np.float32), units[:, 0] == units[:, 1], units


def calibration(scores: Floats, same: Bools, people: NDArray[np.int32], data: str) -> list[Operating]:
    """Thresholds for `RATES` on all pairs of a set of pictures; for the intervals people are redrawn.

    What `mien.metrics.calibrate` does too, but that goes through every pair in every round. Here all pictures are
    compared with all, so the number of impostor pairs of a redrawn set follows from the people's numbers of pictures,
    and only the best scores can be thresholds: a round costs 20 ms in place of a second.
    """
    genuine = np.sort(scores[same])
    different = np.flatnonzero(~same)
    tail = min(len(different), int(2 * RATES[0] * len(different)) + 200)
    best = different[np.argpartition(-scores[different], tail - 1)[:tail]]
    best = best[np.argsort(-scores[best], kind="stable")]
    falling, (first, second) = scores[best], people[best].T.astype(np.intp)
    # Every picture takes part in as many pairs as there are other pictures.
    others = round((1 + np.sqrt(1 + 8 * len(scores))) / 2) - 1
    count = int(people.max()) + 1
    pictures = np.bincount(people.ravel(), minlength=count) / others
    rates = [rate for rate in RATES if rate * len(different) >= 1]
    rng = np.random.default_rng(0)
    drawn = np.empty((ROUNDS, len(rates)))
    for row in drawn:
        copies = np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64)
        total = ((pictures @ copies) ** 2 - (pictures**2 @ copies**2)) / 2
        taken = np.cumsum(copies[first] * copies[second])
        if taken[-1] < rates[0] * total:
            raise SystemExit("too few of the best scores were kept for the bootstrap")
        places = np.searchsorted(taken, np.array(rates) * total * (1 + 1e-12), side="right")
        row[:] = falling[np.minimum(places, tail - 1)]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0, method="closest_observation")
    points = []
    for k, rate in enumerate(rates):
        threshold = threshold_at_fmr(scores, same, rate)
        fnmr = float(np.searchsorted(genuine, np.float32(threshold), "left") / len(genuine))
        bounds = {"low": float(low[k]), "high": float(high[k])}
        points.append(Operating(fmr=rate, threshold=threshold, data=data, fnmr=fnmr, **bounds))
    return points


def embedder(options: Options) -> Part:
    """Verification on LFW and CFP, thresholds with their false match rates, and what the quality score foretells."""
    part, name = Part(), NAMES["embedder"]
    faces = options.lfw()
    given = lfw_faces(options)
    pairs, scores = faces.pairs, pair_scores(given, faces.pairs)
    where = f"LFW folds 1 to 5: {len(pairs):,} pairs"
    loop = (
        "no picture of LFW was trained on; own detector, landmarks and aligner in the loop; pairs with a face that was "
        f"not found ({int((scores == -1).sum())}) score -1"
    )
    accuracy, threshold = out_of_fold(scores, pairs)
    part.add(
        name, "accuracy", accuracy, where,
        f"{loop}; each fold at the threshold that is best on the others (on average {threshold:.3f}); pairs redrawn",
        n=len(pairs),
    )  # fmt: skip
    for metric, label in (("auc", "AUC"), ("eer", "equal error rate")):
        value = verification_interval(metric, scores, pairs.same)
        part.add(name, label, value, where, f"{loop}; pairs redrawn", n=len(pairs))
    for rate in (1e-2, 1e-3):
        if rate * (~pairs.same).sum() >= 1:
            value = verification_interval("fnmr_at_fmr", scores, pairs.same, fmr=rate)
            about = f"{loop}; {round(rate * (~pairs.same).sum())} false matches allowed; pairs redrawn"
            part.add(name, f"FNMR at FMR {rate:g}", value, where, about, n=len(pairs))

    say("  LFW, all against all")
    every, same, units = all_pairs(given, faces.identity)
    different = int((~same).sum())
    say(f"  {int(same.sum()):,} pairs of one person, {different:,} of two; people redrawn for the intervals")
    on = f"LFW folds 1 to 5, all {different:,} pairs of different people"
    points = calibration(every, same, units, on)
    part.calibration[name] = points
    low, high = norm_range(given.norms[given.there])
    say(f"  feature lengths that stand for 0 and 1 (quality.NORM_RANGE): {low:.3f}, {high:.3f}")
    for point in points:
        interval = f"[{point.low:.4f}, {point.high:.4f}]"
        say(f"  FMR {point.fmr:g}: threshold {point.threshold:.4f} {interval}, FNMR {point.fnmr:.2%}")
    stated = next(p.threshold for p in points if np.isclose(p.fmr, min(STATED, max(q.fmr for q in points))))

    evd_pairs = f"LFW folds 1 to 5: {int(pairs.same.sum()):,} pairs of one person"
    for method, values in given.qualities.items():
        curve = error_versus_discard(scores, pairs.same, values[pairs.first], values[pairs.second], threshold=stated)
        for share in (0.0, 0.1, 0.2, 0.3):
            part.add(
                name, f"FNMR with {share:.0%} discarded, quality by {method}", curve.at(share), evd_pairs,
                f"threshold {stated:.4f} (FMR {STATED:g}, all against all); the pair whose worse picture is of least "
                "quality goes first; discarding at random would leave the rate as it is at 0 %",
                n=round((1 - share) * int(pairs.same.sum())),
            )  # fmt: skip

    cfp = sets.cfp()
    wanted = options.some(cfp, cfp.pairs_ff, cfp.pairs_fp)
    tight = enrolled(options, wanted, "CFP", pad=PAD)
    for label, listed in (("FF", wanted.pairs_ff), ("FP", wanted.pairs_fp)):
        listed_scores = pair_scores(tight, listed)
        value, threshold = out_of_fold(listed_scores, listed)
        part.add(
            name, f"accuracy, CFP-{label}", value, f"CFP-{label} folds 1 to 5: {len(listed):,} pairs",
            "no picture of CFP was trained on; own detector, landmarks and aligner in the loop on crops with "
            f"{PAD:g} of their side as grey border for the detector; pairs with a face that was not found "
            f"({int((listed_scores == -1).sum())}) score -1; each fold at the threshold that is best on the others; "
            "pairs redrawn",
            n=len(listed),
        )  # fmt: skip
    assert np.isclose(fnmr_at_fmr(every, same, points[0].fmr), points[0].fnmr, atol=1e-3)
    return part


# --- By group ----------------------------------------------------------------------------------------------------


def groupings(chips: sets.FairFaceVal) -> dict[str, NDArray[np.str_]]:
    """Labels by axis; the two oldest age groups are one, since a group of 7 has no figure."""
    age = np.where(np.isin(chips.age, ("60-69", "70+", "more than 70")), "60 and older", chips.age)
    race = np.char.replace(chips.race, "_", " / ")
    return {"race": race, "gender": np.char.lower(chips.gender), "age": age}


def groups(options: Options) -> Part:
    """How evenly the three networks serve the groups of FairFace's validation part."""
    part = Part(grouped=True)
    chips = options.some(sets.fairface_val())
    axes = groupings(chips)
    data = f"FairFace, validation part: {len(chips)} adults"
    base = f"never trained on; chips of 128 px, {PAD:g} of their side as grey border for the detector"
    plan = options.plan(landmarks=NAMES["landmarks"], pad=PAD)
    networks = Networks(plan)
    assert networks.landmarks is not None
    weights, network = networks.landmarks
    side = weights.input.size or 112
    found, mirrored, jittered = list[Bools](), list[Floats](), list[Floats]()

    def shaken(batch: list[Photo], faces: Faces) -> None:
        found.append(covers_centre(faces))
        rows = _choose.one_of_each(faces, "central")
        for moved in (mirrored, jittered):
            moved.append(np.full(len(batch), np.nan, np.float32))
        there = np.flatnonzero(rows >= 0)
        if not len(there):
            return
        mine = faces[rows[there]]
        index = there.astype(np.int32)
        matrices = crop_matrices(weights.input, mine.boxes, mine.landmarks5)
        eyes = face_size(mine.landmarks[:, :68])

        def points(crops: NDArray[np.uint8]) -> Floats:
            local = forward(network, weights.input, crops, networks.device)
            return np.asarray(local.reshape(len(crops), -1, 3), np.float32)

        def moved_by(local: Floats, back: Floats) -> Floats:
            other = apply3d(invert(back), local)[:, :68, :2]
            return np.linalg.norm(other - mine.landmarks[:, :68], axis=-1).mean(1) / eyes

        crops = cut(batch, index, matrices, side)
        mirror = flip_points(points(np.ascontiguousarray(crops[:, :, ::-1])), side, "mien70")
        mirrored[-1][there] = moved_by(mirror, matrices)
        shifts = []
        for degrees, scale, x, y in JITTERS:
            shift = np.repeat(about_centre(degrees, scale, x, y, side)[None], len(mine), 0)
            other = compose(matrices, shift)
            shifts.append(moved_by(points(cut(batch, index, other, side)), other))
        jittered[-1][there] = np.mean(shifts, 0)

    faces_in(chips, plan, "FairFace", each=shaken)
    given = enrolled(options, chips, "FairFace", pad=PAD)
    there = given.there

    by_axis(
        part, NAMES["detector"], "face found", np.concatenate(found).astype(float), axes, data,
        f"{base}; a box at or above the threshold {options.threshold:g} covers the middle",
    )  # fmt: skip
    about = "mean distance of the 68 points in units of the outer eye corners; faces that the detector misses left out"
    for metric, values, how in (
        ("points moved by mirroring", mirrored, "between a crop and its mirror image"),
        ("points moved by a shaken crop", jittered, "between a crop and four turned 6°, scaled 7 %, shifted 3 px"),
    ):  # fmt: skip
        by_axis(part, NAMES["landmarks"], metric, np.concatenate(values), axes, data, f"{base}; {about}; {how}")

    say("  embedding worsened copies")
    embedding = Networks(options.plan(embedder=NAMES["embedder"]))
    crops = given.faces[given.rows[there]].crops
    cosines = []
    for change, spoil in DEGRADATIONS.items():
        worse = np.stack([spoil(crop, SEVERITY, np.random.default_rng(k)) for k, crop in enumerate(crops)])
        cosine = np.full(len(chips), np.nan, np.float32)
        cosine[there] = similarity(embed_crops(embedding, worse), given.embeddings[there])
        cosines.append(cosine)
        say(f"  {change}: mean similarity {np.nanmean(cosine):.3f}")
    by_axis(
        part, NAMES["embedder"], "similarity to a worsened copy", np.mean(cosines, 0), axes, data,
        f"{base}; mean cosine between the embedding of a crop and those of its copies by the five degradations of "
        f"mien.data.degrade at severity {SEVERITY:g}; faces that the detector misses left out",
        unit="",
    )  # fmt: skip
    threshold = stated_threshold()
    if threshold is None:
        say("  no calibration yet: the false match rate by group is left out; run the part `embedder`, then this one")
        return part
    for axis, labels in axes.items():
        for label in np.unique(labels):
            rows = given.embeddings[there & (labels == label)]
            if len(rows) >= 10:
                part.add(
                    NAMES["embedder"], "FMR inside the group", false_matches(rows, threshold), data,
                    f"{base}; all pairs of pictures of one group (FairFace names nobody: every two are taken for "
                    f"different people) at {threshold:.4f}, the threshold for FMR {STATED:g} on LFW; pictures redrawn",
                    n=len(rows) * (len(rows) - 1) // 2, group=f"{axis}: {label}",
                )  # fmt: skip
    part.add(
        NAMES["embedder"], "FMR inside the group", false_matches(given.embeddings[there], threshold), data,
        f"{base}; all pairs of all pictures at {threshold:.4f}, the threshold for FMR {STATED:g} on LFW; "
        "pictures redrawn",
        n=int(there.sum()) * (int(there.sum()) - 1) // 2, group="all",
    )  # fmt: skip
    return part


def about_centre(degrees: float, scale: float, x: float, y: float, side: int) -> Floats:
    """(2, 3) similarity of a crop about its own middle."""
    angle, middle = np.radians(degrees), (side - 1) / 2
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([middle + x, middle + y]) - turn @ [middle, middle]
    return np.concatenate([turn, shift[:, None]], 1).astype(np.float32)


def by_axis(
    part: Part, name: str, metric: str, values: NDArray[np.floating], axes: dict[str, NDArray[np.str_]], data: str,
    protocol: str, *, unit: str = "%",
) -> None:  # fmt: skip
    """The mean of `values` (NaN: left out) over all and over every group of at least ten."""
    known = np.isfinite(values)
    kept = values[known].astype(float)
    part.add(
        name, metric, mean_interval(kept), data, f"{protocol}; pictures redrawn", n=len(kept), unit=unit, group="all"
    )
    for axis, labels in axes.items():
        mine = labels[known]
        names, sizes = np.unique(mine, return_counts=True)
        large = np.isin(mine, names[sizes >= 10])
        if (sizes >= 10).sum() < 2:
            continue
        rows = kept[large]
        table = by_group(lambda i, rows=rows: float(rows[i].mean()), mine[large])
        for group in table.groups:
            part.add(
                name, metric, group.figure, data, f"{protocol}; pictures redrawn", n=group.count, unit=unit,
                group=f"{axis}: {group.group}",
            )  # fmt: skip


def false_matches(embeddings: Floats, threshold: float, *, repeats: int = 1000, seed: int = 0) -> Interval:
    """Share of all pairs of rows at or above `threshold`, pictures redrawn (a picture is never paired with itself)."""
    alike = (embeddings @ embeddings.T >= threshold).astype(np.float64)
    np.fill_diagonal(alike, 0)

    def rate(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        c = counts.astype(np.float64)
        return np.einsum("ri,ij,rj->r", c, alike, c, optimize=True) / (c.sum(1) ** 2 - (c**2).sum(1))

    return bootstrap(rate, len(embeddings), repeats=repeats, seed=seed)


def stated_threshold() -> float | None:
    """The calibrated threshold for `STATED` that this run, or an earlier one, has measured."""
    known = NOTED[NAMES["embedder"]].calibration
    return next((point.threshold for point in known if np.isclose(point.fmr, STATED)), None)


# --- The file ----------------------------------------------------------------------------------------------------


@dataclass
class Noted:
    """What is known of one file of weights: by earlier runs at first, by this one at the end."""

    figures: list[Figure]
    calibration: list[Operating]
    threshold: float | None
    temperatures: dict[str, float]


NOTED: dict[str, Noted] = {}


def noted(names: Iterable[str]) -> None:
    """Fills `NOTED` with what is declared of these weights."""
    for weights in map(info, names):
        NOTED[weights.name] = Noted(
            list(weights.figures), list(weights.calibration), weights.threshold, dict(weights.temperatures)
        )


def note(part: Part, out: Path | None) -> None:
    """Puts a part's results in the place of what the same part had found before, and writes everything down."""
    for name, figures in part.figures.items():
        known = NOTED[name]
        kept = [figure for figure in known.figures if bool(figure.group) != part.grouped]
        known.figures = kept + figures if part.grouped else figures + kept
    for name, points in part.calibration.items():
        NOTED[name].calibration = points
    for name, threshold in part.thresholds.items():
        NOTED[name].threshold = threshold
    for name, temperatures in part.temperatures.items():
        NOTED[name].temperatures = temperatures
    out = out or BUNDLED / FIGURES
    held = json.loads(out.read_text("utf-8")) if out.exists() else {}
    for name in part.figures:
        known = NOTED[name]
        held[name] = {
            "sha256": info(name).sha256,
            "figures": [told(figure) for figure in known.figures],
            "calibration": [told(point) for point in known.calibration],
            "threshold": known.threshold,
        }
        if known.temperatures:
            held[name]["temperatures"] = known.temperatures
    write_facts(out, held)


def told(record: Figure | Operating) -> dict[str, Any]:
    """The fields that say something."""
    return {key: value for key, value in asdict(record).items() if value not in (None, "")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--data", help="folder of the sets; otherwise $MIEN_DATA")
    parser.add_argument("--device", default="auto", help="as in the verbs")
    parser.add_argument("--batch", type=int, default=32, help="pictures looked at together")
    parser.add_argument("--threshold", type=float, help="detection score; otherwise chosen on scenes kept out for it")
    parser.add_argument("--limit", type=int, help="a trial: only so many pictures of each set")
    parser.add_argument("--out", type=Path, default=None, help="where to write; a trial needs it")
    given = parser.parse_args()
    if given.limit is not None and given.out is None:
        parser.error("figures of a trial are none: with --limit, give --out")
    if given.data:
        os.environ["MIEN_DATA"] = str(Path(given.data).expanduser().resolve())
    noted(NAMES.values())
    threshold = given.threshold
    if threshold is None and "detector" not in given.only:
        threshold = NOTED[NAMES["detector"]].threshold
    if threshold is None:
        say("choosing the detector's threshold")
        threshold = chosen_threshold(given.device, given.batch)
    options = Options(given.device, given.batch, given.limit, threshold)
    began = time.monotonic()
    for name, measure in zip(PARTS, (detector, landmarks, embedder, groups), strict=True):
        if name in given.only:
            say(f"{name}, at detection threshold {threshold:g}")
            start = time.monotonic()
            note(measure(options), given.out)
            say(f"{name} done in {(time.monotonic() - start) / 60:.1f} min")
    say(f"all in {(time.monotonic() - began) / 60:.1f} min; now run scripts/pages.py")


if __name__ == "__main__":
    main()
