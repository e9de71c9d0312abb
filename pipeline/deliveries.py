"""deliveries: what the archive has accepted is looked for later; what it has lost is sent again."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.domain import AuditEvent, Delivery, JobKind
from pipeline.errors import ArchiveBusy, ArchiveUnreachable, RefusedByArchive
from pipeline.ports.deliveries import CommitmentProvider, InstanceFinder
from pipeline.ports.services import Catalog, CircuitPolicy, Transaction

MAX_SENDINGS = 4
"""An object that the archive has accepted so often, and does not hold, is not sent again: a gateway may be in front of it."""

MAX_BATCHES = 100
"""In one look: the next one goes on."""

log = logging.getLogger("radclipd.deliveries")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryPolicy:
    """`[archive]`: how the delivery of an object is proven."""

    verify_seconds: float = 600.0  # time in which an accepted object must be found
    settle_seconds: float = 10.0  # time that the archive is given before the first query
    check_seconds: float = 60.0  # between two queries for the same object
    with_commitment: bool = False  # storage commitment first; a query where its result does not come in time
    reconcile_days: float = 30.0
    batch_size: int = 20
    query_seconds: float = 60.0  # limit of one batch
    circuit: CircuitPolicy = field(default_factory=CircuitPolicy)


@dataclass(frozen=True, slots=True)
class Verification:
    """Numbers of a look at the archive: objects asked for, objects found, objects sent again, objects given up.

    `is_refused`: the archive answers no such query.
    """

    asked: int = 0
    found: int = 0
    sent_again: int = 0
    given_up: int = 0
    is_refused: bool = False

    def __add__(self, other: Verification) -> Verification:
        return Verification(
            self.asked + other.asked,
            self.found + other.found,
            self.sent_again + other.sent_again,
            self.given_up + other.given_up,
            self.is_refused or other.is_refused,
        )


def verify_deliveries(*, catalog: Catalog, archive: InstanceFinder, policy: DeliveryPolicy) -> Verification:
    """Look for objects that were sent; send again those that the archive does not hold `verify_seconds` after it accepted them."""
    total = Verification()
    try:
        for _ in range(MAX_BATCHES):
            found = _verify_batch(catalog=catalog, archive=archive, policy=policy)
            total += found
            if found.asked < policy.batch_size:
                break
    except (ArchiveBusy, RefusedByArchive) as error:  # what the archive has accepted stays unproven
        log.info("archive answers no query for objects", extra={"archive": archive.name, "error": str(error), "hint": error.hint})
        return total + Verification(is_refused=True)
    return total


def _verify_batch(*, catalog: Catalog, archive: InstanceFinder, policy: DeliveryPolicy) -> Verification:
    first = policy.verify_seconds if policy.with_commitment else policy.settle_seconds
    with catalog.read() as tx:
        due = tx.deliveries.unproven(
            archive.name, min_age_seconds=first, interval_seconds=policy.check_seconds, limit=policy.batch_size
        )
    held = _find_held(due, catalog=catalog, archive=archive, policy=policy)
    if held is None:
        return Verification()
    with catalog.begin() as tx:
        missing = [one for one in due if one.sop_instance_uid not in held]
        limit = first + policy.verify_seconds
        lost = [one for one in missing if one.sent_at is None or (tx.now() - one.sent_at).total_seconds() > limit]
        tx.deliveries.mark_verified(held, archive.name)
        tx.deliveries.note_checked([one.sop_instance_uid for one in missing], archive.name, "not found yet")
        return _send_again(tx, lost) + Verification(asked=len(due), found=len(held))


def reconcile_deliveries(*, catalog: Catalog, archive: InstanceFinder, policy: DeliveryPolicy) -> Verification:
    """Look for all objects that were sent within `reconcile_days`, newest reports only, and send again what the archive has lost.

    A study of which the archive holds nothing any more was removed there: nothing is sent.
    """
    with catalog.begin() as tx:
        tx.deliveries.adopt_sent(archive.name, max_age_days=policy.reconcile_days)
    total, after = Verification(), 0
    try:
        while True:
            with catalog.read() as tx:
                page = tx.deliveries.arrived(archive.name, max_age_days=policy.reconcile_days, after=after, limit=policy.batch_size)
            held = _find_held(page, catalog=catalog, archive=archive, policy=policy)
            if held is None:
                return total
            total, after = total + _record_page(page, held, catalog=catalog, archive=archive, policy=policy), page[-1].id
    except (ArchiveUnreachable, ArchiveBusy, RefusedByArchive) as error:  # the next night goes on
        log.warning("reconciliation ended early", extra={"archive": archive.name, "error": str(error), "hint": error.hint})
        return total + Verification(is_refused=not isinstance(error, ArchiveUnreachable))


def _record_page(
    page: Sequence[Delivery], held: set[str], *, catalog: Catalog, archive: InstanceFinder, policy: DeliveryPolicy
) -> Verification:
    missing = [one for one in page if one.sop_instance_uid not in held]
    studies = {one.study_instance_uid for one in missing}
    removed = {uid for uid in studies if not archive.holds_study(uid, limit_seconds=policy.query_seconds)}
    with catalog.begin() as tx:
        tx.deliveries.mark_verified(held, archive.name)
        gone = [one.sop_instance_uid for one in missing if one.study_instance_uid in removed]
        tx.deliveries.note_checked(gone, archive.name, "the archive holds nothing of the study any more")
        lost = [one for one in missing if one.study_instance_uid not in removed]
        return _send_again(tx, lost) + Verification(asked=len(page), found=len(held))


def _find_held(
    deliveries: Sequence[Delivery], *, catalog: Catalog, archive: InstanceFinder, policy: DeliveryPolicy
) -> set[str] | None:
    """Return which of the objects the archive holds. None where there are none, or where it is unreachable now.

    RefusedByArchive, ArchiveBusy where it answers no such query.
    """
    if not deliveries:
        return None
    circuit = f"{archive.name} proof"
    with catalog.begin() as tx:
        if not tx.circuits.admit(circuit, probe_seconds=policy.query_seconds * 2):
            return None
    try:
        held = archive.find_instances(deliveries, limit_seconds=policy.query_seconds)
    except ArchiveUnreachable as error:
        log.warning("archive cannot be asked", extra={"archive": archive.name, "error": str(error), "hint": error.hint})
        with catalog.begin() as tx:
            tx.circuits.record_failure(circuit, threshold=policy.circuit.threshold, open_seconds=policy.circuit.open_seconds)
        return None
    except (ArchiveBusy, RefusedByArchive) as error:
        with catalog.begin() as tx:
            tx.circuits.record_success(circuit)
            uids = [one.sop_instance_uid for one in deliveries]
            tx.deliveries.note_checked(uids, archive.name, f"the archive answers no query: {error}")
        raise
    with catalog.begin() as tx:
        tx.circuits.record_success(circuit)
    return held


def request_commitments(*, catalog: Catalog, archive: CommitmentProvider, policy: DeliveryPolicy) -> int:
    """Request the commitment of objects that were sent; return their number. The result may come later, to the listener.

    Where the archive has not this service, or its result does not come, `verify_deliveries` asks for the objects.
    """
    if not policy.with_commitment:
        return 0
    transaction_uid = f"2.25.{uuid.uuid4().int}"  # PS3.5 B.2
    with catalog.begin() as tx:
        sent = tx.deliveries.uncommitted(archive.name, limit=policy.batch_size)
        if not sent or not tx.circuits.admit(f"{archive.name} proof", probe_seconds=policy.query_seconds * 2):
            return 0
        tx.deliveries.note_requested([one.sop_instance_uid for one in sent], archive.name, transaction_uid)
    try:
        result = archive.request_commitment(transaction_uid, sent, limit_seconds=policy.query_seconds)
    except ArchiveUnreachable as error:
        log.warning("commitment not requested", extra={"archive": archive.name, "error": str(error), "hint": error.hint})
        circuit = policy.circuit
        with catalog.begin() as tx:
            tx.deliveries.note_requested([one.sop_instance_uid for one in sent], archive.name, "")
            tx.circuits.record_failure(f"{archive.name} proof", threshold=circuit.threshold, open_seconds=circuit.open_seconds)
        return 0
    except (ArchiveBusy, RefusedByArchive) as error:
        log.info("archive does not commit", extra={"archive": archive.name, "error": str(error), "hint": error.hint})
        return 0
    with catalog.begin() as tx:
        tx.circuits.record_success(f"{archive.name} proof")
    if result is not None:
        record_commitment(transaction_uid, result, catalog=catalog)
    return len(sent)


def record_commitment(transaction_uid: str, result: Mapping[str, str], *, catalog: Catalog) -> bool:
    """Record the result of a request: SOP Instance UID -> reason of a failure, "" where the object is committed.

    An object that failed is sent again. False where no such transaction is known.
    """
    with catalog.begin() as tx:
        requested = tx.deliveries.of_transaction(transaction_uid)
        committed = [one for one in requested if result.get(one.sop_instance_uid) == ""]
        for destination in {one.destination for one in committed}:
            uids = [one.sop_instance_uid for one in committed if one.destination == destination]
            tx.deliveries.mark_committed(uids, destination)
        failed = [one for one in requested if result.get(one.sop_instance_uid)]
        _send_again(tx, failed, reasons=result)
    return bool(requested)


def _send_again(tx: Transaction, lost: Sequence[Delivery], reasons: Mapping[str, str] | None = None) -> Verification:
    """Enqueue the objects that a destination has lost, or give them up; both stand in the audit table."""
    given_up = 0
    for one in lost:
        why = (reasons or {}).get(one.sop_instance_uid) or "the archive has accepted it and does not hold it"
        if one.sendings >= MAX_SENDINGS:
            given_up += 1
            tx.deliveries.mark_unproven(one.sop_instance_uid, one.destination, f"{why}, after {one.sendings} sendings")
            detail = f"{one.destination}: {why}, after {one.sendings} sendings: not sent again"
            tx.audit(AuditEvent("deliver", "failed", one.sop_instance_uid, detail))
            continue
        tx.deliveries.mark_waiting(one.sop_instance_uid, one.destination, why)
        tx.jobs.put(JobKind.SEND, one.sop_instance_uid)
        tx.audit(AuditEvent("deliver", "failed", one.sop_instance_uid, f"{one.destination}: {why}: sent again"))
    return Verification(sent_again=len(lost) - given_up, given_up=given_up)
