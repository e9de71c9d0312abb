"""An SR as lines of text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.dicom.image.image_file import MAX_INFLATED_DOCUMENT_BYTES, inflate_file
from adapters.dicom.sr.content_tree import Code, children, descendants, has_concept_name, hierarchical_references, name_of

HEADER_KEYWORDS = (
    "SeriesDescription",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "CompletionFlag",
    "VerificationFlag",
    "PreliminaryFlag",
    "ManufacturerModelName",
    "SoftwareVersions",
    "ContentDate",
)
MEASUREMENT_GROUP, COMMENT, FINDING = Code("125007", "DCM"), Code("121106", "DCM"), Code("121071", "DCM")


def lines_of_file(content: bytes) -> Iterator[str]:
    """Yield the lines of an SR in a DICOM file, without patient data."""
    yield from report_lines(dcmread(BytesIO(inflate_file(content, max_bytes=MAX_INFLATED_DOCUMENT_BYTES))))


def report_lines(report: Dataset) -> Iterator[str]:
    """Yield header elements, comments, a line for each measurement group, and the predecessors."""
    yield f"{report.SOPClassUID.name}: {_get_concept_meaning(report)}"
    for keyword in HEADER_KEYWORDS:
        value = report.get(keyword)
        if value:
            yield f"  {keyword:22} {value if isinstance(value, str) else ', '.join(value)}"
    items = list(descendants(report))
    yield from (f"  {item.TextValue}" for item in items if has_concept_name(item, COMMENT))
    yield from (_format_group(item) for item in items if has_concept_name(item, MEASUREMENT_GROUP))
    yield from (f"  follows {uid}" for _, uid in hierarchical_references(report, "PredecessorDocumentsSequence"))


def _format_group(group: Dataset) -> str:
    finding, decision, score = "?", "", ""
    for item in children(group):
        if has_concept_name(item, FINDING):
            finding = item.ConceptCodeSequence[0].CodeMeaning
        elif item.ValueType == "NUM":
            value = item.MeasuredValueSequence[0]
            unit = value.MeasurementUnitsCodeSequence[0].CodeValue
            score = f"{_get_concept_meaning(item)} {float(value.NumericValue):.4g}{' %' if unit == '%' else ''}"
    for item in children(group):
        if item.ValueType == "CODE" and _get_concept_meaning(item) == finding:
            decision = item.ConceptCodeSequence[0].CodeMeaning
    return f"  {finding:24} {decision:13} {score}"


def _get_concept_meaning(item: Dataset) -> str:
    name = name_of(item)
    return name.meaning if name is not None else ""
