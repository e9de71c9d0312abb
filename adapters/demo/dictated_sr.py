"""Report of a radiologist in the form of a reading station: a Comprehensive SR by TID 1500 with a person observer (TID 1003)."""

from __future__ import annotations

import warnings
from collections.abc import Set
from io import BytesIO

from highdicom.sr import (
    CodedConcept,
    ComprehensiveSR,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    QualitativeEvaluation,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset

from adapters.dicom.sr import codes
from adapters.dicom.sr.dataset_template import UTF_8
from adapters.dicom.sr.evidence import evidence_of
from adapters.simulator.header import uid
from pipeline.domain import FINDINGS, Decision

PERSON = CodedConcept("121006", "DCM", "Person")
MODEL_NAME = "Reading Station"
SERIES_NUMBER = 900


def build_dictated_sr(film: bytes, present: Set[str], *, reader: str) -> bytes:
    """Return the DICOM file of a reader's report on the study of a film, with each of FINDINGS present or absent.

    `reader`: a person's name, PN. UIDs are derived from the film. ReportImpossible where the film's header cannot be read.
    """
    evidence = evidence_of(film)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the library quote the person's name
        document = ComprehensiveSR(
            evidence=[evidence],
            content=_build_measurement_report(evidence, present, reader)[0],
            series_instance_uid=uid("dictated", evidence.SOPInstanceUID, "series"),
            series_number=SERIES_NUMBER,
            sop_instance_uid=uid("dictated", evidence.SOPInstanceUID),
            instance_number=1,
            manufacturer="phantom",
            is_complete=True,
            is_verified=False,
            series_description="Radiologist's findings",
            specific_character_set=UTF_8,
        )
        document.ManufacturerModelName = MODEL_NAME
        whole = BytesIO()
        document.save_as(whole, enforce_file_format=True)
    return whole.getvalue()


def _build_measurement_report(evidence: Dataset, present: Set[str], reader: str) -> MeasurementReport:
    person = ObserverContext(PERSON, PersonObserverIdentifyingAttributes(name=reader))
    return MeasurementReport(
        observation_context=ObservationContext(observer_person_context=person),
        procedure_reported=codes.IMAGING_PROCEDURE,
        imaging_measurements=[_build_finding_group(evidence, finding, finding in present) for finding in FINDINGS],
        referenced_images=[evidence],
    )


def _build_finding_group(evidence: Dataset, finding: str, present: bool) -> MeasurementsAndQualitativeEvaluations:
    """Return the TID 1501 group of one finding."""
    concept = codes.finding_codes()[finding].concept
    decision = Decision.PRESENT if present else Decision.ABSENT
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=uid("dictated", evidence.SOPInstanceUID, finding), identifier=finding),
        finding_type=concept,
        qualitative_evaluations=[QualitativeEvaluation(name=concept, value=codes.DECISIONS[decision])],
    )
