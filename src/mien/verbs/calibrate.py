"""``calibrate``: which similarity stands for which false match rate, measured on one's own pictures."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mien import metrics
from mien.errors import MediaNotFound, OptionError, TableError, WeightsError
from mien.faces import Faces, Failure
from mien.verbs import _choose, _output, _pairs, _pipeline
from mien.verbs._pipeline import Plan, Progress
from mien.verbs._score import similarity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""False match rates that a table is made for, as far as there are enough pairs of different people."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the similarity and the error rates it stands for (ISO/IEC 19795-1): a row of a kept table.

    Parameters
    ----------
    fmr
        Share of pairs of different people at or above the threshold.
    threshold
        Two faces are the same person from this similarity on.
    low, high
        95 % bootstrap interval of the threshold.
    fnmr
        Share of pairs of the same person below the threshold.
    """

    fmr: float
    threshold: float
    low: float | None = None
    high: float | None = None
    fnmr: float | None = None


@dataclass(frozen=True)
class Calibration:
    """Thresholds of one embedder for several false match rates, and what they were measured on: what verdicts rest on.

    `mien.metrics.calibrate` measures; this is the table that is kept, with the identity of the embeddings it is for.

    Parameters
    ----------
    points
        Operating points, false match rates falling, thresholds rising.
    contract
        Identity of the embeddings that the thresholds are for.
    set
        What was measured on.
    date
        ISO date of the measurement.
    same, different
        Numbers of pairs compared.
    failures
        Pictures that could not be read.
    """

    points: tuple[OperatingPoint, ...]
    contract: str
    set: str
    date: str
    same: int = 0
    different: int = 0
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        if not self.points:
            raise TableError("a calibration needs at least one operating point", got="none")
        rates = [p.fmr for p in self.points]
        levels = [p.threshold for p in self.points]
        if any(np.diff(rates) >= 0) or any(np.diff(levels) < 0):
            raise TableError(
                "the points of a calibration are out of order",
                got=[(p.fmr, p.threshold) for p in self.points],
                expected="falling false match rates with rising thresholds",
            )

    def point_at(self, fmr: float) -> OperatingPoint:
        """The operating point for a false match rate; between two measured ones, interpolated in log(fmr).

        Raises
        ------
        OptionError
            The rate lies outside of what was measured.
        """
        rates = np.array([p.fmr for p in self.points])
        if not rates.min() * (1 - 1e-9) <= fmr <= rates.max() * (1 + 1e-9):
            raise OptionError(
                f"the false match rate lies outside of what was measured on {self.set}",
                got=fmr,
                expected=f"{rates.min():g} to {rates.max():g}",
                hint="choose a rate in that range, give threshold= yourself, or calibrate on more pairs",
            )
        for point in self.points:
            if np.isclose(point.fmr, fmr, rtol=1e-9):
                return point
        log = -np.log10(rates)

        def between(name: str) -> float | None:
            values = [getattr(p, name) for p in self.points]
            return None if None in values else float(np.interp(-np.log10(fmr), log, values))

        threshold = between("threshold")
        assert threshold is not None
        return OperatingPoint(fmr, threshold, between("low"), between("high"), between("fnmr"))

    def threshold_at(self, fmr: float) -> float:
        """The similarity from which two faces are the same, at a false match rate. Errors as in
        `point_at`."""
        return self.point_at(fmr).threshold

    def fmr_at(self, value: float) -> tuple[float, bool]:
        """False match rate of a similarity, and whether it lies in the measured range (at its end
        otherwise)."""
        levels = [p.threshold for p in self.points]
        inside = levels[0] <= value <= levels[-1]
        return float(10 ** np.interp(value, levels, np.log10([p.fmr for p in self.points]))), inside

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """The table as text; `from_json` reads it back."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The table of a text that `to_json` made; TableError for anything else."""
        try:
            values = json.loads(text)
            points = tuple(OperatingPoint(**p) for p in values.pop("points"))
            failures = tuple(Failure(**f) for f in values.pop("failures", ()))
            return cls(points=points, failures=failures, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, TableError):
                raise
            raise TableError(
                "this is not a calibration",
                got=str(error),
                hint="make one with `mien calibrate pairs.csv --out FILE`",
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as JSON."""
        with _output.whole_file(path) as file:
            file.write(self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a table that `save` or ``mien calibrate --out`` wrote."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise MediaNotFound("the calibration cannot be read", got=str(path), hint=error.strerror) from error
        except UnicodeDecodeError as error:
            raise TableError("this is not a calibration", got=str(path), expected="JSON") from error
        return cls.from_json(text)


def bundled_calibration(weights: str) -> Calibration:
    """The table that comes with an embedder.

    Raises
    ------
    WeightsError
        The embedder is declared without one.
    """
    from mien.weights import info

    declared = info(weights)
    if declared.embedding is None or not declared.calibration:
        raise WeightsError(
            f"{weights} comes without a calibration",
            expected="thresholds with the false match rates they stand for",
            hint="make one with `mien calibrate pairs.csv --out table.json` and give calibration=, or give threshold=",
        )
    operating = sorted(declared.calibration, key=lambda p: -p.fmr)
    points = tuple(OperatingPoint(p.fmr, p.threshold, p.low, p.high, p.fnmr) for p in operating)
    date = max((figure.date for figure in declared.figures), default="")
    return Calibration(points, declared.embedding.id, operating[0].data, date)


def calibrate(
    pairs: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    rates: Iterable[float] = RATES,
    choose: str = "largest",
    name: str | None = None,
    threshold: float | None = None,
    size: int = 640,
    weights: str = "mien-embedder",
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Measures which similarity stands for which false match rate, on pairs or on pictures of named people.

    Parameters
    ----------
    pairs
        CSV file with the columns ``a,b,same`` (pairs), or ``file,identity`` (every two pictures are
        compared).
    images
        Folder that the file names are relative to. Default: the folder of the table.
    rates
        False match rates. Those too small for the number of pairs of different people (less than one of them
        would match) are left out.
    choose
        Which face counts where a picture shows several: "largest", "central" or "surest".
    name
        What to call the pictures in verdicts. Default: the table's file name.
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
    seed
        Of the bootstrap.
    out
        File that receives the table as JSON, for ``verify(calibration=…)``.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    Calibration

    Raises
    ------
    TableError
        The table cannot be used, or it has too few pairs.
    """
    plan = Plan(
        detector=detector, landmarks=landmarks, embedder=weights, threshold=threshold, size=size,
        device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    rates = sorted(set(rates), reverse=True)
    if not rates or not all(0 < rate < 1 for rate in rates):
        raise OptionError("false match rates lie between 0 and 1", got=list(rates), expected="such as 0.01, 0.001")
    table = Path(pairs)
    header = _pairs.header_of(table)
    if {"file", "identity"} <= set(header) and "same" not in header:
        files, person = _pairs.read_people(table, images)
        enrolled = enroll_files(files, plan, choose=choose, progress=progress)
        scores, same, units = _all_against_all(enrolled, person)
    else:
        listed = _pairs.read_pairs(table, images)
        enrolled = enroll_files(listed.files, plan, choose=choose, progress=progress)
        there = enrolled.there[listed.a] & enrolled.there[listed.b]
        scores = similarity(enrolled.embeddings[listed.a[there]], enrolled.embeddings[listed.b[there]])
        same, units = listed.same[there], None
    points = operating_points(scores, same, rates, units=units, seed=seed)
    result = Calibration(
        points, enrolled.contract, name or table.name, datetime.date.today().isoformat(),
        int(same.sum()), int((~same).sum()), enrolled.failures,
    )  # fmt: skip
    if out is not None:
        result.save(out)
    return result


@dataclass(frozen=True)
class Enrolled:
    """One embedding for each of a list of files.

    Parameters
    ----------
    embeddings
        (n, d); unit vector along the first axis where there is no face.
    there
        (n,) whether a face was found.
    unreadable, faceless
        Files that could not be read, and files without a face (failure to acquire, ISO/IEC 19795-1).
    contract
        Identity of the embeddings.
    failures
        Of the unreadable files.
    faces
        The chosen faces themselves.
    """

    embeddings: NDArray[np.float32]
    there: NDArray[np.bool_]
    unreadable: int
    faceless: int
    contract: str
    failures: tuple[Failure, ...]
    faces: Faces


def enroll_files(
    files: Iterable[Path], plan: Plan, *, choose: str = "largest", progress: Progress | None = None
) -> Enrolled:
    """Embeds the chosen face of every file, all in batches."""
    from mien.weights import info

    paths = list(files)
    faces = _pipeline.run([str(path) for path in paths], plan, progress=progress)
    rows = _choose.one_of_each(faces, choose)
    row_of = {image.source: rows[index] for index, image in enumerate(faces.images)}
    picked = np.array([row_of.get(str(path), -1) for path in paths], np.int64)
    there = picked >= 0
    contract = info(plan.embedder or "").embedding
    assert contract is not None
    embeddings = np.zeros((len(paths), contract.dim), np.float32)
    embeddings[:, 0] = 1
    embeddings[there] = faces.embeddings[picked[there]]
    unreadable = len(faces.failures)
    chosen = faces[picked[there]]
    return Enrolled(
        embeddings, there, unreadable, int((~there).sum()) - unreadable, contract.id, faces.failures, chosen
    )


def _all_against_all(
    enrolled: Enrolled, person: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """Scores of every two pictures, whether they show one person, and the two people of each pair (pairs,
    2)."""
    rows, who = enrolled.embeddings[enrolled.there], person[enrolled.there]
    scores, same, units = [], [], []
    for i in range(len(rows) - 1):
        scores.append(similarity(np.broadcast_to(rows[i], rows[i + 1 :].shape), rows[i + 1 :]))
        same.append(who[i + 1 :] == who[i])
        units.append(np.stack([np.full(len(rows) - i - 1, who[i], np.int32), who[i + 1 :].astype(np.int32)], 1))
    if not scores:
        raise TableError("fewer than two pictures show a face", got=len(rows))
    return np.concatenate(scores), np.concatenate(same), np.concatenate(units)


def operating_points(
    scores: ArrayLike,
    same: ArrayLike,
    rates: Iterable[float] = RATES,
    *,
    units: ArrayLike | None = None,
    rounds: int = 400,
    seed: int = 0,
) -> tuple[OperatingPoint, ...]:
    """Thresholds for false match rates with 95 % bootstrap intervals, by `mien.metrics.calibrate`.

    A threshold is the lowest float32, which is what `similarity` gives, at which not more than the wanted share of
    different pairs scores at or above it.

    Parameters
    ----------
    scores, same : (n,)
        Similarity of every pair, and whether it is one person.
    rates
        Those with less than one false match in all different pairs are left out.
    units : (n, 2), optional
        The two people of each pair: the bootstrap then draws people, since pairs of one person are alike.
        Without, it draws pairs.
    rounds, seed
        Of the bootstrap.

    Raises
    ------
    TableError
        There are no pairs of one kind, or too few different ones for any of the rates.
    """
    usable = usable_rates(same, rates)
    cosines = np.asarray(scores, np.float32)
    table = metrics.calibrate(cosines, same, fmrs=usable, people=units, repeats=rounds, seed=seed)
    return tuple(
        OperatingPoint(
            point.fmr, point.threshold.value, point.threshold.low,
            point.threshold.high, point.fnmr.value,
        )
        for point in table.points
    )  # fmt: skip


def usable_rates(same: ArrayLike, rates: Iterable[float]) -> list[float]:
    """Those of `rates`, falling, that pairs of which `same` (n,) tells the kind can measure; TableError for none."""
    genuine = np.asarray(same, np.bool_)
    different = int((~genuine).sum())
    usable = sorted((rate for rate in set(rates) if rate * different * (1 + 1e-12) >= 1), reverse=True)
    if not usable or not genuine.any():
        raise TableError(
            "there are too few pairs to calibrate on",
            got=f"{int(genuine.sum())} same and {different} different pairs with a face in both pictures",
            expected="some of both kinds, and 1,000 different ones for a false match rate of 0.001",
            hint="list more pairs, or ask for larger false match rates",
        )
    return usable
