"""Write this release's two files: `python -m tests.builders.schema_releases VERSION`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from adapters.catalog import schema
from adapters.catalog.engine import database_url
from tests.builders import postgres
from tests.builders.catalog_rows import add_reported_study
from tests.builders.schema_releases import ROWS, dump_postgresql, dump_sqlite, load_sqlite, path_of


def main(release: str) -> None:
    """Make the schema, fill it and write it down, once on each database."""
    with tempfile.TemporaryDirectory() as folder, postgres.cluster() as cluster:
        url = f"sqlite:///{Path(folder) / 'catalog.db'}"
        schema.upgrade(url)
        add_reported_study(url)
        load_sqlite(url, ROWS)
        path_of(release, "sqlite").write_text(dump_sqlite(url))
        url = cluster.upgraded()
        add_reported_study(url)
        database = str(database_url(url).database)
        cluster.psql(database, "-c", ROWS)
        path_of(release, "postgresql").write_text(dump_postgresql(cluster, database))


main(sys.argv[1])
