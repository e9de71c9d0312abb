"""The metrics for Prometheus: figures of the catalog, queried at each scrape, so that all processes and hosts agree.

No process counts: a restart loses nothing. No label names a patient, a study or a reader.
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
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from adapters.service.scrape_server import ScrapeServer
from pipeline.domain import DeliveryState, JobKind, JobState, ReportState, StudyState, VersionState
from pipeline.errors import RadclipdError, TransientError
from pipeline.figures import ArchiveFigures, BackfillFigures, QueueFigures
from pipeline.learn import LearnResult

QUEUE_CACHE_SECONDS, ARCHIVE_CACHE_SECONDS = 5.0, 30.0
"""Shortest time that an answer of the catalog is reused."""
MAX_TIME_SHARE = 0.01
"""Largest share of time spent on queries: figures that take a second to count are counted every 100 seconds."""

log = structlog.get_logger("radclipd.metrics")

T = TypeVar("T")


class TimedCache(Generic[T]):
    """A cached answer. It is valid for longer, the longer the query took. During a query other threads get the last answer."""

    def __init__(self, query: Callable[[], T], *, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._query, self._seconds, self._clock = query, seconds, clock
        self._querying = threading.Lock()
        self._answer: tuple[T] | None = None
        self._until = float("-inf")

    def __call__(self) -> T:
        """Return the answer. An error of the query passes through: no older answer takes its place."""
        cached = self._answer
        if cached is not None and (self._clock() < self._until or self._querying.locked()):
            return cached[0]
        with self._querying:
            if self._answer is not None and self._clock() < self._until:  # another thread has just queried
                return self._answer[0]
            return self._refresh_answer()

    def _refresh_answer(self) -> T:
        begun = self._clock()
        try:
            answer = self._query()
        except BaseException:
            self._answer = None
            raise
        ended = self._clock()
        self._answer, self._until = (answer,), ended + max(self._seconds, (ended - begun) / MAX_TIME_SHARE)
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSources:
    """The sources of the figures; each may raise RadclipdError. `disk_usage`: bytes by a name of DISK_GAUGES.

    `certificate_ends`: seconds since 1970 by key of the file and subject.
    """

    queue_figures: Callable[[], QueueFigures]
    archive_figures: Callable[[], ArchiveFigures]
    disk_usage: Callable[[], Mapping[str, int]]
    schema: str
    certificate_ends: Callable[[], Mapping[tuple[str, str], float]] = dict


class CatalogCollector(Collector):
    """Queries the sources at each scrape. With an unreachable catalog `radclipd_catalog_up` is 0 and its figures are missing."""

    def __init__(self, sources: MetricSources) -> None:
        self._sources = sources
        self._queue = TimedCache(sources.queue_figures, seconds=QUEUE_CACHE_SECONDS)
        self._archive = TimedCache(sources.archive_figures, seconds=ARCHIVE_CACHE_SECONDS)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield InfoMetricFamily(
            "radclipd_build",
            "Release of the software, and schema of the catalog that it works on.",
            value={"version": installed_version("radclipd"), "schema": self._sources.schema},
        )
        families: list[Metric] = []
        up = True
        for query in (
            lambda: _build_queue_metrics(self._queue()),
            lambda: _build_archive_metrics(self._archive()),
            lambda: _build_disk_metrics(self._sources.disk_usage()),
        ):
            up = _collect_source(query, families) and up
        _collect_source(lambda: _build_certificate_metrics(self._sources.certificate_ends()), families)
        yield GaugeMetricFamily("radclipd_catalog_up", "1 where the catalog and the disks have answered, else 0.", value=float(up))
        yield from families

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registration must not query the catalog."""
        return []


def _collect_source(query: Callable[[], Iterable[Metric]], families: list[Metric]) -> bool:
    """Add the families of a source; return whether it answered. A failed source never fails the scrape."""
    try:
        families += list(query())
    except RadclipdError as error:
        log.warning("metrics are left out", error=str(error), hint=error.hint)
        return False
    except Exception as error:  # its text may quote a data set
        log.error("metrics are left out", error=type(error).__name__)
        return False
    return True


