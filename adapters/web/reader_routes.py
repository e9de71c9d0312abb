"""Readers: their agreement, and the findings in dispute with both statements side by side."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from adapters.web.access import ReadingVisitor
from adapters.web.label_routes import Payload, Study, describe_films, dump_page_data
from adapters.web.pages import render_page
from adapters.web.parts import parts_of
from pipeline import agreement, labelling
from pipeline.consensus import resolve_consensus
from pipeline.domain import LabelState
from pipeline.users import Permission, may

router = APIRouter(include_in_schema=False)


class VerdictPayload(Payload):
    """A state of a finding in dispute."""

    finding: str
    state: LabelState


@router.get("/readers")
def show_readers(request: Request, visitor: ReadingVisitor) -> Response:
    """Show the visitor's agreement with others and with himself, to an administrator everybody's, and the studies in dispute."""
    parts = parts_of(request)
    everybody = may(visitor.user.role, Permission.ADMINISTER)
    with parts.catalog.read() as tx:
        labels = tx.labels.all()
        pairs = tx.readings.repeated_pairs("" if everybody else visitor.name)
    measured = [one for one in agreement.measure_agreement(labels) if everybody or visitor.name in one.readers]
    disputes: dict[str, list[str]] = {}
    for conflict in resolve_consensus(labels, parts.settings.worklist.labels).conflicts:
        disputes.setdefault(conflict.study_instance_uid, []).append(conflict.finding)
    return render_page(
        request, "readers.html", visitor, measured=measured, repeated=agreement.measure_repeatability(pairs), disputes=disputes
    )


@router.get("/readers/dispute")
def show_dispute(request: Request, visitor: ReadingVisitor, study: Study) -> Response:
    """Show the findings of a study on which readers disagree, with the film and every reader's statement."""
    parts = parts_of(request)
    with parts.catalog.read() as tx:
        films = labelling.list_films(study, tx, parts.settings.chest)
        found = resolve_consensus(tx.labels.of_studies([study]), parts.settings.worklist.labels)
    readers = sorted({vote.reader for conflict in found.conflicts for vote in conflict.votes})
    rows = [
        {"finding": one.finding, "consensus": one.state, "votes": {vote.reader: vote.state for vote in one.votes}}
        for one in found.conflicts
    ]
    data = dump_page_data({"films": describe_films(films)})
    return render_page(request, "dispute.html", visitor, study=study, readers=readers, rows=rows, films=data)


@router.post("/readers/verdict")
def give_verdict(request: Request, visitor: ReadingVisitor, study: Study, payload: VerdictPayload) -> dict[str, Any]:
    """Add the visitor's statement on one finding in dispute."""
    catalog = parts_of(request).catalog
    stated = labelling.state_finding(study, payload.finding, payload.state, reader=visitor.name, catalog=catalog)
    return {"message": f"{payload.finding}: {payload.state.value}, {stated} label stored."}
