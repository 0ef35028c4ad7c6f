"""``demo``: one real photograph, and eight ways to make it worse, as a page that a person can look at."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import MissingExtra, NoFaceFound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.faces import Faces
    from mien.verbs._pipeline import Progress, Source

    Image = NDArray[np.uint8]
    Change = Callable[[Image, float], Image]

HEAD = 2.2
"""Side of the square of head and shoulders that is worsened, in sides of the face's box."""

LARGEST = 320
"""Longest side of that square in pixels: enough for the networks, and the page stays small."""


@dataclass(frozen=True)
class Trial:
    """One worsened picture.

    Parameters
    ----------
    change
        What was done, such as "Blur".
    level
        How strongly, for people: "σ 3.2 px".
    strength
        How strongly, as a number: severity of `mien.data.degrade`, degrees, or the share that is gone.
    found
        Whether a face was found.
    similarity
        Cosine to the face of the photograph, -1 to 1; None where no face was found.
    quality
        Quality of the face, 0 to 1; None where no face was found.
    """

    change: str
    level: str
    strength: float
    found: bool
    similarity: float | None
    quality: float | None


@dataclass(frozen=True)
class Demo:
    """What `demo` made.

    Parameters
    ----------
    report
        The page, one file with everything in it.
    picture
        The photograph with what was found drawn in.
    hero
        The same beside some of the trials, as one picture.
    threshold, fmr
        Similarity from which on two faces are called the same, and the false match rate it stands for.
    trials
        Every worsened picture.
    seconds
        How long the steps took.
    """

    report: str
    picture: str
    hero: str
    threshold: float
    fmr: float
    trials: tuple[Trial, ...]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """Everything as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)


def demo(
    *,
    photo: str | None = None,
    out: str = "demo",
    fmr: float = 1e-3,
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    embedder: str = "mien-embedder",
    device: str = "auto",
    progress: Progress | None = None,
) -> Demo:
    """Analyses one photograph, worsens it step by step, and writes a page with pictures, plots and figures.

    Parameters
    ----------
    photo
        A photograph with one clear face. Default: the public-domain portrait of Eileen Collins (NASA) that
        scikit-image ships (extra ``demo``).
    out
        Folder that receives ``report.html`` (with all pictures in it), ``annotated.jpg``, ``hero.jpg`` and
        ``trials.json``.
    fmr
        False match rate whose threshold the page refers to.
    detector
        Name of the detector's weights.
    landmarks
        Name of the landmark network's weights.
    embedder
        Name of the embedder's weights.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    progress
        Called as ``progress(done, total, what)`` after every row of the page.

    Returns
    -------
    Demo
        Paths and figures.

    Raises
    ------
    NoFaceFound
        The photograph shows no face that the detector finds.
    OptionError
        `fmr` lies outside of what the embedder was calibrated for.
    MissingExtra
        No `photo` was given, and scikit-image is not installed.
    """
    from mien.media import annotate, load_image, save_image
    from mien.verbs import _demo_page
    from mien.verbs._output import whole_file
    from mien.verbs.analyze import analyze
    from mien.verbs.calibrate import bundled_calibration
    from mien.weights import info

    table = bundled_calibration(embedder)
    threshold = table.threshold_at(fmr)

    def seen(source: Source, *, read: bool = False) -> Faces:
        return analyze(source, detector=detector, landmarks=landmarks, embedder=embedder, read=read, device=device)

    image = _astronaut() if photo is None else load_image(photo)
    seconds: dict[str, float] = {}
    for step in ("the photograph, networks loaded", "the photograph again"):
        began = time.perf_counter()
        faces = seen(image, read=True)
        seconds[step] = time.perf_counter() - began
    if not len(faces):
        raise NoFaceFound(
            "there is no face in the photograph", got=photo or "the astronaut", hint="give another with photo="
        )
    face = faces.largest()

    head, box = head_and_shoulders(image, face.boxes[0])
    rows: list[_demo_page.Row] = []
    changes = _changes(box)
    began = time.perf_counter()
    for done, (title, change, levels) in enumerate(changes, 1):
        worse = [change(head, strength) for _, strength in levels]
        found = seen(worse)
        row = []
        for index, ((label, strength), picture) in enumerate(zip(levels, worse, strict=True)):
            here = found.of_image(index)
            one = here.largest() if len(here) else None
            trial = Trial(
                change=title,
                level=label,
                strength=strength,
                found=one is not None,
                similarity=None if one is None else float(one.embeddings[0] @ face.embeddings[0]),
                quality=None if one is None else float(one.quality[0]),
            )
            shown = picture if one is None else annotate(picture, one, parts=("boxes", "landmarks"))
            row.append(_demo_page.Shown(trial, picture, shown))
        rows.append(_demo_page.Row(title, tuple(row)))
        if progress is not None:
            progress(done, len(changes), "ways to make it worse")
    trials = tuple(shown.trial for row in rows for shown in row.shown)
    seconds[f"{len(trials)} worsened pictures"] = time.perf_counter() - began

    folder = Path(out)
    drawn = annotate(image, faces)
    report, picture_file, hero = (folder / name for name in ("report.html", "annotated.jpg", "hero.jpg"))
    result = Demo(
        str(report), str(picture_file), str(hero), threshold, fmr, trials,
        {step: round(taken, 3) for step, taken in seconds.items()},
    )  # fmt: skip
    page = _demo_page.page(
        drawn,
        face,
        rows,
        result,
        measured_on=f"{table.set}, {table.date}" if table.date else table.set,
        weights=[info(name) for name in (detector, landmarks, embedder, "mien-reader")],
        credit=CREDIT if photo is None else "",
    )
    with whole_file(report) as file:
        file.write(page)
    with whole_file(folder / "trials.json") as file:
        file.write(result.to_json() + "\n")
    save_image(picture_file, drawn, quality=92)
    save_image(hero, _demo_page.hero(image, face, rows, threshold), quality=90)
    return result


CREDIT = "Photograph: Eileen Collins, NASA, in the public domain, as shipped with scikit-image."


def _astronaut() -> Image:
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise MissingExtra("scikit-image", extra="demo") from error
    portrait: Image = astronaut()  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(portrait)


def head_and_shoulders(image: Image, box: NDArray[np.float32]) -> tuple[Image, NDArray[np.float32]]:
    """The part of a picture around a face, at most `LARGEST` px wide and high, and the face's box (4,) in it."""
    import cv2

    x0, y0, x1, y1 = (float(v) for v in box)
    side = HEAD * max(x1 - x0, y1 - y0)
    # A little below the middle of the face: shoulders tell more of a portrait than what is above it.
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2 + 0.06 * side
    height, width = image.shape[:2]
    xs, ys = (max(0, math.floor(left)), max(0, math.floor(top)))
    xe, ye = (min(width, math.ceil(left + side)), min(height, math.ceil(top + side)))
    part = image[ys:ye, xs:xe]
    scale = min(1.0, LARGEST / max(part.shape[:2]))
    if scale < 1:
        size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
        part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    moved = (box - np.array([xs, ys, xs, ys], np.float32)) * np.float32(scale)
    return np.ascontiguousarray(part), moved.astype(np.float32)


