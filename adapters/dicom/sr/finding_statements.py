"""The content tree of a reader's report -> statements: a finding, its state, the study and the observer.

Three forms are recognised, at any depth: a CODE item whose name is the finding and whose value is present or absent; a CODE item
named Finding, Impression or Conclusion whose value is the finding, with a presence value beside or below it; and the latter
without a presence value, which means present. The third form is where a negation could become a label, so everything near the
finding is evidence: every known presence value under any name and relationship, the words of unknown values, of texts and of
headings, numbers that are 0. Evidence that disagrees, doubts or denies makes the finding unclear: no label.

Three passes over the items, each linear in their number, none recursive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Literal

from adapters.dicom.sr import label_codes as codes
from adapters.dicom.sr import wording
from adapters.dicom.sr.content_tree import (
    Code,
    ContentItem,
    printable_text,
    referenced_image_uids,
    referenced_item,
    walk_tree,
)
from adapters.dicom.sr.label_codes import CodeRelation, MappedFinding, is_presence, mapped_finding, presence_state
from pipeline.domain import NO_FINDING, LabelState

CONTEXT_RELATIONSHIPS = {"HAS OBS CONTEXT", "HAS ACQ CONTEXT"}
"""Relationships (PS3.3 C.17.3.2.4) whose items state nothing. A presence value among them is evidence all the same."""
STANDARD_SCHEMES = {"SCT", "DCM", "LN", "RADLEX", "UMLS", "NCIT", "SRT", "ICD10", "I10", "I10C"}
"""Schemes whose concept names mean something of their own: "Fracture: absent" says nothing of a mass beside it."""
MAX_TEXT_LENGTH = 20_000
"""Characters of a text that are searched for denials. A longer text denies: its end has not been read."""


@dataclass(frozen=True, slots=True)
class Observer:
    """The observer by TID 1002, or by the header of the document. `kind` is "" where neither names one."""

    kind: Literal["person", "device", ""]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """One finding (or NO_FINDING: none of the 14) in one study by one observer. `state` None: mentioned, meaning unknown."""

    study_instance_uid: str
    finding: str
    state: LabelState | None
    observer: Observer
    implied: bool = False  # present only because nothing else is said


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
class _Surroundings:
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

    def add(self, other: _Surroundings) -> None:
        """Add the evidence of other items."""
        self.presence |= other.presence
        self.foreign |= other.foreign
        self.concept |= other.concept
        self.doubt |= other.doubt
        self.denied |= other.denied
        self.has_unnamed_denial |= other.has_unnamed_denial


@dataclass(slots=True)
class _ItemEvidence:
    """The result of the first two passes for one item."""

    is_finding: bool = False  # the item states a finding
    is_elsewhere: bool = False  # it stands in a section on other studies, requests or recommendations
    holds_finding: bool = False  # it, or an item below, states a finding
    own: _Surroundings = field(default_factory=_Surroundings)  # of the item and the items below; empty where it holds a finding
    below: _Surroundings = field(default_factory=_Surroundings)  # of the items below that hold no finding
    stated: dict[str, Evidence] = field(default_factory=dict)  # finding -> evidence of the statements in the item and below


def statements_of(
    tree: ContentItem, observer: Observer, *, study: str, images: Mapping[str, str]
) -> tuple[list[Statement], frozenset[str]]:
    """Return the statements of a document, and the findings that one of its texts denies or doubts by name.

    `images` maps SOPInstanceUID -> StudyInstanceUID of images that the document may refer to.
    """
    evidence, denied = _collect_evidence(tree)
    statements: list[Statement] = []
    open_items = [] if tree.is_named(codes.NOT_OF_THIS_STUDY) else [(tree, observer, Evidence.NONE)]
    while open_items:
        node, observer, ambient = open_items.pop()
        observer = observer_of(node.children, observer)
        if node is not tree and wording.is_denial(_get_name(node)):
            ambient |= Evidence.NEGATED_HEADING
        if stated_study := _resolve_study(node.children, study, images):
            by_algorithm = any(item.is_named(codes.ALGORITHM_NAME) for item in node.children)  # TID 4019
            author = Observer("device") if by_algorithm else observer
            for finding, state, implied in _SiblingFindings(node, evidence, ambient).evaluate():
                statements.append(Statement(stated_study, finding, state, author, implied))
        ambient |= evidence[node].below.codes & AGAINST
        open_items += [(item, observer, ambient) for item in reversed(_select_content(node)) if not evidence[item].is_elsewhere]
    return statements, denied


def observer_of(items: Sequence[ContentItem], inherited: Observer) -> Observer:
    """Return the observer of these items and the items below them. A person who observes with a device is a person."""
    kinds = [item.value.key for item in items if item.value is not None and item.is_named(codes.OBSERVER_TYPE)]
    names = [printable_text(item.dataset, "PersonName") for item in items if item.is_named(codes.PERSON_OBSERVER_NAME)]
    if codes.PERSON.key in kinds or names:
        return Observer("person", next(filter(None, names), ""))
    if codes.DEVICE.key in kinds or any(item.is_named(codes.DEVICE_OBSERVER) for item in items):
        return Observer("device")
    return inherited


def _select_content(node: ContentItem) -> list[ContentItem]:
    return [item for item in node.children if item.relationship not in CONTEXT_RELATIONSHIPS]


def _get_name(item: ContentItem) -> str:
    return item.name.meaning if item.name is not None else ""


def _resolve_study(items: Sequence[ContentItem], study: str, evidence: Mapping[str, str]) -> str:
    """Return the study of the referenced images, the report's own study where there are none; "" where it is ambiguous."""
    named = {evidence[uid] for uid in referenced_image_uids(items) if uid in evidence} or {study}
    return named.pop() if len(named) == 1 else ""


