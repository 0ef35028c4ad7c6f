"""A gallery on a Milvus server, for more faces than a machine holds; or in a Milvus Lite file, to try it (extra
``scale``).

    milvus://host:19530                    database "default"
    milvus://token@host:19530/faces        with a token, or user:password, and a database
    milvus:///path/file.db                 Milvus Lite
    milvus://host:19530/faces?prefix=a     several galleries in one database

Five collections hold what the tables of a file do: ``mien_about``, ``_people``, ``_faces`` (with the vectors),
``_crops`` and ``_audit``. The verbs are the same; what Milvus does not have, this cannot give:

* **No transactions over collections.** A person is written before the faces. Whoever is killed in between leaves a
  person without faces, whom `vacuum` takes away. `add` is acknowledged when Milvus has the faces, which are found by
  the next search (consistency level "Strong"); what that means for a power cut is Milvus's promise, not ours.
* **No uniqueness.** Two processes that enrol the same picture at the same moment may both succeed. Two that make a
  person of the same name at the same moment make one, since the number of a person is made from the name. Renaming
  keeps the number, so a later person of the old name gets another.
* **Deletion is a mark** until the server compacts, which `delete` asks for and does not wait for, so it is never said
  to be complete. Milvus Lite does not compact.
* **No change number and no index of ours**: Milvus keeps its own (FLAT in Milvus Lite, where results are exact; HNSW on
  a server).
* **The log can be changed** by whoever has the rights on the server.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from mien.errors import ContractMismatch, GalleryError, GalleryNotFound, MissingExtra, OptionError, UnknownPerson
from mien.gallery.base import Gallery, last_day, new_run
from mien.gallery.records import (
    NOBODY,
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
    now,
    tidy_name,
    today,
    unit,
)
from mien.gallery.store import SHOWN_PEOPLE, Rows, actor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

MOST = 16_384
"""Results of a search or query that Milvus gives at most."""

PART = 1000
"""Values in one list of a filter."""

PAGE = 2000
"""Rows of a page."""

TEXT, LONG = 1024, 65_535
"""Characters of names and paths, and of a crop as text."""


class MilvusGallery(Gallery):
    """A gallery on a Milvus server. See `Gallery.open` for the options, and the module for what is different."""

    def __init__(
        self,
        address: str,
        *,
        contract: Contract | None = None,
        create: bool = False,
        dtype: str = "float32",
        audit_searches: bool = True,
        read_only: bool = False,
        who: str | None = None,
    ) -> None:
        if dtype != "float32":
            raise OptionError("Milvus keeps embeddings as float32", got=dtype, expected="float32")
        self.read_only, self.who = read_only, who or actor()
        self.client, self.address, prefix, self.lite = _connected(address, create=create and not read_only)
        self.names = {part: f"{prefix}_{part}" for part in ("about", "people", "faces", "crops", "audit")}
        try:
            about = self._about()
            if about is None:
                if not create or read_only:
                    raise GalleryNotFound("there is no gallery at that address", got=self.address)
                if contract is None:
                    raise GalleryError("a new gallery needs an embedding contract", hint="give contract=")
                about = self._create(contract, audit_searches)
        except BaseException:
            self.close()
            raise
        self.id, self.created = str(about["id"]), str(about["created"])
        self.audit_searches = bool(about["audit_searches"])
        self.contract = Contract(**about["contract"])
        if contract is not None:
            try:
                self.contract.check(contract)
            except ContractMismatch:
                self.close()
                raise

    # ------------------------------------------------------------------------------------------- making

    def _about(self) -> dict[str, Any] | None:
        if not self.client.has_collection(self.names["about"]):
            return None
        rows = self.client.query(self.names["about"], filter="number == 1", output_fields=["text"])
        return dict(json.loads(rows[0]["text"])) if rows else None

    def _create(self, contract: Contract, audit_searches: bool) -> dict[str, Any]:
        from dataclasses import asdict

        from pymilvus import DataType as D

        text, number = {"datatype": D.VARCHAR, "max_length": TEXT}, {"datatype": D.INT64}
        real, long = {"datatype": D.DOUBLE}, {"datatype": D.VARCHAR, "max_length": LONG}
        self._collection("about", 2, {"text": long}, key="number")
        self._collection("people", 2, {"name": text, "created": text, "retain_until": text})
        self._collection("crops", 2, {"jpeg": long})
        self._collection(
            "audit", 2, {"at": text, "who": text, "action": text, "run": text, "people": long, "count": number,
                         "note": long},
        )  # fmt: skip
        self._collection(
            "faces", contract.dim,
            {"person_id": number, "source": text, "sha256": text, "width": number, "height": number, "created": text,
             "retain_until": text, "basis": text, "who": text, "quality": real, "score": real, "x0": real, "y0": real,
             "x1": real, "y1": real, "crop": number},
        )  # fmt: skip
        about = {
            "id": uuid.uuid4().hex, "created": now(), "contract": asdict(contract),
            "audit_searches": int(audit_searches), "calibration": None,
        }  # fmt: skip
        # Last: a gallery that was half made is made again.
        self._write_about(about)
        self.log("create", note=contract.id)
        return about

    def _collection(self, part: str, dim: int, fields: Mapping[str, dict[str, Any]], *, key: str = "id") -> None:
        from pymilvus import DataType

        if self.client.has_collection(self.names[part]):
            return
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(key, DataType.INT64, is_primary=True)
        # Milvus has no collection without a vector.
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dim)
        for name, kind in fields.items():
            schema.add_field(name, **kind)
        index = self.client.prepare_index_params()
        if self.lite or part != "faces":
            index.add_index("embedding", index_type="FLAT", metric_type="IP")
        else:
            index.add_index("embedding", index_type="HNSW", metric_type="IP", params={"M": 32, "efConstruction": 200})
        self.client.create_collection(self.names[part], schema=schema, index_params=index, consistency_level="Strong")

    def _write_about(self, about: Mapping[str, Any]) -> None:
        row = {"number": 1, "embedding": [0.0, 0.0], "text": json.dumps(about)}
        self.client.upsert(self.names["about"], [row])

    def close(self) -> None:
        self.client.close()

    def _write(self) -> None:
        if self.read_only:
            raise GalleryError("the gallery was opened for reading only", got=self.address)

    # ------------------------------------------------------------------------------------------- rows

    def _query(self, part: str, filter: str, fields: Sequence[str]) -> list[dict[str, Any]]:
        """All rows of a collection that a filter lets through, by number."""
        found: list[dict[str, Any]] = []
        last = -1
        key = "number" if part == "about" else "id"
        while True:
            clause = f"{key} > {last}" + (f" and ({filter})" if filter else "")
            rows = self._page(part, clause, fields, PAGE)
            found += rows
            if len(rows) < PAGE:
                return found
            last = rows[-1][key]

    def _page(self, part: str, clause: str, fields: Sequence[str], most: int) -> list[dict[str, Any]]:
        """The first rows by number."""
        names = [*fields, *(("id",) if part != "about" else ("number",))]
        if self.lite:
            found = self.client.query(self.names[part], filter=clause, output_fields=names, limit=most)
        else:
            # Several nodes answer, and only an iterator makes them give the first rows and not any.
            pages = self.client.query_iterator(
                self.names[part], filter=clause, output_fields=names, batch_size=most, limit=most
            )
            found = pages.next()
            pages.close()
        return sorted((dict(row) for row in found), key=lambda row: int(row[names[-1]]))

    def _by_number(self, part: str, column: str, numbers: Sequence[int], fields: Sequence[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for start in range(0, len(numbers), PART):
            listed = ", ".join(str(int(number)) for number in numbers[start : start + PART])
            found += self._query(part, f"{column} in [{listed}]", fields)
        return found

    def _count(self, part: str, filter: str = "") -> int:
        rows = self.client.query(self.names[part], filter=filter, output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def __len__(self) -> int:
        return self._count("faces")

    def _names(self, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
        unique = sorted(set(numbers))
        return {row["id"]: row for row in self._by_number("people", "id", unique, ["name", "retain_until"])}

    # ------------------------------------------------------------------------------------------- enrolment

    def add(self, batch: Batch, *, run: str | None = None, note: str = "", action: str = "enrol") -> Added:
        self._write()
        if batch.embeddings.shape[1] != self.contract.dim:
            raise ContractMismatch(
                "embeddings of another length", got=batch.embeddings.shape[1], expected=self.contract.dim
            )
        at = now()
        person_of, new = self._people(batch.people, at)
        pairs = [(person_of[name], key) for name, key in zip(batch.people, batch.sha256, strict=True)]
        there = self._enrolled(batch.sha256)
        rows: list[int] = []
        for row, pair in enumerate(pairs):
            if pair not in there:
                there.add(pair)
                rows.append(row)
        ids = np.full(len(batch), NOBODY, np.int64)
        ids[rows] = _numbers(len(rows))
        if rows:
            crops = [
                {"id": int(ids[row]), "embedding": [0.0, 0.0], "jpeg": _text_of(batch.crops[row])}
                for row in rows
                if batch.crops is not None and batch.crops[row] is not None
            ]
            if crops:
                self.client.insert(self.names["crops"], crops)
            self.client.insert(self.names["faces"], self._face_rows(batch, rows, ids, pairs, at))
        if rows or new:
            who = sorted({pairs[row][0] for row in rows})
            self.log(action, people=who, count=len(rows), note=note, run=run or new_run())
        return Added(ids=ids, generation=0, new_people=new)

    def _face_rows(
        self, batch: Batch, rows: Sequence[int], ids: Ints, pairs: Sequence[tuple[int, str]], at: str
    ) -> list[dict[str, Any]]:
        boxes: Any = batch.boxes
        sizes: Any = batch.sizes
        qualities: Any = batch.qualities
        scores: Any = batch.scores
        dates: Any = batch.retain_until
        made = []
        for row in rows:
            x0, y0, x1, y1 = (-1.0, -1.0, -1.0, -1.0) if boxes is None else map(float, boxes[row])
            width, height = (0, 0) if sizes is None else map(int, sizes[row])
            made.append(
                {
                    "id": int(ids[row]), "embedding": batch.embeddings[row], "person_id": pairs[row][0],
                    "source": batch.sources[row][-TEXT // 4 :], "sha256": pairs[row][1], "width": width,
                    "height": height, "created": at if batch.created is None else batch.created[row],
                    "retain_until": dates[row] or "", "basis": batch.basis[row][: TEXT // 4], "who": self.who,
                    "quality": -1.0 if qualities is None else float(qualities[row]),
                    "score": -1.0 if scores is None else float(scores[row]), "x0": x0, "y0": y0, "x1": x1, "y1": y1,
                    "crop": int(batch.crops is not None and batch.crops[row] is not None),
                }
            )  # fmt: skip
        return made

    def _people(self, names: Sequence[str], at: str) -> tuple[dict[str, int], int]:
        wanted = list(dict.fromkeys(names))
        found = {name: number for name in wanted for number in self._named(name)}
        missing = [name for name in wanted if name not in found]
        rows = []
        for name in missing:
            number = _number_of(name)
            while self.client.query(self.names["people"], filter=f"id == {number}", output_fields=["id"]):
                number = (number + 1) % (1 << 62)  # somebody had that name and was renamed
            found[name] = number
            rows.append({"id": number, "embedding": [0.0, 0.0], "name": name, "created": at, "retain_until": ""})
        if rows:
            self.client.upsert(self.names["people"], rows)
        return found, len(rows)

    def _named(self, name: str) -> list[int]:
        filter = f"name == {_quoted(name)}"
        return [row["id"] for row in self.client.query(self.names["people"], filter=filter, output_fields=["id"])]

    def _enrolled(self, hashes: Sequence[str]) -> set[tuple[int, str]]:
        return {(row["person_id"], row["sha256"]) for row in self._of_hashes(hashes)}

    def _of_hashes(self, hashes: Sequence[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        unique = list(dict.fromkeys(hashes))
        for start in range(0, len(unique), PART):
            listed = ", ".join(_quoted(one) for one in unique[start : start + PART])
            found += self._query("faces", f"sha256 in [{listed}]", ["person_id", "sha256"])
        return found

    def known(self, hashes: Sequence[str]) -> Mapping[str, frozenset[str]]:
        rows = self._of_hashes(hashes)
        names = self._names([row["person_id"] for row in rows])
        found: dict[str, set[str]] = {}
        for row in rows:
            if row["person_id"] in names:
                found.setdefault(row["sha256"], set()).add(names[row["person_id"]]["name"])
        return {key: frozenset(people) for key, people in found.items()}

    # ------------------------------------------------------------------------------------------- search

    def _nearest(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        k = min(k, MOST)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), NOBODY, np.int64)
        params = {} if self.lite else {"params": {"ef": max(128, 2 * k)}}
        found = self.client.search(self.names["faces"], list(queries), limit=k, search_params=params)
        for line, hits in enumerate(found):
            for place, hit in enumerate(hits):
                scores[line, place], ids[line, place] = hit["distance"], hit["id"]
        return scores, ids

    def _rows(self, ids: Sequence[int]) -> Rows:
        return self._rows_of("id", ids)

    def _rows_of_people(self, person_ids: Sequence[int]) -> Rows:
        return self._rows_of("person_id", person_ids)

    def _rows_of(self, column: str, numbers: Sequence[int]) -> Rows:
        fields = ["person_id", "quality", "embedding", "source", "retain_until"]
        rows = self._by_number("faces", column, numbers, fields)
        people = self._names([row["person_id"] for row in rows])
        day_now = today()
        rows = [
            row
            for row in rows
            # A face whose person was deleted in this moment, or who is past their date, is nobody's.
            if row["person_id"] in people
            and not _past(row["retain_until"], day_now)
            and not _past(people[row["person_id"]]["retain_until"], day_now)
        ]
        vectors = np.array([row["embedding"] for row in rows], np.float32).reshape(len(rows), self.contract.dim)
        return Rows(
            ids=np.array([row["id"] for row in rows], np.int64),
            person_ids=np.array([row["person_id"] for row in rows], np.int64),
            qualities=np.array([1.0 if row["quality"] < 0 else row["quality"] for row in rows], np.float32),
            embeddings=unit(vectors) if len(rows) else vectors,
            names=np.array([people[row["person_id"]]["name"] for row in rows], object),
            sources=np.array([row["source"] for row in rows], object),
        )

    # ------------------------------------------------------------------------------------------- people

    def _number(self, name: str) -> int:
        if name.startswith("#"):
            number = int(name[1:]) if name[1:].isdigit() else -1
            found = [number] if self._names([number]) else []
        else:
            found = self._named(tidy_name(name))
        if not found:
            import difflib

            some = [row["name"] for row in self._page("people", "id >= 0", ["name"], MOST)]
            near = difflib.get_close_matches(name, some, 3)
            hint = f"did you mean {', '.join(map(repr, near))}?" if near else None
            raise UnknownPerson("nobody of that name is in the gallery", got=name, hint=hint)
        return found[0]

    def people(self, *, match: str | None = None, after: int = 0, most: int | None = None) -> tuple[Person, ...]:
        rows = self._query("people", f"id > {after}", ["name", "created", "retain_until"])
        if match is not None:
            rows = [row for row in rows if match.lower() in row["name"].lower()]
        return self._told(rows[:most])

    def _told(self, rows: Sequence[dict[str, Any]]) -> tuple[Person, ...]:
        counts: dict[int, int] = {}
        bases: dict[int, set[str]] = {}
        for row in self._by_number("faces", "person_id", [row["id"] for row in rows], ["person_id", "basis"]):
            counts[row["person_id"]] = counts.get(row["person_id"], 0) + 1
            if row["basis"]:
                bases.setdefault(row["person_id"], set()).add(row["basis"])
        return tuple(
            Person(
                id=row["id"], name=row["name"], faces=counts.get(row["id"], 0), created=row["created"],
                retain_until=row["retain_until"] or None, basis=tuple(sorted(bases.get(row["id"], ()))),
            )
            for row in rows
        )  # fmt: skip

    def person(self, name: str) -> Person:
        number = self._number(name)
        return self._told(self._by_number("people", "id", [number], ["name", "created", "retain_until"]))[0]

    def faces(self, name: str | None = None, *, after: int = 0, most: int | None = None) -> tuple[Face, ...]:
        clause = f"id > {after}" + ("" if name is None else f" and person_id == {self._number(name)}")
        rows = self._query("faces", clause, FACE)[:most]
        people = self._names([row["person_id"] for row in rows])
        return tuple(_face(row, people) for row in rows)

    def crop(self, face_id: int) -> bytes | None:
        rows = self._by_number("crops", "id", [face_id], ["jpeg"])
        return _bytes_of(rows[0]["jpeg"]) if rows else None

    def export_rows(self) -> Iterator[list[tuple[Face, Floats, bytes | None, tuple[int, int] | None]]]:
        last = -1
        while rows := self._page("faces", f"id > {last}", [*FACE, "embedding", "width", "height"], PAGE):
            last = rows[-1]["id"]
            people = self._names([row["person_id"] for row in rows])
            kept = [row["id"] for row in rows if row["crop"]]
            crops = {row["id"]: _bytes_of(row["jpeg"]) for row in self._by_number("crops", "id", kept, ["jpeg"])}
            vectors = unit(np.array([row["embedding"] for row in rows], np.float32))
            yield [
                (
                    _face(row, people), vector, crops.get(row["id"]),
                    (row["width"], row["height"]) if row["width"] else None,
                )
                for row, vector in zip(rows, vectors, strict=True)
            ]  # fmt: skip

    def rename(self, name: str, target: str, *, note: str = "") -> int:
        self._write()
        number, new = self._number(name), tidy_name(target)
        if any(other != number for other in self._named(new)):
            raise OptionError(
                "somebody else has that name", got=new, hint="if both are the same person: mien people merge"
            )
        self._change_person(number, name=new)
        self.log("rename", people=[number], count=1, note=note)
        return number

    def _change_person(self, number: int, **values: str) -> None:
        row = self._by_number("people", "id", [number], ["name", "created", "retain_until"])[0]
        self.client.upsert(self.names["people"], [{**row, "embedding": [0.0, 0.0], **values}])

    def merge(self, name: str, target: str, *, note: str = "") -> int:
        self._write()
        old, kept = self._number(name), self._number(target)
        if old == kept:
            raise OptionError("these are the same person", got=(name, target))
        fields = [*FACE, "embedding", "width", "height"]
        theirs = {row["sha256"] for row in self._by_number("faces", "person_id", [kept], ["sha256"])}
        rows = self._by_number("faces", "person_id", [old], fields)
        twice = [row["id"] for row in rows if row["sha256"] in theirs]
        moved = [{**row, "person_id": kept} for row in rows if row["sha256"] not in theirs]
        for start in range(0, len(moved), PART):
            self.client.upsert(self.names["faces"], moved[start : start + PART])
        self._remove("faces", twice)
        dates = [row["retain_until"] for row in self._names([old, kept]).values() if row["retain_until"]]
        self._change_person(kept, retain_until=min(dates, default=""))
        self._remove("people", [old])
        self.log("merge", people=[old, kept], count=len(moved), note=note)
        return len(moved)

    def retain(self, name: str, until: str | None, *, note: str = "") -> int:
        self._write()
        number, last = self._number(name), day(until)
        self._change_person(number, retain_until=last or "")
        self.log("retain", people=[number], count=1, note=note or f"until {last or 'further notice'}")
        return number

    # ------------------------------------------------------------------------------------------- deletion

    def delete(self, names: Sequence[str], *, note: str = "") -> Deleted:
        self._write()
        numbers = sorted({self._number(name) for name in names})
        faces = [row["id"] for row in self._by_number("faces", "person_id", numbers, [])]
        return self._deleted(numbers, faces, "delete", note)

    def delete_faces(self, name: str, ids: Sequence[int], *, note: str = "") -> Deleted:
        self._write()
        number = self._number(name)
        own = {row["id"] for row in self._by_number("faces", "person_id", [number], [])}
        if foreign := sorted(set(ids) - own):
            raise OptionError("that is no face of this person", got=foreign, expected="numbers of their faces")
        return self._deleted([], sorted(set(ids)), "delete", note, about=[number])

    def expire(self, *, on: str | None = None, note: str = "") -> Deleted:
        self._write()
        last = last_day(on)
        old = self._query("people", f'retain_until != "" and retain_until < "{last}"', [])
        gone = {row["id"] for row in old}
        rows = self._query("faces", f'retain_until != "" and retain_until < "{last}"', ["person_id"])
        rows += self._by_number("faces", "person_id", sorted(gone), ["person_id"])
        faces = {row["id"] for row in rows}
        affected = {row["person_id"] for row in rows}
        left = {
            row["person_id"]
            for row in self._by_number("faces", "person_id", sorted(affected - gone), ["person_id"])
            if row["id"] not in faces
        }
        gone |= affected - gone - left
        if not faces and not gone:
            return Deleted(people=0, faces=0, complete=True)
        return self._deleted(sorted(gone), sorted(faces), "expire", note, about=sorted(affected | gone))

    def _deleted(
        self, people: Sequence[int], faces: Sequence[int], action: str, note: str, about: Sequence[int] | None = None
    ) -> Deleted:
        # People last: a face without a person is found by nobody, a person without faces only looks odd.
        self._remove("crops", faces)
        self._remove("faces", faces)
        self._remove("people", people)
        self.log(action, people=people if about is None else about, count=len(faces), note=note)
        self._compact()
        return Deleted(people=len(people), faces=len(faces), complete=False)

    def _remove(self, part: str, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers), PART):
            listed = ", ".join(str(int(number)) for number in numbers[start : start + PART])
            self.client.delete(self.names[part], filter=f"id in [{listed}]")

    def _compact(self) -> None:
        if not self.lite:
            for part in ("faces", "crops", "people"):
                self.client.flush(self.names[part])
                self.client.compact(self.names[part])

    def vacuum(self, *, note: str = "") -> bool:
        """People without faces, whom an enrolment that was killed left, go; the server is asked to compact. Whether and
        when it does is not known, so the answer is False."""
        self._write()
        empty = [person.id for person in self.people() if not person.faces]
        self._remove("people", empty)
        self._compact()
        self.log("vacuum", people=empty, note=note)
        return False

    # ------------------------------------------------------------------------------------------- the rest

    def log(self, action: str, *, people: Sequence[int] = (), count: int = 0, note: str = "", run: str = "") -> None:
        """A line of the log."""
        row = {
            "id": int(_numbers(1)[0]), "embedding": [0.0, 0.0], "at": now(), "who": self.who, "action": action,
            "run": run or new_run(), "people": json.dumps(list(people)[:SHOWN_PEOPLE]), "count": count, "note": note,
        }  # fmt: skip
        self.client.insert(self.names["audit"], [row])

    def _log(self, action: str, *, count: int = 0, note: str = "") -> None:
        if not self.read_only and (action != "search" or self.audit_searches):
            self.log(action, count=count, note=note)

    def audit(
        self, *, most: int | None = None, action: str | None = None, since: str | None = None
    ) -> tuple[AuditEntry, ...]:
        clauses = [f"action == {_quoted(action)}"] if action is not None else []
        clauses += [f"at >= {_quoted(since)}"] if since is not None else []
        rows = self._query("audit", " and ".join(clauses), ["at", "who", "action", "run", "people", "count", "note"])
        rows.sort(key=lambda row: -row["id"])
        return tuple(
            AuditEntry(
                id=row["id"], at=row["at"], who=row["who"], action=row["action"], run=row["run"], count=row["count"],
                people=tuple(json.loads(row["people"])), note=row["note"],
            )
            for row in rows[:most]
        )  # fmt: skip

    def info(self) -> GalleryInfo:
        last = today()
        expired = self._count("faces", f'retain_until != "" and retain_until < "{last}"')
        file = Path(self.address.removeprefix("milvus://")) if self.lite else None
        size = None if file is None else round(_size(file) / 1e6, 3)
        return GalleryInfo(
            address=self.address, id=self.id, created=self.created, contract=self.contract,
            people=self._count("people"), faces=len(self), pictures=len(self), crops=self._count("crops"),
            expired=expired, dtype="float32", size_mb=size, index_mb=None, generation=0, indexed=0,
            audit_searches=self.audit_searches, calibration=self._calibration(),
        )  # fmt: skip

    def _calibration(self) -> SearchCalibration | None:
        about = self._about() or {}
        kept = about.get("calibration")
        return None if kept is None else SearchCalibration.from_dict(kept)

    def _set_calibration(self, calibration: SearchCalibration) -> None:
        self._write()
        self._write_about({**(self._about() or {}), "calibration": calibration.to_dict()})
        self.log("calibrate", count=calibration.searches)


# ------------------------------------------------------------------------------------------- pieces

FACE = (
    "person_id", "source", "sha256", "created", "retain_until", "basis", "who", "quality", "score", "x0", "y0", "x1",
    "y1", "crop",
)  # fmt: skip
"""Fields of a `Face`."""


def _face(row: Mapping[str, Any], people: Mapping[int, Mapping[str, Any]]) -> Face:
    number = row["person_id"]
    return Face(
        id=row["id"], person=people[number]["name"] if number in people else "", person_id=number,
        source=row["source"], sha256=row["sha256"],
        box=None if row["x1"] < 0 and row["x0"] < 0 else (row["x0"], row["y0"], row["x1"], row["y1"]),
        quality=None if row["quality"] < 0 else row["quality"], score=None if row["score"] < 0 else row["score"],
        created=row["created"], retain_until=row["retain_until"] or None, basis=row["basis"], who=row["who"],
        crop=bool(row["crop"]),
    )  # fmt: skip


def _past(last: str, on: str) -> bool:
    return bool(last) and last < on


def _numbers(count: int) -> Ints:
    """Numbers that nobody else has: the time in microseconds, with 10 random bits for processes of the same one."""
    start = (time.time_ns() // 1000) << 10
    return start + secrets.randbelow(1024) + (np.arange(count, dtype=np.int64) << 10)


def _number_of(name: str) -> int:
    """The number that a name gives: two processes that make the same person at the same time make one."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 2


