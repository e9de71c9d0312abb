"""`radclipd listen`: the listener's process, or several processes that share the port and the association limit.

Several are copies of one process that has loaded everything, so that they share its memory. A process with threads must not fork.
So three levels run: this process with the threads of the health checks, a supervisor without threads that forks, and the copies.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog

from adapters.app.compose import Parts
from adapters.app.policies import receive_policy
from adapters.ipc.slots import SharedSlots
from adapters.service import systemd
from adapters.service.health import notify_systemd
from adapters.service.signals import StopSignal, should_stop, wait_for_stop
from adapters.service.supervisor import ForkedProcess, Role, Supervisor
from pipeline import receive
from pipeline.commitment import find_uncommitted
from pipeline.deliveries import record_commitment
from pipeline.domain import AuditEvent
from pipeline.errors import FatalError, TransientError

if TYPE_CHECKING:
    from adapters.config.sections import Config
    from adapters.dicom.network.association_limit import AssociationSlots
    from adapters.dicom.network.commitment_service import CommitmentService
    from adapters.dicom.network.listener import Listener

LOOPBACK = "127.0.0.1"
ANY = "*"
"""In an allow-list: any AE title."""
SLOTS_FILE = "association-slots"
"""File in the image store's folder whose bytes are the slots of associations."""
STOP_SLACK_SECONDS = 5.0
"""Added to the drain, before a process is killed."""
PROBE_SECONDS = 5.0
"""Time limit of a C-ECHO to our own listener."""
POLL_SECONDS = 1.0
HANG_SECONDS = 60.0
"""A process that has not answered for this long is hung, and all processes are replaced."""

log = structlog.get_logger("radclipd.listen")


def listen(config: Config) -> None:
    """Receive until a signal to stop, then drain: no new associations, open ones end or are aborted at the deadline.

    FatalError where the processes cannot run; TransientError where one of them hangs.
    """
    with Parts(config) as parts:  # closed before the fork
        _ = parts.catalog  # a fault shows here
        if config.listener.tls_port and parts.tls is not None:
            parts.tls.load()
    sockets = open_sockets(config)
    if config.listener.processes == 1:
        _run_single_listener(config, sockets)
    else:
        _run_listener_group(config, sockets)


def open_sockets(config: Config) -> list[socket.socket]:
    """Return the listening sockets, the one without TLS first: those that were passed, and those that are missing. FatalError."""
    passed, wanted = systemd.listening_sockets(), config.listener
    plain = [sock for sock in passed if sock.getsockname()[1] != wanted.tls_port]
    secure = [sock for sock in passed if sock not in plain]
    if not plain:
        plain = [systemd.bind(wanted.host, wanted.port)]
    if wanted.tls_port and not secure:
        secure = [systemd.bind(wanted.host, wanted.tls_port, port_key="tls_port")]
    return [*plain, *secure]


def build_listener(parts: Parts, slots: AssociationSlots | None = None) -> Listener:
    """Make the DICOM listener, which hands each instance to pipeline.receive. `slots`: the association limit of a group."""
    from adapters.dicom.network.listener import Listener, ListenerSettings

    config, catalog = parts.config, parts.catalog
    receiver = receive.InstanceReceiver(
        catalog=catalog, images=parts.images, policy=receive_policy(config), comparison=parts.comparison
    )

    def mark_released(study_instance_uids: Sequence[str], events: Sequence[AuditEvent]) -> None:
        with catalog.begin() as tx:
            tx.studies.mark_released(study_instance_uids)
            for event in events:
                tx.audit(event)

    def audit(event: AuditEvent) -> None:
        with catalog.begin() as tx:
            tx.audit(event)

    return Listener(
        ListenerSettings(
            **config.listener.model_dump(exclude={"drain_seconds", "processes", "storage_commitment", "commitment_peers"})
        ),
        open_incoming=receiver.open_incoming,
        receive=receiver.receive,
        mark_released=mark_released,
        audit=audit,
        slots=slots,
        tls=parts.tls if config.listener.tls_port else None,
        commitment=_build_commitment(parts),
    )


def _build_commitment(parts: Parts) -> CommitmentService | None:
    """Make the service of storage commitment: for senders, and for the archive's results; None where neither is configured."""
    config = parts.config
    takes_results = config.archive.verification == "commitment"
    if not (config.listener.storage_commitment or takes_results):
        return None
    from adapters.config.types import split_address
    from adapters.dicom.network.commitment_service import CommitmentService, CommitmentSettings

    settings = CommitmentSettings(
        ae_title=config.listener.ae_title,
        is_provider=config.listener.storage_commitment,
        takes_results=takes_results,
        reply_to={title: split_address(address) for title, address in config.listener.commitment_peers.items()},
    )
    return CommitmentService(
        settings,
        lambda objects, sender: find_uncommitted(objects, sender=sender, catalog=parts.catalog, images=parts.images),
        lambda transaction_uid, result: record_commitment(transaction_uid, result, catalog=parts.catalog),
        parts.tls,
    )


