"""The schema's version: bring a database to it, ask for it, refuse to run on another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

import migrations
from adapters.catalog.engine import database_url, described, open_engine
from adapters.catalog.views import VIEWS
from pipeline.errors import OutOfResources, SchemaMismatch

UPGRADE = "radclipd db upgrade"
READERS = "radclipd_readers"
"""The group role that may read the views and nothing else."""
LOCK = 7_270_411
"""Key of the PostgreSQL advisory lock that keeps two upgrades apart."""


def _scripts() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config


def head() -> str:
    """Return the revision that this release works on."""
    found = ScriptDirectory.from_config(_scripts()).get_current_head()
    assert found is not None
    return found


def current(url: str) -> str | None:
    """Return the database's revision; None where there is no schema. OutOfResources where it cannot be reached."""
    parsed = database_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
        return None
    with _connect(url, writes=False) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(url: str) -> None:
    """Bring the database to this release's schema. Safe to repeat and to run twice at once."""
    parsed = database_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    config = _scripts()
    with _connect(url, writes=True) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))  # readers go on; the upgrade gives up instead
        config.attributes["connection"] = connection
        for name in reversed(VIEWS):
            connection.execute(text(f"DROP VIEW IF EXISTS {name}"))
        command.upgrade(config, "head")
        for name, query in VIEWS.items():
            connection.execute(text(f"CREATE VIEW {name} AS {query}"))
        _grant_to_readers(connection)


def verify(url: str) -> None:
    """SchemaMismatch where the database's schema is not this release's."""
    found, wanted = current(url), head()
    where = described(database_url(url))
    if found == wanted:
        return
    if found is None:
        raise SchemaMismatch(f"catalog {where} has no schema yet", hint=UPGRADE)
    known = {script.revision for script in ScriptDirectory.from_config(_scripts()).walk_revisions()}
    if found in known:
        raise SchemaMismatch(f"catalog {where} has schema {found}, this release needs {wanted}", hint=UPGRADE)
    raise SchemaMismatch(
        f"catalog {where} has schema {found}, newer than this release's {wanted}",
        hint="install the release that made it, or a newer one",
    )


def _grant_to_readers(connection: Connection) -> None:
    """A view made anew has lost its grants: give them back to the role of deploy/postgres/read-only-role.sql."""
    if connection.dialect.name != "postgresql":
        return
    if connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": READERS}):
        connection.execute(text(f"GRANT SELECT ON {', '.join(VIEWS)} TO {READERS}"))


@contextmanager
def _connect(url: str, *, writes: bool) -> Iterator[Connection]:
    parsed = database_url(url)
    engine = open_engine(parsed, busy_timeout_seconds=30)
    try:
        with engine.connect().execution_options(writes=writes) as connection, connection.begin():
            yield connection
    except SQLAlchemyError as error:
        words = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise OutOfResources(f"catalog {described(parsed)}: {words}", hint="is the database up and its folder writable?") from error
    finally:
        engine.dispose()
