"""The content of a report as highdicom's items: TID 1500, a summary as text, a measurement group (TID 1501) for each finding.

A root title other than 126000 and separate items let text viewers show the tree; the words come from the study's statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from adapters.dicom.sr import codes
from adapters.dicom.sr.codes import finding_codes
from pipeline.domain import FINDINGS, ModelVersion, Scale
from pipeline.rules import OWN_MODEL_NAME
from pipeline.statements import FindingStatement, StudyStatement

LONG_STRING = 64  # characters of VR LO, PS3.5 6.2

ImageReference = tuple[str, str]
"""SOP Class and SOP Instance UID."""


def build_measurement_report(
    observer: ObserverContext,
    groups: Sequence[MeasurementsAndQualitativeEvaluations],
    images: Sequence[Dataset],
    *,
    title: str,
    language: str,
) -> Dataset:
    """Return the root of the tree, TID 1500, without summary and algorithm. `images`: headers for the image library."""
    tree = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=codes.IMAGING_PROCEDURE,
        imaging_measurements=groups,
        title=codes.report_title(title),
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(codes.language_code(language)),
        referenced_images=images,
    )
    root: Dataset = tree[0]
    separate_items(root)
    return root


def separate_items(item: Dataset) -> None:
    """Set SEPARATE in a container and those below it: viewers print CONTINUOUS as one run-on text (PS3.3 C.17.3.2.4)."""
    if item.ValueType == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for below in item.get("ContentSequence", ()):
        separate_items(below)


def build_observer_context(version: ModelVersion, *, manufacturer: str, institution_name: str) -> ObserverContext:
    """Return TID 1004: each model version is a device of its own."""
    return ObserverContext(
        observer_type=codes.DEVICE,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=version.device_uid,
            name=f"{OWN_MODEL_NAME} version {version.number}",
            manufacturer_name=manufacturer,
            model_name=OWN_MODEL_NAME,
            serial_number=str(version.number),
            physical_location=institution_name or None,
        ),
    )


def build_measurement_group(
    told: FindingStatement, version: ModelVersion, tracking_uid: str, images: Sequence[ImageReference]
) -> MeasurementsAndQualitativeEvaluations:
    """Return TID 1501 for one assessed finding. Its algorithm's parameters stand once, in `build_algorithm`."""
    code = finding_codes()[told.finding]
    measurement = _build_measurement(told)
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=tracking_uid, identifier=f"radclipd/{told.finding}"),
        finding_type=code.concept,
        algorithm_id=AlgorithmIdentification(name=OWN_MODEL_NAME, version=_get_version_text(version)),
        finding_sites=[FindingSite(anatomic_location=code.site)],
        measurements=[measurement] if measurement else [],
        qualitative_evaluations=[build_evaluation(told)],
        source_images=[SourceImageForMeasurementGroup(*image) for image in images],
    )
    group[0].ContentSequence.insert(2, build_text(codes.COMMENT, told.sentence))  # after the tracking pair
    separate_items(group[0])
    return group


def build_evaluation(told: FindingStatement) -> QualitativeEvaluation:
    """Return the decision (CID 240) under the finding's own code."""
    return QualitativeEvaluation(name=finding_codes()[told.finding].concept, value=codes.DECISIONS[told.decision])


def reported_number(told: FindingStatement) -> float | None:
    """Return the number in the report: a probability with four decimals, a percentile in per cent with two, or none."""
    if told.probability is not None:
        return round(told.probability, 4)
    return None if told.percentile is None else round(100 * told.percentile, 2)


def _build_measurement(told: FindingStatement) -> Measurement | None:
    number = reported_number(told)
    if number is None:
        return None
    name, unit = (codes.PROBABILITY, codes.RATIO) if told.probability is not None else (codes.PERCENTILE_RANKING, codes.PERCENT)
    return Measurement(name=name, value=number, unit=unit)


