"""The one scoring function: every verb that compares faces compares them with `similarity`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mien.errors import ShapeError, ValueRangeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def normalised(embeddings: ArrayLike) -> NDArray[np.float32]:
    """Rows of `embeddings` (…, d) at length one.

    Raises
    ------
    ValueRangeError
        A row is zero or not finite: it has no direction, so no similarity.
    """
    rows = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise ValueRangeError(
            "an embedding has no direction",
            got="a zero, NaN or infinite row",
            expected="finite rows, none of them zero",
            hint="drop the rows of faces that could not be embedded",
        )
    return np.asarray(rows / lengths, np.float32)


def similarity(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Cosine similarity row by row: (…, d) and (…, d) -> (…,), from -1 to 1. Neither side need be normalised.

    Raises
    ------
    ShapeError
        The embeddings are of different length: they come from different networks.
    """
    left, right = np.asarray(a), np.asarray(b)
    if left.shape[-1:] != right.shape[-1:]:
        raise ShapeError(
            "embeddings of different length cannot be compared",
            got=f"{left.shape} and {right.shape}",
            expected="the same last axis",
            hint="embed both with the same weights=",
        )
    cosine = np.sum(normalised(left) * normalised(right), axis=-1, dtype=np.float64)
    return np.asarray(np.clip(cosine, -1.0, 1.0), np.float32)
