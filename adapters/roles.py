"""The roles of the daemon, one process each: listen, dispatch, work. Each runs until it is told to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from adapters import wiring
from adapters.host import notify
from adapters.host.stop import StopSignal
from pipeline import housekeeping
from pipeline.errors import OutOfResources
from pipeline.work import Post, work_once

if TYPE_CHECKING:
    from adapters.catalog.catalog import SqlCatalog
    from adapters.host.config import Config

HOUR = 3600.0
log = structlog.get_logger("radclipd.roles")


def listen(config: Config) -> None:
    """Receive until told to stop, then drain: no new associations, open ones end or are aborted at the deadline."""
    stop = StopSignal()
    catalog = wiring.open_catalog(config)
    listener = wiring.build_listener(config, catalog)
    sockets = notify.listening_sockets()
    listener.start(sockets[0] if sockets else None)
    log.info("listening", ae_title=config.listener.ae_title, port=listener.port, handed_over=bool(sockets))
    notify.ready(f"listening on port {listener.port}")
    stop.wait()
    notify.stopping()
    listener.drain(config.listener.drain_seconds)
    catalog.dispose()


def dispatch(config: Config) -> None:
    """Settle studies and keep house until told to stop."""
    from adapters.host.clock import Clock

    stop = StopSignal()
    catalog = wiring.open_catalog(config)
    settle = wiring.build_settle(config, catalog)

    def settle_and_tell() -> None:
        for settled in settle():
            log.info("settled", study=settled.study_instance_uid, state=settled.state.value, reason=settled.reason)

    clock = Clock()
    clock.every(config.work.poll_seconds, "settle", settle_and_tell)
    clock.every(HOUR, "purge", lambda: housekeeping.purge_done_jobs(catalog=catalog, keep_days=config.work.keep_done_days))
    clock.start()
    notify.ready("dispatching")
    stop.wait()
    notify.stopping()
    clock.stop()
    catalog.dispose()


def work(config: Config, kind: str) -> None:
    """Work off jobs of one kind until told to stop; the batch in hand is finished first."""
    stop = StopSignal()
    catalog = wiring.open_catalog(config)
    wiring.require_serving(catalog)
    posts = wiring.build_posts(config, catalog, kind)
    notify.ready(f"working: {kind}")
    while not stop.requested:
        if not _round(posts, config, catalog, kind):
            stop.wait(config.work.poll_seconds)
    notify.stopping()
    catalog.dispose()


def _round(posts: list[Post], config: Config, catalog: SqlCatalog, kind: str) -> int:
    """Give every post one turn; return how many jobs were claimed. A catalog that is away is waited for."""
    name, policy = wiring.worker_name(kind), wiring.work_policy(config)
    try:
        return sum(work_once(post, catalog=catalog, worker=name, policy=policy) for post in posts)
    except OutOfResources as error:
        log.warning("catalog away", error=str(error), hint=error.hint)
        return 0
