"""Run by Alembic: online with a connection that `adapters.catalog.schema` hands over, or from the command line for developers."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from adapters.catalog.engine import database_url, open_engine
from adapters.catalog.tables import metadata


def run(connection: Connection) -> None:
    """Migrate on this connection, in one transaction for each revision."""
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=connection.dialect.name == "sqlite")
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:  # `alembic revision --autogenerate -x url=sqlite:////tmp/x.db`
    engine = open_engine(database_url(context.get_x_argument(as_dictionary=True)["url"]), busy_timeout_seconds=30)
    with engine.connect() as opened:
        run(opened)
        opened.commit()
