"""Operations: what arrives, waits and fails, live; the quarantine with its retry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from adapters.web.access import AnyVisitor, OperatingVisitor
from adapters.web.label_routes import Payload
from adapters.web.pages import render_page
from adapters.web.parts import DeskParts, parts_of
from pipeline.domain import AuditEvent
from pipeline.errors import RadclipdError

EVENT_SECONDS = 2.0
"""Between two looks at the queue."""
KEEP_ALIVE_EVENTS = 10
"""Looks without a change after which a comment keeps the connection open."""
MAX_QUARANTINED = 50
MAX_EVENTS = 15
MAX_JOBS = 100
LOW_DISK_DAYS = 14.0

router = APIRouter(include_in_schema=False)


class RetryPayload(Payload):
    """Quarantined jobs to try again."""

    jobs: list[int] = Field(min_length=1, max_length=MAX_JOBS)


@router.get("/operations")
def show_operations(request: Request, visitor: AnyVisitor) -> Response:
    """Show the page."""
    return render_page(request, "operations.html", visitor, **_gather_values(parts_of(request)))


@router.get("/operations/now")
def show_state(request: Request, visitor: AnyVisitor) -> Response:
    """Return the part of the page that changes."""
    return render_page(request, "operations_now.html", visitor, **_gather_values(parts_of(request)))


@router.get("/operations/events")
def stream_events(request: Request, visitor: AnyVisitor) -> Response:
    """Tell by server-sent events that the queue has changed. The stream ends with the session."""
    return StreamingResponse(
        _watch_queue(parts_of(request), visitor.name, visitor.user.session_key), media_type="text/event-stream"
    )


@router.post("/operations/retry")
def retry_jobs(request: Request, visitor: OperatingVisitor, payload: RetryPayload) -> dict[str, str]:
    """Put quarantined jobs back into the queue."""
    with parts_of(request).catalog.begin() as tx:
        count = tx.jobs.requeue(payload.jobs)
        tx.audit(AuditEvent("requeue", "done", "", f"{count} quarantined jobs put back to work", visitor.name))
    return {"message": f"{count} jobs queued again."}


async def _watch_queue(parts: DeskParts, name: str, session_key: str) -> AsyncIterator[str]:
    before, silent = "", 0
    while True:
        try:
            now = await run_in_threadpool(_describe_queue, parts, name, session_key)
        except RadclipdError:
            now = "unreachable"
        if not now:
            return
        silent = silent + 1 if now == before else 0
        if silent == 0:
            yield f"event: change\ndata: {now}\n\n"
        elif silent % KEEP_ALIVE_EVENTS == 0:
            yield ": still here\n\n"
        before = now
        await asyncio.sleep(EVENT_SECONDS)


def _describe_queue(parts: DeskParts, name: str, session_key: str) -> str:
    """Return what makes the page stale, as one line; "" where the session is over."""
    with parts.catalog.read() as tx:
        user = tx.users.find(name)
        if user is None or user.disabled or user.session_key != session_key:
            return ""
        figures = tx.figures.current_figures()
        newest = tx.views.select("v_audit", ["id"], order=["-id"], limit=1)
    counts = {f"{kind.value} {state.value}": count for (kind, state), count in sorted(figures.jobs.items())}
    facts: dict[str, Any] = {"jobs": counts, "serving": figures.serving, "event": newest[0]["id"] if newest else 0}
    facts["stage"] = asdict(figures.stage) if figures.stage else None
    return json.dumps(facts | {"circuits": sorted(figures.open_circuits)}, default=str)


def _gather_values(parts: DeskParts) -> dict[str, Any]:
    found = parts.daemon.read(parts.catalog)
    with parts.catalog.read() as tx:
        quarantined = tx.views.select("v_jobs", where={"state": "quarantined"}, order=["-id"], limit=MAX_QUARANTINED)
        events = tx.views.select("v_audit", order=["-id"], limit=MAX_EVENTS)
    try:
        usage = dict(parts.tools.disk_usage())
    except RadclipdError:
        usage = {}
    return {
        "found": found,
        "quarantined": quarantined,
        "events": events,
        "free": usage.get("storage_free"),
        "days_left": usage["storage_free"] / found.bytes_per_day if usage and found.bytes_per_day else None,
        "low_days": LOW_DISK_DAYS,
    }
