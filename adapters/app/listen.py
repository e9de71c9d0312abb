"""The role of the listener: one process, or several that share port and limit.

Several are copies of one that has loaded everything: what is loaded is in memory once. This process only looks after them: it has
threads for that, so the copies are made, and made again, by one in between that has none.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog

from adapters.app import compose
from adapters.app.work import should_stop, wait_for_stop
from adapters.ipc.slots import SharedSlots
from adapters.service import systemd
from adapters.service.health import notify_systemd
from adapters.service.signals import StopSignal
from adapters.service.supervisor import ForkedProcess, Role, Supervisor
from pipeline.errors import FatalError, TransientError

if TYPE_CHECKING:
    from adapters.config.sections import Config

LOOPBACK = "127.0.0.1"
ANY = "*"
"""In an allow-list: whoever."""
SLOTS_FILE = "places"
"""File in the image store's folder whose bytes are the places of associations."""
STOP_SLACK_SECONDS = 5.0
"""On top of the drain, before a process is killed."""
PROBE_SECONDS = 5.0
"""How long our own listener may take to answer our own C-ECHO."""
POLL_SECONDS = 1.0
HANG_SECONDS = 60.0
"""So long one of several processes may be without an answer before all are replaced."""

log = structlog.get_logger("radclipd.roles")


def listen(config: Config) -> None:
    """Receive until told to stop, then drain: no new associations, open ones end or are aborted at the deadline.

    FatalError where the processes cannot; TransientError where one of them hangs.
    """
    compose.open_catalog(config).dispose()  # so that a fault shows here
    sockets = systemd.listening_sockets() or [systemd.bind(config.listener.host, config.listener.port)]
    if config.listener.processes == 1:
        _run_single_listener(config, sockets)
    else:
        _run_listener_group(config, sockets)


def _run_single_listener(config: Config, sockets: Sequence[socket.socket]) -> None:
    catalog = compose.open_catalog(config)
    listener = compose.build_listener(config, catalog)
    listener.start(*sockets)
    log.info("listening", ae_title=config.listener.ae_title, port=listener.port, processes=1)
    echo = loopback_echo(config, listener.port)
    with (
        StopSignal() as stop,
        notify_systemd(systemd.Notifier(), [echo, catalog.probe_write], lambda: f"listening on port {listener.port}"),
    ):
        wait_for_stop(stop)
    listener.drain(config.listener.drain_seconds)
    catalog.dispose()


def _run_listener_group(config: Config, sockets: Sequence[socket.socket]) -> None:
    """Have processes listen, each also at a door of its own, where it is asked whether it is well."""

    port, count = sockets[0].getsockname()[1], config.listener.processes
    doors = [_ProbePort(config, systemd.bind(LOOPBACK, 0)) for _ in range(count)]
    crew = ForkedProcess(partial(_supervise_processes, config, sockets, doors))
    catalog = compose.open_catalog(config)
    checks = [loopback_echo(config, port), *(door.check for door in doors), catalog.probe_write]
    with StopSignal() as stop, notify_systemd(systemd.Notifier(), checks, lambda: f"listening on port {port}, {count} processes"):
        log.info("listening", ae_title=config.listener.ae_title, port=port, processes=count)
        while not should_stop(stop) and crew.poll() is None and not any(door.is_hung for door in doors):
            stop.wait(POLL_SECONDS)
        ended, hangs = crew.poll(), any(door.is_hung for door in doors)
        _stop_process(crew, config.listener.drain_seconds + STOP_SLACK_SECONDS + POLL_SECONDS)
    catalog.dispose()
    if ended is not None:
        raise FatalError(f"the listener's processes ended with status {ended}", hint="the log above says why")
    if hangs:
        raise TransientError(f"a process of the listener has not answered for {HANG_SECONDS:.0f} s", hint="it will be started anew")


class _ProbePort:
    """A port of the loopback at which one of the processes answers."""

    def __init__(self, config: Config, sock: socket.socket) -> None:
        self.sock = sock
        self._echo = loopback_echo(config, sock.getsockname()[1], LOOPBACK)
        self._answered = time.monotonic()
        self.check: Callable[[], None] = self._send_c_echo

    def _send_c_echo(self) -> None:
        self._echo()
        self._answered = time.monotonic()

    @property
    def is_hung(self) -> bool:
        return time.monotonic() - self._answered > HANG_SECONDS


def _supervise_processes(config: Config, sockets: Sequence[socket.socket], probe_ports: Sequence[_ProbePort]) -> int:
    """Make the processes, and make those again that die."""
    stop_seconds = config.listener.drain_seconds + STOP_SLACK_SECONDS
    members = [
        Role(f"listener {number}", work=partial(_run_listener_process, config, [*sockets, door.sock]), stop_seconds=stop_seconds)
        for number, door in enumerate(probe_ports, start=1)
    ]
    return Supervisor(members, notifier=systemd.Notifier({}), status=None).run()


def _run_listener_process(config: Config, sockets: Sequence[socket.socket]) -> int:
    catalog = compose.open_catalog(config)
    places = SharedSlots(config.storage.directory / SLOTS_FILE, config.listener.max_associations)
    listener = compose.build_listener(config, catalog, places)
    listener.start(*sockets)
    with StopSignal() as stop:
        wait_for_stop(stop)
    listener.drain(config.listener.drain_seconds)
    catalog.dispose()
    return 0


def _stop_process(process: ForkedProcess, seconds: float) -> None:
    """SIGTERM, and SIGKILL where it takes too long; what it has made dies with it."""
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)


def loopback_echo(config: Config, port: int, host: str = "") -> Callable[[], None]:
    """Make the probe that really asks our own listener: a C-ECHO over the loopback, or to `host`.

    What it needs is loaded when it first asks, so that the listener starts meanwhile.
    """
    called = config.listener.called_ae_titles[0] if config.listener.called_ae_titles else config.listener.ae_title
    host = host or (config.listener.host if config.listener.host not in ("", "0.0.0.0", "::") else LOOPBACK)

    def loopback_c_echo() -> None:
        from adapters.dicom.network.archive import ArchiveSettings, DicomArchive

        settings = ArchiveSettings(
            ae_title=config.listener.ae_title if called == ANY else called,
            host=host,
            port=port,
            calling_ae_title=config.listener.ae_title,  # the listener keeps a place free for its own name from its own host
            timeout_seconds=PROBE_SECONDS,
        )
        DicomArchive(settings).echo()

    return loopback_c_echo
