"""Evidence on findings in a content tree: what items say of a finding near them, and what agrees with what."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Flag, auto

from pipeline.domain import LabelState


class Evidence(Flag):
    """What content items say of a finding near them."""

    NONE = 0
    PRESENT = auto()  # a known presence value
    ABSENT = auto()
    UNCERTAIN = auto()
    UNCLEAR = auto()  # a presence item with an unknown value, a negated name, an unresolved reference
    DENIED = auto()  # words or a number that deny: agree with ABSENT, and with nothing else
    SCORED = auto()  # a probability or the like
    NEGATED_HEADING = auto()  # the finding stands below "negative findings", "differential diagnosis" and the like


EVIDENCE_OF_STATE = {
    LabelState.PRESENT: Evidence.PRESENT,
    LabelState.ABSENT: Evidence.ABSENT,
    LabelState.UNCERTAIN: Evidence.UNCERTAIN,
    None: Evidence.UNCLEAR,
}
STATE_OF_EVIDENCE = {evidence: state for state, evidence in EVIDENCE_OF_STATE.items() if state is not None}
STATED = Evidence.PRESENT | Evidence.ABSENT | Evidence.UNCERTAIN
AGAINST = Evidence.ABSENT | Evidence.UNCERTAIN | Evidence.UNCLEAR | Evidence.DENIED


@dataclass(slots=True)
class Surroundings:
    """The evidence of items that state no finding themselves, by the name under which it stands."""

    presence: Evidence = Evidence.NONE  # the name announces a presence value
    foreign: Evidence = Evidence.NONE  # a name of the site's own, or none
    concept: Evidence = Evidence.NONE  # a name in a standard scheme; numbers
    doubt: Evidence = Evidence.NONE  # words in place of a known code
    denied: frozenset[str] = frozenset()  # findings that a text denies by name
    has_unnamed_denial: bool = False  # a text denies without naming a finding

    @property
    def codes(self) -> Evidence:
        """The evidence of all items but texts."""
        return self.presence | self.foreign | self.concept | self.doubt

    def of_texts(self, finding: str) -> Evidence:
        """Return the evidence of the texts on one finding, which is the one that they must mean where they name none."""
        return Evidence.DENIED if finding in self.denied or self.has_unnamed_denial else Evidence.NONE

    def add(self, other: Surroundings) -> None:
        """Add the evidence of other items."""
        self.presence |= other.presence
        self.foreign |= other.foreign
        self.concept |= other.concept
        self.doubt |= other.doubt
        self.denied |= other.denied
        self.has_unnamed_denial |= other.has_unnamed_denial


@dataclass(slots=True)
class ItemEvidence:
    """The result of the first two passes for one item."""

    is_finding: bool = False  # the item states a finding
    is_elsewhere: bool = False  # it stands in a section on other studies, requests or recommendations
    holds_finding: bool = False  # it, or an item below, states a finding
    own: Surroundings = field(default_factory=Surroundings)  # of the item and the items below; empty where it holds a finding
    below: Surroundings = field(default_factory=Surroundings)  # of the items below that hold no finding
    stated: dict[str, Evidence] = field(default_factory=dict)  # finding -> evidence of the statements in the item and below
