"""Templates: many pictures of one person made into one vector, as IJB-A, B and C compare them.

A template holds media (a photo, or all frames of one video) and a medium holds faces. Frames of one video are alike,
so they are averaged first and a video counts as one photo does; then media are added up and the sum is brought to
length one (Whitelam et al., "IARPA Janus Benchmark-B", CVPRW 2017; Maze et al., "IARPA Janus Benchmark-C", ICB 2018).

With x_i the vector of face i, w_i its weight and |m(i)| the number of faces in its medium, a template is the direction
of ``sum_i w_i x_i / (|x_i| |m(i)|)``: within a medium a mean that follows the weights, and a medium whose faces are
poor counts less among the media too. ``weights="norm"`` takes w_i = |x_i|, so that vectors are added as they come from
the network, whose length says how recognisable a face is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import OptionError, ValueRangeError
from mien.geometry.checks import Ints, doubles, floats, labels, same_length
from mien.metrics.streaming import exact_scores, unit_rows

IJB_FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""The false accept rates at which IJB-B and IJB-C state the true accept rate of their 1:1 protocol."""

CHUNK_PAIRS = 1 << 18
"""Pairs whose vectors are gathered at a time: IJB-C lists 15 million."""


@dataclass(frozen=True, slots=True)
class Templates:
    """Pooled vectors.

    Parameters
    ----------
    names : (t,)
        Of the templates, sorted.
    vectors : (t, d)
        Float32, length one.
    faces, media : (t,)
        How many of them each is made of.
    """

    names: NDArray[Any]
    vectors: NDArray[np.float32]
    faces: Ints
    media: Ints

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, names: ArrayLike) -> Ints:
        """Where templates of these names (n,) stand.

        Raises
        ------
        ValueRangeError
            There is no template of such a name.
        """
        wanted = np.asarray(names)
        at = np.searchsorted(self.names, wanted).clip(max=len(self.names) - 1)
        missing = self.names[at] != wanted
        if missing.any():
            raise ValueRangeError(
                "there is no such template",
                got=f"{wanted[missing][0]} and {int(missing.sum()) - 1} more",
                expected=f"one of {len(self)} names",
            )
        return at.astype(np.intp)

    def scores(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
        """Cosine (n,) of pairs of templates, given by name: the 1:1 protocol. Memory does not grow with n."""
        left, right = self.rows(a), self.rows(b)
        same_length(a=left, b=right)
        return pair_scores(self.vectors, left, right)


def pool_templates(
    embeddings: ArrayLike,
    template: ArrayLike,
    *,
    media: ArrayLike | None = None,
    weights: ArrayLike | str | None = None,
) -> Templates:
    """One vector for each template, media averaged first.

    Parameters
    ----------
    embeddings : (n, d)
        Of faces. Their lengths matter for ``weights="norm"`` only.
    template : (n,)
        Name or number of the template that each belongs to.
    media : (n,), optional
        Name or number of the medium within the template (equal numbers in two templates are two media). Without, every
        face is a medium of its own.
    weights : (n,), optional
        How much each face counts, at least 0: a quality, or a detection score. "norm" takes the lengths of the
        embeddings. Default: all alike.

    Raises
    ------
    ShapeError, DtypeError
        Arrays that do not fit together.
    ValueRangeError
        A negative weight, an embedding of length zero, or a template whose faces all weigh nothing or cancel out.
    OptionError
        `weights` is another word than "norm".
    """
    x = floats("embeddings", embeddings, "n d")
    names, code = labels("template", template, "n")
    same_length(embeddings=x, template=code)
    unit = unit_rows("embeddings", x)
    if isinstance(weights, str):
        if weights != "norm":
            raise OptionError.unknown("unknown weights", weights, ("norm",))
        weigh = np.linalg.norm(x.astype(np.float64), axis=1)
    else:
        weigh = np.ones(len(x)) if weights is None else doubles("weights", weights, "n")
    same_length(embeddings=x, weights=weigh)
    if (weigh < 0).any():
        raise ValueRangeError("a weight is negative", got=float(weigh.min()), expected="at least 0")

    medium = np.arange(len(x)) if media is None else labels("media", media, "n")[1]
    same_length(embeddings=x, media=medium)
    pairs, within, sizes = np.unique(np.stack([code, medium], axis=1), axis=0, return_inverse=True, return_counts=True)
    share = weigh / sizes[within.reshape(-1)]
    order = np.argsort(code, kind="stable")
    starts = np.searchsorted(code[order], np.arange(len(names)))
    sums = np.add.reduceat(unit[order] * share[order, None], starts, axis=0, dtype=np.float64)
    lengths = np.linalg.norm(sums, axis=1)
    if (lengths < 1e-9).any():
        raise ValueRangeError(
            "a template has no direction",
            got=f"{names[int(np.argmin(lengths))]}: its faces weigh nothing or cancel out",
            hint="give one of its faces a weight above 0, or leave the template out",
        )  # fmt: skip
    return Templates(
        names,
        np.asarray(sums / lengths[:, None], np.float32),
        np.bincount(code, minlength=len(names)).astype(np.intp),
        np.bincount(pairs[:, 0], minlength=len(names)).astype(np.intp),
    )


def pair_scores(vectors: ArrayLike, a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Cosine (n,) of unit rows `a` and `b` (n,) of `vectors` (t, d); gathered in parts, so that n may be millions."""
    x = np.asarray(vectors, np.float32)
    left, right = np.asarray(a, np.intp), np.asarray(b, np.intp)
    out = np.empty(len(left), np.float32)
    for start in range(0, len(left), CHUNK_PAIRS):
        part = slice(start, start + CHUNK_PAIRS)
        out[part] = exact_scores(x[left[part]], x[right[part]])
    return out


def check_disjoint_galleries(galleries: Sequence[ArrayLike]) -> None:
    """Raise ValueRangeError if a person is in two of the galleries (n,): G1 and G2 of IJB-B and IJB-C share none.

    The open-set figure rests on that: whoever is in one gallery only is the stranger that the other is searched with.
    """
    seen: dict[str, int] = {}
    for index, gallery in enumerate(galleries):
        for who in np.unique(np.asarray(gallery)).tolist():
            if seen.setdefault(str(who), index) != index:
                raise ValueRangeError(
                    "a person is in two galleries",
                    got=who,
                    expected="galleries without a person in common",
                    hint="put all pictures of a person into one gallery",
                )
