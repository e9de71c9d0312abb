"""The instances that one association has brought, by study: what its audit events tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.domain import AuditEvent, Receipt, Sender

KNOWN = (Receipt.DUPLICATE, Receipt.SAME_INSTANCE)


@dataclass(slots=True)
class AssociationTally:
    """Counts of one association. One thread fills them."""

    receipts: dict[str, Counter[Receipt]] = field(default_factory=dict)  # StudyInstanceUID -> receipts of its instances

    def count_receipt(self, study_instance_uid: str, receipt: Receipt) -> None:
        """Count an instance that was answered with Success."""
        self.receipts.setdefault(study_instance_uid, Counter())[receipt] += 1

    @property
    def studies(self) -> Sequence[str]:
        """The studies of the instances, sorted."""
        return sorted(self.receipts)

    def build_events(self, sender: Sender, ending: str) -> list[AuditEvent]:
        """Return an event for each study: who brought how many instances, and how the association ended."""
        source = f"{sender.ae_title} {sender.address}"
        return [
            AuditEvent("association", "done", study, f"{_describe_receipts(self.receipts[study])}; {ending}", source)
            for study in self.studies
        ]


def _describe_receipts(receipts: Counter[Receipt]) -> str:
    known = sum(receipts[receipt] for receipt in KNOWN)
    return f"{receipts.total() - known} instances stored, {known} known already"