def _collect_evidence(tree: ContentItem) -> tuple[dict[ContentItem, _ItemEvidence], frozenset[str]]:
    """Return the evidence of each item, and the findings that texts of this study deny by name."""
    items = walk_tree(tree)
    evidence = {item: _ItemEvidence() for item in items}
    for item in items:
        for below in item.children:
            evidence[below].is_elsewhere = evidence[item].is_elsewhere or _names_another_section(below)
    denied: set[str] = set()
    for item in reversed(items):  # the items below an item come before it
        _weigh_item(item, tree, evidence)
        if not evidence[item].is_elsewhere:
            denied |= evidence[item].own.denied | evidence[item].below.denied
    return evidence, frozenset(denied)


def _names_another_section(item: ContentItem) -> bool:
    if item.is_named(codes.NOT_OF_THIS_STUDY):
        return True
    return item.value_type == "CONTAINER" and wording.names_another_section(_get_name(item))


def _weigh_item(item: ContentItem, tree: ContentItem, evidence: Mapping[ContentItem, _ItemEvidence]) -> None:
    found = evidence[item]
    found.is_finding = item.value is not None and (item.is_named(codes.FINDING) or mapped_finding(item.name) is not None)
    found.holds_finding = found.is_finding
    for below in item.children:
        if evidence[below].is_elsewhere:
            continue
        found.holds_finding |= evidence[below].holds_finding
        found.below.add(evidence[below].own)
        for finding, stated in evidence[below].stated.items():
            found.stated[finding] = found.stated.get(finding, Evidence.NONE) | stated
    if found.is_finding:
        for mapped in filter(None, (mapped_finding(item.name), mapped_finding(item.value))):
            by_value = Evidence.NONE if item.is_named(codes.FINDING) else EVIDENCE_OF_STATE[presence_state(item.value)]
            found.stated[mapped.finding] = (
                found.stated.get(mapped.finding, Evidence.NONE)
                | found.below.codes
                | found.below.of_texts(mapped.finding)
                | by_value
            )
    elif not found.holds_finding:
        found.own = _weigh_own_content(item, tree)
        found.own.add(found.below)


def _weigh_own_content(item: ContentItem, tree: ContentItem) -> _Surroundings:
    """Return the evidence of an item that states no finding, without that of the items below."""
    found = _Surroundings()
    if item.is_named((*codes.TECHNICAL_NAMES, *codes.PROPERTIES, codes.FINDING_SITE)):
        return found
    bucket = _choose_bucket(item)
    for value in _values_of(item, tree):
        if is_presence(value):
            setattr(found, bucket, getattr(found, bucket) | _weigh_presence(value))
        elif item.is_named(codes.PRESENCE):
            found.presence |= Evidence.UNCLEAR
        elif item.relationship not in CONTEXT_RELATIONSHIPS and _has_doubtful_words(item, value):
            found.doubt |= Evidence.UNCLEAR
    if item.relationship in CONTEXT_RELATIONSHIPS:
        return found
    if item.values and wording.is_denial(_get_name(item)):
        found.doubt |= Evidence.UNCLEAR
    if item.dataset.get("ReferencedContentItemIdentifier") is not None and referenced_item(tree, item) is None:
        found.presence |= Evidence.UNCLEAR
    if item.value_type == "NUM":
        found.concept |= _weigh_number(item)
    found.denied, found.has_unnamed_denial = _weigh_text(item)
    return found


