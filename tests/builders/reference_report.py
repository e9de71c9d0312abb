"""A report built without templates: every item by highdicom, written by pydicom. `SrWriter` must equal it byte for byte."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO

from pydicom.dataset import Dataset

from adapters.dicom.image import part10
from adapters.dicom.sr.document import ReportSettings, build_document
from adapters.dicom.sr.evidence import evidence_of
from adapters.dicom.sr.report_template import build_closing_sections
from adapters.dicom.sr.tid1500 import (
    build_measurement_group,
    build_measurement_report,
    build_observer_context,
    build_summary,
    separate_items,
)
from adapters.dicom.sr.uids import tracking_uid
from adapters.dicom.sr.writer import reported_findings
from pipeline.domain import Decision
from pipeline.ports.services import ImageStore, ReportContent


def build_reference_report(content: ReportContent, store: ImageStore, settings: ReportSettings) -> bytes:
    evidence = [evidence_of(store.read(instance.file)) for instance in content.evidence]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        document = build_document(content, evidence, _build_root(content, evidence, settings), settings)
        written = BytesIO()
        document.save_as(written, enforce_file_format=True)
    body, syntax = part10.split_file(written.getvalue())
    return part10.file_bytes(
        body, sop_class_uid=document.SOPClassUID, sop_instance_uid=document.SOPInstanceUID, transfer_syntax_uid=syntax
    )


def _build_root(content: ReportContent, evidence: Sequence[Dataset], settings: ReportSettings) -> Dataset:
    """Return the tree. highdicom builds none without a group: where no finding is assessed, the group of a stand-in is removed."""
    images = [(instance.header.sop_class_uid, instance.header.sop_instance_uid) for instance in content.evidence]
    version, statement, study = content.version, content.statement, content.study.study_instance_uid
    reported = reported_findings(content, settings)
    told = reported or [replace(statement.findings[0], decision=Decision.PRESENT)]
    root = build_measurement_report(
        build_observer_context(version, manufacturer=settings.manufacturer, institution_name=settings.institution_name),
        [build_measurement_group(one, version, tracking_uid(settings.uid_root, study, one.finding), images) for one in told],
        [image for image in evidence if "Rows" in image and "Columns" in image],
        title=statement.title,
        language=statement.language,
    )
    context = [item for item in root.ContentSequence if item.RelationshipType != "CONTAINS"]
    library_and_groups = root.ContentSequence[len(context) :] if reported else root.ContentSequence[len(context) : -1]
    root.ContentSequence = [*context, build_summary(statement), *library_and_groups, *build_closing_sections(statement, version)]
    separate_items(root)
    return root
