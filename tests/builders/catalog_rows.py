"""Rows of a catalog with the defaults that most tests need: headers, instances, statements, requests, reports."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from adapters.catalog.catalog import SqlCatalog
from pipeline import decisions, labels, rules
from pipeline.acquisition import SelectionReason
from pipeline.domain import FINDINGS, Header, ReaderStatement, Report, ReportState, Request, Sender, StoredFile
from pipeline.finding_names import all_absent
from pipeline.ports.services import Catalog
from tests.builders.fakes.versions import a_version

SENDER = Sender("ORTHANC", "127.0.0.1", "RADCLIPD")
FILE = StoredFile("aa/bb/f.dcm", "f" * 64, 10, "e" * 32)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def chest_header(study: str = "1.1", sop: str = "1.1.1", **changes: object) -> Header:
    """Return the header of a frontal chest radiograph."""
    values = {
        "sop_class_uid": rules.DIGITAL_X_RAY_FOR_PRESENTATION,
        "series_instance_uid": f"{study}.9",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "patient_id": "P1",
        "image_type": ("ORIGINAL", "PRIMARY"),
        "view_position": "PA",
        "has_pixels": True,
    }
    return Header(study_instance_uid=study, sop_instance_uid=sop, **{**values, **changes})  # type: ignore[arg-type]  # a row


def add_instance(catalog: Catalog, header: Header, *, opens: bool = True) -> None:
    """Add an instance with this header and the file FILE, in a transaction of its own."""
    with catalog.begin() as tx:
        tx.studies.add_instance(header, FILE, SENDER, opens_study=opens)


def worklist_request(study: str, reason: str = SelectionReason.POSITIVES, **changes: Any) -> Request:
    """Return the request for a study, asked for by version 1 at NOON."""
    values: dict[str, Any] = {"finding": "Mass", "reason": "why", "selection_probability": 0.5, "version": 1}
    values |= {"requested_at": NOON}
    return Request(study_instance_uid=study, selection_reason=reason, **{**values, **changes})


def import_statement(catalog: Catalog, study: str, **changes: Any) -> None:
    """Import what one reader states about a study: by default that no finding is present."""
    values: dict[str, Any] = {"findings": all_absent(), "reader": "alice", "source": "csv"}
    labels.import_readings([ReaderStatement(study_instance_uid=study, **{**values, **changes})], catalog=catalog)


def reported_header(sop: str) -> Header:
    """Return the header of an instance of study 1.4, accession number A1."""
    return Header(
        sop_instance_uid=sop,
        sop_class_uid=rules.DIGITAL_X_RAY_FOR_PRESENTATION,
        series_instance_uid="1.3",
        study_instance_uid="1.4",
        transfer_syntax_uid="1.5",
        accession_number="A1",
        view_position="PA",
    )


def pending_report(uid: str, *, revision: int = 1, predecessor: str | None = None) -> Report:
    """Return a report of study 1.4 by version 1 that is not built yet."""
    return Report(
        sop_instance_uid=uid,
        series_instance_uid=f"{uid}.1",
        study_instance_uid="1.4",
        version=1,
        revision=revision,
        state=ReportState.PENDING,
        predecessor=predecessor,
    )


def add_reported_study(url: str) -> None:
    """Add study 1.4 to an empty catalog: one instance, scored by version 1, its report 2.25.1 built and sent."""
    catalog = SqlCatalog(url)
    version = a_version(card={"preprocess": {"fingerprint": "PRE"}, "prompts": {"fingerprint": "PROMPTS"}})
    scores = np.linspace(0.1, 0.9, len(FINDINGS), dtype=np.float32)
    with catalog.begin() as tx:
        tx.versions.add(version)
        sender = Sender("PACS", "h", "US")
        tx.studies.add_instance(reported_header("1.1"), StoredFile("aa/f.dcm", "f" * 64, 7), sender, opens_study=True)
        tx.scores.add_image_scores(1, {"1.1": scores})
        predictions = decisions.predict_study(scores, version)
        tx.scores.put_predictions(1, {"1.4": predictions}, tx.studies.next_revisions(["1.4"]))
        tx.reports.ensure_pending(pending_report("2.25.1"))
        tx.reports.mark_built("2.25.1", StoredFile("bb/r.dcm", "e" * 64, 9))
        tx.reports.mark_sent("2.25.1", "0x0000")
    catalog.dispose()