def _run_single_listener(config: Config, sockets: Sequence[socket.socket]) -> None:
    with Parts(config) as parts:
        listener = build_listener(parts)
        listener.start(*sockets)
        log.info("listening", **_describe_ports(config, listener.port), processes=1)
        checks = [loopback_echo(config, listener.port), parts.catalog.probe_write, parts.images.probe_write]
        with StopSignal() as stop, notify_systemd(systemd.Notifier(), checks, lambda: f"listening on port {listener.port}"):
            wait_for_stop(stop)
        listener.drain(config.listener.drain_seconds)


def _describe_ports(config: Config, port: int) -> dict[str, object]:
    tls = {"tls_port": config.listener.tls_port} if config.listener.tls_port else {}
    return {"ae_title": config.listener.ae_title, "port": port, **tls}


def _run_listener_group(config: Config, sockets: Sequence[socket.socket]) -> None:
    """Run several listener processes, each with a probe port of its own besides the shared port."""
    port, count = sockets[0].getsockname()[1], config.listener.processes
    probe_ports = [_ProbePort(config, systemd.bind(LOOPBACK, 0)) for _ in range(count)]
    group = ForkedProcess(partial(_supervise_processes, config, sockets, probe_ports))
    with Parts(config) as parts:
        answers = [loopback_echo(config, port), *(probe.check for probe in probe_ports)]
        status = f"listening on port {port}, {count} processes"
        checks = [*answers, parts.catalog.probe_write, parts.images.probe_write]
        with StopSignal() as stop, notify_systemd(systemd.Notifier(), checks, lambda: status):
            log.info("listening", **_describe_ports(config, port), processes=count)
            while not should_stop(stop) and group.poll() is None and not any(probe.is_hung for probe in probe_ports):
                stop.wait(POLL_SECONDS)
            exit_status, hung = group.poll(), any(probe.is_hung for probe in probe_ports)
            _stop_process(group, config.listener.drain_seconds + STOP_SLACK_SECONDS + POLL_SECONDS)
    if exit_status is not None:
        raise FatalError(f"the listener's processes ended with status {exit_status}", hint="the log above says why")
    if hung:
        raise TransientError(f"a process of the listener has not answered for {HANG_SECONDS:.0f} s", hint="it will be started anew")


class _ProbePort:
    """A port of the loopback at which one of the listener processes answers."""

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
    """Fork the listener processes, and restart those that die."""
    stop_seconds = config.listener.drain_seconds + STOP_SLACK_SECONDS
    roles = [
        Role(f"listener {number}", work=partial(_run_listener_process, config, [*sockets, probe.sock]), stop_seconds=stop_seconds)
        for number, probe in enumerate(probe_ports, start=1)
    ]
    return Supervisor(roles, notifier=systemd.Notifier({}), status=None).run()


def _run_listener_process(config: Config, sockets: Sequence[socket.socket]) -> int:
    with Parts(config) as parts:
        slots = SharedSlots(config.storage.directory / SLOTS_FILE, config.listener.max_associations)
        listener = build_listener(parts, slots)
        listener.start(*sockets)
        with StopSignal() as stop:
            wait_for_stop(stop)
        listener.drain(config.listener.drain_seconds)
    return 0


def _stop_process(process: ForkedProcess, seconds: float) -> None:
    """Send SIGTERM, and SIGKILL after `seconds`. Its children die with it."""
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)


def loopback_echo(config: Config, port: int, host: str = "") -> Callable[[], None]:
    """Make the health check that sends a C-ECHO (PS3.7 9.1.5) to our own listener, over the loopback or to `host`.

    Its libraries are loaded at the first check, so that the listener starts meanwhile.
    """
    host = host or own_host(config)

    def loopback_c_echo() -> None:
        from adapters.dicom.network.archive import ArchiveSettings, DicomArchive

        settings = ArchiveSettings(
            ae_title=own_called_ae_title(config),
            host=host,
            port=port,
            calling_ae_title=config.listener.ae_title,  # the listener keeps a slot free for its own name from its own host
            timeout_seconds=PROBE_SECONDS,
        )
        DicomArchive(settings).echo()

    return loopback_c_echo


def own_host(config: Config) -> str:
    """Return the address at which this host reaches its own listener."""
    return LOOPBACK if config.listener.host in ("0.0.0.0", "::") else config.listener.host


def own_called_ae_title(config: Config) -> str:
    """Return an AE title that the listener is called by."""
    called = config.listener.called_ae_titles[0] if config.listener.called_ae_titles else ANY
    return config.listener.ae_title if called == ANY else called