def _quoted(text: str) -> str:
    """A text in a filter; nothing in it can end it."""
    return json.dumps(text, ensure_ascii=False)


def _text_of(jpeg: bytes | None) -> str:
    import base64

    text = base64.b85encode(jpeg or b"").decode()
    if len(text) > LONG:
        raise GalleryError("a crop is too large for Milvus", got=f"{len(text)} characters", expected=f"at most {LONG}")
    return text


def _bytes_of(text: str) -> bytes:
    import base64

    return base64.b85decode(text)


def _size(file: Path) -> int:
    if file.is_dir():
        return sum(one.stat().st_size for one in file.rglob("*") if one.is_file())
    return file.stat().st_size if file.exists() else 0


def _connected(address: str, *, create: bool) -> tuple[Any, str, str, bool]:
    """Client, address without secrets, prefix of the collections, and whether it is Milvus Lite."""
    try:
        from pymilvus import MilvusClient, MilvusException
    except ImportError as error:
        raise MissingExtra("pymilvus", extra="scale") from error
    parts = urlsplit(address)
    prefix = parse_qs(parts.query).get("prefix", ["mien"])[0]
    if not re.fullmatch(r"[A-Za-z]\w{0,40}", prefix):
        raise OptionError("a prefix is a word", got=prefix, expected="letters, digits and _, a letter first")
    lite = not parts.netloc
    database = unquote(parts.path.strip("/"))
    if lite:
        path = unquote(parts.path)
        if not path.endswith(".db"):
            raise OptionError("a Milvus Lite file ends in .db", got=path, expected="milvus:///path/file.db")
        if not Path(path).exists() and not create:
            raise GalleryNotFound("there is no gallery", got=address)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"uri": path}
        shown = f"milvus://{path}"
    else:
        host = parts.netloc.rpartition("@")[2]
        options = {"uri": f"http://{host}", "token": unquote(parts.netloc.rpartition("@")[0])}
        options |= {"db_name": database} if database else {}
        shown = f"milvus://{host}" + (f"/{database}" if database else "")
    try:
        return MilvusClient(**options), shown, prefix, lite
    except MilvusException as error:
        raise GalleryError(
            "the Milvus server does not answer", got=f"{shown}: {error.message}", hint="check host, port and token"
        ) from error
    except (ImportError, ModuleNotFoundError) as error:  # Milvus Lite is a package of its own
        raise MissingExtra("milvus-lite", extra="scale") from error
