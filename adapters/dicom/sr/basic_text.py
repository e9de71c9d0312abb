"""The text report: a Basic Text SR for viewers that do not show TID 1500. Impression: the summary; Finding: the list."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import BasicTextSRStorage

from adapters.dicom.sr import codes
from adapters.dicom.sr.dataset_template import CONTENT_SEQUENCE, encode_dataset, encode_item, encode_sequence
from adapters.dicom.sr.document import build_reference, encode_document, series_description
from adapters.dicom.sr.findings_list import list_findings
from adapters.dicom.sr.tid1500 import build_section, build_text, impression_lines
from pipeline.domain import VisibleObject
from pipeline.ports.services import ReportContent

TEXT_SOP_CLASS_UID = str(BasicTextSRStorage)
LINE_BREAK = "\r\n"
"""Of VR UT: CR LF (PS3.5 6.1.3)."""


def build_text_report(
    content: ReportContent,
    visible: VisibleObject,
    predecessor: VisibleObject | None,
    header: Dataset,
    context: Sequence[bytes],
    *,
    series_number: int,
) -> bytes:
    """Return the DICOM file of a text report.

    `header`: that of the report's SR, of which the text differs in class, identity, series and title. `context`: the encoded items
    that name the observer and the language.
    """
    document = header[:]  # its elements are replaced, never changed
    document.SOPClassUID, document.SOPInstanceUID = TEXT_SOP_CLASS_UID, visible.sop_instance_uid
    document.SeriesInstanceUID, document.SeriesNumber = visible.series_instance_uid, series_number
    document.SeriesDescription = series_description(content.version, "text")
    document.ConceptNameCodeSequence = Items([codes.report_title(content.statement.title)])
    document.pop("PredecessorDocumentsSequence", None)
    document.pop("ContentTemplateSequence", None)
    if predecessor is not None:
        document.PredecessorDocumentsSequence = Items([build_reference(content.study.study_instance_uid, predecessor)])
    items = [*_build_sections(content), *context]  # the order is free, and viewers print in this one
    return encode_document(document, encode_sequence(CONTENT_SEQUENCE, items))


def _build_sections(content: ReportContent) -> list[bytes]:
    impression = LINE_BREAK.join(impression_lines(content.statement))
    findings = LINE_BREAK.join(list_findings(content.statement))
    sections = (
        build_section(codes.IMPRESSIONS, [build_text(codes.IMPRESSION, impression)]),
        build_section(codes.FINDINGS_SECTION, [build_text(codes.FINDING, findings)]),
    )
    return [encode_item(encode_dataset(section)) for section in sections]
