"""`radclipd run`: the roles as children of one supervising parent, which holds the listening sockets."""

from __future__ import annotations

from pathlib import Path

from adapters.app.command_line import command_line
from adapters.app.compose import Parts
from adapters.app.listen import loopback_echo, open_sockets
from adapters.config import sections as configuration
from adapters.config.sections import Config
from adapters.service.supervisor import Role, Supervisor
from pipeline.domain import JobState
from pipeline.errors import ConfigurationError, FatalError
from pipeline.ports.services import Catalog

STOP_SLACK_SECONDS = 10.0
"""Added to the time that a role needs to finish its work in hand, before its process is killed."""


def run(config: Config, path: Path | None) -> None:
    """Run until a signal to stop. FatalError where a role cannot start; NoWeights before anything is started."""
    with Parts(config) as parts:
        version, catalog = parts.require_serving(), parts.catalog
        sockets = open_sockets(config)
        notice = f" ({version.notice})" if version.notice else ""
        supervisor = Supervisor(
            roles(config, path),
            sockets=sockets,
            probes=[loopback_echo(config, sockets[0].getsockname()[1]), catalog.probe_write, parts.images.probe_write],
            status=lambda: f"{queue_summary(catalog)}; model {version.number}{notice}",
            reload=lambda: roles(_load_with_same_tls_port(path, config), path),
        )
        if code := supervisor.run():
            raise FatalError(f"a role of the daemon ended with status {code}; its own message is above", hint="radclipd check")


def _load_with_same_tls_port(path: Path | None, config: Config) -> Config:
    """Read the configuration anew. ConfigurationError where the open TLS port would become a port without TLS."""
    new, port = configuration.load(path), config.listener.tls_port
    if port and new.listener.tls_port != port:
        raise ConfigurationError(f"listener.tls_port is no longer {port}", hint="a port changes by systemctl restart radclipd")
    return new


def roles(config: Config, path: Path | None) -> list[Role]:
    """Return the daemon's roles in starting order: the listener first, and roles that load for seconds last."""
    start = command_line(path)
    desk = [Role("web", [*start, "web"], waits_for_probes=True)] if config.web.enabled else []
    return [
        Role("listener", [*start, "listen"], takes_socket=True, stop_seconds=config.listener.drain_seconds + STOP_SLACK_SECONDS),
        Role("dispatcher", [*start, "dispatch"], waits_for_probes=True),
        Role("scorer", [*start, "work", "score"], stop_seconds=config.work.lease_seconds, waits_for_probes=True),
        Role("learner", [*start, "work", "learn"], waits_for_probes=True),
        Role(
            "reporter",
            [*start, "work", "report"],
            stop_seconds=config.archive.timeout_seconds + STOP_SLACK_SECONDS,
            waits_for_probes=True,
        ),
        Role("labeller", [*start, "work", "label"], waits_for_probes=True),
        *desk,
    ]


def queue_summary(catalog: Catalog) -> str:
    """Describe the queue in one line, for `systemctl status`."""
    with catalog.read() as tx:
        counts = tx.jobs.count_by_state()
    waiting = sum(n for (_, state), n in counts.items() if state is JobState.WAITING)
    quarantined = sum(n for (_, state), n in counts.items() if state is JobState.QUARANTINED)
    return f"{waiting} jobs waiting, {quarantined} in quarantine"
