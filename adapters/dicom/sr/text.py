"""An SR as lines of text: what a person at a terminal wants to see of it."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset

HEAD = (
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
    yield from lines(dcmread(BytesIO(content)))


def lines(report: Dataset) -> Iterator[str]:
    """Yield the head, the comments in words, then one line for each measurement group."""
    yield f"{report.SOPClassUID.name}: {_meaning(report)}"
    for keyword in HEAD:
        value = report.get(keyword)
        if value:
            yield f"  {keyword:22} {value if isinstance(value, str) else ', '.join(value)}"
    for item in _walk(report):
        if _code(item) == COMMENT:
            yield f"  {item.TextValue}"
    for item in _walk(report):
        if _code(item) == MEASUREMENT_GROUP:
            yield _group(item)
    for study in report.get("PredecessorDocumentsSequence", []):
        for series in study.ReferencedSeriesSequence:
            yield from (f"  follows {reference.ReferencedSOPInstanceUID}" for reference in series.ReferencedSOPSequence)


def _group(group: Dataset) -> str:
    finding, said, score = "?", "", ""
    for item in group.ContentSequence:
        if _code(item) == FINDING:
            finding = item.ConceptCodeSequence[0].CodeMeaning
        elif item.ValueType == "NUM":
            value = item.MeasuredValueSequence[0]
            unit = value.MeasurementUnitsCodeSequence[0].CodeValue
            score = f"{_meaning(item)} {float(value.NumericValue):.4g}{' %' if unit == '%' else ''}"
    for item in group.ContentSequence:
        if item.ValueType == "CODE" and _meaning(item) == finding:
            said = item.ConceptCodeSequence[0].CodeMeaning
    return f"  {finding:24} {said:13} {score}"


def _walk(node: Dataset) -> Iterator[Dataset]:
    for item in node.get("ContentSequence", []):
        yield item
        yield from _walk(item)


def _code(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if item.get("ConceptNameCodeSequence") else ""


def _meaning(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning) if item.get("ConceptNameCodeSequence") else ""
