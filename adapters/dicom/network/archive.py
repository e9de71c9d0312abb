"""The archive (PACS) as we see it: C-STORE of reports, C-FIND of instance counts, C-ECHO. A fresh association for each call."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from pipeline.errors import ArchiveBusy, ArchiveUnreachable, RadclipdError, RefusedByArchive

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # PS3.4 C.6.2

# C-STORE status ranges, PS3.4 table B.2-1 and PS3.7 annex C
SUCCESS = 0x0000
WARNINGS = range(0xB000, 0xC000)
OUT_OF_RESOURCES = range(0xA700, 0xA800)
DUPLICATE_SOP_INSTANCE = 0x0111
PENDING = (0xFF00, 0xFF01)
PROCESSING_FAILURE, NOT_AUTHORIZED = 0x0110, 0x0124
TEMPORARY_FAILURES = {PROCESSING_FAILURE, NOT_AUTHORIZED}

_config.LOG_HANDLER_LEVEL = "none"  # pynetdicom would log whole requests
logging.getLogger("pynetdicom.transport").setLevel(logging.CRITICAL)  # "connection refused": our own error says it, with the remedy
log = logging.getLogger("radclipd.archive")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSettings:
    """`[archive]` of the configuration."""

    ae_title: str = "ORTHANC"
    host: str = "127.0.0.1"
    port: int = 4242
    calling_ae_title: str = "RADCLIPD"
    timeout_seconds: float = 30


class DicomArchive:
    """ports.Archive over DIMSE."""

    def __init__(self, settings: ArchiveSettings) -> None:
        self._settings = settings

    @property
    def name(self) -> str:
        return self._settings.ae_title

    def store(self, content: bytes) -> str:
        dataset = dcmread(BytesIO(content))
        syntaxes = [str(dataset.file_meta.TransferSyntaxUID), str(ImplicitVRLittleEndian)]
        with self._open_association([build_context(dataset.SOPClassUID, list(dict.fromkeys(syntaxes)))]) as association:
            try:
                answer = association.send_c_store(dataset)
            except ValueError as error:
                raise RefusedByArchive(
                    f"{self._describe_archive()} accepts no {dataset.SOPClassUID.name}",
                    hint="choose another report.sop_class it knows",
                ) from error
        return self._check_store_status(answer)

    def _check_store_status(self, answer: Dataset) -> str:
        """Translate a C-STORE-RSP status."""
        if "Status" not in answer:
            raise ArchiveUnreachable(f"{self._describe_archive()} gave no answer to C-STORE", hint=self._suggest_remedy())
        status = int(answer.Status)
        words = f"0x{status:04X}"
        if status in (SUCCESS, DUPLICATE_SOP_INSTANCE) or status in WARNINGS:
            return words
        if status in OUT_OF_RESOURCES or status in TEMPORARY_FAILURES:
            raise ArchiveBusy(
                f"{self._describe_archive()} cannot store now: {words}", hint="is its disk full? see the archive's own log"
            )
        raise RefusedByArchive(f"{self._describe_archive()} refuses the report: {words}", hint="see the archive's own log")

    def count_instances(self, study_instance_uid: str) -> int | None:
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyInstanceUID = study_instance_uid
        query.NumberOfStudyRelatedInstances = None
        try:
            with self._open_association([build_context(STUDY_ROOT_FIND)]) as association:
                found = [
                    identifier
                    for status, identifier in association.send_c_find(query, STUDY_ROOT_FIND)
                    if status and int(status.get("Status", SUCCESS)) in PENDING and identifier is not None
                ]
        except (RadclipdError, ValueError) as error:
            log.info("archive cannot count", extra={"error": str(error)})
            return None
        counts = [identifier.get("NumberOfStudyRelatedInstances") for identifier in found]
        return int(counts[0]) if len(counts) == 1 and counts[0] is not None else None

    def echo(self) -> None:
        with self._open_association([build_context(VERIFICATION)]) as association:
            try:
                answer = association.send_c_echo()
            except ValueError as error:
                raise ArchiveUnreachable(
                    f"{self._describe_archive()} does not accept C-ECHO", hint=self._suggest_remedy()
                ) from error
        if int(answer.get("Status", 0xFFFF)) != SUCCESS:
            raise ArchiveUnreachable(f"{self._describe_archive()} did not answer C-ECHO with Success", hint=self._suggest_remedy())

    @contextmanager
    def _open_association(self, contexts: list[PresentationContext], **options: Any) -> Iterator[Association]:
        """Open and, in the end, release an association; `more` as AE.associate takes it. ArchiveUnreachable, RefusedByArchive."""
        settings = self._settings
        ae = AE(settings.calling_ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = settings.timeout_seconds
        association = ae.associate(settings.host, settings.port, contexts=contexts, ae_title=settings.ae_title, **options)
        if not association.is_established:
            raise self._build_association_error(association)
        try:
            yield association
        finally:
            if association.is_established:
                association.release()

    def _build_association_error(self, association: Association) -> RadclipdError:
        if association.is_rejected:
            return ArchiveUnreachable(
                f"{self._describe_archive()} rejects the association of {self._settings.calling_ae_title}",
                hint="is our AE title known there, and archive.ae_title the one it has?",
            )
        if association.acceptor.primitive is not None:
            return RefusedByArchive(
                f"{self._describe_archive()} accepts none of the offered presentation contexts",
                hint="choose another report.sop_class",
            )
        return ArchiveUnreachable(f"{self._describe_archive()} cannot be reached", hint=self._suggest_remedy())

    def _describe_archive(self) -> str:
        return f"archive {self._settings.ae_title} at {self._settings.host}:{self._settings.port}"

    def _suggest_remedy(self) -> str:
        return "is it running, and archive.host and archive.port right?"
