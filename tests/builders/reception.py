"""A listener with a desk behind it, and senders."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from adapters.dicom.network.listener import Listener, ListenerSettings
from pipeline.domain import AuditEvent, Header, Receipt, Sender
from pipeline.ports.services import IncomingFile
from tests.builders.dicom_files import EXPLICIT
from tests.builders.fakes.images import FakeIncomingFile

DX = "1.2.840.10008.5.1.4.1.1.1.1"
ECHO = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


@dataclass
class Desk:
    """What stands behind the listener: keeps what it gets, or raises what it is told to."""

    got: list[tuple[Header, bytes, Sender]] = field(default_factory=list)
    studies: list[list[str]] = field(default_factory=list)
    events: list[AuditEvent] = field(default_factory=list)
    error: Exception | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    begun: list[FakeIncomingFile] = field(default_factory=list)
    make: Callable[[], FakeIncomingFile] = FakeIncomingFile

    def __post_init__(self) -> None:
        self.gate.set()

    def begin(self) -> FakeIncomingFile:
        self.begun.append(self.make())
        return self.begun[-1]

    def receive(self, header: Header, arriving: IncomingFile, sender: Sender) -> Receipt:
        self.gate.wait(20)
        if self.error:
            raise self.error
        with arriving.open() as stream:
            self.got.append((header, stream.read(), sender))
        arriving.commit()
        return Receipt.STORED

    def released(self, studies: Any) -> None:
        self.studies.append(list(studies))


@contextlib.contextmanager
def listening(desk: Desk, *socks: socket.socket, **settings: Any) -> Iterator[Listener]:
    listener = Listener(
        ListenerSettings(host="127.0.0.1", port=0, **settings),
        begin_file=desk.begin,
        receive=desk.receive,
        mark_released=desk.released,
        audit=desk.events.append,
    )
    listener.start(*socks)
    try:
        yield listener
    finally:
        desk.gate.set()
        listener.drain(1)


def associate(port: int, *, calling: str = "ORTHANC", called: str = "RADCLIPD", classes: tuple[str, ...] = (DX,)) -> Association:
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    contexts = [build_context(uid, EXPLICIT if uid != ECHO else None) for uid in classes]
    return ae.associate("127.0.0.1", port, contexts=contexts, ae_title=called)


def send(port: int, dataset: Dataset, **options: Any) -> Dataset:
    """C-STORE over an association of its own; return the response."""
    options.setdefault("classes", (str(dataset.SOPClassUID),))
    association = associate(port, **options)
    assert association.is_established
    opened: Any = association.dul.socket
    with contextlib.closing(opened.socket):  # pynetdicom leaves it open where the listener has closed first
        answer = association.send_c_store(with_meta(dataset))
        association.release()
    return answer


def with_meta(dataset: Dataset) -> Dataset:
    """pynetdicom asks for a transfer syntax in the file meta."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    return dataset


def wait_for(condition: Callable[[], object], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)
