"""The metrics, as Prometheus reads them: what the catalog holds, asked when a scrape asks, so that every process and host agrees.

Nothing is counted in a process: a restart loses nothing. No label names a patient, a study or a reader.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from itertools import product
from typing import Any, Generic, TypeVar

import structlog
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.domain import JobKind, JobState, ReportState, StudyState, VersionState
from pipeline.errors import RadclipdError, TryAgain
from pipeline.figures import Archive, Backfilled, Line
from pipeline.learn import LearnResult

LINE_SECONDS, ARCHIVE_SECONDS = 5.0, 30.0
"""How long an answer of the catalog holds at least."""
LARGEST_SHARE = 0.01
"""Of the time may be spent on answers: what takes a second to count is counted every 100 seconds."""

log = structlog.get_logger("radclipd.metrics")

T = TypeVar("T")


class Remembered(Generic[T]):
    """An answer that holds for a while: longer, the longer it took. While one asks again, others get the last answer."""

    def __init__(self, ask: Callable[[], T], *, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._seconds, self._clock = ask, seconds, clock
        self._asking = threading.Lock()
        self._answer: tuple[T] | None = None
        self._until = float("-inf")

    def __call__(self) -> T:
        """Return the answer. Whatever asking raises passes through, and nothing older is told in its place."""
        known = self._answer
        if known is not None and (self._clock() < self._until or self._asking.locked()):
            return known[0]
        with self._asking:
            if self._answer is not None and self._clock() < self._until:  # somebody else has just asked
                return self._answer[0]
            return self._renewed()

    def _renewed(self) -> T:
        begun = self._clock()
        try:
            answer = self._ask()
        except BaseException:
            self._answer = None
            raise
        ended = self._clock()
        self._answer, self._until = (answer,), ended + max(self._seconds, (ended - begun) / LARGEST_SHARE)
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the figures come from. `room`: bytes by name, such as free on the disk; each may raise RadclipdError."""

    line: Callable[[], Line]
    archive: Callable[[], Archive]
    room: Callable[[], Mapping[str, int]]
    schema: str


