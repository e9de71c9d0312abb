"""Peers that break the protocol: each gets an answer in bounded time, no thread fails or stays, and the next sender is served."""

from __future__ import annotations

import contextlib
import logging
import random
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog

from pipeline.domain import AuditEvent
from tests.builders import peers
from tests.builders.dicom_files import dx, encoded
from tests.builders.pdus import (
    ABORT,
    ABORTED,
    ACCEPTED,
    CLOSED,
    DATA_PDU,
    REJECTED,
    RELEASE_RQ,
    RELEASED,
    RawPeer,
    associate_rq,
    command_set,
    context_results,
    p_data,
    pdv,
    proposed_context,
    response_elements,
)
from tests.builders.reception import DX, FakeReception, listening, send, wait_for

COMMAND, DATA, LAST = 1, 0, 2
FILM = dx(rows=8, columns=8)
BODY = encoded(FILM)
UID = FILM.SOPInstanceUID.encode()
UID += b"\0" * (len(UID) % 2)
EXPLICIT = b"1.2.840.10008.1.2.1"


def store(body: bytes = BODY, *, context: int = 1, **elements: bytes | None) -> bytes:
    """A C-STORE request: one PDU for the command set, one for the data set."""
    elements.setdefault("sop_instance", UID)
    return p_data(pdv(context, COMMAND | LAST, command_set(**elements))) + p_data(pdv(context, DATA | LAST, body))


@pytest.fixture
def reception() -> FakeReception:
    return FakeReception()


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """The log records of libraries, and those of the listener: none may have a traceback, none may tell of a failed thread."""
    with structlog.testing.capture_logs() as lines, caplog.at_level(logging.DEBUG):
        yield caplog.records
    assert not [record for record in caplog.records if record.exc_info]
    assert not [line for line in lines if line["log_level"] == "error"]


@pytest.fixture
def port(reception: FakeReception, records: list[logging.LogRecord]) -> Iterator[int]:
    del records
    before = threading.active_count()
    with listening(
        reception, network_timeout_seconds=2, first_message_seconds=2, calling_ae_titles=("ORTHANC", "MODALITY1", "TESTER")
    ) as running:
        yield running.port
        assert send(running.port, dx()).Status == 0
        wait_for(lambda: threading.active_count() <= before + 2, 10)  # accept and audit


def events(reception: FakeReception, count: int = 1) -> list[AuditEvent]:
    wait_for(lambda: len(reception.events) >= count)
    return reception.events


ACCEPTED_ROWS = ["ae_null_padded", "version_name_20", "user_item_unknown", "protocol_version_3"]


@pytest.mark.parametrize("name", ACCEPTED_ROWS)
def test_requests_of_real_senders_are_accepted(port: int, name: str) -> None:
    with RawPeer(port) as peer:
        kind, body = peer.associate(peers.shared(f"faults/{name}.pdu").read_bytes())
        assert kind == ACCEPTED
        assert {result for result, _ in context_results(body).values()} == {0}
        peer.write(RELEASE_RQ)
        assert peer.read()[0] == RELEASED


def test_a_blank_title_of_a_real_sender_is_rejected_and_audited(port: int, reception: FakeReception) -> None:
    with RawPeer(port) as peer:
        kind, body = peer.associate(peers.shared("faults/ae_blank.pdu").read_bytes())
    assert (kind, body) == (REJECTED, bytes([0, 1, 1, 3]))
    (event,) = events(reception)
    assert (event.action, event.outcome, event.source) == ("association", "refused", "127.0.0.1")
    assert "blank" in event.detail


def test_an_empty_transfer_syntax_of_a_real_sender_refuses_its_context_only(port: int) -> None:
    with RawPeer(port) as peer:
        kind, body = peer.associate(peers.shared("faults/ts_zero_length.pdu").read_bytes())
        assert kind == ACCEPTED
        assert sorted(result for result, _ in context_results(body).values()) == [0, 4]


def test_a_long_uid_of_a_real_sender_is_refused_by_a_status(port: int, reception: FakeReception) -> None:
    content = peers.shared("faults/uid_66.pdu").read_bytes()
    end = 6 + int.from_bytes(content[2:6], "big")
    with RawPeer(port) as peer:
        assert peer.associate(content[:end])[0] == ACCEPTED
        peer.write(content[end:])
        assert peer.status() == 0xA900
    assert events(reception)[0].detail.startswith("0xA900")


