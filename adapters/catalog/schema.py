"""The schema's version: bring a database to it, ask for it, refuse to run on another."""

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
from adapters.catalog.engine import database_url, open_engine
from adapters.catalog.errors import away, code_of, described, is_passing, reason, remedy
from adapters.catalog.tables import TABLES
from adapters.catalog.views import VIEWS
from pipeline.errors import OutOfResources, SchemaMismatch

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

SCRIPTS = Path(migrations.__file__).parent
UPGRADE = "radclipd db upgrade"
ALEMBIC = "alembic_version"
"""The table in which Alembic keeps the revision."""
READERS = "radclipd_readers"
"""The group role that may read the views and nothing else."""
LOCK = 7_270_411
"""Key of the PostgreSQL advisory lock that keeps two upgrades apart."""
LOCK_SECONDS = 0.2
"""Between two looks at that lock. Who waits for it in a statement would hold up the making of an index, and wait for that."""
DEPENDED_UPON = "2BP01"
"""SQLSTATE dependent_objects_still_exist."""


def _config() -> Config:
    from alembic.config import Config  # only who upgrades needs Alembic, and everybody looks at the revision

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


@cache
def revisions() -> tuple[str, ...]:
    """Return the revisions that this release knows, in order: the names of the scripts begin with them."""
    return tuple(sorted(script.name.partition("_")[0] for script in (SCRIPTS / "versions").glob("[0-9]*.py")))


def head() -> str:
    """Return the revision that this release works on."""
    return revisions()[-1]


def current(url: str) -> str | None:
    """Return the database's revision; None where there is no schema. OutOfResources where it cannot be reached."""
    parsed = database_url(url)
    if not _is_there(parsed):
        return None
    with _connect(parsed, writes=False) as connection:
        return _revision(connection)


def upgrade(url: str) -> None:
    """Bring the database to this release's schema, wholly or not at all. Safe to repeat and to run twice at once.

    On PostgreSQL indexes are made first, and what migrations do BEFOREHAND, while others read and write; that is all that a failed
    upgrade may leave behind. On SQLite others read meanwhile, and who writes waits.

    OutOfResources where it cannot be reached, SchemaMismatch where it is newer than this release or cannot be changed.
    """
    parsed = database_url(url)
    _make_folder(parsed)
    if parsed.get_backend_name() == "postgresql":
        with _connect(parsed, writes=True, isolation_level="AUTOCOMMIT") as connection:
            _go_ahead(connection)
    with _connect(parsed, writes=True) as connection:
        if connection.dialect.name == "postgresql":
            _wait_for(connection, "pg_try_advisory_xact_lock")
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))  # readers go on; the upgrade gives up instead
        found = _revision(connection)
        _refuse_newer(parsed, found)
        if found == head():
            _renew_views(connection)
        else:
            _migrate(connection)
        _grant_to_readers(connection)


def verify(url: str) -> None:
    """SchemaMismatch where the database's schema is not this release's."""
    parsed, found, wanted = database_url(url), current(url), head()
    if found == wanted:
        return
    _refuse_newer(parsed, found)
    if found is None:
        raise SchemaMismatch(f"catalog {described(parsed)} has no schema yet", hint=UPGRADE)
    raise SchemaMismatch(f"catalog {described(parsed)} has schema {found}, this release needs {wanted}", hint=UPGRADE)


def _wait_for(connection: Connection, lock: str) -> None:
    while not connection.scalar(text(f"SELECT {lock}(:key)"), {"key": LOCK}):
        sleep(LOCK_SECONDS)


def _go_ahead(connection: Connection) -> None:
    """Do what takes long and nobody waits for, outside a transaction. The lock goes with the connection."""
    _wait_for(connection, "pg_try_advisory_lock")
    connection.execute(text("SET lock_timeout = 0"))  # it waits for whoever reads, a backup too, and nobody waits for it
    found, scripts = _revision(connection), _scripts()
    if found in (None, head()) or found not in revisions():
        return
    _make_indexes(connection)
    for script in reversed(list(scripts.iterate_revisions(head(), found))):
        for statement in getattr(script.module, "BEFOREHAND", ()):
            connection.execute(text(statement))


