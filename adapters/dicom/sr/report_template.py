"""The common part of all reports of one model version, built by highdicom, encoded once and filled in for each study.

A study supplies tracking UIDs, numbers, decisions, words and references to its images. Its image library and the document's header
come from the headers of its images and are built for each report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from highdicom.sr import ImageLibrary, MeasurementsAndQualitativeEvaluations, ObserverContext
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from adapters.dicom.sr import codes
from adapters.dicom.sr.dataset_template import CONTENT_SEQUENCE, DatasetTemplate, encode_dataset, encode_item, encode_sequence
from adapters.dicom.sr.tid1500 import (
    build_algorithm,
    build_evaluation,
    build_measurement_group,
    build_measurement_report,
    build_not_assessed,
    build_summary,
    reported_number,
    separate_items,
)
from pipeline.decisions import scale_of
from pipeline.domain import FINDINGS, Decision, ModelVersion, Scale
from pipeline.statements import FindingStatement, StudyStatement

BLANK_UID = "1.2.3"
BLANK_IMAGE = ("1.2.840.10008.5.1.4.1.1.1.1", BLANK_UID)
"""Stand in for the values of a study."""


class ReportTemplate:
    """The content tree of a version's reports, with blanks. A change of any field of `version` requires a new template."""

    def __init__(self, version: ModelVersion, observer: ObserverContext, *, title: str, language: str) -> None:
        self.version, self.words = version, (title, language)
        groups = [
            build_measurement_group(_build_blank_statement(finding, version), version, BLANK_UID, [BLANK_IMAGE])
            for finding in FINDINGS
        ]
        root = build_measurement_report(observer, groups, [], title=title, language=language)
        *leading, measurements = root.ContentSequence
        observed = [item for item in leading if item.RelationshipType == "HAS OBS CONTEXT" or _is_language(item)]
        self.context = [_encode_as_item(item) for item in observed]
        self.root: Dataset = root[:CONTENT_SEQUENCE]
        self.root.ContentSequence = Items()
        self._leading_items = [encode_item(encode_dataset(item)) for item in leading]
        self._measurements = _ContainerTemplate(measurements)
        self._groups = {finding: _GroupTemplate(finding, version, group) for finding, group in zip(FINDINGS, groups, strict=True)}
        self._image = DatasetTemplate(_select_items(groups[0], "IMAGE")[0], ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"))

    def fill(
        self,
        images: Sequence[Dataset],
        reported: Sequence[FindingStatement],
        statement: StudyStatement,
        tracking_uid: Callable[[str], str],
    ) -> bytes:
        """Return the encoded Content Sequence of one document. `images`: headers of the scored images; `reported`: the groups."""
        references = [
            encode_item(self._image.fill(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID))
            for image in images
        ]
        groups = [self._groups[told.finding].fill(tracking_uid(told.finding), told, references) for told in reported]
        measurements = [self._measurements.fill(groups)] if groups else []
        return encode_sequence(
            CONTENT_SEQUENCE,
            [
                *self._leading_items,
                _encode_as_item(build_summary(statement)),
                *map(_encode_as_item, build_image_library(images)),
                *measurements,
                *map(_encode_as_item, build_closing_sections(statement, self.version)),
            ],
        )


def build_image_library(images: Sequence[Dataset]) -> list[Dataset]:
    """Return TID 1600 of the images whose headers state rows and columns; nothing where none does."""
    described = [image for image in images if "Rows" in image and "Columns" in image]
    library = list(ImageLibrary(described)) if described else []
    for part in library:
        separate_items(part)
    return library


def build_closing_sections(statement: StudyStatement, version: ModelVersion) -> list[Dataset]:
    """Return what follows the measurements: the findings not assessed, and the algorithm."""
    not_assessed = build_not_assessed(statement)
    return [*([not_assessed] if not_assessed else []), build_algorithm(statement, version)]


class _ContainerTemplate:
    """A CONTAINER (PS3.3 C.17.3.2.4): its own elements all precede its Content Sequence."""

    def __init__(self, container: Dataset) -> None:
        self._own_elements = encode_dataset(container[:CONTENT_SEQUENCE])

    def fill(self, items: Iterable[bytes]) -> bytes:
        return encode_item(self._own_elements + encode_sequence(CONTENT_SEQUENCE, items))


class _GroupTemplate:
    """A measurement group: most of its items describe the algorithm and are equal for every study."""

    def __init__(self, finding: str, version: ModelVersion, group: MeasurementsAndQualitativeEvaluations) -> None:
        self._container = _ContainerTemplate(group[0])
        self._tracking = DatasetTemplate(_select_items(group, "UIDREF")[0], ("UID",))
        self._comment = DatasetTemplate(_select_comment(group), ("TextValue",))
        numbers = _select_items(group, "NUM")
        self._number = DatasetTemplate(numbers[0], ("NumericValue", "FloatingPointValue")) if numbers else None
        self._decisions = {
            decision: _encode_as_item(build_evaluation(_build_blank_statement(finding, version, decision))[0])
            for decision in codes.DECISIONS
        }
        present = self._decisions[Decision.PRESENT]
        self._items = [_choose_part(item, present) for item in group[0].ContentSequence]

    def fill(self, tracking_uid: str, told: FindingStatement, references: Sequence[bytes]) -> bytes:
        number = reported_number(told)
        filled = {
            "UIDREF": encode_item(self._tracking.fill(UID=tracking_uid)),
            "COMMENT": encode_item(self._comment.fill(TextValue=told.sentence)),
            "NUM": encode_item(self._number.fill(NumericValue=number, FloatingPointValue=number)) if self._number else b"",
            "DECISION": self._decisions[told.decision],
            "IMAGE": b"".join(references),
        }
        return self._container.fill(filled[item] if isinstance(item, str) else item for item in self._items)


def _choose_part(item: Dataset, decision: bytes) -> bytes | str:
    """Return the encoded item, or the name of the blank in its place."""
    encoded = _encode_as_item(item)
    if encoded == decision:
        return "DECISION"
    if _is_comment(item):
        return "COMMENT"
    return item.ValueType if item.ValueType in ("UIDREF", "NUM", "IMAGE") else encoded


def _build_blank_statement(finding: str, version: ModelVersion, decision: Decision = Decision.PRESENT) -> FindingStatement:
    """Return a statement with the items that the version's statements on this finding have, in place of their values."""
    scale = scale_of(version, finding)
    return FindingStatement(
        finding=finding,
        name="",
        decision=decision,
        decision_words="",
        scale=scale,
        probability=0.5 if scale is Scale.PROBABILITY else None,
        percentile=0.5 if scale is Scale.RANK else None,
        band=None,
        band_words="",
        number_words="",
        prevalence=None,
        operating_point=None,
        excess=0.0,
        reference=None,
        reason=None,
        reason_words="",
        sentence=finding,
    )


def _encode_as_item(item: Dataset) -> bytes:
    return encode_item(encode_dataset(item))


def _select_items(group: MeasurementsAndQualitativeEvaluations, value_type: str) -> list[Dataset]:
    return [item for item in group[0].ContentSequence if item.ValueType == value_type]


def _select_comment(group: MeasurementsAndQualitativeEvaluations) -> Dataset:
    comment: Dataset = next(item for item in group[0].ContentSequence if _is_comment(item))
    return comment


def _is_language(item: Dataset) -> bool:
    return bool(item.ConceptNameCodeSequence[0].CodeValue == codes.LANGUAGE.value)


def _is_comment(item: Dataset) -> bool:
    return bool(item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == codes.COMMENT.value)
