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
from mien.errors import OptionError, TableError, ValueRangeError
from mien.verbs import _output, _pairs
from mien.verbs._pipeline import Plan, Progress
from mien.verbs._score import similarity
from mien.verbs.calibrate import usable_rates
from mien.verbs.evaluate import _embedded, _report
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


@dataclass(frozen=True)
class FoldedRates:
    """VAL@FAR of FaceNet: each fold at the threshold that makes the rate on the others.

    Parameters
    ----------
    fmr
        The rate that thresholds are set for, on the other folds.
    tar, standard_error
        Mean over folds of the share of genuine pairs accepted, and the standard deviation over folds by the root of
        their number.
    measured_fmr
        Mean over folds of the false match rate on the fold itself.
    """

    fmr: float
    tar: float
    standard_error: float
    measured_fmr: float


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
    folded
        True accept rate at false match rates by the folds (VAL@FAR); a pair that cannot be compared is "different".
    probability_error, cllr
        How far probabilities of "same person" at even odds, by a logistic curve of the other folds, are from what is
        so (expected calibration error), and what they cost in bits; of compared pairs.
    people_in_several_folds
        Who is in more than one fold, where the table or `people` name them. Folds that share people flatter a network
        that has its thresholds from the other folds.
    templates
        Templates that were compared; 0 where pictures were.
    redrawn
        What intervals redraw: "comparisons" or "people".
    faceless_pictures
        Their names.
    groups, spreads, left_out
        Accuracy, FMR and FNMR at the thresholds of the folds for each group; how far groups lie apart; groups with
        fewer than ten pairs.
    report
        The page that was written.
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
    folded: tuple[FoldedRates, ...]
    probability_error: float | None
    cllr: float | None
    people_in_several_folds: tuple[str, ...] = ()
    templates: int = 0
    redrawn: str
    folds: tuple[Fold, ...]
    folds_from: str
    faceless_pictures: tuple[str, ...] = ()
    groups: tuple[GroupRow, ...] = ()
    spreads: tuple[GroupSpread, ...] = ()
    left_out: tuple[str, ...] = ()
    report: str = ""


