"""How the tables came to be what they are: one module of `versions` a change, applied in order by alembic.

A gallery is brought up to date when it is opened for writing. To add a change: write ``versions/v0002_what.py`` after
the last one, and set `HEAD`.
"""

from __future__ import annotations

from sqlalchemy import Connection

HEAD = "0001"
"""The newest revision; opening a gallery that has it needs no alembic, whose import takes its time."""


def known() -> list[str]:
    """Revisions, newest first."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Brings the tables behind `connection` up to date, within its transaction."""
    from alembic import command

    command.upgrade(_config(connection), revision)


def downgrade(connection: Connection, revision: str) -> None:
    """Takes changes back, within the transaction of `connection`."""
    from alembic import command

    command.downgrade(_config(connection), revision)


def _config(connection: Connection | None = None):  # type: ignore[no-untyped-def]  # alembic is imported late
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "mien.gallery:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
