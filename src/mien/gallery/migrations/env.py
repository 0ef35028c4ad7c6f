"""What alembic runs: the changes go through the connection that was handed in, within its transaction."""

from __future__ import annotations

from alembic import context

from mien.gallery.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite can, if nobody commits in between
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
