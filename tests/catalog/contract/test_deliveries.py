"""Deliveries on the fake and on both databases: each state, who is asked for, what is sent again, what is given up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from adapters.catalog.catalog import SqlCatalog
from pipeline import deliveries
from pipeline.deliveries import MAX_SENDINGS, DeliveryPolicy, Verification
from pipeline.domain import DeliveryState, JobKind, ReportState, VisibleKind, VisibleObject
from pipeline.errors import ArchiveUnreachable, RefusedByArchive
from pipeline.ports.services import Catalog, CircuitPolicy
from tests.builders.catalog_rows import FILE, add_instance, chest_header, pending_report
from tests.builders.fakes.deliveries import FakeProvingArchive
from tests.builders.fakes.versions import a_version
from tests.builders.sql import rows

SENT, COMMITTED, VERIFIED = DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.VERIFIED
POLICY = DeliveryPolicy(settle_seconds=0, verify_seconds=0.2, check_seconds=0, circuit=CircuitPolicy(threshold=1, open_seconds=60))
COMMITTING = replace(POLICY, with_commitment=True)
PassTime = Callable[[float], None]


@dataclass
class Line:
    """A catalog with two studies, and the archive that their reports go to."""

    catalog: Catalog
    archive: FakeProvingArchive = field(default_factory=FakeProvingArchive)

    def send(self, study: str, revision: int = 1) -> str:
        """Send a report, as the step does; the archive holds it. Return its UID."""
        report = replace(pending_report(f"{study}.{revision}00", revision=revision), study_instance_uid=study)
        with self.catalog.begin() as tx:
            tx.reports.ensure_pending(report)
            tx.reports.mark_built(report.sop_instance_uid, FILE)
            tx.reports.mark_sent(report.sop_instance_uid, "0x0000")
            tx.deliveries.mark_sent(report, self.archive.name, "0x0000")
        self.archive.held.add(report.sop_instance_uid)
        self.archive.studies.add(study)
        return report.sop_instance_uid

    def states(self) -> dict[str, tuple[DeliveryState, int]]:
        """Return state and number of sendings of those that have arrived."""
        with self.catalog.read() as tx:
            found = tx.deliveries.arrived(self.archive.name, max_age_days=1, after=0, limit=100)
        return {one.sop_instance_uid: (one.state, one.sendings) for one in found}

    def jobs(self) -> list[str]:
        with self.catalog.begin() as tx:
            claimed = tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=60, limit=20)
            for job in claimed:
                tx.jobs.finish(job)
            return sorted(job.subject for job in claimed)

    def verify(self, policy: DeliveryPolicy = POLICY) -> Verification:
        return deliveries.verify_deliveries(catalog=self.catalog, archive=self.archive, policy=policy)

    def reconcile(self) -> Verification:
        return deliveries.reconcile_deliveries(catalog=self.catalog, archive=self.archive, policy=POLICY)

    def request(self) -> int:
        return deliveries.request_commitments(catalog=self.catalog, archive=self.archive, policy=COMMITTING)


@pytest.fixture
def line(catalog: Catalog) -> Line:
    with catalog.begin() as tx:
        tx.versions.add(a_version())
    for study in ("1.1", "1.2"):
        add_instance(catalog, chest_header(study, f"{study}.1"))
    return Line(catalog)


def test_what_the_archive_holds_is_verified_and_not_asked_for_again(line: Line) -> None:
    first, second = line.send("1.1"), line.send("1.2")
    assert line.states() == {first: (SENT, 1), second: (SENT, 1)}
    assert line.verify() == Verification(asked=2, found=2)
    assert line.states() == {first: (VERIFIED, 0), second: (VERIFIED, 0)}
    assert line.verify() == Verification()
    assert len(line.archive.queries) == 1
    assert line.jobs() == []


def test_what_is_missing_gets_time_and_is_then_sent_again(line: Line, pass_time: PassTime) -> None:
    lost, held = line.send("1.1"), line.send("1.2")
    line.archive.held.remove(lost)
    assert line.verify() == Verification(asked=2, found=1)
    assert line.states() == {lost: (SENT, 1), held: (VERIFIED, 0)}
    assert line.verify(replace(POLICY, check_seconds=60)) == Verification()  # it was asked for just now
    pass_time(0.3)
    assert line.verify() == Verification(asked=1, found=0, sent_again=1)
    assert lost not in line.states()  # it waits
    assert line.jobs() == [lost]
    assert line.send("1.1") == lost
    assert line.states()[lost] == (SENT, 2)


def test_an_object_that_never_stays_is_given_up_and_tried_anew_by_a_person(line: Line, pass_time: PassTime) -> None:
    for _ in range(MAX_SENDINGS):
        lost = line.send("1.1")
        line.archive.held.clear()
        pass_time(0.3)
        result = line.verify()
    assert result == Verification(asked=1, given_up=1)
    assert line.states() == {}
    line.jobs()
    assert line.verify() == line.reconcile() == Verification()
    assert line.send("1.1") == lost  # radclipd reports resend
    assert line.states() == {lost: (SENT, 1)}


@pytest.mark.parametrize("error", [ArchiveUnreachable("away"), RefusedByArchive("no such query")])
def test_an_archive_that_gives_no_answer_loses_nothing(line: Line, pass_time: PassTime, error: Exception) -> None:
    sent = line.send("1.1")
    pass_time(0.3)
    line.archive.query_errors = [error]
    assert line.verify() == Verification(is_refused=isinstance(error, RefusedByArchive))
    assert line.states() == {sent: (SENT, 1)}
    line.archive.held.clear()
    if isinstance(error, ArchiveUnreachable):  # the circuit is open
        assert line.verify() == Verification()
        assert len(line.archive.queries) == 1
    assert line.jobs() == []


def test_a_reconciliation_finds_what_the_archive_has_lost_since(line: Line) -> None:
    lost, held = line.send("1.1"), line.send("1.2")
    line.verify()
    line.archive.held.remove(lost)
    assert line.reconcile() == Verification(asked=2, found=1, sent_again=1)
    assert line.jobs() == [lost]
    assert line.states() == {held: (VERIFIED, 0)}


def test_a_reconciliation_leaves_removed_studies_and_superseded_reports_alone(line: Line) -> None:
    superseded, newest, removed = line.send("1.1", 1), line.send("1.1", 2), line.send("1.2")
    line.verify()
    line.archive.held = {newest}
    line.archive.studies.remove("1.2")
    assert line.reconcile() == Verification(asked=2, found=1)
    assert line.jobs() == []
    assert superseded not in line.states()
    assert line.states()[removed] == (VERIFIED, 0)


@pytest.mark.parametrize("error", [ArchiveUnreachable("away"), RefusedByArchive("no such query")])
def test_a_reconciliation_that_gets_no_answer_sends_nothing(line: Line, error: Exception) -> None:
    sent = line.send("1.1")
    line.archive.held.clear()
    line.archive.query_errors = [error]
    assert line.reconcile() == Verification(is_refused=isinstance(error, RefusedByArchive))
    assert line.jobs() == []
    assert line.states() == {sent: (SENT, 1)}


def test_a_reconciliation_goes_through_the_archive_page_by_page(line: Line) -> None:
    sent = {line.send("1.1"), line.send("1.2")}
    policy = replace(POLICY, batch_size=1)
    result = deliveries.reconcile_deliveries(catalog=line.catalog, archive=line.archive, policy=policy)
    assert result == Verification(asked=2, found=2)
    assert [len(query) for query in line.archive.queries] == [1, 1]
    assert {uid for (uid,) in line.archive.queries} == sent


def test_reports_that_were_sent_before_deliveries_were_recorded_are_adopted(line: Line) -> None:
    report = replace(pending_report("1.1.100"), study_instance_uid="1.1")
    text = VisibleObject(
        sop_instance_uid="1.1.101", series_instance_uid="1.1.9", report="1.1.100", kind=VisibleKind.TEXT, state=ReportState.PENDING
    )
    with line.catalog.begin() as tx:
        tx.reports.ensure_pending(report)
        tx.reports.ensure_visible(text)
        for uid in ("1.1.100", "1.1.101"):
            tx.reports.mark_built(uid, FILE)
            tx.reports.mark_sent(uid, "0x0000")
    line.archive.held, line.archive.studies = {"1.1.100"}, {"1.1"}
    assert line.reconcile() == Verification(asked=2, found=1, sent_again=1)
    assert line.jobs() == ["1.1.101"]
    assert line.reconcile() == Verification(asked=1, found=1)


def test_a_commitment_that_comes_at_once_or_later_is_recorded_once(line: Line) -> None:
    first = line.send("1.1")
    line.archive.result = {first: ""}
    assert line.request() == 1
    assert line.states() == {first: (COMMITTED, 0)}
    second = line.send("1.2")
    line.archive.result = None
    assert line.request() == 1
    assert line.request() == 0  # it is under way
    transaction = next(uid for uid, asked in line.archive.requests.items() if asked == [second])
    assert not deliveries.record_commitment("2.25.7", {second: ""}, catalog=line.catalog)
    for _ in range(2):
        assert deliveries.record_commitment(transaction, {second: ""}, catalog=line.catalog)
    assert line.states() == {first: (COMMITTED, 0), second: (COMMITTED, 0)}
    assert line.verify(COMMITTING) == Verification()


def test_a_commitment_that_fails_sends_the_object_again(line: Line) -> None:
    lost = line.send("1.1")
    line.archive.result = {lost: "0x0112: no such object"}
    line.request()
    assert line.states() == {}
    assert line.jobs() == [lost]


@pytest.mark.parametrize("error", [None, RefusedByArchive("no such service")])
def test_a_commitment_that_does_not_come_in_time_is_replaced_by_a_query(
    line: Line, pass_time: PassTime, error: Exception | None
) -> None:
    sent = line.send("1.1")
    line.archive.query_errors = [error] if error else []
    line.request()
    assert line.verify(COMMITTING) == Verification()
    pass_time(0.3)
    assert line.verify(COMMITTING) == Verification(asked=1, found=1)
    assert line.states() == {sent: (VERIFIED, 0)}


def test_an_archive_that_was_away_is_asked_for_the_commitment_again(line: Line) -> None:
    sent = line.send("1.1")
    line.archive.query_errors = [ArchiveUnreachable("away")]
    open_for_a_moment = replace(COMMITTING, circuit=CircuitPolicy(threshold=9, open_seconds=60))
    for _ in range(2):
        deliveries.request_commitments(catalog=line.catalog, archive=line.archive, policy=open_for_a_moment)
    assert list(line.archive.requests.values()) == [[sent]]


def test_a_refusal_and_a_loss_stand_in_the_view_and_in_the_audit_table(sql_catalog: SqlCatalog, catalog_url: str) -> None:
    with sql_catalog.begin() as tx:
        tx.versions.add(a_version())
    for study in ("1.1", "1.2"):
        add_instance(sql_catalog, chest_header(study, f"{study}.1"))
    line = Line(sql_catalog)
    lost = line.send("1.1")
    report = replace(pending_report("1.2.100"), study_instance_uid="1.2")
    with line.catalog.begin() as tx:
        tx.reports.ensure_pending(report)
        tx.deliveries.ensure_waiting(report, line.archive.name)
        tx.deliveries.mark_refused(report, line.archive.name, "0xA900")
    line.archive.held.clear()
    time.sleep(0.3)
    line.verify()
    query = "SELECT sop_instance_uid, destination, state, status, sendings FROM v_deliveries ORDER BY 1"
    assert rows(catalog_url, query) == [
        (lost, "FAKE", "waiting", "the archive has accepted it and does not hold it", 1),
        ("1.2.100", "FAKE", "refused", "0xA900", 0),
    ]
    assert rows(catalog_url, "SELECT action, outcome, subject FROM v_audit") == [("deliver", "failed", lost)]
