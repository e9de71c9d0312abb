"""The supervisor: one child process a role. It restarts children that die, and reports the state of the service to systemd.

It owns the listening sockets, so connections queue in the kernel while the listener's process is replaced. It does no other work
and loads no heavy library. Children die with it. It stops them in order: those with a socket first, so that they drain while
everything they need still runs.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from adapters.ipc.parent_death import death_signal_setter
from adapters.service.exit_codes import CANNOT_START, FAILED, exit_code_of
from adapters.service.health import HealthCheck, HealthMonitor
from adapters.service.signals import StopSignal
from adapters.service.systemd import INHERITED_FDS, SYSTEMD_VARIABLES, Notifier
from pipeline.backoff import backoff_seconds
from pipeline.errors import RadclipdError, traceback_locations

STEADY_SECONDS = 60.0
"""A child that lived this long starts again without delay and with its back-off cleared."""
EXTENSION_SECONDS = 10.0
"""Time that one EXTEND_TIMEOUT_USEC asks for; it is repeated after a tenth of it."""

Work = Callable[[], int | None]
"""The work of a forked copy of this process; returns its exit status."""

log = structlog.get_logger("radclipd.supervisor")


@dataclass(frozen=True, slots=True)
class Role:
    """One child process: the program `argv`, or a forked copy of this process that runs `work` and shares its loaded libraries.

    `takes_socket`: it gets the listening sockets and is stopped first. `stop_seconds`: time between SIGTERM and SIGKILL.
    `waits_for_probes`: it starts when every probe has passed, so that its loading takes no processor from the probed roles.
    """

    name: str
    argv: Sequence[str] = ()
    work: Work | None = None
    takes_socket: bool = False
    stop_seconds: float = 30.0
    waits_for_probes: bool = False


@dataclass(frozen=True, slots=True)
class SupervisorTimings:
    """Time limits and intervals of the supervisor, seconds."""

    backoff_base: float = 0.5
    backoff_cap: float = 30.0
    start_limit: float = 300.0  # of a start or reload: after it systemd is not asked for more time
    probe_wait_limit: float = 30.0  # of a start: after it roles start although probes fail
    tick: float = 0.25


class ForkedProcess:
    """A forked copy of this process that does `work` and ends; with the methods of subprocess.Popen that a Child needs.

    Only for a process without other threads: the copy has none of them, but keeps every lock that they held.
    """

    def __init__(self, work: Work) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        gc.collect()
        gc.freeze()  # keeps memory shared: a collection would write into every page
        set_death_signal = death_signal_setter(os.getpid())
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run_copy(set_death_signal, work)

    def poll(self) -> int | None:
        """Return the exit status (negative: the signal), None while it runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _run_copy(set_death_signal: Callable[[], None], work: Work) -> None:
    """Run the copy; it exits here and never returns to the code of the original."""
    code = FAILED
    try:
        set_death_signal()
        os.setpgid(0, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        code = work() or 0
    except RadclipdError as error:
        log.error("child failed", error=str(error), hint=error.hint)
        code = exit_code_of(error)
    except BaseException as error:  # the copy has no caller that could handle it
        log.error("child failed", error=type(error).__name__, locations=traceback_locations(error))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclass(slots=True)
class Child:
    """A role and, while it runs, its process."""

    role: Role
    process: subprocess.Popen[bytes] | ForkedProcess | None = None
    started_at: float = 0.0
    deaths: int = 0  # in a row, each soon after its start
    not_before: float = 0.0

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Start the process. OSError where its program cannot be run."""
        self.started_at = time.monotonic()
        self.process = ForkedProcess(self.role.work) if self.role.work is not None else self._spawn_program(sockets)
        log.info("child started", child=self.role.name, pid=self.process.pid)

    def _spawn_program(self, sockets: Sequence[socket.socket]) -> subprocess.Popen[bytes]:
        descriptors = [sock.fileno() for sock in sockets] if self.role.takes_socket else []
        environment = {name: value for name, value in os.environ.items() if name not in SYSTEMD_VARIABLES}
        if descriptors:
            environment[INHERITED_FDS] = ",".join(map(str, descriptors))
        return subprocess.Popen(
            self.role.argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            process_group=0,  # a terminal's Ctrl-C goes to the parent, which stops the children in order
            preexec_fn=death_signal_setter(os.getpid()),
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if there is a process."""
        if self.process is not None:
            self.process.send_signal(number)

    def poll_exit(self) -> int | None:
        """Return the exit status (negative: the signal) of a process that has just ended; else None."""
        if self.process is None or (status := self.process.poll()) is None:
            return None
        self.process = None
        return status

    def schedule_restart(self, timings: SupervisorTimings) -> float:
        """Record a death; return the back-off before the next start, seconds."""
        now = time.monotonic()
        self.deaths = 0 if now - self.started_at >= STEADY_SECONDS else self.deaths + 1
        base, cap = timings.backoff_base, timings.backoff_cap
        delay = backoff_seconds(self.deaths - 1, base_seconds=base, cap_seconds=cap) if self.deaths else 0.0
        self.not_before = now + delay
        return delay


@dataclass(slots=True)
class _PendingStart:
    """A start or reload that is under way."""

    begun_at: float = field(default_factory=time.monotonic)
    note: str = ""


class Supervisor:
    """Starts one child a role and keeps them running until a signal to stop."""

    def __init__(
        self,
        roles: Sequence[Role],
        *,
        sockets: Sequence[socket.socket] = (),
        probes: Sequence[HealthCheck] = (),
        status: Callable[[], str] | None = lambda: "running",
        reload: Callable[[], Sequence[Role]] | None = None,
        notifier: Notifier | None = None,
        timings: SupervisorTimings | None = None,
    ) -> None:
        """Take the roles in starting order.

        `probes` raise while something is wrong: READY=1 comes when each has passed, WATCHDOG=1 while each passes. `status` returns
        the line of `systemctl status`; without it, and without probes, this process has no second thread. `reload` reads the
        configuration and returns the new roles; where it raises RadclipdError, nothing changes. The sockets stay the same.
        """
        self._children = [Child(role) for role in roles]
        self._sockets = list(sockets)
        self._notifier = notifier if notifier is not None else Notifier()
        self._monitor = HealthMonitor(self._notifier, probes, status)
        self._reload = reload
        self._timings = timings or SupervisorTimings()
        self._pending_start: _PendingStart | None = _PendingStart()
        self._last_status = ""
        self._extended_at = 0.0
        self._stopping_status = "stopping: waiting for associations and jobs in hand"

    def run(self) -> int:
        """Run until SIGTERM or SIGINT (returns 0) or until a child cannot start (returns its CANNOT_START). Main thread only."""
        with StopSignal(wake_on=(signal.SIGCHLD,)) as stop:
            self._monitor.start()
            code = 0
            try:
                while code == 0 and not stop.is_set():
                    code = self._run_cycle(stop)
            finally:
                self._monitor.stop()
                self._stop_all_children(stop)
        return code

    def _run_cycle(self, stop: StopSignal) -> int:
        """Collect dead children, start those that are due, notify systemd, wait. Return an exit status other than 0 to end."""
        if stop.consume_reload():
            self._reload_roles(stop)
        for child in self._children:
            if (status := child.poll_exit()) is not None and self._record_exit(child, status):
                return CANNOT_START
            if child.process is None and self._is_due(child) and not self._start_child(child):
                return CANNOT_START
        self._notify_systemd()
        stop.wait(min(self._timings.tick, self._monitor.period))
        return 0

    def _is_due(self, child: Child) -> bool:
        return time.monotonic() >= child.not_before and not (child.role.waits_for_probes and self._is_waiting_for_probes())

    def _is_waiting_for_probes(self) -> bool:
        """Whether the probes of the start still fail, within its time limit."""
        if self._pending_start is None or self._monitor.healthy_since(self._pending_start.begun_at):
            return False
        return time.monotonic() - self._pending_start.begun_at < self._timings.probe_wait_limit

    def _record_exit(self, child: Child, status: int) -> bool:
        """Record a death. True where another start would fail again."""
        if status == CANNOT_START:
            log.error("child cannot start", child=child.role.name, hint="its own message is above; radclipd check says more")
            self._stopping_status = f"{child.role.name} cannot start: see the log, or radclipd check"
            return True
        delay = child.schedule_restart(self._timings)
        log.warning("child died", child=child.role.name, exit_status=status, restart_seconds=delay)
        return False

    def _start_child(self, child: Child) -> bool:
        try:
            child.start(self._sockets)
        except OSError as error:
            log.error("child cannot be run", child=child.role.name, error=error.strerror)
            self._stopping_status = f"{child.role.name} cannot be run: {error.strerror}"
            return False
        return True

    def _notify_systemd(self) -> None:
        """Notify systemd: status line, readiness, watchdog."""
        line = self._format_status()
        if line != self._last_status:
            self._last_status = line
            self._notifier.status(line)
        if self._pending_start is None:
            self._monitor.tick()
        elif self._has_all_running() and self._monitor.healthy_since(self._pending_start.begun_at):
            log.info("ready", **({"note": self._pending_start.note} if self._pending_start.note else {}))
            self._pending_start = None
            self._notifier.ready(line)
            self._monitor.feed_watchdog()
        elif time.monotonic() - self._pending_start.begun_at < self._timings.start_limit:
            self._extend_timeout()  # bounded by start_limit

    def _extend_timeout(self) -> None:
        """Ask systemd for time during work of bounded length in which probes need not pass: start, reload, stop."""
        if (now := time.monotonic()) - self._extended_at >= EXTENSION_SECONDS / 10:
            self._extended_at = now
            self._notifier.extend_timeout(EXTENSION_SECONDS)
            self._monitor.feed_watchdog()

    def _format_status(self) -> str:
        dead = [child.role.name for child in self._children if child.process is None and child.started_at]
        if dead:
            return f"waiting to restart {', '.join(dead)}"
        return self._monitor.status_line

    def _has_all_running(self) -> bool:
        return all(child.process is not None for child in self._children)

    def _reload_roles(self, stop: StopSignal) -> None:
        """Read the configuration and replace the children one by one; an invalid configuration changes nothing."""
        self._notifier.reloading()
        try:
            roles = self._reload() if self._reload else [child.role for child in self._children]
        except RadclipdError as error:
            log.error("reload refused, roles unchanged", error=str(error), hint=error.hint)
            self._notifier.ready(f"reload refused: {error}")
            return
        old = {child.role.name: child for child in self._children}
        for name, child in old.items():
            if name not in {role.name for role in roles}:
                self._stop_children([child], stop)
        self._children = []
        for role in roles:
            if role.name in old:
                self._stop_children([old[role.name]], stop)
            self._children.append(Child(role))
            self._start_child(self._children[-1])
        self._pending_start = _PendingStart(note="configuration reloaded")

    def _stop_all_children(self, stop: StopSignal) -> None:
        """Stop the children: first those with a socket, then the others together."""
        self._notifier.stopping(self._stopping_status)
        self._stop_children([child for child in self._children if child.role.takes_socket], stop)
        self._stop_children([child for child in self._children if not child.role.takes_socket], stop)
        for sock in self._sockets:
            sock.close()
        log.info("stopped")

    def _stop_children(self, children: Sequence[Child], stop: StopSignal) -> None:
        """Send SIGTERM, wait for each child up to its deadline, send SIGKILL."""
        begun = time.monotonic()
        for child in children:
            child.signal(signal.SIGTERM)
        running = [child for child in children if child.process is not None]
        while running:
            for child in running:
                if time.monotonic() - begun >= child.role.stop_seconds:
                    log.warning("child killed", child=child.role.name, deadline_seconds=child.role.stop_seconds)
                    child.signal(signal.SIGKILL)
                if (status := child.poll_exit()) is not None:
                    log.info("child stopped", child=child.role.name, exit_status=status)
            running = [child for child in running if child.process is not None]
            self._extend_timeout()  # bounded by the deadlines
            if running:
                _wait_for_exit(stop, self._timings.tick)


def _wait_for_exit(stop: StopSignal, seconds: float) -> None:
    """Wait for a child's end, at most `seconds`. During a stop StopSignal.wait() returns at once, so sleep instead."""
    if not stop.is_set():
        stop.wait(seconds)
        return
    with contextlib.suppress(InterruptedError):
        time.sleep(min(seconds, 0.05))
