"""The parts that the desk is made of, and what a route finds in the application's state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from adapters.web.film_bytes import FilmCache
from adapters.web.model_figures import ModelFiguresCache
from adapters.web.sessions import LogInLimit, SessionCookies
from pipeline.domain import StoredFile
from pipeline.labelling import ReadingPolicy
from pipeline.overview import DaemonOverview, describe_daemon
from pipeline.ports.desk import DeskCatalog
from pipeline.report import ReportPolicy
from pipeline.rules import ChestPolicy
from pipeline.worklist import WorklistPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskSettings:
    """`[web]`, `[study]`, `[worklist]`, `[report]` and `[decision]` of the configuration, as the desk reads them."""

    chest: ChestPolicy
    worklist: WorklistPolicy
    report: ReportPolicy = field(default_factory=ReportPolicy)
    readings: ReadingPolicy = field(default_factory=ReadingPolicy)
    has_tls: bool = False  # browsers reach the desk by https: cookies are Secure


OVERVIEW_SECONDS = 2.0


class DaemonOverviewCache:
    """The state of the daemon, counted once for all who look at it: it takes a pass over the archive. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._found: DaemonOverview | None = None

    def read(self, catalog: DeskCatalog) -> DaemonOverview:
        """Return the state, at most OVERVIEW_SECONDS old."""
        with self._lock:
            if self._found is None or time.monotonic() - self._read_at > OVERVIEW_SECONDS:
                with catalog.read() as tx:
                    self._found = describe_daemon(tx)
                self._read_at = time.monotonic()
            return self._found


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskTools:
    """What the desk asks of other outside parties."""

    read_report: Callable[[StoredFile], Sequence[str]]  # the lines of an SR
    disk_usage: Callable[[], Mapping[str, int]]  # bytes by name, see `adapters.app.metrics.disk_usage`
    run_verb: Callable[[Sequence[str]], str]  # run a verb of radclipd; return what it prints. PermanentError where it fails


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskParts:
    """What the routes need."""

    catalog: DeskCatalog
    films: FilmCache
    cookies: SessionCookies
    settings: DeskSettings
    tools: DeskTools
    limit: LogInLimit = field(default_factory=LogInLimit)
    daemon: DaemonOverviewCache = field(default_factory=DaemonOverviewCache)
    model: ModelFiguresCache = field(default_factory=ModelFiguresCache)


def parts_of(connection: HTTPConnection) -> DeskParts:
    """Return the parts of the application that serves this request."""
    parts: DeskParts = connection.app.state.parts
    return parts
