"""Codes of findings and of present or absent in readers' documents, including those of other vendors.

The codes that the writer uses are in `codes.csv`, the others in `label_codes.csv`; both have a source in each row.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

from adapters.dicom.sr.codes import finding_codes
from adapters.dicom.sr.content_tree import Code
from pipeline.domain import LabelState


class CodeRelation(StrEnum):
    """The relation of a code's meaning to the finding."""

    SAME = "same"
    NARROWER = "narrower"  # present implies the finding; absent implies nothing
    GENERIC = "generic"  # means the finding only at a site of the chest


@dataclass(frozen=True, slots=True)
class MappedFinding:
    """The meaning of a code: one of FINDINGS, or NO_FINDING."""

    finding: str
    relation: CodeRelation


FINDING = (Code("121071", "DCM"), Code("121073", "DCM"), Code("121077", "DCM"))
"""Finding, Impression, Conclusion: concept names of CODE items whose value is the finding."""
PRESENCE = (Code("705057003", "SCT"), Code("408729009", "SCT"))
"""Presence, Finding context: concept names of items whose value is present or absent."""
SCORE = (Code("122157", "DCM"), Code("111012", "DCM"), Code("111047", "DCM"))
"""Probability, Certainty of Finding, Probability of cancer: a finding with one of these items is scored, not stated."""
FINDING_SITE = Code("363698007", "SCT")
LATERALITY = Code("272741003", "SCT")
PROPERTIES = (
    Code("54538001", "SCT", "Calcification"),
    Code("18115005", "SCT", "Pathologic calcification"),
    Code("129748009", "SCT", "Radiographic calcification finding"),
    Code("111009", "DCM", "Calcification Type"),
)
"""Concept names of a finding's own properties: their absence says nothing of the finding."""
ALGORITHM_NAME = Code("111001", "DCM")
TECHNICAL_NAMES = (
    ALGORITHM_NAME,
    Code("111002", "DCM", "Algorithm Parameters"),
    Code("111003", "DCM", "Algorithm Version"),
    Code("112039", "DCM", "Tracking Identifier"),
    Code("112040", "DCM", "Tracking Unique Identifier"),
    Code("121049", "DCM", "Language of Content Item and Descendants"),
    Code("121050", "DCM", "Equivalent Meaning of Concept Name"),
)
"""Concept names of items that identify or describe, and state nothing of a finding."""
OBSERVER_TYPE, PERSON, DEVICE = Code("121005", "DCM"), Code("121006", "DCM"), Code("121007", "DCM")
PERSON_OBSERVER_NAME = Code("121008", "DCM")
DEVICE_OBSERVER = (Code("121012", "DCM"), Code("121013", "DCM"), Code("121015", "DCM"))
"""Device Observer UID, Name, Model Name."""
NOT_OF_THIS_STUDY = (
    Code("121060", "DCM", "History"),
    Code("11329-0", "LN", "History"),
    Code("55752-0", "LN", "Clinical Information"),
    Code("121062", "DCM", "Request"),
    Code("55115-0", "LN", "Request"),
    Code("121109", "DCM", "Indications for Procedure"),
    Code("18785-6", "LN", "Indications for Procedure"),
    Code("121110", "DCM", "Patient Presentation"),
    Code("55108-5", "LN", "Patient Presentation"),
    Code("121066", "DCM", "Prior Procedure Descriptions"),
    Code("55114-3", "LN", "Prior Procedure Descriptions"),
    Code("121068", "DCM", "Previous Findings"),
    Code("18834-2", "LN", "Previous Findings"),
    Code("121074", "DCM", "Recommendations"),
    Code("18783-1", "LN", "Recommendations"),
    Code("111028", "DCM", "Image Library"),
)
"""Sections on earlier, requested or suspected findings, not those of this study. PS3.16 CID 7001 and its former DCM codes."""

UNCLEAR = "unclear"
"""Meaning, in `label_codes.csv`, of a presence value that states nothing: "Unknown", "Normal", "Not evaluated"."""
WHOLE_CHEST = {"51185008"}  # Thoracic structure
CHEST_SITES = WHOLE_CHEST | {
    "39607008",
    "80891009",
    "3120008",
    "5798000",
    "72410000",
}  # lung, heart, pleura, diaphragm, mediastinum
CHEST_WORDS = ("lung", "lobe", "lingula", "pulmon", "pleura", "thora", "chest", "hilum", "hilar", "mediastin", "diaphragm", "heart")


@cache
def _load_finding_map() -> dict[tuple[str, str], MappedFinding]:
    own = {(c.concept.value, c.concept.scheme_designator): MappedFinding(f, CodeRelation.SAME) for f, c in finding_codes().items()}
    return own | {key: MappedFinding(means, CodeRelation(kind)) for key, means, kind in _read_rows() if kind}


@cache
def _load_presence_map() -> dict[tuple[str, str], LabelState | None]:
    return {key: None if means == UNCLEAR else LabelState(means) for key, means, kind in _read_rows() if not kind}


def _read_rows() -> list[tuple[tuple[str, str], str, str]]:
    with files("adapters.dicom.sr").joinpath("label_codes.csv").open(encoding="utf-8") as stream:
        return [((row["code"], row["scheme"]), row["means"], row["kind"]) for row in csv.DictReader(stream)]


def mapped_finding(code: Code | None) -> MappedFinding | None:
    """Return the finding of a code, or None."""
    return _load_finding_map().get(code.key) if code is not None else None


def is_presence(code: Code) -> bool:
    """Tell whether a code is a known presence value, whatever the name of its item."""
    return code.key in _load_presence_map()


def presence_state(code: Code | None) -> LabelState | None:
    """Return the state of a presence value; None where it is unknown, or is known to state nothing."""
    return _load_presence_map().get(code.key) if code is not None else None


def is_chest_site(site: Code) -> bool:
    """Tell whether a finding site is in the chest; parts such as lobes are recognised by their code meaning."""
    return site.value in CHEST_SITES or any(word in site.meaning.lower() for word in CHEST_WORDS)


def is_whole_chest(site: Code) -> bool:
    """Tell whether a finding site is the whole chest: only there "no abnormality" states all 14 findings absent."""
    return site.value in WHOLE_CHEST or site.meaning.lower() in ("chest", "thorax")
