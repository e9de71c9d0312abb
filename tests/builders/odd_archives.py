"""Peers in the place of an archive that cannot be worked with: raw TCP servers, and DICOM servers that end associations."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from adapters.dicom.network.dimse import PENDING, STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE, SUCCESS
from tests.builders.dicom_files import COMPREHENSIVE_3D_SR

ACCEPT_TYPE, ABORT = 0x02, b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"

Behaviour = Callable[[socket.socket, threading.Event], None]
"""What a peer does with a connection until the event is set."""


def stay_silent(_connection: socket.socket, over: threading.Event) -> None:
    over.wait()


def close(_connection: socket.socket, _over: threading.Event) -> None:
    return None


def reset(connection: socket.socket, _over: threading.Event) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def abort(connection: socket.socket, _over: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(ABORT)


def speak_http(connection: socket.socket, _over: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def send_half_a_pdu(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(struct.pack(">BBL", ACCEPT_TYPE, 0, 500) + b"\0" * 20)
    over.wait()


def drip(connection: socket.socket, over: threading.Event) -> None:
    """Send a PDU that never ends, one byte at a time."""
    connection.recv(65536)
    connection.sendall(struct.pack(">BBL", ACCEPT_TYPE, 0, 60_000))
    while not over.wait(0.05):
        connection.sendall(b"\0")


RAW_BEHAVIOURS: dict[str, Behaviour] = {
    "silent": stay_silent,
    "closed": close,
    "reset": reset,
    "aborted": abort,
    "http": speak_http,
    "half a PDU": send_half_a_pdu,
    "drip": drip,
}


@contextmanager
def raw_peer(behaviour: Behaviour) -> Iterator[int]:
    """Listen on a free port while the block lasts; yield the port."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threads = [threading.Thread(target=_accept, args=(server, behaviour, over))]
        threads[0].start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            threads[0].join()


def _accept(server: socket.socket, behaviour: Behaviour, over: threading.Event) -> None:
    threads: list[threading.Thread] = []
    while not over.is_set():
        try:
            connection, _ = server.accept()
        except OSError:
            break
        threads.append(threading.Thread(target=_serve, args=(connection, behaviour, over)))
        threads[-1].start()
    for thread in threads:
        thread.join()


def _serve(connection: socket.socket, behaviour: Behaviour, over: threading.Event) -> None:
    with connection, suppress(OSError):
        connection.settimeout(5)
        behaviour(connection, over)


def _cut(event: evt.Event) -> int:
    """Reset the connection instead of an answer."""
    transport = event.assoc.dul.socket
    assert transport is not None
    connection = transport.socket
    assert connection is not None
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    return 0


def _abort_association(event: evt.Event) -> int:
    event.assoc.abort()
    return 0


def _sleep(event: evt.Event) -> int:
    time.sleep(4)
    return 0


@contextmanager
def associating_peer(moment: str) -> Iterator[int]:
    """A server that accepts every association and ends it at this moment: established, or in the request, or answers too late."""
    ae = AE("ORTHANC")
    for sop_class in (Verification, STUDY_ROOT_FIND, COMPREHENSIVE_3D_SR):
        ae.add_supported_context(sop_class)
    act = {"abort": _abort_association, "cut": _cut, "sleep": _sleep}[moment.split()[0]]
    if moment.endswith("established"):
        handlers: list[Any] = [(evt.EVT_ESTABLISHED, act)]
    else:
        handlers = [(evt.EVT_C_STORE, act), (evt.EVT_C_ECHO, act), (evt.EVT_C_FIND, lambda event: iter([(act(event), None)]))]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@contextmanager
def endless_archive() -> Iterator[int]:
    """A server that answers C-FIND, C-GET and C-MOVE with one Pending after the other; yield the port."""
    ae, over = AE("ORTHANC"), threading.Event()
    for sop_class in (STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE, COMPREHENSIVE_3D_SR):
        ae.add_supported_context(sop_class)

    def find(_event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        answer = Dataset()
        answer.StudyInstanceUID = answer.SeriesInstanceUID = answer.SOPInstanceUID = "1.2"
        while not over.wait(0.02):
            yield PENDING, answer
        yield SUCCESS, None

    def get(_event: evt.Event) -> Iterator[int | tuple[int, Dataset | None]]:
        unknown = Dataset()  # no instance: each sub-operation fails, and is told as Pending
        unknown.SOPClassUID, unknown.SOPInstanceUID = "1.2", "1.2.3"
        yield 10_000
        while not over.wait(0.02):
            yield PENDING, unknown

    def move(event: evt.Event) -> Iterator[Any]:
        yield "127.0.0.1", port  # its own destination
        yield from get(event)

    ae.add_requested_context(COMPREHENSIVE_3D_SR)  # towards the destination
    handlers: list[Any] = [(evt.EVT_C_FIND, find), (evt.EVT_C_GET, get), (evt.EVT_C_MOVE, move)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    port: int = server.server_address[1]
    try:
        yield port
    finally:
        over.set()
        server.shutdown()
