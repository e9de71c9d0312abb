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
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from adapters.dicom.network.association_limit import AssociationLimit, AssociationSlots, ProcessSlots
from adapters.dicom.network.dimse import (
    CANNOT_UNDERSTAND,
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
    DIFFERENT_INSTANCE,
    NOT_AUTHORIZED,
    OUT_OF_RESOURCES,
    SUCCESS,
    UNEXPECTED_ERROR,
)
from adapters.dicom.network.received_dataset import ReceivedDataset
from adapters.dicom.network.server import DrainableServer
from adapters.dicom.network.storage_classes import supported_contexts
from adapters.dicom.network.upper_layer import UpperLayerRequestHandler
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
COMMENT_LENGTH = 64  # characters of ErrorComment, VR LO

# A-ASSOCIATE-RJ result, source, reason: PS3.8 table 9-21
CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)
CALLED_AE_TITLE_NOT_RECOGNIZED = (1, 1, 7)

ANY = "*"
IPV4_MAPPED = "::ffff:"
"""Prefix of an IPv4 peer's address on the dual-stack socket that systemd passes."""
NO_LIMIT = 100_000
"""Switches pynetdicom's own limit off, which rejects: above `max_associations` a sender waits, because many never retry."""
LONG_WAIT_SECONDS = 1.0
"""A wait for a slot that is longer is logged."""

log = structlog.get_logger("radclipd.listener")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """`[listener]` of the configuration."""

    host: str = "0.0.0.0"
    port: int = 11112
    ae_title: str = "RADCLIPD"
    called_ae_titles: Sequence[str] = ()
    calling_ae_titles: Sequence[str] = ("ORTHANC",)
    max_associations: int = 32
    max_pdu: int = 0
    other_storage: str = "refuse"
    network_timeout_seconds: float = 60


