"""Backfilling on fakes: what is asked for, what is fetched, what is remembered, and who goes first."""

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
    """Studies by day; counts what is asked of it, and can be told to fail."""

    studies: dict[date, list[tuple[str, list[Header]]]] = field(default_factory=dict)
    asked: list[DateRange | None] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    trouble: list[Exception] = field(default_factory=list)
    supports_dates: bool = True
    name: str = "archive http://pacs CR,DX"
    sender: Sender = field(default_factory=lambda: Sender("PACS", "pacs", "RADCLIPD"))

    def list_units(self, days: DateRange | None) -> list[BackfillUnit]:
        self.asked.append(days)
        wanted = self.studies if days is None else [day for day in days if day in self.studies]
        return [
            BackfillUnit(key=uid, study_instance_uid=uid, change_tag=str(len(films)))
            for day in wanted
            for uid, films in self.studies[day]
        ]

    def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
        self.fetched.append(unit.key)
        films = next(films for studies in self.studies.values() for uid, films in studies if uid == unit.key)
        here = find_stored([film.sop_instance_uid for film in films])
        for film in films:
            if film.sop_instance_uid in here:
                continue
            if self.trouble:
                raise self.trouble.pop()
            store_object(BackfillObject(film.sop_instance_uid, film.sop_instance_uid, partial(self._read, film)))
        return 0

    def _read(self, film: Header) -> tuple[Header, bytes]:
        self.pieces.append(film.sop_instance_uid)
        return film, film.sop_instance_uid.encode()


def archive_of(hospital: Hospital, days: Sequence[int], *, films: int = 2) -> FakeArchiveSource:
    source = FakeArchiveSource()
    for day in days:
        uid = f"1.{day}"
        source.studies[date(2025, 1, day)] = [(uid, [hospital.film(uid, f"{uid}.{n + 1}") for n in range(films)])]
    return source


