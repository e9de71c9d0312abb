"""What the columns of a table mean: our own names, those of ChestX-ray14 and of CheXpert, and what people write for them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.domain import FINDINGS, NO_FINDING
from pipeline.errors import Fault
from pipeline.finding_names import finding_named, plain

STUDY, ACCESSION, READER, STATED_AT = "study_instance_uid", "accession_number", "reader", "stated_at"
SOURCE, ASKED_BECAUSE, SELECTION_PROBABILITY, DOCUMENT = "source", "asked_because", "selection_probability", "document"
LISTED = "Finding Labels"
"""ChestX-ray14's column of names with | between them."""

FIELDS = (STUDY, ACCESSION, READER, STATED_AT, SOURCE, ASKED_BECAUSE, SELECTION_PROBABILITY, DOCUMENT)
SYNONYMS = {
    **{plain(name): name for name in (*FIELDS, LISTED)},
    "studyuid": STUDY,
    "accession": ACCESSION,
    "accessionno": ACCESSION,
    "radiologist": READER,
    "annotator": READER,
    "rater": READER,
    "readat": STATED_AT,
}
ALIKE = 0.85
"""Above this, a name that nobody knows is taken for a slip of the pen. "Pleural Other" of CheXpert lies below."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Where what stands: meaning -> place, and the header cells that mean nothing here."""

    places: Mapping[str, int]
    header: Sequence[str]
    unused: Sequence[str]

    def called(self, meaning: str) -> str:
        """Return the name that this table gives to a meaning."""
        return self.header[self.places[meaning]] if meaning in self.places else meaning

    @property
    def findings(self) -> list[str]:
        """The findings, and NO_FINDING, that have a column of their own."""
        return [name for name in (NO_FINDING, *FINDINGS) if name in self.places]


def meaning_of(name: str) -> str | None:
    """Return what a column of this name means, or None."""
    return SYNONYMS.get(plain(name)) or finding_named(name)


def understood(header: Sequence[str]) -> tuple[Columns, list[Fault]]:
    """Return the columns and what is wrong with them: a slip of the pen, a meaning twice, no study, no finding."""
    places: dict[str, int] = {}
    unused, faults = [], []
    for place, name in enumerate(header):
        meaning = meaning_of(name)
        if meaning is None:
            near = _slip(name)
            if near:
                faults.append(Fault(1, name, "", f"no column is called so: did you mean {near}?"))
            elif name:
                unused.append(name)
        elif meaning in places:
            faults.append(Fault(1, name, "", f"{header[places[meaning]]} says the same: keep one of the two columns"))
        else:
            places[meaning] = place
    return Columns(places, header, unused), faults + _missing(places)


def _missing(places: Mapping[str, int]) -> list[Fault]:
    faults = []
    if STUDY not in places and ACCESSION not in places:
        faults.append(Fault(1, STUDY, "", f"a table has a column {STUDY} or {ACCESSION}"))
    wide = [name for name in (NO_FINDING, *FINDINGS) if name in places]
    if not wide and LISTED not in places:
        faults.append(Fault(1, LISTED, "", f"a table has columns named after findings, or one called {LISTED}"))
    if wide and LISTED in places:
        faults.append(Fault(1, wide[0], "", f"{LISTED} says the same: keep it, or the columns named after findings"))
    return faults


def _slip(name: str) -> str | None:
    names = {plain(known): known for known in (*FIELDS, LISTED, *FINDINGS, NO_FINDING)}
    near = difflib.get_close_matches(plain(name), names, n=1, cutoff=ALIKE)
    return names[near[0]] if near else None
