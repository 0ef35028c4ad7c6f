"""Batches of some people with some pictures each, for losses that compare the pictures of a batch.

As all draws (`mien.train.draws`): what stands at a position of the run follows from the seed and the position alone, so
that a run resumes exactly, and that several processes agree without talking.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import OptionError, ShapeError
from mien.train.draws import Draws, Source


class PeopleDraws(Draws):
    """The source in batches of `people` different persons, `images` pictures of each, and `others` random pictures.

    People come in the order of a permutation that is new in each epoch; who is left over when they are dealt out in
    batches waits for the next one. Whoever is drawn shows `images` of his pictures at random, all different unless he
    has fewer, in which case they come again (augmented otherwise).

    Place ``k`` of a batch, ``k < people * images``, is person ``k % people``: a process that takes every n-th place, as
    `mien.train.draws.StepSampler` deals them out, gets all pictures of its people where n divides `people`.

    Parameters
    ----------
    source
        The training pictures.
    labels
        (n,) integers, equal for pictures of one person; negative ones name nobody and are drawn as others only.
    people, images, others
        Numbers of a batch; `others` are drawn from all pictures alike, those of the batch's people among them.
    seed
        Of the run.
    least
        Who has fewer pictures than this is not drawn as a person: with one there is no pair.

    Raises
    ------
    OptionError
        There are fewer people than a batch takes.
    """

    def __init__(
        self, source: Source, labels: ArrayLike, *, people: int, images: int, others: int = 0, seed: int, least: int = 2
    ) -> None:
        super().__init__(source, seed=seed)
        given = np.asarray(labels)
        if given.shape != (len(source),):
            raise ShapeError("labels do not fit the pictures", got=given.shape, expected=(len(source),))
        if people < 1 or images < 1 or others < 0:
            raise OptionError("a batch needs people and pictures", got=f"{people} people, {images} pictures each")
        order = np.argsort(given, kind="stable").astype(np.int64)
        order = order[np.searchsorted(given[order], 0) :]
        cuts = np.flatnonzero(np.diff(given[order])) + 1
        self._rows = [rows for rows in np.split(order, cuts) if len(rows) >= max(1, least)]
        if len(self._rows) < people:
            raise OptionError(
                "there are too few people for a batch",
                got=f"{len(self._rows)} with at least {least} pictures",
                expected=f"{people}",
                hint="take fewer people a batch, or more data",
            )
        self.people, self.images, self.others = people, images, others
        self._step, self._drawn = -1, np.empty(0, np.int64)

    @property
    def batch_size(self) -> int:
        """Pictures of a batch."""
        return self.people * self.images + self.others

    @property
    def known(self) -> int:
        """People that can be drawn."""
        return len(self._rows)

    def index(self, position: int) -> int:
        step, place = divmod(position, self.batch_size)
        if step != self._step:
            self._step, self._drawn = step, self.batch(step)
        return int(self._drawn[place])

    def batch(self, step: int) -> NDArray[np.int64]:
        """Rows of the source (batch_size,) that step `step` of the run sees."""
        epoch, turn = divmod(step, len(self._rows) // self.people)
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, 2, epoch)).permutation(len(self._rows))
            self._epoch = epoch
        rng = np.random.default_rng((self.seed, 3, step))
        chosen = self._order[turn * self.people : (turn + 1) * self.people]
        shown = np.stack([np.resize(rng.permutation(self._rows[who]), self.images) for who in chosen], 1)
        return np.concatenate([shown.ravel(), rng.integers(len(self.source), size=self.others)])