class Listener:
    """A DICOM storage SCP. The callables run on the threads of the associations."""

    def __init__(
        self,
        settings: ListenerSettings,
        *,
        open_incoming: Callable[[], IncomingFile],
        receive: Callable[[Header, IncomingFile, Sender], Receipt],
        mark_released: Callable[[Sequence[str]], None],
        audit: Callable[[AuditEvent], None],
        slots: AssociationSlots | None = None,
    ) -> None:
        """`open_incoming` opens a file for each C-STORE; `receive` commits it, or raises the reason of a refusal.

        `mark_released` gets the studies of a released association. `slots`: the association limit where processes share it.
        """
        self._settings = settings
        self._open_incoming, self._receive, self._mark_released, self._audit = open_incoming, receive, mark_released, audit
        self._limit = AssociationLimit(slots or ProcessSlots(settings.max_associations))
        self._studies: WeakKeyDictionary[Association, set[str]] = WeakKeyDictionary()
        self._port_is_shared = slots is not None
        self._servers: list[DrainableServer] = []
        self._is_drained = False

    def start(self, *adopted: socket.socket) -> None:
        """Listen on the adopted sockets, or on one of its own, with a thread for each. OSError where the port is not available."""
        settings = self._settings
        _config.UNRESTRICTED_STORAGE_SERVICE = settings.other_storage == "keep"  # also private classes
        _config.LOG_HANDLER_LEVEL = "none"
        ae = AE(settings.ae_title)
        ae.maximum_associations = NO_LIMIT
        ae.maximum_pdu_size = settings.max_pdu
        ae.network_timeout = settings.network_timeout_seconds
        ae.dimse_timeout = settings.network_timeout_seconds
        ae.supported_contexts = supported_contexts(other_storage=settings.other_storage)
        for sock in adopted or (None,):
            self._start_server(ae, sock)

    def _start_server(self, ae: AE, sock: socket.socket | None) -> None:
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_C_ECHO, lambda _event: SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
            (evt.EVT_CONN_CLOSE, self._on_closed),
        ]
        server = ae.make_server(
            (self._settings.host, self._settings.port),
            evt_handlers=handlers,
            server_class=DrainableServer,
            request_handler=UpperLayerRequestHandler,
            adopted_socket=sock,
            port_is_shared=self._port_is_shared,
            open_data_set=self._open_data_set,
        )
        self._servers.append(cast(DrainableServer, server))
        ae._servers.append(server)
        threading.Thread(target=server.serve_forever, name="accept", daemon=True).start()

    @property
    def port(self) -> int:
        """The TCP port of the first socket."""
        return int(self._servers[0].server_address[1])

    def drain(self, deadline_seconds: float) -> None:
        """Accept no more, let open associations end, abort those still open at the deadline.

        pynetdicom's own shutdown aborts them at once.
        """
        if self._is_drained:
            return
        self._is_drained = True
        for server in self._servers:
            server.shutdown()
        end = time.monotonic() + deadline_seconds
        while (still_open := self._list_open_associations()) and time.monotonic() < end:
            time.sleep(0.02)
        for association in still_open:
            log.warning("association aborted at the drain deadline", calling=_identify_sender(association).ae_title)
            association.abort()
        for association in self._list_associations():
            association.dul.kill_dul()  # connections without an A-ASSOCIATE-RQ

    def _list_associations(self) -> list[Association]:
        return [association for server in self._servers for association in server.active_associations]

    def _list_open_associations(self) -> list[Association]:
        """Return the associations that were requested: a connection without an A-ASSOCIATE-RQ does not count."""
        return [association for association in self._list_associations() if association.requestor.primitive is not None]

    def _on_requested(self, event: evt.Event) -> None:
        """Check the allow-lists, then wait for a slot."""
        association = event.assoc
        sender = _identify_sender(association)
        if self._reject_unknown_titles(association, sender) or self._is_own_probe(sender):
            return
        waited = self._limit.acquire(association)
        if waited > LONG_WAIT_SECONDS:
            log.info("association waited for a slot", calling=sender.ae_title, seconds=round(waited, 1))

    def _reject_unknown_titles(self, association: Association, sender: Sender) -> bool:
        called = tuple(self._settings.called_ae_titles) or (self._settings.ae_title,)
        if ANY not in called and sender.called_ae_title not in called:
            self._reject_association(
                association, sender, CALLED_AE_TITLE_NOT_RECOGNIZED, "listener.called_ae_titles does not name it"
            )
            return True
        if not self._is_allowed_caller(sender) and not self._is_own_probe(sender):
            self._reject_association(
                association, sender, CALLING_AE_TITLE_NOT_RECOGNIZED, "listener.calling_ae_titles does not name it"
            )
            return True
        return False

    def _is_allowed_caller(self, sender: Sender) -> bool:
        calling = self._settings.calling_ae_titles
        return ANY in calling or sender.ae_title in calling

    def _is_own_probe(self, sender: Sender) -> bool:
        """The watchdog calls its own AE title from this host; it must get through when all slots are taken."""
        return sender.ae_title == self._settings.ae_title and sender.address in ("127.0.0.1", "::1", self._settings.host)

    def _reject_association(self, association: Association, sender: Sender, reject: tuple[int, int, int], why: str) -> None:
        association.acse.send_reject(*reject)
        association.kill()
        detail = f"calling {sender.ae_title!r}, called {sender.called_ae_title!r}: {why}"
        log.warning("association rejected", calling=sender.ae_title, called=sender.called_ae_title, why=why)
        self._write_audit_event(AuditEvent("association", "refused", sender.ae_title, detail, sender.address))

    def _open_data_set(self, association: Association, context: int, command: Dataset) -> ReceivedDataset:
        """Return the destination of a C-STORE data set before its first byte has arrived."""
        return ReceivedDataset(
            self._open_incoming,
            sop_class_uid=str(command.get("AffectedSOPClassUID")),
            sop_instance_uid=str(command.get("AffectedSOPInstanceUID")),
            transfer_syntax_uid=str(association._accepted_cx[context].transfer_syntax[0]),
        )

    def _on_store(self, event: evt.Event) -> Dataset | int:
        """Return the response to one C-STORE request: PS3.4 B.2.3."""
        sender = _identify_sender(event.assoc)
        request = cast(C_STORE, event.request)
        uid = str(request.AffectedSOPInstanceUID)
        if not self._is_allowed_caller(sender):
            return self._refuse_instance(uid, sender, NOT_AUTHORIZED, "the watchdog's association is for C-ECHO")
        try:
            header, receipt = self._receive_data_set(request.DataSet, sender)
        except RadclipdError as error:
            return self._refuse_instance(uid, sender, choose_status(error), str(error))
        except Exception as error:  # of any kind: the sender must not get Success
            log.error("receive failed", error=type(error).__name__, locations=traceback_locations(error))
            return self._refuse_instance(uid, sender, UNEXPECTED_ERROR, f"unexpected {type(error).__name__}")
        self._studies.setdefault(event.assoc, set()).add(header.study_instance_uid)
        log.debug("received", instance=uid, receipt=receipt.value, calling=sender.ae_title)
        return SUCCESS

    def _receive_data_set(self, data_set: BytesIO | None, sender: Sender) -> tuple[Header, Receipt]:
        if not isinstance(data_set, ReceivedDataset):
            raise DataSetUnreadable("the request brings no data set", hint="the sender must send one")
        with data_set:
            header, file = data_set.finish()
            return header, self._receive(header, file, sender)

    def _refuse_instance(self, uid: str, sender: Sender, status: int, why: str) -> Dataset:
        log.warning("instance refused", instance=uid[:64], status=f"0x{status:04X}", why=why, calling=sender.ae_title)
        self._write_audit_event(
            AuditEvent("receive", "refused", uid[:64], f"0x{status:04X} {why}", f"{sender.ae_title} {sender.address}")
        )
        return _build_response(status, why)

    def _on_released(self, event: evt.Event) -> None:
        studies = self._studies.pop(event.assoc, set())
        if not studies:
            return
        try:
            self._mark_released(sorted(studies))
        except RadclipdError as error:  # the studies settle when their stable age is reached
            log.warning("release not noted", error=str(error))

    def _on_aborted(self, event: evt.Event) -> None:
        """Keep the instances stored before the abort; their studies settle when their stable age is reached."""
        self._studies.pop(event.assoc, None)
        sender = _identify_sender(event.assoc)
        log.warning("association aborted", calling=sender.ae_title)
        self._write_audit_event(AuditEvent("association", "failed", sender.ae_title, "aborted", sender.address))

    def _on_closed(self, event: evt.Event) -> None:
        self._limit.release(event.assoc)

    def _write_audit_event(self, event: AuditEvent) -> None:
        """Write the event; an unreachable catalog must not withhold the response from the sender."""
        try:
            self._audit(event)
        except Exception as error:
            log.error("audit not written", action=event.action, outcome=event.outcome, error=type(error).__name__)


def choose_status(error: RadclipdError) -> int:
    """Return the C-STORE status of an error: that of its class, or of the nearest class above."""
    return next((STATUS_BY_ERROR[kind] for kind in type(error).__mro__ if kind in STATUS_BY_ERROR), UNEXPECTED_ERROR)


def _identify_sender(association: Association) -> Sender:
    requestor = association.requestor
    primitive = requestor.primitive
    calling = primitive.calling_ae_title if primitive is not None else requestor.ae_title
    called = primitive.called_ae_title if primitive is not None else ""
    address = str(requestor.address or "").removeprefix(IPV4_MAPPED)
    return Sender(str(calling or "").strip(), address, str(called or "").strip())


def _build_response(status: int, comment: str) -> Dataset:
    """Return the status elements of a C-STORE-RSP (PS3.7 9.1.1.2), the comment shortened to VR LO."""
    response = Dataset()
    response.Status = status
    response.ErrorComment = comment.encode("ascii", "replace").decode()[:COMMENT_LENGTH]
    return response
