"""Batches of decoded pictures, as fast as JPEG can be decoded.

    batches = Batches("faces_emore", batch_size=256, seed=0)
    for batch in batches:
        batch["image"]          # (256, 112, 112, 3) uint8 RGB
        batch["label"]          # (256,) int64
        checkpoint["data"] = batches.state_dict()

The format hands out bytes (`Samples.fetch`), a few threads decode them with OpenCV into arrays that are there already,
and nothing else is done for a picture in Python. OpenCV lets go of the interpreter while it decodes, so threads are
enough; there are no worker processes, no pickling, and no copies but the one into the batch.

Which picture comes when follows from the seed and the position alone: batch 5,000 is the same whether or not the run
stopped at batch 4,999, and however many threads decode. Formats whose rows can be read alone are shuffled as a whole.
Those that are read by parts (the row groups of a Parquet file) have their parts shuffled, and rows among the `window`
parts that come together.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mien.data.formats import read
from mien.data.formats.samples import Rows
from mien.errors import DeviceUnavailable, MienError, OptionError, ShapeError
from mien.faces import Failure

__all__ = ["Batches", "LabelledPictures"]

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

CHUNK: Final = 32
"""Pictures that a thread takes at a time: some milliseconds of work, a thousandth of it for the hand-over."""


class LabelledPictures(Protocol):
    """What `Batches` asks of a source: a sequence of coded pictures with labels. `Samples` of any format is one."""

    @property
    def labels(self) -> Ints | None:
        """(n,) int64, or None."""
        ...

    @property
    def blocks(self) -> Ints | None:
        """Rows at which parts begin that are read as a whole; None where every row can be read alone."""
        ...

    def __len__(self) -> int: ...

    def fetch(self, rows: Rows) -> Sequence[Bytes]:
        """The bytes of some picture files. Called from several threads."""
        ...


@dataclass
class _Pending:
    """A batch that is being decoded."""

    rows: Ints
    image: NDArray[np.uint8]
    tensor: Any
    failed: dict[int, MienError]
    futures: list[Future[None]]


class Batches:
    """Batches of a source, endless or for some epochs. Iterating goes on where the last iteration stopped.

    Parameters
    ----------
    source
        `Samples`, anything else that is `LabelledPictures`, or the path of a set in any format.
    batch_size
        Pictures of a batch, all processes together.
    seed
        Of the order.
    shuffle
        Whether every epoch has an order of its own; otherwise that of the source.
    threads
        That decode. Default: one a core that this process may use.
    size
        Height and width of the pictures in pixels, or one number for both.
    resize
        Scale pictures of another size (area averaging) instead of refusing them.
    columns
        Names of columns of the source (`points`, or one of `Samples.columns`) that batches hold too.
    epochs
        Stop after so many. Default: never.
    drop_last
        Leave out the last batch of an epoch if it is not full.
    window
        Parts that are shuffled together, for formats that are read by parts.
    ahead
        Batches that are decoded ahead.
    process
        (number, count): of several processes, each takes every count-th picture of every batch.
    broken
        "raise", or "drop": a picture that cannot be decoded makes its batch smaller and is noted in `failures`.
    pin
        Give the pictures as a torch tensor in page-locked memory, for copies to a GPU that do not wait.

    Raises
    ------
    OptionError
        A number is out of its range, or the source has no such column.
    DeviceUnavailable
        `pin`, and there is no CUDA.

    Notes
    -----
    The array of a batch is used again when nobody holds it (nor a view of it) any more, so keeping batches is safe.
    """

    def __init__(
        self,
        source: LabelledPictures | str | os.PathLike[str],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        threads: int | None = None,
        size: int | tuple[int, int] = 112,
        resize: bool = False,
        columns: Sequence[str] = (),
        epochs: int | None = None,
        drop_last: bool = True,
        window: int = 8,
        ahead: int = 3,
        process: tuple[int, int] = (0, 1),
        broken: Literal["raise", "drop"] = "raise",
        pin: bool = False,
    ) -> None:
        self.source: LabelledPictures = read(source) if isinstance(source, str | os.PathLike) else source
        self.batch_size, self.seed, self.shuffle, self.drop_last = batch_size, seed, shuffle, drop_last
        self.size = (size, size) if isinstance(size, int) else size
        self.resize, self.epochs, self.window, self.ahead, self.process = resize, epochs, window, ahead, process
        self.broken, self.pin = broken, pin
        self.threads = threads if threads is not None else _cores()
        self.position = 0
        self.failures: list[Failure] = []
        self.columns = {name: self._column(name) for name in columns}
        self._order: dict[int, Ints] = {}
        self._pool = _Arrays()
        self._check()

    def _check(self) -> None:
        rank, world = self.process
        at_least_one = {"batch_size": self.batch_size, "threads": self.threads, "window": self.window}
        at_least_one |= {"height": self.size[0], "width": self.size[1], "ahead": self.ahead}
        at_least_one |= {} if self.epochs is None else {"epochs": self.epochs}
        for name, value in at_least_one.items():
            if value < 1:
                raise OptionError(f"{name} must be at least 1", got=value)
        if self.broken not in ("raise", "drop"):
            raise OptionError.unknown("what to do about broken pictures?", self.broken, ("raise", "drop"))
        if not 0 <= rank < world or self.batch_size % world:
            raise OptionError("processes do not share the batch", got=f"process {rank} of {world}",
                              expected=f"a number below the count, which divides {self.batch_size}")  # fmt: skip
        if not len(self):
            raise OptionError(
                "there is no whole batch in the source", got=f"{len(self.source)} pictures",
                expected=f"at least {self.batch_size}", hint="use a smaller batch, or drop_last=False",
            )  # fmt: skip
        if self.pin:
            import torch

            if not torch.cuda.is_available():
                raise DeviceUnavailable("memory can be page-locked only where there is CUDA", hint="leave out pin=True")

    def _column(self, name: str) -> NDArray[Any]:
        there: dict[str, NDArray[Any]] = dict(getattr(self.source, "columns", {}))
        points = getattr(self.source, "points", None)
        there |= {} if points is None else {"points": points}
        if name not in there:
            raise OptionError.unknown("the source has no such column", name, there)
        return there[name]

    def __len__(self) -> int:
        """Batches of an epoch."""
        full, rest = divmod(len(self.source), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> Ints:
        """(n,) rows in the order of an epoch."""
        if epoch not in self._order:
            made = self._ordered(epoch)
            self._order = {key: rows for key, rows in self._order.items() if key >= epoch - 1} | {epoch: made}
        return self._order[epoch]

    def _ordered(self, epoch: int) -> Ints:
        count = len(self.source)
        if not self.shuffle:
            return np.arange(count)
        rng = np.random.default_rng((self.seed, epoch))
        blocks = self.source.blocks
        if blocks is None:
            return rng.permutation(count)
        parts = rng.permutation(len(blocks) - 1)
        order = []
        for begin in range(0, len(parts), self.window):
            chosen = parts[begin : begin + self.window]
            order.append(rng.permutation(np.concatenate([np.arange(blocks[k], blocks[k + 1]) for k in chosen])))
        return np.concatenate(order) if order else np.zeros(0, np.int64)

    def rows(self, position: int) -> Ints:
        """(b,) rows of the batch at `position`, those of this process."""
        epoch, within = divmod(position, len(self))
        rank, world = self.process
        return self.order(epoch)[within * self.batch_size : (within + 1) * self.batch_size][rank::world]

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands and what its order follows from; plain values for a checkpoint."""
        return {"position": self.position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state`.

        Raises
        ------
        OptionError
            It is of another source, batch size, seed or order, so that it would not be the same run.
        """
        mine = self._identity()
        different = [name for name, value in mine.items() if state.get(name) != value]
        if different or not isinstance(state.get("position"), int):
            raise OptionError(
                "this is the state of other batches",
                got=", ".join(f"{name} {state.get(name)}" for name in different or ["position"]),
                expected=", ".join(f"{name} {mine[name]}" for name in different) or "a whole number",
            )
        self.position = state["position"]

    def _identity(self) -> dict[str, Any]:
        return {
            "pictures": len(self.source), "batch_size": self.batch_size, "seed": self.seed, "shuffle": self.shuffle,
            "drop_last": self.drop_last, "window": None if self.source.blocks is None else self.window,
        }  # fmt: skip

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches as dicts: `image` (B, H, W, 3) uint8 RGB, `label` (B,) int64 if there are labels, `row` (B,) int64.

        Raises
        ------
        MediaError
            A picture cannot be read or decoded.
        ShapeError
            A picture has another size, and `resize` was not asked for.
        """
        end = None if self.epochs is None else self.epochs * len(self)
        following = self.position
        waiting: deque[_Pending] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="mien-decode")
        try:
            while True:
                while len(waiting) <= self.ahead and (end is None or following < end):
                    waiting.append(self._begun(pool, following))
                    following += 1
                if not waiting:
                    return
                pending = waiting.popleft()
                for future in pending.futures:
                    future.result()
                batch = self._finished(pending)
                self.position += 1
                del pending  # or its array would look as if somebody held it
                yield batch
                del batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _begun(self, pool: ThreadPoolExecutor, position: int) -> _Pending:
        rows = self.rows(position)
        shape = (len(rows), *self.size, 3)
        tensor: Any = None
        if self.pin:
            import torch

            # torch's own cache of such memory knows of copies that are still under way.
            tensor = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
            image = tensor.numpy()
        else:
            image = self._pool.take(shape)
        failed: dict[int, MienError] = {}
        futures = [
            pool.submit(self._decode, rows[begin : begin + CHUNK], image[begin : begin + CHUNK], begin, failed)
            for begin in range(0, len(rows), CHUNK)
        ]
        return _Pending(rows, image, tensor, failed, futures)

    def _decode(self, rows: Ints, out: NDArray[np.uint8], begin: int, failed: dict[int, MienError]) -> None:
        """The hot loop: one call a picture, and a copy of 37 kB into the batch."""
        import cv2

        swap = not hasattr(cv2, "IMREAD_COLOR_RGB")  # OpenCV 4.11 and later decode to RGB at once
        flags: int = cv2.IMREAD_COLOR if swap else cv2.IMREAD_COLOR_RGB
        shape, decode = out.shape[1:], cv2.imdecode
        for place, data in enumerate(self._fetched(rows, begin, failed)):
            try:
                picture: Any = decode(data, flags)
            except cv2.error:
                picture = None
            if picture is None or picture.shape != shape:
                self._odd(data, picture, swap, out[place], int(rows[place]), begin + place, failed)
            elif swap:
                cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=out[place])
            else:
                out[place] = picture

    def _fetched(self, rows: Ints, begin: int, failed: dict[int, MienError]) -> Sequence[Bytes]:
        try:
            return self.source.fetch(rows)
        except MienError:
            if self.broken == "raise":
                raise
        found: list[Bytes] = []
        for place, row in enumerate(rows.tolist()):  # one by one, to find out which it is
            try:
                found += self.source.fetch([row])
            except MienError as error:
                failed[begin + place] = error
                found.append(np.zeros(0, np.uint8))
        return found

    def _odd(
        self, data: Bytes, picture: Any, swap: bool, out: NDArray[np.uint8], row: int, place: int,
        failed: dict[int, MienError],
    ) -> None:  # fmt: skip
        """A picture of another size, of a format that OpenCV does not read, or a broken one."""
        if place in failed:
            return
        import cv2

        from mien.media import load_image

        try:
            found = load_image(data.data) if picture is None else picture[..., ::-1] if swap else picture
            if found.shape != out.shape:
                if not self.resize:
                    raise ShapeError("a picture has another size than the batch", got=found.shape, expected=out.shape,
                                     hint="use size=, or resize=True to scale it")  # fmt: skip
                found = cv2.resize(found, out.shape[1::-1], interpolation=cv2.INTER_AREA)
            out[:] = found
        except MienError as error:
            keys = getattr(self.source, "keys", None)
            error.got = f"{error.got or ''} (row {row}{'' if keys is None else f', {keys[row]}'})".strip()
            if self.broken == "raise":
                raise
            failed[place] = error

    def _finished(self, pending: _Pending) -> dict[str, Any]:
        rows, image, tensor = pending.rows, pending.image, pending.tensor
        if pending.failed:
            keep = np.ones(len(rows), bool)
            keep[list(pending.failed)] = False
            keys = getattr(self.source, "keys", None)
            for place, error in sorted(pending.failed.items()):
                row = int(rows[place])
                self.failures.append(Failure.of(str(row if keys is None else keys[row]), error))
            rows, image = rows[keep], image[keep]
            tensor = None if tensor is None else tensor[np.flatnonzero(keep)]
        batch: dict[str, Any] = {"image": image if tensor is None else tensor, "row": rows}
        if self.source.labels is not None:
            batch["label"] = self.source.labels[rows]
        return batch | {name: column[rows] for name, column in self.columns.items()}


class _Arrays:
    """Arrays that are given out again when nobody holds them any more.

    Fresh memory costs more than a tenth of the decoding: every page of it is zeroed when it is first written.
    """

    def __init__(self) -> None:
        self._made: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()
        alone = [np.empty(0, np.uint8)]
        self._unheld = sys.getrefcount(alone[0])  # how many references an array in a list has, as counted here

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        with self._lock:
            for place in range(len(self._made)):
                if self._made[place].shape == shape and sys.getrefcount(self._made[place]) == self._unheld:
                    return self._made[place]
            # Those of another shape (the end of an epoch) and those that somebody keeps are not waited for.
            self._made = [one for one in self._made if one.shape == shape][-16:]
            self._made.append(np.empty(shape, np.uint8))
            return self._made[-1]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
