"""The header of an SR: everything but its content, by highdicom, completed."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from typing import Any

from highdicom.sr import Comprehensive3DSR, ComprehensiveSR, EnhancedSR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage, ExplicitVRLittleEndian

from adapters.dicom.image import part10
from adapters.dicom.sr import codes
from adapters.dicom.sr.dataset_template import CONTENT_SEQUENCE, UTF_8, encode_dataset
from adapters.dicom.sr.tid1500 import LONG_STRING
from pipeline.domain import ModelVersion, Report, VisibleKind, VisibleObject
from pipeline.errors import RadclipdError, ReportImpossible
from pipeline.ports.services import ReportContent
from pipeline.rules import OWN_MODEL_NAME

SERIES_DESCRIPTION = "AI chest findings"
"""The beginning of every series description: viewers cut it after 20 to 30 characters."""
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
    visible: tuple[VisibleKind, ...] = (VisibleKind.TEXT,)
    card_modality: str = "OT"


def encode_document(header: Dataset, tree: bytes) -> bytes:
    """Return the DICOM file of an SR: its header, without content, and its encoded Content Sequence."""
    body = encode_dataset(header[:CONTENT_SEQUENCE]) + tree + encode_dataset(header[CONTENT_SEQUENCE + 1 :])
    return part10.file_bytes(
        body,
        sop_class_uid=header.SOPClassUID,
        sop_instance_uid=header.SOPInstanceUID,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


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
        series_description=series_description(content.version),
        specific_character_set=UTF_8,
    )
    _complete_document(document, content)
    return document


@contextmanager
def translated_errors(study_instance_uid: str) -> Iterator[None]:
    """Build an object of a study: ReportImpossible where highdicom or pydicom refuse its headers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote the name
            yield
    except RadclipdError:
        raise
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise ReportImpossible(
            f"study {study_instance_uid}: no report can be built from its headers ({type(error).__name__})",
            hint="please report this header to radclipd, with names and dates removed",
        ) from error


def series_description(version: ModelVersion, kind: str = "") -> str:
    """Return the description of a series: AI first, then what it shows, then its restriction and marking."""
    shown = f"{SERIES_DESCRIPTION}, {kind}" if kind else SERIES_DESCRIPTION
    return " - ".join(part for part in (shown, "research only", version.notice) if part)[:LONG_STRING]


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
    document.CodingSchemeIdentificationSequence = Items([build_coding_scheme_item()])
    if content.predecessor is not None:
        document.PredecessorDocumentsSequence = Items([build_reference(content.study.study_instance_uid, content.predecessor)])


def build_coding_scheme_item() -> Dataset:
    """Return the item that describes the private coding scheme (PS3.3 C.12.1.1)."""
    item = Dataset()
    item.CodingSchemeDesignator = codes.PRIVATE_SCHEME
    item.CodingSchemeName = "radclipd private codes"
    item.CodingSchemeResponsibleOrganization = "radclipd"
    return item


def build_reference(study_instance_uid: str, referenced: Report | VisibleObject) -> Dataset:
    """Return a Hierarchical SOP Instance Reference (PS3.3 table 10-3a) to one object."""
    instance = Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = referenced.sop_class_uid, referenced.sop_instance_uid
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = referenced.series_instance_uid, Items([instance])
    study = Dataset()
    study.StudyInstanceUID, study.ReferencedSeriesSequence = study_instance_uid, Items([series])
    return study
