"""Audit events of those who look: written after the answer, so that a busy catalog delays no film."""

from __future__ import annotations

import structlog
from fastapi import BackgroundTasks

from adapters.web.parts import DeskParts
from pipeline.domain import AuditEvent
from pipeline.errors import RadclipdError

log = structlog.get_logger("radclipd.web")


def audit_later(event: AuditEvent, background: BackgroundTasks, parts: DeskParts) -> None:
    """Append the event to the audit table once the answer is sent. A failure is an error in the log."""
    background.add_task(_write_event, event, parts)


def _write_event(event: AuditEvent, parts: DeskParts) -> None:
    try:
        with parts.catalog.begin() as tx:
            tx.audit(event)
    except RadclipdError as error:
        log.error("audit not written", action=event.action, outcome=event.outcome, error=type(error).__name__)
