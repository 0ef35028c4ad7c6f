"""The truth about a gallery: people, faces and embeddings in one SQLite file.

A write is one transaction, acknowledged after its commit, which with ``synchronous=FULL`` is on the disk then. Readers
do not wait for writers (WAL), writers wait for each other. What is deleted is overwritten (``secure_delete``), and the
write-ahead log, which would still hold it, is folded in and cut to nothing.

Every transaction in which faces come or go gets the next change number, `generation`. `changes_since` tells what came
and went, so that an index can follow; what is in the index is never asked for here.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import event

from mien.errors import ContractMismatch, GalleryError, GalleryNotFound, MediaForbidden, OptionError, UnknownPerson
from mien.gallery import migrations
from mien.gallery import tables as t
from mien.gallery.records import (
    NOBODY,
    Added,
    AuditEntry,
    Batch,
    Contract,
    Face,
    Person,
    SearchCalibration,
    now,
    tidy_name,
    today,
    unit,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

PAGE = 16_384
"""Bytes of a page: a row with 512 numbers takes 2.2 kB, of which the usual page of 4 kB would hold one."""

WAIT_S = 60
"""Seconds that a writer waits for another."""

SETTLE_S = 3
"""Seconds that a deletion waits for those who read an older state."""

VARIABLES = 10_000
"""Values in one IN (…); SQLite takes 32,766."""

SCAN = 8192
"""Faces that are read at a time."""

DTYPES = ("float32", "float16")

SHOWN_PEOPLE = 20
"""Numbers of people in one line of the log."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Faces as a search needs them: a struct of arrays, n rows.

    Parameters
    ----------
    ids, person_ids : (n,)
        Numbers.
    embeddings : (n, d)
        Length one.
    qualities : (n,)
        1 where unknown.
    names, sources
        (n,) of the people and of the pictures.
    """

    ids: Ints
    person_ids: Ints
    embeddings: Floats
    qualities: Floats
    names: NDArray[Any]
    sources: NDArray[Any]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Change:
    """Faces `first` to `last`, both included, came ("add") or went ("remove") with change number `generation`."""

    generation: int
    kind: str
    first: int
    last: int


def actor() -> str:
    """Who runs this: account and machine."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        name = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{name}@{socket.gethostname()}"


