"""audit_delivery: events of the chain -> the hospital's audit repository, each at least once and in order."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.ports.audit import AuditCatalog, AuditRepository, ToldEvent

BATCH = 200
"""Events of one delivery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDeliveryPolicy:
    """`[audit]` of the configuration, as far as the step reads it."""

    tell_patient_id: bool = False  # else the pseudonym


def deliver(*, catalog: AuditCatalog, repository: AuditRepository, policy: AuditDeliveryPolicy) -> int:
    """Send the events that the repository lacks; return their number. A crash after sending repeats at most one batch.

    AuditRepositoryUnreachable.
    """
    delivered = 0
    while events := _load_batch(catalog, repository.name, policy):
        repository.send(events)
        with catalog.begin() as tx:
            tx.audit_chain.note_delivery(repository.name, events[-1].link.position)
        delivered += len(events)
    return delivered


def _load_batch(catalog: AuditCatalog, destination: str, policy: AuditDeliveryPolicy) -> list[ToldEvent]:
    with catalog.read() as tx:
        links = tx.audit_chain.events_after(tx.audit_chain.delivered_position(destination), limit=BATCH)
        subjects = tx.audit_chain.identify_subjects({link.event.subject for link in links})
    told = []
    for link in links:
        subject = subjects.get(link.event.subject)
        patient_id = subject.patient_id if subject and policy.tell_patient_id else ""
        told.append(ToldEvent(link, subject.study_instance_uid if subject else "", patient_id))
    return told