def _changes(box: NDArray[np.float32]) -> list[tuple[str, Change, list[tuple[str, float]]]]:
    """(title, function of picture and strength, labelled strengths) of every row; `box` is the face's."""
    import cv2

    from mien.data import degrade

    x0, y0, x1, y1 = (float(v) for v in box)
    centre, wide, high = ((x0 + x1) / 2, (y0 + y1) / 2), x1 - x0, y1 - y0
    square = HEAD * max(wide, high)

    def spoilt(name: str) -> Change:
        return lambda image, severity: degrade.DEGRADATIONS[name](image, severity, np.random.default_rng(0))

    def turn(image: Image, degrees: float) -> Image:
        matrix = cv2.getRotationMatrix2D(centre, -degrees, 1.0)
        mode = cv2.BORDER_REFLECT_101
        return np.asarray(cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=mode), np.uint8)

    def cut(image: Image, part: float) -> Image:
        return np.ascontiguousarray(image[:, max(0, round(x0 + part * wide)) :])

    def cover(image: Image, part: float) -> Image:
        worse = image.copy()
        rows = slice(max(0, round(y1 - part * high)), max(0, round(y1 + 0.08 * high)))
        worse[rows, max(0, round(x0 - 0.04 * wide)) : max(0, round(x1 + 0.04 * wide))] = (92, 132, 150)
        return worse

    fifths = (0.2, 0.4, 0.6, 0.8, 1.0)
    blurs, codings, degrees = (0.08, 0.16, 0.28, 0.45, 0.7), (0.5, 0.7, 0.85, 0.95, 1.0), (10, 25, 45, 70, 110)
    cuts, covers = (0.0, 0.15, 0.3, 0.45, 0.6), (0.15, 0.3, 0.45, 0.6, 0.75)
    return [
        ("Blur", spoilt("blur"), [(f"σ {0.05 * s * square:.1f} px", s) for s in blurs]),
        ("Resolution", spoilt("resolution"), [(f"{wide * 8**-s:.0f} px face", s) for s in fifths]),
        ("Darkness", spoilt("darkness"), [(f"{6 * s:.1f} stops less", s) for s in fifths]),
        ("Noise", spoilt("noise"), [(f"σ {64 * s:.0f} of 255", s) for s in fifths]),
        ("JPEG", spoilt("jpeg"), [(f"quality {round(95 * (1 - s) + 3 * s)}", s) for s in codings]),
        ("Rotation", turn, [(f"{d}°", float(d)) for d in degrees]),
        ("Cut at the side", cut, [(f"{100 * s:.0f} % of the face", s) for s in cuts]),
        ("Covered from below", cover, [(f"{100 * s:.0f} % of the face", s) for s in covers]),
    ]
