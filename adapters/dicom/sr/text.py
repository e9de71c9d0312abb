"""An SR as lines of text: what a person at a terminal wants to see of it."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset

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
MEASUREMENT_GROUP, COMMENT, FINDING = "125007", "121106", "121071"


def lines_of_file(content: bytes) -> Iterator[str]:
    """Yield the lines of an SR in a DICOM file. No patient in them."""
    yield from report_lines(dcmread(BytesIO(content)))


def report_lines(report: Dataset) -> Iterator[str]:
    """Yield the head, the comments in words, then one line for each measurement group."""
    yield f"{report.SOPClassUID.name}: {_get_concept_meaning(report)}"
    for keyword in HEADER_KEYWORDS:
        value = report.get(keyword)
        if value:
            yield f"  {keyword:22} {value if isinstance(value, str) else ', '.join(value)}"
    for item in _walk_items(report):
        if _get_concept_code(item) == COMMENT:
            yield f"  {item.TextValue}"
    for item in _walk_items(report):
        if _get_concept_code(item) == MEASUREMENT_GROUP:
            yield _format_group(item)
    for study in report.get("PredecessorDocumentsSequence", []):
        for series in study.ReferencedSeriesSequence:
            yield from (f"  follows {reference.ReferencedSOPInstanceUID}" for reference in series.ReferencedSOPSequence)


def _format_group(group: Dataset) -> str:
    finding, said, score = "?", "", ""
    for item in group.ContentSequence:
        if _get_concept_code(item) == FINDING:
            finding = item.ConceptCodeSequence[0].CodeMeaning
        elif item.ValueType == "NUM":
            value = item.MeasuredValueSequence[0]
            unit = value.MeasurementUnitsCodeSequence[0].CodeValue
            score = f"{_get_concept_meaning(item)} {float(value.NumericValue):.4g}{' %' if unit == '%' else ''}"
    for item in group.ContentSequence:
        if item.ValueType == "CODE" and _get_concept_meaning(item) == finding:
            said = item.ConceptCodeSequence[0].CodeMeaning
    return f"  {finding:24} {said:13} {score}"


def _walk_items(node: Dataset) -> Iterator[Dataset]:
    for item in node.get("ContentSequence", []):
        yield item
        yield from _walk_items(item)


def _get_concept_code(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if item.get("ConceptNameCodeSequence") else ""


def _get_concept_meaning(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning) if item.get("ConceptNameCodeSequence") else ""
