"""Ports of the audit chain: events with their links, and how far each destination has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pipeline.domain import AuditEvent
from pipeline.ports.services import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainedEvent:
    """An audit event with its link."""

    event: AuditEvent
    at: datetime
    position: int  # from 1, without a gap
    salt: str  # "" where the content was erased
    content_sha256: str  # see audit_chain.digest_content
    chain_sha256: str  # see audit_chain.digest_event


@dataclass(frozen=True, slots=True)
class ChainAnchor:
    """A position and its digest. Noted elsewhere it is the only proof against a chain that was cut or written anew."""

    position: int
    sha256: str


@dataclass(frozen=True, slots=True)
class AuditSubject:
    """The study and the patient of an event's subject."""

    study_instance_uid: str
    patient_id: str


@dataclass(frozen=True, slots=True)
class ToldEvent:
    """An event as the audit repository is told of it."""

    link: ChainedEvent
    study_instance_uid: str  # of the subject; "": none
    patient_id: str  # "": the pseudonym is told


class AuditRepository(Protocol):
    """The hospital's collector of audit messages."""

    @property
    def name(self) -> str:
        """Host and port; deliveries are counted under this name."""

    def send(self, events: Sequence[ToldEvent]) -> None:
        """Send events in order. AuditRepositoryUnreachable."""


class AuditChain(Protocol):
    """The audit table as a chain. Append-only."""

    def count_unlinked(self) -> int:
        """Return the number of committed events without a link."""

    def link(self, *, limit: int) -> int:
        """Link up to `limit` committed events by their ids, each with its patient's pseudonym; return their number."""

    def head(self) -> ChainAnchor | None:
        """Return the last link; None while there is none."""

    def events_after(self, position: int, *, limit: int) -> Sequence[ChainedEvent]:
        """Return linked events behind a position, in order."""

    def identify_subjects(self, subjects: Collection[str]) -> Mapping[str, AuditSubject]:
        """Return subject -> study and patient, of those subjects that are UIDs of the catalog."""

    def forgotten_pseudonyms(self) -> Sequence[str]:
        """Return the pseudonyms of patients whose erasure an event tells."""

    def delivered_position(self, destination: str) -> int:
        """Return the position of the last event that the destination has; 0: none."""

    def note_delivery(self, destination: str, position: int) -> None:
        """Record that the destination has the events up to this position."""


class AuditTransaction(Transaction, Protocol):
    """One unit of work with the chain."""

    @property
    def audit_chain(self) -> AuditChain: ...


class AuditCatalog(Protocol):
    """The catalog as the chain sees it: a `services.Catalog` with more. OutOfResources where it is unreachable."""

    def begin(self) -> AbstractContextManager[AuditTransaction]:
        """Open a transaction that may write."""

    def read(self) -> AbstractContextManager[AuditTransaction]:
        """Open a transaction that only reads."""