class Store:
    """A gallery's SQLite file.

    Parameters
    ----------
    path
        The file.
    contract
        With it a gallery is made where there is none, and one that is there must have the same.
    create
        Make the file if it is not there; needs `contract`.
    dtype
        Of stored embeddings in a new gallery: "float32", or "float16" for half the size, which changes a cosine by
        less than 0.001.
    audit_searches
        For a new gallery: whether searches are written to its log.
    read_only
        Never write.
    who
        For the log. Default: account and machine.

    Raises
    ------
    GalleryNotFound
        There is no file and `create` is not set.
    ContractMismatch
        It holds other embeddings.
    GalleryError
        It is no gallery, or one of a newer version.
    """

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
        self.path = Path(path)
        self.read_only = read_only
        self.who = who or actor()
        if dtype not in DTYPES:
            raise OptionError.unknown("embeddings cannot be stored as this", dtype, DTYPES)
        if self.path.is_dir():
            raise GalleryError("a folder stands where the gallery should be", got=self.path, expected="a file")
        fresh = not self.path.exists() or self.path.stat().st_size == 0
        if fresh and (not create or read_only):
            raise GalleryNotFound("there is no gallery", got=self.path)
        if fresh and contract is None:
            raise GalleryError("a new gallery needs an embedding contract", hint="give contract=Contract.of(weights)")
        if fresh:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise MediaForbidden("cannot make the gallery's folder", got=self.path.parent) from error
        self.engine = _engine(self.path, read_only=read_only)
        try:
            self._open(contract, fresh or create, dtype, audit_searches)
        except BaseException as error:
            self.engine.dispose()
            if isinstance(error, sa.exc.DatabaseError | sqlite3.DatabaseError):
                raise self._refused(error) from error
            raise

    def _refused(self, error: Exception) -> GalleryError:
        text = str(getattr(error, "orig", error))
        hint = "give a file that `mien enroll` or Gallery.create made" if "not a database" in text else None
        return GalleryError("the gallery cannot be opened", got=f"{self.path}: {text}", hint=hint)

    def _open(self, contract: Contract | None, create: bool, dtype: str, audit_searches: bool) -> None:
        revision, foreign = self._revision()
        if revision is None and foreign:
            raise GalleryError("this is a database of something else", got=self.path, expected="a gallery")
        if revision is None and not create:
            raise GalleryNotFound("there is no gallery in this file", got=self.path)
        if revision != migrations.HEAD:
            if revision is not None and revision not in migrations.known():
                raise GalleryError(
                    "the gallery was made by a newer mien", got=f"revision {revision}",
                    expected=f"at most {migrations.HEAD}", hint="update mien",
                )  # fmt: skip
            if self.read_only:
                raise GalleryError("the gallery is of an older version", hint="open it for writing once")
            with self.write() as c:  # which waits for another process that does the same at this moment
                migrations.upgrade(c)
                if c.scalar(sa.select(sa.func.count()).select_from(t.gallery)) == 0 and contract is not None:
                    self._begin(c, contract, dtype, audit_searches)
        with self.read() as c:
            row = c.execute(sa.select(t.gallery)).mappings().one_or_none()
        if row is None:
            raise GalleryNotFound("there is no gallery in this file", got=self.path)
        self.id = str(row["id"])
        self.created = str(row["created"])
        self.dtype = str(row["dtype"])
        self.audit_searches = bool(row["audit_searches"])
        self.contract = Contract(
            id=row["contract"], dim=row["dim"], sha256=row["sha256"], preprocessing=row["preprocessing"]
        )
        if contract is not None:
            self.contract.check(contract)

    def _begin(self, c: sa.Connection, contract: Contract, dtype: str, audit_searches: bool) -> None:
        values = {
            "number": 1, "id": uuid.uuid4().hex, "created": now(), "contract": contract.id, "sha256": contract.sha256,
            "preprocessing": contract.preprocessing, "dim": contract.dim, "dtype": dtype,
            "audit_searches": int(audit_searches), "generation": 0, "dropped": 0,
        }  # fmt: skip
        c.execute(t.gallery.insert(), values)
        self.log(c, "create", note=contract.id)

    def _revision(self) -> tuple[str | None, bool]:
        """The tables' revision, and whether there are tables that are none of ours."""
        with self.read() as c:
            names = set(c.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars())
            if "alembic_version" in names and "gallery" in names:
                return c.scalar(sa.text("SELECT version_num FROM alembic_version")), False
            return None, bool(names)

    def close(self) -> None:
        self.engine.dispose()

    # ------------------------------------------------------------------------------------------- transactions

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the gallery and waits for nobody."""
        with self.engine.connect() as c, c.begin():
            yield c

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that may write: the only one, from the beginning."""
        if self.read_only:
            raise GalleryError("the gallery was opened for reading only", got=self.path)
        try:
            with self.engine.connect().execution_options(mien_write=True) as c, c.begin():
                yield c
        except sa.exc.OperationalError as error:
            raise GalleryError("the gallery cannot be written", got=f"{self.path}: {error.orig}") from error

    def generation(self) -> int:
        """The last change number."""
        with self.read() as c:
            return int(c.scalar(sa.select(t.gallery.c.generation)) or 0)

    def _next(self, c: sa.Connection) -> int:
        c.execute(t.gallery.update().values(generation=t.gallery.c.generation + 1))
        return int(c.scalar(sa.select(t.gallery.c.generation)) or 0)

    # ------------------------------------------------------------------------------------------- enrolment

    def add(self, batch: Batch, *, run: str, action: str = "enrol", note: str = "") -> Added:
        """Enrols a batch in one transaction: when this returns, it is on the disk.

        Whoever is not there is made. A picture that the person has already is left out (-1 in `ids`), whoever enrolled
        it in the meantime.
        """
        if batch.embeddings.shape[1] != self.contract.dim:
            raise ContractMismatch(
                "embeddings of another length", got=batch.embeddings.shape[1], expected=self.contract.dim
            )
        at = now()
        with self.write() as c:
            person_of, new = self._people(c, batch.people, at)
            source_of = self._sources(c, batch)
            pairs = [(person_of[name], source_of[key]) for name, key in zip(batch.people, batch.sha256, strict=True)]
            there = self._enrolled(c, pairs)
            rows = []
            for row, pair in enumerate(pairs):
                if pair not in there:
                    there.add(pair)  # the same picture twice in a batch
                    rows.append(row)
            ids = np.full(len(batch), NOBODY, np.int64)
            if rows:
                first = self._last_face(c) + 1
                ids[rows] = np.arange(first, first + len(rows))
                enrolment_of = self._enrolments(c, {batch.basis[row] for row in rows}, run, at)
                c.execute(t.faces.insert(), self._face_rows(batch, rows, ids, pairs, enrolment_of, at))
                if batch.crops is not None:
                    kept = [{"face_id": int(ids[row]), "jpeg": jpeg} for row in rows if (jpeg := batch.crops[row])]
                    if kept:
                        c.execute(t.crops.insert(), kept)
                generation = self._next(c)
                c.execute(
                    t.changes.insert(),
                    {"generation": generation, "kind": "add", "first": first, "last": first + len(rows) - 1},
                )
            else:
                generation = int(c.scalar(sa.select(t.gallery.c.generation)) or 0)
            if rows or new:
                who = sorted({pairs[row][0] for row in rows})
                self.log(c, action, people=who, count=len(rows), note=note, run=run)
        return Added(ids=ids, generation=generation, new_people=new)

    def _people(self, c: sa.Connection, names: Sequence[str], at: str) -> tuple[dict[str, int], int]:
        """Numbers by name, those of the new ones among them, and how many are new."""
        wanted = list(dict.fromkeys(names))
        found = self._numbers(c, wanted)
        missing = [{"name": name, "created": at} for name in wanted if name not in found]
        if missing:
            c.execute(t.people.insert(), missing)
            found |= self._numbers(c, [row["name"] for row in missing])
        return found, len(missing)

    def _numbers(self, c: sa.Connection, names: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for part in _parts(names):
            query = sa.select(t.people.c.name, t.people.c.id).where(t.people.c.name.in_(part))
            found.update((name, number) for name, number in c.execute(query))
        return found

    def _sources(self, c: sa.Connection, batch: Batch) -> dict[str, int]:
        """Numbers by hash."""
        wanted = dict.fromkeys(batch.sha256)

        def known() -> dict[str, int]:
            found: dict[str, int] = {}
            for part in _parts(list(wanted)):
                query = sa.select(t.sources.c.sha256, t.sources.c.id).where(t.sources.c.sha256.in_(part))
                found.update((key, number) for key, number in c.execute(query))
            return found

        found = known()
        new: dict[str, dict[str, Any]] = {}
        sizes: Any = batch.sizes
        for row, key in enumerate(batch.sha256):
            if key not in found:
                width, height = (None, None) if sizes is None else map(int, sizes[row])
                new[key] = {"sha256": key, "path": batch.sources[row], "width": width, "height": height}
        if new:
            c.execute(t.sources.insert(), list(new.values()))
            found = known()
        return found

    def _enrolled(self, c: sa.Connection, pairs: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those of the pairs of person and source that are there."""
        there: set[tuple[int, int]] = set()
        for part in _parts(sorted({source for _, source in pairs})):
            query = sa.select(t.faces.c.person_id, t.faces.c.source_id).where(t.faces.c.source_id.in_(part))
            there.update((person, source) for person, source in c.execute(query))
        return there

    def _enrolments(self, c: sa.Connection, bases: Iterable[str], run: str, at: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for basis in sorted(bases):
            query = sa.select(t.enrolments.c.id).where(t.enrolments.c.run == run, t.enrolments.c.basis == basis)
            number = c.scalar(query)
            if number is None:
                values = {"run": run, "at": at, "who": self.who, "basis": basis}
                number = c.execute(t.enrolments.insert(), values).inserted_primary_key[0]  # type: ignore[index]
            found[basis] = int(number)
        return found

    def _last_face(self, c: sa.Connection) -> int:
        """The highest number that a face ever had."""
        return int(c.scalar(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'faces'")) or 0)

    def _face_rows(
        self, batch: Batch, rows: Sequence[int], ids: Ints, pairs: Sequence[tuple[int, int]],
        enrolment_of: dict[str, int], at: str,
    ) -> list[dict[str, Any]]:  # fmt: skip
        raw = batch.embeddings.astype(self.dtype).tobytes()
        width = len(raw) // max(1, len(batch))
        boxes: Any = batch.boxes
        qualities: Any = batch.qualities
        scores: Any = batch.scores
        made = []
        for row in rows:
            x0, y0, x1, y1 = (None,) * 4 if boxes is None else map(float, boxes[row])
            made.append(
                {
                    "id": int(ids[row]), "person_id": pairs[row][0], "source_id": pairs[row][1],
                    "enrolment_id": enrolment_of[batch.basis[row]],
                    "created": at if batch.created is None else batch.created[row],
                    "retain_until": batch.retain_until[row],  # type: ignore[index]
                    "quality": None if qualities is None else float(qualities[row]),
                    "score": None if scores is None else float(scores[row]),
                    "x0": x0, "y0": y0, "x1": x1, "y1": y1, "embedding": raw[row * width : (row + 1) * width],
                }
            )  # fmt: skip
        return made

    def known(self, hashes: Sequence[str]) -> dict[str, frozenset[str]]:
        """Of pictures, by hash: whose faces from them are enrolled."""
        found: dict[str, set[str]] = {}
        query = (
            sa.select(t.sources.c.sha256, t.people.c.name)
            .join(t.faces, t.faces.c.source_id == t.sources.c.id)
            .join(t.people, t.people.c.id == t.faces.c.person_id)
        )
        with self.read() as c:
            for part in _parts(list(dict.fromkeys(hashes))):
                for key, name in c.execute(query.where(t.sources.c.sha256.in_(part))):
                    found.setdefault(key, set()).add(name)
        return {key: frozenset(names) for key, names in found.items()}

    # ------------------------------------------------------------------------------------------- what searches need

    def rows(self, ids: Iterable[int]) -> Rows:
        """Faces of these numbers, in no order; those that are not there, or past their date, are left out."""
        return self._rows(t.faces.c.id, ids)

    def rows_of_people(self, person_ids: Iterable[int]) -> Rows:
        """All faces of these people that are not past their date."""
        return self._rows(t.faces.c.person_id, person_ids)

    def _rows(self, column: sa.Column[Any], numbers: Iterable[int]) -> Rows:
        query = (
            sa.select(
                t.faces.c.id, t.faces.c.person_id, t.faces.c.quality, t.faces.c.embedding,
                t.people.c.name, t.sources.c.path,
            )
            .join(t.people, t.people.c.id == t.faces.c.person_id)
            .join(t.sources, t.sources.c.id == t.faces.c.source_id)
            .where(~_expired(today()))
        )  # fmt: skip
        found: list[Any] = []
        with self.read() as c:
            for part in _parts([int(number) for number in numbers]):
                found += c.execute(query.where(column.in_(part))).all()
        return Rows(
            ids=np.array([row[0] for row in found], np.int64),
            person_ids=np.array([row[1] for row in found], np.int64),
            qualities=np.array([1.0 if row[2] is None else row[2] for row in found], np.float32),
            embeddings=self._vectors([row[3] for row in found]),
            names=np.array([row[4] for row in found], object),
            sources=np.array([row[5] for row in found], object),
        )

    def _vectors(self, blobs: Sequence[bytes]) -> Floats:
        stored = np.frombuffer(b"".join(blobs), np.dtype(self.dtype)).reshape(len(blobs), self.contract.dim)
        return unit(stored) if self.dtype != "float32" else np.asarray(stored, np.float32)

    # ------------------------------------------------------------------------------------------- what indexes need

    def state(self) -> tuple[int, int, int]:
        """Change number, the number up to which changes were dropped, and how many faces there are."""
        with self.read() as c:
            generation, dropped = c.execute(sa.select(t.gallery.c.generation, t.gallery.c.dropped)).one()
            return int(generation), int(dropped), int(c.scalar(sa.select(sa.func.count()).select_from(t.faces)) or 0)

    def changes_since(self, generation: int) -> list[Change]:
        """What came and went after that change number, in order."""
        query = (
            sa.select(t.changes.c.generation, t.changes.c.kind, t.changes.c.first, t.changes.c.last)
            .where(t.changes.c.generation > generation)
            .order_by(t.changes.c.id)
        )
        with self.read() as c:
            return [Change(*row) for row in c.execute(query)]

    def vectors_between(self, first: int, last: int) -> tuple[Ints, Floats]:
        """Numbers and embeddings of the faces from `first` to `last` that are still there."""
        query = sa.select(t.faces.c.id, t.faces.c.embedding).where(t.faces.c.id.between(first, last))
        with self.read() as c:
            found = c.execute(query).all()
        return np.array([row[0] for row in found], np.int64), self._vectors([row[1] for row in found])

    @contextmanager
    def snapshot(self) -> Iterator[tuple[int, Iterator[tuple[Ints, Floats]]]]:
        """One state of the gallery: its change number, and all numbers and embeddings in batches. Memory stays flat."""
        with self.read() as c:
            generation = int(c.scalar(sa.select(t.gallery.c.generation)) or 0)

            def batches() -> Iterator[tuple[Ints, Floats]]:
                # By number, a batch at a time: an open cursor over millions would hold on to nothing either, but
                # SQLAlchemy fetches all of what it is not told to stream.
                last = 0
                while True:
                    query = (
                        sa.select(t.faces.c.id, t.faces.c.embedding)
                        .where(t.faces.c.id > last)
                        .order_by(t.faces.c.id)
                        .limit(SCAN)
                    )
                    found = c.execute(query).all()
                    if not found:
                        return
                    last = found[-1][0]
                    yield np.array([row[0] for row in found], np.int64), self._vectors([row[1] for row in found])

            yield generation, batches()

    # ------------------------------------------------------------------------------------------- people

    def person_id(self, name: str, c: sa.Connection | None = None) -> int:
        """Number of the person called `name`, or of "#17".

        Raises
        ------
        UnknownPerson
            With the nearest names.
        """
        if c is None:
            with self.read() as own:
                return self.person_id(name, own)
        if name.startswith("#"):
            number = int(name[1:]) if name[1:].isdigit() else -1
            found = c.scalar(sa.select(t.people.c.id).where(t.people.c.id == number))
        else:
            found = c.scalar(sa.select(t.people.c.id).where(t.people.c.name == tidy_name(name)))
        if found is None:
            import difflib

            some = c.execute(sa.select(t.people.c.name).limit(20_000)).scalars().all()
            near = difflib.get_close_matches(name, some, 3)
            hint = f"did you mean {', '.join(map(repr, near))}?" if near else None
            raise UnknownPerson("nobody of that name is in the gallery", got=name, hint=hint)
        return int(found)

    def person(self, name: str) -> Person:
        """Somebody by name, or by number as "#17"; UnknownPerson for nobody."""
        number = self.person_id(name)
        found = self.people(after=number - 1, most=1)
        if not found or found[0].id != number:  # gone in this moment
            raise UnknownPerson("nobody of that name is in the gallery", got=name)
        return found[0]

    def people(self, *, match: str | None = None, after: int = 0, most: int | None = None) -> tuple[Person, ...]:
        """People by number; `match` is part of a name, `after` and `most` page through them."""
        count = sa.func.count(t.faces.c.id)
        query = (
            sa.select(t.people, count.label("faces"))
            .outerjoin(t.faces, t.faces.c.person_id == t.people.c.id)
            .where(t.people.c.id > after)
            .group_by(t.people.c.id)
            .order_by(t.people.c.id)
            .limit(most)
        )
        if match is not None:
            query = query.where(t.people.c.name.icontains(match, autoescape=True))
        with self.read() as c:
            rows = c.execute(query).mappings().all()
            bases: dict[int, list[str]] = {}
            for part in _parts([row["id"] for row in rows]):
                told = (
                    sa.select(t.faces.c.person_id, t.enrolments.c.basis)
                    .join(t.enrolments, t.enrolments.c.id == t.faces.c.enrolment_id)
                    .where(t.faces.c.person_id.in_(part), t.enrolments.c.basis != "")
                    .distinct()
                )
                for number, basis in c.execute(told):
                    bases.setdefault(number, []).append(basis)
        return tuple(
            Person(
                id=row["id"], name=row["name"], faces=row["faces"], created=row["created"],
                retain_until=row["retain_until"], basis=tuple(sorted(bases.get(row["id"], ()))),
            )
            for row in rows
        )  # fmt: skip

    def faces(self, name: str | None = None, *, after: int = 0, most: int | None = None) -> tuple[Face, ...]:
        """Faces with where they come from, of one person or of all, by number."""
        query = (
            sa.select(
                t.faces, t.people.c.name, t.sources.c.path, t.sources.c.sha256, t.enrolments.c.basis,
                t.enrolments.c.who, t.crops.c.face_id.isnot(None).label("crop"),
            )
            .join(t.people, t.people.c.id == t.faces.c.person_id)
            .join(t.sources, t.sources.c.id == t.faces.c.source_id)
            .join(t.enrolments, t.enrolments.c.id == t.faces.c.enrolment_id)
            .outerjoin(t.crops, t.crops.c.face_id == t.faces.c.id)
            .where(t.faces.c.id > after)
            .order_by(t.faces.c.id)
            .limit(most)
        )  # fmt: skip
        with self.read() as c:
            if name is not None:
                query = query.where(t.faces.c.person_id == self.person_id(name, c))
            rows = c.execute(query).mappings().all()
        return tuple(_face(row) for row in rows)

    def crop(self, face_id: int) -> bytes | None:
        """The aligned face as JPEG, if it is kept."""
        with self.read() as c:
            return c.scalar(sa.select(t.crops.c.jpeg).where(t.crops.c.face_id == face_id))

    def export_rows(self, after: int, most: int) -> list[tuple[Face, Floats, bytes | None, tuple[int, int] | None]]:
        """Faces with embedding, crop and size of the picture, by number."""
        told = self.faces(after=after, most=most)
        if not told:
            return []
        query = (
            sa.select(t.faces.c.id, t.faces.c.embedding, t.crops.c.jpeg, t.sources.c.width, t.sources.c.height)
            .join(t.sources, t.sources.c.id == t.faces.c.source_id)
            .outerjoin(t.crops, t.crops.c.face_id == t.faces.c.id)
            .where(t.faces.c.id.between(told[0].id, told[-1].id))
        )
        with self.read() as c:
            more = {row[0]: row for row in c.execute(query)}
        kept = [face for face in told if face.id in more]
        vectors = self._vectors([more[face.id][1] for face in kept])
        return [
            (face, vector, more[face.id][2], None if more[face.id][3] is None else tuple(more[face.id][3:5]))
            for face, vector in zip(kept, vectors, strict=True)
        ]

    def rename(self, name: str, target: str, *, run: str, note: str = "") -> int:
        """Another name for somebody; OptionError if it is taken."""
        new = tidy_name(target)
        with self.write() as c:
            number = self.person_id(name, c)
            taken = c.scalar(sa.select(t.people.c.id).where(t.people.c.name == new))
            if taken is not None and taken != number:
                raise OptionError(
                    "somebody else has that name", got=new, hint="if both are the same person: mien people merge",
                )  # fmt: skip
            c.execute(t.people.update().where(t.people.c.id == number).values(name=new))
            self.log(c, "rename", people=[number], count=1, note=note, run=run)
        return number

    def merge(self, name: str, target: str, *, run: str, note: str = "") -> tuple[int, int]:
        """All faces of `name` become faces of `target`, and `name` is gone: faces moved, and dropped because both had
        one of the same picture. The earlier of two retention dates holds."""
        with self.write() as c:
            old, kept = self.person_id(name, c), self.person_id(target, c)
            if old == kept:
                raise OptionError("these are the same person", got=(name, target))
            both = sa.select(t.faces.c.source_id).where(t.faces.c.person_id == kept)
            query = sa.select(t.faces.c.id).where(t.faces.c.person_id == old, t.faces.c.source_id.in_(both))
            twice = list(c.execute(query).scalars())
            self._remove(c, twice)
            moved = c.execute(t.faces.update().where(t.faces.c.person_id == old).values(person_id=kept)).rowcount
            dates = c.execute(sa.select(t.people.c.retain_until).where(t.people.c.id.in_((old, kept)))).scalars()
            earliest = min((date for date in dates if date), default=None)
            c.execute(t.people.update().where(t.people.c.id == kept).values(retain_until=earliest))
            c.execute(t.people.delete().where(t.people.c.id == old))
            self.log(c, "merge", people=[old, kept], count=moved, note=note, run=run)
        return moved, len(twice)

    def retain(self, name: str, until: str | None, *, run: str, note: str = "") -> int:
        """Sets the last day on which somebody may be kept."""
        with self.write() as c:
            number = self.person_id(name, c)
            c.execute(t.people.update().where(t.people.c.id == number).values(retain_until=until))
            self.log(c, "retain", people=[number], count=1, note=note or f"until {until or 'further notice'}", run=run)
        return number

    # ------------------------------------------------------------------------------------------- deletion

    def delete(self, names: Sequence[str], *, run: str, note: str = "") -> tuple[int, int]:
        """Deletes people with all that is theirs: how many, and how many faces. All of them or, on an error, none."""
        with self.write() as c:
            numbers = sorted({self.person_id(name, c) for name in names})
            faces = self._faces_of(c, numbers)
            self._remove(c, faces)
            self._remove_people(c, numbers)
            self.log(c, "delete", people=numbers, count=len(faces), note=note, run=run)
        return len(numbers), len(faces)

    def delete_faces(self, name: str, ids: Sequence[int], *, run: str, note: str = "") -> int:
        """Deletes some faces of a person, who stays; OptionError for a face that is not theirs."""
        with self.write() as c:
            number = self.person_id(name, c)
            own = set(self._faces_of(c, [number]))
            if foreign := sorted(set(ids) - own):
                raise OptionError("that is no face of this person", got=foreign, expected="numbers of their faces",
                                  hint="mien people show NAME --gallery FILE")  # fmt: skip
            self._remove(c, ids)
            self.log(c, "delete", people=[number], count=len(set(ids)), note=note, run=run)
        return len(set(ids))

    def expire(self, on: str, *, run: str, note: str = "") -> tuple[int, int]:
        """Deletes everybody and every face whose last day lies before `on`, and who has no face left by that."""
        with self.write() as c:
            query = sa.select(t.faces.c.id, t.faces.c.person_id)
            query = query.join(t.people, t.people.c.id == t.faces.c.person_id).where(_expired(on))
            rows = c.execute(query).all()
            affected = {row[1] for row in rows}
            self._remove(c, [row[0] for row in rows])
            gone = set(c.execute(sa.select(t.people.c.id).where(t.people.c.retain_until < on)).scalars())
            for part in _parts(sorted(affected - gone)):
                left = sa.select(t.faces.c.person_id).where(t.faces.c.person_id.in_(part)).distinct()
                gone |= set(part) - set(c.execute(left).scalars())
            self._remove_people(c, sorted(gone))
            if rows or gone:
                self.log(c, "expire", people=sorted(affected | gone), count=len(rows), note=note, run=run)
        return len(gone), len(rows)

    def expired(self, on: str) -> int:
        """How many faces `expire` would delete."""
        query = sa.select(sa.func.count()).select_from(t.faces.join(t.people)).where(_expired(on))
        with self.read() as c:
            return int(c.scalar(query) or 0)

    def _faces_of(self, c: sa.Connection, numbers: Sequence[int]) -> list[int]:
        found: list[int] = []
        for part in _parts(numbers):
            found += c.execute(sa.select(t.faces.c.id).where(t.faces.c.person_id.in_(part))).scalars()
        return found

    def _remove_people(self, c: sa.Connection, numbers: Sequence[int]) -> None:
        for part in _parts(numbers):
            c.execute(t.people.delete().where(t.people.c.id.in_(part)))

    def _remove(self, c: sa.Connection, ids: Sequence[int]) -> None:
        """Faces, and pictures and enrolments that nothing points to any more."""
        if not ids:
            return
        sources: set[int] = set()
        for part in _parts(sorted(set(ids))):
            sources |= set(c.execute(sa.select(t.faces.c.source_id).where(t.faces.c.id.in_(part))).scalars())
            c.execute(t.faces.delete().where(t.faces.c.id.in_(part)))
        for part in _parts(sorted(sources)):
            used = sa.select(t.faces.c.source_id).where(t.faces.c.source_id.in_(part))
            c.execute(t.sources.delete().where(t.sources.c.id.in_(part), t.sources.c.id.notin_(used)))
        c.execute(t.enrolments.delete().where(t.enrolments.c.id.notin_(sa.select(t.faces.c.enrolment_id))))
        generation = self._next(c)
        spans = [{"generation": generation, "kind": "remove", "first": a, "last": b} for a, b in _spans(ids)]
        c.execute(t.changes.insert(), spans)

    def settle(self) -> bool:
        """Folds the write-ahead log in and cuts it to nothing, so that nothing deleted is left in it; whether that
        could be done. It cannot while somebody reads an older state, for which it waits some seconds."""
        with self.engine.connect().execution_options(mien_plain=True) as c:
            c.exec_driver_sql(f"PRAGMA busy_timeout = {SETTLE_S * 1000}")
            try:
                busy = c.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
            finally:  # the connection goes back to others
                c.exec_driver_sql(f"PRAGMA busy_timeout = {WAIT_S * 1000}")
        return not busy

    def vacuum(self, *, run: str, note: str = "") -> bool:
        """Writes the file anew without gaps, and drops changes that every index has seen; see `settle` for the
        answer."""
        with self.write() as c:
            generation = int(c.scalar(sa.select(t.gallery.c.generation)) or 0)
            c.execute(t.changes.delete())
            c.execute(t.gallery.update().values(dropped=generation))
            self.log(c, "vacuum", note=note, run=run)
        try:
            with self.engine.connect().execution_options(mien_plain=True) as c:
                c.exec_driver_sql("VACUUM")
        except sa.exc.OperationalError as error:
            raise GalleryError("the gallery cannot be vacuumed", got=str(error.orig), hint="try again later") from error
        return self.settle()

    # ------------------------------------------------------------------------------------------- the rest

    def log(
        self, c: sa.Connection, action: str, *, people: Sequence[int] = (), count: int = 0, note: str = "",
        run: str = "",
    ) -> None:  # fmt: skip
        """A line of the log, within the transaction of what it tells about."""
        values = {
            "at": now(), "who": self.who, "action": action, "run": run, "people": json.dumps(people[:SHOWN_PEOPLE]),
            "count": count, "note": note,
        }  # fmt: skip
        c.execute(t.audit.insert(), values)

    def log_alone(self, action: str, *, count: int = 0, note: str = "", run: str = "") -> None:
        """A line of the log about something that changes nothing."""
        with self.write() as c:
            self.log(c, action, count=count, note=note, run=run)

    def audit(self, *, most: int | None = None, action: str | None = None, since: str | None = None) -> tuple[
        AuditEntry, ...
    ]:  # fmt: skip
        """Lines of the log, the latest first."""
        query = sa.select(t.audit).order_by(t.audit.c.id.desc()).limit(most)
        if action is not None:
            query = query.where(t.audit.c.action == action)
        if since is not None:
            query = query.where(t.audit.c.at >= since)
        with self.read() as c:
            rows = c.execute(query).mappings().all()
        return tuple(
            AuditEntry(
                id=row["id"], at=row["at"], who=row["who"], action=row["action"], count=row["count"],
                people=tuple(json.loads(row["people"])), note=row["note"], run=row["run"],
            )
            for row in rows
        )  # fmt: skip

    def counts(self) -> dict[str, int]:
        """How many people, faces, pictures and crops there are."""
        with self.read() as c:
            tables = {"people": t.people, "faces": t.faces, "pictures": t.sources, "crops": t.crops}
            return {
                name: int(c.scalar(sa.select(sa.func.count()).select_from(table)) or 0)
                for name, table in tables.items()
            }

    def calibration(self) -> SearchCalibration | None:
        """The calibration that was measured last."""
        with self.read() as c:
            text = c.scalar(sa.select(t.gallery.c.calibration))
        return None if text is None else SearchCalibration.from_dict(json.loads(text))

    def set_calibration(self, calibration: SearchCalibration, *, run: str) -> None:
        with self.write() as c:
            c.execute(t.gallery.update().values(calibration=json.dumps(calibration.to_dict())))
            self.log(c, "calibrate", count=calibration.searches, run=run)

    def size_bytes(self) -> int:
        """Of the file and its write-ahead log."""
        files = [self.path, self.path.with_name(self.path.name + "-wal")]
        return sum(file.stat().st_size for file in files if file.exists())


def _engine(path: Path, *, read_only: bool) -> sa.Engine:
    """An engine whose transactions are real ones, and whose every connection has the same settings."""
    where = f"file:{sqlite_quoted(path)}?mode={'ro' if read_only else 'rwc'}&uri=true"
    log = path.with_name(path.name + "-wal")
    if read_only and not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size):
        where += "&immutable=1"  # no file can be put beside it, as WAL wants to
    engine = sa.create_engine(f"sqlite:///{where}", connect_args={"timeout": WAIT_S})

    @event.listens_for(engine, "connect")
    def settings(connection: Any, record: object) -> None:
        # Python's own idea of when a transaction begins is too late for one that reads before it writes.
        connection.isolation_level = None
        cursor = connection.cursor()
        if not read_only:
            cursor.execute(f"PRAGMA page_size = {PAGE}")
            _to_wal(cursor)
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON", "cache_size = -32768"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(c: sa.Connection) -> None:
        options = c.get_execution_options()
        if not options.get("mien_plain"):
            c.exec_driver_sql("BEGIN IMMEDIATE" if options.get("mien_write") else "BEGIN")

    return engine


def _to_wal(cursor: sqlite3.Cursor) -> None:
    """To change the mode SQLite wants the file for itself, and does not wait for it as it does otherwise."""
    for left in range(200, -1, -1):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if not left:
                raise
            time.sleep(0.05)


def sqlite_quoted(path: Path) -> str:
    """A path as part of a URI."""
    from urllib.parse import quote

    return quote(path.absolute().as_posix())


def _expired(on: str) -> sa.ColumnElement[bool]:
    """Whether a face (joined with its person) is past its last day on `on`."""
    return sa.or_(
        sa.func.coalesce(t.faces.c.retain_until, "9999") < on, sa.func.coalesce(t.people.c.retain_until, "9999") < on
    )


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), VARIABLES):
        yield values[start : start + VARIABLES]


def _spans(ids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    every = np.unique(np.fromiter(ids, np.int64))
    breaks = np.flatnonzero(np.diff(every) != 1)
    starts, ends = np.append(0, breaks + 1), np.append(breaks, len(every) - 1)
    yield from zip(every[starts].tolist(), every[ends].tolist(), strict=True)


def _face(row: Any) -> Face:
    box = None if row["x0"] is None else (row["x0"], row["y0"], row["x1"], row["y1"])
    return Face(
        id=row["id"], person=row["name"], person_id=row["person_id"], source=row["path"], sha256=row["sha256"] or "",
        box=box, quality=row["quality"], score=row["score"], created=row["created"], retain_until=row["retain_until"],
        basis=row["basis"], who=row["who"], crop=bool(row["crop"]),
    )  # fmt: skip
