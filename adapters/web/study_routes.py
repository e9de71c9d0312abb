"""Studies: the list, and all that is known of one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Query, Request
from fastapi.responses import RedirectResponse, Response

from adapters.web.access import AnyVisitor, OperatingVisitor, Visitor
from adapters.web.access_events import audit_later
from adapters.web.label_routes import Study, describe_films, dump_page_data
from adapters.web.pages import render_page
from adapters.web.parts import DeskParts, parts_of
from pipeline import overview
from pipeline.domain import AuditEvent, JobKind, Report
from pipeline.errors import RadclipdError
from pipeline.labelling import list_films
from pipeline.users import Permission, may
from pipeline.withholding import resend

PAGE_ROWS = 50
MAX_NAME_LENGTH = 64
LIST_COLUMNS = (
    "study_instance_uid",
    "accession_number",
    "study_date",
    "study_description",
    "state",
    "reason",
    "instance_count",
    "last_received_at",
)
IDENTITY = ("patient_id", "issuer_of_patient_id", "accession_number")
"""Columns of v_studies that only some roles see: what names the patient or the order. Sex and age name nobody, and a film is judged
by them. Names and birth dates are not in the catalog."""

router = APIRouter(include_in_schema=False)


@router.get("/studies")
def list_studies(
    request: Request,
    visitor: AnyVisitor,
    name: Annotated[str, Query(max_length=MAX_NAME_LENGTH)] = "",
    before: Annotated[datetime | None, Query(description="Show studies received before this time.")] = None,
) -> Response:
    """Show the newest studies, or lead to the one of a UID or an accession number."""
    message = ""
    with parts_of(request).catalog.read() as tx:
        if name.strip():
            try:
                return RedirectResponse(f"/studies/{overview.find_study_uid(name.strip(), tx)}", status_code=303)
            except RadclipdError as error:
                message = f"{error}."
        after = ("-last_received_at", before) if before else None
        rows = tx.views.select("v_studies", LIST_COLUMNS, order=["-last_received_at"], after=after, limit=PAGE_ROWS)
    more = rows[-1]["last_received_at"].isoformat() if len(rows) == PAGE_ROWS else ""
    identified = may(visitor.user.role, Permission.IDENTIFY)
    return render_page(request, "studies.html", visitor, rows=rows, more=more, name=name, message=message, identified=identified)


@router.get("/studies/{study}")
def show_study(request: Request, visitor: AnyVisitor, background: BackgroundTasks, study: str) -> Response:
    """Show one study. A reader who opens the page sees the model's result: labels after that are exposed."""
    parts = parts_of(request)
    with parts.catalog.read() as tx:
        found = overview.describe_study(study, tx, parts.settings.report)
        films = list_films(study, tx, parts.settings.chest)
        newest = tx.reports.find(found.reports[0]["sop_instance_uid"]) if found.reports else None
    if may(visitor.user.role, Permission.LABEL):
        with parts.catalog.begin() as tx:
            tx.readings.mark_revealed(study, visitor.name)
    audit_later(AuditEvent("view", "done", study, "study page", visitor.name), background, parts)
    return render_page(
        request,
        "study.html",
        visitor,
        found=found,
        header=_select_header(found.study, visitor),
        films=dump_page_data({"films": describe_films(films)}),
        report_lines=_read_lines(newest, parts),
        earlier=_group_by_version(found.earlier),
    )


@router.post("/studies/act/score")
def score_again(request: Request, visitor: OperatingVisitor, study: Study) -> dict[str, str]:
    """Queue the study for scoring."""
    with parts_of(request).catalog.begin() as tx:
        overview.find_study_uid(study, tx)
        tx.jobs.put(JobKind.SCORE, study)
        tx.audit(AuditEvent("requeue", "done", study, "score again", visitor.name))
    return {"message": "The study will be scored again."}


@router.post("/studies/act/send")
def send_again(request: Request, visitor: OperatingVisitor, study: Study) -> dict[str, str]:
    """Queue the newest report of the study for sending."""
    catalog, settings = parts_of(request).catalog, parts_of(request).settings
    queued = resend([study], catalog=catalog, deliver=settings.report.deliver)
    with catalog.begin() as tx:
        tx.audit(AuditEvent("requeue", "done" if queued else "refused", study, "send again", visitor.name))
    return {"message": "The report will be sent again." if queued else "The study has no report to send."}


def _select_header(study: overview.ViewRow, visitor: Visitor) -> dict[str, Any]:
    hidden = () if may(visitor.user.role, Permission.IDENTIFY) else IDENTITY
    return {name: value for name, value in study.items() if name not in hidden and value not in ("", None)}


def _group_by_version(rows: Sequence[overview.ViewRow]) -> dict[tuple[int, int], dict[str, overview.ViewRow]]:
    """Return (revision, version) -> finding -> row of v_lineage, the newest first."""
    groups: dict[tuple[int, int], dict[str, overview.ViewRow]] = {}
    for row in sorted(rows, key=lambda row: (-row["revision"], -row["version"])):
        if row["decision"] is not None:
            groups.setdefault((row["revision"], row["version"]), {})[row["finding"]] = row
    return groups


def _read_lines(report: Report | None, parts: DeskParts) -> list[str]:
    if report is None or report.file is None:
        return []
    try:
        return list(parts.tools.read_report(report.file))
    except RadclipdError as error:
        return [str(error)]
