"""Faces for a gallery of any size: drawn from a Gaussian of people and one of pictures, as wide as real faces are.

    x = normalise(m + U (sqrt(b) person + e sqrt(w) picture)),    person, picture ~ N(0, I)

m, U and b + w are the mean, the axes and the variances of mien's embedder over every eighth of FairFace's 29,978
strangers; w is the part of it that pictures of one person differ by, measured on the people of LFW with two or more;
e > 0, one number a picture, log-normal with E e^2 = 1, makes some pictures worse than others, so that mated scores
spread as those of LFW do. Only m and the variances along the axes are kept (``gallery_people.npz``): a search that
turns all vectors alike cannot tell the axes. Wider embeddings are drawn by stretching: each axis becomes dim / 128
axes, each with as much less variance, which makes the scores of strangers narrower, as those of better embedders are,
and leaves mated scores as they are.

``python -m benchmarks.simulated`` fits the numbers again from MIEN_DATA and tells how near drawn scores are to real.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

NUMBERS = Path(__file__).parent / "gallery_people.npz"
BLOCK = 1 << 15
"""People drawn at a time; part of what a seed means."""


@dataclass(frozen=True)
class People:
    """People of an embedder.

    Parameters
    ----------
    mean, between, within
        (dim,) float32: m, b and w above.
    spread
        Standard deviation of log e.
    """

    mean: Float32
    between: Float32
    within: Float32
    spread: float = 0.0

    @classmethod
    def load(cls, dim: int = 128, path: Path = NUMBERS) -> People:
        """The bundled embedder's, stretched to `dim` numbers, a multiple of 128."""
        with np.load(path) as kept:
            mean, between, within = (kept[name].astype(np.float32) for name in ("mean", "between", "within"))
            uneven = float(kept["spread"])
        times = dim // len(mean)
        if times * len(mean) != dim:
            raise ValueError(f"dim must be a multiple of {len(mean)}, not {dim}")
        spread = np.float32(1 / times)
        return cls(
            np.repeat(mean * spread**0.5, times), np.repeat(between * spread, times), np.repeat(within * spread, times),
            uneven,
        )  # fmt: skip

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return len(self.mean)

    def batches(self, people: int, *, seed: int = 0, pictures: int = 0) -> Iterator[tuple[int, Float32]]:
        """Picture number `pictures` of people 0, 1, ...: number of the first of a block, and unit vectors (n, dim).

        Person and picture depend on nothing but seed, block and number, so a gallery need not be kept to be probed.
        """
        for block in range(-(-people // BLOCK)):
            yield block * BLOCK, self._block(block, min(BLOCK, people - block * BLOCK), seed, pictures)

    def probes(self, people: npt.NDArray[np.int64], *, seed: int = 0, picture: int = 1) -> Float32:
        """That picture of these people, (n, dim)."""
        out = np.empty((len(people), self.dim), np.float32)
        for block in np.unique(people // BLOCK):
            some = people // BLOCK == block
            out[some] = self._block(int(block), BLOCK, seed, picture)[people[some] % BLOCK]
        return out

    def _block(self, block: int, count: int, seed: int, picture: int) -> Float32:
        person = np.random.default_rng([seed, block, 0]).standard_normal((count, self.dim), np.float32)
        rng = np.random.default_rng([seed, block, 1 + picture])
        worse = np.exp(self.spread * rng.standard_normal((BLOCK, 1), np.float32)[:count] - self.spread**2)
        shot = rng.standard_normal((count, self.dim), np.float32)
        person *= np.sqrt(self.between)
        shot *= np.sqrt(self.within)
        shot *= worse
        person += shot
        person += self.mean
        person /= np.linalg.norm(person, axis=1, keepdims=True)
        return person


def embedded(pictures: list[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Embeddings of the largest face of each picture that has one, and numbers of these pictures."""
    import mien

    faces = mien.embed(pictures)
    image, boxes = np.asarray(faces.image), np.asarray(faces.boxes)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.lexsort((-area, image))
    first = order[np.unique(image[order], return_index=True)[1]]
    return np.asarray(faces.embeddings, np.float64)[first], image[first].astype(np.int64)


def fit(every: int = 8) -> dict[str, Any]:
    """Mean and variances from every so-manieth picture of the real sets, and the embeddings behind them."""
    from mien.data import sets

    chips = sets.fairface_faces()
    strangers, _ = embedded([chips.picture(row) for row in range(0, len(chips), every)])
    lfw = sets.lfw()
    _, labels, counts = np.unique(np.asarray(lfw.identity), return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[labels] > 1)[:: -(-every // 8)]
    embeddings, seen = embedded([lfw.picture(int(row)) for row in rows])
    who = labels[rows][seen]
    mean = strangers.mean(0)
    variance, axes = np.linalg.eigh(np.cov(strangers.T))
    turned = embeddings @ axes
    people, who, counts = np.unique(who, return_inverse=True, return_counts=True)
    centres = np.stack([np.bincount(who, column) / counts for column in turned.T], 1)
    within = ((turned - centres[who]) ** 2).sum(0) / (len(turned) - len(people))
    between = np.maximum(variance - within, 0.02 * variance)
    return {
        "mean": (mean @ axes)[::-1], "between": between[::-1], "within": within[::-1],
        "strangers": strangers, "embeddings": embeddings, "who": who,
    }  # fmt: skip


def unevenness(people: People, deviation: float) -> float:
    """The `spread` with which mated scores have that standard deviation."""
    low, high = 0.0, 1.5
    for _ in range(12):
        middle = (low + high) / 2
        tried = replace(people, spread=middle)
        first, second = (next(tried.batches(4000, seed=1, pictures=i))[1] for i in (0, 1))
        low, high = (middle, high) if float((first * second).sum(1).std()) < deviation else (low, middle)
    return (low + high) / 2


def main() -> None:
    """Fits, writes, and compares drawn scores with real ones."""
    import sys

    found = fit(*map(int, sys.argv[1:]))
    real, who = found["embeddings"], found["who"]
    upper = np.triu_indices(len(real), 1)
    same = who[upper[0]] == who[upper[1]]
    scores = (real @ real.T)[upper]
    # Each person counts once, however many pictures there are.
    weight = 1 / np.bincount(who[upper[0][same]])[who[upper[0][same]]]
    mated = scores[np.random.default_rng(0).choice(np.flatnonzero(same), 20000, p=weight / weight.sum())]
    numbers = {name: found[name].astype(np.float32) for name in ("mean", "between", "within")}
    spread = unevenness(People(**numbers), float(mated.std()))
    np.savez(NUMBERS, **numbers, spread=np.float32(spread))
    people = People.load()
    n = 4000
    first, second = (next(people.batches(n, pictures=i))[1] for i in (0, 1))

    def told(name: str, scores: Any) -> None:
        low, middle, high, last = np.percentile(scores, [5, 50, 95, 99.9])
        print(f"{name:22s} mean {np.mean(scores):.3f}  sd {np.std(scores):.3f}  5 % {low:.3f}  50 % {middle:.3f}  "
              f"95 % {high:.3f}  99.9 % {last:.3f}")  # fmt: skip

    some = found["strangers"]
    told("FairFace, strangers", (some @ some.T)[np.triu_indices(len(some), 1)])
    told("LFW, strangers", scores[~same])
    told("drawn, strangers", (first @ first.T)[np.triu_indices(n, 1)])
    told("LFW, mated, by person", mated)
    told("drawn, mated", (first * second).sum(1))


if __name__ == "__main__":
    main()
