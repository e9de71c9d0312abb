"""The limit on open associations, and the share of it that one peer may hold.

Above the limit requestors wait. The next free slot goes to the peer that holds the fewest; among equals, to the one that was served
longest ago; of the requests of one peer, to the first to arrive.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pynetdicom.association import Association


class Peer(NamedTuple):
    """Who requests an association. An AE title alone proves nothing, and several peers may have one address."""

    ae_title: str
    address: str

    @classmethod
    def from_owner(cls, owner: str) -> Peer:
        """Return the peer that owns a slot."""
        address, _, ae_title = owner.partition(" ")
        return cls(ae_title, address)

    @property
    def owner(self) -> str:
        """The peer as the owner of a slot: an address has no blank."""
        return f"{self.address} {self.ae_title}"


class AssociationSlots(Protocol):
    """A fixed number of slots, each with its owner, possibly shared with other processes."""

    def exclude_others(self) -> AbstractContextManager[None]:
        """Let no other process acquire a slot within the block."""

    def owners(self) -> Sequence[str]:
        """Return the owner of each slot that is held in any process."""

    def acquire(self, owner: str) -> int | None:
        """Return a slot, or None where none is free."""

    def release(self, slot: int) -> None:
        """Return a slot to the free ones."""


class ProcessSlots:
    """The slots of one process."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))
        self._owners: dict[int, str] = {}

    def exclude_others(self) -> AbstractContextManager[None]:
        return nullcontext()

    def owners(self) -> Sequence[str]:
        return list(self._owners.values())

    def acquire(self, owner: str) -> int | None:
        if not self._free:
            return None
        self._owners[slot := self._free.pop()] = owner
        return slot

    def release(self, slot: int) -> None:
        del self._owners[slot]
        self._free.append(slot)


@dataclass(frozen=True, slots=True)
class PeerShares:
    """The most slots that one peer, and all peers of one address, may hold in all processes together."""

    peer: int
    address: int

    @classmethod
    def from_limit(cls, max_associations: int) -> PeerShares:
        """Return three quarters of the limit for a peer, half of the rest more for an address."""
        peer = max(1, max_associations * 3 // 4)
        return cls(peer=peer, address=max_associations - (max_associations - peer) // 2)


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
            with self._slots.exclude_others():
                index = self._choose_peer(waiting)
                slot = self._slots.acquire(waiting[index].owner) if index is not None else None
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
        holding = [Peer.from_owner(owner) for owner in self._slots.owners()]
        of_peer, of_address = Counter(holding), Counter(peer.address for peer in holding)
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
