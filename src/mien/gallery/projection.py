"""The index beside a gallery: kept in step with the store, healed when it is not, thrown away without loss.

`mien.gallery.index` searches and keeps its files whole; the store says what came and went. This joins the two:

* Before every search the store's change number is asked for. If the index is behind, whoever is to blame for that, the
  changes are read from the store and written to the index, some thousand faces at a time. So every process finds every
  acknowledged face at its next search; and if two do this at once, one waits and then finds it done.
* The index is built anew from the store when it is torn, of another gallery, ahead of the store (a gallery that was put
  back from a backup), older than the changes that the store still has, or of another number of faces than the store
  had at that change number.

Deleting the folder is always safe.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mien.errors import GalleryError, IndexDamaged, MienError
from mien.gallery.store import Change, Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.gallery.index import Index

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

OWNER, LOCK = "gallery.json", "opening"

WRITE = 8192
"""Faces that are written to the index together."""

LOCK_S = 600
"""Seconds that one waits for another process to open or build the index: of millions that takes its time."""

T = TypeVar("T")


class Projection:
    """The index of a store.

    Parameters
    ----------
    store
        The truth.
    folder
        ``<gallery>.index``.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.dim = store.contract.dim
        # Whoever may not write beside the gallery has an index of their own for as long as they look.
        self._own = None if _writable(folder) else tempfile.mkdtemp(prefix="mien-index-")
        self.folder = Path(self._own) if self._own else folder
        self._guard = threading.RLock()
        self._index: Index | None = None
        self.built = 0
        """How often this process built the index anew."""

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """The `k` nearest faces of each query: similarities (q, k), falling, and numbers (q, k), -1 where there are
        fewer. Similarities are as exact as the index's codes; whoever needs them exact computes them again."""
        with self._guard:
            index = self._healed(self._synced)
        try:
            return index.search(queries, k)  # which several threads may do at once
        except IndexDamaged:
            return self._healed(lambda: self._synced().search(queries, k))

    def sync(self) -> None:
        """Takes over what was committed since; one question to the store if that is nothing."""
        self._healed(self._synced)

    def compact(self) -> None:
        """Writes the index anew, without the room of what was removed."""
        self._healed(lambda: self._synced().compact())

    def rebuild(self) -> None:
        """Builds the index anew, whatever state it is in."""
        with self._guard, self._locked():
            self._build()

    @property
    def generation(self) -> int:
        """Change number that the index holds."""
        return 0 if self._index is None else self._index.generation

    def size_bytes(self) -> int:
        """Of all files of the index, as they take room on the disk."""
        # Files are sparse: their length is what they may grow to.
        return sum(getattr(stat, "st_blocks", 0) * 512 or stat.st_size for stat in map(os.stat, _files(self.folder)))

    def close(self) -> None:
        """Lets the index go."""
        with self._guard:
            self._index = None
            if self._own:
                shutil.rmtree(self._own, ignore_errors=True)

    # ------------------------------------------------------------------------------------------- in step

    def _healed(self, work: Callable[[], T]) -> T:
        """Does it; once more with a new index if the files turn out to be damaged."""
        with self._guard:
            try:
                return work()
            except IndexDamaged:
                self.rebuild()
                return work()

    def _synced(self) -> Index:
        index = self._index if self._index is not None else self._opened()
        generation = self.store.generation()
        if index.generation > generation:  # the file was put back while we had it open
            index = self._opened()
        while index.generation < generation:
            with index.lock():
                done = index.generation  # now that nobody else writes
                if done >= generation:
                    break
                changes = self.store.changes_since(done)
                if changes and changes[0].generation == done + 1:
                    self._follow(index, changes)
                    continue
            # `vacuum` dropped changes that this index has not seen, which it does not do: somebody put back a folder.
            index = self._opened()
            generation = self.store.generation()
        return index

    def _follow(self, index: Index, changes: list[Change]) -> None:
        """Writes the first of the changes, up to the end of one of them."""
        came: list[tuple[int, int]] = []
        went: list[Ints] = []
        generation, count = index.generation, 0
        for change in changes:
            if count >= WRITE and change.generation != generation:
                break
            generation = change.generation
            count += change.last - change.first + 1
            if change.kind == "add":
                came.append((change.first, change.last))
            else:
                went.append(np.arange(change.first, change.last + 1))
        # Of those that came only what is still there is read. What is written twice is replaced, what was never
        # written need not be removed: so it does no harm if we die in between.
        parts = [self.store.vectors_between(first, last) for first, last in came]
        if parts:
            ids = np.concatenate([ids for ids, _ in parts])
            vectors = np.concatenate([vectors for _, vectors in parts])
            index.add(ids, vectors, generation=index.generation if went else generation)
        if went:
            index.remove(np.concatenate(went), generation=generation)

    # ------------------------------------------------------------------------------------------- opening

    def _opened(self) -> Index:
        """The index, built if it cannot be used."""
        from mien.gallery.index import Index

        with self._guard, self._locked():
            self._index = None
            if self._owner().get("gallery") == self.store.id:
                # What other programs did to the folder may raise anything; all of it means the same.
                with suppress(MienError, OSError, ValueError, KeyError):
                    index = Index.open(self.folder, dim=self.dim)
                    if self._fits(index):
                        self._index = index
                        return index
            return self._build()

    def _fits(self, index: Index) -> bool:
        generation, dropped, faces = self.store.state()
        if not dropped <= index.generation <= generation or (index.generation == 0 and faces):
            return False
        return index.generation != generation or len(index) == faces

    def _build(self) -> Index:
        from mien.gallery.index import Index

        self._index = None
        try:
            index = self._built(Index)
        except (MienError, OSError):
            # Not even a new one can be put in this place: away with all of it.
            for file in _files(self.folder):
                if file.name not in (LOCK, "lock"):
                    with suppress(OSError):
                        file.unlink()
            index = self._built(Index)
        # After it is whole: until then it is nobody's, and would be built again.
        self._write_owner()
        self._index = index
        self.built += 1
        return index

    def _built(self, kind: type[Index]) -> Index:
        with self.store.snapshot() as (generation, batches):
            return kind.build(self.folder, batches, dim=self.dim, generation=generation)

    def _write_owner(self) -> None:
        part = self.folder / f"{OWNER}.part"
        part.write_text(json.dumps({"gallery": self.store.id}), "utf-8")
        os.replace(part, self.folder / OWNER)

    def _owner(self) -> dict[str, Any]:
        try:
            owner = json.loads((self.folder / OWNER).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return owner if isinstance(owner, dict) else {}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps others from opening and building meanwhile."""
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK, timeout=LOCK_S)
            lock.acquire()
        except Timeout as error:
            raise GalleryError(
                "another process has been busy with the index for too long", got=f"{LOCK_S} s",
                hint=f"wait until it is done; if there is none, delete {self.folder}",
            ) from error  # fmt: skip
        except OSError as error:
            raise GalleryError("the index cannot be written", got=f"{self.folder}: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()


def _writable(folder: Path) -> bool:
    there = folder if folder.exists() else folder.parent
    return os.access(there, os.W_OK)


def _files(folder: Path) -> Iterable[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]
