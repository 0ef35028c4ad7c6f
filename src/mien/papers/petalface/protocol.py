"""TinyFace's closed-set identification: probes of low resolution, searched for among mates and distractors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import MediaNotFound, TableError
from mien.metrics.identification import search

RANKS = (1, 5, 20)
PARTS = {"probe": "Probe", "gallery_match": "Gallery_Match"}


@dataclass(frozen=True)
class TinyFace:
    """Files and people of TinyFace's test set (Cheng, Zhu, Gong, ACCV 2018).

    Parameters
    ----------
    probes, gallery, distractors
        Paths of the pictures.
    probe_people, gallery_people
        (p,) and (g,) int64; distractors are nobody known.
    """

    probes: tuple[Path, ...]
    gallery: tuple[Path, ...]
    distractors: tuple[Path, ...]
    probe_people: NDArray[np.int64]
    gallery_people: NDArray[np.int64]


def read_tinyface(root: str | Path, *, pictures: str | Path | None = None) -> TinyFace:
    """Reads the test set's lists.

    Parameters
    ----------
    root
        Folder with ``Testing_Set``: ``Probe``, ``Gallery_Match``, ``Gallery_Distractor`` and the two ``.mat`` files of
        who is on which picture.
    pictures
        Folder of the same three sub-folders with aligned pictures; names without ending must agree. Default: the
        pictures as they are.

    Raises
    ------
    MediaNotFound, TableError
        A part is missing, or a list is of another layout.
    """
    tests = Path(root) / "Testing_Set"
    home = tests if pictures is None else Path(pictures)
    found: dict[str, tuple[tuple[Path, ...], NDArray[np.int64]]] = {}
    for part, folder in PARTS.items():
        names, people = _list(tests / f"{part}_img_ID_pairs.mat", part)
        found[part] = tuple(_picture(home / folder, name) for name in names), people
    others = home / "Gallery_Distractor"
    if not others.is_dir():
        raise MediaNotFound(
            "TinyFace is not whole", got=f"no {others}", expected="Probe, Gallery_Match, Gallery_Distractor"
        )
    distractors = tuple(sorted(path for path in others.iterdir() if path.suffix.lower() in (".jpg", ".png")))
    return TinyFace(
        found["probe"][0], found["gallery_match"][0], distractors, found["probe"][1], found["gallery_match"][1]
    )


def _list(path: Path, part: str) -> tuple[list[str], NDArray[np.int64]]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not path.is_file():
        raise MediaNotFound("TinyFace is not whole", got=f"no {path}", expected="the lists of the test set")
    key = part.removesuffix("_match")
    try:
        table: dict[str, Any] = loadmat(str(path))
        names = [str(np.asarray(cell).reshape(-1)[0]) for cell in table[f"{key}_set"].reshape(-1)]
        people = np.asarray(table[f"{key}_ids"]).reshape(-1).astype(np.int64)
    except (KeyError, ValueError, IndexError, TypeError, NotImplementedError, MatReadError) as error:
        raise TableError(f"{path} is no list of TinyFace", got=error, expected=f"{key}_set and {key}_ids") from error
    if len(names) != len(people):
        raise TableError(f"{path} has another number of people than of pictures", got=(len(names), len(people)))
    return names, people


def _picture(folder: Path, name: str) -> Path:
    exact = folder / name
    if exact.is_file():
        return exact
    for ending in (".png", ".jpg"):
        if (path := exact.with_suffix(ending)).is_file():
            return path
    raise MediaNotFound("a picture of TinyFace is missing", got=str(exact), expected=f"{exact.stem}.jpg or .png")


def identify(
    probes: ArrayLike,
    probe_people: Sequence[int] | NDArray[np.int64],
    gallery: ArrayLike,
    gallery_people: Sequence[int] | NDArray[np.int64],
    distractors: ArrayLike | None = None,
    *,
    ranks: tuple[int, ...] = RANKS,
) -> dict[str, float]:
    """Share of the probes whose mate is among the first 1, 5 and 20, by the highest cosine of a person's pictures.

    Parameters
    ----------
    probes, gallery, distractors
        (p, d), (g, d), (n, d) unit vectors. Every distractor is a person of his own.
    probe_people, gallery_people
        (p,) and (g,) who is on them; every probe has a mate.

    Returns
    -------
    dict
        ``rank1``, ``rank5``, ``rank20``.
    """
    known = np.asarray(gallery_people, np.int64)
    vectors = np.asarray(gallery, np.float32)
    if distractors is not None and len(np.asarray(distractors)):
        more = np.asarray(distractors, np.float32)
        vectors = np.concatenate([vectors, more])
        known = np.concatenate([known, known.max(initial=0) + 1 + np.arange(len(more))])
    found = search(np.asarray(probes, np.float32), np.asarray(probe_people, np.int64), vectors, known)
    curve = found.cmc(max(ranks))
    return {f"rank{rank}": float(curve[min(rank, len(curve)) - 1]) for rank in ranks}
