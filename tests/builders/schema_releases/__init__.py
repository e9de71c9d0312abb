"""The schema of every release, as SQL with a few rows: what an upgrade starts from.

A release adds its two files, `<version>.sqlite.sql` and `<version>.postgresql.sql`:
`python -m tests.builders.schema_releases 0.2.0`. Files of earlier releases never change.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from adapters.catalog.engine import database_url
from tests.builders.postgres import Cluster

FOLDER = Path(__file__).parent
RELEASES = sorted({path.name.removesuffix(".sql").rpartition(".")[0] for path in FOLDER.glob("*.sql")})
ROWS = """
INSERT INTO labels (study, finding, state, reader, source, asked_because, selection_probability)
VALUES (1, 'Mass', 'present', 'reader-1', 'csv', 'random', 0.5);
INSERT INTO labels (study, finding, reader, source, revokes) VALUES (1, 'Mass', 'reader-1', 'csv', 1);
INSERT INTO jobs (kind, subject, payload) VALUES ('send', '2.25.1', '{}');
INSERT INTO circuits (destination, failures) VALUES ('PACS', 2);
INSERT INTO audit_events (action, outcome, subject, detail, source) VALUES ('store', 'refused', '1.9', 'why', 'PACS');
"""
"""What the fast line has not written: labels, and what waits."""


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
    told = cluster.run(
        *("pg_dump", "-h", str(cluster.folder), "-U", "postgres", "--inserts", "--no-owner", "--no-privileges", *options, database)
    )
    kept = [
        line for line in told.splitlines() if line and not line.startswith(("--", "\\", "SET ", "SELECT pg_catalog.set_config"))
    ]
    return re.sub(r"\n{2,}", "\n", "\n".join(kept)) + "\n"
