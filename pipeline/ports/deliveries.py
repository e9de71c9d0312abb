"""Port of the deliveries: what was sent where, and what is proven of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from pipeline.domain import Delivery, Report, VisibleObject


class Deliveries(Protocol):
    """Objects on their way to destinations: one row for each pair."""

    def ensure_waiting(self, delivered: Report | VisibleObject, destination: str) -> None:
        """Insert a waiting delivery unless the pair is known."""

    def mark_sent(self, delivered: Report | VisibleObject, destination: str, status: str) -> None:
        """Set SENT now, with the destination's answer: one sending more, and no proof yet. Inserts a pair that is not known."""

    def mark_refused(self, delivered: Report | VisibleObject, destination: str, status: str) -> None:
        """Set REFUSED, with the destination's answer. Inserts a pair that is not known."""

    def mark_committed(self, sop_instance_uids: Collection[str], destination: str) -> None:
        """Set COMMITTED now, of those that are SENT."""

    def mark_verified(self, sop_instance_uids: Collection[str], destination: str) -> None:
        """Set VERIFIED now, of those that were sent."""

    def mark_waiting(self, sop_instance_uid: str, destination: str, status: str) -> None:
        """Set WAITING of a lost object, which is to be sent again."""

    def mark_unproven(self, sop_instance_uid: str, destination: str, status: str) -> None:
        """Set REFUSED of an object that is not sent again."""

    def note_checked(self, sop_instance_uids: Collection[str], destination: str, status: str) -> None:
        """Note that the destination was asked now, and what was found. The state stays."""

    def unproven(self, destination: str, *, min_age_seconds: float, interval_seconds: float, limit: int) -> list[Delivery]:
        """Return SENT deliveries, oldest first: sent `min_age_seconds` ago, and not asked for within `interval_seconds`."""

    def uncommitted(self, destination: str, *, limit: int) -> list[Delivery]:
        """Return SENT deliveries whose commitment was not requested since they were sent, oldest first."""

    def note_requested(self, sop_instance_uids: Collection[str], destination: str, transaction_uid: str) -> None:
        """Note the transaction in which their commitment is requested."""

    def of_transaction(self, transaction_uid: str) -> list[Delivery]:
        """Return the deliveries whose commitment was requested in this transaction."""

    def arrived(self, destination: str, *, max_age_days: float, after: int, limit: int) -> list[Delivery]:
        """Return deliveries of each study's newest report that were sent within `max_age_days`, by id, those behind `after`."""

    def adopt_sent(self, destination: str, *, max_age_days: float) -> None:
        """Insert SENT deliveries for objects that were sent before deliveries were recorded."""


class InstanceFinder(Protocol):
    """The part of an archive that tells which instances it holds."""

    @property
    def name(self) -> str: ...

    def find_instances(self, deliveries: Sequence[Delivery], *, limit_seconds: float) -> set[str]:
        """Return the SOP Instance UIDs that it holds: C-FIND, IMAGE level (PS3.4 C.6.2.1). RefusedByArchive, ArchiveUnreachable."""

    def holds_study(self, study_instance_uid: str, *, limit_seconds: float) -> bool:
        """Tell whether it holds anything of a study. RefusedByArchive, ArchiveUnreachable."""


class CommitmentProvider(InstanceFinder, Protocol):
    """An archive that may take over the safekeeping of what it has accepted: the Storage Commitment SCP of PS3.4 annex J."""

    def request_commitment(
        self, transaction_uid: str, deliveries: Sequence[Delivery], *, limit_seconds: float
    ) -> Mapping[str, str] | None:
        """Request it by N-ACTION. Return the result if it comes on the same association, else None: the listener gets it.

        The result: SOP Instance UID -> reason of a failure, "" where the object is committed. RefusedByArchive where the archive
        has not this service; ArchiveUnreachable.
        """
