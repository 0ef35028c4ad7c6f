"""``search``: who in a gallery the faces in pictures are."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mien.errors import OptionError
from mien.faces import Faces, Failure
from mien.gallery import Gallery, Match, SearchThreshold
from mien.gallery.base import SCORES
from mien.gallery.thresholds import given
from mien.geometry.checks import choice
from mien.verbs import _pipeline
from mien.verbs._pipeline import Plan, Progress, Source
from mien.verbs.enroll import opened


@dataclass(frozen=True, kw_only=True)
class Searched:
    """One face that was searched for.

    Parameters
    ----------
    source, time_s
        The picture, and the time in it if it is a frame of a video.
    face
        Number of the face in the picture.
    box
        Corners in pixels.
    quality
        0 to 1.
    person
        Who it is: the best match that reaches the threshold; None for a stranger and for a face that cannot be judged.
    matches
        Who comes near, most similar first: those that reach the threshold, and with `below` others too.
    remark
        Why it was not searched for.
    """

    source: str
    time_s: float | None
    face: int
    box: tuple[float, float, float, float]
    quality: float
    person: str | None
    matches: tuple[Match, ...]
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What searches found.

    Parameters
    ----------
    gallery
        Where was searched.
    enrolled
        Faces in it.
    score
        "max" or "template".
    threshold
        Similarity from which on somebody is named, with the rate of false alarms that it stands for and where that
        comes from.
    faces
        Every face, in the order of the pictures.
    faceless
        Pictures without a face.
    failures
        Pictures that could not be read.
    """

    gallery: str
    enrolled: int
    score: str
    threshold: SearchThreshold
    faces: tuple[Searched, ...]
    faceless: tuple[str, ...]
    failures: tuple[Failure, ...]

    @property
    def people(self) -> tuple[str, ...]:
        """Everybody who was found, each once."""
        return tuple(dict.fromkeys(face.person for face in self.faces if face.person is not None))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def search(
    source: Source,
    *,
    gallery: str | os.PathLike[str] | Gallery,
    k: int = 5,
    fpir: float = 0.01,
    threshold: float | None = None,
    score: str = "max",
    below: bool = False,
    min_quality: float = 0.15,
    purpose: str = "",
    quality: str = "stability",
    recursive: bool = False,
    every_s: float | None = None,
    face_threshold: float | None = None,
    size: int = 640,
    min_face: float = 10.0,
    weights: str | None = None,
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Found:
    """Tells who in a gallery each face in pictures is, or that it is nobody of them.

    Parameters
    ----------
    source
        Pictures, videos, folders or globs; in Python also arrays, tensors, PIL images, bytes, file objects, lists of
        all these, and `Faces` with embeddings and quality.
    gallery
        A file, or milvus://host:port; in Python also an open gallery.
    k
        Most people shown for each face.
    fpir
        False positive identification rate that one is ready to bear: of so many searches for strangers, this share
        shows anybody.
    threshold
        Similarity from which on somebody is shown, in place of `fpir`.
    score
        "max": a person is as near as their most similar face. "template": as the quality-weighted mean of all of them.
    below
        Also show people who do not reach the threshold, whom nobody should take for an answer.
    min_quality
        Least quality of a face, 0 to 1; below it nobody is named.
    purpose
        Why this is searched for; goes to the gallery's log.
    quality
        How recognisability is told: "stability", "norm" or "components", as in `analyze`.
    recursive
        Go into the folders of folders.
    every_s
        For videos: seconds between the frames that are looked at. Default: every frame.
    face_threshold
        Least detection score of a face, 0 to 1. Default: the one declared with the detector.
    size
        Long side in pixels at which pictures are looked at.
    min_face
        Least side of a face in pixels of the picture.
    weights
        Name of the embedder's weights. Default: those of the gallery.
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
    Found
        For each face the people it may be, and the threshold with the rate it stands for.

    Raises
    ------
    MediaError, ArrayError
        `source` is one picture, and it cannot be read.
    GalleryNotFound, ContractMismatch, GalleryError
        There is no gallery, it is of other weights, or it cannot be used.
    WeightsError, DeviceUnavailable, OptionError
        What was asked for is not there.
    """
    choice("score", score, SCORES)
    if not 0 <= min_quality <= 1:
        raise OptionError("min_quality lies between 0 and 1", got=min_quality)
    with opened(gallery, weights) as place:
        level = given(threshold) if threshold is not None else place.threshold_at(fpir, score=score)
        if isinstance(source, Faces):
            faces = source
            place.check(faces.contract)
        else:
            plan = Plan(
                detector=detector, landmarks=landmarks, embedder=weights or place.contract.weights,
                threshold=face_threshold, size=size, min_face=min_face, quality=quality, device=device,
                backend=backend, batch_size=batch_size,
            )  # fmt: skip
            faces = _pipeline.run(source, plan, recursive=recursive, every_s=every_s, progress=progress)
        return _found(place, faces, level, k=k, score=score, below=below, min_quality=min_quality, purpose=purpose)


def _found(
    gallery: Gallery, faces: Faces, level: SearchThreshold, *, k: int, score: str, below: bool, min_quality: float,
    purpose: str,
) -> Found:  # fmt: skip
    good = np.flatnonzero(faces.quality >= min_quality)
    lowest = -1.0 if below else level.threshold
    near = gallery.search(faces.embeddings[good], k=k, threshold=lowest, score=score, note=purpose) if len(good) else []
    matches_of = dict(zip(good.tolist(), near, strict=True))
    seen: dict[int, int] = {}
    searched = []
    for row in range(len(faces)):
        index = int(faces.image[row])
        info = faces.images[index]
        matches = matches_of.get(row, ())
        best = matches[0] if matches and matches[0].similarity >= level.threshold else None
        grade = float(faces.quality[row])
        x0, y0, x1, y1 = (round(float(v), 2) for v in faces.boxes[row])
        searched.append(
            Searched(
                source=info.source, time_s=info.time_s, face=seen.get(index, 0), box=(x0, y0, x1, y1),
                quality=round(grade, 4), person=None if best is None else best.person, matches=matches,
                remark="" if row in matches_of else f"the face is of too low quality ({grade:.2f})",
            )
        )  # fmt: skip
        seen[index] = seen.get(index, 0) + 1
    faceless = tuple(info.source for index, info in enumerate(faces.images) if index not in seen)
    return Found(
        gallery=gallery.address, enrolled=len(gallery), score=score, threshold=level, faces=tuple(searched),
        faceless=faceless, failures=faces.failures,
    )  # fmt: skip
