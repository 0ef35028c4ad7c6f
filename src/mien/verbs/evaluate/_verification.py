"""``evaluate verification``: are the right pairs called the same?"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mien import metrics
from mien.errors import TableError
from mien.verbs import _output, _pairs
from mien.verbs._pipeline import Plan, Progress
from mien.verbs._score import similarity
from mien.verbs.calibrate import enroll_files, usable_rates
from mien.verbs.evaluate._common import (
    Evaluation,
    GroupRow,
    GroupSpread,
    by_group,
    check_bootstrap,
    names_of,
    today,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDS = 10
"""Parts that pairs are dealt into where their table has no folds."""

PEOPLE = ("person_a", "person_b")
"""Columns that name the two people of a pair; where they are there, people are redrawn for intervals."""


@dataclass(frozen=True)
class Fold:
    """One fold, judged at the threshold that is best on the others.

    Parameters
    ----------
    fold
        Its name.
    pairs
        How many pairs it has.
    accuracy
        Share of them judged rightly.
    threshold
        Cosine, from the other folds.
    """

    fold: str
    pairs: int
    accuracy: float
    threshold: float


@dataclass(frozen=True)
class ErrorsAtRate:
    """What happens at the threshold for a false match rate.

    Parameters
    ----------
    fmr
        The rate that the threshold is for.
    threshold, threshold_low, threshold_high
        Cosine with its interval.
    fnmr, fnmr_low, fnmr_high
        Share of genuine pairs below it, with its interval.
    false_matches
        Impostor pairs at or above it.
    """

    fmr: float
    threshold: float
    threshold_low: float
    threshold_high: float
    fnmr: float
    fnmr_low: float
    fnmr_high: float
    false_matches: int


@dataclass(frozen=True, kw_only=True)
class VerificationEvaluation(Evaluation):
    """How well pairs of the same person are told from pairs of different people.

    Parameters
    ----------
    contract
        Identity of the embeddings.
    same, different
        Pairs of the table.
    pictures, faceless, unreadable
        Pictures that it names, those without a face, and those that cannot be read.
    failure_to_acquire
        Share of pictures that gave no face, for either reason (ISO/IEC 19795-1).
    pairs_without_face
        Pairs that cannot be compared for it.
    accuracy, standard_error
        Mean over folds, and the standard deviation over folds by the root of their number. A pair that cannot be
        compared is judged "different".
    accuracy_missing_wrong, accuracy_missing_left_out
        The same when such a pair counts as an error whatever it is, and when it does not count.
    folds
        One by one.
    folds_from
        "table", or "rows" where the table has none and pairs of either kind were dealt out in turn.
    auc, eer
        Area under the ROC curve, and equal error rate; of compared pairs.
    at_fmr
        FNMR at false match rates; of compared pairs.
    redrawn
        What intervals redraw: "comparisons" or "people".
    faceless_pictures
        Their names.
    groups, spreads, left_out
        Accuracy, FMR and FNMR at the thresholds of the folds for each group; how far groups lie apart; groups with
        fewer than ten pairs.
    """

    contract: str
    same: int
    different: int
    pictures: int
    faceless: int
    unreadable: int
    failure_to_acquire: float
    pairs_without_face: int
    accuracy: float
    standard_error: float
    accuracy_missing_wrong: float
    accuracy_missing_left_out: float
    auc: float
    auc_low: float
    auc_high: float
    eer: float
    eer_low: float
    eer_high: float
    at_fmr: tuple[ErrorsAtRate, ...]
    redrawn: str
    folds: tuple[Fold, ...]
    folds_from: str
    faceless_pictures: tuple[str, ...] = ()
    groups: tuple[GroupRow, ...] = ()
    spreads: tuple[GroupSpread, ...] = ()
    left_out: tuple[str, ...] = ()


def verification(
    *,
    pairs: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    groups: Iterable[str] = (),
    fmrs: Iterable[float] = (1e-1, 1e-2, 1e-3, 1e-4),
    choose: str = "largest",
    pad: float = 0.0,
    threshold: float | None = None,
    size: int = 640,
    weights: str = "mien-embedder",
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    repeats: int = 1000,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> VerificationEvaluation:
    """Measures verification on pairs of pictures, from the photo to the verdict.

    Parameters
    ----------
    pairs
        CSV file with the columns a,b,same and, for the protocol of LFW, fold. Columns person_a,person_b make
        intervals redraw people, which is the honest way where people recur.
    images
        Folder that the file names are relative to. Default: the folder of the table.
    groups
        Columns of the table by whose values figures are given too, such as gender,age.
    fmrs
        False match rates at which FNMR is given; those too small for the number of pairs of different people are
        left out.
    choose
        Which face counts where a picture shows several: "largest", "central" or "surest".
    pad
        Grey border that the detector sees around every picture, as a share of its long side: 0.5 for pictures that
        are cropped tightly around the face.
    threshold
        Least score of a face, 0 to 1. Default: the one declared with the weights.
    size
        Long side in pixels at which pictures are looked at.
    weights
        Name of the embedder's weights.
    detector
        Name of the detector's weights.
    landmarks
        Name of the landmark network's weights.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    backend
        "torch" or "onnx" (extra ``onnx``).
    batch_size
        Pictures that are looked at together.
    repeats
        Of the bootstrap.
    seed
        Of the bootstrap.
    out
        CSV file that receives every pair with its similarity and how it was judged.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    VerificationEvaluation

    Raises
    ------
    MediaNotFound, TableError
        The table cannot be used, there is no such folder, or too few pairs can be compared.
    """
    rates = tuple(fmrs)
    check_bootstrap(repeats, {f"a false match rate ({rate:g})": rate for rate in rates})
    plan = Plan(
        detector=detector, landmarks=landmarks, embedder=weights, threshold=threshold, size=size, pad=pad,
        device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    table, columns = Path(pairs), names_of(groups)
    people = [name for name in PEOPLE if set(PEOPLE) <= set(_pairs.header_of(table))]
    listed = _pairs.read_pairs(table, images, labels=[*columns, *people])
    enrolled = enroll_files(listed.files, plan, choose=choose, progress=progress)
    there = enrolled.there[listed.a] & enrolled.there[listed.b]
    compared = listed.same[there]
    # -1 is the least that a cosine can be: whatever the threshold, the verdict is "different".
    scores = np.full(len(listed), -1.0, np.float32)
    scores[there] = similarity(enrolled.embeddings[listed.a[there]], enrolled.embeddings[listed.b[there]])

    usable = usable_rates(compared, rates)
    fold = _dealt(listed.same) if listed.fold is None else listed.fold
    kfold = metrics.kfold_accuracy(scores, listed.same, fold)
    left = metrics.kfold_accuracy(scores[there], compared, fold[there])
    level = dict(zip(kfold.folds, kfold.thresholds, strict=True))
    judged = scores >= np.array([level[str(name)] for name in fold.tolist()])
    right = judged == listed.same
    by_fold = [fold == name for name in np.unique(fold)]

    units = np.stack([listed.labels[name][there] for name in people], axis=1) if people else None
    area, equal = (
        metrics.verification_interval(name, scores[there], compared, people=units, repeats=repeats, seed=seed)
        for name in ("auc", "eer")
    )
    calibration = metrics.calibrate(scores[there], compared, fmrs=usable, people=units, repeats=repeats, seed=seed)
    split = by_group(
        {name: listed.labels[name] for name in columns},
        {"accuracy": (right, None), "fmr": (judged, there & ~listed.same), "fnmr": (~judged, there & listed.same)},
        repeats=repeats, seed=seed,
    )  # fmt: skip
    if out is not None:
        _write(out, listed, fold, scores, there, judged)
    unreadable = {failure.source for failure in enrolled.failures}
    return VerificationEvaluation(
        measured_on=table.name,
        date=today(),
        failures=enrolled.failures,
        contract=enrolled.contract,
        same=int(listed.same.sum()),
        different=int((~listed.same).sum()),
        pictures=len(listed.files),
        faceless=enrolled.faceless,
        unreadable=enrolled.unreadable,
        failure_to_acquire=float((~enrolled.there).mean()),
        pairs_without_face=int((~there).sum()),
        accuracy=kfold.accuracy,
        standard_error=kfold.standard_error,
        accuracy_missing_wrong=float(np.mean([(right & there)[mine].mean() for mine in by_fold])),
        accuracy_missing_left_out=left.accuracy,
        auc=area.value,
        auc_low=area.low,
        auc_high=area.high,
        eer=equal.value,
        eer_low=equal.low,
        eer_high=equal.high,
        at_fmr=tuple(
            ErrorsAtRate(
                fmr=point.fmr,
                threshold=point.threshold.value,
                threshold_low=point.threshold.low,
                threshold_high=point.threshold.high,
                fnmr=point.fnmr.value,
                fnmr_low=point.fnmr.low,
                fnmr_high=point.fnmr.high,
                false_matches=point.false_matches,
            )
            for point in calibration.points
        ),
        redrawn=calibration.drawn,
        folds=tuple(
            Fold(name, int(mine.sum()), accuracy, level)
            for name, mine, accuracy, level in zip(
                kfold.folds, by_fold, kfold.accuracies, kfold.thresholds, strict=True
            )
        ),
        folds_from="rows" if listed.fold is None else "table",
        faceless_pictures=tuple(
            name
            for name, file, found in zip(listed.names, listed.files, enrolled.there, strict=True)
            if not found and str(file) not in unreadable
        ),
        groups=split.rows,
        spreads=split.spreads,
        left_out=split.left_out,
    )  # fmt: skip


def _dealt(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Folds (n,) for a table without: pairs of either kind dealt out in turn, so that every fold has its share."""
    folds = min(FOLDS, int(same.sum()), int((~same).sum()))
    if folds < 2:
        raise TableError(
            "one pair of a kind leaves none to set the threshold on",
            got=f"{int(same.sum())} same and {int((~same).sum())} different pairs",
            expected="two of each at least, a hundred for a figure worth reading",
        )
    fold = np.empty(len(same), np.int64)
    for kind in (same, ~same):
        fold[kind] = np.arange(kind.sum()) % folds + 1
    return fold


def _write(
    path: str | os.PathLike[str],
    listed: _pairs.Pairs,
    fold: NDArray[np.int64],
    scores: NDArray[np.float32],
    there: NDArray[np.bool_],
    judged: NDArray[np.bool_],
) -> None:
    """One row a pair; the similarity is empty where a face is missing."""
    with _output.whole_file(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["fold", "same", "a", "b", "similarity", "judged_same"])
        for row in range(len(listed)):
            score = str(scores[row]) if there[row] else ""  # the shortest text that gives the same float32 back
            names = listed.names[listed.a[row]], listed.names[listed.b[row]]
            table.writerow([fold[row], int(listed.same[row]), *names, score, int(judged[row])])
