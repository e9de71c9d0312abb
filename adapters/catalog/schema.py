"""The version of the schema: upgrade a database, read its version, refuse another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex

import migrations
from adapters.catalog.engine import POOLED, database_url, open_engine
from adapters.catalog.errors import (
    CHECK_PERMISSIONS,
    catalog_unavailable,
    driver_message,
    error_code,
    find_remedy,
    is_transient,
    redacted_url,
)
from adapters.catalog.tables import TABLES
from adapters.catalog.views import VIEWS
from pipeline.errors import OutOfResources, SchemaMismatch

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

MIGRATIONS_FOLDER = Path(migrations.__file__).parent
UPGRADE_COMMAND = "radclipd db upgrade"
ALEMBIC_TABLE = "alembic_version"
"""The table in which Alembic keeps the revision."""
READERS_ROLE = "radclipd_readers"
"""The group role that may read the views and nothing else."""
UPGRADE_LOCK_KEY = 7_270_411
"""Key of the PostgreSQL advisory lock that keeps two upgrades apart."""
LOCK_POLL_SECONDS = 0.2
"""Between two attempts at that lock. A statement that waited for it would block CREATE INDEX CONCURRENTLY, and be blocked by it."""
DEPENDENT_OBJECTS_STILL_EXIST = "2BP01"
"""SQLSTATE dependent_objects_still_exist."""
BROKEN_VIEW = "error in view"
"""Begin of SQLite's message where a column or table is renamed and a view depends on a view that was dropped."""


def _build_alembic_config() -> Config:
    from alembic.config import Config  # only an upgrade needs Alembic; every process reads the revision

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS_FOLDER).replace("%", "%%"))
    return config


def _load_scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_build_alembic_config())


@cache
def revisions() -> tuple[str, ...]:
    """Return the revisions that this release knows, in order. The file name of a script begins with its revision."""
    return tuple(sorted(script.name.partition("_")[0] for script in (MIGRATIONS_FOLDER / "versions").glob("[0-9]*.py")))


def head() -> str:
    """Return the revision that this release needs."""
    return revisions()[-1]


def current(url: str | URL) -> str | None:
    """Return the database's revision; None where there is no schema. OutOfResources where it cannot be reached."""
    parsed = database_url(url)
    if not _has_database(parsed):
        return None
    with _open_connection(parsed, writes=False) as connection:
        return _read_revision(connection)


def upgrade(url: str) -> None:
    """Bring the database to this release's schema, wholly or not at all. Safe to repeat and to run concurrently.

    On PostgreSQL the indexes and the BEFOREHAND statements of migrations come first, while others read and write; a failed upgrade
    leaves nothing else behind. On SQLite others read meanwhile and writers wait.

    OutOfResources where it cannot be reached, SchemaMismatch where it is newer than this release or cannot be changed.
    """
    parsed = database_url(url)
    _make_folder(parsed)
    if parsed.get_backend_name() == "postgresql":
        with _open_connection(parsed, writes=True, isolation_level="AUTOCOMMIT") as connection:
            _prepare_online(connection)
    with _open_connection(parsed, writes=True) as connection:
        if connection.dialect.name == "postgresql":
            _acquire_lock(connection, "pg_try_advisory_xact_lock")
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))  # the upgrade gives up before it blocks readers for long
        found = _read_revision(connection)
        _refuse_newer(parsed, found)
        if found == head():
            _renew_views(connection)
        else:
            _run_migrations(connection)
        _grant_to_readers(connection)


def verify(url: str | URL) -> None:
    """Raise SchemaMismatch where the database's schema is not this release's, OutOfResources where it cannot be reached."""
    parsed, wanted = database_url(url), head()
    found = current(parsed)
    if found == wanted:
        return
    _refuse_newer(parsed, found)
    if found is None:
        raise SchemaMismatch(f"catalog {redacted_url(parsed)} has no schema yet", hint=UPGRADE_COMMAND)
    raise SchemaMismatch(f"catalog {redacted_url(parsed)} has schema {found}, this release needs {wanted}", hint=UPGRADE_COMMAND)


def _acquire_lock(connection: Connection, lock_function: str) -> None:
    while not connection.scalar(text(f"SELECT {lock_function}(:key)"), {"key": UPGRADE_LOCK_KEY}):
        sleep(LOCK_POLL_SECONDS)


def _prepare_online(connection: Connection) -> None:
    """Build indexes and run BEFOREHAND statements outside a transaction; others go on. The lock ends with the connection."""
    if connection.info[POOLED]:
        return _refuse_upgrade_through_pooler(_read_revision(connection))
    _acquire_lock(connection, "pg_try_advisory_lock")
    connection.execute(text("SET lock_timeout = 0"))  # CREATE INDEX CONCURRENTLY waits for readers, a backup too, and blocks none
    found, scripts = _read_revision(connection), _load_scripts()
    if not _is_older(found):
        return
    _make_indexes(connection)
    for script in reversed(list(scripts.iterate_revisions(head(), found))):
        for statement in getattr(script.module, "BEFOREHAND", ()):
            connection.execute(text(statement))