def test_a_context_without_transfer_syntax_has_result_4_and_a_good_one_stores(port: int, reception: FakeReception) -> None:
    contexts = [
        proposed_context(3, DX.encode(), b""),
        proposed_context(5, b"1.2.3", EXPLICIT),
        proposed_context(1, DX.encode(), EXPLICIT),
    ]
    with RawPeer(port) as peer:
        kind, body = peer.associate(associate_rq(*contexts))
        assert kind == ACCEPTED
        assert {number: result for number, (result, _) in context_results(body).items()} == {1: 0, 3: 4, 5: 3}
        peer.write(store())
        assert peer.status() == 0
    assert len(reception.received) == 1


UNUSUAL_UIDS = {
    "66 characters": b"1.2." + b"3" * 62,
    "missing": None,
    "empty": b"",
    "letters": b"1.2.abc\0",
    "two values": b"1.2\\1.3\0",
    "bytes beyond ASCII": b"1.2.\xff\xfe",
    "a path": b"../../etc/passwd",
}


@pytest.mark.parametrize("uid", UNUSUAL_UIDS.values(), ids=UNUSUAL_UIDS)
@pytest.mark.parametrize("element", ["sop_instance", "sop_class"])
def test_an_invalid_uid_is_refused_by_a_status_and_the_association_goes_on(
    port: int, reception: FakeReception, uid: bytes | None, element: str
) -> None:
    with RawPeer(port) as peer:
        assert peer.associate()[0] == ACCEPTED
        peer.write(store(sop_instance=uid) if element == "sop_instance" else store(sop_class=uid))
        assert peer.status() == 0xA900
        assert not reception.begun_files  # refused before a byte is written
        peer.write(store())
        assert peer.status() == 0
        peer.write(RELEASE_RQ)
        assert peer.read()[0] == RELEASED
    assert [event.detail[:6] for event in reception.refusals] == ["0xA900"]


STATUSES: dict[str, tuple[bytes, int]] = {
    "no data set": (p_data(pdv(1, 3, command_set(data_set_type=b"\1\1"))), 0xC000),
    "an empty data set": (store(b""), 0xC000),
    "a class that was not negotiated": (store(sop_class=b"1.2.840.10008.5.1.4.1.1.2\0"), 0x0122),
    "C-FIND": (p_data(pdv(1, 3, command_set(field=b"\x20\0", data_set_type=b"\1\1"))), 0x0211),
    "C-FIND with an identifier": (store(field=b"\x20\0"), 0x0211),
    "C-MOVE": (p_data(pdv(1, 3, command_set(field=b"\x21\0", data_set_type=b"\1\1"))), 0x0211),
    "N-EVENT-REPORT": (p_data(pdv(1, 3, command_set(field=b"\0\1", data_set_type=b"\1\1"))), 0x0211),
    "an unknown command": (p_data(pdv(1, 3, command_set(field=b"\x77\x77", data_set_type=b"\1\1"))), 0x0211),
    "C-ECHO in a storage context": (p_data(pdv(1, 3, command_set(field=b"\x30\0", data_set_type=b"\1\1"))), 0),
    "message id 0": (store(message_id=b"\0\0"), 0),
    "no priority": (store(priority=None), 0),
    "an odd priority": (store(priority=b"\xff\xff"), 0),
}


@pytest.mark.parametrize(("request_pdus", "status"), STATUSES.values(), ids=STATUSES)
def test_an_unusual_request_gets_a_status_and_the_association_goes_on(port: int, request_pdus: bytes, status: int) -> None:
    with RawPeer(port) as peer:
        assert peer.associate()[0] == ACCEPTED
        peer.write(request_pdus)
        assert peer.status() == status
        peer.write(store())
        assert peer.status() == 0


def test_responses_name_the_message_and_fit_the_peer_s_maximum_length(port: int) -> None:
    with RawPeer(port) as peer:
        assert peer.associate(associate_rq(user=struct.pack(">BBHL", 0x51, 0, 4, 40)))[0] == ACCEPTED
        peer.write(store())
        command, is_last = b"", False
        while not is_last:
            kind, body = peer.read()
            assert (kind, len(body) <= 40) == (DATA_PDU, True)
            command, is_last = command + body[6:], bool(body[5] & LAST)
        elements = response_elements(b"\0" * 6 + command)
        assert (elements[0x0100], elements[0x0120], elements[0x0900]) == (0x8001, 7, 0)


def test_responses_and_cancel_requests_that_nobody_waits_for_are_passed_over(port: int) -> None:
    with RawPeer(port) as peer:
        assert peer.associate()[0] == ACCEPTED
        for field in (b"\1\x80", b"\xff\x0f", b"\x30\x80"):
            peer.write(p_data(pdv(1, 3, command_set(field=field, data_set_type=b"\1\1"))))
        peer.write(store())
        assert peer.status() == 0


