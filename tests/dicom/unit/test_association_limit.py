"""The association limit: shares of peers and addresses, order of the queue, slots of associations that have died."""

from __future__ import annotations

import multiprocessing
import threading
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import pytest

from adapters.dicom.network.association_limit import AssociationLimit, Peer, PeerShares, ProcessSlots
from adapters.ipc.slots import SharedSlots

A, B, FAR = Peer("A", "10.0.0.1"), Peer("B", "10.0.0.1"), Peer("A", "10.0.0.2")


@pytest.mark.parametrize(
    ("limit", "peer", "address"),
    [(32, 24, 28), (1, 1, 1), (2, 1, 2), (4, 3, 4)],
)
def test_shares_leave_slots_for_others(limit: int, peer: int, address: int) -> None:
    assert PeerShares.from_limit(limit) == PeerShares(peer, address)


def serve_limit(end: Connection, path: Path) -> None:
    limit = AssociationLimit(SharedSlots(path, 8), PeerShares.from_limit(8))
    while True:
        end.send(limit.acquire([end.recv()]) is not None)


@pytest.mark.parametrize("processes", [1, 2, 16])
def test_a_peer_gets_its_whole_share_and_no_more_of_all_processes_together(tmp_path: Path, processes: int) -> None:
    """Whichever process the kernel gives a connection to. The share of a process that has died is free."""
    forking = multiprocessing.get_context("fork")
    with ExitStack() as stack:
        ends, members = [], []
        for _ in range(processes):
            end, theirs = forking.Pipe()
            member = forking.Process(target=serve_limit, args=(theirs, tmp_path / "slots"), daemon=True)
            member.start()
            stack.callback(member.kill)
            ends.append(end)
            members.append(member)

        def ask(number: int, peer: Peer) -> bool:
            ends[number % processes].send(peer)
            return bool(ends[number % processes].recv())

        assert [ask(number, A) for number in range(8)] == [True] * 6 + [False] * 2
        assert [ask(processes - 1, B), ask(0, B)] == [True, False]  # of one address
        assert [ask(processes - 1, FAR), ask(0, Peer("C", "10.0.0.3"))] == [True, False]  # all are held
        if processes > 1:
            members[0].kill()
            members[0].join()
            assert [ask(1, A), ask(1, A)] == [True, processes == 2]


def acquire(limit: AssociationLimit, *waiting: Peer) -> Peer | None:
    given = limit.acquire(waiting)
    return None if given is None else waiting[given[0]]


def test_a_peer_and_an_address_get_no_more_than_their_shares() -> None:
    limit = AssociationLimit(ProcessSlots(8), PeerShares(peer=2, address=3))
    assert [acquire(limit, A) for _ in range(3)] == [A, A, None]
    assert [acquire(limit, A, B), acquire(limit, A, B), acquire(limit, A, B, FAR)] == [B, None, FAR]
    assert len(limit) == 4


def test_the_peer_with_the_fewest_slots_comes_first_then_the_first_to_arrive() -> None:
    limit = AssociationLimit(ProcessSlots(8), PeerShares(peer=8, address=8))
    assert acquire(limit, A, A, B) == A
    assert acquire(limit, A, B, B) == B
    assert acquire(limit, A, B) == A
    assert acquire(limit, A, B, FAR) == FAR


def test_a_slot_is_released_once_and_that_of_a_dead_association_by_itself() -> None:
    limit = AssociationLimit(ProcessSlots(1), PeerShares(peer=1, address=1))
    given = limit.acquire([A])
    assert given is not None
    assert acquire(limit, B) is None
    limit.release(given[1])
    limit.release(given[1])
    given = limit.acquire([A])
    assert given is not None
    assert acquire(limit, B) is None
    thread = threading.Thread(target=lambda: None)
    given[1].association = cast(Any, thread)
    assert acquire(limit, B) is None  # not yet started
    thread.start()
    thread.join()
    assert acquire(limit, B) == B


def test_peers_that_wait_take_turns() -> None:
    limit = AssociationLimit(ProcessSlots(1), PeerShares(peer=1, address=1))
    waiting = [A, A, A, B, B]
    served = []
    for _ in range(5):
        given = limit.acquire(waiting)
        assert given is not None
        served.append(waiting.pop(given[0]))
        limit.release(given[1])
    assert served == [A, B, A, B, A]
