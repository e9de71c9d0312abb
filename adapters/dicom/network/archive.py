"""The client (SCU) of the archive: C-STORE of reports, C-FIND of instance counts, C-ECHO. Each call opens an association."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
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

from adapters.dicom.network.dimse import (
    DUPLICATE_SOP_INSTANCE,
    NOT_AUTHORIZED,
    OUT_OF_RESOURCES_STATUSES,
    PENDING_STATUSES,
    PROCESSING_FAILURE,
    STUDY_ROOT_FIND,
    SUCCESS,
    VERIFICATION,
    WARNING_STATUSES,
)
from pipeline.errors import ArchiveBusy, ArchiveUnreachable, RadclipdError, RefusedByArchive
from pipeline.ports.services import Archive

TEMPORARY_FAILURES = {PROCESSING_FAILURE, NOT_AUTHORIZED, *OUT_OF_RESOURCES_STATUSES}
"""C-STORE statuses after which the same object may be accepted later."""
NO_STATUS = 0xFFFF
"""Stands for the status of a response that has none."""

_config.LOG_HANDLER_LEVEL = "none"  # pynetdicom would log whole requests
logging.getLogger("pynetdicom.transport").setLevel(logging.CRITICAL)  # ArchiveUnreachable reports a refused connection
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
    """`ports.services.Archive` over DIMSE."""

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
        """Return the status of a C-STORE-RSP as text; ArchiveBusy, ArchiveUnreachable or RefusedByArchive unless it was stored."""
        if "Status" not in answer:
            raise ArchiveUnreachable(f"{self._describe_archive()} gave no answer to C-STORE", hint=self._suggest_remedy())
        status = int(answer.Status)
        text = f"0x{status:04X}"
        if status in (SUCCESS, DUPLICATE_SOP_INSTANCE) or status in WARNING_STATUSES:
            return text
        if status in TEMPORARY_FAILURES:
            raise ArchiveBusy(
                f"{self._describe_archive()} cannot store now: {text}", hint="is its disk full? see the archive's own log"
            )
        raise RefusedByArchive(f"{self._describe_archive()} refuses the report: {text}", hint="see the archive's own log")

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
                    if status and int(status.get("Status", SUCCESS)) in PENDING_STATUSES and identifier is not None
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
        if int(answer.get("Status", NO_STATUS)) != SUCCESS:
            raise ArchiveUnreachable(f"{self._describe_archive()} did not answer C-ECHO with Success", hint=self._suggest_remedy())

    @contextmanager
    def _open_association(self, contexts: list[PresentationContext], **options: Any) -> Iterator[Association]:
        """Open an association and release it at the end. `options` go to AE.associate. ArchiveUnreachable, RefusedByArchive."""
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


class CachedInstanceCounter:
    """Instance counts of an archive, each queried at most once in `max_age_seconds`: the dispatcher polls twice a second."""

    def __init__(self, archive: Archive, *, max_age_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._archive, self._max_age_seconds, self._clock = archive, max_age_seconds, clock
        self._counts: dict[str, tuple[float, int | None]] = {}  # StudyInstanceUID -> time of the query, count

    def count_instances(self, study_instance_uid: str) -> int | None:
        """Return the count of the study as of at most `max_age_seconds` ago; None where the archive does not know it."""
        now = self._clock()
        self._counts = {uid: entry for uid, entry in self._counts.items() if now - entry[0] < self._max_age_seconds}
        if study_instance_uid not in self._counts:
            self._counts[study_instance_uid] = (now, self._archive.count_instances(study_instance_uid))
        return self._counts[study_instance_uid][1]
