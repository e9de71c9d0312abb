"""The listener: a C-ECHO and C-STORE SCP (PS3.4 annexes A and B). It decodes no pixel data.

The response is Success only after `receive` has returned, that is: after file and row are durable.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast
from weakref import WeakKeyDictionary

import structlog
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association

from adapters.dicom.image.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, UID_PATTERN
from adapters.dicom.network.allow_list import ANY, AllowList
from adapters.dicom.network.association_limit import AssociationLimit, AssociationSlots, PeerShares, ProcessSlots, SlotHolder
from adapters.dicom.network.association_request import AssociationRequest, Rejection, reject_called_title, reject_calling_title
from adapters.dicom.network.association_tally import AssociationTally
from adapters.dicom.network.audit_writer import AuditWriter
from adapters.dicom.network.command_set import CommandSet
from adapters.dicom.network.commitment_service import CommitmentService
from adapters.dicom.network.dimse import (
    CANNOT_UNDERSTAND,
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
    DIFFERENT_INSTANCE,
    NOT_AUTHORIZED,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SOP_CLASS_NOT_SUPPORTED,
    STORAGE_COMMITMENT,
    SUCCESS,
    UNEXPECTED_ERROR,
    UNRECOGNIZED_OPERATION,
    VERIFICATION,
)
from adapters.dicom.network.pending_connections import IPV4_MAPPED, PendingConnection, PendingConnections
from adapters.dicom.network.received_dataset import ReceivedDataset, RefusedDataset
from adapters.dicom.network.server import DrainableServer
from adapters.dicom.network.storage_classes import accepted_sop_classes, supported_contexts
from adapters.dicom.network.streaming_dimse import DimseAnswer
from adapters.dicom.network.tls import PeerCertificate, TlsEndpoint
from adapters.dicom.network.upper_layer import EventDrivenDul
from pipeline.domain import AuditEvent, Header, Receipt, Sender
from pipeline.errors import (
    DataSetMismatch,
    DataSetUnreadable,
    DifferentInstance,
    OutOfResources,
    RadclipdError,
    traceback_locations,
)
from pipeline.ports.services import IncomingFile

STATUS_BY_ERROR: dict[type[RadclipdError], int] = {
    OutOfResources: OUT_OF_RESOURCES,
    DataSetMismatch: DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
    DataSetUnreadable: CANNOT_UNDERSTAND,
    DifferentInstance: DIFFERENT_INSTANCE,
}
NO_LIMIT = 100_000
"""Switches pynetdicom's own limit off, which rejects: above `max_associations` a sender waits, because many never retry."""
ABORT_SECONDS = 5.0
"""Time in which the associations still open at the drain deadline are aborted."""
MAX_NAMED_UID = 64
"""Longer ones are cut in log and audit."""

log = structlog.get_logger("radclipd.listener")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """`[listener]` of the configuration."""

    host: str = "0.0.0.0"
    port: int = 11112
    ae_title: str = "RADCLIPD"
    called_ae_titles: Sequence[str] = ()
    calling_ae_titles: Sequence[str] = ("ORTHANC",)
    tls_port: int = 0
    require_tls: bool = False
    max_associations: int = 32
    max_pdu: int = 0
    other_storage: str = "refuse"
    network_timeout_seconds: float = 60
    first_message_seconds: float = 10


