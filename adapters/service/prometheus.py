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
from pipeline.errors import RadclipdError, TransientError
from pipeline.figures import ArchiveFigures, BackfillFigures, QueueFigures
from pipeline.learn import LearnResult

QUEUE_CACHE_SECONDS, ARCHIVE_CACHE_SECONDS = 5.0, 30.0
"""How long an answer of the catalog holds at least."""
MAX_TIME_SHARE = 0.01
"""Of the time may be spent on answers: what takes a second to count is counted every 100 seconds."""

log = structlog.get_logger("radclipd.metrics")

T = TypeVar("T")


class TimedCache(Generic[T]):
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
            return self._refresh_answer()

    def _refresh_answer(self) -> T:
        begun = self._clock()
        try:
            answer = self._ask()
        except BaseException:
            self._answer = None
            raise
        ended = self._clock()
        self._answer, self._until = (answer,), ended + max(self._seconds, (ended - begun) / MAX_TIME_SHARE)
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSources:
    """Where the figures come from. `room`: bytes by name, such as free on the disk; each may raise RadclipdError."""

    queue_figures: Callable[[], QueueFigures]
    archive_figures: Callable[[], ArchiveFigures]
    disk_usage: Callable[[], Mapping[str, int]]
    schema: str


class CatalogCollector(Collector):
    """Asks the sources at each scrape. A catalog that is away is told by `radclipd_catalog_up`; its figures are then left out."""

    def __init__(self, sources: MetricSources) -> None:
        self._sources = sources
        self._line = TimedCache(sources.queue_figures, seconds=QUEUE_CACHE_SECONDS)
        self._archive = TimedCache(sources.archive_figures, seconds=ARCHIVE_CACHE_SECONDS)

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
            lambda: _build_queue_metrics(self._line()),
            lambda: _build_archive_metrics(self._archive()),
            lambda: _build_disk_metrics(self._sources.disk_usage()),
        ):
            up = _collect_source(ask, told) and up
        yield GaugeMetricFamily("radclipd_catalog_up", "1 where catalog and disks have answered, else 0.", value=float(up))
        yield from told

    def describe(self) -> Iterable[Metric]:
        """Nothing: to register it must not ask the catalog."""
        return []


def _collect_source(ask: Callable[[], Iterable[Metric]], families: list[Metric]) -> bool:
    """Add what a source tells; say whether it has answered. A scrape ends with an answer whatever breaks."""
    try:
        families += list(ask())
    except RadclipdError as error:
        log.warning("metrics are left out", error=str(error), hint=error.hint)
        return False
    except Exception as error:  # whose text may quote what it stumbled over
        log.error("metrics are left out", error=type(error).__name__)
        return False
    return True


def _build_queue_metrics(line: QueueFigures) -> Iterator[Metric]:
    open_jobs = {key: line.jobs.get(key, 0) for key in product(JobKind, JobState) if key[1] is not JobState.DONE}
    yield _make_gauge("jobs", "Jobs that are not done.", ("kind", "state"), open_jobs)
    yield _make_gauge(
        "job_oldest_due_seconds",
        "For how long the oldest waiting job has been due, those behind arrivals apart.",
        ("kind",),
        _key_by_label(line.oldest_due_seconds),
    )
    yield _make_gauge("jobs_quarantined", "Jobs that wait for a person.", ("kind", "reason"), line.quarantined)
    yield _make_gauge(
        "archive_circuit_open",
        "1: the circuit breaker of this archive is open.",
        ("archive",),
        {(a,): 1 for a in line.open_circuits},
    )
    yield _make_gauge("model_versions", "Model versions.", ("state",), _count_every_state(VersionState, line.versions))
    if line.serving is not None:
        yield _make_gauge("serving_version", "Number of the version that serves.", ("notice",), {(line.notice,): line.serving})
    if line.serving_since is not None:
        since = line.serving_since.timestamp()
        yield GaugeMetricFamily("radclipd_serving_since_timestamp_seconds", "When the version came to serve.", value=since)
    yield from _build_learning_metrics(line)


