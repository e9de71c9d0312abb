"""The schema of every release, as SQL with a few rows: the start of an upgrade.

A release adds its two files, `<version>.sqlite.sql` and `<version>.postgresql.sql`:
`python -m tests.builders.schema_releases 0.2.0`. Files of earlier releases never change.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from packaging.version import Version

from adapters.catalog.engine import database_url
from tests.builders.postgres import Cluster

FOLDER = Path(__file__).parent
RELEASES = sorted({path.name.removesuffix(".sql").rpartition(".")[0] for path in FOLDER.glob("*.sql")}, key=Version)
"""In order; 0.2.0.dev6 and 0.2.0.dev7 are states of 0.2.0 before its release, with schemas 0006 and 0007."""
ROWS = """
INSERT INTO labels (study, finding, state, reader, source, selection_reason, selection_probability)
VALUES (1, 'Mass', 'present', 'reader-1', 'csv', 'random', 0.5);
INSERT INTO labels (study, finding, reader, source, revokes) VALUES (1, 'Mass', 'reader-1', 'csv', 1);
INSERT INTO requests (study, selection_reason, reason, selection_probability, version) VALUES (1, 'coverage', 'why', 0.25, 1);
INSERT INTO backfills (source) VALUES ('folder /films');
INSERT INTO backfill_units (backfill, key, mark, state, instances, duplicates, refused, bytes)
VALUES (1, 'unit-1', 'mark-1', 'done', 3, 1, 0, 700);
INSERT INTO jobs (kind, subject, payload) VALUES ('send', '2.25.1', '{}');
INSERT INTO circuits (destination, failures) VALUES ('PACS', 2);
INSERT INTO audit_events (action, outcome, subject, detail, source) VALUES ('store', 'refused', '1.9', 'why', 'PACS');
"""
"""Rows that `add_reported_study` does not write: labels, a request, a backfill, and what waits."""


def path_of(release: str, engine: str) -> Path:
    """Return the file of one release."""
    return FOLDER / f"{release}.{engine}.sql"


def load_sqlite(url: str, sql: str) -> None:
    """Run SQL on a SQLite database."""
    with closing(sqlite3.connect(str(database_url(url).database))) as connection:
        connection.executescript(sql)


def dump_sqlite(url: str) -> str:
    """Return a SQLite database as SQL."""
    with closing(sqlite3.connect(str(database_url(url).database))) as connection:
        return "\n".join(connection.iterdump()) + "\n"


def dump_postgresql(cluster: Cluster, database: str, *options: str) -> str:
    """Return a PostgreSQL database as SQL that any version's psql reads."""
    dump = cluster.run(
        *("pg_dump", "-h", str(cluster.folder), "-U", "postgres", "--inserts", "--no-owner", "--no-privileges", *options, database)
    )
    lines = [
        line for line in dump.splitlines() if line and not line.startswith(("--", "\\", "SET ", "SELECT pg_catalog.set_config"))
    ]
    return re.sub(r"\n{2,}", "\n", "\n".join(lines)) + "\n"
