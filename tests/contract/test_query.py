"""`radclipd query`: the connection refuses to write, whatever the statement."""

from __future__ import annotations

import pytest

from adapters.catalog import query
from adapters.catalog.catalog import SqlCatalog
from pipeline.domain import JobKind
from pipeline.errors import Refused


def test_it_reads(catalog_url: str) -> None:
    catalog = SqlCatalog(catalog_url)
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.2")
    catalog.dispose()
    columns, rows = query.run(catalog_url, "SELECT kind, subject FROM v_jobs WHERE kind LIKE 's%';")
    assert (columns, rows) == (["kind", "subject"], [("score", "1.2")])


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM jobs",
        "INSERT INTO circuits (destination) VALUES ('x')",
        "DROP TABLE jobs",
        "CREATE TABLE x (y int)",
        "PRAGMA query_only = OFF",
        "SET default_transaction_read_only = off",
        "ATTACH DATABASE 'x' AS y",
        "SELECT 1; DELETE FROM jobs",
        "SELECT 1; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; DELETE FROM jobs",
        "WITH gone AS (SELECT 1) DELETE FROM jobs",
        "WITH gone AS (SELECT 1) INSERT INTO circuits (destination) SELECT 'x'",
        "EXPLAIN ANALYZE DELETE FROM jobs",
        "TABLE nothing_there",
        "",
    ],
)
def test_it_refuses_to_write(catalog_url: str, statement: str) -> None:
    catalog = SqlCatalog(catalog_url)
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.2")
    with pytest.raises(Refused):
        query.run(catalog_url, statement)
    with catalog.read() as tx:
        assert sum(tx.jobs.counts().values()) == 1
    catalog.dispose()
