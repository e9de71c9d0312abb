"""The audit table as a hash chain: append-only, one chain of many writers, and no change without a trace."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import pytest
from sqlalchemy.exc import DBAPIError

from adapters.catalog.catalog import SqlCatalog
from pipeline.audit_chain import ChainVerdict, link_events, verify
from pipeline.domain import AuditEvent
from pipeline.ports.audit import ChainAnchor
from tests.builders.catalog_rows import add_instance, chest_header
from tests.builders.sql import execute, rows

WRITERS, EVENTS = 3, 40


def add_events(catalog: SqlCatalog, count: int = 5) -> None:
    for number in range(count):
        with catalog.begin() as tx:
            tx.audit(AuditEvent("label", "done", f"1.{number}", f"event {number}", "alice"))


def break_guard(url: str) -> None:
    """Remove the triggers, as somebody with the rights of the table's owner can."""
    for name in ("audit_events_no_update", "audit_events_no_delete"):
        execute(url, f"DROP TRIGGER {name}" if url.startswith("sqlite") else f"DROP TRIGGER {name} ON audit_events")


def test_events_are_linked_in_order_and_the_chain_holds(sql_catalog: SqlCatalog) -> None:
    assert verify(catalog=sql_catalog) == ChainVerdict(events=0, head_sha256="0" * 64, erased=0, unlinked=0, faults=())
    add_events(sql_catalog)
    assert verify(catalog=sql_catalog).unlinked == 5
    assert link_events(catalog=sql_catalog) == 5
    assert link_events(catalog=sql_catalog) == 0
    verdict = verify(catalog=sql_catalog)
    assert (verdict.events, verdict.unlinked, verdict.holds) == (5, 0, True)
    with sql_catalog.read() as tx:
        events = tx.audit_chain.events_after(2, limit=2)
    assert [(event.position, event.event.subject) for event in events] == [(3, "1.2"), (4, "1.3")]
    add_events(sql_catalog, 1)
    link_events(catalog=sql_catalog)
    anchor = ChainAnchor(5, verdict.head_sha256)
    assert verify(catalog=sql_catalog, anchor=anchor).holds


def test_the_table_is_append_only(sql_catalog: SqlCatalog, catalog_url: str) -> None:
    add_events(sql_catalog)
    link_events(catalog=sql_catalog)
    for forbidden in (
        "DELETE FROM audit_events",
        "UPDATE audit_events SET detail = 'another'",
        "UPDATE audit_events SET source = 'bob' WHERE id = 2",
        "UPDATE audit_events SET position = 77, chain_sha256 = 'x' WHERE id = 5",
        "UPDATE audit_events SET subject = '', detail = '' WHERE id = 1",  # an erasure takes the salt too
        "REPLACE INTO audit_events (id, action, outcome, subject, detail, source) VALUES (1, 'label', 'done', '', '', '')"
        if catalog_url.startswith("sqlite")
        else "TRUNCATE audit_events",
    ):
        with pytest.raises(DBAPIError, match="append-only"):
            execute(catalog_url, forbidden)
    assert verify(catalog=sql_catalog).holds


@pytest.mark.parametrize(
    ("tampering", "position", "fault"),
    [
        ("UPDATE audit_events SET detail = 'nothing' WHERE position = 3", 3, "detail was changed"),
        ("UPDATE audit_events SET source = 'mallory' WHERE position = 2", 2, "was changed"),
        ("UPDATE audit_events SET at = (SELECT at FROM audit_events WHERE position = 1) WHERE position = 4", 4, "was changed"),
        ("DELETE FROM audit_events WHERE position = 2", 3, "events 2 to 2 are missing"),
        ("UPDATE audit_events SET subject = '', detail = '', salt = '' WHERE position = 5", 5, "no event tells"),
        ("DELETE FROM audit_events WHERE position = 5", 5, "the chain ends at 4"),
    ],
    ids=["detail", "source", "time", "deleted", "erased", "cut"],
)
def test_each_change_is_found_with_its_place(
    sql_catalog: SqlCatalog, catalog_url: str, tampering: str, position: int, fault: str
) -> None:
    add_events(sql_catalog)
    link_events(catalog=sql_catalog)
    anchor = ChainAnchor(5, verify(catalog=sql_catalog).head_sha256)
    break_guard(catalog_url)
    execute(catalog_url, tampering)
    verdict = verify(catalog=sql_catalog, anchor=anchor)
    assert verdict.faults[0].position == position
    assert fault in verdict.faults[0].fault


