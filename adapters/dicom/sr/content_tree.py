"""A lenient reader of the content tree of an SR (PS3.3 C.17.3): an element that a vendor left out is absent, not an error.

Content that cannot be decoded raises pydicom's exception: a tree with a hole in it must not be read as if it had none, for the
hole may be the word "absent".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydicom.dataset import Dataset
from pydicom.sr._snomed_dict import mapping
from pydicom.valuerep import DT

SNOMED_RT_TO_CT: dict[str, str] = mapping["SRT"]
"""SNOMED RT style codes of older objects, withdrawn from the standard (PS3.16 8.1.1) -> SNOMED CT."""
SNOMED_RT_SCHEMES = {"SRT", "SNM3", "99SDM"}
SNOMED_CT_SCHEMES = {"SCT", "SNOMED-CT", "SNOMED"}
CODE_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")  # PS3.3 8.8: one of them


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


def children(node: Dataset) -> list[Dataset]:
    """Return the content items below a node."""
    return list(node.get("ContentSequence") or ())


def descendants(node: Dataset) -> Iterator[Dataset]:
    """Yield all content items below a node, at any depth."""
    for item in children(node):
        yield item
        yield from descendants(item)


def name_of(item: Dataset) -> Code | None:
    """Return the concept name."""
    return code_in(item, "ConceptNameCodeSequence")


def value_of(item: Dataset) -> Code | None:
    """Return the value of a CODE item; None for any other."""
    return code_in(item, "ConceptCodeSequence") if item.get("ValueType") == "CODE" else None


def code_in(item: Dataset, keyword: str) -> Code | None:
    """Return the first code of a sequence, SNOMED RT as SNOMED CT; None where there is none."""
    items = item.get(keyword) or ()
    for coded in items:
        value = next((str(coded.get(name)).strip() for name in CODE_VALUES if coded.get(name)), "")
        scheme = str(coded.get("CodingSchemeDesignator") or "").strip().upper()
        return _normalise_code(value, scheme, printable_text(coded, "CodeMeaning")) if value else None
    return None


def _normalise_code(value: str, scheme: str, meaning: str) -> Code:
    if scheme in SNOMED_RT_SCHEMES:
        return Code(SNOMED_RT_TO_CT[value], "SCT", meaning) if value in SNOMED_RT_TO_CT else Code(value, "SRT", meaning)
    return Code(value, "SCT" if scheme in SNOMED_CT_SCHEMES else scheme, meaning)


def printable_text(dataset: Dataset, keyword: str, limit: int = 64) -> str:
    """Return an element as one line of printable characters, not longer than `limit`."""
    value = str(dataset.get(keyword) or "")
    return "".join(character for character in value if character.isprintable()).strip()[:limit]


def has_concept_name(item: Dataset, names: Sequence[Code] | Code) -> bool:
    """Tell whether the item's concept name is one of these."""
    name = name_of(item)
    wanted = [names] if isinstance(names, Code) else names
    return name is not None and any(name.key == one.key for one in wanted)


def referenced_image_uids(items: Sequence[Dataset]) -> list[str]:
    """Return the SOP Instance UIDs that the IMAGE items among these refer to."""
    found = []
    for item in items:
        if item.get("ValueType") == "IMAGE":
            found += [str(reference.get("ReferencedSOPInstanceUID") or "") for reference in item.get("ReferencedSOPSequence") or ()]
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
