"""``evaluate quality``: does the quality of a face foretell whether it is recognised?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien import metrics
from mien.errors import OptionError, ValueRangeError
from mien.verbs import _pairs
from mien.verbs._pipeline import Plan, Progress
from mien.verbs._score import similarity
from mien.verbs.calibrate import enroll_files, usable_rates
from mien.verbs.evaluate._common import Evaluation, today

UNIFIED = "UnifiedQualityScore"

CURVE = tuple(round(0.01 * step, 2) for step in range(51))
"""Shares discarded at which curves are given."""


@dataclass(frozen=True)
class Discard:
    """What discarding by one part of the quality gains.

    Parameters
    ----------
    component
        "UnifiedQualityScore", or a part of it.
    gain
        Of what the best order of discarding could gain up to 30 % discarded: 1 for just that order, 0 for chance,
        below 0 for worse than chance; None where there is no error to begin with.
    area
        Mean FNMR while the share discarded goes from 0 to 30 %.
    fnmr, fnmr_5, fnmr_10, fnmr_20, fnmr_30
        FNMR of what remains after so many percent of the genuine pairs, those with the poorest picture, are gone.
    curve
        FNMR at the shares of `QualityEvaluation.discarded`.
    """

    component: str
    gain: float | None
    area: float
    fnmr: float
    fnmr_5: float
    fnmr_10: float
    fnmr_20: float
    fnmr_30: float
    curve: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class QualityEvaluation(Evaluation):
    """Error-versus-discard curves (ISO/IEC 29794-1) of the quality and of its parts.

    Parameters
    ----------
    contract
        Identity of the embeddings.
    quality
        How recognisability was told.
    same, different
        Pairs with a face in both pictures.
    pairs_without_face
        The others, which are left out.
    fmr, threshold
        The false match rate on all pairs, and the cosine that it makes; it does not move along the curves.
    components
        The unified score first, then the parts, best gain first.
    discarded
        Shares of genuine pairs discarded at which the curves are given.
    """

    contract: str
    quality: str
    same: int
    different: int
    pairs_without_face: int
    fmr: float
    threshold: float
    components: tuple[Discard, ...]
    discarded: tuple[float, ...] = CURVE


def quality(
    *,
    pairs: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    fmr: float = 1e-2,
    method: str = "stability",
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
    progress: Progress | None = None,
) -> QualityEvaluation:
    """Measures how much fewer genuine pairs are missed when those of poor quality are left out.

    Parameters
    ----------
    pairs
        CSV file with the columns a,b,same.
    images
        Folder that the file names are relative to. Default: the folder of the table.
    fmr
        False match rate that the threshold is made for.
    method
        How recognisability is told: "stability", "norm", "recognizability" or "components", as in `analyze`.
    choose
        Which face counts where a picture shows several: "largest", "central" or "surest".
    pad
        Grey border that the detector sees around every picture, as a share of its long side.
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
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    QualityEvaluation

    Raises
    ------
    MediaNotFound, TableError
        The table cannot be used, there is no such folder, or too few pairs can be compared at that rate.
    """
    if not 0 < fmr < 1:
        raise OptionError("a false match rate lies between 0 and 1", got=fmr, expected="such as 0.01")
    plan = Plan(
        detector=detector, landmarks=landmarks, embedder=weights, threshold=threshold, size=size, pad=pad,
        quality=method, device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    table = Path(pairs)
    listed = _pairs.read_pairs(table, images)
    enrolled = enroll_files(listed.files, plan, choose=choose, progress=progress)
    there = enrolled.there[listed.a] & enrolled.there[listed.b]
    a, b, same = listed.a[there], listed.b[there], listed.same[there]
    usable_rates(same, [fmr])
    scores = similarity(enrolled.embeddings[a], enrolled.embeddings[b])
    level = metrics.threshold_at_fmr(scores, same, fmr)

    row = np.cumsum(enrolled.there) - 1  # of a picture's face among those that were found
    values = {UNIFIED: enrolled.faces.quality, **enrolled.faces.quality_components}
    discards = [
        _discard(name, metrics.error_versus_discard(scores, same, value[row[a]], value[row[b]], threshold=level))
        for name, value in values.items()
    ]
    discards[1:] = sorted(discards[1:], key=lambda d: d.area)
    return QualityEvaluation(
        measured_on=table.name,
        date=today(),
        failures=enrolled.failures,
        contract=enrolled.contract,
        quality=method,
        same=int(same.sum()),
        different=int((~same).sum()),
        pairs_without_face=int((~there).sum()),
        fmr=fmr,
        threshold=level,
        components=tuple(discards),
    )


def _discard(name: str, curve: metrics.ErrorVersusDiscard) -> Discard:
    try:
        gain = curve.gain()
    except ValueRangeError:  # no error at the threshold: nothing can be gained
        gain = None
    return Discard(
        component=name,
        gain=gain,
        area=curve.area(),
        fnmr=curve.at(0.0),
        fnmr_5=curve.at(0.05),
        fnmr_10=curve.at(0.1),
        fnmr_20=curve.at(0.2),
        fnmr_30=curve.at(0.3),
        curve=tuple(curve.at(share) for share in CURVE),
    )
