"""The content tree of a reader's report -> statements: a finding, its state, the study and the observer.

Three forms are recognised, at any depth: a CODE item whose name is the finding and whose value is present or absent; a CODE item
named Finding, Impression or Conclusion whose value is the finding, with a presence beside or below it; and the latter without a
presence, which means present. An unknown presence value, or a score in its place, states nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydicom.dataset import Dataset

from adapters.dicom.sr import label_codes as codes
from adapters.dicom.sr.content_tree import (
    Code,
    children,
    has_concept_name,
    name_of,
    printable_text,
    referenced_image_uids,
    value_of,
)
from adapters.dicom.sr.label_codes import CodeRelation, MappedFinding, mapped_finding, presence_state
from pipeline.domain import NO_FINDING, LabelState

CONTEXT_RELATIONSHIPS = {"HAS OBS CONTEXT", "HAS ACQ CONTEXT"}
"""Relationships (PS3.3 C.17.3.2.4) whose items state nothing."""


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


def prevailing_state(one: LabelState | None, other: LabelState | None) -> LabelState | None:
    """Return the state of the study where two statements differ: present on the left is present, regardless of the right."""
    return max(one, other, key=STATE_PRECEDENCE.index)


STATE_PRECEDENCE = (LabelState.ABSENT, LabelState.UNCERTAIN, None, LabelState.PRESENT)


def statements_below(node: Dataset, observer: Observer, *, study: str, evidence: Mapping[str, str]) -> Iterator[Statement]:
    """Yield the statements below a node. `evidence` maps SOPInstanceUID -> StudyInstanceUID of images that it may refer to."""
    items = children(node)
    observer = observer_of(items, observer)
    stated_study = _resolve_study(items, study, evidence)
    by_algorithm = any(has_concept_name(item, codes.ALGORITHM_NAME) for item in items)  # TID 4019
    content = [item for item in items if item.get("RelationshipType") not in CONTEXT_RELATIONSHIPS]
    for finding, state in _collect_sibling_states(content).items():
        if stated_study:
            yield Statement(stated_study, finding, state, Observer("device") if by_algorithm else observer)
    for item in content:
        if not has_concept_name(item, codes.NOT_OF_THIS_STUDY):
            yield from statements_below(item, observer, study=study, evidence=evidence)


def observer_of(items: Sequence[Dataset], inherited: Observer) -> Observer:
    """Return the observer of these items and the items below them. A person who observes with a device is a person."""
    kinds = [value.key for item in items if has_concept_name(item, codes.OBSERVER_TYPE) and (value := value_of(item))]
    names = [printable_text(item, "PersonName") for item in items if has_concept_name(item, codes.PERSON_OBSERVER_NAME)]
    if codes.PERSON.key in kinds or names:
        return Observer("person", next(filter(None, names), ""))
    if codes.DEVICE.key in kinds or any(has_concept_name(item, codes.DEVICE_OBSERVER) for item in items):
        return Observer("device")
    return inherited


def _resolve_study(items: Sequence[Dataset], study: str, evidence: Mapping[str, str]) -> str:
    """Return the study of the referenced images, the report's own study where there are none; "" where it is ambiguous."""
    named = {evidence[uid] for uid in referenced_image_uids(items) if uid in evidence} or {study}
    return named.pop() if len(named) == 1 else ""


def _collect_sibling_states(items: Sequence[Dataset]) -> dict[str, LabelState | None]:
    """Return finding -> state of the statements among these siblings."""
    sites = _collect_sites(items)
    stated: dict[str, LabelState | None] = {}
    for item in items:
        if value_of(item) is not None and (mapped := mapped_finding(name_of(item))):
            _record_state(stated, mapped, presence_state(value_of(item)), sites + _collect_sites(children(item)))
    by_name = set(stated)
    for item in _select_finding_items(items):
        mapped = mapped_finding(value_of(item))
        if mapped is not None and mapped.finding not in by_name:
            _record_state(stated, mapped, _find_presence(item, items), sites + _collect_sites(children(item)))
    return stated


def _record_state(
    stated: dict[str, LabelState | None], mapped: MappedFinding, state: LabelState | None, sites: Sequence[Code]
) -> None:
    """Record a state unless it does not apply to the finding: another part of the body, or a narrower concept not present."""
    if mapped.relation is CodeRelation.NARROWER and state is not LabelState.PRESENT:
        return
    if mapped.relation is CodeRelation.GENERIC and not all(map(codes.is_chest_site, sites)):
        return
    if mapped.finding == NO_FINDING and (state is not LabelState.PRESENT or not all(map(codes.is_whole_chest, sites))):
        return
    stated[mapped.finding] = prevailing_state(state, stated.get(mapped.finding, state))


def _select_finding_items(items: Sequence[Dataset]) -> list[Dataset]:
    return [item for item in items if value_of(item) is not None and has_concept_name(item, codes.FINDING)]


def _find_presence(item: Dataset, siblings: Sequence[Dataset]) -> LabelState | None:
    """Return the state of an item's finding: from below, else from beside it if it is the only finding, else present."""
    alone = len({value.key for other in _select_finding_items(siblings) if (value := value_of(other))}) == 1
    below, beside = list(_collect_presences(children(item))), list(_collect_presences(siblings))
    presences = below or beside
    if presences:
        return presences[0] if len(set(presences)) == 1 and (below or alone) else None
    scored = any(has_concept_name(other, codes.SCORE) for other in (*siblings, *children(item)))
    return None if scored else LabelState.PRESENT


def _collect_presences(items: Sequence[Dataset]) -> Iterator[LabelState | None]:
    """Yield the presence values among the items, and those in containers without a finding of their own."""
    for item in items:
        if has_concept_name(item, codes.PRESENCE):
            yield presence_state(value_of(item))
        elif item.get("ValueType") == "CONTAINER" and not _select_finding_items(children(item)):
            yield from _collect_presences(children(item))


def _collect_sites(items: Sequence[Dataset]) -> list[Code]:
    return [value for item in items if has_concept_name(item, codes.FINDING_SITE) and (value := value_of(item))]
