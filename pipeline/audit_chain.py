"""audit_chain: the hash chain of the audit table, and its verification.

An event is written in the transaction of what it tells, and linked to the chain seconds later, many at a time: writers never wait
for one another. The digest of an event covers the digest of its predecessor, so no event can be changed, removed, inserted or
moved afterwards without a break. Subject and detail enter by a salted digest of their own: when a patient is forgotten they are
erased, and the chain still holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline.domain import AuditEvent
from pipeline.ports.audit import AuditCatalog, ChainAnchor, ChainedEvent

FIRST_POSITION = 1
NO_PREDECESSOR = "0" * 64
"""The predecessor's digest of the first event."""
FORGET = "forget"
"""Action of the event that tells of a patient's erasure; erased content without one is a break."""
LINK_BATCH = 500
"""Events that one transaction links."""
PAGE = 2000
"""Events that the verification reads at a time."""
MAX_FAULTS = 20
"""Faults that a verdict names; the first one matters."""


@dataclass(frozen=True, slots=True)
class ChainFault:
    """A place at which the chain does not hold."""

    position: int  # of the event
    fault: str  # in words


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainVerdict:
    """Result of a verification."""

    events: int  # linked events that were read
    head_sha256: str  # digest of the last event; NO_PREDECESSOR where there is none
    erased: int  # events whose content was erased with their patient
    unlinked: int  # events that wait for their link
    faults: tuple[ChainFault, ...]

    @property
    def holds(self) -> bool:
        """Whether no fault was found."""
        return not self.faults


def digest_content(salt: str, subject: str, detail: str) -> str:
    """Return the SHA-256 of subject and detail, hex. The random salt keeps an erased UID from being guessed."""
    return _digest_texts([salt, subject, detail])


def digest_event(predecessor: str, event: ChainedEvent) -> str:
    """Return the SHA-256 of an event and of its predecessor's digest, hex."""
    moment = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    fields = [event.event.action, event.event.outcome, event.event.source, event.event.patient, event.content_sha256]
    return _digest_texts([predecessor, str(event.position), moment, *fields])


def _digest_texts(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts, ensure_ascii=True, separators=(",", ":")).encode("ascii")).hexdigest()


def link(event: AuditEvent, at: datetime, *, position: int, predecessor: str, salt: str) -> ChainedEvent:
    """Return the event with its place in the chain."""
    linked = ChainedEvent(
        event=event,
        at=at,
        position=position,
        salt=salt,
        content_sha256=digest_content(salt, event.subject, event.detail),
        chain_sha256="",
    )
    return replace(linked, chain_sha256=digest_event(predecessor, linked))


def link_events(*, catalog: AuditCatalog) -> int:
    """Link the committed events that wait; return their number. Safe to run in several processes at once."""
    linked = 0
    while True:
        with catalog.read() as tx:
            if not tx.audit_chain.count_unlinked():
                return linked
        with catalog.begin() as tx:
            linked += tx.audit_chain.link(limit=LINK_BATCH)


def verify(*, catalog: AuditCatalog, anchor: ChainAnchor | None = None) -> ChainVerdict:
    """Read the chain from its first event and recompute each digest. `anchor`: an event that must be as it was noted."""
    with catalog.read() as tx:
        unlinked, forgotten = tx.audit_chain.count_unlinked(), tx.audit_chain.forgotten_pseudonyms()
    check = _ChainCheck(forgotten, anchor)
    for event in _read_events(catalog):
        check.read_event(event)
    return check.conclude(unlinked)


def _read_events(catalog: AuditCatalog) -> Iterator[ChainedEvent]:
    position = FIRST_POSITION - 1
    while True:
        with catalog.read() as tx:
            page = tx.audit_chain.events_after(position, limit=PAGE)
        if not page:
            return
        yield from page
        position = page[-1].position


class _ChainCheck:
    """The state of a verification between two events."""

    def __init__(self, forgotten: Iterable[str], anchor: ChainAnchor | None) -> None:
        self._forgotten, self._anchor = frozenset(forgotten), anchor
        self._expected, self._predecessor = FIRST_POSITION, NO_PREDECESSOR
        self._events = self._erased = 0
        self._faults: list[ChainFault] = []
        self._met_anchor = False

    def read_event(self, event: ChainedEvent) -> None:
        """Compare one event with the chain before it. After a fault the check goes on from the stored digest."""
        self._events += 1
        if event.position != self._expected:
            self._note_fault(event.position, f"events {self._expected} to {event.position - 1} are missing")
        elif digest_event(self._predecessor, event) != event.chain_sha256:
            self._note_fault(event.position, "the event or its predecessor was changed")
        self._check_content(event)
        self._check_anchor(event)
        self._expected, self._predecessor = event.position + 1, event.chain_sha256

    def _check_content(self, event: ChainedEvent) -> None:
        told = event.event
        if digest_content(event.salt, told.subject, told.detail) == event.content_sha256:
            return
        if (told.subject, told.detail, event.salt) != ("", "", ""):
            self._note_fault(event.position, "its subject or its detail was changed")
        elif told.patient in self._forgotten:
            self._erased += 1
        else:
            self._note_fault(
                event.position, "its subject and detail were erased, and no event tells that its patient was forgotten"
            )

    def _check_anchor(self, event: ChainedEvent) -> None:
        if self._anchor is None or event.position != self._anchor.position:
            return
        self._met_anchor = True
        if event.chain_sha256 != self._anchor.sha256:
            self._note_fault(event.position, "its digest differs from the one that was noted: the chain was written anew")

    def _note_fault(self, position: int, fault: str) -> None:
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(ChainFault(position, fault))

    def conclude(self, unlinked: int) -> ChainVerdict:
        """Return the verdict after the last event."""
        if self._anchor is not None and not self._met_anchor:
            self._note_fault(self._anchor.position, f"the noted event is missing: the chain ends at {self._expected - 1}")
        return ChainVerdict(
            events=self._events,
            head_sha256=self._predecessor,
            erased=self._erased,
            unlinked=unlinked,
            faults=tuple(self._faults),
        )