def _make_indexes(connection: Connection) -> None:
    """Make what indexes the tables of a catalog lack. An attempt broken off left one that is not valid."""
    invalid = "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE NOT i.indisvalid"
    for name in connection.scalars(text(invalid)).all():
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
    found = inspect(connection)
    for table in (table for table in TABLES if found.has_table(table.name)):
        columns = {column["name"] for column in found.get_columns(table.name)}
        there = {index["name"] for index in found.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in there and {column.name for column in index.columns} <= columns:
                made = str(CreateIndex(index, if_not_exists=True).compile(dialect=connection.dialect))
                connection.execute(text(made.replace("INDEX", "INDEX CONCURRENTLY", 1)))


def _refuse_newer(url: URL, found: str | None) -> None:
    if found is not None and found not in revisions():
        raise SchemaMismatch(
            f"catalog {described(url)} has schema {found}, newer than this release's {head()}",
            hint="install the release that made it, or a newer one",
        )


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(ALEMBIC):
        return None
    revision: str | None = connection.scalar(text(f"SELECT version_num FROM {ALEMBIC}"))
    return revision


def _migrate(connection: Connection) -> None:
    """Views stand on tables, so they go first and come back last."""
    for name in reversed(VIEWS):
        connection.execute(text(f"DROP VIEW IF EXISTS {name}"))
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    for name, query in VIEWS.items():
        connection.execute(text(f"CREATE VIEW {name} AS {query}"))
    if connection.dialect.name == "sqlite":  # which does not look while tables are moved about
        orphans = connection.execute(text("PRAGMA foreign_key_check")).all()
        if orphans:
            raise SchemaMismatch(
                f"the upgrade would leave {len(orphans)} rows without the row that they belong to; nothing was changed",
                hint="keep a copy of the database and report this",
            )


def _renew_views(connection: Connection) -> None:
    """The tables are as they should be. On PostgreSQL a view that others stand on is replaced where it stands."""
    for name, query in VIEWS.items():
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"CREATE OR REPLACE VIEW {name} AS {query}"))
        else:
            connection.execute(text(f"DROP VIEW IF EXISTS {name}"))
            connection.execute(text(f"CREATE VIEW {name} AS {query}"))


def _grant_to_readers(connection: Connection) -> None:
    """A view made anew has lost its grants: give them back to the role of deploy/postgres/read-only-role.sql."""
    if connection.dialect.name != "postgresql":
        return
    if connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": READERS}):
        connection.execute(text(f"GRANT SELECT ON {', '.join(VIEWS)} TO {READERS}"))


def _is_there(url: URL) -> bool:
    """PostgreSQL answers for itself; SQLite would make an empty file."""
    try:
        return url.get_backend_name() != "sqlite" or Path(str(url.database)).exists()
    except OSError as error:
        raise _no_access(url, error) from error


def _make_folder(url: URL) -> None:
    if url.get_backend_name() != "sqlite":
        return
    try:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_access(url, error) from error


def _no_access(url: URL, error: OSError) -> OutOfResources:
    return OutOfResources(
        f"the catalog {described(url)} cannot be used now: {error.strerror}",
        hint="run it as the user that the catalog belongs to, and look at the folder's permissions",
    )


@contextmanager
def _connect(url: URL, *, writes: bool, **options: Any) -> Iterator[Connection]:
    engine = open_engine(url, busy_timeout_seconds=30, check_foreign_keys=not writes)
    try:
        with engine.connect().execution_options(writes=writes, **options) as connection, connection.begin():
            yield connection
    except SQLAlchemyError as error:
        if code_of(error) == DEPENDED_UPON:
            raise SchemaMismatch(
                f"views of your own stand on radclipd's: {reason(error)}", hint="drop them, upgrade, and make them again"
            ) from error
        if is_passing(error):
            raise away(url, error) from error
        raise SchemaMismatch(f"the catalog {described(url)} refuses: {reason(error)}", hint=remedy(error)) from error
    finally:
        engine.dispose()