BEFORE_ACCEPTANCE = {
    "P-DATA before the request": store(),
    "a release before the request": RELEASE_RQ,
    "an acceptance": bytes([2]) + associate_rq()[1:],
    "an unknown PDU": bytes([9, 0, 0, 0, 0, 0]),
    "HTTP": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "P-DATA in the segment of the request": associate_rq() + store(),
    "a second request in the segment of the first": associate_rq() * 2,
    "a release in the segment of the request": associate_rq() + RELEASE_RQ,
    "a request that is too long": struct.pack(">BBL", 1, 0, 1 << 30) + bytes(100),
    "an even context id": associate_rq(proposed_context(2, DX.encode(), EXPLICIT)),
    "items longer than the request": associate_rq(extra=b"\x20\0\xff\xff\0"),
    "a request without items": struct.pack(">BBL", 1, 0, 68) + bytes(68),
}


@pytest.mark.parametrize("stream", BEFORE_ACCEPTANCE.values(), ids=BEFORE_ACCEPTANCE)
def test_a_violation_before_the_association_is_refused_and_audited(port: int, reception: FakeReception, stream: bytes) -> None:
    with RawPeer(port) as peer:
        peer.write(stream)
        assert peer.read()[0] in (ABORTED, REJECTED)
        assert peer.read()[0] is CLOSED
    (event,) = events(reception)
    assert (event.action, event.outcome) == ("association", "refused")
    assert not reception.begun_files


WITHIN = {
    "a second request": associate_rq(),
    "a second request that is malformed": associate_rq(calling=b"", extra=b"\x20\0\xff\xff\0"),
    "an acceptance": bytes([2]) + associate_rq()[1:],
    "a rejection": bytes([3, 0, 0, 0, 0, 4, 0, 1, 1, 1]),
    "a release response": bytes([6]) + RELEASE_RQ[1:],
    "an unknown PDU": bytes([9, 0, 0, 0, 0, 0]),
    "an unknown context": store(context=99),
    "an even context": store(context=2),
    "a data set first": p_data(pdv(1, DATA | LAST, BODY)),
    "the command set of another group": p_data(pdv(1, 3, b"\x08\0\x18\0\x04\0\0\0abcd")),
    "a command set without message id": store(message_id=None),
    "a command set without a field": store(field=None),
    "a command set without data set type": store(data_set_type=None),
    "a PDV longer than its PDU": struct.pack(">BBLLBB", 4, 0, 10, 1000, 1, 0) + bytes(50),
    "a PDV of one byte": struct.pack(">BBLLB", 4, 0, 5, 1, 1),
    "two PDVs of different contexts": p_data(pdv(1, COMMAND, command_set()[:20]), pdv(3, COMMAND | LAST, command_set()[20:])),
}


@pytest.mark.parametrize("stream", WITHIN.values(), ids=WITHIN)
def test_a_violation_within_an_association_is_aborted_and_audited(port: int, reception: FakeReception, stream: bytes) -> None:
    with RawPeer(port) as peer:
        assert peer.associate()[0] == ACCEPTED
        peer.write(stream)
        assert peer.read()[0] == ABORTED
        assert peer.read()[0] is CLOSED
    event = events(reception)[-1]
    assert (event.action, event.outcome) == ("association", "failed")
    assert len(event.detail) > len("aborted: ")
    assert not reception.received


@pytest.mark.parametrize("body", [b"", b"\0", bytes(100), b"\2\6"], ids=["empty", "short", "long", "reason"])
def test_an_abort_or_release_of_any_length_ends_the_association(port: int, body: bytes) -> None:
    for kind, answer in ((7, CLOSED), (5, RELEASED)):
        with RawPeer(port) as peer:
            assert peer.associate()[0] == ACCEPTED
            peer.write(struct.pack(">BBL", kind, 0, len(body)) + body)
            assert peer.read()[0] is answer


def test_data_behind_a_release_and_a_release_sent_twice_do_no_harm(port: int, reception: FakeReception) -> None:
    for late in (store(), RELEASE_RQ, associate_rq(), b"rubbish"):
        with RawPeer(port) as peer:
            assert peer.associate()[0] == ACCEPTED
            peer.write(RELEASE_RQ + late)
            while peer.read()[0] is not CLOSED:
                pass
    assert not reception.received


def test_a_stored_instance_stays_when_rubbish_follows(port: int, reception: FakeReception) -> None:
    with RawPeer(port) as peer:
        assert peer.associate()[0] == ACCEPTED
        peer.write(store() + b"\xff" * 100)
        assert peer.status() == 0
        assert peer.read()[0] == ABORTED
    assert len(reception.received) == 1