def _build_learning_metrics(line: QueueFigures) -> Iterator[Metric]:
    if (stage := line.stage) is not None:
        share = {(stage.name,): stage.done / stage.total if stage.total else 0.0}
        yield _make_gauge("learning_stage_done_ratio", "How far the stage is that a round of learning is at.", ("stage",), share)
        if stage.seconds_left is not None:
            yield GaugeMetricFamily(
                "radclipd_learning_stage_left_seconds", "How long that stage will still take.", value=stage.seconds_left
            )
    if (ended := line.last_round) is not None:
        yield GaugeMetricFamily(
            "radclipd_learning_ended_timestamp_seconds", "When the last round of learning ended.", value=ended.ended_at.timestamp()
        )
        results = {(result.value,): float(result.value == ended.result) for result in LearnResult}
        yield _make_gauge("learning_result", "1 for what became of the last round of learning.", ("result",), results)
    for name, words in (
        ("gain", "Gain"),
        ("gain_lower", "Lower bound (95 %) of the gain"),
        ("gain_upper", "Upper bound of the gain"),
    ):
        values = {(one.against, one.sample): getattr(one, name.removeprefix("gain_")) for one in line.gains}
        yield _make_gauge(f"learnt_auc_{name}", f"{words} in mean AUC of the version learnt last.", ("against", "sample"), values)


def _build_archive_metrics(archive: ArchiveFigures) -> Iterator[Metric]:
    yield _make_gauge("studies", "Studies.", ("state",), _count_every_state(StudyState, archive.studies))
    yield _make_gauge("reports", "Structured reports.", ("state",), _count_every_state(ReportState, archive.reports))
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
    yield from _build_backfill_metrics(archive.backfills)
    yield GaugeMetricFamily(
        "radclipd_backfill_unscored_studies",
        "Studies that a backfill brought and that wait for their scores.",
        value=archive.backfilled_unscored,
    )


def _build_backfill_metrics(found: Mapping[str, BackfillFigures]) -> Iterator[Metric]:
    """Gauges, not counters: the last result of a unit replaces the one before, and may be smaller."""
    words = {
        "units": "Units of a backfill (studies of an archive, groups of files of a folder) by result.",
        "studies": "Studies that a backfill brought, and those of which more is to come.",
        "instances": "DICOM instances that backfills took in, and refused.",
    }
    for name, states in (("units", ("done", "failed")), ("studies", ("fetched", "coming")), ("instances", ("taken", "refused"))):
        counts = {(source, state): getattr(told, state) for source, told in found.items() for state in states}
        yield _make_gauge(f"backfill_{name}", words[name], ("source", "state"), counts)
    days = {(source,): told.days for source, told in found.items()}
    yield _make_gauge("backfill_done_days", "Days of an archive of which there is no more to come.", ("source",), days)
    taken = {(source,): told.bytes for source, told in found.items()}
    yield _make_gauge("backfill_taken_bytes", "Size of the instances that backfills took in.", ("source",), taken)
    ends = {(source,): told.last_at.timestamp() for source, told in found.items() if told.last_at is not None}
    yield _make_gauge("backfill_last_timestamp_seconds", "Time of the last result of a unit.", ("source",), ends)


def _build_disk_metrics(usage: Mapping[str, int]) -> Iterator[Metric]:
    for name, count in usage.items():
        yield GaugeMetricFamily(f"radclipd_{name}_bytes", DISK_GAUGES[name], value=count)


DISK_GAUGES = {
    "storage_free": "Free disk space where images are kept.",
    "storage_min_free": "Below so much of it, senders are told to try later.",
    "prefix_store": "Taken by what is kept for learning and scoring again, on this host.",
    "prefix_store_limit": "What that may take.",
}
"""What `Sources.room` may tell."""


def _key_by_label(values: Mapping[Any, float]) -> dict[tuple[str, ...], float]:
    return {(str(key),): value for key, value in values.items()}


def _count_every_state(states: Iterable[Any], counts: Mapping[Any, int]) -> dict[tuple[str, ...], float]:
    """A count that is 0 is told, too: an alert needs to see it."""
    return {(word.value,): counts.get(word, 0) for word in states}


def _make_gauge(name: str, description: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(f"radclipd_{name}", description, labels=labels)
    for key, value in values.items():
        family.add_metric([str(part) for part in key], value)
    return family


@contextmanager
def serve_metrics(sources: MetricSources, *, address: str, port: int) -> Iterator[int]:
    """Answer scrapes at http://ADDRESS:PORT/metrics until the context ends; give the port. TransientError where it is taken."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(CatalogCollector(sources))
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise TransientError(
            f"metrics: cannot listen on {address} port {port}: {error.strerror}",
            hint="set metrics.port, or metrics.enabled = false",
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
