"""The limit on open associations, and the share of it that one peer may hold.

Above the limit requestors wait. The next free slot goes to the peer that holds the fewest; among equals, to the one that was served
longest ago; of the requests of one peer, to the first to arrive.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pynetdicom.association import Association


class AssociationSlots(Protocol):
    """A fixed number of slots, possibly shared with other processes."""

    def acquire(self) -> int | None:
        """Return a slot, or None where none is free."""

    def release(self, slot: int) -> None:
        """Return a slot to the free ones."""


class ProcessSlots:
    """The slots of one process."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))

    def acquire(self) -> int | None:
        return self._free.pop() if self._free else None

    def release(self, slot: int) -> None:
        self._free.append(slot)


class Peer(NamedTuple):
    """Who requests an association. An AE title alone proves nothing, and several peers may have one address."""

    ae_title: str
    address: str


@dataclass(frozen=True, slots=True)
class PeerShares:
    """The most slots of this process that one peer, and all peers of one address, may hold."""

    peer: int
    address: int

    @classmethod
    def from_limit(cls, max_associations: int, processes: int) -> PeerShares:
        """Return three quarters of the limit for a peer, half of the rest more for an address, dealt to the processes."""
        peer = max(1, max_associations * 3 // 4)
        address = max_associations - (max_associations - peer) // 2
        return cls(peer=max(1, peer // processes), address=max(1, address // processes))


@dataclass(eq=False, slots=True)
class SlotHolder:
    """The right to one slot: given to a peer, held by an association from its start on."""

    slot: int
    peer: Peer
    association: Association | None = None

    @property
    def is_dead(self) -> bool:
        """Whether the thread of the association has ended."""
        return self.association is not None and self.association.ident is not None and not self.association.is_alive()


class AssociationLimit:
    """The slots and their holders. Safe for threads."""

    def __init__(self, slots: AssociationSlots, shares: PeerShares) -> None:
        self._slots, self._shares = slots, shares
        self._holders: set[SlotHolder] = set()
        self._turns: dict[Peer, int] = {}  # the turn in which a waiting peer, or one that holds a slot, was last served
        self._next_turn = 1
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of slots held in this process."""
        return len(self._holders)

    def acquire(self, waiting: Sequence[Peer]) -> tuple[int, SlotHolder] | None:
        """Give a slot to one of the waiting peers, which stand in order of arrival; return its index and the holder.

        None where no slot is free, or where all waiting peers have their share.
        """
        with self._lock:
            for dead in [holder for holder in self._holders if holder.is_dead]:
                self._release_holder(dead)
            index = self._choose_peer(waiting)
            slot = self._slots.acquire() if index is not None else None
            if index is None or slot is None:
                return None
            holder = SlotHolder(slot, waiting[index])
            self._holders.add(holder)
            self._note_turn(waiting[index], set(waiting))
            return index, holder

    def _note_turn(self, served: Peer, waiting: set[Peer]) -> None:
        present = waiting | {holder.peer for holder in self._holders}
        self._turns = {peer: turn for peer, turn in self._turns.items() if peer in present} | {served: self._next_turn}
        self._next_turn += 1

    def _choose_peer(self, waiting: Sequence[Peer]) -> int | None:
        of_peer = Counter(holder.peer for holder in self._holders)
        of_address = Counter(holder.peer.address for holder in self._holders)
        eligible = [
            (of_peer[peer], of_address[peer.address], self._turns.get(peer, 0), index)
            for index, peer in enumerate(waiting)
            if of_peer[peer] < self._shares.peer and of_address[peer.address] < self._shares.address
        ]
        return min(eligible)[-1] if eligible else None

    def release(self, holder: SlotHolder) -> None:
        """Release the slot of this holder, unless it was released before."""
        with self._lock:
            self._release_holder(holder)

    def _release_holder(self, holder: SlotHolder) -> None:
        if holder in self._holders:
            self._holders.remove(holder)
            self._slots.release(holder.slot)
