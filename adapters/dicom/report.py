"""Predictions -> a DICOM SR: Comprehensive 3D SR, TID 1500, one measurement group (TID 1501) for each finding."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from io import BytesIO
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    ComprehensiveSR,
    ContainerContentItem,
    DeviceObserverIdentifyingAttributes,
    EnhancedSR,
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
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items

from adapters.dicom import codes, part10
from adapters.dicom.codes import finding_codes
from adapters.dicom.evidence import UTF_8, evidence_of
from adapters.dicom.uids import report_uid, series_uid, tracking_uid
from pipeline.domain import Decision, ModelVersion, Prediction, Report, ReportState
from pipeline.errors import RadclipdError, ReportImpossible
from pipeline.ports import ImageStore, ReportContent
from pipeline.rules import OWN_MODEL_NAME

RESEARCH_ONLY = "Research use only. Not for diagnostic use. Preliminary, unverified output of an algorithm."
SERIES_DESCRIPTION = "AI chest findings - research only"
TRANSFER_SYNTAX = "1.2.840.10008.1.2.1"
LONG_STRING, SHORT_STRING = 64, 16  # VR LO and SH, PS3.5 6.2

CLASSES: dict[str, Any] = {
    "comprehensive-3d": Comprehensive3DSR,
    "comprehensive": ComprehensiveSR,
    "enhanced": EnhancedSR,
}
CLASS_UIDS = {
    "comprehensive-3d": "1.2.840.10008.5.1.4.1.1.88.34",
    "comprehensive": "1.2.840.10008.5.1.4.1.1.88.33",
    "enhanced": "1.2.840.10008.5.1.4.1.1.88.22",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSettings:
    """`[report]` of the configuration."""

    sop_class: str = "comprehensive-3d"
    uid_root: str = ""
    include_absent: bool = True
    manufacturer: str = "radclipd"
    institution_name: str = ""
    series_number: int = 9001


class SrWriter:
    """ports.ReportWriter by highdicom."""

    def __init__(self, settings: ReportSettings, store: ImageStore) -> None:
        self._settings, self._store = settings, store

    def identify(self, study_instance_uid: str, version: int, revision: int) -> Report:
        root = self._settings.uid_root
        return Report(
            sop_instance_uid=report_uid(root, study_instance_uid, version, revision),
            series_instance_uid=series_uid(root, study_instance_uid, version),
            study_instance_uid=study_instance_uid,
            version=version,
            revision=revision,
            state=ReportState.PENDING,
            sop_class_uid=CLASS_UIDS[self._settings.sop_class],
        )

    def write(self, content: ReportContent) -> bytes:
        if not content.evidence or not content.predictions:
            raise ReportImpossible(f"study {content.study.study_instance_uid} has no scored image to report on")
        evidence = [evidence_of(self._store.read(instance.file)) for instance in content.evidence]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a library's doubts about a name quote the name
                return _file_bytes(self._document(content, evidence))
        except RadclipdError:
            raise
        except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
            raise ReportImpossible(
                f"study {content.study.study_instance_uid}: no SR can be built from its headers ({type(error).__name__})",
                hint="please report this header to radclipd, with names and dates removed",
            ) from error

    def _document(self, content: ReportContent, evidence: list[FileDataset]) -> Dataset:
        report, settings = content.report, self._settings
        name = next(name for name, uid in CLASS_UIDS.items() if uid == report.sop_class_uid)
        document: Dataset = CLASSES[name](
            evidence=evidence,
            content=_content(content, evidence, settings),
            series_instance_uid=report.series_instance_uid,
            series_number=settings.series_number,
            sop_instance_uid=report.sop_instance_uid,
            instance_number=report.revision,
            manufacturer=settings.manufacturer,
            institution_name=settings.institution_name or None,
            is_complete=True,
            is_final=False,
            is_verified=False,
            series_description=_series_description(content.version),
            specific_character_set=UTF_8,
        )
        _finish(document, content)
        return document


def _content(content: ReportContent, evidence: Sequence[Dataset], settings: ReportSettings) -> Dataset:
    """Return the root of the tree: TID 1500 and, after its last row, what must be read in words."""
    told = [p for p in content.predictions if settings.include_absent or p.decision is not Decision.ABSENT]
    tree = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(content.version, settings)),
        procedure_reported=codes.IMAGING_PROCEDURE,
        imaging_measurements=[_group(prediction, content, settings) for prediction in told],
        referenced_images=list(evidence),
    )
    root: Dataset = tree[0]
    root.ContentSequence.append(_in_words(content.version, told))
    return root


def _observer(version: ModelVersion, settings: ReportSettings) -> ObserverContext:
    """TID 1004: each version is a device of its own."""
    return ObserverContext(
        observer_type=codes.DEVICE,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=version.device_uid,
            name=f"{OWN_MODEL_NAME} version {version.number}",
            manufacturer_name=settings.manufacturer,
            model_name=OWN_MODEL_NAME,
            serial_number=str(version.number),
            physical_location=settings.institution_name or None,
        ),
    )


def _group(prediction: Prediction, content: ReportContent, settings: ReportSettings) -> MeasurementsAndQualitativeEvaluations:
    """TID 1501 for one finding."""
    code = finding_codes()[prediction.finding]
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=tracking_uid(settings.uid_root, content.study.study_instance_uid, prediction.finding),
            identifier=f"radclipd/{prediction.finding}",
        ),
        finding_type=code.concept,
        algorithm_id=_algorithm(content.version, prediction.finding),
        finding_sites=[FindingSite(anatomic_location=code.site)],
        measurements=[_measurement(prediction, calibrated=content.version.calibrated)],
        qualitative_evaluations=[QualitativeEvaluation(name=code.concept, value=codes.DECISIONS[prediction.decision])],
        source_images=[
            SourceImageForMeasurementGroup(image.header.sop_class_uid, image.header.sop_instance_uid) for image in content.evidence
        ],
    )


def _measurement(prediction: Prediction, *, calibrated: bool) -> Measurement:
    """A calibrated score is a probability; one that is not must not be told as one."""
    if calibrated:
        return Measurement(name=codes.PROBABILITY, value=round(prediction.probability, 4), unit=codes.RATIO)
    return Measurement(name=codes.CERTAINTY_OF_FINDING, value=round(100 * prediction.probability, 2), unit=codes.PERCENT)


def _algorithm(version: ModelVersion, finding: str) -> AlgorithmIdentification:
    """TID 4019: what made the score and what it was held against."""
    card = version.card
    parameters = {
        "threshold": f"{version.thresholds[finding]:.4f}",
        "undetermined band": f"{version.band:.4f}",
        "weights SHA-256": version.weights_sha256,
        "base": version.base,
        "preprocessing": _fingerprint(card, "preprocess"),
        "prompts": _fingerprint(card, "prompts"),
        "calibrated": "yes" if version.calibrated else "no",
        "labels": version.label_fingerprint or "none (zero-shot)",
    }
    if version.marking:
        parameters["marking"] = version.marking
    return AlgorithmIdentification(
        name=OWN_MODEL_NAME,
        version=f"{version.number} {version.name}"[:LONG_STRING],
        parameters=[f"{name} = {value}" for name, value in parameters.items() if value],
        family=codes.ARTIFICIAL_INTELLIGENCE,
    )


def _fingerprint(card: dict[str, Any], part: str) -> str:
    value = card.get(part)
    return str(value.get("fingerprint", "")) if isinstance(value, dict) else str(value or "")


def _in_words(version: ModelVersion, told: Sequence[Prediction]) -> ContainerContentItem:
    """What a reader must not miss, whatever the viewer shows of the rest."""
    container = ContainerContentItem(name=codes.QUALITATIVE_EVALUATIONS, relationship_type=RelationshipTypeValues.CONTAINS)
    present = [prediction.finding.replace("_", " ") for prediction in told if prediction.decision is Decision.PRESENT]
    sentences = [RESEARCH_ONLY]
    if version.marking:
        sentences.append(f"{version.marking}: the results of this model carry no medical meaning.")
    sentences.append(f"Scored present: {', '.join(present) or 'none'}.")
    container.ContentSequence = Items(
        [
            TextContentItem(name=codes.COMMENT, value=sentence, relationship_type=RelationshipTypeValues.CONTAINS)
            for sentence in sentences
        ]
    )
    return container


def _series_description(version: ModelVersion) -> str:
    return (f"{version.marking} - {SERIES_DESCRIPTION}" if version.marking else SERIES_DESCRIPTION)[:LONG_STRING]


def _finish(document: Dataset, content: ReportContent) -> None:
    """Set what the writer leaves out: equipment (PS3.3 C.7.5.1), times of the series, the predecessor (C.17.2)."""
    now = datetime.now(UTC).astimezone()
    document.ManufacturerModelName = OWN_MODEL_NAME
    document.SoftwareVersions = [installed_version("radclipd"), f"model {content.version.number}"]
    document.DeviceSerialNumber = f"{socket.gethostname()}-{content.version.number}"[:LONG_STRING]
    document.DeviceUID = content.version.device_uid
    document.SeriesDate, document.SeriesTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    document.TimezoneOffsetFromUTC = now.strftime("%z")
    document.PreliminaryFlag = "PRELIMINARY"
    if any(code.concept.scheme_designator == codes.PRIVATE_SCHEME for code in finding_codes().values()):
        document.CodingSchemeIdentificationSequence = Items([_private_scheme()])
    if content.predecessor is not None:
        document.PredecessorDocumentsSequence = Items([_reference(content.predecessor)])


def _private_scheme() -> Dataset:
    """PS3.3 C.12.1.1: what the private designator stands for."""
    item = Dataset()
    item.CodingSchemeDesignator = codes.PRIVATE_SCHEME
    item.CodingSchemeName = "radclipd private codes"
    item.CodingSchemeResponsibleOrganization = "radclipd"
    return item


def _reference(report: Report) -> Dataset:
    """A Hierarchical SOP Instance Reference (PS3.3 table 10-3a) to one report."""
    instance = Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = report.sop_class_uid, report.sop_instance_uid
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = report.series_instance_uid, Items([instance])
    study = Dataset()
    study.StudyInstanceUID, study.ReferencedSeriesSequence = report.study_instance_uid, Items([series])
    return study


def _file_bytes(document: Dataset) -> bytes:
    """Return the DICOM file with our own file meta information."""
    whole = BytesIO()
    document.save_as(whole, enforce_file_format=True)
    body, syntax = part10.split_file(whole.getvalue())
    return part10.file_bytes(
        body, sop_class_uid=document.SOPClassUID, sop_instance_uid=document.SOPInstanceUID, transfer_syntax_uid=syntax
    )