class CatalogCollector(Collector):
    """Asks the sources at each scrape. A catalog that is away is told by `radclipd_catalog_up`; its figures are then left out."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._line = Remembered(sources.line, seconds=LINE_SECONDS)
        self._archive = Remembered(sources.archive, seconds=ARCHIVE_SECONDS)

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        yield InfoMetricFamily(
            "radclipd_build",
            "Release of the software, and schema of the catalog that it works on.",
            value={"version": installed_version("radclipd"), "schema": self._sources.schema},
        )
        told: list[Metric] = []
        up = True
        for ask in (
            lambda: _of_line(self._line()),
            lambda: _of_archive(self._archive()),
            lambda: _of_room(self._sources.room()),
        ):
            up = _asked(ask, told) and up
        yield GaugeMetricFamily("radclipd_catalog_up", "1 where catalog and disks have answered, else 0.", value=float(up))
        yield from told

    def describe(self) -> Iterable[Metric]:
        """Nothing: to register it must not ask the catalog."""
        return []


def _asked(ask: Callable[[], Iterable[Metric]], told: list[Metric]) -> bool:
    """Add what a source tells; say whether it has answered. A scrape ends with an answer whatever breaks."""
    try:
        told += list(ask())
    except RadclipdError as error:
        log.warning("metrics are left out", error=str(error), hint=error.hint)
        return False
    except Exception as error:  # whose text may quote what it stumbled over
        log.error("metrics are left out", error=type(error).__name__)
        return False
    return True


def _of_line(line: Line) -> Iterator[Metric]:
    open_jobs = {key: line.jobs.get(key, 0) for key in product(JobKind, JobState) if key[1] is not JobState.DONE}
    yield _gauge("jobs", "Jobs that are not done.", ("kind", "state"), open_jobs)
    yield _gauge(
        "job_oldest_due_seconds",
        "For how long the oldest waiting job has been due, those behind arrivals apart.",
        ("kind",),
        _keyed(line.oldest_due_seconds),
    )
    yield _gauge("jobs_quarantined", "Jobs that wait for a person.", ("kind", "reason"), line.quarantined)
    yield _gauge(
        "archive_resting", "1: sending to this archive rests after failures.", ("archive",), {(a,): 1 for a in line.resting}
    )
    yield _gauge("model_versions", "Model versions.", ("state",), _of_all(VersionState, line.versions))
    if line.serving is not None:
        yield _gauge("serving_version", "Number of the version that serves.", ("marking",), {(line.marking,): line.serving})
    if line.serving_since is not None:
        since = line.serving_since.timestamp()
        yield GaugeMetricFamily("radclipd_serving_since_timestamp_seconds", "When the version came to serve.", value=since)
    yield from _of_learning(line)


def _of_learning(line: Line) -> Iterator[Metric]:
    if (stage := line.stage) is not None:
        share = {(stage.name,): stage.done / stage.total if stage.total else 0.0}
        yield _gauge("learning_stage_done_ratio", "How far the stage is that a round of learning is at.", ("stage",), share)
        if stage.seconds_left is not None:
            yield GaugeMetricFamily(
                "radclipd_learning_stage_left_seconds", "How long that stage will still take.", value=stage.seconds_left
            )
    if (ended := line.last_round) is not None:
        yield GaugeMetricFamily(
            "radclipd_learning_ended_timestamp_seconds", "When the last round of learning ended.", value=ended.ended_at.timestamp()
        )
        results = {(result.value,): float(result.value == ended.result) for result in LearnResult}
        yield _gauge("learning_result", "1 for what became of the last round of learning.", ("result",), results)
    for name, words in (
        ("gain", "Gain"),
        ("gain_lower", "Lower bound (95 %) of the gain"),
        ("gain_upper", "Upper bound of the gain"),
    ):
        values = {(one.against, one.sample): getattr(one, name.removeprefix("gain_")) for one in line.gains}
        yield _gauge(f"learnt_auc_{name}", f"{words} in mean AUC of the version learnt last.", ("against", "sample"), values)


def _of_archive(archive: Archive) -> Iterator[Metric]:
    yield _gauge("studies", "Studies.", ("state",), _of_all(StudyState, archive.studies))
    yield _gauge("reports", "Structured reports.", ("state",), _of_all(ReportState, archive.reports))
    yield CounterMetricFamily("radclipd_instances_received", "DICOM instances received and kept.", value=archive.instances)
    statements = CounterMetricFamily("radclipd_label_statements", "Statements of readers.", labels=("finding", "state"))
    for (finding, state), count in archive.statements.items():
        statements.add_metric((finding, state.value), count)
    yield statements
    yield GaugeMetricFamily("radclipd_worklist_open_studies", "Studies asked for and not read yet.", value=archive.open_requests)
    if archive.rescoring is not None:
        studies, scored = archive.rescoring
        yield GaugeMetricFamily(
            "radclipd_rescoring_studies", "Reported studies, which the serving version is to score.", value=studies
        )
        yield GaugeMetricFamily("radclipd_rescoring_scored_studies", "Those of them that it has scored.", value=scored)
    yield from _of_backfills(archive.backfills)
    yield GaugeMetricFamily(
        "radclipd_backfill_unscored_studies",
        "Studies that a backfill brought and that wait for their scores.",
        value=archive.backfilled_unscored,
    )


def _of_backfills(found: Mapping[str, Backfilled]) -> Iterator[Metric]:
    """No counters: the last word on a parcel counts, and may be of less than the one before."""
    words = {
        "parcels": "Studies of an archive, or parcels of a folder, by what became of them.",
        "studies": "Studies that a backfill brought, and those of which more is to come.",
        "instances": "DICOM instances that backfills took in, and refused.",
    }
    for name, states in (("parcels", ("done", "failed")), ("studies", ("fetched", "coming")), ("instances", ("taken", "refused"))):
        counts = {(source, state): getattr(told, state) for source, told in found.items() for state in states}
        yield _gauge(f"backfill_{name}", words[name], ("source", "state"), counts)
    days = {(source,): told.days for source, told in found.items()}
    yield _gauge("backfill_done_days", "Days of an archive of which there is no more to come.", ("source",), days)
    taken = {(source,): told.bytes for source, told in found.items()}
    yield _gauge("backfill_taken_bytes", "Size of the instances that backfills took in.", ("source",), taken)
    ends = {(source,): told.last_at.timestamp() for source, told in found.items() if told.last_at is not None}
    yield _gauge("backfill_last_timestamp_seconds", "When the last parcel was taken in, or given up.", ("source",), ends)


def _of_room(room: Mapping[str, int]) -> Iterator[Metric]:
    for name, count in room.items():
        yield GaugeMetricFamily(f"radclipd_{name}_bytes", ROOM[name], value=count)


ROOM = {
    "storage_free": "Free disk space where images are kept.",
    "storage_minimum_free": "Below so much of it, senders are told to try later.",
    "prefix_store": "Taken by what is kept for learning and scoring again, on this host.",
    "prefix_store_limit": "What that may take.",
}
"""What `Sources.room` may tell."""


def _keyed(values: Mapping[Any, float]) -> dict[tuple[str, ...], float]:
    return {(str(key),): value for key, value in values.items()}


def _of_all(words: Iterable[Any], counts: Mapping[Any, int]) -> dict[tuple[str, ...], float]:
    """A count that is 0 is told, too: an alert needs to see it."""
    return {(word.value,): counts.get(word, 0) for word in words}


def _gauge(name: str, words: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(f"radclipd_{name}", words, labels=labels)
    for key, value in values.items():
        family.add_metric([str(part) for part in key], value)
    return family


@contextmanager
def served(sources: Sources, *, address: str, port: int) -> Iterator[int]:
    """Answer scrapes at http://ADDRESS:PORT/metrics until the context ends; give the port. TryAgain where it is taken."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(CatalogCollector(sources))
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise TryAgain(
            f"metrics: cannot listen on {address} port {port}: {error.strerror}",
            hint="set metrics.port, or metrics.enabled = false",
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
