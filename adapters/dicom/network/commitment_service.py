"""Storage commitment at the listener (PS3.4 annex J): SCP for senders, and receiver of an archive's results for what we sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from pydicom.uid import UID
from pynetdicom import build_context, build_role
from pynetdicom.dsutils import encode

from adapters.dicom.network.archive import ArchiveSettings, DicomArchive
from adapters.dicom.network.command_set import N_ACTION_RQ, CommandSet, encode_event_report
from adapters.dicom.network.commitment import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_OBJECT_INSTANCE,
    PROCESSING_FAILURE,
    CommitmentRequest,
    build_result,
    decode_information,
    read_request,
    read_result,
)
from adapters.dicom.network.dimse import (
    NOT_AUTHORIZED,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    SUCCESS,
    UNRECOGNIZED_OPERATION,
)
from adapters.dicom.network.streaming_dimse import DimseAnswer
from adapters.dicom.network.tls import TlsEndpoint
from pipeline.commitment import CommitmentFault
from pipeline.domain import Sender
from pipeline.errors import DataSetUnreadable, RadclipdError, RefusedByArchive

FAILURE_REASONS = {
    CommitmentFault.UNKNOWN: NO_SUCH_OBJECT_INSTANCE,
    CommitmentFault.OTHER_CLASS: CLASS_INSTANCE_CONFLICT,
    CommitmentFault.NO_FILE: PROCESSING_FAILURE,
}
REPORT_WAITS = (0.5, 10.0, 60.0, 300.0)
"""Seconds before each attempt to report a result; after the last one the sender asks again."""
MAX_REPORTS = 64
"""Results that are being reported at a time; a further request is answered with "processing failure", and comes again."""
REPORT_TIMEOUT_SECONDS = 30.0
INVALID_ARGUMENT = 0x0115  # PS3.7 annex C

log = structlog.get_logger("radclipd.listener")

FindUncommitted = Callable[[Sequence[tuple[str, str]], Sender], Mapping[str, CommitmentFault]]
RecordCommitment = Callable[[str, Mapping[str, str]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentSettings:
    """Storage commitment of the listener. `reply_to`: host and port by AE title of the sender, for results."""

    ae_title: str = "RADCLIPD"
    is_provider: bool = False
    takes_results: bool = False
    reply_to: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def is_on(self) -> bool:
        """Whether the listener accepts the presentation context."""
        return self.is_provider or self.takes_results


class CommitmentService:
    """Answers N-ACTION and N-EVENT-REPORT. Safe for threads."""

    def __init__(
        self,
        settings: CommitmentSettings,
        find_uncommitted: FindUncommitted,
        record_commitment: RecordCommitment,
        tls: TlsEndpoint | None = None,
    ) -> None:
        """`find_uncommitted` tells what is not in safekeeping here; `record_commitment` gets an archive's result.

        `tls`: for results to an AE title that has certificates in its table.
        """
        self.settings, self._tls = settings, tls
        self._find_uncommitted, self._record_commitment = find_uncommitted, record_commitment
        self._reports = threading.BoundedSemaphore(MAX_REPORTS)

    def serve(self, request: CommandSet, sender: Sender, information: bytes, transfer_syntax_uid: str) -> DimseAnswer:
        """Return the answer to a request. The comment says why it is none but Success."""
        is_action = request.field == N_ACTION_RQ
        if request.sop_class_uid != STORAGE_COMMITMENT:
            return DimseAnswer(UNRECOGNIZED_OPERATION, "the SOP class is not that of storage commitment")
        if not (self.settings.is_provider if is_action else self.settings.takes_results):
            return DimseAnswer(NOT_AUTHORIZED, "storage commitment is off: listener.storage_commitment")
        try:
            content = decode_information(information, transfer_syntax_uid)
            if is_action:
                return self._answer_request(read_request(content), sender, transfer_syntax_uid)
            transaction_uid, result = read_result(content)
            known = self._record_commitment(transaction_uid, result)
        except DataSetUnreadable as error:
            return DimseAnswer(INVALID_ARGUMENT, str(error))
        except RadclipdError as error:  # the peer may try again
            log.warning("storage commitment not served", calling=sender.ae_title, error=str(error))
            return DimseAnswer(PROCESSING_FAILURE, str(error))
        log.info("storage commitment result", calling=sender.ae_title, objects=len(result), known=known)
        return DimseAnswer(SUCCESS) if known else DimseAnswer(NO_SUCH_OBJECT_INSTANCE, "the transaction is not known")

    def _answer_request(self, request: CommitmentRequest, sender: Sender, transfer_syntax_uid: str) -> DimseAnswer:
        faults = self._find_uncommitted(request.objects, sender)
        failures = {uid: FAILURE_REASONS[fault] for uid, fault in faults.items()}
        address = self.settings.reply_to.get(sender.ae_title)
        if address is None:
            return DimseAnswer(SUCCESS, message=_encode_result(request, failures, transfer_syntax_uid))
        if not self._reports.acquire(blocking=False):
            return DimseAnswer(PROCESSING_FAILURE, "too many storage commitment results wait")
        reporting = threading.Thread(
            target=self._report_result, args=(request, failures, sender.ae_title, address), name="commitment", daemon=True
        )
        reporting.start()
        return DimseAnswer(SUCCESS)

    def _report_result(
        self, request: CommitmentRequest, failures: Mapping[str, int], ae_title: str, address: tuple[str, int]
    ) -> None:
        """Report a result on an association of its own, with several attempts."""
        host, port = address
        settings = ArchiveSettings(
            ae_title=ae_title,
            host=host,
            port=port,
            calling_ae_title=self.settings.ae_title,
            timeout_seconds=REPORT_TIMEOUT_SECONDS,
        )
        tls = self._tls if self._tls is not None and ae_title in self._tls.settings.peers else None
        try:
            for seconds in REPORT_WAITS:
                time.sleep(seconds)
                try:
                    CommitmentReporter(settings, tls).report(request, failures)
                    return
                except RadclipdError as error:
                    log.warning("storage commitment result not reported", called=ae_title, error=str(error), hint=error.hint)
        finally:
            self._reports.release()


class CommitmentReporter(DicomArchive):
    """Reports results to a sender, as SCP of an association that it requests (PS3.4 J.3.3)."""

    def report(self, request: CommitmentRequest, failures: Mapping[str, int]) -> None:
        """Send the N-EVENT-REPORT. ArchiveUnreachable, RefusedByArchive."""
        event_type, information = build_result(request, failures)
        role = build_role(STORAGE_COMMITMENT, scp_role=True)
        contexts = [build_context(STORAGE_COMMITMENT)]
        with self._open_association(contexts, limit_seconds=REPORT_TIMEOUT_SECONDS * 2, ext_neg=[role]) as association:
            answer, _ = association.send_n_event_report(information, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)
        if "Status" not in answer or int(answer.Status) != SUCCESS:
            raise RefusedByArchive(f"{self._describe_archive()} does not take a storage commitment result", hint="see its own log")


def _encode_result(request: CommitmentRequest, failures: Mapping[str, int], transfer_syntax_uid: str) -> tuple[bytes, bytes]:
    """Return command set and data set of the N-EVENT-REPORT on the same association."""
    event_type, information = build_result(request, failures)
    syntax = UID(transfer_syntax_uid)
    encoded = encode(information, syntax.is_implicit_VR, syntax.is_little_endian)
    assert encoded is not None
    return encode_event_report(1, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, event_type), encoded
