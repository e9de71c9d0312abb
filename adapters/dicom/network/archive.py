"""The client (SCU) of the archive: C-STORE of reports, C-FIND of instance counts, C-ECHO. Each call opens an association."""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket

from adapters.dicom.network.commitment import (
    REQUEST_COMMITMENT,
    CommitmentRequest,
    ReferencedObject,
    build_request,
    read_result,
)
from adapters.dicom.network.dimse import (
    DUPLICATE_SOP_INSTANCE,
    NOT_AUTHORIZED,
    OUT_OF_RESOURCES_STATUSES,
    PENDING_STATUSES,
    PROCESSING_FAILURE,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    STUDY_ROOT_FIND,
    SUCCESS,
    VERIFICATION,
    WARNING_STATUSES,
)
from adapters.dicom.network.tls import ClientTlsSocket, PeerCertificate, TlsEndpoint
from pipeline.domain import Delivery
from pipeline.errors import ArchiveBusy, ArchiveUnreachable, RadclipdError, RefusedByArchive

TEMPORARY_FAILURES = {PROCESSING_FAILURE, NOT_AUTHORIZED, *OUT_OF_RESOURCES_STATUSES}
"""C-STORE statuses after which the same object may be accepted later."""
NO_STATUS = 0xFFFF
"""Stands for the status of a response that has none."""
COMMITMENT_WAIT_SECONDS = 1.0
"""Time for the result of a storage commitment request on the same association; most archives open another one to the listener."""
STEPS_OF_A_REQUEST = 4
"""Connection, A-ASSOCIATE, DIMSE response, A-RELEASE: each waits for the archive up to `timeout_seconds`."""

_config.LOG_HANDLER_LEVEL = "none"  # pynetdicom would log whole requests
logging.getLogger("pynetdicom.transport").setLevel(logging.CRITICAL)  # ArchiveUnreachable reports a refused connection


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSettings:
    """`[archive]` of the configuration."""

    ae_title: str = "ORTHANC"
    host: str = "127.0.0.1"
    port: int = 4242
    calling_ae_title: str = "RADCLIPD"
    timeout_seconds: float = 30


