"""The roles of the daemon but the listener (`adapters/app/listen.py`): dispatch, work. Each runs until it is told to stop.

Under `radclipd run` they are children; each can also be a systemd unit of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import structlog

from adapters.app import compose
from adapters.app.workers import build_worker_specs
from adapters.service import systemd
from adapters.service.health import notify_systemd
from adapters.service.signals import StopSignal
from pipeline import rescore
from pipeline.errors import OutOfResources
from pipeline.work import WorkerSpec, work_once

if TYPE_CHECKING:
    from adapters.catalog.catalog import SqlCatalog
    from adapters.config.sections import Config

HOUR = 3600.0
LEARNING_NICE = 10
"""Learning leaves the processors to whoever else wants them."""
RESCORE_SECONDS = 5.0
WAIT_SLICE_SECONDS = 3600.0
"""A wait that only a signal ends is taken in slices of this many seconds."""

log = structlog.get_logger("radclipd.roles")


def dispatch(config: Config) -> None:
    """Settle studies, keep house and answer scrapes until told to stop."""
    from adapters.app.metrics import open_metrics
    from adapters.catalog.catalog import SETTLE
    from adapters.service.scheduler import Scheduler

    catalog = compose.open_catalog(config)
    settle = compose.build_settle(config, catalog)

    def settle_and_tell() -> None:
        for settled in settle():
            log.info("settled", study=settled.study_instance_uid, state=settled.state.value, reason=settled.reason)

    clock = Scheduler()
    clock.add_interval(config.work.poll_seconds, "settle", settle_and_tell)
    images = compose.open_image_store(config)
    clock.add_interval(HOUR, "sweep", lambda: images.remove_stale_parts(older_than_seconds=HOUR))
    clock.add_interval(HOUR, "tidy", lambda: compose.maintain_catalog(config, catalog))
    if config.score.rescore:
        walk = rescore.RescoreCursor()

        def rescore_and_tell() -> None:
            if queued := rescore.rescore(catalog=catalog, cursor=walk):
                log.info("studies of the archive put in line to be scored again", studies=queued)

        clock.add_interval(RESCORE_SECONDS, "rescore", rescore_and_tell)
    if config.learn.cron:
        clock.add_cron(config.learn.cron, "learn", compose.build_learn_trigger(config, catalog))
    with (
        open_metrics(config, catalog) as port,
        StopSignal(wake_sockets=compose.listen_for_wakeups(config, [SETTLE])) as stop,
        notify_systemd(systemd.Notifier(), [catalog.probe_write], lambda: "dispatching"),
    ):
        if port:
            log.info("metrics", address=config.metrics.address, port=port)
        clock.start()
        while not should_stop(stop):
            stop.wait(WAIT_SLICE_SECONDS)
            clock.run_now("settle")
        clock.stop()
    catalog.dispose()


def work(config: Config, kinds: Sequence[str]) -> None:
    """Work off jobs of these kinds until told to stop; the batch in hand is finished first, and learning begins again later."""
    kind = "+".join(kinds)
    if kind == "learn":
        with suppress(PermissionError):  # where the sandbox of the unit forbids it, the unit itself may say Nice=
            os.nice(LEARNING_NICE)
    catalog = compose.open_catalog(config)
    version = compose.require_serving(catalog)
    log.info("working", kind=kind, version=version.number, notice=version.notice)
    with (
        StopSignal(wake_sockets=compose.listen_for_wakeups(config, kinds)) as stop,
        notify_systemd(systemd.Notifier(), [catalog.probe_write], lambda: f"working: {kind}"),
        ExitStack() as held,
    ):
        posts = build_worker_specs(config, catalog, kinds, stop_requested=lambda: should_stop(stop), wait=stop.wait)
        for post in posts:
            held.callback(post.close)
        _prepare_workers(posts)
        while not should_stop(stop):
            if not _run_workers_once(posts, config, catalog, kind, lambda: should_stop(stop)):
                stop.wait(config.work.poll_seconds)
    catalog.dispose()


def should_stop(stop: StopSignal) -> bool:
    """Say whether to end. A role stops to reload, too: whoever watches over it starts it again with the new configuration."""
    return stop.is_set() or stop.reload_requested


def wait_for_stop(stop: StopSignal) -> None:
    """Wait for that."""
    while not should_stop(stop):
        stop.wait(WAIT_SLICE_SECONDS)


def _prepare_workers(workers: Sequence[WorkerSpec]) -> None:
    """Load the encoder before the first job needs it. The process is ready meanwhile, and jobs wait."""
    for post in workers:
        try:
            post.prepare()
        except OutOfResources as error:  # the first job tries again
            log.warning("catalog away", error=str(error), hint=error.hint)


def _run_workers_once(
    workers: list[WorkerSpec], config: Config, catalog: SqlCatalog, kind: str, stop_requested: Callable[[], bool]
) -> int:
    """Give every post one turn; return how many jobs were claimed. A catalog that is away is waited for."""
    name, policy, claimed = compose.worker_name(kind), compose.work_policy(config), 0
    for post in workers:
        if stop_requested():
            break
        try:
            claimed += work_once(post, catalog=catalog, worker=name, policy=policy)
        except OutOfResources as error:
            log.warning("catalog away", error=str(error), hint=error.hint)
    return claimed
