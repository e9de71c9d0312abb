"""An SR as lines of text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.dicom.image.image_file import MAX_INFLATED_DOCUMENT_BYTES, inflate_file
from adapters.dicom.sr.content_tree import Code, ContentItem, hierarchical_references, read_tree, walk_tree

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
IMPRESSION = Code("121073", "DCM")

WORDS = (COMMENT, IMPRESSION, FINDING)


def lines_of_file(content: bytes) -> Iterator[str]:
    """Yield the lines of an SR in a DICOM file, without patient data."""
    yield from report_lines(dcmread(BytesIO(inflate_file(content, max_bytes=MAX_INFLATED_DOCUMENT_BYTES))))


def report_lines(report: Dataset) -> Iterator[str]:
    """Yield header elements, the words of the report, a line for each measurement group without words, and the predecessors."""
    tree = read_tree(report)
    yield f"{report.SOPClassUID.name}: {_get_concept_meaning(tree)}"
    for keyword in HEADER_KEYWORDS:
        value = report.get(keyword)
        if value:
            yield f"  {keyword:22} {value if isinstance(value, str) else ', '.join(value)}"
    items = walk_tree(tree)
    texts = (str(item.dataset.TextValue) for item in items if item.value_type == "TEXT" and item.is_named(WORDS))
    yield from (f"  {line}" for text in texts for line in text.splitlines())
    groups = (item for item in items if item.is_named(MEASUREMENT_GROUP))
    yield from (_format_group(group) for group in groups if not any(item.is_named(COMMENT) for item in group.children))
    yield from (f"  follows {uid}" for _, uid in hierarchical_references(report, "PredecessorDocumentsSequence"))


def _format_group(group: ContentItem) -> str:
    finding, decision, score = "?", "", ""
    for item in group.children:
        if item.is_named(FINDING) and item.value is not None:
            finding = item.value.meaning
        elif item.value_type == "NUM":
            value = item.dataset.MeasuredValueSequence[0]
            unit = value.MeasurementUnitsCodeSequence[0].CodeValue
            score = f"{_get_concept_meaning(item)} {float(value.NumericValue):.4g}{' %' if unit == '%' else ''}"
    for item in group.children:
        if item.value is not None and _get_concept_meaning(item) == finding:
            decision = item.value.meaning
    return f"  {finding:24} {decision:13} {score}"


def _get_concept_meaning(item: ContentItem) -> str:
    return item.name.meaning if item.name is not None else ""