def _is_older(found: str | None) -> bool:
    return found in revisions() and found != head()


def _refuse_upgrade_through_pooler(found: str | None) -> None:
    """Raise SchemaMismatch where an upgrade needs a session: its lock and its indexes outlast a transaction."""
    if _is_older(found):
        raise SchemaMismatch(
            "the catalog cannot be upgraded through a connection pooler",
            hint=f"RADCLIPD_CATALOG__URL=postgresql://... {UPGRADE_COMMAND}, with host and port of PostgreSQL itself",
        )


def _make_indexes(connection: Connection) -> None:
    """Create the indexes that the tables lack. An interrupted attempt has left an invalid index, which is dropped first."""
    invalid = "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE NOT i.indisvalid"
    for name in connection.scalars(text(invalid)).all():
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
    found = inspect(connection)
    for table in (table for table in TABLES if found.has_table(table.name)):
        columns = {column["name"] for column in found.get_columns(table.name)}
        existing = {index["name"] for index in found.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in existing and {column.name for column in index.columns} <= columns:
                statement = str(CreateIndex(index, if_not_exists=True).compile(dialect=connection.dialect))
                connection.execute(text(statement.replace("INDEX", "INDEX CONCURRENTLY", 1)))


def _refuse_newer(url: URL, found: str | None) -> None:
    if found is not None and found not in revisions():
        raise SchemaMismatch(
            f"catalog {redacted_url(url)} has schema {found}, newer than this release's {head()}",
            hint="install the release that made it, or a newer one",
        )


def _read_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(ALEMBIC_TABLE):
        return None
    revision: str | None = connection.scalar(text(f"SELECT version_num FROM {ALEMBIC_TABLE}"))
    return revision


def _run_migrations(connection: Connection) -> None:
    """Migrate the tables. Views depend on tables: they are dropped first and created last."""
    for name in reversed(VIEWS):
        connection.execute(text(f"DROP VIEW IF EXISTS {name}"))
    from alembic import command

    config = _build_alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    for name, query in VIEWS.items():
        connection.execute(text(f"CREATE VIEW {name} AS {query}"))
    if connection.dialect.name == "sqlite":  # whose foreign keys are unchecked during a migration
        orphans = connection.execute(text("PRAGMA foreign_key_check")).all()
        if orphans:
            raise SchemaMismatch(
                f"the upgrade would leave {len(orphans)} rows without the row that they belong to; nothing was changed",
                hint="keep a copy of the database and report this",
            )


def _renew_views(connection: Connection) -> None:
    """Create the views again over unchanged tables. On PostgreSQL a view is replaced in place: other views may depend on it."""
    for name, query in VIEWS.items():
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"CREATE OR REPLACE VIEW {name} AS {query}"))
        else:
            connection.execute(text(f"DROP VIEW IF EXISTS {name}"))
            connection.execute(text(f"CREATE VIEW {name} AS {query}"))


def _grant_to_readers(connection: Connection) -> None:
    """Grant the views, which lose their grants when created again, to the role of deploy/postgres/read-only-role.sql."""
    if connection.dialect.name != "postgresql":
        return
    if connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": READERS_ROLE}):
        connection.execute(text(f"GRANT SELECT ON {', '.join(VIEWS)} TO {READERS_ROLE}"))


def _has_database(url: URL) -> bool:
    """Return whether there is a database to connect to: to connect to a missing SQLite file would create it."""
    try:
        return url.get_backend_name() != "sqlite" or Path(str(url.database)).exists()
    except OSError as error:
        raise _build_access_error(url, error) from error


def _make_folder(url: URL) -> None:
    if url.get_backend_name() != "sqlite":
        return
    try:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _build_access_error(url, error) from error


def _build_access_error(url: URL, error: OSError) -> OutOfResources:
    return OutOfResources(
        f"the catalog {redacted_url(url)} cannot be used now: {error.strerror}",
        hint=CHECK_PERMISSIONS,
    )


@contextmanager
def _open_connection(url: URL, *, writes: bool, **options: Any) -> Iterator[Connection]:
    engine = open_engine(url, busy_timeout_seconds=30, check_foreign_keys=not writes)
    try:
        with engine.connect().execution_options(writes=writes, **options) as connection, connection.begin():
            yield connection
    except SQLAlchemyError as error:
        if error_code(error) == DEPENDENT_OBJECTS_STILL_EXIST or driver_message(error).startswith(BROKEN_VIEW):
            raise SchemaMismatch(
                f"views of your own stand on radclipd's: {driver_message(error)}", hint="drop them, upgrade, and make them again"
            ) from error
        if is_transient(error):
            raise catalog_unavailable(url, error) from error
        raise SchemaMismatch(
            f"the catalog {redacted_url(url)} refuses: {driver_message(error)}", hint=find_remedy(error)
        ) from error
    finally:
        engine.dispose()
