"""`radclipd work`: the process of a worker, which works off jobs of one kind or of several."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from adapters.app.compose import Parts
from adapters.app.policies import work_policy
from adapters.app.workers import build_worker_specs, worker_name
from adapters.service import systemd
from adapters.service.health import notify_systemd
from adapters.service.overrun_guard import ForkedOverrunGuard
from adapters.service.signals import StopSignal, should_stop
from pipeline.errors import OutOfResources
from pipeline.work import OverrunGuard, WorkerSpec, end_overrun, work_once

if TYPE_CHECKING:
    from adapters.config.sections import Config
    from pipeline.domain import Job

LEARNING_NICE = 10
"""Learning leaves the processors to the other processes."""

log = structlog.get_logger("radclipd.work")


def work(config: Config, kinds: Sequence[str]) -> None:
    """Work off jobs of these kinds until a signal to stop. NoWeights where no model version serves.

    The batch in hand is finished first; a round of learning begins anew at the next start.
    """
    kind = "+".join(kinds)
    if kind == "learn":
        with suppress(PermissionError):  # where the sandbox of the unit forbids it, the unit itself may say Nice=
            os.nice(LEARNING_NICE)
    with ForkedOverrunGuard(partial(_record_overrun, config)) as guard, Parts(config) as parts:
        version = parts.require_serving()
        log.info("working", kind=kind, version=version.number, notice=version.notice)
        checks = [parts.catalog.probe_write, *([parts.images.probe_write] if "report" in kinds else [])]
        with (
            StopSignal(wake_sockets=parts.listen_for_wakeups(kinds)) as stop,
            notify_systemd(systemd.Notifier(), checks, lambda: f"working: {kind}"),
        ):
            specs = build_worker_specs(parts, kinds, stop_requested=lambda: should_stop(stop), wait=stop.wait)
            _prepare_workers(specs)
            while not should_stop(stop):
                if not _run_workers_once(specs, parts, kind, guard, lambda: should_stop(stop)):
                    stop.wait(config.work.poll_seconds)


def _record_overrun(config: Config, jobs: Sequence[Job], seconds: float) -> None:
    """Record in the guard's process that jobs overran, in a catalog of its own."""
    with Parts(config) as parts:
        end_overrun(jobs, seconds, catalog=parts.catalog, policy=work_policy(config))


def _prepare_workers(specs: Sequence[WorkerSpec]) -> None:
    """Load the encoder before the first job needs it. The process is ready meanwhile, and jobs wait."""
    for spec in specs:
        try:
            spec.prepare()
        except OutOfResources as error:  # the first job tries again
            log.warning("catalog unreachable", error=str(error), hint=error.hint)


def _run_workers_once(
    specs: Sequence[WorkerSpec], parts: Parts, kind: str, guard: OverrunGuard, stop_requested: Callable[[], bool]
) -> int:
    """Claim and run one batch of each kind; return the number of claimed jobs. An unreachable catalog counts as no jobs."""
    name, policy, claimed = worker_name(kind), work_policy(parts.config), 0
    for spec in specs:
        if stop_requested():
            break
        try:
            claimed += work_once(spec, catalog=parts.catalog, worker=name, policy=policy, guard=guard)
        except OutOfResources as error:
            log.warning("catalog unreachable", error=str(error), hint=error.hint)
    return claimed