def test_a_chain_that_was_written_anew_differs_from_its_anchor(sql_catalog: SqlCatalog, catalog_url: str) -> None:
    add_events(sql_catalog)
    link_events(catalog=sql_catalog)
    anchor = ChainAnchor(5, verify(catalog=sql_catalog).head_sha256)
    break_guard(catalog_url)
    execute(catalog_url, "UPDATE audit_events SET position = NULL, detail = 'another' WHERE position >= 2")
    link_events(catalog=sql_catalog)
    assert verify(catalog=sql_catalog).holds
    assert "written anew" in verify(catalog=sql_catalog, anchor=anchor).faults[0].fault


def test_events_of_a_patient_share_a_pseudonym_that_names_nobody(sql_catalog: SqlCatalog, catalog_url: str) -> None:
    for instance, study, patient in (("1.1", "1", "PAT-7"), ("2.1", "2", "PAT-7"), ("3.1", "3", "PAT-8")):
        add_instance(sql_catalog, chest_header(study, instance, patient_id=patient))
    with sql_catalog.begin() as tx:
        for subject in ("1", "2.1", "3", "version 1", ""):
            tx.audit(AuditEvent("label", "done", subject, "", "alice"))
    link_events(catalog=sql_catalog)
    pseudonyms = [str(row[0]) for row in rows(catalog_url, "SELECT patient_pseudonym FROM v_audit ORDER BY position")]
    assert pseudonyms[0] == pseudonyms[1] != pseudonyms[2]
    assert [len(pseudonym) for pseudonym in pseudonyms] == [32, 32, 32, 0, 0]
    assert "PAT" not in "".join(pseudonyms)


def write_and_link(url: str, writer: int) -> None:
    catalog = SqlCatalog(url, busy_timeout_seconds=60)
    for number in range(EVENTS):
        with catalog.begin() as tx:
            tx.audit(AuditEvent("label", "done", f"{writer}.{number}", "", f"writer {writer}"))
        if number % 4 == writer:
            link_events(catalog=catalog)
    catalog.dispose()


def test_concurrent_writers_in_several_processes_keep_one_chain(catalog_url: str, sql_catalog: SqlCatalog) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_and_link, args=(catalog_url, number)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    link_events(catalog=sql_catalog)
    verdict = verify(catalog=sql_catalog)
    assert (verdict.events, verdict.unlinked, verdict.faults) == (WRITERS * EVENTS, 0, ())
    counted = "SELECT count(DISTINCT subject), count(DISTINCT position), max(position) FROM audit_events"
    assert rows(catalog_url, counted) == [(WRITERS * EVENTS,) * 3]


def test_a_transaction_that_waits_does_not_leave_a_gap(sql_catalog: SqlCatalog, fresh_url: Callable[[str], str]) -> None:
    """An event with a lower id that is committed later is linked later."""
    if sql_catalog._engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    with sql_catalog.begin() as slow:
        slow.audit(AuditEvent("label", "done", "slow", "", "alice"))
        add_events(sql_catalog, 2)
        assert link_events(catalog=sql_catalog) == 2
    assert link_events(catalog=sql_catalog) == 1
    assert verify(catalog=sql_catalog).holds
    with sql_catalog.read() as tx:
        assert [event.event.subject for event in tx.audit_chain.events_after(0, limit=9)] == ["1.0", "1.1", "slow"]


def test_a_clock_that_is_set_back_breaks_no_chain(sql_catalog: SqlCatalog, catalog_url: str) -> None:
    """The order of the chain is that of the links, not of the times."""
    for moment in ("2026-10-25 01:30:00+00:00", "2026-10-25 00:30:00+00:00", "2027-01-01 00:00:00+00:00"):
        columns = "at, action, outcome, subject, detail, source"
        execute(catalog_url, f"INSERT INTO audit_events ({columns}) VALUES ('{moment}', 'label', 'done', '', '', '')")
    add_events(sql_catalog, 1)
    link_events(catalog=sql_catalog)
    assert verify(catalog=sql_catalog).holds
    with sql_catalog.read() as tx:
        assert [event.at.year for event in tx.audit_chain.events_after(0, limit=3)] == [2026, 2026, 2027]
