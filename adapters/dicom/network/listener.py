"""The listener: C-ECHO and C-STORE (PS3.4 annexes A and B). What it hands on, and its answers; no pixel data is decoded here.

Success is answered only after `receive` has returned, that is: after file and row are durable.
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
from adapters.dicom.network.received_dataset import ReceivedDataset
from adapters.dicom.network.server import DrainableServer
from adapters.dicom.network.storage_classes import supported_contexts
from adapters.dicom.network.store_response import SUCCESS
from adapters.dicom.network.upper_layer import StreamingRequestHandler
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

# C-STORE status codes, PS3.4 table B.2-1 and PS3.7 annex C
OUT_OF_RESOURCES = 0xA700
DATA_SET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000
DIFFERENT_INSTANCE = 0xC001
UNEXPECTED = 0xC002
NOT_AUTHORIZED = 0x0124
STATUS_BY_ERROR: dict[type[RadclipdError], int] = {
    OutOfResources: OUT_OF_RESOURCES,
    DataSetMismatch: DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
    DataSetUnreadable: CANNOT_UNDERSTAND,
    DifferentInstance: DIFFERENT_INSTANCE,
}
COMMENT_LENGTH = 64  # ErrorComment is LO

# A-ASSOCIATE-RJ result, source, reason: PS3.8 table 9-21
CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)
CALLED_AE_TITLE_NOT_RECOGNIZED = (1, 1, 7)

ANY = "*"
IPV4_MAPPED = "::ffff:"
"""How an IPv4 peer looks on the dual-stack socket that systemd hands over."""
UNBOUNDED = 100_000
"""For pynetdicom's own limit, which would reject: above our limit a sender waits, because many never try again."""

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
    """A DICOM storage SCP. Its callables run on the thread of the association that calls them."""

    def __init__(
        self,
        settings: ListenerSettings,
        *,
        begin_file: Callable[[], IncomingFile],
        receive: Callable[[Header, IncomingFile, Sender], Receipt],
        mark_released: Callable[[Sequence[str]], None],
        audit: Callable[[AuditEvent], None],
        slots: AssociationSlots | None = None,
    ) -> None:
        """`begin` a file for each C-STORE, which `receive` keeps or raises. `places`: where other processes share the limit."""
        self._settings, self._begin, self._receive, self._released, self._audit = (
            settings,
            begin_file,
            receive,
            mark_released,
            audit,
        )
        self._places = AssociationLimit(slots or ProcessSlots(settings.max_associations))
        self._studies: WeakKeyDictionary[Association, set[str]] = WeakKeyDictionary()
        self._shared = slots is not None
        self._servers: list[DrainableServer] = []
        self._drained = False

    def start(self, *adopted: socket.socket) -> None:
        """Listen, on a thread for each socket that was handed over, or on one of our own. OSError where the port cannot be had."""
        settings = self._settings
        _config.UNRESTRICTED_STORAGE_SERVICE = settings.other_storage == "keep"  # private classes, too
        _config.LOG_HANDLER_LEVEL = "none"
        ae = AE(settings.ae_title)
        ae.maximum_associations = UNBOUNDED
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
            request_handler=StreamingRequestHandler,
            adopted=sock,
            shared=self._shared,
            opened=self._open_data_set,
        )
        self._servers.append(cast(DrainableServer, server))
        ae._servers.append(server)
        threading.Thread(target=server.serve_forever, name="accept", daemon=True).start()

    @property
    def port(self) -> int:
        """The port listened on."""
        return int(self._servers[0].server_address[1])

    def drain(self, deadline_seconds: float) -> None:
        """Accept no more, let open associations end, abort those still open at the deadline.

        pynetdicom's own shutdown would abort them first.
        """
        if self._drained:
            return
        self._drained = True
        for server in self._servers:
            server.shutdown()
        end = time.monotonic() + deadline_seconds
        while (left := self._list_open_associations()) and time.monotonic() < end:
            time.sleep(0.02)
        for association in left:
            log.warning("association aborted at the drain deadline", calling=_identify_sender(association).ae_title)
            association.abort()
        for association in self._list_associations():
            association.dul.kill_dul()  # connections that never asked for an association

    def _list_associations(self) -> list[Association]:
        return [association for server in self._servers for association in server.active_associations]

    def _list_open_associations(self) -> list[Association]:
        """Return those that have been asked for; a connection that never said a word is none."""
        return [association for association in self._list_associations() if association.requestor.primitive is not None]

    def _on_requested(self, event: evt.Event) -> None:
        """Check the allow-lists, then wait for a place."""
        association = event.assoc
        sender = _identify_sender(association)
        if self._reject_unknown_titles(association, sender) or self._is_own_probe(sender):
            return
        waited = self._places.acquire(association)
        if waited > 1:
            log.info("association waited for a place", calling=sender.ae_title, seconds=round(waited, 1))

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
        """The watchdog calls itself from this host; it must get through when all places are taken."""
        return sender.ae_title == self._settings.ae_title and sender.address in ("127.0.0.1", "::1", self._settings.host)

    def _reject_association(self, association: Association, sender: Sender, reject: tuple[int, int, int], why: str) -> None:
        association.acse.send_reject(*reject)
        association.kill()
        detail = f"calling {sender.ae_title!r}, called {sender.called_ae_title!r}: {why}"
        log.warning("association rejected", calling=sender.ae_title, called=sender.called_ae_title, why=why)
        self._write_audit_event(AuditEvent("association", "refused", sender.ae_title, detail, sender.address))

    def _open_data_set(self, association: Association, context: int, command: Dataset) -> ReceivedDataset:
        """Say where the data set of a C-STORE goes, before its first byte has come."""
        return ReceivedDataset(
            self._begin,
            sop_class_uid=str(command.get("AffectedSOPClassUID")),
            sop_instance_uid=str(command.get("AffectedSOPInstanceUID")),
            transfer_syntax_uid=str(association._accepted_cx[context].transfer_syntax[0]),
        )

    def _on_store(self, event: evt.Event) -> Dataset | int:
        """Answer one C-STORE request: PS3.4 B.2.3."""
        sender = _identify_sender(event.assoc)
        request = cast(C_STORE, event.request)
        uid = str(request.AffectedSOPInstanceUID)
        if not self._is_allowed_caller(sender):
            return self._refuse_instance(uid, sender, NOT_AUTHORIZED, "the watchdog's place is for C-ECHO")
        try:
            header, receipt = self._receive_data_set(request.DataSet, sender)
        except RadclipdError as error:
            return self._refuse_instance(uid, sender, STATUS_BY_ERROR.get(type(error), UNEXPECTED), str(error))
        except Exception as error:  # whatever it was: the sender must not hear Success
            log.error("receive failed", error=type(error).__name__, places=traceback_locations(error))
            return self._refuse_instance(uid, sender, UNEXPECTED, f"unexpected {type(error).__name__}")
        self._studies.setdefault(event.assoc, set()).add(header.study_instance_uid)
        log.debug("received", instance=uid, receipt=receipt.value, calling=sender.ae_title)
        return SUCCESS

    def _receive_data_set(self, data_set: BytesIO | None, sender: Sender) -> tuple[Header, Receipt]:
        if not isinstance(data_set, ReceivedDataset):
            raise DataSetUnreadable("the request brings no data set", hint="the sender must send one")
        with data_set:
            header, arriving = data_set.finish()
            return header, self._receive(header, arriving, sender)

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
            self._released(sorted(studies))
        except RadclipdError as error:  # the quiet time will settle them
            log.warning("release not noted", error=str(error))

    def _on_aborted(self, event: evt.Event) -> None:
        """What was stored before the abort stays; its study settles by the quiet time."""
        self._studies.pop(event.assoc, None)
        sender = _identify_sender(event.assoc)
        log.warning("association aborted", calling=sender.ae_title)
        self._write_audit_event(AuditEvent("association", "failed", sender.ae_title, "aborted", sender.address))

    def _on_closed(self, event: evt.Event) -> None:
        self._places.release(event.assoc)

    def _write_audit_event(self, event: AuditEvent) -> None:
        """Audit; a catalog that is away must not keep the answer from the sender."""
        try:
            self._audit(event)
        except Exception as error:
            log.error("audit not written", action=event.action, outcome=event.outcome, error=type(error).__name__)


def _identify_sender(association: Association) -> Sender:
    requestor = association.requestor
    primitive = requestor.primitive
    calling = primitive.calling_ae_title if primitive is not None else requestor.ae_title
    called = primitive.called_ae_title if primitive is not None else ""
    address = str(requestor.address or "").removeprefix(IPV4_MAPPED)
    return Sender(str(calling or "").strip(), address, str(called or "").strip())


def _build_response(status: int, comment: str) -> Dataset:
    """Return the status elements of a C-STORE-RSP (PS3.7 9.1.1.2); the comment is cut to VR LO."""
    response = Dataset()
    response.Status = status
    response.ErrorComment = comment.encode("ascii", "replace").decode()[:COMMENT_LENGTH]
    return response
