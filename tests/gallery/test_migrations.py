"""The tables are those that the migrations make, and a gallery is brought up to date when it is opened."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.gallery.conftest import CONTRACT, vectors

from mien import errors
from mien.gallery import Batch, Gallery, migrations
from mien.gallery.local import LocalGallery
from mien.gallery.store import Store
from mien.gallery.tables import metadata

Make = Callable[..., LocalGallery]


def schema(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as c:
        rows = c.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    c.close()
    return {name: re.sub(r"\s+", " ", text) for name, text in rows if not name.startswith(("sqlite_", "alembic"))}


def test_head_is_the_newest_revision() -> None:
    assert migrations.known()[0] == migrations.HEAD


def test_migrations_make_the_declared_tables(make: Make) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    gallery = make()
    with gallery.store.read() as c:
        context = MigrationContext.configure(c, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_migrations_make_what_create_all_makes(make: Make, path: Path, tmp_path: Path) -> None:
    """Also what alembic does not compare: checks, AUTOINCREMENT, foreign keys."""
    make().close()
    plain = sa.create_engine(f"sqlite:///{tmp_path / 'plain.db'}")
    metadata.create_all(plain)
    plain.dispose()
    made = {name: text for name, text in schema(path).items() if not text.startswith("CREATE TRIGGER")}
    assert made == schema(tmp_path / "plain.db")


def test_down_and_up_again(make: Make, path: Path) -> None:
    gallery = make()
    before = schema(path)
    with gallery.store.write() as c:
        migrations.downgrade(c, "base")
    assert schema(path) == {}
    with gallery.store.write() as c:
        migrations.upgrade(c)
    assert schema(path) == before


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = migrations.upgrade

    def breaks(connection: Any, revision: str = "head") -> None:
        real(connection, revision)
        raise RuntimeError("the power went")

    monkeypatch.setattr(migrations, "upgrade", breaks)
    with pytest.raises(RuntimeError):
        Store(tmp_path / "g.db", contract=CONTRACT, create=True)
    assert schema(tmp_path / "g.db") == {}
    monkeypatch.setattr(migrations, "upgrade", real)
    Store(tmp_path / "g.db", contract=CONTRACT, create=True).close()


def test_a_newer_gallery_is_left_alone(make: Make, path: Path) -> None:
    make().close()
    with sqlite3.connect(path) as c:
        c.execute("UPDATE alembic_version SET version_num = '9999'")
    c.close()
    with pytest.raises(errors.GalleryError, match="newer mien"):
        Gallery.open(path)


def test_settings_of_every_connection(make: Make) -> None:
    gallery = make()
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "page_size": 16_384}
    for _ in range(2):
        with gallery.store.read() as c:
            assert {name: c.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted} == wanted
    gallery.add(Batch(people=["Ann"], embeddings=vectors(1)))
    with pytest.raises(sa.exc.IntegrityError), gallery.store.write() as c:
        c.exec_driver_sql("UPDATE faces SET person_id = 77")
