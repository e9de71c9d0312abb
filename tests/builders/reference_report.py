"""A report built without templates: every item by highdicom, written by pydicom. `SrWriter` must equal it byte for byte."""

from __future__ import annotations

import warnings
from io import BytesIO

from adapters.dicom.image import part10
from adapters.dicom.sr.evidence import evidence_of
from adapters.dicom.sr.tid1500 import build_measurement_group, build_measurement_report, build_observer_context, build_summary_text
from adapters.dicom.sr.uids import tracking_uid
from adapters.dicom.sr.writer import ReportSettings, build_document, reported_predictions
from pipeline.ports.services import ImageStore, ReportContent


def build_reference_report(content: ReportContent, store: ImageStore, settings: ReportSettings) -> bytes:
    evidence = [evidence_of(store.read(instance.file)) for instance in content.evidence]
    images = [(instance.header.sop_class_uid, instance.header.sop_instance_uid) for instance in content.evidence]
    version, study, reported = content.version, content.study.study_instance_uid, reported_predictions(content, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = build_measurement_report(
            build_observer_context(version, manufacturer=settings.manufacturer, institution_name=settings.institution_name),
            [build_measurement_group(p, version, tracking_uid(settings.uid_root, study, p.finding), images) for p in reported],
            evidence,
        )
        root.ContentSequence.append(build_summary_text(version, reported))
        document = build_document(content, evidence, root, settings)
        written = BytesIO()
        document.save_as(written, enforce_file_format=True)
    body, syntax = part10.split_file(written.getvalue())
    return part10.file_bytes(
        body, sop_class_uid=document.SOPClassUID, sop_instance_uid=document.SOPInstanceUID, transfer_syntax_uid=syntax
    )