def verification(
    *,
    pairs: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    embeddings: str | os.PathLike[str] | None = None,
    templates: str | os.PathLike[str] | None = None,
    weigh: str = "equal",
    people: str | os.PathLike[str] | None = None,
    groups: Iterable[str] = (),
    fmrs: Iterable[float] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
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
    report: str | os.PathLike[str] | None = None,
    plots: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> VerificationEvaluation:
    """Measures verification on pairs of pictures or of templates, from the photo to the verdict.

    Parameters
    ----------
    pairs
        CSV file with the columns a,b,same and, for the protocol of LFW, fold. Columns person_a,person_b make
        intervals redraw people, which is the honest way where people recur.
    images
        Folder that the file names are relative to. Default: the folder of the table.
    embeddings
        File of embeddings (`.npz` or `.parquet`, as ``mien embed --out`` writes it) that is read instead of the
        pictures. A picture is found where its name is the end of a source of the file.
    templates
        CSV file with the columns template,file and, if any, media,identity: then `a` and `b` of the pairs are names of
        templates, whose faces are pooled, those of one medium first (1:1 protocol of IJB-B and IJB-C).
    weigh
        How faces of a template are weighted: "equal", "quality", "score" (of the detector) or "norm" (length of
        embeddings that come from a file).
    people
        CSV file with the columns file,identity that says who is on the pictures, where the pairs do not: intervals then
        redraw people.
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
    report
        HTML file that receives figures, plots and the protocol, all in one (extra ``evaluate``).
    plots
        Folder that receives the plots as SVG and PNG (extra ``evaluate``).
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
    _report.check_drawable(report, plots)
    if weigh != "equal" and templates is None:
        raise OptionError("only templates are weighted", got=f"weigh {weigh}", hint="give --templates too")
    plan = Plan(
        detector=detector, landmarks=landmarks, embedder=weights, threshold=threshold, size=size, pad=pad,
        quality=_embedded.quality_of(weigh, embeddings), device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    table, columns = Path(pairs), names_of(groups)
    named = [name for name in PEOPLE if set(PEOPLE) <= set(_pairs.header_of(table))]
    exist = embeddings is None
    listed = _pairs.read_pairs(table, images, labels=[*columns, *named], exist=exist and templates is None)
    who: dict[str, str] = {} if people is None else _identities(people)
    if templates is None:
        embedded = _embedded.embed_pictures(
            listed.names, listed.files, plan, embeddings=embeddings, choose=choose, progress=progress
        )
        vectors, found, pooled = embedded.embeddings, embedded.there, 0
    else:
        faces = _embedded.read_listed(templates, images, exist=exist, need=("template", "file"))
        embedded = _embedded.embed_pictures(
            faces.names, faces.files, plan, embeddings=embeddings, choose=choose, weigh=weigh, progress=progress
        )
        made = _embedded.pool(faces, embedded)
        rows = _template_rows(made.names, listed.names, Path(templates).name)
        vectors, found, pooled = made.vectors[rows], made.there[rows], len(rows)
        if people is None and "identity" in _pairs.header_of(templates):
            who = dict(zip(made.names.tolist(), made.identity.tolist(), strict=True))
    there = found[listed.a] & found[listed.b]
    compared = listed.same[there]
    # -1 is the least that a cosine can be: whatever the threshold, the verdict is "different".
    scores = np.full(len(listed), -1.0, np.float32)
    scores[there] = similarity(vectors[listed.a[there]], vectors[listed.b[there]])

    usable = usable_rates(compared, rates)
    fold = _dealt(listed.same) if listed.fold is None else listed.fold
    kfold = metrics.kfold_accuracy(scores, listed.same, fold)
    left = metrics.kfold_accuracy(scores[there], compared, fold[there])
    level = dict(zip(kfold.folds, kfold.thresholds, strict=True))
    judged = scores >= np.array([level[str(name)] for name in fold.tolist()])
    right = judged == listed.same
    by_fold = [fold == name for name in np.unique(fold)]

    folded = _folded(scores, listed.same, fold, usable)
    told = _probabilities(scores[there], compared, fold[there])

    whole = _people_of(listed, named, who)
    units = None if whole is None else whole[there]
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
    unreadable = {failure.source for failure in embedded.failures}
    result = VerificationEvaluation(
        measured_on=table.name,
        date=today(),
        failures=embedded.failures,
        contract=embedded.contract,
        same=int(listed.same.sum()),
        different=int((~listed.same).sum()),
        pictures=embedded.pictures,
        faceless=embedded.faceless,
        unreadable=embedded.unreadable,
        failure_to_acquire=float((~embedded.there).mean()),
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
        folded=folded,
        probability_error=None if told is None else told.error,
        cllr=None if told is None else told.cllr,
        people_in_several_folds=() if whole is None else tuple(metrics.people_across_folds(whole, fold)),
        templates=pooled,
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
            for name, file, seen in zip(listed.names, listed.files, found, strict=True)
            if not seen and str(file) not in unreadable
        ),
        groups=split.rows,
        spreads=split.spreads,
        left_out=split.left_out,
        report="" if report is None else str(report),
    )  # fmt: skip
    if report is not None or plots is not None:
        sources = (
            ("detector", detector),
            ("landmarks", landmarks),
            ("embedder", weights),
            ("size", size),
            ("pad", pad),
        )
        page = _page(
            result, scores[there], compared, told,
            _report.networks(embedded.contract, embeddings, sources), weigh, repeats,
        )  # fmt: skip
        _report.write(page, result, page=report, plots=plots)
    return result


def _identities(path: str | os.PathLike[str]) -> dict[str, str]:
    """Who is on each picture of a table ``file,identity``."""
    rows = _pairs.read_table(path, ("file", "identity"))
    return {row["file"].strip(): row["identity"].strip() for row in rows}


def _people_of(listed: _pairs.Pairs, named: list[str], who: dict[str, str]) -> NDArray[np.str_] | None:
    """The two people of each pair (n, 2), by `who` or by columns of the table; None where nobody tells."""
    if who:
        missing = [name for name in listed.names if name not in who]
        if missing:
            raise TableError(
                "nobody says who is on some of the pictures", got=f"{missing[0]} and {len(missing) - 1} more",
                expected="a row of the table of people for each",
            )  # fmt: skip
        known = np.array([who[name] for name in listed.names])
        units = np.stack([known[listed.a], known[listed.b]], axis=1)
        wrong = np.flatnonzero((units[:, 0] == units[:, 1]) != listed.same)
        if len(wrong):
            pair = listed.names[listed.a[wrong[0]]], listed.names[listed.b[wrong[0]]]
            raise TableError(
                "the table of people and the pairs contradict each other",
                got=f"{pair[0]} and {pair[1]}, and {len(wrong) - 1} more pairs",
                expected="same=1 for pairs of one identity, and for no others",
            )
        return units
    return np.stack([listed.labels[name] for name in named], axis=1) if named else None


def _template_rows(names: NDArray[np.str_], wanted: tuple[str, ...], table: str) -> NDArray[np.intp]:
    rows = np.searchsorted(names, wanted).clip(max=len(names) - 1)
    missing = [name for name, row in zip(wanted, rows, strict=True) if names[row] != name]
    if missing:
        raise TableError(
            f"{table} lacks templates that the pairs name", got=f"{missing[0]} and {len(missing) - 1} more",
            expected="a row at least for each",
        )  # fmt: skip
    return rows.astype(np.intp)


def _folded(
    scores: NDArray[np.float32], same: NDArray[np.bool_], fold: NDArray[np.int64], rates: Iterable[float]
) -> tuple[FoldedRates, ...]:
    """VAL@FAR at those of `rates` that the pairs of all folds but one can measure."""
    made = []
    for rate in rates:
        try:
            told = metrics.kfold_tar_at_fmr(scores, same, fold, rate)
        except ValueRangeError:  # too few pairs in the other folds, or a fold of one kind
            continue
        made.append(FoldedRates(told.fmr, told.tar, told.standard_error, told.measured_fmr))
    return tuple(made)


def _probabilities(
    scores: NDArray[np.float32], same: NDArray[np.bool_], fold: NDArray[np.int64]
) -> metrics.Reliability | None:
    """How true probabilities are; None where all folds but one lack a kind of pairs to fit a curve on."""
    try:
        return metrics.reliability(metrics.kfold_probabilities(scores, same, fold), same)
    except ValueRangeError:
        return None


def _page(
    result: VerificationEvaluation,
    scores: NDArray[np.float32],
    same: NDArray[np.bool_],
    told: metrics.Reliability | None,
    source: str,
    weigh: str,
    repeats: int,
) -> _report.Report:
    """The report; scores (n,) and `same` (n,) of the pairs that could be compared."""
    from mien.media import plots

    percent, span = _report.percent, _report.span
    curve = metrics.roc(scores, same).corners()
    marks = [(point.fmr, 1 - point.fnmr) for point in result.at_fmr]
    strict = result.at_fmr[-1]
    kind = "templates" if result.templates else "pictures"
    how = {
        "equal": "all faces of a medium alike",
        "quality": "faces by their quality",
        "score": "faces by the detector's score",
        "norm": "faces by the length of their embedding",
    }
    drawn = (
        "people, with all pairs between those drawn (vertex bootstrap)"
        if result.redrawn == "people"
        else "pairs of either kind apart; where people recur in the pairs, intervals are too narrow"
    )
    shared = len(result.people_in_several_folds)
    folds = (
        f"{len(result.folds)}, {'as the table has them' if result.folds_from == 'table' else 'dealt out in turn'}; "
        "each is judged at the threshold that is best on the others"
    )
    if result.redrawn == "people":
        folds += f"; {shared:,} people are in several folds" if shared else "; no person is in two folds"
    tiles = [
        (percent(result.accuracy), f"accuracy, standard error {percent(result.standard_error)}"),
        (percent(result.eer), f"equal error rate, {span(result.eer_low, result.eer_high)}"),
        (
            percent(1 - strict.fnmr),
            f"true accept rate at a false match rate of {strict.fmr:g}, "
            f"{span(1 - strict.fnmr_high, 1 - strict.fnmr_low)}",
        ),
    ]
    drawings = [
        _report.Plot(
            "roc",
            "ROC",
            "Dots are the operating points of the table below.",
            plots.roc({"": (curve.fmr, curve.tar)}, points=marks),
        ),
        _report.Plot(
            "det",
            "DET",
            "Normal-deviate axes; on the dotted line both rates are equal.",
            plots.det({"": (curve.fmr, curve.fnmr)}, points=[(p.fmr, p.fnmr) for p in result.at_fmr]),
        ),
        _report.Plot(
            "scores",
            "Scores",
            f"The threshold is that for a false match rate of {strict.fmr:g}.",
            plots.histogram(scores[same], scores[~same], threshold=strict.threshold),
        ),
    ]
    if told is not None:
        drawings.append(
            _report.Plot(
                "reliability",
                "Probabilities",
                f"Logistic curve of the other folds, even odds. Error {percent(told.error)}, {told.cllr:.3f} bits.",
                plots.reliability({"": (told.said, told.so)}, counts=told.count),
            )
        )
    tables = [
        _report.Table(
            "Operating points",
            ("false match rate", "threshold", "its interval", "true accept rate", "its interval", "false matches"),
            [
                (
                    f"{p.fmr:g}", _report.cosine(p.threshold), f"{p.threshold_low:.4f} to {p.threshold_high:.4f}",
                    percent(1 - p.fnmr), span(1 - p.fnmr_high, 1 - p.fnmr_low), p.false_matches,
                )
                for p in result.at_fmr
            ],
            "Thresholds are set on these very pairs. Rates for which fewer than one false match is expected are left "
            "out, and those with fewer than 30 are rough (Doddington's rule).",
        ),
        _report.Table(
            "By the folds",
            ("false match rate on the other folds", "true accept rate", "standard error", "false match rate here"),
            [
                (f"{f.fmr:g}", percent(f.tar), percent(f.standard_error), f"{f.measured_fmr:.2g}")
                for f in result.folded
            ],
            "VAL@FAR of FaceNet: thresholds are set on the other folds.",
        ),
        _report.Table(
            "Folds", ("fold", "pairs", "accuracy", "threshold"),
            [(f.fold, f.pairs, percent(f.accuracy), _report.cosine(f.threshold)) for f in result.folds],
        ),
        _report.Table(
            "By group", ("column", "group", "figure", "pairs", "value", "95 % interval"),
            [(g.column, g.group, g.figure, g.count, percent(g.value), span(g.low, g.high)) for g in result.groups],
        ),
    ]  # fmt: skip
    protocol = {
        "Pairs": f"{result.same:,} of the same person and {result.different:,} of different people, "
        f"{result.measured_on}",
        "Compared": f"{kind}" + (f", {result.templates:,}; media first, {how[weigh]}" if result.templates else ""),
        "Pictures": _report.acquired(result.pictures, result.faceless, result.unreadable),
        "Missing faces": f'{result.pairs_without_face:,} pairs cannot be compared and are judged "different"; counted '
        f"as errors, accuracy is {percent(result.accuracy_missing_wrong)}, left out, "
        f"{percent(result.accuracy_missing_left_out)}. Curves are of compared pairs.",
        "Folds": folds,
        "Intervals": f"95 % bootstrap, {repeats:,} repeats; redrawn are {drawn}",
        "Score": "cosine of embeddings of length one; a pair is accepted at or above the threshold",
        "Embeddings": source,
        "Terms": "false match rate and false non-match rate as in ISO/IEC 19795-1; true accept rate is one less the "
        "latter",
        "Date": result.date,
    }
    return _report.Report(
        title="Verification",
        lead=f"Are two {kind} of the same person? {result.same + result.different:,} pairs of {result.measured_on}.",
        tiles=tiles, protocol=protocol, plots=drawings, tables=tables,
        command=f"mien evaluate verification --pairs {result.measured_on}",
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
