"""Daily queries find their rows by key: an archive eight times as large costs no more, on both databases.

The cost is what the database counts: units of four instructions of SQLite's virtual machine, rows that PostgreSQL's scans read. On
PostgreSQL the plans that read whole tables are disabled, because on tables as small as these they would be chosen rightly.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from adapters.catalog import query, schema
from adapters.catalog.catalog import SqlCatalog, SqlTransaction
from adapters.catalog.engine import database_url
from pipeline.domain import JobKind
from tests.benchmarks.catalog_questions import LISTINGS, RADCLIPD, names, queries
from tests.builders.large_archive import SERVING, LargeArchive
from tests.conftest import DATABASES

SMALL, LARGE = 400, 3200
ROOT = Path(__file__).parents[3]
Asked = tuple[str, Any]


@dataclass(frozen=True)
class Place:
    """A filled catalog."""

    archive: LargeArchive
    url: str

    def work(self, asked: Sequence[Asked]) -> int:
        """Return the cost of these statements, executed in turn and rolled back."""
        return (_rows if self.url.startswith("postgresql") else _steps)(self.url, asked)


def _steps(url: str, asked: Sequence[Asked]) -> int:
    counted = 0

    def count() -> None:
        nonlocal counted
        counted += 1

    with closing(sqlite3.connect(str(database_url(url).database), isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.set_progress_handler(count, 4)
        for sql, values in asked:
            connection.execute(sql, values or ()).fetchall()
        connection.set_progress_handler(None, 0)
        connection.execute("ROLLBACK")
    return counted


def _rows(url: str, asked: Sequence[Asked]) -> int:
    rows_read = 0
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        for way in ("seqscan", "hashjoin", "mergejoin"):
            connection.execute(f"SET enable_{way} = off")
        for sql, values in asked:
            explained = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values or None).fetchone()
            assert explained is not None
            rows_read += sum(map(_rows_read, _nodes(explained[0][0]["Plan"])))
        connection.rollback()
    return rows_read


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def _rows_read(node: Mapping[str, Any]) -> int:
    if "Scan" not in node["Node Type"]:
        return 0
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return int((node["Actual Rows"] + removed) * node["Actual Loops"])


@pytest.fixture(scope="module", params=DATABASES)
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Place]:
    """A small archive and a large one."""

    def place(studies: int) -> Place:
        if request.param == "postgresql":
            url = request.getfixturevalue("cluster").upgraded()
        else:
            url = f"sqlite:///{tmp_path_factory.mktemp('plans') / 'catalog.db'}"
            schema.upgrade(url)
        archive = LargeArchive(studies, labelled=20)
        archive.fill(url)
        catalog = SqlCatalog(url)
        catalog.update_statistics()
        catalog.dispose()
        return Place(archive, url)

    return place(SMALL), place(LARGE)


def is_no_more(small: int, large: int) -> bool:
    """Return whether the large archive costs hardly more. Reading all of its studies would cost 3200 more, or three times that."""
    return large <= 2 * small + 800


OVER_ALL_LABELS = {"v_labels", "v_worklist"}
"""Views over all labels or requests: a query that groups them costs as much as there are."""
QUERIES = sorted(
    title
    for title, sql in queries(names(LargeArchive(SMALL, labelled=20))).items()
    if "v_rescoring" not in sql and not ("GROUP BY" in sql and any(view in sql for view in OVER_ALL_LABELS))
)


@pytest.mark.parametrize("title", QUERIES)
def test_the_cost_of_a_documented_query_does_not_grow_with_the_archive(places: tuple[Place, Place], title: str) -> None:
    small, large = (place.work([(queries(names(place.archive))[title], None)]) for place in places)
    assert is_no_more(small, large), (small, large)


@pytest.mark.parametrize("name", sorted(set(LISTINGS) - {"labels conflicts", "worklist --open"}))
def test_the_cost_of_a_listing_does_not_grow_with_the_archive(
    places: tuple[Place, Place], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = (place.work(_asked_by_verb(place, name, monkeypatch)) for place in places)
    assert is_no_more(small, large), (small, large)


def _asked_by_verb(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """Return the statement of the listing; later statements report progress on standard error and may count the archive."""
    asked: list[Asked] = []
    open_session = query.open_session

    @contextmanager
    def recording(url: str, **options: Any) -> Iterator[query.QueryRunner]:
        with open_session(url, **options) as ask:

            def record(sql: str) -> query.QueryResult:
                asked.append((sql, None))
                return ask(sql)

            yield record

    monkeypatch.setattr(query, "open_session", recording)
    monkeypatch.setenv("RADCLIPD_CONFIG", str(ROOT / "deploy/radclipd.toml"))
    monkeypatch.setenv("RADCLIPD_CATALOG__URL", place.url)
    words = [word.format(**names(place.archive)) for word in LISTINGS[name]]
    with redirect_stdout(StringIO()) as output:
        RADCLIPD.main([*words, "--json"], standalone_mode=False)
    assert json.loads(output.getvalue()), "nothing was listed"
    monkeypatch.setattr(query, "open_session", open_session)
    assert asked
    return asked[:1]


def newest_numbers(numbers: int) -> range:
    return range(max(1, numbers - 300), numbers + 1)


STEPS: Mapping[str, Callable[[SqlTransaction, LargeArchive], object]] = {
    "claim": lambda tx, _: tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=60, limit=4),
    "claim the newest": lambda tx, _: tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=60, limit=4, newest=4),
    "claim nothing": lambda tx, _: tx.jobs.claim([JobKind.LEARN], worker="w", lease_seconds=60),
    "put": lambda tx, _: tx.jobs.put(JobKind.SEND, "2.25.4"),
    "is open": lambda tx, archive: tx.jobs.is_open(JobKind.SCORE, archive.study_uid(SMALL // 2)),
    "count waiting": lambda tx, _: tx.jobs.count_waiting(JobKind.SCORE, at_most=100),
    "finished": lambda tx, _: tx.figures.finished_jobs(since=datetime(9999, 1, 1, tzinfo=UTC)),
    "purge": lambda tx, _: tx.jobs.purge_done(older_than_days=365, limit=10),
    "settle": lambda tx, _: (
        tx.studies.stable_studies(seconds=0, released=True, limit=200),
        tx.studies.arriving_studies(limit=200),
    ),
    "a study": lambda tx, archive: (tx.studies.find(archive.study_uid(9)), tx.studies.instances(archive.study_uid(9))),
    "newest": lambda tx, _: tx.studies.newest_complete(limit=100),
    "newest files": lambda tx, _: tx.studies.newest_files(limit=5),
    "unscored": lambda tx, archive: tx.studies.unscored(SERVING, limit=100, numbers=newest_numbers(archive.studies)),
    "candidates by patient": lambda tx, _: tx.studies.label_candidates(SERVING, request_expiry_days=90, patients=range(1, 60)),
    "candidates among studies": lambda tx, archive: tx.studies.label_candidates(
        SERVING, request_expiry_days=90, among={archive.study_uid(9)}
    ),
    "scores": lambda tx, archive: (
        tx.scores.predictions(archive.study_uid(9), SERVING),
        tx.scores.image_scores(archive.study_uid(9), SERVING),
        tx.reports.latest(archive.study_uid(9)),
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_cost_of_a_step_does_not_grow_with_the_archive(places: tuple[Place, Place], name: str) -> None:
    small, large = (place.work(_asked_by_step(place, STEPS[name])) for place in places)
    assert is_no_more(small, large), (small, large)


def _asked_by_step(place: Place, step: Callable[[SqlTransaction, LargeArchive], object]) -> list[Asked]:
    """Run the step, roll it back, and return its statements."""
    asked: list[Asked] = []
    catalog = SqlCatalog(place.url)

    def listening(_: Any, __: Any, sql: str, values: Any, *more: Any) -> None:
        if sql.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            asked.append((sql, values))

    event.listen(catalog._engine, "before_cursor_execute", listening)
    with pytest.raises(ZeroDivisionError), catalog.begin() as tx:
        step(tx, place.archive)
        raise ZeroDivisionError
    catalog.dispose()
    assert asked
    return asked


def test_the_measured_cost_distinguishes_a_scan_from_a_key_lookup(places: tuple[Place, Place]) -> None:
    """The tests above depend on it."""
    scan = "SELECT count(*) FROM v_predictions WHERE probability > 0.5"
    small, large = (place.work([(scan, None)]) for place in places)
    assert not is_no_more(small, large), (small, large)
