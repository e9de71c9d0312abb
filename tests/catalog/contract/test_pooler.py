"""The catalog behind pgbouncer in transaction mode: no transaction depends on the connection of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from adapters.catalog import query, schema
from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.engine import POOLED, database_url, open_engine
from pipeline.domain import JobKind
from pipeline.errors import OutOfResources, PermanentError, SchemaMismatch
from tests.builders import sql
from tests.builders.catalog_rows import add_instance, chest_header
from tests.builders.pgbouncer import pgbouncer
from tests.builders.postgres import Cluster

pytestmark = pytest.mark.postgres


@pytest.fixture(params=["", "ignore_startup_parameters = extra_float_digits,options", "server_reset_query_always = 1"])
def pooled_url(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    database = database_url(cluster.upgraded()).database or ""
    with pgbouncer(cluster, database, more=request.param) as url:
        yield url


@pytest.fixture
def pooled_catalog(pooled_url: str) -> Iterator[SqlCatalog]:
    catalog = SqlCatalog.open(pooled_url, busy_timeout_seconds=10, wake=lambda _kinds: None)
    yield catalog
    catalog.dispose()


def test_more_workers_than_server_connections_work_for_a_long_time(pooled_catalog: SqlCatalog) -> None:
    """Each statement runs often enough to be prepared, on whichever of two server connections is free."""

    def work(worker: int) -> int:
        for turn in range(30):
            uid = f"1.{worker}.{turn}"
            add_instance(pooled_catalog, chest_header(uid, f"{uid}.1"))
            with pooled_catalog.begin() as tx:
                tx.jobs.put(JobKind.SCORE, uid)
            with pooled_catalog.begin() as tx:
                jobs = tx.jobs.claim([JobKind.SCORE], worker=str(worker), lease_seconds=60)
            with pooled_catalog.begin() as tx:
                tx.jobs.finish(*jobs)
            with pooled_catalog.read() as tx:
                assert tx.studies.find_instance(f"{uid}.1")
        return 30

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) == 240
    pooled_catalog.probe_write()


def test_a_pooler_is_recognised_and_a_direct_connection_is_none(pooled_url: str, cluster: Cluster) -> None:
    for url, expected in ((pooled_url, True), (cluster.upgraded(), False)):
        engine = open_engine(database_url(url), busy_timeout_seconds=5)
        with engine.connect() as connection:
            assert connection.info[POOLED] is expected
            shown = [connection.scalar(text(f"SHOW {name}")) for name in ("timezone", "lock_timeout", "jit")]
            assert shown == ["UTC", "5s", "off"]
        engine.dispose()


def test_settings_of_a_transaction_do_not_stay_with_the_server(pooled_url: str, pooled_catalog: SqlCatalog) -> None:
    with pooled_catalog.begin() as tx:
        tx.jobs.count_by_state()
    query.run(pooled_url, "SELECT 1")

    def read(connection: object) -> object:
        return connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar()  # type: ignore[attr-defined]

    assert sql.on(pooled_url, read) == 0


WRITES = (
    "DELETE FROM jobs",
    "SELECT 1; DELETE FROM jobs",
    "SELECT 1; COMMIT; DELETE FROM jobs; COMMIT",
    "SELECT 1; COMMIT; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; DELETE FROM jobs",
    "WITH gone AS (DELETE FROM jobs RETURNING id) SELECT * FROM gone",
    "SELECT nextval('jobs_id_seq')",
    "SELECT pg_advisory_lock(7270411)",
    "SELECT set_config('x.y', 'z', false)",
    "SELECT pg_sleep(9)",
)


def test_a_query_only_reads_behind_a_pooler(pooled_url: str, pooled_catalog: SqlCatalog) -> None:
    with pooled_catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.2")
    for statement in WRITES:
        with pytest.raises(PermanentError):
            query.run(pooled_url, statement)
    with pooled_catalog.read() as tx:
        assert sum(tx.jobs.count_by_state().values()) == 1


def test_a_query_gives_the_same_rows_as_without_a_pooler(pooled_url: str, cluster: Cluster, pooled_catalog: SqlCatalog) -> None:
    add_instance(pooled_catalog, chest_header())
    direct = cluster.url(database_url(pooled_url).database or "")
    for statement in (
        "SELECT * FROM v_studies",
        "SELECT * FROM v_instances",
        "SELECT 1, 1.5, 1.25::numeric, true, NULL, 'x', now() > '2000-01-01', '{\"a\": 1}'::jsonb, date '2026-01-01'",
        "SELECT 100 % 99, '%s'",
    ):
        assert query.run(pooled_url, statement) == query.run(direct, statement)
    assert query.run(pooled_url, "EXPLAIN SELECT * FROM v_jobs")[1]


def test_a_new_database_is_upgraded_through_a_pooler_and_an_old_one_is_refused_with_the_remedy(cluster: Cluster) -> None:
    database = cluster.database()
    with pgbouncer(cluster, database) as url:
        schema.upgrade(url)
        schema.upgrade(url)
        schema.verify(url)
        before = schema.revisions()[-2]
        sql.execute(cluster.url(database), f"UPDATE alembic_version SET version_num = '{before}'")
        with pytest.raises(SchemaMismatch, match="pooler") as refused:
            schema.upgrade(url)
        assert "radclipd db upgrade" in refused.value.hint


def test_a_pooler_whose_database_is_gone_leaves_the_catalog_unavailable(cluster: Cluster) -> None:
    with pgbouncer(cluster, "no_such_database") as url, pytest.raises(OutOfResources):
        schema.verify(url)