def _choose_bucket(item: ContentItem) -> Literal["presence", "foreign", "concept"]:
    if item.is_named(codes.PRESENCE) or wording.names_presence(_get_name(item)):
        return "presence"
    return "concept" if item.name is not None and item.name.scheme in STANDARD_SCHEMES else "foreign"


def _values_of(item: ContentItem, tree: ContentItem) -> tuple[Code, ...]:
    """Return the codes of an item's value, or of the item that it refers to."""
    target = referenced_item(tree, item)
    if target is None or mapped_finding(target.name) is not None or target.is_named(codes.FINDING):
        return item.values
    return (*item.values, *target.values)


def _weigh_presence(value: Code) -> Evidence:
    """Return the evidence of a known presence value; unclear where its words say something else."""
    state = presence_state(value)
    contradicted = wording.denies_or_doubts(value.meaning) if state is LabelState.PRESENT else wording.is_affirmation(value.meaning)
    return EVIDENCE_OF_STATE[state] | (Evidence.UNCLEAR if contradicted else Evidence.NONE)


def _has_doubtful_words(item: ContentItem, value: Code) -> bool:
    if wording.denies_or_doubts(value.meaning):
        return True
    is_harmless = wording.is_affirmation(value.meaning) or wording.is_course(value.meaning)
    return wording.names_presence(_get_name(item)) and not is_harmless


def _weigh_number(item: ContentItem) -> Evidence:
    """Return the evidence of a number: a score states nothing, and 0 (a count, a size, a probability) denies."""
    found = Evidence.NONE
    if item.is_named(codes.SCORE) or wording.names_score(_get_name(item)):
        found |= Evidence.SCORED
    for measured in item.dataset.get("MeasuredValueSequence") or ():
        number = measured.get("NumericValue")
        if number is not None and str(number) and float(number) == 0.0:
            found |= Evidence.DENIED
    return found


def _weigh_text(item: ContentItem) -> tuple[frozenset[str], bool]:
    text = str(item.dataset.get("TextValue") or "")
    if len(text) > MAX_TEXT_LENGTH:
        return frozenset(), True
    return wording.denied_findings(text, _get_name(item)) if text else (frozenset(), False)


@dataclass(slots=True)
class _FindingItems:
    """The sibling items that state one finding."""

    mapped: MappedFinding
    by_name: list[ContentItem] = field(default_factory=list)
    by_value: list[ContentItem] = field(default_factory=list)


