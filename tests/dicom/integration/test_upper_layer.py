"""The listener against raw P-DATA-TF PDUs: slow, huge, truncated, interleaved, malformed, and more than was asked for."""

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

from adapters.dicom.network.pdu_reader import COMMAND, LAST
from pipeline.domain import StoredFile
from pipeline.ports.services import Buffer
from tests.builders.dicom_files import dx, encoded
from tests.builders.fakes.images import FakeIncomingFile
from tests.builders.reception import DX, ECHO, Desk, associate, listening, send, wait_for
from tests.dicom.unit.test_pdu_reader import DATA, p_data, pdv

STORE, ECHO_REQUEST, WITH_DATA_SET = 0x0001, 0x0030, 0x0000


class Raw:
    """An association whose PDUs are written by hand."""

    def __init__(self, port: int) -> None:
        self.association: Association = associate(port, classes=(DX, ECHO))
        assert self.association.is_established
        self.association._reactor_checkpoint.clear()  # answers are read here
        own = self.association.dul.socket
        assert own is not None and own.socket is not None
        self._socket = own.socket
        self.context = next(c.context_id for c in self.association.accepted_contexts if c.abstract_syntax == DX) or 0

    def write(self, stream: bytes) -> None:
        self._socket.sendall(stream)

    def cut_off(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """pynetdicom leaves a socket that the listener has reset to the garbage collector."""
        self._socket.close()

    def status(self) -> int:
        _, answer = self.association.dimse.get_msg(block=True)
        assert answer is not None
        return int(cast(C_STORE, answer).Status or 0)

    def ends(self) -> None:
        """Whether the listener aborts, or just goes."""
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
def desk() -> Desk:
    return Desk()


@pytest.fixture
def port(desk: Desk) -> Iterator[int]:
    with listening(desk, network_timeout_seconds=1.5) as running:
        yield running.port


@pytest.fixture
def raw(port: int) -> Iterator[Raw]:
    with closing(Raw(port)) as association:
        yield association


def body_of(desk: Desk) -> list[bytes]:
    from adapters.dicom.image.part10 import split_file

    return [split_file(content)[0] for _, content, _ in desk.got]


def test_a_data_set_byte_by_byte_and_one_in_a_single_pdu(raw: Raw, desk: Desk) -> None:
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
    assert body_of(desk) == [encoded(slow), encoded(big)]
    raw.release()


def test_requests_sent_without_waiting_are_answered_one_by_one(raw: Raw, desk: Desk) -> None:
    films = [dx() for _ in range(5)]
    for film in films:
        raw.write(p_data(pdv(raw.context, COMMAND | LAST, command(film.SOPInstanceUID))))
        raw.write(p_data(pdv(raw.context, DATA | LAST, encoded(film))))
    assert [raw.status() for _ in films] == [0] * 5
    assert [header.sop_instance_uid for header, _, _ in desk.got] == [film.SOPInstanceUID for film in films]
    raw.release()


def test_a_connection_that_breaks_in_a_data_set_leaves_nothing(raw: Raw, desk: Desk, port: int) -> None:
    film = dx()
    raw.write(p_data(pdv(raw.context, COMMAND | LAST, command(film.SOPInstanceUID))))
    raw.write(p_data(pdv(raw.context, DATA | LAST, encoded(film)))[:-100])
    wait_for(lambda: desk.begun)
    raw.cut_off()
    wait_for(lambda: desk.begun[0].discarded)
    assert not desk.got
    assert send(port, film).Status == 0


def test_an_abort_in_a_data_set_leaves_nothing(raw: Raw, desk: Desk, port: int) -> None:
    film = dx()
    raw.write(p_data(pdv(raw.context, COMMAND | LAST, command(film.SOPInstanceUID)), pdv(raw.context, DATA, encoded(film)[:400])))
    wait_for(lambda: desk.begun)
    raw.association.abort()
    wait_for(lambda: desk.begun[0].discarded)
    assert not desk.got
    assert send(port, film).Status == 0


UID = "1.2.3"
BAD: dict[str, list[tuple[int, int, bytes]]] = {
    "a data set before any command": [(0, DATA, b"x")],
    "a data set after its end": [(0, COMMAND | LAST, command(UID)), (0, DATA | LAST, b"x"), (0, DATA, b"x")],
    "a command within a data set": [(0, COMMAND | LAST, command(UID)), (0, DATA, b"x"), (0, COMMAND, command(UID)[:9])],
    "another context within a data set": [(0, COMMAND | LAST, command(UID)), (0, DATA, b"x"), (2, DATA, b"x")],
    "a command that is none": [(0, COMMAND | LAST, b"\xff" * 40)],
    "an endless command": [(0, COMMAND, b"\0" * 60_000)] * 3,
    "a data set for an echo, endless": [(2, COMMAND | LAST, command(UID, field=ECHO_REQUEST, sop_class=ECHO))]
    + [(2, DATA, b"x" * 500_000)] * 3,
    "a context that was not accepted, endless": [(8, COMMAND | LAST, command(UID))] + [(8, DATA, b"x" * 500_000)] * 3,
}


@pytest.mark.parametrize("fragments", BAD.values(), ids=BAD)
def test_what_breaks_the_rules_is_aborted_and_the_next_goes_through(
    raw: Raw, desk: Desk, port: int, fragments: list[tuple[int, int, bytes]]
) -> None:
    with suppress(OSError):  # it may have gone before all is sent
        for context, control, payload in fragments:
            raw.write(p_data(pdv(raw.context + context, control, payload)))
    raw.ends()
    wait_for(lambda: all(arriving.discarded for arriving in desk.begun))
    assert not desk.got
    assert send(port, dx()).Status == 0


def test_lengths_that_lie_are_aborted(raw: Raw, desk: Desk, port: int) -> None:
    raw.write(struct.pack(">BBLLBB", 4, 0, 10, 1000, raw.context, DATA) + b"x" * 50)
    raw.ends()
    assert send(port, dx()).Status == 0


def test_silence_in_a_pdu_is_cut_off_and_slowness_is_not(raw: Raw, desk: Desk, port: int) -> None:
    film = dx()
    pdu = p_data(pdv(raw.context, COMMAND | LAST, command(film.SOPInstanceUID)), pdv(raw.context, DATA | LAST, encoded(film)))
    for begin in range(0, len(pdu), len(pdu) // 4):  # longer than network_timeout, but never silent for as long
        raw.write(pdu[begin : begin + len(pdu) // 4])
        time.sleep(0.5)
    assert raw.status() == 0
    raw.write(pdu[:-10])
    assert send(port, dx()).Status == 0  # nobody else waits
    raw.ends()
    wait_for(lambda: desk.begun[1].discarded)


class Nowhere(FakeIncomingFile):
    """Counts."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    @property
    def file(self) -> StoredFile:
        return StoredFile("", "", self.size)

    def write(self, content: Buffer) -> None:
        self.size += len(content)


def test_a_data_set_is_never_in_memory(raw: Raw, desk: Desk) -> None:
    film = dx(rows=8, columns=8)
    head, megabytes = encoded(film)[:-128], 32
    desk.make = Nowhere
    tracemalloc.start()
    try:
        raw.write(p_data(pdv(raw.context, COMMAND | LAST, command(film.SOPInstanceUID)), pdv(raw.context, DATA, head)))
        piece = p_data(pdv(raw.context, DATA, bytes(1 << 20)))
        for _ in range(megabytes):
            raw.write(piece)
        raw.write(p_data(pdv(raw.context, DATA | LAST, bytes(128))))
        assert raw.status() == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cast(Nowhere, desk.begun[0]).size > megabytes << 20
    assert peak < 8 << 20
    raw.release()
