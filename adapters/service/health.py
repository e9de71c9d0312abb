"""Health checks: each is repeated on a thread of its own, and systemd's watchdog is fed only while all of them pass."""

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
"""A failed check is repeated after this time, so that a starting service is ready without delay."""
NO_WATCHDOG_SECONDS = 60.0
"""Interval where systemd has no watchdog on this process: the status line and the log still report failures."""

log = structlog.get_logger("radclipd.health")


class HealthProbe:
    """One check on its own daemon thread. A run that hangs, or takes longer than `within` seconds, does not pass."""

    def __init__(self, check: HealthCheck, *, every: float, within: float) -> None:
        """Run `check` every `every` seconds."""
        self.name = getattr(check, "__name__", type(check).__name__).strip("_").replace("_", " ")
        self._check, self._every, self._within = check, every, within
        self._passed_run: float | None = None  # start of the last run that passed
        self._run: float | None = None  # start of the run under way
        self._failure = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run_checks, name=f"probe {self.name}", daemon=True)

    def start(self) -> None:
        """Start the checks."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the checks. A run under way is not waited for."""
        self._ended.set()

    def passed_since(self, moment: float) -> bool:
        """Whether a run that began after `moment` (time.monotonic()) has passed."""
        return self._passed_run is not None and self._passed_run >= moment

    @property
    def failure(self) -> str:
        """The present failure in words; empty where there is none."""
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
        """Run the check once; return the failure in words, or an empty string."""
        try:
            self._check()
        except Exception as error:  # a check fails by raising anything
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
        """`status` returns the line of `systemctl status`; it runs on a thread of its own, as the checks do. None: no line."""
        self._notifier = notifier
        self._interval = notifier.watchdog_seconds or NO_WATCHDOG_SECONDS
        every = min(self._interval / 8, LONGEST_PERIOD_SECONDS)
        self._probes = [HealthProbe(check, every=every, within=self._interval / 4) for check in checks]
        self._status, self._line = status or str, "starting"
        refresh = HealthProbe(self._refresh_status, every=min(every, STATUS_SECONDS), within=self._interval / 4)
        self._status_probes = [refresh] if status is not None else []
        self._fed = 0.0

    @property
    def period(self) -> float:
        """How often to call tick(), seconds."""
        return min(self._interval / 8, 1.0)

    @property
    def status_line(self) -> str:
        """The failures of the probes; else the status."""
        failures = [probe.failure for probe in (*self._probes, *self._status_probes)]
        return "; ".join(filter(None, failures)) or self._line

    def _refresh_status(self) -> None:
        self._line = self._status()

    def start(self) -> None:
        """Start the checks."""
        for probe in (*self._probes, *self._status_probes):
            probe.start()

    def stop(self) -> None:
        """Stop the checks."""
        for probe in (*self._probes, *self._status_probes):
            probe.stop()

    def healthy_since(self, moment: float) -> bool:
        """Whether every probe has passed in a run that began after `moment` (time.monotonic())."""
        return all(probe.passed_since(moment) for probe in self._probes)

    def tick(self) -> None:
        """Feed the watchdog where it is due and every probe passes."""
        now = time.monotonic()
        half = self._interval / 2
        if now - self._fed >= half - self.period and self.healthy_since(now - half):
            self.feed_watchdog()

    def feed_watchdog(self) -> None:
        """Feed the watchdog whatever the probes say: only during work of bounded length in which probes cannot pass."""
        self._fed = time.monotonic()
        self._notifier.watchdog()


@contextlib.contextmanager
def notify_systemd(notifier: Notifier, checks: Sequence[HealthCheck], status: Callable[[], str]) -> Iterator[None]:
    """Notify systemd of a service of one process: READY=1 once every check passed, then STATUS and WATCHDOG; STOPPING=1 at the end.

    `status` returns the line of `systemctl status`. Outside systemd nothing is sent; the checks run, and failures are logged.
    """
    monitor = HealthMonitor(notifier, checks, status)
    ended = threading.Event()

    def beat() -> None:
        ready = False
        while not ended.is_set():
            if not ready and monitor.healthy_since(0.0):
                ready = True
                notifier.ready()
            if ready:
                monitor.tick()
            notifier.status(monitor.status_line)
            ended.wait(monitor.period)

    monitor.start()
    thread = threading.Thread(target=beat, name="notify", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        monitor.stop()
        notifier.stopping("stopping")
        thread.join(timeout=1.0)
