"""Predictions -> a DICOM SR: Comprehensive 3D SR, TID 1500, one measurement group (TID 1501) for each finding."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as installed_version
from typing import Any

from highdicom.sr import Comprehensive3DSR, ComprehensiveSR, EnhancedSR, ObserverContext
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage, ExplicitVRLittleEndian

from adapters.dicom.image import part10
from adapters.dicom.sr import codes
from adapters.dicom.sr.codes import finding_codes
from adapters.dicom.sr.dataset_template import CONTENT_SEQUENCE, UTF_8, encode_dataset
from adapters.dicom.sr.evidence import evidence_of
from adapters.dicom.sr.report_template import ReportTemplate
from adapters.dicom.sr.tid1500 import LONG_STRING, build_observer_context
from adapters.dicom.sr.uids import report_uid, series_uid, tracking_uid
from pipeline.domain import Decision, ModelVersion, Prediction, Report, ReportState
from pipeline.errors import RadclipdError, ReportImpossible
from pipeline.ports.services import ImageStore, ReportContent
from pipeline.rules import OWN_MODEL_NAME

SERIES_DESCRIPTION = "AI chest findings - research only"
TEMPLATE_CACHE_SIZE = 4
"""Number of versions whose templates are cached: one serves, reports of another may be pending."""

SR_CLASS_UIDS = {
    "comprehensive-3d": str(Comprehensive3DSRStorage),
    "comprehensive": str(ComprehensiveSRStorage),
    "enhanced": str(EnhancedSRStorage),
}
"""`report.sop_class` -> SOP Class UID."""
SR_DOCUMENTS: dict[str, Any] = {
    Comprehensive3DSRStorage: Comprehensive3DSR,
    ComprehensiveSRStorage: ComprehensiveSR,
    EnhancedSRStorage: EnhancedSR,
}
"""SOP Class UID -> highdicom's class."""


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
    """`ports.services.ReportWriter` by highdicom. The part common to all reports of a version is cached as a `ReportTemplate`."""

    def __init__(self, settings: ReportSettings, store: ImageStore) -> None:
        self._settings, self._store = settings, store
        self._templates: dict[int, ReportTemplate] = {}

    def pending_report(self, study_instance_uid: str, version: int, revision: int) -> Report:
        root = self._settings.uid_root
        return Report(
            sop_instance_uid=report_uid(root, study_instance_uid, version, revision),
            series_instance_uid=series_uid(root, study_instance_uid, version),
            study_instance_uid=study_instance_uid,
            version=version,
            revision=revision,
            state=ReportState.PENDING,
            sop_class_uid=SR_CLASS_UIDS[self._settings.sop_class],
        )

    def write(self, content: ReportContent) -> bytes:
        if not content.evidence or not content.predictions:
            raise ReportImpossible(f"study {content.study.study_instance_uid} has no scored image to report on")
        evidence = [evidence_of(self._store.read(instance.file)) for instance in content.evidence]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's warnings quote the name
                return self._build_file(content, evidence)
        except RadclipdError:
            raise
        except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
            raise ReportImpossible(
                f"study {content.study.study_instance_uid}: no SR can be built from its headers ({type(error).__name__})",
                hint="please report this header to radclipd, with names and dates removed",
            ) from error

    def _build_file(self, content: ReportContent, evidence: Sequence[Dataset]) -> bytes:
        template = self._get_template(content.version)
        header = build_document(content, evidence, template.root, self._settings)
        tracking = partial(tracking_uid, self._settings.uid_root, content.study.study_instance_uid)
        tree = template.fill(evidence, reported_predictions(content, self._settings), tracking)
        body = encode_dataset(header[:CONTENT_SEQUENCE]) + tree + encode_dataset(header[CONTENT_SEQUENCE + 1 :])
        report = content.report
        return part10.file_bytes(
            body,
            sop_class_uid=report.sop_class_uid,
            sop_instance_uid=report.sop_instance_uid,
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )

    def _get_template(self, version: ModelVersion) -> ReportTemplate:
        """Return the version's template; a version changed in the catalog gets a new one."""
        template = self._templates.get(version.number)
        if template is None or template.version != version:
            if len(self._templates) >= TEMPLATE_CACHE_SIZE:
                self._templates.clear()
            template = self._templates[version.number] = ReportTemplate(version, self._build_observer(version))
        return template

    def _build_observer(self, version: ModelVersion) -> ObserverContext:
        settings = self._settings
        return build_observer_context(version, manufacturer=settings.manufacturer, institution_name=settings.institution_name)


def reported_predictions(content: ReportContent, settings: ReportSettings) -> list[Prediction]:
    """Return the predictions in the report; all where the settings exclude every one, for TID 1500 requires one."""
    reported = [p for p in content.predictions if settings.include_absent or p.decision is not Decision.ABSENT]
    return reported or list(content.predictions)


def build_document(content: ReportContent, evidence: Sequence[Dataset], root: Dataset, settings: ReportSettings) -> Dataset:
    """Return the SR with this root of its content tree."""
    report = content.report
    document: Dataset = SR_DOCUMENTS[report.sop_class_uid](
        evidence=evidence,
        content=root,
        series_instance_uid=report.series_instance_uid,
        series_number=settings.series_number,
        sop_instance_uid=report.sop_instance_uid,
        instance_number=report.revision,
        manufacturer=settings.manufacturer,
        institution_name=settings.institution_name or None,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=_build_series_description(content.version),
        specific_character_set=UTF_8,
    )
    _complete_document(document, content)
    return document


def _build_series_description(version: ModelVersion) -> str:
    return (f"{version.notice} - {SERIES_DESCRIPTION}" if version.notice else SERIES_DESCRIPTION)[:LONG_STRING]


def _complete_document(document: Dataset, content: ReportContent) -> None:
    """Set the elements that highdicom leaves out: equipment (PS3.3 C.7.5.1), series times, the predecessor (C.17.2)."""
    now = datetime.now(UTC).astimezone()
    document.ManufacturerModelName = OWN_MODEL_NAME
    document.SoftwareVersions = [installed_version("radclipd"), f"model {content.version.number}"]
    document.DeviceSerialNumber = f"{socket.gethostname()}-{content.version.number}"[:LONG_STRING]
    document.DeviceUID = content.version.device_uid
    document.SeriesDate, document.SeriesTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    document.TimezoneOffsetFromUTC = now.strftime("%z")
    document.PreliminaryFlag = "PRELIMINARY"
    if any(code.concept.scheme_designator == codes.PRIVATE_SCHEME for code in finding_codes().values()):
        document.CodingSchemeIdentificationSequence = Items([_build_coding_scheme_item()])
    if content.predecessor is not None:
        document.PredecessorDocumentsSequence = Items([_build_reference(content.predecessor)])


def _build_coding_scheme_item() -> Dataset:
    """Return the item that describes the private coding scheme (PS3.3 C.12.1.1)."""
    item = Dataset()
    item.CodingSchemeDesignator = codes.PRIVATE_SCHEME
    item.CodingSchemeName = "radclipd private codes"
    item.CodingSchemeResponsibleOrganization = "radclipd"
    return item


def _build_reference(report: Report) -> Dataset:
    """Return a Hierarchical SOP Instance Reference (PS3.3 table 10-3a) to one report."""
    instance = Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = report.sop_class_uid, report.sop_instance_uid
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = report.series_instance_uid, Items([instance])
    study = Dataset()
    study.StudyInstanceUID, study.ReferencedSeriesSequence = report.study_instance_uid, Items([series])
    return study