def test_silence_and_trickling_end_in_bounded_time(port: int) -> None:
    beginnings = [b"", associate_rq()[:1], associate_rq()[:100], None, store()[:3], store()[:-5]]
    open_peers = []
    for beginning in beginnings:
        peer = RawPeer(port)
        open_peers.append(peer)
        if beginning is None or beginning[:1] == b"\4":
            assert peer.associate()[0] == ACCEPTED
        peer.write(beginning or b"")
    trickling = RawPeer(port)
    assert trickling.associate()[0] == ACCEPTED
    trickling.write(store()[:300])
    begun = time.monotonic()
    while time.monotonic() - begun < 6:  # each pause is shorter than the time-out
        trickling.write(b"\0")
        time.sleep(0.2)
    for peer in [*open_peers, trickling]:
        with peer:
            while peer.read()[0] is not CLOSED:
                pass


CORPUS = [
    associate_rq() + b"",
    associate_rq() + store() + RELEASE_RQ,
    associate_rq() + store() * 2 + ABORT,
    associate_rq(proposed_context(1, b"1.2.840.10008.1.1", EXPLICIT), proposed_context(3, DX.encode(), EXPLICIT))
    + store(context=3),
    store() + associate_rq(),
]


def mutate(stream: bytes, random_source: random.Random) -> list[bytes]:
    """Return the stream damaged, in pieces: bytes changed, cut out, doubled, shuffled, lengths set to extremes."""
    content = bytearray(stream)
    for _ in range(random_source.randint(1, 4)):
        if not content:
            break
        at = random_source.randrange(min(len(content), random_source.choice([12, 120, len(content)])))
        kind = random_source.randrange(5)
        if kind == 0:
            content[at] = random_source.randrange(256)
        elif kind == 1:
            del content[at : at + random_source.randint(1, 40)]
        elif kind == 2:
            content[at:at] = content[at : at + random_source.randint(1, 40)]
        elif kind == 3:
            content[at : at + 4] = random_source.choice([bytes(4), b"\xff" * 4, b"\0\0\0\1", b"\x7f\xff\xff\xff"])
        else:
            del content[at:]
    cuts = sorted(random_source.randrange(len(content) + 1) for _ in range(random_source.randrange(3)))
    return [bytes(content[a:b]) for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_streams_get_an_answer_and_leave_no_thread(port: int, seed: int) -> None:
    def play(number: int) -> None:
        random_source = random.Random(1000 * seed + number)
        with RawPeer(port) as peer:
            for piece in mutate(random_source.choice(CORPUS), random_source):
                peer.write(piece)
                time.sleep(random_source.choice([0, 0, 0.02]))
            while peer.read()[0] is not CLOSED:  # TimeoutError would fail the test
                pass

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(play, range(60)))


def test_the_daemon_s_own_title_is_refused_before_its_data_set_is_written(reception: FakeReception) -> None:
    with listening(reception) as running, RawPeer(running.port) as peer:
        assert peer.associate(associate_rq(calling=b"RADCLIPD"))[0] == ACCEPTED
        peer.write(store())
        assert peer.status() == 0x0124
        assert not reception.begun_files


def test_the_rest_of_a_refused_data_set_is_awaited_for_a_bounded_time(
    reception: FakeReception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.dicom.network.streaming_dimse.MAX_DISCARD_SECONDS", 0.5)
    begin, end = store(sop_instance=b"9" * 66)[:-100], store(sop_instance=b"9" * 66)[-100:]
    with listening(reception, network_timeout_seconds=20) as running:
        with RawPeer(running.port) as quick:
            assert quick.associate()[0] == ACCEPTED
            quick.write(begin)
            time.sleep(0.2)
            quick.write(end)
            assert quick.status() == 0xA900
        with RawPeer(running.port) as slow:
            assert slow.associate()[0] == ACCEPTED
            slow.write(begin)
            assert slow.read()[0] == ABORTED
        wait_for(lambda: [event.detail[:6] for event in reception.events if event.action == "receive"] == ["0xA900"] * 2)


def test_a_peer_that_reads_no_response_does_not_keep_its_threads(reception: FakeReception) -> None:
    before = threading.active_count()
    with listening(reception, network_timeout_seconds=1, first_message_seconds=1) as running, RawPeer(running.port) as deaf:
        assert deaf.associate()[0] == ACCEPTED
        echo = p_data(pdv(1, 3, command_set(field=b"\x30\0", data_set_type=b"\1\1"))) * 200
        deaf.socket.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(2000):
                deaf.socket.sendall(echo)
        wait_for(lambda: threading.active_count() <= before + 2, 20)
