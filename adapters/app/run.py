"""`radclipd run`: the roles as children of one supervising parent, the listening socket in the parent's hands."""

from __future__ import annotations

from pathlib import Path

from adapters.app import compose, listen
from adapters.cli.settings import command_line
from adapters.config import sections as configuration
from adapters.config.sections import Config
from adapters.service import systemd
from adapters.service.supervisor import Role, Supervisor
from pipeline.errors import FatalError

STOP_SLACK_SECONDS = 10.0
"""On top of what a role needs to finish what it has in hand."""


def run(config: Config, path: Path | None) -> None:
    """Run until told to stop. FatalError where a role cannot start; NoWeights before anything is started."""
    catalog = compose.open_catalog(config)
    version = compose.require_serving(catalog)
    sockets = systemd.listening_sockets() or [systemd.bind(config.listener.host, config.listener.port)]
    port = sockets[0].getsockname()[1]
    notice = f" ({version.notice})" if version.notice else ""
    supervisor = Supervisor(
        roles(config, path),
        sockets=sockets,
        probes=[listen.loopback_echo(config, port), catalog.probe_write],
        status=lambda: f"{compose.queue_summary(catalog)}; model {version.number}{notice}",
        reload=lambda: roles(configuration.load(path), path),
    )
    if code := supervisor.run():
        raise FatalError(f"a role of the daemon ended with status {code}; its own message is above", hint="radclipd check")
    catalog.dispose()


def roles(config: Config, path: Path | None) -> list[Role]:
    """Return the daemon's roles in starting order: who is sent films hears them first, and what loads for seconds comes after."""
    start = command_line(path)
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
    ]
