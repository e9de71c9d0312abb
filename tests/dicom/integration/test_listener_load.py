"""The listener under peers that only connect, only associate, wait and leave: bounded threads, a share for each, prompt answers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from adapters.dicom.network import pending_connections
from adapters.dicom.network.listener import Listener
from tests.builders.dicom_files import dx
from tests.builders.pdus import ABORT, ABORTED, ACCEPTED, CLOSED, REJECTED, RELEASE_RQ, RELEASED, RawPeer, associate_rq
from tests.builders.reception import FakeReception, associate, listening, send, wait_for


@pytest.fixture
def reception() -> FakeReception:
    return FakeReception()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def open_connections(port: int, count: int, stack: ExitStack) -> list[socket.socket]:
    return [stack.enter_context(closing(socket.create_connection(("127.0.0.1", port)))) for _ in range(count)]


def request_associations(port: int, count: int, stack: ExitStack, *, calling: bytes) -> list[RawPeer]:
    """Request associations and say nothing more; the answers are left unread."""
    opened = [stack.enter_context(RawPeer(port)) for _ in range(count)]
    for peer in opened:
        peer.write(associate_rq(calling=calling))
    return opened


def waiting_count(listener: Listener) -> int:
    assert listener._pending is not None
    return listener._pending.waiting_count


def seconds_to_send(port: int, **options: str) -> float:
    begun = time.monotonic()
    assert send(port, dx(), **options).Status == 0
    return time.monotonic() - begun


def test_silent_connections_cost_no_threads_and_delay_nobody(reception: FakeReception, stack: ExitStack) -> None:
    before = threading.active_count()
    with listening(reception) as running:
        open_connections(running.port, 200, stack)
        stop = threading.Event()

        def associate_shortly() -> None:
            while not stop.wait(1 / 10):
                with RawPeer(running.port) as peer:
                    assert peer.associate()[0] == ACCEPTED
                    peer.write(RELEASE_RQ)
                    peer.read()

        short = threading.Thread(target=associate_shortly)
        short.start()
        times = []
        most = 0
        for _ in range(10):
            times.append(seconds_to_send(running.port))
            most = max(most, threading.active_count() - before)
        stop.set()
        short.join()
    assert max(times) < 2
    assert most < 30  # with those of the senders in this process


def test_more_silent_connections_than_the_limit_are_closed_oldest_first(
    reception: FakeReception, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_connections, "MAX_PENDING_CONNECTIONS", 20)
    with listening(reception) as running:
        opened = open_connections(running.port, 30, stack)
        for client in opened[:10]:
            client.settimeout(5)
            assert client.recv(1) == b""
        assert seconds_to_send(running.port) < 2
        assert send(running.port, dx()).Status == 0


def test_a_connection_without_a_request_is_closed_in_time(reception: FakeReception, stack: ExitStack) -> None:
    with listening(reception, first_message_seconds=0.5) as running:
        (silent,) = open_connections(running.port, 1, stack)
        silent.settimeout(5)
        assert silent.recv(1) == b""
        begun = [stack.enter_context(RawPeer(running.port)) for _ in range(2)]
        for peer in begun:
            peer.write(associate_rq()[:50])
        assert [peer.read()[0] for peer in begun] == [CLOSED] * 2
        wait_for(lambda: [event.outcome for event in reception.events] == ["refused"] * 2)  # silence is no refusal


def test_one_title_holds_its_share_only_and_its_silent_associations_end(reception: FakeReception, stack: ExitStack) -> None:
    titles = ("HOARDER", "ORTHANC")
    with listening(reception, max_associations=4, calling_ae_titles=titles, first_message_seconds=2) as running:
        hoarding = request_associations(running.port, 12, stack, calling=b"HOARDER")
        wait_for(lambda: len(running._limit) == 3)
        assert seconds_to_send(running.port) < 2
        assert len(running._limit) == 3
        assert hoarding[0].read()[0] == ACCEPTED
        assert hoarding[0].read()[0] == ABORTED  # no message came in time
        wait_for(lambda: any("no message" in event.detail for event in reception.events))


def test_the_next_slot_goes_to_the_peer_that_holds_the_fewest(reception: FakeReception, stack: ExitStack) -> None:
    with listening(reception, max_associations=1, calling_ae_titles=("*",), first_message_seconds=1) as running:
        request_associations(running.port, 5, stack, calling=b"HOARDER")
        time.sleep(0.2)
        assert seconds_to_send(running.port, calling="OTHER") < 4  # in order of arrival it would be the sixth, after 5 s


def test_peers_that_are_gone_leave_the_queue_at_once(reception: FakeReception, stack: ExitStack) -> None:
    with listening(reception, max_associations=1) as running:
        holder = associate(running.port)
        for leave in (RawPeer.__exit__, lambda peer: peer.write(ABORT)):
            waiting = request_associations(running.port, 20, stack, calling=b"ORTHANC")
            wait_for(lambda: waiting_count(running) == 20)
            for peer in waiting:
                leave(peer)
            wait_for(lambda: waiting_count(running) == 0, 1)
        live = request_associations(running.port, 1, stack, calling=b"ORTHANC")[0]
        holder.release()
        assert live.read()[0] == ACCEPTED
        live.write(RELEASE_RQ)
        assert live.read()[0] == RELEASED


def test_a_waiting_peer_that_goes_on_sending_is_aborted(reception: FakeReception, stack: ExitStack) -> None:
    with listening(reception, max_associations=1) as running:
        holder = associate(running.port)
        (impatient,) = request_associations(running.port, 1, stack, calling=b"ORTHANC")
        time.sleep(0.2)
        impatient.write(associate_rq())
        assert impatient.read()[0] == ABORTED
        holder.release()


def test_above_the_bound_of_the_queue_a_request_is_rejected_as_transient(
    reception: FakeReception, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_connections, "MAX_PENDING_CONNECTIONS", 5)
    with listening(reception, max_associations=1) as running:
        holder = associate(running.port)
        waiting = request_associations(running.port, 5, stack, calling=b"ORTHANC")
        wait_for(lambda: waiting_count(running) == 5)
        with RawPeer(running.port) as late:
            assert late.associate() == (REJECTED, bytes([0, 2, 3, 2]))
        waiting[0].write(ABORT)
        holder.release()
        assert waiting[1].read()[0] == ACCEPTED


def test_a_stop_rejects_those_that_still_wait_as_transient(reception: FakeReception, stack: ExitStack) -> None:
    with listening(reception, max_associations=1) as running:
        request_associations(running.port, 1, stack, calling=b"ORTHANC")[0].read()
        (waiting,) = request_associations(running.port, 1, stack, calling=b"ORTHANC")
        wait_for(lambda: waiting_count(running) == 1)
        running.drain(0.3)
        assert waiting.read() == (REJECTED, bytes([0, 2, 3, 1]))


def test_many_probes_of_the_own_title_are_bounded(reception: FakeReception, stack: ExitStack) -> None:
    with listening(reception) as running:
        probes = request_associations(running.port, pending_connections.MAX_OWN_PROBES + 1, stack, calling=b"RADCLIPD")
        answers = [probe.read()[0] for probe in probes]
        assert answers == [ACCEPTED] * pending_connections.MAX_OWN_PROBES + [REJECTED]


def test_requests_that_are_begun_hold_bounded_memory(
    reception: FakeReception, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_connections, "MAX_PENDING_BYTES", 1 << 20)
    huge = bytes([1, 0]) + (200_000).to_bytes(4, "big") + bytes(150_000)
    with listening(reception) as running:
        begun = [stack.enter_context(RawPeer(running.port)) for _ in range(10)]
        for peer in begun:
            peer.write(huge)
        assert begun[0].read()[0] is CLOSED
        assert seconds_to_send(running.port) < 2
