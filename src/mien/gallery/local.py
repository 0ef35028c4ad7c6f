"""A gallery in a file: the store, and the index beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mien.gallery.base import Gallery, last_day, new_run
from mien.gallery.projection import Projection
from mien.gallery.records import (
    Added,
    AuditEntry,
    Batch,
    Contract,
    Deleted,
    Face,
    GalleryInfo,
    Person,
    SearchCalibration,
    day,
    today,
)
from mien.gallery.store import Rows, Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

EXPORT = 2048
"""Faces that are read together for an export."""


class LocalGallery(Gallery):
    """A gallery in a SQLite file, with an index in the folder ``<file>.index`` beside it. See `Gallery.open`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        contract: Contract | None = None,
        create: bool = False,
        dtype: str = "float32",
        audit_searches: bool = True,
        read_only: bool = False,
        who: str | None = None,
    ) -> None:
        self.store = Store(
            path, contract=contract, create=create, dtype=dtype, audit_searches=audit_searches, read_only=read_only,
            who=who,
        )  # fmt: skip
        self.address = str(path)
        self.id, self.contract, self.audit_searches = self.store.id, self.store.contract, self.store.audit_searches
        where = Path(path)
        self.projection = Projection(self.store, where.with_name(where.name + ".index"))
        try:
            # Before the first change: an index that is ahead of a store put back from a backup is noticed now.
            self.projection.sync()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.projection.close()
        self.store.close()

    def __len__(self) -> int:
        return self.store.state()[2]

    def add(self, batch: Batch, *, run: str | None = None, note: str = "", action: str = "enrol") -> Added:
        added = self.store.add(batch, run=run or new_run(), action=action, note=note)
        self.projection.sync()
        return added

    def known(self, hashes: Sequence[str]) -> Mapping[str, frozenset[str]]:
        return self.store.known(hashes)

    def _nearest(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        return self.projection.search(queries, k)

    def _rows(self, ids: Sequence[int]) -> Rows:
        return self.store.rows(ids)

    def _rows_of_people(self, person_ids: Sequence[int]) -> Rows:
        return self.store.rows_of_people(person_ids)

    def _log(self, action: str, *, count: int = 0, note: str = "") -> None:
        if not self.store.read_only and (action != "search" or self.audit_searches):
            self.store.log_alone(action, count=count, note=note, run=new_run())

    def people(self, *, match: str | None = None, after: int = 0, most: int | None = None) -> tuple[Person, ...]:
        return self.store.people(match=match, after=after, most=most)

    def person(self, name: str) -> Person:
        return self.store.person(name)

    def faces(self, name: str | None = None, *, after: int = 0, most: int | None = None) -> tuple[Face, ...]:
        return self.store.faces(name, after=after, most=most)

    def crop(self, face_id: int) -> bytes | None:
        return self.store.crop(face_id)

    def rename(self, name: str, target: str, *, note: str = "") -> int:
        return self.store.rename(name, target, run=new_run(), note=note)

    def merge(self, name: str, target: str, *, note: str = "") -> int:
        moved, dropped = self.store.merge(name, target, run=new_run(), note=note)
        if dropped:
            self._deleted(0, dropped)
        return moved

    def delete(self, names: Sequence[str], *, note: str = "") -> Deleted:
        people, faces = self.store.delete(names, run=new_run(), note=note)
        return self._deleted(people, faces)

    def delete_faces(self, name: str, ids: Sequence[int], *, note: str = "") -> Deleted:
        return self._deleted(0, self.store.delete_faces(name, ids, run=new_run(), note=note))

    def retain(self, name: str, until: str | None, *, note: str = "") -> int:
        return self.store.retain(name, day(until), run=new_run(), note=note)

    def expire(self, *, on: str | None = None, note: str = "") -> Deleted:
        people, faces = self.store.expire(last_day(on), run=new_run(), note=note)
        return self._deleted(people, faces)

    def _deleted(self, people: int, faces: int) -> Deleted:
        """After the commit: out of the index, where it is overwritten, and out of the write-ahead log."""
        self.projection.sync()
        return Deleted(people=people, faces=faces, complete=self.store.settle())

    def vacuum(self, *, note: str = "") -> bool:
        # The index first: changes that it has not seen are about to be dropped.
        self.projection.compact()
        return self.store.vacuum(run=new_run(), note=note)

    def audit(
        self, *, most: int | None = None, action: str | None = None, since: str | None = None
    ) -> tuple[AuditEntry, ...]:
        return self.store.audit(most=most, action=action, since=since)

    def info(self) -> GalleryInfo:
        self.projection.sync()
        counts = self.store.counts()
        return GalleryInfo(
            address=self.address, id=self.id, created=self.store.created, contract=self.contract,
            people=counts["people"], faces=counts["faces"], pictures=counts["pictures"], crops=counts["crops"],
            expired=self.store.expired(today()), dtype=self.store.dtype,
            size_mb=round(self.store.size_bytes() / 1e6, 3), index_mb=round(self.projection.size_bytes() / 1e6, 3),
            generation=self.store.generation(), indexed=self.projection.generation,
            audit_searches=self.audit_searches, calibration=self._calibration(),
        )  # fmt: skip

    def export_rows(self) -> Iterator[list[tuple[Face, Floats, bytes | None, tuple[int, int] | None]]]:
        after = 0
        while rows := self.store.export_rows(after, EXPORT):
            after = rows[-1][0].id
            yield rows

    def _calibration(self) -> SearchCalibration | None:
        return self.store.calibration()

    def _set_calibration(self, calibration: SearchCalibration) -> None:
        self.store.set_calibration(calibration, run=new_run())
