"""The clock was ahead, and is set right: nothing that was stored meanwhile waits until the clock catches up. Both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, ColumnElement, update

from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.sql_time import now, seconds_from_now
from adapters.catalog.tables import circuits, jobs, studies
from pipeline import work
from pipeline.domain import Job, JobKind, StudyState
from tests.builders import sql
from tests.builders.catalog_rows import add_instance, chest_header

YEAR = 365 * 86400
POLICY = work.WorkPolicy(lease_seconds=60, retry_cap_seconds=600)
AHEAD = pytest.mark.parametrize("ahead", [900, 3600, 86400, 10 * YEAR])


def write(url: str, column: Column[Any], value: ColumnElement[Any]) -> None:
    sql.on(url, lambda connection: connection.execute(update(column.table).values({column: value})))


def put_and_claim(catalog: SqlCatalog) -> Job:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.1")
    (job,) = claim(catalog)
    return job


def claim(catalog: SqlCatalog) -> list[Job]:
    with catalog.begin() as tx:
        return tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=POLICY.lease_seconds)


def follow(catalog: SqlCatalog) -> int:
    return work.follow_clock(catalog=catalog, policy=POLICY, max_open_seconds=120)


@AHEAD
def test_a_job_that_was_leased_in_the_future_is_claimed_again(ahead: float, sql_catalog: SqlCatalog, catalog_url: str) -> None:
    put_and_claim(sql_catalog)
    write(catalog_url, jobs.c.lease_until, seconds_from_now(ahead + POLICY.lease_seconds))
    assert [job.attempts for job in claim(sql_catalog)] == [2]


@pytest.mark.parametrize("factor", [0.1, 1, 2.9])
def test_a_lease_within_its_longest_time_is_respected(factor: float, sql_catalog: SqlCatalog, catalog_url: str) -> None:
    put_and_claim(sql_catalog)
    write(catalog_url, jobs.c.lease_until, seconds_from_now(factor * POLICY.lease_seconds))
    assert claim(sql_catalog) == []


@AHEAD
def test_a_job_that_was_enqueued_in_the_future_is_due(ahead: float, sql_catalog: SqlCatalog, catalog_url: str) -> None:
    with sql_catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.1")
    write(catalog_url, jobs.c.run_at, seconds_from_now(ahead))
    write(catalog_url, jobs.c.created_at, seconds_from_now(ahead))
    assert claim(sql_catalog) == []
    assert follow(sql_catalog) == 1
    assert len(claim(sql_catalog)) == 1


@AHEAD
def test_a_back_off_that_was_set_in_the_future_ends(ahead: float, sql_catalog: SqlCatalog, catalog_url: str) -> None:
    job = put_and_claim(sql_catalog)
    with sql_catalog.begin() as tx:
        tx.jobs.retry(job, error="busy", delay_seconds=30)
    write(catalog_url, jobs.c.run_at, seconds_from_now(ahead))
    follow(sql_catalog)
    assert len(claim(sql_catalog)) == 1


def test_a_back_off_that_was_set_now_goes_on(sql_catalog: SqlCatalog) -> None:
    job = put_and_claim(sql_catalog)
    with sql_catalog.begin() as tx:
        tx.jobs.retry(job, error="busy", delay_seconds=POLICY.retry_cap_seconds)
    assert follow(sql_catalog) == 0
    assert claim(sql_catalog) == []


@AHEAD
def test_a_study_that_arrived_in_the_future_has_arrived_now(ahead: float, sql_catalog: SqlCatalog, catalog_url: str) -> None:
    add_instance(sql_catalog, chest_header())
    write(catalog_url, studies.c.last_received_at, seconds_from_now(ahead))
    assert follow(sql_catalog) == 1
    with sql_catalog.read() as tx:
        assert tx.studies.stable_studies(seconds=0, released=False, limit=9) == ["1.1"]
        assert tx.studies.stable_studies(seconds=60, released=False, limit=9) == [], "its quiet time begins now"


def test_a_study_that_was_settled_keeps_its_time(sql_catalog: SqlCatalog, catalog_url: str) -> None:
    add_instance(sql_catalog, chest_header())
    with sql_catalog.begin() as tx:
        tx.studies.put_state("1.1", StudyState.REPORTED)
    write(catalog_url, studies.c.last_received_at, seconds_from_now(YEAR))
    assert follow(sql_catalog) == 0


@AHEAD
def test_a_circuit_that_was_opened_in_the_future_is_half_open(ahead: float, sql_catalog: SqlCatalog, catalog_url: str) -> None:
    with sql_catalog.begin() as tx:
        tx.circuits.record_failure("PACS", threshold=1, open_seconds=30)
    assert follow(sql_catalog) == 0
    write(catalog_url, circuits.c.open_until, seconds_from_now(ahead))
    assert follow(sql_catalog) == 1
    with sql_catalog.begin() as tx:
        assert tx.circuits.admit("PACS", probe_seconds=30)


def test_a_right_clock_changes_nothing(sql_catalog: SqlCatalog, catalog_url: str) -> None:
    add_instance(sql_catalog, chest_header())
    put_and_claim(sql_catalog)
    with sql_catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "2.2")
        tx.circuits.record_failure("PACS", threshold=1, open_seconds=120)
    write(catalog_url, jobs.c.created_at, now())
    assert follow(sql_catalog) == 0
