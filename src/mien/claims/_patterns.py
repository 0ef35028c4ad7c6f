"""Made-up "people" whose pictures are sums of smooth patterns: an experiment's world of known structure, in seconds.

    picture = mean + sum_k z_k B_k / sqrt(32) + sum_k e_k N_k / sqrt(16)

B (32 patterns) and N (16) are random RGB pictures, blurred and brought to unit variance; z is normal and belongs to a
person, e is normal and new in each picture. Each picture is then turned, scaled and shifted, gets a linear gradient of
light, and noise. They look like nothing, but identity and nuisance are independent and their sizes are known, which no
real set offers; no face-specific knowledge helps. Claims that run on "patterns" say so in their data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.data.pixels import Picture

SIDE = 32
IDENTITY, NUISANCE = 32, 16
"""How many patterns tell who it is, and how many what else differs."""
MIDDLE, CONTRAST = 127.5, 32.0
"""Of the 8-bit pictures: the value of 0, and that of one standard deviation of identity."""


@dataclass(frozen=True)
class Nuisance:
    """What differs between two pictures of one person.

    Parameters
    ----------
    angle
        Largest rotation to either side, degrees.
    scale
        Largest relative change of size.
    shift
        Largest shift, in half widths.
    gain
        Range of a factor on the whole picture.
    gradient
        Standard deviation of the linear gradient of light.
    expression
        Factor of the nuisance patterns.
    noise
        Standard deviation of the noise.
    """

    angle: float = 14.0
    scale: float = 0.12
    shift: float = 0.15
    gain: tuple[float, float] = (1.0, 1.0)
    gradient: float = 0.5
    expression: float = 1.0
    noise: float = 0.3


USUAL = Nuisance()
STRONG = Nuisance(angle=43.0, scale=0.37, shift=0.30, gain=(0.5, 1.5), gradient=0.0, expression=0.5)
"""Changes that are far from linear in the pixels."""


@dataclass(frozen=True)
class Patterns:
    """Pictures, who is on them, and what they were made of.

    Parameters
    ----------
    crops
        (n, 32, 32, 3) uint8.
    labels
        (n,) int64: the person, from 0.
    latent
        (people, 32) float32: the identity factors z.
    pixels
        (n,) int64: the side to which each picture was reduced, 32 for none.
    """

    crops: Picture
    labels: NDArray[np.int64]
    latent: NDArray[np.float32]
    pixels: NDArray[np.int64]


def patterns(
    people: int,
    pictures: int,
    *,
    world: int,
    part: int = 0,
    nuisance: Nuisance = USUAL,
    pixels: tuple[int, ...] = (SIDE,),
) -> Patterns:
    """`pictures` pictures of each of `people` persons.

    Parameters
    ----------
    people, pictures
        How many, and how many of each, in a row.
    world
        Seed of the patterns. Whoever is to be compared must come from the same world.
    part
        Seed of the people and their pictures in that world: two parts have no person in common.
    nuisance
        What differs between the pictures of a person.
    pixels
        Sides in pixels, one of which is drawn for each picture: it is averaged down to that and interpolated up again.
    """
    import cv2

    smooth = np.random.default_rng([world, 0])
    mean = _blurred(smooth, 1, 3.0)[0]
    identity = _blurred(smooth, IDENTITY, 2.0) / math.sqrt(IDENTITY)
    others = _blurred(smooth, NUISANCE, 3.0) / math.sqrt(NUISANCE)
    rng = np.random.default_rng([world, 1, part])
    latent = rng.normal(size=(people, IDENTITY)).astype(np.float32)
    labels = np.repeat(np.arange(people, dtype=np.int64), pictures)
    count = len(labels)
    mixed = rng.normal(size=(count, NUISANCE)).astype(np.float32) * nuisance.expression
    images = mean + np.einsum("pk,khwc->phwc", latent, identity)[labels] + np.einsum("nk,khwc->nhwc", mixed, others)
    angle = rng.uniform(-nuisance.angle, nuisance.angle, count)
    scale = rng.uniform(1 - nuisance.scale, 1 + nuisance.scale, count)
    shift = rng.uniform(-nuisance.shift, nuisance.shift, (count, 2)) * SIDE / 2
    gain = rng.uniform(*nuisance.gain, count)
    slope = rng.normal(0, nuisance.gradient, (count, 2))
    reduced = rng.choice(np.asarray(pixels, np.int64), count)
    axis = np.linspace(-1, 1, SIDE, dtype=np.float32)
    middle = (SIDE - 1) / 2
    for row, image in enumerate(images):
        matrix = cv2.getRotationMatrix2D((middle, middle), angle[row], scale[row])
        matrix[:, 2] += shift[row]
        image = cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        image = image * gain[row] + (slope[row, 0] * axis[None, :] + slope[row, 1] * axis[:, None])[..., None]
        if reduced[row] < SIDE:
            small = cv2.resize(image, (int(reduced[row]),) * 2, interpolation=cv2.INTER_AREA)
            image = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        images[row] = image
    images = images + rng.normal(0, nuisance.noise, images.shape)
    crops = np.clip(np.rint(MIDDLE + CONTRAST * images), 0, 255).astype(np.uint8)
    return Patterns(crops, labels, latent, reduced)


def _blurred(rng: np.random.Generator, count: int, sigma: float) -> NDArray[np.float32]:
    """(count, 32, 32, 3): random pictures, blurred by a Gaussian of `sigma` pixels, of mean 0 and variance 1."""
    from scipy.ndimage import gaussian_filter

    rough = rng.normal(size=(count, SIDE, SIDE, 3))
    soft = gaussian_filter(rough, sigma=(0, sigma, sigma, 0), mode="wrap")
    soft -= soft.mean((1, 2, 3), keepdims=True)
    return np.asarray(soft / soft.std((1, 2, 3), keepdims=True), np.float32)