def run_of(
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


def test_an_archive_comes_in_days_by_days_newest_first(hospital: Hospital) -> None:
    source = archive_of(hospital, [3, 10, 20, 28])
    total = run_of(hospital, source).run(JANUARY)
    assert [(days.first.day, days.last.day) for days in source.asked if days] == [(22, 28), (15, 21), (8, 14), (1, 7)]
    assert source.fetched == ["1.28", "1.20", "1.10", "1.3"]
    assert (total.instances, total.duplicates, total.refused) == (8, 0, 0)
    assert len(hospital.catalog.tables.instances) == len(hospital.images.files) == 8


def test_the_oldest_days_come_first_where_that_is_asked_for(hospital: Hospital) -> None:
    source = archive_of(hospital, [3, 28])
    run_of(hospital, source, oldest_first=True, days_per_query=14).run(JANUARY)
    assert [(days.first.day, days.last.day) for days in source.asked if days] == [(1, 14), (15, 28)]
    assert source.fetched == ["1.3", "1.28"]


def test_days_that_are_done_are_not_asked_for_again_whatever_the_ranges(hospital: Hospital) -> None:
    source = archive_of(hospital, [3, 28])
    run_of(hospital, source).run(DateRange(date(2025, 1, 1), date(2025, 1, 14)))
    source.asked.clear()
    run_of(hospital, source, days_per_query=30).run(JANUARY)
    assert [(days.first.day, days.last.day) for days in source.asked if days] == [(15, 28)]
    assert source.fetched == ["1.3", "1.28"]


def test_a_day_that_is_not_over_is_asked_for_again_and_only_what_is_new_is_fetched(hospital: Hospital) -> None:
    today = hospital.catalog.now.date()
    source = archive_of(hospital, [])
    source.studies[today] = [("1.1", [hospital.film("1.1", "1.1.1")])]
    run_of(hospital, source).run(DateRange(today, today))
    source.studies[today].append(("1.2", [hospital.film("1.2", "1.2.1")]))
    run_of(hospital, source).run(DateRange(today, today))
    assert source.fetched == ["1.1", "1.2"]
    assert len(source.asked) == 2


def test_a_stopped_backfill_goes_on_with_the_film_that_it_was_at(hospital: Hospital) -> None:
    source = archive_of(hospital, [3, 10, 20])

    def stop_in_the_second_study(_what: str, done: int, _total: int) -> None:
        if done == 1 and len(source.pieces) == 3:
            raise StopRequested("told to stop")

    with pytest.raises(StopRequested):
        run_of(hospital, source, stop_in_the_second_study).run(JANUARY)
    assert len(hospital.catalog.tables.instances) == 3
    run_of(hospital, source).run(JANUARY)
    assert len(hospital.catalog.tables.instances) == 6
    assert sorted(source.pieces) == sorted(set(source.pieces)), "a film was fetched twice"
    assert source.fetched == ["1.20", "1.10", "1.10", "1.3"]


def test_progress_tells_what_there_is_to_expect(hospital: Hospital) -> None:
    heard: list[tuple[int, int]] = []
    source = archive_of(hospital, [3, 10, 20, 28])
    run_of(hospital, source, lambda _what, done, total: heard.append((done, total))).run(JANUARY)
    assert heard[0] == (0, 4)  # one study in the first of four weeks
    assert heard[-1] == (4, 4)
    assert all(done <= total for done, total in heard)


def test_what_fails_for_now_is_tried_again_and_waited_for(hospital: Hospital) -> None:
    source = archive_of(hospital, [3])
    source.trouble = [ArchiveUnreachable("away"), OutOfResources("disk full")]
    before = hospital.catalog.now
    assert run_of(hospital, source, retry_base_seconds=2).run(JANUARY).instances == 2
    assert hospital.catalog.now - before == timedelta(seconds=2 + 4)


def test_an_archive_that_stays_away_ends_the_run_and_nothing_counts_as_done(hospital: Hospital) -> None:
    source = archive_of(hospital, [3])
    source.trouble = [ArchiveUnreachable("away")] * 3
    with pytest.raises(ArchiveUnreachable):
        run_of(hospital, source, max_tries=3).run(DateRange(date(2025, 1, 3), date(2025, 1, 3)))
    assert not hospital.catalog.tables.backfills.days
    assert run_of(hospital, source).run(JANUARY).instances == 2


def test_a_study_that_can_never_be_had_is_told_of_and_left_until_somebody_asks(hospital: Hospital) -> None:
    source = archive_of(hospital, [3, 10])
    source.trouble = [RefusedByArchive("404")]
    run = run_of(hospital, source)
    assert run.run(JANUARY).instances == 2
    assert run.failed == 1
    assert [event.outcome for event in hospital.catalog.tables.audit if event.action == "backfill"] == ["failed"]
    source.fetched.clear()
    run_of(hospital, source).run(JANUARY)
    assert source.fetched == []
    run_of(hospital, source, repeat_finished=True).run(JANUARY)
    assert source.fetched == ["1.10"]
    assert len(hospital.catalog.tables.instances) == 4


def test_an_archive_of_which_nothing_can_be_had_ends_the_run(hospital: Hospital) -> None:
    source = archive_of(hospital, range(1, 29))
    source.trouble = [RefusedByArchive("C000")] * 28
    run = run_of(hospital, source)
    with pytest.raises(PermanentError, match="10 in a row"):
        run.run(JANUARY)
    assert len(source.fetched) == run.failed == 10


def test_what_the_listener_would_refuse_is_refused_here_and_the_rest_goes_on(hospital: Hospital) -> None:
    hospital.receive(hospital.film("1.3", "1.3.1"), b"another file under that UID")
    hospital.images.files.clear()  # so that it counts as lost, and is asked for
    source, heard = archive_of(hospital, [3, 10]), []

    class Broken(FakeArchiveSource):
        def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
            def read() -> tuple[Header, bytes]:
                raise DataSetMismatch("StudyInstanceUID is missing")

            store_object(BackfillObject("/archive/DOE^JOHN/1.dcm", "", read))
            return super().fetch(unit, find_stored, store_object)

    broken = Broken(studies=source.studies)
    run = replace(run_of(hospital, broken), on_refused=lambda piece, error: heard.append((piece.location, str(error))))
    total = run.run(JANUARY)
    assert (total.instances, total.refused) == (3, 3)
    told = " ".join(f"{event.subject} {event.detail} {event.source}" for event in hospital.catalog.tables.audit)
    assert "missing" in told
    assert "already stored" in told
    assert "DOE" not in told
    assert ("/archive/DOE^JOHN/1.dcm", "StudyInstanceUID is missing") in heard


def test_nothing_that_is_no_instance_counts(hospital: Hospital) -> None:
    class Readme(FakeArchiveSource):
        def list_units(self, days: DateRange | None) -> list[BackfillUnit]:
            assert days is None
            return [BackfillUnit(key="k")]

        def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
            store_object(BackfillObject("README", "", lambda: None))
            return 0

    total = run_of(hospital, Readme(supports_dates=False)).run(JANUARY)
    assert (total.others, total.instances, total.refused) == (1, 0, 0)


def test_studies_of_a_backfill_are_scored_behind_arrivals_and_before_the_archive_scored_again(hospital: Hospital) -> None:
    run_of(hospital, archive_of(hospital, [3])).run(JANUARY)
    hospital.receive(hospital.film("2.1", "2.1.1"))
    hospital.catalog.tick(61)
    hospital.settle()
    priorities = {row.job.subject: row.job.priority for row in hospital.catalog.tables.jobs.values()}
    assert priorities == {"1.3": priorities.BACKFILL, "2.1": priorities.ARRIVED}
    assert priorities.ARRIVED < priorities.BACKFILL < priorities.RESCORE


@pytest.mark.parametrize(("asked", "reports"), [("none", 1), ("all", 2)])
def test_reports_of_a_backfill_go_out_only_where_that_is_asked_for(hospital: Hospital, asked: str, reports: int) -> None:
    hospital.backfill_reports = asked  # type: ignore[assignment]  # a row of a table
    run_of(hospital, archive_of(hospital, [3])).run(JANUARY)
    hospital.receive(hospital.film("2.1", "2.1.1"))
    hospital.run()
    assert len(hospital.archive.kept) == reports
    assert hospital.study("1.3").state is (StudyState.REPORTED if asked == "all" else StudyState.SCORED)
    with hospital.catalog.read() as tx:
        assert len(tx.scores.predictions("1.3", 1)) == 14


def test_a_study_told_to_nobody_is_scored_again_and_still_told_to_nobody(hospital: Hospital) -> None:
    run_of(hospital, archive_of(hospital, [3])).run(JANUARY)
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


def test_a_live_image_of_a_backfilled_study_is_an_arrival_and_is_reported(hospital: Hospital) -> None:
    run_of(hospital, archive_of(hospital, [3])).run(JANUARY)
    hospital.run()
    hospital.catalog.tick(1)
    hospital.receive(hospital.film("1.3", "1.3.77"))
    hospital.catalog.tick(61)
    hospital.settle()
    (waiting,) = [row for row in hospital.catalog.tables.jobs.values() if row.job.state.value == "waiting"]
    assert waiting.job.priority == priorities.ARRIVED
    hospital.run()
    assert len(hospital.archive.kept) == 1


def test_a_study_that_had_arrived_before_stays_an_arrival(hospital: Hospital) -> None:
    hospital.receive(hospital.film("1.3", "1.3.1"))
    run_of(hospital, archive_of(hospital, [3])).run(JANUARY)
    hospital.run()
    assert len(hospital.archive.kept) == 1


class _Time:
    def __init__(self) -> None:
        self.now = 0.0

    def rest(self, seconds: float) -> None:
        self.now += seconds


def test_the_pace_is_held_on_average_and_lost_time_is_not_made_up_for() -> None:
    time = _Time()
    throttle = Throttle(max_instances_per_minute=60, max_bytes_per_second=1000, sleep=time.rest, clock=lambda: time.now)
    throttle(10)
    assert time.now == pytest.approx(1)  # a film a second
    throttle(5000)
    assert time.now == pytest.approx(6)  # its bytes take longer
    time.now = 100
    throttle(10)
    throttle(10)
    assert time.now == pytest.approx(102)


def test_a_pace_without_limits_never_waits() -> None:
    Throttle(sleep=lambda seconds: pytest.fail(f"waited {seconds}"))(10**9)


def test_the_clock_of_the_catalog_decides_what_is_over(hospital: Hospital) -> None:
    hospital.catalog.now = datetime(2025, 1, 10, 0, 30, tzinfo=UTC)
    run_of(hospital, archive_of(hospital, [])).run(DateRange(date(2025, 1, 7), date(2025, 1, 10)))
    (done,) = hospital.catalog.tables.backfills.days.values()
    assert sorted(day.day for day in done) == [7, 8]
