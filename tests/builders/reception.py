"""A listener on a fake `receive` step, and senders."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from adapters.dicom.network.commitment_service import CommitmentService
from adapters.dicom.network.dimse import VERIFICATION
from adapters.dicom.network.listener import Listener, ListenerSettings
from adapters.dicom.network.tls import TlsEndpoint
from pipeline.domain import AuditEvent, Header, Receipt, Sender
from pipeline.ports.services import IncomingFile
from pipeline.rules import DIGITAL_X_RAY_FOR_PRESENTATION
from tests.builders.dicom_files import EXPLICIT
from tests.builders.fakes.images import FakeIncomingFile

DX = DIGITAL_X_RAY_FOR_PRESENTATION
CT = str(CTImageStorage)


@dataclass
class FakeReception:
    """The steps behind the listener: it keeps the instances it receives, or raises `error`. `gate`: closed, it blocks."""

    received: list[tuple[Header, bytes, Sender]] = field(default_factory=list)
    released_studies: list[list[str]] = field(default_factory=list)
    events: list[AuditEvent] = field(default_factory=list)
    error: Exception | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    begun_files: list[FakeIncomingFile] = field(default_factory=list)
    make_file: Callable[[], FakeIncomingFile] = FakeIncomingFile

    def __post_init__(self) -> None:
        self.gate.set()

    def open_incoming(self) -> FakeIncomingFile:
        self.begun_files.append(self.make_file())
        return self.begun_files[-1]

    def receive(self, header: Header, file: IncomingFile, sender: Sender) -> Receipt:
        self.gate.wait(20)
        if self.error:
            raise self.error
        with file.open() as stream:
            self.received.append((header, stream.read(), sender))
        file.commit()
        return Receipt.STORED

    @property
    def refusals(self) -> list[AuditEvent]:
        """The events of what was not done."""
        return [event for event in self.events if event.outcome != "done"]

    def mark_released(self, studies: Any, events: Any) -> None:
        self.released_studies.append(list(studies))
        self.events.extend(events)


@contextlib.contextmanager
def listening(
    reception: FakeReception,
    *adopted: socket.socket,
    tls: TlsEndpoint | None = None,
    commitment: CommitmentService | None = None,
    **settings: Any,
) -> Iterator[Listener]:
    listener = Listener(
        ListenerSettings(host="127.0.0.1", port=0, **settings),
        open_incoming=reception.open_incoming,
        receive=reception.receive,
        mark_released=reception.mark_released,
        audit=reception.events.append,
        tls=tls,
        commitment=commitment,
    )
    listener.start(*adopted)
    try:
        yield listener
    finally:
        reception.gate.set()
        listener.drain(1)


def associate(port: int, *, calling: str = "ORTHANC", called: str = "RADCLIPD", classes: tuple[str, ...] = (DX,)) -> Association:
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    contexts = [build_context(uid, EXPLICIT if uid != VERIFICATION else None) for uid in classes]
    return ae.associate("127.0.0.1", port, contexts=contexts, ae_title=called)


def send(port: int, dataset: Dataset, **options: Any) -> Dataset:
    """Send a C-STORE over a new association; return the response."""
    options.setdefault("classes", (str(dataset.SOPClassUID),))
    association = associate(port, **options)
    assert association.is_established
    own: Any = association.dul.socket
    with contextlib.closing(own.socket):  # pynetdicom leaves it open where the listener has closed first
        answer = association.send_c_store(with_meta(dataset))
        association.release()
    return answer


def with_meta(dataset: Dataset) -> Dataset:
    """The data set with the file meta information that pynetdicom requires."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    return dataset


def wait_for(condition: Callable[[], object], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.02)