def _build_queue_metrics(figures: QueueFigures) -> Iterator[Metric]:
    open_jobs = {key: figures.jobs.get(key, 0) for key in product(JobKind, JobState) if key[1] is not JobState.DONE}
    yield _make_gauge("jobs", "Jobs that are not done.", ("kind", "state"), open_jobs)
    yield _make_gauge(
        "job_oldest_due_seconds",
        "Time since the oldest waiting job was due; learning, backfills and re-scoring left out.",
        ("kind",),
        _key_by_label(figures.oldest_due_seconds),
    )
    yield _make_gauge("jobs_quarantined", "Jobs that wait for a person.", ("kind", "reason"), figures.quarantined)
    yield _make_gauge(
        "archive_circuit_open",
        "1: the circuit breaker of this archive is open.",
        ("archive",),
        {(a,): 1 for a in figures.open_circuits},
    )
    yield _make_gauge("model_versions", "Model versions.", ("state",), _count_every_state(VersionState, figures.versions))
    if figures.serving is not None:
        yield _make_gauge(
            "serving_version", "Number of the version that serves.", ("notice",), {(figures.notice,): figures.serving}
        )
    if figures.serving_since is not None:
        since = figures.serving_since.timestamp()
        yield GaugeMetricFamily("radclipd_serving_since_timestamp_seconds", "Start of the service of this version.", value=since)
    if figures.reference is not None:
        yield GaugeMetricFamily(
            "radclipd_reference_distribution", "Number of the serving version's reference distribution.", value=figures.reference
        )
    stopped = {(finding or "all",): 1 for finding in figures.stops}
    yield _make_gauge("reports_stopped", "1: reporting of this finding, or of all, is stopped.", ("finding",), stopped)
    yield from _build_learning_metrics(figures)


def _build_learning_metrics(figures: QueueFigures) -> Iterator[Metric]:
    if (stage := figures.stage) is not None:
        share = {(stage.name,): stage.done / stage.total if stage.total else 0.0}
        yield _make_gauge("learning_stage_done_ratio", "Progress of the present stage of a round of learning.", ("stage",), share)
        if stage.seconds_left is not None:
            yield GaugeMetricFamily(
                "radclipd_learning_stage_left_seconds", "Expected remaining time of that stage.", value=stage.seconds_left
            )
    if (ended := figures.last_round) is not None:
        yield GaugeMetricFamily(
            "radclipd_learning_ended_timestamp_seconds", "When the last round of learning ended.", value=ended.ended_at.timestamp()
        )
        results = {(result.value,): float(result.value == ended.result) for result in LearnResult}
        yield _make_gauge("learning_result", "1 for the result of the last round of learning.", ("result",), results)
    for name, description in (
        ("gain", "Gain"),
        ("gain_lower", "Lower bound (95 %) of the gain"),
        ("gain_upper", "Upper bound of the gain"),
    ):
        values = {(one.against, one.sample): getattr(one, name.removeprefix("gain_")) for one in figures.gains}
        yield _make_gauge(
            f"learnt_auc_{name}", f"{description} in mean AUC of the version learnt last.", ("against", "sample"), values
        )


