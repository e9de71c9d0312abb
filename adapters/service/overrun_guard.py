"""The overrun guard: a small process that ends its worker, the parent, when the worker's jobs have no outcome in time.

A thread could not: a step that loops in C keeps the interpreter lock, and one that loops in Python cannot be stopped. The guard is
forked before the worker has threads or a connection, and waits on a pipe until the worker ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import structlog

from adapters.ipc.parent_death import outlive_parent
from adapters.service.supervisor import ForkedProcess
from pipeline.domain import Job, JobKind, JobState
from pipeline.errors import RadclipdError, traceback_locations

EndOverrun = Callable[[Sequence[Job], float], None]
"""Records that jobs overran their bound of so many seconds. It opens its own catalog: it runs in another process."""

log = structlog.get_logger("radclipd.overrun_guard")


class ForkedOverrunGuard:
    """`work.OverrunGuard`. A context manager; make it before the process has threads, and before it opens the catalog."""

    def __init__(self, end_overrun: EndOverrun) -> None:
        worker, (reader, writer) = os.getpid(), os.pipe()

        def watch_pipe() -> int:
            os.close(writer)
            outlive_parent()
            return _watch_pipe(reader, worker, end_overrun)

        self._process = ForkedProcess(watch_pipe)
        os.close(reader)
        self._writer, self._has_died = writer, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._writer)
        with suppress(ChildProcessError):
            os.waitpid(self._process.pid, 0)

    @property
    def process_id(self) -> int:
        """The process of the guard."""
        return self._process.pid

    def watch(self, jobs: Sequence[Job], seconds: float) -> None:
        """Watch these jobs for `seconds` from now. Where the guard has died, the worker stops after the batch in hand."""
        message = {"seconds": seconds, "jobs": [_encode_job(job) for job in jobs]}
        encoded = json.dumps(message).encode() + b"\n"
        try:
            while encoded and not self._has_died:
                encoded = encoded[os.write(self._writer, encoded) :]
        except BrokenPipeError:
            self._has_died = True
            log.error("overrun guard has died, worker stops", guard=self._process.pid)
            os.kill(os.getpid(), signal.SIGTERM)


def _watch_pipe(reader: int, worker: int, end_overrun: EndOverrun) -> int:
    """Follow the messages until the worker has ended or overrun."""
    jobs: list[Job] = []
    received, seconds, deadline = b"", 0.0, 0.0
    while True:
        left = max(0.0, deadline - time.monotonic()) if jobs else None
        if not select.select([reader], [], [], left)[0]:
            _end_worker(worker, jobs, seconds, end_overrun)
            return 0
        part = os.read(reader, 1 << 16)
        if not part:
            return 0
        *messages, received = (received + part).split(b"\n")
        for message in messages[-1:]:
            content = json.loads(message)
            jobs, seconds = [_decode_job(values) for values in content["jobs"]], float(content["seconds"])
            deadline = time.monotonic() + seconds


def _end_worker(worker: int, jobs: Sequence[Job], seconds: float, end_overrun: EndOverrun) -> None:
    """Record the overrun, then kill the worker; the record again where the worker itself held the catalog.

    First the record: where systemd sees the worker's end, it kills this process at once.
    """
    kinds = sorted({job.kind.value for job in jobs})
    log.error("job overran, worker ended", kind="+".join(kinds), job=[job.id for job in jobs], seconds=seconds, worker=worker)
    is_recorded = _try_record(jobs, seconds, end_overrun)
    if os.getppid() == worker:
        os.kill(worker, signal.SIGKILL)
    if not is_recorded:
        _try_record(jobs, seconds, end_overrun)


def _try_record(jobs: Sequence[Job], seconds: float, end_overrun: EndOverrun) -> bool:
    try:
        end_overrun(jobs, seconds)
    except RadclipdError as error:
        log.warning("overrun not recorded", error=str(error), hint=error.hint)
        return False
    except Exception as error:  # the worker is ended whatever the catalog does
        log.error("overrun not recorded", error=type(error).__name__, locations=traceback_locations(error))
        return False
    return True


def _encode_job(job: Job) -> dict[str, Any]:
    return asdict(job) | {"due_at": job.due_at.timestamp()}


def _decode_job(values: dict[str, Any]) -> Job:
    due_at = datetime.fromtimestamp(values.pop("due_at"), UTC)
    return Job(**{**values, "kind": JobKind(values["kind"]), "state": JobState(values["state"]), "due_at": due_at})
