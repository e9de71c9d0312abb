"""Timed maintenance of a large catalog: deletion of old rows, recounting, vacuum, and a schema upgrade.

During the upgrade other connections read and write; `waits` gives the longest wait of any of them.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from sqlalchemy import text

from adapters.catalog import query, schema
from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.engine import database_url, open_engine
from adapters.catalog.views import VIEWS
from pipeline import work
from tests.builders.large_archive import LargeArchive

OLDEST = "0002"
"""The oldest schema that can be gone back to: 0002 itself cannot be taken back."""
PAUSE_SECONDS = 0.01
"""Between two questions of one who reads on."""
LATER_DAYS = 7.0
"""So many days of jobs are forgotten: in the week that a stopped dispatcher has not looked."""


def upkeep(url: str, archive: LargeArchive) -> dict[str, Any]:
    """Return the seconds of `radclipd db maintain` and of a vacuum, and the size in bytes."""
    catalog = SqlCatalog(url)
    begun = time.perf_counter()
    forgotten = work.purge_done_jobs(catalog=catalog, keep_days=30.0 - LATER_DAYS)
    purged = time.perf_counter()
    catalog.update_statistics()
    counted = time.perf_counter()
    catalog.dispose()
    found = {
        "bytes": _bytes(url),
        "jobs_forgotten": forgotten,
        "forget_seconds": round(purged - begun, 2),
        "count_anew_seconds": round(counted - purged, 2),
    }
    return found | (_vacuum(url) if url.startswith("postgresql") else _vacuum_into(url))


def _bytes(url: str) -> int:
    if url.startswith("postgresql"):
        return int(query.run(url, "SELECT pg_database_size(current_database())")[1][0][0])
    return Path(str(database_url(url).database)).stat().st_size


def _vacuum(url: str) -> dict[str, Any]:
    """Vacuum like autovacuum, concurrently with readers and writers."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        begun = time.perf_counter()
        connection.execute("VACUUM (ANALYZE)")
    return {"vacuum_seconds": round(time.perf_counter() - begun, 2)}


def _vacuum_into(url: str) -> dict[str, Any]:
    path = Path(str(database_url(url).database))
    copy = path.with_name("copy.db")
    begun = time.perf_counter()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    seconds = time.perf_counter() - begun
    copy.unlink()
    return {"vacuum_into_seconds": round(seconds, 2)}


def upgraded(url: str, archive: LargeArchive) -> dict[str, Any]:
    """Downgrade the catalog to OLDEST and upgrade it while others read and write; return seconds and the longest waits."""
    _downgrade(url)
    with _asking(url, archive) as longest:
        begun = time.perf_counter()
        schema.upgrade(url)
        seconds = time.perf_counter() - begun
    return {"from": OLDEST, "to": schema.head(), "seconds": round(seconds, 2), "waits_ms": longest}


def _downgrade(url: str) -> None:
    engine = open_engine(database_url(url), busy_timeout_seconds=30, check_foreign_keys=False)
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        for name in reversed(VIEWS):
            connection.execute(text(f"DROP VIEW IF EXISTS {name}"))
        config = schema._build_alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, OLDEST)
        for name in ("v_studies", "v_predictions", "v_reports", "v_labels"):  # of views that schema knew, those that are asked here
            connection.execute(text(f"CREATE VIEW {name} AS {VIEWS[name]}"))
    engine.dispose()


def _questions(archive: LargeArchive) -> Mapping[str, str]:
    """Return the statements of a reader of views, a reader of tables like a worker, and a writer."""
    study = archive.study_uid(archive.studies // 2)
    return {
        "reads a view": f"SELECT * FROM v_predictions WHERE study_instance_uid = '{study}'",
        "reads labels by a view": f"SELECT * FROM v_labels WHERE study_instance_uid = '{study}'",
        "reads tables": f"SELECT * FROM studies s JOIN predictions p ON p.study = s.id WHERE s.study_instance_uid = '{study}'",
        "reads the queue": "SELECT * FROM jobs WHERE state = 'waiting' AND kind = 'score' LIMIT 1",
        "writes": f"UPDATE studies SET released = released WHERE study_instance_uid = '{study}'",
    }


@contextmanager
def _asking(url: str, archive: LargeArchive) -> Iterator[dict[str, float]]:
    """Repeat the statements while the block runs; at its end the longest wait of each is known, milliseconds."""
    over, longest = threading.Event(), dict[str, float]()
    threads = [threading.Thread(target=_ask, args=(url, name, sql, over, longest)) for name, sql in _questions(archive).items()]
    for thread in threads:
        thread.start()
    try:
        yield longest
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _ask(url: str, name: str, sql: str, over: threading.Event, longest: dict[str, float]) -> None:
    longest[name] = 0.0
    with _connected(url) as run:
        while not over.wait(PAUSE_SECONDS):
            begun = time.perf_counter()
            run(sql)
            longest[name] = max(longest[name], round(1000 * (time.perf_counter() - begun), 1))


@contextmanager
def _connected(url: str) -> Iterator[Callable[[str], object]]:
    """Open a connection with one transaction per statement; on SQLite it waits for the writer without a limit."""
    if url.startswith("postgresql"):
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            yield lambda sql: connection.execute(sql).fetchall() if sql.startswith("SELECT") else connection.execute(sql)
    else:
        with closing(sqlite3.connect(str(database_url(url).database), isolation_level=None, timeout=3600)) as lite:
            yield lambda sql: lite.execute(sql).fetchall()
