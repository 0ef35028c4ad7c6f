"""``verify``: whether two pictures show the same person, and how sure one may be."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from mien.errors import OptionError
from mien.faces import Faces
from mien.verbs import _choose, _pipeline
from mien.verbs._pipeline import Plan, Progress, Source
from mien.verbs._score import similarity
from mien.verbs.calibrate import Calibration, bundled_calibration


class Reason(StrEnum):
    """Why a verdict cannot be given, or is to be taken with care."""

    NO_FACE = "no_face"
    SEVERAL_FACES = "several_faces"
    TOO_SMALL = "too_small"
    TOO_BLURRED = "too_blurred"
    LOW_QUALITY = "low_quality"
    EXTREME_POSE = "extreme_pose"
    UNDEREXPOSED = "underexposed"
    OVEREXPOSED = "overexposed"
    CUT_OFF = "cut_off"


@dataclass(frozen=True)
class Remark:
    """One reason, the picture it is about, and what was measured.

    Parameters
    ----------
    reason
        Machine-readable kind.
    picture
        "a" or "b".
    blocks
        Whether no verdict is given because of it.
    text
        For people.
    value, limit
        What was measured and what was wanted, where there are numbers.
    """

    reason: Reason
    picture: str
    blocks: bool
    text: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Chosen:
    """The face of a picture that was compared.

    Parameters
    ----------
    source
        The picture.
    faces
        How many faces were found in it.
    index
        Which of them was taken, in the detector's order.
    box
        Its corners x0, y0, x1, y1 in pixels.
    score
        How sure the detector is, 0 to 1.
    quality
        How well it can be recognised, 0 to 1.
    """

    source: str
    faces: int
    index: int | None = None
    box: tuple[float, float, float, float] | None = None
    score: float | None = None
    quality: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether two pictures show the same person.

    Parameters
    ----------
    same
        True or False; None where it cannot be judged (see `remarks`).
    similarity
        Cosine of the two embeddings, -1 to 1; None where there is no face in one of them.
    threshold
        Similarity from which on `same` is True.
    threshold_low, threshold_high
        95 % bootstrap interval of the threshold, where it was measured.
    fmr
        False match rate that the threshold stands for; None for a threshold the caller gave.
    similarity_fmr
        Share of pairs of different people that are at least this similar; at the end of the measured range, a
        bound.
    measured_on, measured
        Pictures that threshold and rate were measured on, and the day.
    explanation
        The verdict in a sentence or two.
    a, b
        The faces that were compared.
    remarks
        Reasons not to judge, or to take the verdict with care.
    contract
        Identity of the embeddings.
    """

    same: bool | None
    similarity: float | None
    threshold: float
    threshold_low: float | None
    threshold_high: float | None
    fmr: float | None
    similarity_fmr: float | None
    measured_on: str | None
    measured: str | None
    explanation: str
    a: Chosen
    b: Chosen
    remarks: tuple[Remark, ...]
    contract: str | None

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Kinds of all remarks."""
        return tuple(remark.reason for remark in self.remarks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """The verdict as JSON text."""
        return json.dumps(self.to_dict(), indent=2)


MIN_EYE_DISTANCE = 8.0
"""Pixels between the eyes below which no verdict is given."""

MIN_SHARPNESS = 0.08
"""`Sharpness` below which no verdict is given."""

MAX_YAW, MAX_PITCH = 60.0, 45.0
"""Degrees beyond which a verdict is to be taken with care: such pairs are rare in what thresholds are
measured on."""


def verify(
    a: Source,
    b: Source,
    *,
    fmr: float = 1e-3,
    threshold: float | None = None,
    calibration: str | os.PathLike[str] | Calibration | None = None,
    min_quality: float = 0.15,
    choose: str = "largest",
    quality: str = "stability",
    face_threshold: float | None = None,
    size: int = 640,
    weights: str = "mien-embedder",
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | None = None,
) -> Verdict:
    """Judges whether two pictures show the same person.

    Parameters
    ----------
    a
        A picture: path, array, tensor, PIL image, bytes or file object.
    b
        Another one.
    fmr
        False match rate that one is ready to bear: of so many pairs of strangers, this share is called the
        same.
    threshold
        Similarity from which on two faces are the same, in place of `fmr`.
    calibration
        A table that `calibrate` made on one's own pictures, in place of the one that comes with the embedder.
    min_quality
        Least quality of both faces, 0 to 1; below it no verdict is given.
    choose
        Which face counts where a picture shows several: "largest", "central" or "surest".
    quality
        How recognisability is told: "stability", "norm", "recognizability" or "components", as in `analyze`.
    face_threshold
        Least detection score of a face, 0 to 1. Default: the one declared with the detector.
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
    progress
        Called as ``progress(done, total, what)``.

    Returns
    -------
    Verdict
        With `same` None where it cannot be judged: no face, or one too small, too blurred or of too low
        quality.

    Raises
    ------
    MediaError, ArrayError
        A picture cannot be read.
    OptionError
        The false match rate was never measured for this embedder.
    """
    if not 0 <= min_quality <= 1:
        raise OptionError("min_quality lies between 0 and 1", got=min_quality)
    if threshold is not None and not -1 <= threshold <= 1:
        raise OptionError("a threshold is a cosine", got=threshold, expected="-1 to 1")
    for name, source in (("a", a), ("b", b)):
        if _pipeline.several(source):
            raise OptionError(
                f"{name} must be one picture", got=source, expected="one path, array, image, bytes or file",
                hint="verify compares two pictures; embed and mien.similarity compare many",
            )  # fmt: skip
    plan = Plan(
        detector=detector, landmarks=landmarks, embedder=weights, threshold=face_threshold, size=size,
        quality=quality, device=device, backend=backend, batch_size=2,
    )  # fmt: skip
    table = _table(calibration, weights, needed=threshold is None)
    # One at a time would cost two passes of everything; as a list, what is wrong with a picture would be collected.
    photos = [_pipeline.read_one(source, name) for source, name in ((a, "a"), (b, "b"))]
    faces = _pipeline.run_photos(photos, plan)
    if progress is not None:
        progress(2, 2, "pictures")
    return judge(faces, fmr=fmr, threshold=threshold, table=table, min_quality=min_quality, choose=choose)


def _table(
    calibration: str | os.PathLike[str] | Calibration | None, weights: str, *, needed: bool
) -> Calibration | None:
    from mien.weights import info

    if calibration is None:
        return bundled_calibration(weights) if needed or info(weights).calibration else None
    table = calibration if isinstance(calibration, Calibration) else Calibration.load(calibration)
    contract = info(weights).embedding
    if contract is not None and table.contract != contract.id:
        raise OptionError(
            "the calibration was made for other weights",
            got=table.contract,
            expected=contract.id,
            hint="run `mien calibrate` again with these weights",
        )
    return table


def judge(
    faces: Faces,
    *,
    fmr: float,
    threshold: float | None = None,
    table: Calibration | None = None,
    min_quality: float = 0.15,
    choose: str = "largest",
) -> Verdict:
    """The verdict on the faces of two pictures, which stand in ``faces.images`` as numbers 0 and 1."""
    point = table.point_at(fmr) if threshold is None and table is not None else None
    if threshold is None:
        if point is None:
            raise OptionError("neither a threshold nor a calibration is given", expected="one of the two")
        threshold = point.threshold
    chosen: list[Chosen] = []
    remarks: list[Remark] = []
    rows: list[Faces] = []
    for index, name in enumerate("ab"):
        mine = faces.of_image(index)
        row = _choose.choose(mine, choose)
        info = faces.images[index]
        if row is None:
            chosen.append(Chosen(info.source, 0))
            remarks.append(Remark(Reason.NO_FACE, name, True, f"no face was found in picture {name}"))
            continue
        face = mine[row]
        rows.append(face)
        x0, y0, x1, y1 = (round(float(v), 2) for v in face.boxes[0])
        chosen.append(
            Chosen(info.source, len(mine), row, (x0, y0, x1, y1), float(face.scores[0]), float(face.quality[0]))
        )
        if len(mine) > 1:
            text = f"picture {name} shows {len(mine)} faces; the {choose} was taken"
            remarks.append(Remark(Reason.SEVERAL_FACES, name, False, text, float(len(mine)), 1.0))
        remarks += _remarks(face, name, min_quality)

    value = None if len(rows) < 2 else float(similarity(rows[0].embeddings[0], rows[1].embeddings[0]))
    blocked = any(remark.blocks for remark in remarks)
    same = None if blocked or value is None else value >= threshold
    rate = None if value is None or table is None else table.fmr_at(value)
    return Verdict(
        same=same,
        similarity=value,
        threshold=threshold,
        threshold_low=point.low if point else None,
        threshold_high=point.high if point else None,
        fmr=point.fmr if point else None,
        similarity_fmr=rate[0] if rate else None,
        measured_on=table.set if table else None,
        measured=table.date if table else None,
        explanation=_explain(same, value, threshold, rate, remarks, table),
        a=chosen[0],
        b=chosen[1],
        remarks=tuple(remarks),
        contract=faces.contract,
    )


def _remarks(face: Faces, name: str, min_quality: float) -> list[Remark]:
    """What speaks against comparing a face."""
    remarks = []
    parts = face.quality_components

    def note(reason: Reason, blocks: bool, text: str, value: float, limit: float) -> None:
        remarks.append(Remark(reason, name, blocks, f"the face in picture {name} {text}", round(value, 4), limit))

    eyes = float(np.linalg.norm(face.landmarks5[0, 1] - face.landmarks5[0, 0]))
    yaw, pitch, _ = (float(v) for v in face.pose[0])
    turned = "pose" in face.columns and (abs(yaw) > MAX_YAW or abs(pitch) > MAX_PITCH)
    # A head turned aside brings its eyes together without being small: measure the box then.
    width = float(face.boxes[0, 2] - face.boxes[0, 0])
    extent = max(eyes, width * 0.35) if turned else eyes
    if extent < MIN_EYE_DISTANCE:
        note(Reason.TOO_SMALL, True, f"has only {extent:.0f} px between the eyes", extent, MIN_EYE_DISTANCE)
    sharp = float(parts["Sharpness"][0])
    if sharp < MIN_SHARPNESS:
        note(Reason.TOO_BLURRED, True, "is too blurred", sharp, MIN_SHARPNESS)
    quality = float(face.quality[0])
    if quality < min_quality:
        note(Reason.LOW_QUALITY, True, f"is of too low quality ({quality:.2f})", quality, min_quality)
    if turned:
        angle, limit = (yaw, MAX_YAW) if abs(yaw) > MAX_YAW else (pitch, MAX_PITCH)
        note(Reason.EXTREME_POSE, False, f"is turned far away ({angle:+.0f}°)", angle, limit)
    for reason, part, text, limit in (
        (Reason.UNDEREXPOSED, "UnderExposurePrevention", "lies in the dark", 0.5),
        (Reason.OVEREXPOSED, "OverExposurePrevention", "is burnt out", 0.5),
        (Reason.CUT_OFF, "FaceInsidePicture", "is cut off by the edge of the picture", 0.7),
    ):
        if part in parts and parts[part][0] < limit:
            note(reason, False, text, float(parts[part][0]), limit)
    return remarks


def _explain(
    same: bool | None,
    value: float | None,
    threshold: float,
    rate: tuple[float, bool] | None,
    remarks: list[Remark],
    table: Calibration | None,
) -> str:
    """The verdict in words."""
    if same is None:
        why = "; ".join(remark.text for remark in remarks if remark.blocks)
        return f"Cannot be judged: {why}."
    assert value is not None
    side = "at or above" if same else "below"
    text = f"{'The same person' if same else 'Different people'}: similarity {value:.3f} is {side} {threshold:.3f}."
    if rate is None or table is None:
        return f"{text} What share of strangers is this similar has not been measured."
    share, inside = rate
    if inside:
        often = f"about 1 in {1 / share:,.0f}"
    elif value > table.points[-1].threshold:
        often = f"fewer than 1 in {1 / table.points[-1].fmr:,.0f}"
    else:
        often = f"more than 1 in {1 / table.points[0].fmr:,.0f}"
    on = f" ({table.set}{', ' + table.date if table.date else ''})"
    return f"{text} Of pairs of different people, {often} are at least this similar{on}."