class DicomArchive:
    """`ports.services.Archive` over DIMSE. `tls`: for DICOM TLS."""

    def __init__(self, settings: ArchiveSettings, tls: TlsEndpoint | None = None) -> None:
        self._settings, self._tls = settings, tls
        self.certificate: PeerCertificate | None = None
        """Certificate that the archive has shown last."""

    @property
    def name(self) -> str:
        return self._settings.ae_title

    def store(self, content: bytes) -> str:
        dataset = dcmread(BytesIO(content))
        syntaxes = [str(dataset.file_meta.TransferSyntaxUID), str(ImplicitVRLittleEndian)]
        contexts = [build_context(dataset.SOPClassUID, list(dict.fromkeys(syntaxes)))]
        with self._open_association(contexts, limit_seconds=self._request_limit_seconds) as association:
            try:
                answer = association.send_c_store(dataset)
            except ValueError as error:
                raise RefusedByArchive(
                    f"{self._describe_archive()} accepts no {dataset.SOPClassUID.name}",
                    hint="choose another report.sop_class it knows, or take the class out of report.visible",
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

    def count_instances(self, study_instance_uid: str, *, limit_seconds: float) -> int | None:
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyInstanceUID = study_instance_uid
        query.NumberOfStudyRelatedInstances = None
        counts: list[int | None] = []
        with self._open_association([build_context(STUDY_ROOT_FIND)], limit_seconds=limit_seconds) as association:
            for status, identifier in association.send_c_find(query, STUDY_ROOT_FIND):
                if "Status" not in status:
                    raise ArchiveUnreachable(f"{self._describe_archive()} gave no answer to C-FIND", hint=self._suggest_remedy())
                if int(status.Status) in PENDING_STATUSES and identifier is not None:
                    counts.append(_read_instance_count(identifier))
        return counts[0] if len(counts) == 1 else None

    def find_instances(self, deliveries: Sequence[Delivery], *, limit_seconds: float) -> set[str]:
        """Return the SOP Instance UIDs that it holds, each asked for with the UIDs above it, on one association."""
        found: set[str] = set()
        with self._open_association([build_context(STUDY_ROOT_FIND)], limit_seconds=limit_seconds) as association:
            for one in deliveries:
                query = Dataset()
                query.QueryRetrieveLevel = "IMAGE"
                query.StudyInstanceUID = one.study_instance_uid
                query.SeriesInstanceUID = one.series_instance_uid
                query.SOPInstanceUID = one.sop_instance_uid
                answers = self._find_matches(association, query)
                found |= {one.sop_instance_uid for answer in answers if answer.get("SOPInstanceUID", "") == one.sop_instance_uid}
        return found

    def request_commitment(
        self, transaction_uid: str, deliveries: Sequence[Delivery], *, limit_seconds: float
    ) -> Mapping[str, str] | None:
        """Send N-ACTION (PS3.4 J.3.2), and wait a moment for a result on the same association."""
        results: queue.SimpleQueue[tuple[str, dict[str, str]]] = queue.SimpleQueue()

        def note_result(event: evt.Event) -> tuple[int, None]:
            results.put(read_result(event.event_information))
            return SUCCESS, None

        objects = [ReferencedObject(one.sop_class_uid, one.sop_instance_uid) for one in deliveries]
        information = build_request(CommitmentRequest(transaction_uid, objects))
        handlers = [(evt.EVT_N_EVENT_REPORT, note_result)]
        contexts = [build_context(STORAGE_COMMITMENT)]
        with self._open_association(contexts, limit_seconds=limit_seconds, evt_handlers=handlers) as association:
            answer, _ = association.send_n_action(information, REQUEST_COMMITMENT, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)
            self._require_commitment_status(answer)
            with suppress(queue.Empty):
                transaction, result = results.get(timeout=COMMITMENT_WAIT_SECONDS)
                return result if transaction == transaction_uid else None
        return None

    def _require_commitment_status(self, answer: Dataset) -> None:
        if "Status" not in answer:
            raise ArchiveUnreachable(f"{self._describe_archive()} gave no answer to N-ACTION", hint=self._suggest_remedy())
        if (code := int(answer.Status)) != SUCCESS:
            raise RefusedByArchive(
                f"{self._describe_archive()} answers a storage commitment request with 0x{code:04X}",
                hint="see the archive's own log",
            )

    def holds_study(self, study_instance_uid: str, *, limit_seconds: float) -> bool:
        """Tell whether it knows the study."""
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyInstanceUID = study_instance_uid
        with self._open_association([build_context(STUDY_ROOT_FIND)], limit_seconds=limit_seconds) as association:
            return bool(self._find_matches(association, query))

    def _find_matches(self, association: Association, query: Dataset) -> list[Dataset]:
        """Return the matches of a C-FIND; ArchiveUnreachable without an answer, RefusedByArchive where the archive cannot tell."""
        found: list[Dataset] = []
        for status, identifier in association.send_c_find(query, STUDY_ROOT_FIND):
            if "Status" not in status:
                raise ArchiveUnreachable(f"{self._describe_archive()} gave no answer to C-FIND", hint=self._suggest_remedy())
            code = int(status.Status)
            if code in PENDING_STATUSES and identifier is not None:
                found.append(identifier)
            elif code not in (SUCCESS, *PENDING_STATUSES):
                raise RefusedByArchive(f"{self._describe_archive()} answers C-FIND with 0x{code:04X}", hint="see the archive's log")
        return found

    def echo(self) -> None:
        with self._open_association([build_context(VERIFICATION)], limit_seconds=self._request_limit_seconds) as association:
            try:
                answer = association.send_c_echo()
            except ValueError as error:
                raise ArchiveUnreachable(
                    f"{self._describe_archive()} does not accept C-ECHO", hint=self._suggest_remedy()
                ) from error
        if int(answer.get("Status", NO_STATUS)) != SUCCESS:
            raise ArchiveUnreachable(f"{self._describe_archive()} did not answer C-ECHO with Success", hint=self._suggest_remedy())

    @property
    def _request_limit_seconds(self) -> float:
        return STEPS_OF_A_REQUEST * self._settings.timeout_seconds

    @contextmanager
    def _open_association(
        self, contexts: list[PresentationContext], *, limit_seconds: float | None = None, **options: Any
    ) -> Iterator[Association]:
        """Open an association and release it at the end. `options` go to AE.associate. ArchiveUnreachable, RefusedByArchive.

        The connection is cut `limit_seconds` after the begin: no peer holds the caller longer, whatever it sends or leaves unsent.
        """
        settings = self._settings
        timeout = settings.timeout_seconds if limit_seconds is None else min(settings.timeout_seconds, limit_seconds)
        with _ConnectionGuard(timeout, limit_seconds) as guard:
            ae = _GuardedAE(settings, guard, self._tls)
            ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = timeout
            options["evt_handlers"] = [*options.get("evt_handlers", []), (evt.EVT_CONN_OPEN, lambda _event: guard.bound_waits())]
            try:
                association = ae.associate(settings.host, settings.port, contexts=contexts, ae_title=settings.ae_title, **options)
            except (OSError, UnicodeError, RuntimeError) as error:  # no address, no valid host name, no descriptor, no thread left
                raise self._build_unreachable(error) from error
            if not association.is_established:
                raise self._build_association_error(association, guard.tls_fault)
            self.certificate = guard.certificate
            try:
                yield association
            except RuntimeError as error:  # of pynetdicom, where the archive has aborted before the request
                if association.is_established:
                    raise
                raise self._build_unreachable() from error
            finally:
                if association.is_established:
                    association.release()

    def _build_association_error(self, association: Association, tls_fault: str) -> RadclipdError:
        if tls_fault:
            return ArchiveUnreachable(
                f"{self._describe_archive()}: no TLS: {tls_fault}",
                hint="radclipd check names our certificate; the archive's log says what it refuses",
            )
        if association.is_rejected:
            return ArchiveUnreachable(
                f"{self._describe_archive()} rejects the association of {self._settings.calling_ae_title}",
                hint="is our AE title known there, and archive.ae_title the one it has?",
            )
        if association.acceptor.primitive is not None and not association.accepted_contexts:
            return RefusedByArchive(
                f"{self._describe_archive()} accepts none of the offered presentation contexts",
                hint="choose another report.sop_class, or take the class out of report.visible",
            )
        return self._build_unreachable()

    def _build_unreachable(self, error: Exception | None = None) -> ArchiveUnreachable:
        reason = getattr(error, "strerror", None) or (str(error) if error else "")
        text = f"{self._describe_archive()} cannot be reached" + (f": {reason}" if reason else "")
        return ArchiveUnreachable(text, hint=self._suggest_remedy())

    def _describe_archive(self) -> str:
        over = " over TLS" if self._tls is not None else ""
        return f"archive {self._settings.ae_title} at {self._settings.host}:{self._settings.port}{over}"

    def _suggest_remedy(self) -> str:
        return "is it running, and archive.host and archive.port right?"


class _ConnectionGuard:
    """Bounds what an archive can hold of this process: the wait for each read and write, and the time of the whole association. The
    connection is closed at the end of the block, however far it came."""

    def __init__(self, timeout_seconds: float, limit_seconds: float | None) -> None:
        self._timeout_seconds = timeout_seconds
        self._socket: socket.socket | None = None
        self._is_over = False
        self._timer = threading.Timer(limit_seconds, self._end_association) if limit_seconds is not None else None

    def __enter__(self) -> _ConnectionGuard:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.close()

    def watch(self, connection: socket.socket) -> None:
        """Take the socket before it connects."""
        self._socket = connection

    @property
    def tls_fault(self) -> str:
        """Why TLS has ended the connection; "" where it has not."""
        return self._socket.fault if isinstance(self._socket, ClientTlsSocket) else ""

    @property
    def certificate(self) -> PeerCertificate | None:
        """The certificate of the archive; None without TLS."""
        return self._socket.certificate if isinstance(self._socket, ClientTlsSocket) else None

    def bound_waits(self) -> None:
        """Bound the waits of an open connection: pynetdicom would wait for a peer without end."""
        if self._socket is not None:
            self._socket.settimeout(self._timeout_seconds)
        if self._is_over:
            self._shut_down()

    def _end_association(self) -> None:
        self._is_over = True
        self._shut_down()

    def _shut_down(self) -> None:
        """Shut the connection down: a read that waits on it returns."""
        if self._socket is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # of TLS the lower layer: another thread reads the upper


class _GuardedAE(AE):
    """An AE whose one connection is watched, and has TLS where there is an endpoint for it."""

    def __init__(self, settings: ArchiveSettings, guard: _ConnectionGuard, tls: TlsEndpoint | None) -> None:
        super().__init__(settings.calling_ae_title)
        self._settings, self._guard, self._tls = settings, guard, tls

    def _create_socket(self, *arguments: Any) -> AssociationSocket:
        made = super()._create_socket(*arguments)
        assert made.socket is not None
        if self._tls is not None:
            made.socket = self._tls.prepare_client(made.socket, self._settings.host, self._settings.ae_title)
        self._guard.watch(made.socket)
        return made


def _read_instance_count(identifier: Dataset) -> int | None:
    try:
        return int(identifier.NumberOfStudyRelatedInstances)
    except (AttributeError, TypeError, ValueError):  # absent, empty, several values, or no number
        return None
