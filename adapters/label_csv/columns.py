"""The meaning of a table's columns: our own names, those of ChestX-ray14 and CheXpert, and their common spellings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.domain import FINDINGS, NO_FINDING
from pipeline.errors import LabelFault
from pipeline.finding_names import match_finding, normalise_name

STUDY, ACCESSION, READER, STATED_AT = "study_instance_uid", "accession_number", "reader", "stated_at"
SOURCE, SELECTION_REASON, SELECTION_PROBABILITY, DOCUMENT = "source", "selection_reason", "selection_probability", "document"
EXPOSURE = "exposure"
FINDING_LABELS = "Finding Labels"
"""ChestX-ray14's column of names with | between them."""

FIELDS = (STUDY, ACCESSION, READER, STATED_AT, SOURCE, SELECTION_REASON, SELECTION_PROBABILITY, DOCUMENT, EXPOSURE)
SYNONYMS = {
    **{normalise_name(name): name for name in (*FIELDS, FINDING_LABELS)},
    "studyuid": STUDY,
    "accession": ACCESSION,
    "accessionno": ACCESSION,
    "radiologist": READER,
    "annotator": READER,
    "rater": READER,
    "readat": STATED_AT,
}
RENAMED = {normalise_name("asked_because"): SELECTION_REASON}
"""Name of an earlier release -> name now. A table with the old name is refused, with one line that gives the new one."""
SIMILARITY_CUTOFF = 0.85
"""Above this similarity an unknown name is refused as a spelling mistake."""
WARNING_CUTOFF = 0.65
"""Above this similarity to a finding an unknown name is left out with a warning."""
OTHER_FINDINGS = {
    normalise_name(name)
    for name in (
        "Enlarged Cardiomediastinum",
        "Lung Lesion",
        "Lung Opacity",
        "Pleural Other",
        "Fracture",
        "Support Devices",
        "Pneumomediastinum",
        "Pneumoperitoneum",
        "Subcutaneous Emphysema",
        "Tortuous Aorta",
        "Calcification of the Aorta",
    )
}
"""Findings of CheXpert, MIMIC-CXR and the long-tailed ChestX-ray14 that are none of FINDINGS, and no spelling mistakes of one."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Meaning -> position of its column, and the header cells without a meaning here."""

    positions: Mapping[str, int]
    header: Sequence[str]
    unused: Sequence[str]

    def column_name(self, meaning: str) -> str:
        """Return the name that this table has for a meaning."""
        return self.header[self.positions[meaning]] if meaning in self.positions else meaning

    @property
    def findings(self) -> list[str]:
        """The findings, NO_FINDING among them, that have a column of their own."""
        return [name for name in (NO_FINDING, *FINDINGS) if name in self.positions]


def meaning_of(name: str) -> str | None:
    """Return the meaning of a column of this name, or None."""
    return SYNONYMS.get(normalise_name(name)) or match_finding(name)


def find_similar_finding(name: str) -> str | None:
    """Return the finding that an unknown column may mean; None where no name is similar, or the column is another finding's."""
    if normalise_name(name) in OTHER_FINDINGS:
        return None
    return _find_nearest(name, (*FINDINGS, NO_FINDING), WARNING_CUTOFF)


def parse_header(header: Sequence[str]) -> tuple[Columns, list[LabelFault]]:
    """Return the columns and their faults: a misspelt or renamed column, a meaning twice, no study, no finding."""
    positions: dict[str, int] = {}
    unused, faults = [], []
    for position, name in enumerate(header):
        meaning = meaning_of(name)
        if meaning is None:
            renamed, near = RENAMED.get(normalise_name(name)), _correct_spelling(name)
            if renamed:
                faults.append(LabelFault(1, name, "", f"this column is called {renamed} now: rename it"))
            elif near:
                faults.append(LabelFault(1, name, "", f"no column is called so: did you mean {near}?"))
            elif name:
                unused.append(name)
        elif meaning in positions:
            faults.append(LabelFault(1, name, "", f"{header[positions[meaning]]} says the same: keep one of the two columns"))
        else:
            positions[meaning] = position
    return Columns(positions, header, unused), faults + _find_column_faults(positions)


def _find_column_faults(positions: Mapping[str, int]) -> list[LabelFault]:
    faults = []
    if STUDY not in positions and ACCESSION not in positions:
        faults.append(LabelFault(1, STUDY, "", f"a table has a column {STUDY} or {ACCESSION}"))
    wide = [name for name in (NO_FINDING, *FINDINGS) if name in positions]
    if not wide and FINDING_LABELS not in positions:
        faults.append(
            LabelFault(1, FINDING_LABELS, "", f"a table has columns named after findings, or one called {FINDING_LABELS}")
        )
    if wide and FINDING_LABELS in positions:
        faults.append(LabelFault(1, wide[0], "", f"{FINDING_LABELS} says the same: keep it, or the columns named after findings"))
    return faults


def _correct_spelling(name: str) -> str | None:
    if normalise_name(name) in OTHER_FINDINGS:
        return None
    return _find_nearest(name, (*FIELDS, FINDING_LABELS, *FINDINGS, NO_FINDING), SIMILARITY_CUTOFF)


def _find_nearest(name: str, known: Sequence[str], cutoff: float) -> str | None:
    names = {normalise_name(one): one for one in known}
    near = difflib.get_close_matches(normalise_name(name), names, n=1, cutoff=cutoff)
    return names[near[0]] if near else None