def _build_archive_metrics(archive: ArchiveFigures) -> Iterator[Metric]:
    yield _make_gauge("studies", "Studies.", ("state",), _count_every_state(StudyState, archive.studies))
    yield _make_gauge("ignored_studies", "Ignored studies, by each of their reasons.", ("reason",), _key_by_label(archive.ignored))
    delivered = _count_every_state(DeliveryState, archive.deliveries)
    yield _make_gauge("deliveries", "Objects of reports at their destination.", ("state",), delivered)
    yield _make_gauge("reports", "Structured reports.", ("state",), _count_every_state(ReportState, archive.reports))
    decided = {(finding, decision.value): count for (finding, decision), count in archive.decisions.items()}
    description = "Decisions on the newest thousand studies that the serving version has scored."
    yield _make_gauge("decisions", description, ("finding", "decision"), decided)
    yield CounterMetricFamily("radclipd_instances_received", "DICOM instances received and stored.", value=archive.instances)
    labels = CounterMetricFamily("radclipd_labels", "Labels of readers.", labels=("finding", "state"))
    for (finding, state), count in archive.labels.items():
        labels.add_metric((finding, state.value), count)
    yield labels
    yield GaugeMetricFamily(
        "radclipd_worklist_open_studies", "Studies on the worklist without a label.", value=archive.open_requests
    )
    if archive.rescoring is not None:
        studies, scored = archive.rescoring
        yield GaugeMetricFamily(
            "radclipd_rescoring_studies", "Reported studies that the serving version is to score.", value=studies
        )
        yield GaugeMetricFamily(
            "radclipd_rescoring_scored_studies", "Reported studies that the serving version has scored.", value=scored
        )
    yield from _build_backfill_metrics(archive.backfills)
    yield GaugeMetricFamily(
        "radclipd_backfill_unscored_studies",
        "Studies of backfills that wait for their scores.",
        value=archive.backfilled_unscored,
    )


def _build_backfill_metrics(backfills: Mapping[str, BackfillFigures]) -> Iterator[Metric]:
    """Gauges, not counters: the last result of a unit replaces the one before, and may be smaller."""
    descriptions = {
        "units": "Units of a backfill (studies of an archive, groups of files of a folder) by result.",
        "studies": "Studies that backfills fetched completely, and those with further instances expected.",
        "instances": "DICOM instances that backfills stored, and refused.",
    }
    for name, states in (("units", ("done", "failed")), ("studies", ("fetched", "pending")), ("instances", ("stored", "refused"))):
        counts = {(source, state): getattr(figures, state) for source, figures in backfills.items() for state in states}
        yield _make_gauge(f"backfill_{name}", descriptions[name], ("source", "state"), counts)
    days = {(source,): figures.days for source, figures in backfills.items()}
    yield _make_gauge("backfill_done_days", "Days of an archive that are imported completely.", ("source",), days)
    stored = {(source,): figures.bytes for source, figures in backfills.items()}
    yield _make_gauge("backfill_stored_bytes", "Size of the instances that backfills stored.", ("source",), stored)
    ends = {(source,): figures.last_at.timestamp() for source, figures in backfills.items() if figures.last_at is not None}
    yield _make_gauge("backfill_last_timestamp_seconds", "Time of the last result of a unit.", ("source",), ends)


def _build_disk_metrics(usage: Mapping[str, int]) -> Iterator[Metric]:
    for name, count in usage.items():
        yield GaugeMetricFamily(f"radclipd_{name}_bytes", DISK_GAUGES[name], value=count)


def _build_certificate_metrics(ends: Mapping[tuple[str, str], float]) -> Iterator[Metric]:
    description = "End of each certificate in the files of DICOM TLS."
    yield _make_gauge("certificate_end_timestamp_seconds", description, ("file", "subject"), ends)


DISK_GAUGES = {
    "storage_free": "Free disk space of the image store.",
    "storage_min_free": "Guard: below this free space, senders are refused for now.",
    "activation_cache": "Size of the activation cache on this host.",
    "activation_cache_limit": "Largest size of the activation cache.",
}
"""Names that `MetricSources.disk_usage` may return, with their descriptions."""


def _key_by_label(values: Mapping[Any, float]) -> dict[tuple[str, ...], float]:
    return {(str(key),): value for key, value in values.items()}


def _count_every_state(states: Iterable[Any], counts: Mapping[Any, int]) -> dict[tuple[str, ...], float]:
    """Counts of 0 are reported, too: an alert needs them."""
    return {(state.value,): counts.get(state, 0) for state in states}


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
        server = ScrapeServer(address, port, make_wsgi_app(registry))
    except OSError as error:
        raise TransientError(
            f"metrics: cannot listen on {address} port {port}: {error.strerror}",
            hint="set metrics.port, or metrics.enabled = false",
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
