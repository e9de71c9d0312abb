"""Health that is looked at, not assumed: checks run over and over, and the watchdog is fed only while they pass."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import structlog

from adapters.service.systemd import Notifier

HealthCheck = Callable[[], None]
"""Passes by returning, fails by raising."""

LONGEST_PERIOD_SECONDS = 15.0
STATUS_SECONDS = 5.0
RETRY_SECONDS = 0.5
"""A check that failed is made again soon: what is starting is ready as soon as it is."""
NO_WATCHDOG_SECONDS = 60.0
"""Interval to look at health in where systemd does not watch: the status line and the log still tell."""

log = structlog.get_logger("radclipd.health")


class HealthProbe:
    """One check on its own daemon thread. A check that hangs, or takes longer than `within`, does not pass."""

    def __init__(self, check: HealthCheck, *, every: float, within: float) -> None:
        """Run `check` each `every` seconds; a run counts as passed only within `within` seconds."""
        self.name = getattr(check, "__name__", type(check).__name__).strip("_").replace("_", " ")
        self._check, self._every, self._within = check, every, within
        self._passed_run: float | None = None  # start of the last run that passed
        self._run: float | None = None  # start of the run under way
        self._failure = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run_checks, name=f"probe {self.name}", daemon=True)

    def start(self) -> None:
        """Begin to check."""
        self._thread.start()

    def stop(self) -> None:
        """Check no more; a run under way is left to itself."""
        self._ended.set()

    def passed_since(self, moment: float) -> bool:
        """Say whether a run that began after `moment` (time.monotonic()) has passed."""
        return self._passed_run is not None and self._passed_run >= moment

    @property
    def failure(self) -> str:
        """What is wrong, in words; empty while all is well."""
        run = self._run
        if run is not None and time.monotonic() - run > self._within:
            return f"{self.name}: no answer for {time.monotonic() - run:.0f} s"
        return self._failure

    def _run_checks(self) -> None:
        while not self._ended.is_set():
            begun = self._run = time.monotonic()
            failure = self._run_check(begun)
            self._run = None
            if failure != self._failure:
                self._log_transition(failure)
            self._failure = failure
            if not failure:
                self._passed_run = begun
            self._ended.wait(min(self._every, RETRY_SECONDS) if failure else self._every)

    def _run_check(self, begun: float) -> str:
        """Return the failure in words, or ''."""
        try:
            self._check()
        except Exception as error:  # whatever a check raises is its way to fail
            return f"{self.name}: {error or type(error).__name__}"
        took = time.monotonic() - begun
        return f"{self.name}: took {took:.1f} s" if took > self._within else ""

    def _log_transition(self, failure: str) -> None:
        if failure:
            log.warning("probe failed", probe=self.name, error=failure)
        else:
            log.info("probe passed", probe=self.name)


class HealthMonitor:
    """Feeds systemd's watchdog each half interval, only if every probe has passed within that half interval."""

    def __init__(self, notifier: Notifier, checks: Sequence[HealthCheck], status: Callable[[], str] | None) -> None:
        """`status` returns the line of `systemctl status`; like the checks it is called on a thread of its own. None: no line."""
        self._notifier = notifier
        self._interval = notifier.watchdog_seconds or NO_WATCHDOG_SECONDS
        every = min(self._interval / 8, LONGEST_PERIOD_SECONDS)
        self._probes = [HealthProbe(check, every=every, within=self._interval / 4) for check in checks]
        self._status, self._words = status or str, "starting"
        refresh = HealthProbe(self._refresh_status, every=min(every, STATUS_SECONDS), within=self._interval / 4)
        self._status_probes = [refresh] if status is not None else []
        self._fed = 0.0

    @property
    def period(self) -> float:
        """How often to call tick(), seconds."""
        return min(self._interval / 8, 1.0)

    @property
    def status_line(self) -> str:
        """What is wrong, else the status."""
        troubles = [probe.failure for probe in (*self._probes, *self._status_probes)]
        return "; ".join(filter(None, troubles)) or self._words

    def _refresh_status(self) -> None:
        self._words = self._status()

    def start(self) -> None:
        """Begin to check."""
        for probe in (*self._probes, *self._status_probes):
            probe.start()

    def stop(self) -> None:
        """Check no more."""
        for probe in (*self._probes, *self._status_probes):
            probe.stop()

    def healthy_since(self, moment: float) -> bool:
        """Say whether every probe has passed in a run begun after `moment` (time.monotonic())."""
        return all(probe.passed_since(moment) for probe in self._probes)

    def tick(self) -> None:
        """Feed the watchdog if it is time to and all is well."""
        now = time.monotonic()
        half = self._interval / 2
        if now - self._fed >= half - self.period and self.healthy_since(now - half):
            self.feed_watchdog()

    def feed_watchdog(self) -> None:
        """Feed the watchdog without looking: only for work of bounded length that keeps probes from passing."""
        self._fed = time.monotonic()
        self._notifier.watchdog()


@contextlib.contextmanager
def notify_systemd(notifier: Notifier, checks: Sequence[HealthCheck], status: Callable[[], str]) -> Iterator[None]:
    """Be a service of one process: READY=1 once every check has passed, then STATUS and WATCHDOG; STOPPING=1 at the end.

    `status` returns the line of `systemctl status`. Outside systemd nothing is said; the checks run, and what fails is logged.
    """
    watch = HealthMonitor(notifier, checks, status)
    ended = threading.Event()

    def beat() -> None:
        ready = False
        while not ended.is_set():
            if not ready and watch.healthy_since(0.0):
                ready = True
                notifier.ready()
            if ready:
                watch.tick()
            notifier.status(watch.status_line)
            ended.wait(watch.period)

    watch.start()
    thread = threading.Thread(target=beat, name="notify", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        watch.stop()
        notifier.stopping("stopping")
        thread.join(timeout=1.0)
