"""The content tree of a reader's report -> what it states, of which study, and who observed it.

Three ways of stating are understood, at any depth: a CODE item whose name is the finding and whose value is present or absent; one
called Finding, Impression or Conclusion whose value is the finding, with a presence beside or below it; and the latter without a
presence, which means present. A presence that is not understood, or a score in its place, states nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydicom.dataset import Dataset

from adapters.dicom.sr import label_codes as codes
from adapters.dicom.sr.content_tree import Code, children, images_of, is_called, name_of, text, value_of
from adapters.dicom.sr.label_codes import Kind, Sense, sense_of, state_of
from pipeline.domain import NO_FINDING, LabelState

CONTEXT = {"HAS OBS CONTEXT", "HAS ACQ CONTEXT"}
"""Relationships (PS3.3 C.17.3.2.4) below which nothing is stated."""


@dataclass(frozen=True, slots=True)
class Observer:
    """Who saw it: TID 1002, or the document's head. `kind` is "" where nothing says."""

    kind: Literal["person", "device", ""]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """One finding (or NO_FINDING: none of the 14), in one study, by one observer. `state` None: spoken of, but not understood."""

    study_instance_uid: str
    finding: str
    state: LabelState | None
    observer: Observer


def stronger(one: LabelState | None, other: LabelState | None) -> LabelState | None:
    """Return what holds of a study where its parts differ: present on the left is present, whatever is said of the right."""
    return max(one, other, key=STRENGTH.index)


STRENGTH = (LabelState.ABSENT, LabelState.UNCERTAIN, None, LabelState.PRESENT)


def statements_below(node: Dataset, observer: Observer, *, study: str, evidence: Mapping[str, str]) -> Iterator[Statement]:
    """Yield what the tree states. `evidence` maps SOPInstanceUID -> StudyInstanceUID of the images that it may refer to."""
    items = children(node)
    observer = observer_of(items, observer)
    place = _study_of(items, study, evidence)
    by_algorithm = any(is_called(item, codes.ALGORITHM_NAME) for item in items)  # TID 4019
    said = [item for item in items if item.get("RelationshipType") not in CONTEXT]
    for finding, state in _stated_here(said).items():
        if place:
            yield Statement(place, finding, state, Observer("device") if by_algorithm else observer)
    for item in said:
        if not is_called(item, codes.NOT_OF_THIS_STUDY):
            yield from statements_below(item, observer, study=study, evidence=evidence)


def observer_of(items: Sequence[Dataset], inherited: Observer) -> Observer:
    """Return who observed what is said among these items and below. A person who observes by means of a device is a person."""
    kinds = [value.key for item in items if is_called(item, codes.OBSERVER_TYPE) and (value := value_of(item))]
    names = [text(item, "PersonName") for item in items if is_called(item, codes.PERSON_OBSERVER_NAME)]
    if codes.PERSON.key in kinds or names:
        return Observer("person", next(filter(None, names), ""))
    if codes.DEVICE.key in kinds or any(is_called(item, codes.DEVICE_OBSERVER) for item in items):
        return Observer("device")
    return inherited


def _study_of(items: Sequence[Dataset], study: str, evidence: Mapping[str, str]) -> str:
    """Return the study whose images are named here, the report's own where none are; "" where it is not clear which."""
    named = {evidence[uid] for uid in images_of(items) if uid in evidence} or {study}
    return named.pop() if len(named) == 1 else ""


def _stated_here(items: Sequence[Dataset]) -> dict[str, LabelState | None]:
    """Return finding -> state of what is stated among these siblings."""
    sites = _sites(items)
    stated: dict[str, LabelState | None] = {}
    for item in items:
        if value_of(item) is not None and (sense := sense_of(name_of(item))):
            _put(stated, sense, state_of(value_of(item)), sites + _sites(children(item)))
    by_name = set(stated)
    for item in _named(items):
        sense = sense_of(value_of(item))
        if sense is not None and sense.finding not in by_name:
            _put(stated, sense, _presence_of(item, items), sites + _sites(children(item)))
    return stated


def _put(stated: dict[str, LabelState | None], sense: Sense, state: LabelState | None, sites: Sequence[Code]) -> None:
    """Note a statement, unless it says nothing of the finding: elsewhere in the body, or of too narrow a concept."""
    if sense.kind is Kind.NARROWER and state is not LabelState.PRESENT:
        return
    if sense.kind is Kind.GENERIC and not all(map(codes.in_the_chest, sites)):
        return
    if sense.finding == NO_FINDING and (state is not LabelState.PRESENT or not all(map(codes.is_whole_chest, sites))):
        return
    stated[sense.finding] = stronger(state, stated.get(sense.finding, state))


def _named(items: Sequence[Dataset]) -> list[Dataset]:
    return [item for item in items if value_of(item) is not None and is_called(item, codes.FINDING)]


def _presence_of(item: Dataset, siblings: Sequence[Dataset]) -> LabelState | None:
    """Return what is said of the finding that an item names: below it, else beside it if it is the only one, else present."""
    alone = len({value.key for other in _named(siblings) if (value := value_of(other))}) == 1
    below, beside = list(_presences(children(item))), list(_presences(siblings))
    said = below or beside
    if said:
        return said[0] if len(set(said)) == 1 and (below or alone) else None
    scored = any(is_called(other, codes.SCORE) for other in (*siblings, *children(item)))
    return None if scored else LabelState.PRESENT


def _presences(items: Sequence[Dataset]) -> Iterator[LabelState | None]:
    """Yield the presence values here, and those in containers that speak of no finding of their own."""
    for item in items:
        if is_called(item, codes.PRESENCE):
            yield state_of(value_of(item))
        elif item.get("ValueType") == "CONTAINER" and not _named(children(item)):
            yield from _presences(children(item))


def _sites(items: Sequence[Dataset]) -> list[Code]:
    return [value for item in items if is_called(item, codes.FINDING_SITE) and (value := value_of(item))]