class Listener:
    """A DICOM storage SCP. The callables run on the threads of the associations."""

    def __init__(
        self,
        settings: ListenerSettings,
        *,
        open_incoming: Callable[[], IncomingFile],
        receive: Callable[[Header, IncomingFile, Sender], Receipt],
        mark_released: Callable[[Sequence[str], Sequence[AuditEvent]], None],
        audit: Callable[[AuditEvent], None],
        slots: AssociationSlots | None = None,
        tls: TlsEndpoint | None = None,
        commitment: CommitmentService | None = None,
    ) -> None:
        """`open_incoming` opens a file for each C-STORE; `receive` commits it, or raises the reason of a refusal.

        `mark_released` gets the studies of a released association, and their audit events. `slots`: the association limit where
        processes share it. `tls`: for `settings.tls_port`. `commitment`: None: no storage commitment.
        """
        self._settings, self._tls, self._commitment = settings, tls, commitment
        self._mark_released, self._audit_writer = mark_released, AuditWriter(audit)
        self._limit = AssociationLimit(
            slots or ProcessSlots(settings.max_associations), PeerShares.from_limit(settings.max_associations)
        )
        self._port_is_shared = slots is not None
        self._services = _StoreServices(settings, open_incoming, receive, self._audit_writer, self._end_association, commitment)
        self._holders: dict[Association, SlotHolder | None] = {}  # None: the watchdog's
        self._servers: list[DrainableServer] = []
        self._pending: PendingConnections | None = None
        self._is_drained = False

    def start(self, *adopted: socket.socket) -> None:
        """Listen on the adopted sockets, or on one of its own. OSError where the port is not available; ConfigurationError.

        The sockets at `settings.tls_port` have TLS.
        """
        settings = self._settings
        if self._tls is not None:
            self._tls.load()
        _config.UNRESTRICTED_STORAGE_SERVICE = settings.other_storage == "keep"  # also private classes
        _config.LOG_HANDLER_LEVEL = "none"
        ae = AE(settings.ae_title)
        ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.maximum_associations = NO_LIMIT
        ae.maximum_pdu_size = settings.max_pdu
        ae.network_timeout = settings.network_timeout_seconds
        ae.dimse_timeout = settings.network_timeout_seconds
        ae.supported_contexts = supported_contexts(other_storage=settings.other_storage)
        if self._commitment is not None and self._commitment.settings.is_on:  # either role: a sender asks, an archive tells
            ae.add_supported_context(STORAGE_COMMITMENT, scu_role=True, scp_role=True)
        self._servers = [self._make_server(ae, sock) for sock in adopted or (None,)]
        self._pending = PendingConnections(self._servers, self._limit, self, settings.first_message_seconds)
        self._pending.start()

    def _make_server(self, ae: AE, sock: socket.socket | None) -> DrainableServer:
        handlers: list[Any] = [(evt.EVT_RELEASED, self._on_released), (evt.EVT_ABORTED, self._on_aborted)]
        server = ae.make_server(
            (self._settings.host, self._settings.port),
            evt_handlers=handlers,
            server_class=DrainableServer,
            adopted_socket=sock,
            port_is_shared=self._port_is_shared,
            services=self._services,
            shared_contexts=ae.supported_contexts,
            tls=self._tls if sock is not None and sock.getsockname()[1] == self._settings.tls_port else None,
        )
        return cast(DrainableServer, server)

    @property
    def port(self) -> int:
        """The TCP port of the first socket."""
        return int(self._servers[0].server_address[1])

    def drain(self, deadline_seconds: float) -> None:
        """Accept no more, let open associations end, abort those still open at the deadline."""
        if self._is_drained or self._pending is None:
            return
        self._is_drained = True
        self._pending.stop_accepting()
        end = time.monotonic() + deadline_seconds
        while (self._holders or self._pending.waiting_count) and time.monotonic() < end:
            time.sleep(0.02)
        self._pending.close()
        still_open = list(self._holders)
        for association in still_open:
            log.warning("association aborted at the drain deadline", calling=identify_sender(association).ae_title)
        aborting = [threading.Thread(target=association.abort, daemon=True) for association in still_open]
        for thread in aborting:
            thread.start()
        for thread in aborting:
            thread.join(ABORT_SECONDS)
        self._audit_writer.close()

    # Decisions about connections: see `AssociationDesk`.

    def find_rejection(self, request: AssociationRequest, address: str, certificate: PeerCertificate | None) -> Rejection | None:
        """Return why the AE titles are rejected, or None. `certificate`: None on a port without TLS."""
        called = tuple(self._settings.called_ae_titles) or (self._settings.ae_title,)
        if ANY not in called and request.called_ae_title not in called:
            return reject_called_title("listener.called_ae_titles does not name it")
        if self.is_own_probe(request, address):
            return None
        if certificate is None and self._settings.require_tls:
            return reject_calling_title("listener.require_tls: it must use the TLS port")
        fault = self._services.allow_list.find_fault(request.calling_ae_title, address)
        if not fault and self._tls is not None:
            fault = self._tls.find_mismatch(request.calling_ae_title, certificate)
        return reject_calling_title(fault) if fault else None

    def is_own_probe(self, request: AssociationRequest, address: str) -> bool:
        """The watchdog calls its own AE title from this host; it must get through when all slots are taken."""
        return request.calling_ae_title == self._settings.ae_title and address in ("127.0.0.1", "::1", self._settings.host)

    def count_own_probes(self) -> int:
        """Return the number of open associations of the watchdog."""
        return sum(holder is None for holder in list(self._holders.values()))

    def begin_association(self, pending: PendingConnection, holder: SlotHolder | None) -> None:
        """Start the association of an accepted request."""
        assert pending.request is not None
        server = cast(DrainableServer, pending.server)
        association = server.make_association(pending.connection, pending.client, pending.request)
        self._holders[association] = holder
        if holder is not None:
            holder.association = association
        try:
            association.start()
        except RuntimeError:  # no thread left
            self._holders.pop(association, None)
            raise

    def note_refusal(self, pending: PendingConnection, why: str) -> None:
        """Log a refused connection, and queue its audit event."""
        request = pending.request
        calling, called = (request.calling_ae_title, request.called_ae_title) if request else ("", "")
        log.warning("association rejected", calling=calling, called=called, address=pending.address, why=why)
        detail = f"calling {calling!r}, called {called!r}: {why}"
        self._audit_writer.queue_event(AuditEvent("association", "refused", calling, detail, pending.address))

    # The end of an association

    def _end_association(self, association: Association) -> None:
        holder = self._holders.pop(association, None)
        if holder is not None:
            self._limit.release(holder)
        if self._pending is not None:
            self._pending.notice_free_slot()

    def _on_released(self, event: evt.Event) -> None:
        tally = self._services.pop_tally(event.assoc)
        if not tally.studies:
            return
        try:
            self._mark_released(tally.studies, tally.build_events(identify_sender(event.assoc), "released"))
        except RadclipdError as error:  # the studies settle when their stable age is reached
            log.warning("release not noted", error=str(error), studies=tally.studies)

    def _on_aborted(self, event: evt.Event) -> None:
        """Keep the instances stored before the abort; their studies settle when their stable age is reached."""
        tally = self._services.pop_tally(event.assoc)
        sender, why = identify_sender(event.assoc), cast(EventDrivenDul, event.assoc.dul).fault
        log.warning("association aborted", calling=sender.ae_title, why=why or "by the peer")
        detail = f"aborted: {why}" if why else "aborted"
        aborted = AuditEvent("association", "failed", sender.ae_title, detail, sender.address)
        for told in (*tally.build_events(sender, detail), aborted):
            self._audit_writer.write_event(told)


