"""Which sample is drawn when: a pure function of the seed and the position, so that a run resumes exactly.

Position ``p`` of a run lies in epoch ``p // n``; every epoch is a permutation of the ``n`` samples that follows from
the seed and the epoch. The randomness inside a sample (crops, colours) follows from the seed and the position. No
generator state is kept anywhere, so step 5,000 is the same whether or not the run stopped at step 4,999.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset, Sampler


class Source(Protocol):
    """Training samples by index. `sample` must depend on its two arguments alone."""

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Arrays (or numbers) of sample `index`, augmented by `rng`; stacked into a batch by the loop."""
        ...


class Draws(Dataset[dict[str, Any]]):
    """The source seen by position: item ``p`` is the sample drawn at position ``p`` of the run."""

    def __init__(self, source: Source, *, seed: int, shuffle: bool = True) -> None:
        self.source, self.seed, self.shuffle = source, seed, shuffle
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def index(self, position: int) -> int:
        """Sample index drawn at `position`."""
        epoch, within = divmod(position, len(self.source))
        if not self.shuffle:
            return within
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.source))
            self._epoch = epoch
        return int(self._order[within])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.source.sample(self.index(position), np.random.default_rng((self.seed, 1, position)))


class StepSampler(Sampler[list[int]]):
    """Positions of each step from `start` on; with several processes, each takes its share of every batch."""

    def __init__(self, steps: int, batch_size: int, *, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.steps, self.batch_size, self.start, self.rank, self.world = steps, batch_size, start, rank, world

    def __len__(self) -> int:
        return max(0, self.steps - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = step * self.batch_size
            yield list(range(first + self.rank, first + self.batch_size, self.world))
