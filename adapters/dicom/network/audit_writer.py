"""The audit events of the listener. An unreachable catalog must not withhold a response from a sender."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import structlog

from pipeline.domain import AuditEvent

MAX_QUEUED_EVENTS = 1000
"""Refused connections whose events wait for the catalog; those beyond are in the log only."""

log = structlog.get_logger("radclipd.listener")


class AuditWriter:
    """Writes events at once, or on a thread of its own for callers that must not wait for the catalog."""

    def __init__(self, audit: Callable[[AuditEvent], None]) -> None:
        self._audit = audit
        self._queue: queue.Queue[AuditEvent | None] = queue.Queue(MAX_QUEUED_EVENTS)
        self._thread: threading.Thread | None = None

    def write_event(self, event: AuditEvent) -> None:
        """Write the event. An error is logged, not raised."""
        try:
            self._audit(event)
        except Exception as error:
            log.error("audit not written", action=event.action, outcome=event.outcome, error=type(error).__name__)

    def queue_event(self, event: AuditEvent) -> None:
        """Have the event written soon. For one thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_queued, name="audit", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            log.error("audit not written", action=event.action, outcome=event.outcome, error="too many events wait")

    def _write_queued(self) -> None:
        while (event := self._queue.get()) is not None:
            self.write_event(event)

    def close(self, seconds: float = 5) -> None:
        """Write the queued events, as far as the catalog takes them in time."""
        if self._thread is not None:
            try:
                self._queue.put(None, timeout=seconds)
            except queue.Full:
                return
            self._thread.join(seconds)