class _StoreServices:
    """`AssociationServices`: the C-STORE service."""

    def __init__(
        self,
        settings: ListenerSettings,
        open_incoming: Callable[[], IncomingFile],
        receive: Callable[[Header, IncomingFile, Sender], Receipt],
        audit_writer: AuditWriter,
        end_association: Callable[[Association], None],
        commitment: CommitmentService | None,
    ) -> None:
        self.first_message_seconds = settings.first_message_seconds
        self.end_association = end_association
        self._settings, self._audit_writer, self._commitment = settings, audit_writer, commitment
        self._open_incoming, self._receive = open_incoming, receive
        self.allow_list = AllowList(settings.calling_ae_titles)
        self._tallies: WeakKeyDictionary[Association, AssociationTally] = WeakKeyDictionary()

    def _may_request(self, sender: Sender) -> bool:
        """Tell whether a sender may do more than C-ECHO. The daemon's own check of the port needs no TLS, and may not."""
        is_own_title = sender.ae_title == self._settings.ae_title
        return self.allow_list.admits(sender.ae_title, sender.address) and not (self._settings.require_tls and is_own_title)

    def pop_tally(self, association: Association) -> AssociationTally:
        """Return what the association has brought, once."""
        return self._tallies.pop(association, AssociationTally())

    def open_data_set(self, association: Association, context: int, request: CommandSet) -> BytesIO:
        """Return the destination of a C-STORE data set before its first byte has arrived."""
        refusal = self._find_refusal(association, context, request)
        if refusal is not None:
            return RefusedDataset(*refusal)
        return ReceivedDataset(
            self._open_incoming,
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid,
            transfer_syntax_uid=str(association._accepted_cx[context].transfer_syntax[0]),
        )

    def _find_refusal(self, association: Association, context: int, request: CommandSet) -> tuple[int, str] | None:
        """Return status and reason where the request alone decides."""
        sender = identify_sender(association)
        if not self._may_request(sender):
            return NOT_AUTHORIZED, "the watchdog's association is for C-ECHO"
        for name, uid in (("SOP Class UID", request.sop_class_uid), ("SOP Instance UID", request.sop_instance_uid)):
            if not UID_PATTERN.fullmatch(uid):
                fault = "missing" if not uid else f"not a UID ({len(uid)} characters)"
                return DATA_SET_DOES_NOT_MATCH_SOP_CLASS, f"the Affected {name} is {fault}"
        accepted = accepted_sop_classes(other_storage=self._settings.other_storage)
        is_accepted = self._settings.other_storage == "keep" or request.sop_class_uid in accepted
        if association._accepted_cx[context].abstract_syntax in (VERIFICATION, STORAGE_COMMITMENT) or not is_accepted:
            return SOP_CLASS_NOT_SUPPORTED, "the SOP class is not one that was negotiated for storage"
        return None

    def serve_commitment(self, association: Association, context: int, request: CommandSet, information: bytes) -> DimseAnswer:
        """Return the answer to an N-ACTION or N-EVENT-REPORT."""
        sender = identify_sender(association)
        if self._commitment is None or not self._commitment.settings.is_on:
            return DimseAnswer(UNRECOGNIZED_OPERATION)
        if not self._may_request(sender):
            return DimseAnswer(NOT_AUTHORIZED, "the watchdog's association is for C-ECHO")
        syntax = str(association._accepted_cx[context].transfer_syntax[0])
        try:
            return self._commitment.serve(request, sender, information, syntax)
        except Exception as error:  # of any kind: the peer gets a failure, and asks again
            return DimseAnswer(PROCESSING_FAILURE, _describe_fault(error)[1])

    def store_instance(self, association: Association, request: CommandSet, data_set: BytesIO | None) -> tuple[int, str]:
        """Return status and comment of a C-STORE: PS3.4 B.2.3."""
        sender = identify_sender(association)
        if isinstance(data_set, RefusedDataset):
            return self._refuse_instance(request, sender, data_set.status, data_set.why)
        try:
            header, receipt = self._receive_data_set(data_set, sender)
        except Exception as error:  # of any kind: the sender must not get Success
            return self._refuse_instance(request, sender, *_describe_fault(error))
        self._tallies.setdefault(association, AssociationTally()).count_receipt(header.study_instance_uid, receipt)
        log.debug("received", instance=request.sop_instance_uid, receipt=receipt.value, calling=sender.ae_title)
        return SUCCESS, ""

    def _receive_data_set(self, data_set: BytesIO | None, sender: Sender) -> tuple[Header, Receipt]:
        if not isinstance(data_set, ReceivedDataset):
            raise DataSetUnreadable("the request brings no data set", hint="the sender must send one")
        with data_set:
            header, file = data_set.finish()
            return header, self._receive(header, file, sender)

    def _refuse_instance(self, request: CommandSet, sender: Sender, status: int, why: str) -> tuple[int, str]:
        uid = request.sop_instance_uid[:MAX_NAMED_UID]
        log.warning("instance refused", instance=uid, status=f"0x{status:04X}", why=why, calling=sender.ae_title)
        self._audit_writer.write_event(
            AuditEvent("receive", "refused", uid, f"0x{status:04X} {why}", f"{sender.ae_title} {sender.address}")
        )
        return status, why

    def abandon_data_set(self, association: Association, request: CommandSet, data_set: BytesIO) -> None:
        """Discard a data set that will not be complete; if it was refused already, record that."""
        data_set.close()
        sender = identify_sender(association)
        if isinstance(data_set, RefusedDataset):
            self._refuse_instance(request, sender, data_set.status, data_set.why)
        elif isinstance(data_set, ReceivedDataset) and (error := data_set.fault) is not None:
            self._refuse_instance(request, sender, *_describe_fault(error))


def choose_status(error: RadclipdError) -> int:
    """Return the C-STORE status of an error: that of its class, or of the nearest class above."""
    return next((STATUS_BY_ERROR[kind] for kind in type(error).__mro__ if kind in STATUS_BY_ERROR), UNEXPECTED_ERROR)


def _describe_fault(error: Exception) -> tuple[int, str]:
    """Return the status of an error, and its reason without a foreign message, which may quote the data set."""
    if isinstance(error, RadclipdError):
        return choose_status(error), str(error)
    log.error("receive failed", error=type(error).__name__, locations=traceback_locations(error))
    return UNEXPECTED_ERROR, f"unexpected {type(error).__name__}"


def identify_sender(association: Association) -> Sender:
    """Return the sender of an association whose request has arrived."""
    requestor = association.requestor
    primitive = requestor.primitive
    calling, called = (primitive.calling_ae_title, primitive.called_ae_title) if primitive is not None else ("", "")
    address = str(requestor.address or "").removeprefix(IPV4_MAPPED)
    return Sender(str(calling or "").strip(), address, str(called or "").strip())