def build_text(name: CodedConcept, text: str) -> TextContentItem:
    """Return a contained TEXT item."""
    return TextContentItem(name=name, value=text, relationship_type=RelationshipTypeValues.CONTAINS)


def build_section(name: CodedConcept, items: Sequence[Dataset]) -> ContainerContentItem:
    """Return a contained CONTAINER with separate items."""
    section = ContainerContentItem(name=name, relationship_type=RelationshipTypeValues.CONTAINS, is_content_continuous=False)
    section.ContentSequence = Items(items)
    return section


def build_summary(statement: StudyStatement) -> ContainerContentItem:
    """Return the summary: the statement on research use, the marking of the version, the lines on the findings."""
    return build_section(codes.SUMMARY, [build_text(codes.COMMENT, line) for line in impression_lines(statement)])


def impression_lines(statement: StudyStatement) -> list[str]:
    """Return the summary of a study as lines: what a reader must know first comes first."""
    return [line for line in (statement.research_only, statement.notice, *statement.summary, statement.version_line) if line]


def build_not_assessed(statement: StudyStatement) -> ContainerContentItem | None:
    """Return the findings that are not assessed (TID 1500 row 10), each with its reason; None where all are assessed.

    They have no measurement group: readers take a group with a finding for a statement on its presence.
    """
    items = []
    for told in statement.findings:
        if told.excess is None:
            item = CodeContentItem(
                name=finding_codes()[told.finding].concept,
                value=codes.NOT_EVALUATED,
                relationship_type=RelationshipTypeValues.CONTAINS,
            )
            reason = build_text(codes.COMMENT, told.sentence)
            reason.RelationshipType = RelationshipTypeValues.HAS_PROPERTIES.value
            item.ContentSequence = Items([reason])
            items.append(item)
    return build_section(codes.QUALITATIVE_EVALUATIONS, items) if items else None


def build_algorithm(statement: StudyStatement, version: ModelVersion) -> ContainerContentItem:
    """Return TID 4019 of the version with the parameters of its scores and decisions, once for all findings."""
    texts = [(codes.ALGORITHM_NAME, OWN_MODEL_NAME), (codes.ALGORITHM_VERSION, _get_version_text(version))]
    parameters = _list_parameters(statement, version).items()
    texts += [(codes.ALGORITHM_PARAMETERS, f"{name} = {value}") for name, value in parameters if value]
    family = CodeContentItem(
        name=codes.ALGORITHM_FAMILY, value=codes.ARTIFICIAL_INTELLIGENCE, relationship_type=RelationshipTypeValues.CONTAINS
    )
    return build_section(codes.ALGORITHM_PARAMETERS, [*(build_text(*pair) for pair in texts), family])


def _list_parameters(statement: StudyStatement, version: ModelVersion) -> dict[str, str]:
    card, findings = version.card, [statement.of(finding) for finding in FINDINGS]
    points = [f"{one.finding} {one.operating_point:.4f}" for one in findings if one.operating_point is not None]
    references = sorted({one.reference for one in findings if one.reference is not None})
    return {
        "operating points": ", ".join(points),
        "undetermined margin": f"{version.undetermined_margin:.4f}",
        "reference distribution": ", ".join(map(str, references)),
        "weights SHA-256": version.weights_sha256,
        "base": version.base,
        "preprocessing": _get_fingerprint(card, "preprocess"),
        "prompts": _get_fingerprint(card, "prompts"),
        "calibrated": ", ".join(one.finding for one in findings if one.scale is Scale.PROBABILITY) or "none",
        "labels": version.label_fingerprint or "none (zero-shot)",
        "notice": version.notice,
    }


def _get_version_text(version: ModelVersion) -> str:
    return f"{version.number} {version.name}"[:LONG_STRING]


def _get_fingerprint(card: dict[str, Any], part: str) -> str:
    value = card.get(part)
    return str(value.get("fingerprint", "")) if isinstance(value, dict) else str(value or "")
