"""LIME for pictures (Ribeiro et al., 2016): a linear model of what each superpixel adds to a class's probability.

    segments = superpixels(pictures)                     SLIC
    maps = explain(predict, pictures, classes)           one coefficient a segment, (n, H, W)

For a picture, segments are switched off at random (painted black, or in the picture's mean colour), and a ridge
regression of the class's probability on which ones were on, each sample weighted by how few were off, gives the
coefficients. The normal equations are solved directly: there are about thirty unknowns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mien.errors import MissingExtra, OptionError, ShapeError

Pictures = NDArray[np.uint8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

Predict = Callable[[Pictures], NDArray[np.floating]]
"""Pictures (B, S, S, 3) uint8 -> probabilities (B, classes)."""

Told = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Lime:
    """Numbers of LIME; the defaults are the paper's.

    Parameters
    ----------
    segments, compactness
        Of SLIC; small pictures get fewer segments.
    samples
        Forward passes a picture; the first has all segments on.
    width
        Of the kernel: a sample at the cosine distance d from all-on counts ``sqrt(exp(-d^2 / width^2))``.
    alpha
        Ridge penalty; the intercept is free.
    hide
        What stands for a segment that is off: "black", or "mean", the picture's mean colour. Maps of the two differ
        much: black is itself something that networks have an opinion on.
    positive
        Keep positive coefficients only.
    rounded
        Round down to whole 255ths, as the authors' files of maps do; what is below 1/255 vanishes.
    equal
        Stretch each picture's map to 0 … 1, so that pictures of strong effects do not outweigh the others.
    batch
        Pictures in a forward pass.
    """

    segments: int = 30
    compactness: float = 20.0
    samples: int = 1000
    width: float = 0.25
    alpha: float = 1.0
    hide: Literal["black", "mean"] = "black"
    positive: bool = True
    rounded: bool = False
    equal: bool = False
    batch: int = 100

    def __post_init__(self) -> None:
        if self.hide not in ("black", "mean"):
            raise OptionError.unknown("unknown way to hide a segment", self.hide, ("black", "mean"))
        least = {"segments": 2, "samples": 2, "batch": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise OptionError(f"{name} is too small", got=getattr(self, name), expected=f"at least {low}")
        for name in ("compactness", "width", "alpha"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be above zero", got=getattr(self, name))


def superpixels(pictures: Pictures, *, segments: int = 30, compactness: float = 20.0) -> NDArray[np.int64]:
    """Segments of pictures (n, H, W, 3) by SLIC, numbered from 0: (n, H, W).

    Raises
    ------
    MissingExtra
        scikit-image is not installed.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise MissingExtra("scikit-image", extra="audit") from error
    if not len(pictures):
        return np.zeros(pictures.shape[:3], np.int64)
    made = [
        slic(picture / 255.0, n_segments=segments, compactness=compactness, start_label=0, channel_axis=2)
        for picture in pictures
    ]
    return np.stack(made).astype(np.int64)


def switches(samples: int, segments: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(samples, segments) which segments are on: each with an even chance, in the first row all."""
    on = rng.random((samples, segments)) < 0.5
    on[0] = True
    return on


def kernel(on: NDArray[np.bool_], width: float) -> Doubles:
    """(samples,) weights of rows of `switches`; a row with nothing on is at distance 1."""
    share = np.sqrt(on.mean(1))  # the cosine between a row and the row of ones
    return np.asarray(np.sqrt(np.exp(-((1 - share) ** 2) / width**2)), np.float64)


def ridge(z: Doubles, y: Doubles, weights: Doubles, alpha: float) -> Doubles:
    """Coefficients (S,) of the weighted ridge regression of y (n,) on z (n, S), with a free intercept."""
    total = weights.sum()
    z = z - weights @ z / total
    y = y - weights @ y / total
    weighted = z * weights[:, None]
    found = np.linalg.solve(z.T @ weighted + alpha * np.eye(z.shape[1]), weighted.T @ y)
    return np.asarray(found, np.float64)


def coefficients(
    predict: Predict, picture: Pictures, segments: NDArray[np.int64], target: int, lime: Lime, rng: np.random.Generator
) -> Doubles:
    """(S,) what each segment of a picture (H, W, 3) adds to the probability of class `target`."""
    count = int(segments.max()) + 1
    on = switches(lime.samples, count, rng)
    hidden = np.zeros(3, np.uint8) if lime.hide == "black" else np.rint(picture.mean((0, 1))).astype(np.uint8)
    answers = []
    for start in range(0, lime.samples, lime.batch):
        shown = on[start : start + lime.batch][:, segments]
        answers.append(np.asarray(predict(np.where(shown[..., None], picture, hidden)), np.float64)[:, target])
    return ridge(on.astype(np.float64), np.concatenate(answers), kernel(on, lime.width), lime.alpha)


def explain(
    predict: Predict,
    pictures: Pictures,
    targets: NDArray[np.integer],
    *,
    lime: Lime | None = None,
    seed: int = 0,
    told: Told | None = None,
) -> Floats:
    """Maps (n, H, W) of what in each picture speaks for a class.

    Parameters
    ----------
    predict
        Pictures (B, H, W, 3) uint8 -> probabilities (B, classes).
    pictures
        (n, H, W, 3) uint8 RGB.
    targets
        (n,) the class to explain of each: in the paper the predicted one, errors included.
    lime
        Numbers; default: the paper's.
    seed
        A picture's samples depend on it and on the picture's number.
    told
        Called as ``told(done, total)`` after every picture.

    Raises
    ------
    ShapeError
        Not as many targets as pictures, or no pictures of colours.
    MissingExtra
        scikit-image is not installed.
    """
    lime = lime or Lime()
    if pictures.ndim != 4 or pictures.shape[3] != 3 or len(pictures) != len(targets):
        raise ShapeError(
            "every picture needs a class", got=(pictures.shape, np.shape(targets)), expected="(n, H, W, 3) and (n,)"
        )
    maps = np.zeros(pictures.shape[:3], np.float32)
    for row, picture in enumerate(pictures):
        # One at a time: the segments of a hundred large pictures would be held for nothing.
        (segments,) = superpixels(picture[None], segments=lime.segments, compactness=lime.compactness)
        rng = np.random.default_rng([seed, row])
        found = coefficients(predict, picture, segments, int(targets[row]), lime, rng)
        if lime.positive:
            found = np.maximum(found, 0)
        if lime.rounded:
            found = np.floor(255 * found) / 255
        if lime.equal and found.max() > found.min():
            found = (found - found.min()) / (found.max() - found.min())
        maps[row] = found[segments]
        if told is not None:
            told(row + 1, len(pictures))
    return maps
