"""The listener with hand-written P-DATA-TF PDUs: slow, huge, truncated, interleaved, malformed, pipelined."""

from __future__ import annotations

import socket
import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import cast

import pytest
from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from adapters.dicom.network.dimse import VERIFICATION
from adapters.dicom.network.pdu_reader import COMMAND, LAST
from pipeline.domain import StoredFile
from pipeline.ports.services import Buffer
from tests.builders.dicom_files import dx, encoded
from tests.builders.fakes.images import FakeIncomingFile
from tests.builders.pdus import DATA, p_data, pdv
from tests.builders.reception import DX, FakeReception, associate, listening, send, wait_for

STORE, ECHO_REQUEST, WITH_DATA_SET = 0x0001, 0x0030, 0x0000


class Raw:
    """An association whose PDUs are written by hand."""

    def __init__(self, port: int) -> None:
        self.association: Association = associate(port, classes=(DX, VERIFICATION))
        assert self.association.is_established
        self.association._reactor_checkpoint.clear()  # the test reads the responses
        own = self.association.dul.socket
        assert own is not None and own.socket is not None
        self._socket = own.socket
        self.context = next(c.context_id for c in self.association.accepted_contexts if c.abstract_syntax == DX) or 0

    def write(self, stream: bytes) -> None:
        self._socket.sendall(stream)

    def disconnect(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, which pynetdicom leaves to the garbage collector after a reset."""
        self._socket.close()

    def status(self) -> int:
        _, answer = self.association.dimse.get_msg(block=True)
        assert answer is not None
        return int(cast(C_STORE, answer).Status or 0)

    def wait_until_ended(self) -> None:
        """Wait until the listener has aborted or closed the association."""
        self.association._reactor_checkpoint.set()
        wait_for(lambda: not self.association.is_established)

    def release(self) -> None:
        self.association._reactor_checkpoint.set()
        self.association.release()


def command(uid: str, *, field: int = STORE, sop_class: str = DX) -> bytes:
    request = Dataset()
    request.AffectedSOPClassUID, request.CommandField, request.MessageID = sop_class, field, 1
    request.Priority, request.CommandDataSetType = 0, WITH_DATA_SET
    if field == STORE:
        request.AffectedSOPInstanceUID = uid
    group_length = Dataset()
    body = encode(request, True, True) or b""
    group_length.CommandGroupLength = len(body)
    return (encode(group_length, True, True) or b"") + body


@pytest.fixture
def reception() -> FakeReception:
    return FakeReception()


@pytest.fixture
def port(reception: FakeReception) -> Iterator[int]:
    with listening(reception, network_timeout_seconds=1.5) as running:
        yield running.port


@pytest.fixture
def raw(port: int) -> Iterator[Raw]:
    with closing(Raw(port)) as association:
        yield association


def body_of(reception: FakeReception) -> list[bytes]:
    from adapters.dicom.image.part10 import split_file

    return [split_file(content)[0] for _, content, _ in reception.received]


def test_data_sets_in_one_byte_fragments_and_in_a_single_pdu_are_received(raw: Raw, reception: FakeReception) -> None:
    slow, big = dx(rows=4, columns=4), dx(rows=1200, columns=1200)
    stream = p_data(pdv(raw.context, COMMAND | LAST, command(slow.SOPInstanceUID)))
    stream += b"".join(p_data(pdv(raw.context, DATA, bytes([byte]))) for byte in encoded(slow)[:-1])
    stream += p_data(pdv(raw.context, DATA | LAST, encoded(slow)[-1:]))
    for begin in range(0, len(stream), 7):
        raw.write(stream[begin : begin + 7])
    assert raw.status() == 0
    whole = pdv(raw.context, COMMAND | LAST, command(big.SOPInstanceUID)), pdv(raw.context, DATA | LAST, encoded(big))
    raw.write(p_data(*whole))
    assert raw.status() == 0
    assert body_of(reception) == [encoded(slow), encoded(big)]
    raw.release()


def test_pipelined_requests_are_answered_in_order(raw: Raw, reception: FakeReception) -> None:
    films = [dx() for _ in range(5)]
    for film in films:
        raw.write(p_data(pdv(raw.context, COMMAND | LAST, command(film.SOPInstanceUID))))
        raw.write(p_data(pdv(raw.context, DATA | LAST, encoded(film))))
    assert [raw.status() for _ in films] == [0] * 5
    assert [header.sop_instance_uid for header, _, _ in reception.received] == [film.SOPInstanceUID for film in films]
    raw.release()


def test_a_connection_lost_in_a_data_set_leaves_no_file(raw: Raw, reception: FakeReception, port: int) -> None:
    film = dx()
    raw.write(p_data(pdv(raw.context, COMMAND | LAST, command(film.SOPInstanceUID))))
    raw.write(p_data(pdv(raw.context, DATA | LAST, encoded(film)))[:-100])
    wait_for(lambda: reception.begun_files)
    raw.disconnect()
    wait_for(lambda: reception.begun_files[0].discarded)
    assert not reception.received
    assert send(port, film).Status == 0


def test_an_abort_in_a_data_set_leaves_no_file(raw: Raw, reception: FakeReception, port: int) -> None:
    film = dx()
    raw.write(p_data(pdv(raw.context, COMMAND | LAST, command(film.SOPInstanceUID)), pdv(raw.context, DATA, encoded(film)[:400])))
    wait_for(lambda: reception.begun_files)
    raw.association.abort()
    wait_for(lambda: reception.begun_files[0].discarded)
    assert not reception.received
    assert send(port, film).Status == 0


UID = "1.2.3"
VIOLATIONS: dict[str, list[tuple[int, int, bytes]]] = {
    "a data set before any command": [(0, DATA, b"x")],
    "a data set after its end": [(0, COMMAND | LAST, command(UID)), (0, DATA | LAST, b"x"), (0, DATA, b"x")],
    "a command within a data set": [(0, COMMAND | LAST, command(UID)), (0, DATA, b"x"), (0, COMMAND, command(UID)[:9])],
    "another context within a data set": [(0, COMMAND | LAST, command(UID)), (0, DATA, b"x"), (2, DATA, b"x")],
    "an invalid command set": [(0, COMMAND | LAST, b"\xff" * 40)],
    "an endless command set": [(0, COMMAND, b"\0" * 60_000)] * 3,
    "a data set for an echo, endless": [(2, COMMAND | LAST, command(UID, field=ECHO_REQUEST, sop_class=VERIFICATION))]
    + [(2, DATA, b"x" * 500_000)] * 3,
    "a context that was not accepted, endless": [(8, COMMAND | LAST, command(UID))] + [(8, DATA, b"x" * 500_000)] * 3,
}


@pytest.mark.parametrize("fragments", VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_protocol_violation_is_aborted_and_the_next_sender_served(
    raw: Raw, reception: FakeReception, port: int, fragments: list[tuple[int, int, bytes]]
) -> None:
    with suppress(OSError):  # the listener may close before everything is sent
        for context, control, payload in fragments:
            raw.write(p_data(pdv(raw.context + context, control, payload)))
    raw.wait_until_ended()
    wait_for(lambda: all(file.discarded for file in reception.begun_files))
    assert not reception.received
    assert send(port, dx()).Status == 0


def test_inconsistent_lengths_are_aborted(raw: Raw, reception: FakeReception, port: int) -> None:
    raw.write(struct.pack(">BBLLBB", 4, 0, 10, 1000, raw.context, DATA) + b"x" * 50)
    raw.wait_until_ended()
    assert send(port, dx()).Status == 0


def test_silence_within_a_pdu_times_out_and_slow_progress_does_not(raw: Raw, reception: FakeReception, port: int) -> None:
    film = dx()
    pdu = p_data(pdv(raw.context, COMMAND | LAST, command(film.SOPInstanceUID)), pdv(raw.context, DATA | LAST, encoded(film)))
    for begin in range(0, len(pdu), len(pdu) // 4):  # in total longer than network_timeout, each pause shorter
        raw.write(pdu[begin : begin + len(pdu) // 4])
        time.sleep(0.5)
    assert raw.status() == 0
    raw.write(pdu[:-10])
    assert send(port, dx()).Status == 0  # other senders do not wait
    raw.wait_until_ended()
    wait_for(lambda: reception.begun_files[1].discarded)


class CountingFile(FakeIncomingFile):
    """A file that keeps only its size."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    @property
    def file(self) -> StoredFile:
        return StoredFile("", "", self.size)

    def write(self, content: Buffer) -> None:
        self.size += len(content)


def test_a_data_set_is_never_held_in_memory(raw: Raw, reception: FakeReception) -> None:
    film = dx(rows=8, columns=8)
    head, mebibytes = encoded(film)[:-128], 32
    reception.make_file = CountingFile
    tracemalloc.start()
    try:
        raw.write(p_data(pdv(raw.context, COMMAND | LAST, command(film.SOPInstanceUID)), pdv(raw.context, DATA, head)))
        piece = p_data(pdv(raw.context, DATA, bytes(1 << 20)))
        for _ in range(mebibytes):
            raw.write(piece)
        raw.write(p_data(pdv(raw.context, DATA | LAST, bytes(128))))
        assert raw.status() == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cast(CountingFile, reception.begun_files[0]).size > mebibytes << 20
    assert peak < 8 << 20
    raw.release()