class _SiblingFindings:
    """The findings stated by the items directly below a node. `ambient`: the evidence that stands further up."""

    def __init__(self, node: ContentItem, evidence: Mapping[ContentItem, _ItemEvidence], ambient: Evidence) -> None:
        self._evidence, self._ambient, self._beside = evidence, ambient, evidence[node].below
        if evidence[node].is_finding:  # what stands beside belongs to the finding above
            self._ambient |= self._beside.codes & AGAINST
            self._beside = _Surroundings()
        self._sites = _collect_sites(node.children)
        self._items = [item for item in _select_content(node) if evidence[item].is_finding and not evidence[item].is_elsewhere]
        self._groups: dict[str, _FindingItems] = {}
        for item in self._items:
            if by_name := mapped_finding(item.name):
                self._groups.setdefault(by_name.finding, _FindingItems(by_name)).by_name.append(item)
            elif by_value := mapped_finding(item.value):
                self._groups.setdefault(by_value.finding, _FindingItems(by_value)).by_value.append(item)
        self._is_alone = len({_get_subject(item) for item in self._items}) == 1

    def evaluate(self) -> Iterator[tuple[str, LabelState | None, bool]]:
        """Yield finding, state, and whether the state is present only because nothing else is said."""
        for finding, group in self._groups.items():
            for items in self._split_by_side(group):
                state, implied = self._resolve_by_name(items) if items.by_name else self._resolve_by_value(items)
                sites = [site for item in (*items.by_name, *items.by_value) for site in _collect_sites(item.children)]
                if _is_applicable(items.mapped, state, self._sites + sites):
                    yield finding, state, implied

    def _split_by_side(self, group: _FindingItems) -> Iterator[_FindingItems]:
        """Yield the items of a finding one by one where each has a site or side of its own, else together."""
        items = [*group.by_name, *group.by_value]
        if len(items) > 1 and all(_has_side(item) for item in items):
            yield from (_FindingItems(group.mapped, by_name=[item]) for item in group.by_name)
            yield from (_FindingItems(group.mapped, by_value=[item]) for item in group.by_value)
        else:
            yield group

    def _resolve_by_name(self, items: _FindingItems) -> tuple[LabelState | None, bool]:
        beside = self._beside
        near = beside.presence | (beside.foreign | beside.concept & Evidence.DENIED if self._is_alone else Evidence.NONE)
        if items.by_value:  # a group on this finding
            near |= beside.foreign | beside.concept & ~Evidence.SCORED
        return self._resolve_state(items, near)

    def _resolve_by_value(self, items: _FindingItems) -> tuple[LabelState | None, bool]:
        beside = self._beside
        return self._resolve_state(items, beside.presence | beside.foreign | beside.concept)

    def _resolve_state(self, items: _FindingItems, near: Evidence) -> tuple[LabelState | None, bool]:
        """Return the state on which all evidence agrees, or None, and whether it is implied."""
        finding, own = items.mapped.finding, Evidence.NONE
        for item in (*items.by_name, *items.by_value):
            own |= self._evidence[item].stated.get(finding, Evidence.NONE) | _weigh_words(item, finding)
        if not own & STATED:
            near |= self._beside.doubt
        if finding in self._beside.denied or (self._beside.has_unnamed_denial and self._is_alone):
            near |= Evidence.DENIED
        stated = (own | near) & STATED
        if Evidence.UNCLEAR in own | near or stated not in (Evidence.NONE, *STATE_OF_EVIDENCE):
            return None, False
        if stated and not own & STATED and not self._is_alone:
            return None, False
        if Evidence.DENIED in own | near or Evidence.NEGATED_HEADING in self._ambient:
            return (LabelState.ABSENT if stated == Evidence.ABSENT else None), False
        if stated:
            return STATE_OF_EVIDENCE[stated], False
        if Evidence.SCORED in own | near or self._ambient & AGAINST:  # a score states nothing
            return None, False
        return LabelState.PRESENT, True


def _get_subject(item: ContentItem) -> object:
    """Return what an item speaks of: the finding, or the code of another finding."""
    code = item.value if item.is_named(codes.FINDING) else item.name
    mapped = mapped_finding(code)
    return mapped.finding if mapped is not None else code


def _weigh_words(item: ContentItem, finding: str) -> Evidence:
    """Return the evidence of an item's own words: a code of a finding under the words "no pneumothorax" is unclear."""
    if finding == NO_FINDING:
        return Evidence.NONE
    words = [_get_name(item)] + ([item.value.meaning] if item.value is not None and item.is_named(codes.FINDING) else [])
    return Evidence.UNCLEAR if any(map(wording.is_denial_or_past, words)) else Evidence.NONE


def _is_applicable(mapped: MappedFinding, state: LabelState | None, sites: Sequence[Code]) -> bool:
    """Tell whether a state applies to the finding: not at another part of the body, nor a narrower concept not present."""
    if mapped.relation is CodeRelation.NARROWER and state is not LabelState.PRESENT:
        return False
    if mapped.relation is CodeRelation.GENERIC and not all(map(codes.is_chest_site, sites)):
        return False
    return mapped.finding != NO_FINDING or (state is LabelState.PRESENT and all(map(codes.is_whole_chest, sites)))


def _collect_sites(items: Sequence[ContentItem]) -> list[Code]:
    return [item.value for item in items if item.value is not None and item.is_named(codes.FINDING_SITE)]


def _has_side(item: ContentItem) -> bool:
    return any(below.is_named((codes.FINDING_SITE, codes.LATERALITY)) for below in item.children)
