"""Backfills on fakes: queries, fetches, recorded results, and the priority behind arrivals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial

import pytest

from pipeline import priorities, rescore
from pipeline.backfill import Backfill, BackfillPolicy, Throttle
from pipeline.domain import Header, Sender, StudyState
from pipeline.errors import ArchiveUnreachable, DataSetMismatch, OutOfResources, PermanentError, RefusedByArchive, StopRequested
from pipeline.ports.backfill import BackfillObject, BackfillUnit, DateRange, FindStored, StoreObject
from pipeline.receive import ReceivePolicy
from tests.builders.fakes.versions import a_version
from tests.builders.hospital_in_memory import Hospital

JANUARY = DateRange(date(2025, 1, 1), date(2025, 1, 28))


@dataclass
class FakeArchiveSource:
    """Studies by day. Records queries and fetches; raises the errors of `errors`, the last first."""

    studies: dict[date, list[tuple[str, list[Header]]]] = field(default_factory=dict)
    queries: list[DateRange | None] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    supports_dates: bool = True
    name: str = "archive http://pacs CR,DX"
    sender: Sender = field(default_factory=lambda: Sender("PACS", "pacs", "RADCLIPD"))

    def list_units(self, days: DateRange | None) -> list[BackfillUnit]:
        self.queries.append(days)
        wanted = self.studies if days is None else [day for day in days if day in self.studies]
        return [
            BackfillUnit(key=uid, study_instance_uid=uid, change_tag=str(len(headers)))
            for day in wanted
            for uid, headers in self.studies[day]
        ]

    def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
        self.fetched.append(unit.key)
        headers = next(headers for studies in self.studies.values() for uid, headers in studies if uid == unit.key)
        stored = find_stored([header.sop_instance_uid for header in headers])
        for header in headers:
            if header.sop_instance_uid in stored:
                continue
            if self.errors:
                raise self.errors.pop()
            store_object(BackfillObject(header.sop_instance_uid, header.sop_instance_uid, partial(self._read, header)))
        return 0

    def _read(self, header: Header) -> tuple[Header, bytes]:
        self.objects.append(header.sop_instance_uid)
        return header, header.sop_instance_uid.encode()


def make_source(hospital: Hospital, days: Sequence[int], *, images: int = 2) -> FakeArchiveSource:
    source = FakeArchiveSource()
    for day in days:
        uid = f"1.{day}"
        source.studies[date(2025, 1, day)] = [(uid, [hospital.header(uid, f"{uid}.{n + 1}") for n in range(images)])]
    return source


def make_backfill(
    hospital: Hospital, source: FakeArchiveSource, watch: Callable[[str, int, int], None] = lambda *_: None, **policy: object
) -> Backfill:
    return Backfill(
        source=source,
        catalog=hospital.catalog,
        images=hospital.images,
        receive_policy=ReceivePolicy(min_free_bytes=1000),
        policy=BackfillPolicy(**policy),  # type: ignore[arg-type]  # a row of a table
        on_progress=watch,
        sleep=lambda seconds: hospital.catalog.tick(seconds),
    )


@pytest.fixture
def hospital() -> Hospital:
    return Hospital()


def test_an_archive_is_imported_by_ranges_of_days_newest_first(hospital: Hospital) -> None:
    source = make_source(hospital, [3, 10, 20, 28])
    total = make_backfill(hospital, source).run(JANUARY)
    assert [(days.first.day, days.last.day) for days in source.queries if days] == [(22, 28), (15, 21), (8, 14), (1, 7)]
    assert source.fetched == ["1.28", "1.20", "1.10", "1.3"]
    assert (total.instances, total.duplicates, total.refused) == (8, 0, 0)
    assert len(hospital.catalog.tables.instances) == len(hospital.images.files) == 8


def test_the_oldest_days_come_first_on_request(hospital: Hospital) -> None:
    source = make_source(hospital, [3, 28])
    make_backfill(hospital, source, oldest_first=True, days_per_query=14).run(JANUARY)
    assert [(days.first.day, days.last.day) for days in source.queries if days] == [(1, 14), (15, 28)]
    assert source.fetched == ["1.3", "1.28"]


def test_finished_days_are_not_queried_again_whatever_the_ranges(hospital: Hospital) -> None:
    source = make_source(hospital, [3, 28])
    make_backfill(hospital, source).run(DateRange(date(2025, 1, 1), date(2025, 1, 14)))
    source.queries.clear()
    make_backfill(hospital, source, days_per_query=30).run(JANUARY)
    assert [(days.first.day, days.last.day) for days in source.queries if days] == [(15, 28)]
    assert source.fetched == ["1.3", "1.28"]


def test_an_unfinished_day_is_queried_again_and_only_new_instances_are_fetched(hospital: Hospital) -> None:
    today = hospital.catalog.now.date()
    source = make_source(hospital, [])
    source.studies[today] = [("1.1", [hospital.header("1.1", "1.1.1")])]
    make_backfill(hospital, source).run(DateRange(today, today))
    source.studies[today].append(("1.2", [hospital.header("1.2", "1.2.1")]))
    make_backfill(hospital, source).run(DateRange(today, today))
    assert source.fetched == ["1.1", "1.2"]
    assert len(source.queries) == 2


def test_a_stopped_backfill_resumes_at_the_same_instance(hospital: Hospital) -> None:
    source = make_source(hospital, [3, 10, 20])

    def stop_in_the_second_study(_what: str, done: int, _total: int) -> None:
        if done == 1 and len(source.objects) == 3:
            raise StopRequested("stop requested")

    with pytest.raises(StopRequested):
        make_backfill(hospital, source, stop_in_the_second_study).run(JANUARY)
    assert len(hospital.catalog.tables.instances) == 3
    make_backfill(hospital, source).run(JANUARY)
    assert len(hospital.catalog.tables.instances) == 6
    assert sorted(source.objects) == sorted(set(source.objects)), "an instance was fetched twice"
    assert source.fetched == ["1.20", "1.10", "1.10", "1.3"]


def test_progress_estimates_the_total_number_of_units(hospital: Hospital) -> None:
    calls: list[tuple[int, int]] = []
    source = make_source(hospital, [3, 10, 20, 28])
    make_backfill(hospital, source, lambda _what, done, total: calls.append((done, total))).run(JANUARY)
    assert calls[0] == (0, 4)  # one study in the first of four weeks
    assert calls[-1] == (4, 4)
    assert all(done <= total for done, total in calls)


def test_a_transient_failure_is_retried_after_a_back_off(hospital: Hospital) -> None:
    source = make_source(hospital, [3])
    source.errors = [ArchiveUnreachable("unreachable"), OutOfResources("disk full")]
    before = hospital.catalog.now
    assert make_backfill(hospital, source, retry_base_seconds=2).run(JANUARY).instances == 2
    assert hospital.catalog.now - before == timedelta(seconds=2 + 4)


def test_an_archive_that_stays_unreachable_ends_the_run_and_finishes_no_day(hospital: Hospital) -> None:
    source = make_source(hospital, [3])
    source.errors = [ArchiveUnreachable("unreachable")] * 3
    with pytest.raises(ArchiveUnreachable):
        make_backfill(hospital, source, max_tries=3).run(DateRange(date(2025, 1, 3), date(2025, 1, 3)))
    assert not hospital.catalog.tables.backfills.days
    assert make_backfill(hospital, source).run(JANUARY).instances == 2


def test_a_permanently_failed_study_is_reported_and_skipped_until_requested_again(hospital: Hospital) -> None:
    source = make_source(hospital, [3, 10])
    source.errors = [RefusedByArchive("404")]
    run = make_backfill(hospital, source)
    assert run.run(JANUARY).instances == 2
    assert run.failed == 1
    assert [event.outcome for event in hospital.catalog.tables.audit if event.action == "backfill"] == ["failed"]
    source.fetched.clear()
    make_backfill(hospital, source).run(JANUARY)
    assert source.fetched == []
    make_backfill(hospital, source, repeat_finished=True).run(JANUARY)
    assert source.fetched == ["1.10"]
    assert len(hospital.catalog.tables.instances) == 4


def test_consecutive_failed_units_end_the_run(hospital: Hospital) -> None:
    source = make_source(hospital, range(1, 29))
    source.errors = [RefusedByArchive("C000")] * 28
    run = make_backfill(hospital, source)
    with pytest.raises(PermanentError, match="10 in a row"):
        run.run(JANUARY)
    assert len(source.fetched) == run.failed == 10


def test_a_backfill_refuses_what_the_listener_would_refuse_and_continues(hospital: Hospital) -> None:
    hospital.receive(hospital.header("1.3", "1.3.1"), b"another file under that UID")
    hospital.images.files.clear()  # a lost file is fetched again
    source, calls = make_source(hospital, [3, 10]), []

    class Broken(FakeArchiveSource):
        def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
            def read() -> tuple[Header, bytes]:
                raise DataSetMismatch("StudyInstanceUID is missing")

            store_object(BackfillObject("/archive/DOE^JOHN/1.dcm", "", read))
            return super().fetch(unit, find_stored, store_object)

    broken = Broken(studies=source.studies)
    run = replace(make_backfill(hospital, broken), on_refused=lambda incoming, error: calls.append((incoming.location, str(error))))
    total = run.run(JANUARY)
    assert (total.instances, total.refused) == (3, 3)
    audited = " ".join(f"{event.subject} {event.detail} {event.source}" for event in hospital.catalog.tables.audit)
    assert "missing" in audited
    assert "already stored" in audited
    assert "DOE" not in audited
    assert ("/archive/DOE^JOHN/1.dcm", "StudyInstanceUID is missing") in calls


def test_files_that_are_not_instances_count_as_others(hospital: Hospital) -> None:
    class Readme(FakeArchiveSource):
        def list_units(self, days: DateRange | None) -> list[BackfillUnit]:
            assert days is None
            return [BackfillUnit(key="k")]

        def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
            store_object(BackfillObject("README", "", lambda: None))
            return 0

    total = make_backfill(hospital, Readme(supports_dates=False)).run(JANUARY)
    assert (total.others, total.instances, total.refused) == (1, 0, 0)


def test_backfilled_studies_are_scored_after_arrivals_and_before_rescoring(hospital: Hospital) -> None:
    make_backfill(hospital, make_source(hospital, [3])).run(JANUARY)
    hospital.receive(hospital.header("2.1", "2.1.1"))
    hospital.catalog.tick(61)
    hospital.settle()
    by_study = {row.job.subject: row.job.priority for row in hospital.catalog.tables.jobs.values()}
    assert by_study == {"1.3": priorities.BACKFILL, "2.1": priorities.ARRIVED}
    assert priorities.ARRIVED < priorities.BACKFILL < priorities.RESCORE


@pytest.mark.parametrize(("reports_policy", "reports"), [("none", 1), ("all", 2)])
def test_backfilled_studies_are_reported_only_where_configured(hospital: Hospital, reports_policy: str, reports: int) -> None:
    hospital.backfill_reports = reports_policy  # type: ignore[assignment]  # a row of a table
    make_backfill(hospital, make_source(hospital, [3])).run(JANUARY)
    hospital.receive(hospital.header("2.1", "2.1.1"))
    hospital.run()
    assert len(hospital.archive.kept) == reports
    assert hospital.study("1.3").state is (StudyState.REPORTED if reports_policy == "all" else StudyState.SCORED)
    with hospital.catalog.read() as tx:
        assert len(tx.scores.predictions("1.3", 1)) == 14


def test_an_unreported_backfilled_study_is_rescored_and_stays_unreported(hospital: Hospital) -> None:
    make_backfill(hospital, make_source(hospital, [3])).run(JANUARY)
    hospital.run()
    with hospital.catalog.begin() as tx:
        tx.versions.add(replace(a_version(), number=2, state=a_version().state.CANDIDATE, device_uid="2.25.2"))
        tx.versions.serve(2)
    assert rescore.rescore(catalog=hospital.catalog) == 1
    hospital.run()
    with hospital.catalog.read() as tx:
        assert len(tx.scores.predictions("1.3", 2)) == 14
    assert hospital.archive.kept == []
    assert rescore.rescore(catalog=hospital.catalog) == 0


def test_a_received_image_of_a_backfilled_study_is_an_arrival_and_is_reported(hospital: Hospital) -> None:
    make_backfill(hospital, make_source(hospital, [3])).run(JANUARY)
    hospital.run()
    hospital.catalog.tick(1)
    hospital.receive(hospital.header("1.3", "1.3.77"))
    hospital.catalog.tick(61)
    hospital.settle()
    (waiting,) = [row for row in hospital.catalog.tables.jobs.values() if row.job.state.value == "waiting"]
    assert waiting.job.priority == priorities.ARRIVED
    hospital.run()
    assert len(hospital.archive.kept) == 1


def test_a_study_received_before_the_backfill_stays_an_arrival(hospital: Hospital) -> None:
    hospital.receive(hospital.header("1.3", "1.3.1"))
    make_backfill(hospital, make_source(hospital, [3])).run(JANUARY)
    hospital.run()
    assert len(hospital.archive.kept) == 1


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_throttle_limits_the_average_rate_and_does_not_make_up_for_lost_time() -> None:
    clock = FakeClock()
    throttle = Throttle(max_instances_per_minute=60, max_bytes_per_second=1000, sleep=clock.sleep, clock=lambda: clock.now)
    throttle(10)
    assert clock.now == pytest.approx(1)  # one instance a second
    throttle(5000)
    assert clock.now == pytest.approx(6)  # its bytes take longer
    clock.now = 100
    throttle(10)
    throttle(10)
    assert clock.now == pytest.approx(102)


def test_a_throttle_without_limits_never_waits() -> None:
    Throttle(sleep=lambda seconds: pytest.fail(f"waited {seconds}"))(10**9)


def test_the_catalogs_clock_decides_which_days_are_finished(hospital: Hospital) -> None:
    hospital.catalog.now = datetime(2025, 1, 10, 0, 30, tzinfo=UTC)
    make_backfill(hospital, make_source(hospital, [])).run(DateRange(date(2025, 1, 7), date(2025, 1, 10)))
    (done,) = hospital.catalog.tables.backfills.days.values()
    assert sorted(day.day for day in done) == [7, 8]
