"""The content of a report as highdicom's items: TID 1500, a measurement group (TID 1501) for each finding, a summary as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    ContainerContentItem,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
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
from pipeline.domain import Decision, ModelVersion, Prediction, Scale
from pipeline.rules import OWN_MODEL_NAME

RESEARCH_ONLY = "Research use only. Not for diagnostic use. Preliminary, unverified output of an algorithm."
LONG_STRING = 64  # characters of VR LO, PS3.5 6.2

ImageReference = tuple[str, str]
"""SOP Class and SOP Instance UID."""


def build_measurement_report(
    observer: ObserverContext, groups: Sequence[MeasurementsAndQualitativeEvaluations], images: Sequence[Dataset]
) -> Dataset:
    """Return the root of the tree, TID 1500, without the summary text. `images`: headers for the image library."""
    tree = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=codes.IMAGING_PROCEDURE,
        imaging_measurements=groups,
        referenced_images=images,
    )
    root: Dataset = tree[0]
    return root


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
    prediction: Prediction, version: ModelVersion, tracking_uid: str, images: Sequence[ImageReference]
) -> MeasurementsAndQualitativeEvaluations:
    """Return TID 1501 for one finding."""
    code = finding_codes()[prediction.finding]
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=tracking_uid, identifier=f"radclipd/{prediction.finding}"),
        finding_type=code.concept,
        algorithm_id=_build_algorithm(version, prediction.finding),
        finding_sites=[FindingSite(anatomic_location=code.site)],
        measurements=[_build_measurement(prediction)],
        qualitative_evaluations=[build_evaluation(prediction.finding, prediction.decision)],
        source_images=[SourceImageForMeasurementGroup(*image) for image in images],
    )


def build_evaluation(finding: str, decision: Decision) -> QualitativeEvaluation:
    """Return the decision (CID 240) under the finding's own code."""
    return QualitativeEvaluation(name=finding_codes()[finding].concept, value=codes.DECISIONS[decision])


def reported_score(prediction: Prediction) -> float:
    """Return the number in the report: a probability with four decimals, or, of another scale, per cent with two."""
    return round(prediction.score, 4) if prediction.scale is Scale.PROBABILITY else round(100 * prediction.score, 2)


def _build_measurement(prediction: Prediction) -> Measurement:
    """Return the score: Probability if it is calibrated, else Certainty of Finding."""
    is_probability = prediction.scale is Scale.PROBABILITY
    name, unit = (codes.PROBABILITY, codes.RATIO) if is_probability else (codes.CERTAINTY_OF_FINDING, codes.PERCENT)
    return Measurement(name=name, value=reported_score(prediction), unit=unit)


def _build_algorithm(version: ModelVersion, finding: str) -> AlgorithmIdentification:
    """Return TID 4019: the model version and the parameters of the score and the decision."""
    card = version.card
    parameters = {
        "threshold": f"{version.thresholds[finding]:.4f}" if finding in version.thresholds else "",
        "undetermined margin": f"{version.undetermined_margin:.4f}",
        "weights SHA-256": version.weights_sha256,
        "base": version.base,
        "preprocessing": _get_fingerprint(card, "preprocess"),
        "prompts": _get_fingerprint(card, "prompts"),
        "calibrated": "yes" if version.calibrated else "no",
        "labels": version.label_fingerprint or "none (zero-shot)",
    }
    if version.notice:
        parameters["notice"] = version.notice
    return AlgorithmIdentification(
        name=OWN_MODEL_NAME,
        version=f"{version.number} {version.name}"[:LONG_STRING],
        parameters=[f"{name} = {value}" for name, value in parameters.items() if value],
        family=codes.ARTIFICIAL_INTELLIGENCE,
    )


def _get_fingerprint(card: dict[str, Any], part: str) -> str:
    value = card.get(part)
    return str(value.get("fingerprint", "")) if isinstance(value, dict) else str(value or "")


def build_summary_text(version: ModelVersion, predictions: Sequence[Prediction]) -> ContainerContentItem:
    """Return the summary as text, for viewers that show little of the tree."""
    container = ContainerContentItem(name=codes.QUALITATIVE_EVALUATIONS, relationship_type=RelationshipTypeValues.CONTAINS)
    present = [prediction.finding.replace("_", " ") for prediction in predictions if prediction.decision is Decision.PRESENT]
    sentences = [RESEARCH_ONLY]
    if version.notice:
        sentences.append(f"{version.notice}: the results of this model carry no medical meaning.")
    sentences.append(f"Scored present: {', '.join(present) or 'none'}.")
    container.ContentSequence = Items(
        [
            TextContentItem(name=codes.COMMENT, value=sentence, relationship_type=RelationshipTypeValues.CONTAINS)
            for sentence in sentences
        ]
    )
    return container
