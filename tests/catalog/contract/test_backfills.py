"""The contract of ports.Backfills, and of ranges of studies and jobs: the fake, SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from pipeline.domain import JobKind, StudyState
from pipeline.ports.backfill import BackfillCounts, BackfillUnit
from pipeline.ports.services import Catalog
from tests.builders.catalog_rows import add_instance, chest_header
from tests.builders.fakes.versions import a_version

SOURCE, OTHER_SOURCE = "orthanc http://pacs CR,DX", "folder /archive"


def test_finished_days_are_kept_by_source(catalog: Catalog) -> None:
    days = {date(2025, 1, 1), date(2025, 12, 31)}
    for _ in range(2):
        with catalog.begin() as tx:
            tx.backfills.add_finished_days(SOURCE, days)
            tx.backfills.add_finished_days(SOURCE, [])
    with catalog.read() as tx:
        assert tx.backfills.finished_days(SOURCE) == days
        assert tx.backfills.finished_days(OTHER_SOURCE) == set()


def test_the_last_result_of_a_unit_replaces_the_one_before(catalog: Catalog) -> None:
    keys = ["1.1", "1.2", "1.3"]
    with catalog.begin() as tx:
        tx.backfills.finish_unit(SOURCE, BackfillUnit(key="1.1", change_tag="2"), BackfillCounts(instances=2, bytes=7 << 30), [])
        tx.backfills.finish_unit(SOURCE, BackfillUnit(key="1.2"), BackfillCounts(), [], error="404")
    with catalog.read() as tx:
        assert tx.backfills.finished_units(SOURCE, keys, failed=True) == {"1.1": "2", "1.2": ""}
        assert tx.backfills.finished_units(SOURCE, keys, failed=False) == {"1.1": "2"}
        assert tx.backfills.finished_units(OTHER_SOURCE, keys, failed=True) == {}
        assert tx.backfills.finished_units(SOURCE, [], failed=True) == {}
    with catalog.begin() as tx:
        tx.backfills.finish_unit(SOURCE, BackfillUnit(key="1.2", change_tag="9"), BackfillCounts(instances=1), [])
    with catalog.read() as tx:
        assert tx.backfills.finished_units(SOURCE, keys, failed=False) == {"1.1": "2", "1.2": "9"}


def test_a_study_is_backfilled_until_an_instance_comes_another_way(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    with catalog.begin() as tx:
        tx.backfills.mark_backfilled(SOURCE, ["1.1"])
        tx.backfills.mark_backfilled(OTHER_SOURCE, ["1.1"])
        assert tx.backfills.backfilled_studies(["1.1"])
        assert not tx.backfills.backfilled_studies(["1.2"])
    add_instance(catalog, chest_header())
    pass_time(0.01)
    with catalog.begin() as tx:
        tx.backfills.finish_unit(SOURCE, BackfillUnit(key="1.1"), BackfillCounts(), ["1.1", "1.7"])
        assert tx.backfills.backfilled_studies(["1.1"])
    pass_time(0.01)
    add_instance(catalog, chest_header(sop="1.1.2"))
    with catalog.begin() as tx:
        assert not tx.backfills.backfilled_studies(["1.1"])
        tx.backfills.mark_backfilled(SOURCE, ["1.1"])
        assert not tx.backfills.backfilled_studies(["1.1"])


def test_a_study_in_two_units_stays_backfilled_after_the_first(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    for number in (1, 2):
        with catalog.begin() as tx:
            tx.backfills.mark_backfilled(SOURCE, ["1.1"])
        add_instance(catalog, chest_header(sop=f"1.1.{number}"))
        pass_time(0.01)
        with catalog.begin() as tx:
            tx.backfills.finish_unit(SOURCE, BackfillUnit(key=str(number)), BackfillCounts(), ["1.1"])
            assert tx.backfills.backfilled_studies(["1.1"])
        pass_time(0.01)


def test_a_known_study_is_not_marked_as_backfilled(catalog: Catalog) -> None:
    add_instance(catalog, chest_header())
    with catalog.begin() as tx:
        tx.backfills.mark_backfilled(SOURCE, ["1.1"])
        assert not tx.backfills.backfilled_studies(["1.1"])


def test_an_unreported_backfilled_study_is_scored_again_unless_its_report_job_is_active(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        tx.versions.add(a_version())
        tx.backfills.mark_backfilled(SOURCE, ["1.1"])
    add_instance(catalog, chest_header())
    add_instance(catalog, chest_header("1.2", "1.2.1"))
    with catalog.begin() as tx:
        for study in ("1.1", "1.2"):
            tx.studies.put_state(study, StudyState.SCORED)
    with catalog.begin() as tx:
        assert tx.studies.unscored(1, limit=5) == ["1.1"]
        tx.jobs.put(JobKind.REPORT, "1.1")
        assert tx.studies.unscored(1, limit=5) == []


def test_studies_are_numbered_in_order_of_arrival(catalog: Catalog) -> None:
    with catalog.read() as tx:
        assert tx.studies.highest_study_number() == 0
        assert tx.studies.uids_by_number(range(1, 9)) == []
    for number in range(1, 6):
        add_instance(catalog, chest_header(f"1.{number}", f"1.{number}.1"))
    with catalog.read() as tx:
        last = tx.studies.highest_study_number()
        assert tx.studies.uids_by_number(range(1, last + 1)) == ["1.5", "1.4", "1.3", "1.2", "1.1"]
        assert tx.studies.uids_by_number(range(last - 1, last + 1)) == ["1.5", "1.4"]


def test_unscored_studies_of_a_range_of_numbers(catalog: Catalog) -> None:
    for number in range(1, 6):
        add_instance(catalog, chest_header(f"1.{number}", f"1.{number}.1"))
    with catalog.begin() as tx:
        tx.versions.add(a_version())
        for number in range(1, 6):
            tx.studies.put_state(f"1.{number}", StudyState.REPORTED)
        last = tx.studies.highest_study_number()
        assert tx.studies.unscored(1, limit=9, numbers=range(last - 2, last)) == ["1.4", "1.3"]
        assert tx.studies.unscored(1, limit=1, numbers=range(1, last + 1)) == ["1.5"]


def test_jobs_are_claimed_by_subject_and_leased_ones_counted(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    with catalog.begin() as tx:
        for number in range(1, 5):
            tx.jobs.put(JobKind.SCORE, f"1.{number}")
        tx.jobs.put(JobKind.REPORT, "1.1")

    def claim(*subjects: str, lease: float = 60) -> list[str]:
        with catalog.begin() as tx:
            found = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=lease, limit=9, subjects=subjects)
        return [job.subject for job in found]

    assert claim("1.3", "1.1", "1.9", lease=0.05) == ["1.1", "1.3"]
    assert claim("1.3", "1.1") == []
    assert claim() == []
    with catalog.read() as tx:
        assert tx.jobs.count_leased(JobKind.SCORE, ["1.1", "1.2", "1.3"]) == 2
        assert tx.jobs.count_leased(JobKind.REPORT, ["1.1"]) == tx.jobs.count_leased(JobKind.SCORE, []) == 0
    pass_time(0.1)
    with catalog.read() as tx:
        assert tx.jobs.count_leased(JobKind.SCORE, ["1.1", "1.2", "1.3"]) == 2  # an expired lease counts, too
    assert claim("1.3") == ["1.3"]
    assert claim("1.2", "1.4") == ["1.2", "1.4"]
