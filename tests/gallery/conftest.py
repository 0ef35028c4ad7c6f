"""Made-up people: directions in space, with pictures that lie around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mien.gallery import Batch, Contract, Gallery

DIM = 48
CONTRACT = Contract(id="made-up@0123456789ab", dim=DIM, sha256="ab" * 32, preprocessing="none")


def vectors(count: int, *, seed: int = 0, dim: int = DIM) -> NDArray[np.float32]:
    """Unit vectors (count, dim) of strangers."""
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def crowd(people: int, pictures: int, *, noise: float = 0.08, seed: int = 0) -> tuple[list[str], NDArray[np.float32]]:
    """Names and embeddings of so many pictures each of so many people."""
    rng = np.random.default_rng(seed + 1)
    rows = np.repeat(vectors(people, seed=seed), pictures, axis=0)
    rows = rows + noise * rng.normal(size=rows.shape).astype(np.float32)
    names = [f"person {number:03d}" for number in range(people) for _ in range(pictures)]
    return names, np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people" / "g.db"


@pytest.fixture
def make(path: Path) -> Iterator[Callable[..., Gallery]]:
    """Opens galleries at `path`, making them if need be, and closes them in the end."""
    opened: list[Gallery] = []

    def open_one(**options: Any) -> Gallery:
        opened.append(Gallery.open(path, **{"contract": CONTRACT, "create": True, **options}))
        return opened[-1]

    yield open_one
    for gallery in opened:
        gallery.close()


@pytest.fixture
def gallery(make: Callable[..., Gallery]) -> Gallery:
    return make()


@pytest.fixture
def filled(gallery: Gallery) -> Gallery:
    """Thirty people with four faces each."""
    names, rows = crowd(30, 4)
    pictures = [f"{name}/{number % 4}.jpg" for number, name in enumerate(names)]
    gallery.add(Batch(people=names, embeddings=rows, sources=pictures, qualities=np.linspace(0.3, 1, len(names))))
    return gallery


def face_of(name: str, number: int) -> NDArray[np.float32]:
    """The one picture of a person who is known by a name and a number, the same in every process."""
    seed = [*name.encode(), number]
    row = np.random.default_rng(seed).normal(size=DIM)
    return np.asarray(row / np.linalg.norm(row), np.float32)
