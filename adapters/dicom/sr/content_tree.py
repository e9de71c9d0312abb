"""A lenient reader of the content tree of an SR (PS3.3 C.17.3): an element that a vendor left out is absent, not an error.

Content that cannot be decoded raises pydicom's exception: a tree with a hole in it must not be read as if it had none, for the
hole may be the word "absent".
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydicom.dataset import Dataset
from pydicom.sr._snomed_dict import mapping
from pydicom.valuerep import DT

MAX_ITEMS = 20_000
MAX_DEPTH = 100
MAX_SECONDS = 30.0
"""Bounds of a content tree. Reports of people have some hundreds of items in some ten levels, read in some tenths of a second."""

SNOMED_RT_TO_CT: dict[str, str] = mapping["SRT"]
"""SNOMED RT style codes of older objects, withdrawn from the standard (PS3.16 8.1.1) -> SNOMED CT."""
SNOMED_RT_SCHEMES = {"SRT", "SNM3", "99SDM"}
SCHEME_SYNONYMS = {
    "SNOMED-CT": "SCT",
    "SNOMEDCT": "SCT",
    "SNOMED CT": "SCT",
    "SNOMED": "SCT",
    "HTTP://SNOMED.INFO/SCT": "SCT",
    "2.16.840.1.113883.6.96": "SCT",
    "RADLEX": "RADLEX",
    "2.16.840.1.113883.6.256": "RADLEX",
    "LOINC": "LN",
    "2.16.840.1.113883.6.1": "LN",
    "2.16.840.1.113883.6.86": "UMLS",
    "1.2.840.10008.2.16.4": "DCM",
}
"""Names of coding schemes that senders write -> the designator of PS3.16 table 8-1."""
CODE_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")  # PS3.3 8.8: one of them
RADLEX_CODE = re.compile(r"(?:.*[/:#])?(RID\d+)", re.IGNORECASE)
"""A RadLex identifier names its scheme itself, also in a URI."""
SNOMED_CODE_IN_URI = re.compile(r"https?://snomed\.info/(?:id|sct)/(\d{6,18})", re.IGNORECASE)


class TreeTooLarge(Exception):
    """The bound, in words, that a content tree exceeds."""


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept: normalised value and scheme, and the sender's code meaning."""

    value: str
    scheme: str
    meaning: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """The identity of the concept: value and scheme."""
        return self.value, self.scheme


@dataclass(slots=True, eq=False)
class ContentItem:
    """A content item with its codes. `values`: every code of its value, also codes that are said to be equivalent."""

    dataset: Dataset
    value_type: str
    relationship: str
    name: Code | None
    values: tuple[Code, ...]
    children: list[ContentItem] = field(default_factory=list)

    @property
    def value(self) -> Code | None:
        """The value of a CODE item; None for any other."""
        return self.values[0] if self.values and self.value_type == "CODE" else None

    def is_named(self, names: Sequence[Code] | Code) -> bool:
        """Tell whether the concept name is one of these."""
        wanted = (names,) if isinstance(names, Code) else names
        return self.name is not None and any(self.name.key == one.key for one in wanted)


def read_tree(root: Dataset, *, max_seconds: float = MAX_SECONDS) -> ContentItem:
    """Return the content tree below a document. TreeTooLarge beyond the bounds of items, depth and seconds."""
    tree = _read_item(root)
    open_items, items, deadline = [(tree, 0)], 1, time.monotonic() + max_seconds
    while open_items:
        item, depth = open_items.pop()
        item.children = [_read_item(below) for below in item.dataset.get("ContentSequence") or ()]
        items += len(item.children)
        if items > MAX_ITEMS:
            raise TreeTooLarge(f"has more than {MAX_ITEMS} content items")
        if depth == MAX_DEPTH and item.children:
            raise TreeTooLarge(f"is nested more than {MAX_DEPTH} levels deep")
        if time.monotonic() > deadline:
            raise TreeTooLarge(f"takes more than {max_seconds:.0f} seconds to read")
        open_items += [(below, depth + 1) for below in item.children]
    return tree


def walk_tree(tree: ContentItem) -> list[ContentItem]:
    """Return all items of a tree in document order: each item precedes the items below it."""
    found, open_items = [], [tree]
    while open_items:
        item = open_items.pop()
        found.append(item)
        open_items += reversed(item.children)
    return found


