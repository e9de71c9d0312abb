"""The model: versions with their measures, the labels they learn from, and the acts of promotion."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from adapters.web.access import AnyVisitor, OperatingVisitor
from adapters.web.label_routes import Payload
from adapters.web.model_figures import ModelFigures
from adapters.web.pages import render_page
from adapters.web.parts import parts_of
from pipeline import versions
from pipeline.consensus import labels_in_force
from pipeline.domain import FINDINGS, AuditEvent, Label, LabelExposure, LabelState, ModelVersion, VersionState
from pipeline.version_figures import NEXT_STUDIES, SAMPLES

MAX_REASON_LENGTH = 500

router = APIRouter(include_in_schema=False)


class ReasonPayload(Payload):
    """The reason of an act."""

    reason: str = Field(min_length=3, max_length=MAX_REASON_LENGTH)


@router.get("/model")
def show_model(request: Request, visitor: AnyVisitor) -> Response:
    """Show the page."""
    parts = parts_of(request)
    figures = parts.model.read(parts.catalog, parts.settings.worklist.labels)
    with parts.catalog.read() as tx:
        found = tx.versions.all()
        times = {
            row["number"]: row for row in tx.views.select("v_model_versions", ["number", "created_at", "served_at", "retired_at"])
        }
        labels = labels_in_force(tx.labels.all())
    serving = next((version for version in found if version.state is VersionState.SERVING), None)
    return render_page(
        request,
        "model.html",
        visitor,
        versions=[{"version": version, **times[version.number]} for version in reversed(found)],
        serving=serving,
        comparisons={version.number: version.card.get("learning", {}).get("comparisons", []) for version in found},
        measures=_list_measures(serving),
        counts=_count_labels(labels),
        exposures=Counter(label.exposure.value for label in labels),
        kinds=[exposure.value for exposure in LabelExposure],
        figures=figures,
        samples=SAMPLES,
        groups=serving.card.get("learning", {}).get("groups", []) if serving else [],
        learning=serving.card.get("learning", {}) if serving else {},
        curve=_draw_curve(figures),
        next_studies=NEXT_STUDIES,
    )


@router.post("/model/{number}/promote")
def promote_version(request: Request, visitor: OperatingVisitor, number: int, payload: ReasonPayload) -> dict[str, str]:
    """Let a version serve; its weights are verified first, in a process of their own."""
    parts = parts_of(request)
    with parts.catalog.begin() as tx:
        tx.audit(AuditEvent("promote", "done", f"version {number}", f"asked for at the desk: {payload.reason}", visitor.name))
    return {"message": parts.tools.run_verb(["versions", "promote", str(number)])}


@router.post("/model/{number}/reject")
def reject_version(request: Request, visitor: OperatingVisitor, number: int, payload: ReasonPayload) -> dict[str, str]:
    """Reject a candidate with the reason."""
    rejected = versions.reject(number, reason=payload.reason, catalog=parts_of(request).catalog, source=visitor.name)
    return {"message": f"Version {rejected.number} is rejected."}


@router.post("/model/rollback")
def roll_back(request: Request, visitor: OperatingVisitor, payload: ReasonPayload) -> dict[str, str]:
    """Reject the serving version and let its predecessor serve again."""
    parts = parts_of(request)
    with parts.catalog.begin() as tx:
        tx.audit(AuditEvent("rollback", "done", "", f"asked for at the desk: {payload.reason}", visitor.name))
    return {"message": parts.tools.run_verb(["versions", "rollback", "--reason", payload.reason])}


def _draw_curve(figures: ModelFigures) -> dict[str, Any] | None:
    """Return the learning curve as coordinates in a square of 100: points, and the ends of both axes; None without a version."""
    if not figures.points:
        return None
    highest = max(point.studies for point in figures.points)
    aucs = [point.auc for point in figures.points]
    low, high = math.floor(20 * min(aucs)) / 20, math.ceil(20 * max(aucs)) / 20
    span = high - low or 1.0
    drawn = [(100 * point.studies / highest, 100 * (high - point.auc) / span, point) for point in figures.points]
    return {"points": drawn, "low": low, "high": high, "studies": highest}


def _list_measures(version: ModelVersion | None) -> list[dict[str, Any]]:
    """Return the measures of the serving version by finding and sample; none of a zero-shot version."""
    learning: Mapping[str, Any] = version.card.get("learning", {}) if version else {}
    samples = {
        "labels, exposure none": learning.get("measures", {}),
        "labels, exposed": learning.get("exposed_measures", {}),
        "monitoring": learning.get("monitoring", {}).get("measures", {}),
    }
    return [
        {"finding": finding, "sample": sample, **measures}
        for finding in FINDINGS
        for sample, found in samples.items()
        if (measures := found.get(finding)) is not None
    ]


def _count_labels(labels: Sequence[Label]) -> list[dict[str, Any]]:
    """Return the labels in force by finding: by state, and by exposure."""
    counts = Counter((label.finding, label.state) for label in labels)
    exposures = Counter((label.finding, label.exposure) for label in labels)
    return [
        {
            "finding": finding,
            **{state.value: counts[finding, state] for state in LabelState},
            "exposures": {kind.value: exposures[finding, kind] for kind in LabelExposure},
        }
        for finding in FINDINGS
    ]
