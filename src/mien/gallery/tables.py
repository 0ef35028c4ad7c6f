"""The tables of a gallery: what is kept about people and their faces, and nothing else.

    gallery ── one row: who it is, the embedding contract, the change number
    people ─┬─< faces >─┬─ sources      the picture a face was found in
            │     │     └─ enrolments   by whom, when, and on what basis
            │     └─ crops              the aligned face, only where it was asked for
    changes   which faces came and went, by change number: what the index is kept in step by
    audit     who did what and when; numbers only, and rows are never changed

Numbers of people and faces are never given twice (AUTOINCREMENT), so that an index or an audit log that is behind can
not mean somebody else.
"""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

gallery = Table(
    "gallery",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("contract", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("preprocessing", Text, nullable=False),
    Column("dim", Integer, nullable=False),
    Column("dtype", Text, nullable=False),
    Column("audit_searches", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    # Changes up to this number were dropped: an index that is older is built anew.
    Column("dropped", Integer, nullable=False),
    Column("calibration", Text),
    CheckConstraint("number = 1", name="one_row"),
)
"""The contract and the change number; see `mien.gallery.records.Contract`."""

people = Table(
    "people",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("retain_until", Text),
    UniqueConstraint("name"),
    sqlite_autoincrement=True,
)

sources = Table(
    "sources",
    metadata,
    Column("id", Integer, primary_key=True),
    # Of the file's bytes: by it an enrolment that was broken off goes on, and a picture is not taken twice.
    Column("sha256", Text),
    Column("path", Text, nullable=False),
    Column("width", Integer),
    Column("height", Integer),
    UniqueConstraint("sha256"),
)

enrolments = Table(
    "enrolments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("basis", Text, nullable=False),
    UniqueConstraint("run", "basis"),
)

faces = Table(
    "faces",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("person_id", Integer, ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
    Column("source_id", Integer, ForeignKey("sources.id"), nullable=False),
    Column("enrolment_id", Integer, ForeignKey("enrolments.id"), nullable=False),
    Column("created", Text, nullable=False),
    Column("retain_until", Text),
    Column("quality", Float),
    Column("score", Float),
    Column("x0", Float),
    Column("y0", Float),
    Column("x1", Float),
    Column("y1", Float),
    Column("embedding", LargeBinary, nullable=False),
    # A picture shows a person once.
    UniqueConstraint("person_id", "source_id"),
    Index(None, "source_id"),
    Index(None, "enrolment_id"),
    sqlite_autoincrement=True,
)

crops = Table(
    "crops",
    metadata,
    Column("face_id", Integer, ForeignKey("faces.id", ondelete="CASCADE"), primary_key=True),
    Column("jpeg", LargeBinary, nullable=False),
)

changes = Table(
    "changes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("first", Integer, nullable=False),
    Column("last", Integer, nullable=False),
    CheckConstraint("kind IN ('add', 'remove')", name="kind"),
    Index(None, "generation"),
)
"""Faces `first` to `last`, both included, came or went. No vectors: those that are still there are in `faces`."""

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("run", Text, nullable=False),
    # Numbers of people, not names: the log outlives them.
    Column("people", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("note", Text, nullable=False),
    sqlite_autoincrement=True,
)