def referenced_item(tree: ContentItem, item: ContentItem) -> ContentItem | None:
    """Return the item that a relationship by reference names (PS3.3 C.17.3.2.5); None where there is none."""
    target = tree
    positions = item.dataset.get("ReferencedContentItemIdentifier") or ()
    for position in list(positions)[1:] if isinstance(positions, Sequence) and not isinstance(positions, str) else ():
        if not 1 <= int(position) <= len(target.children):
            return None
        target = target.children[int(position) - 1]
    return target if target is not tree else None


def _read_item(dataset: Dataset) -> ContentItem:
    return ContentItem(
        dataset,
        str(dataset.get("ValueType") or "").strip().upper(),
        str(dataset.get("RelationshipType") or "").strip().upper(),
        next(iter(_codes_in(dataset, "ConceptNameCodeSequence")), None),
        tuple(_codes_in(dataset, "ConceptCodeSequence")),
    )


def _codes_in(item: Dataset, keyword: str) -> Iterator[Code]:
    for coded in item.get(keyword) or ():
        for one in (coded, *(coded.get("EquivalentCodeSequence") or ())):
            value = next((str(one.get(name)).strip() for name in CODE_VALUES if one.get(name)), "")
            if value:
                yield _normalise_code(value, str(one.get("CodingSchemeDesignator") or ""), printable_text(one, "CodeMeaning"))


def code_in(item: Dataset, keyword: str) -> Code | None:
    """Return the first code of a sequence, SNOMED RT as SNOMED CT; None where there is none."""
    return next(_codes_in(item, keyword), None)


def _normalise_code(value: str, scheme: str, meaning: str) -> Code:
    scheme = scheme.strip().upper()
    if radlex := RADLEX_CODE.fullmatch(value):
        return Code(radlex[1].upper(), "RADLEX", meaning)
    if snomed := SNOMED_CODE_IN_URI.fullmatch(value):
        return Code(snomed[1], "SCT", meaning)
    scheme = SCHEME_SYNONYMS.get(scheme, scheme)
    if scheme in SNOMED_RT_SCHEMES or (scheme == "SCT" and value in SNOMED_RT_TO_CT):
        return Code(SNOMED_RT_TO_CT[value], "SCT", meaning) if value in SNOMED_RT_TO_CT else Code(value, "SRT", meaning)
    return Code(value, scheme, meaning)


def printable_text(dataset: Dataset, keyword: str, limit: int = 64) -> str:
    """Return an element as one line of printable characters, not longer than `limit`."""
    value = str(dataset.get(keyword) or "")
    return "".join(character for character in value if character.isprintable()).strip()[:limit]


def referenced_image_uids(items: Sequence[ContentItem]) -> list[str]:
    """Return the SOP Instance UIDs that the IMAGE items among these refer to."""
    found = []
    for item in items:
        if item.value_type == "IMAGE":
            references = item.dataset.get("ReferencedSOPSequence") or ()
            found += [str(reference.get("ReferencedSOPInstanceUID") or "") for reference in references]
    return found


def hierarchical_references(dataset: Dataset, keyword: str) -> Iterator[tuple[str, str]]:
    """Yield (StudyInstanceUID, SOPInstanceUID) of a sequence of hierarchical references (PS3.3 table C.17-3)."""
    for study in dataset.get(keyword) or ():
        for series in study.get("ReferencedSeriesSequence") or ():
            for reference in series.get("ReferencedSOPSequence") or ():
                yield str(study.get("StudyInstanceUID") or ""), str(reference.get("ReferencedSOPInstanceUID") or "")


def parse_datetime(text: str, offset: str = "") -> datetime | None:
    """Return the time of a DT value, or of DA and TM joined, in UTC; local time without an offset. None where it is invalid."""
    value = re.sub(r"[^0-9.+-]", "", text)
    try:
        parsed = DT(value if re.search(r"[+-]\d{4}$", value) else value + offset)
        return datetime.combine(parsed.date(), parsed.time(), parsed.tzinfo).astimezone(UTC) if parsed else None
    except (ValueError, OverflowError, OSError):
        return None
