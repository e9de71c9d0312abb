"""A table of labels -> readings, or every fault in it. Three styles, told apart by their columns:

* our own and CheXpert's: a column for each finding, with a word or 1, 0, -1 (present, absent, uncertain); empty says nothing;
* ChestX-ray14's: one column of names, `Effusion|Mass`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from adapters.label_csv import columns
from adapters.label_csv.columns import Columns
from adapters.label_csv.csv_text import Table, read_rows
from pipeline import labels
from pipeline.domain import FINDINGS, NO_FINDING, LabelState, Reading
from pipeline.errors import BadLabels, Fault
from pipeline.finding_names import finding_named, no_finding
from pipeline.labels import Taken
from pipeline.ports.outside import Catalog

WORDS = {
    **dict.fromkeys(("present", "yes", "y", "true", "positive", "pos"), LabelState.PRESENT),
    **dict.fromkeys(("absent", "no", "n", "false", "negative", "neg"), LabelState.ABSENT),
    **dict.fromkeys(("uncertain", "maybe", "unclear", "undetermined"), LabelState.UNCERTAIN),
}
NUMBERS = {1.0: LabelState.PRESENT, 0.0: LabelState.ABSENT, -1.0: LabelState.UNCERTAIN}  # CheXpert (Irvin et al., AAAI 2019)
SAYS_NOTHING = {"", "nan", "na", "n/a", "-"}
SPOILT_NUMBER = re.compile(r"\d(?:[.,]\d+)?[eE]\+?\d+")
"""1.23457E+15: what is left of a long number after a spreadsheet has taken it for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds where a table does not say. `unlisted`: what a name missing from a list like `Effusion|Mass` means."""

    reader: str = ""
    source: str = "csv"
    unlisted: LabelState | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """A table as it was understood: its readings, its faults, and what is worth saying of it."""

    readings: Sequence[Reading]
    faults: Sequence[Fault]
    columns: Columns
    notes: Sequence[str]


def import_table(content: bytes, defaults: Defaults, *, catalog: Catalog, dry_run: bool = False) -> tuple[Taken, Sequence[str]]:
    """Take all labels of a table, or none; return what became of them, and notes. BadLabels names every fault with its row."""
    table = read_table(content, defaults)
    faults = list(table.faults)
    taken = Taken(0, 0, 0)
    try:
        taken = labels.take(table.readings, catalog=catalog, dry_run=dry_run or bool(faults))
    except BadLabels as error:
        faults += [Fault(f.row, table.columns.called(f.column), f.value, f.remedy) for f in error.faults]
    if faults:
        rows = len({fault.row for fault in faults})
        message = f"{rows} {'row' if rows == 1 else 'rows'} cannot be taken; nothing was imported"
        raise BadLabels(message, sorted(faults, key=lambda fault: fault.row))
    return taken, table.notes


def read_table(content: bytes, defaults: Defaults) -> Read:
    """Read a table without looking at the catalog. BadLabels where there is no table to read."""
    table = read_rows(content, lambda name: columns.meaning_of(name) is not None)
    known, faults = columns.understood(table.header)
    if faults:
        raise BadLabels("the columns are not those of a table of labels; nothing was imported", faults)
    readings: list[Reading] = []
    for number, cells in table.rows:
        reading, wrong = _row(number, cells, known, defaults)
        faults += wrong
        if reading is not None and reading.findings:
            readings.append(reading)
    return Read(readings, faults, known, _notes(table, known, readings, faults))


def _notes(table: Table, known: Columns, readings: Sequence[Reading], faults: Sequence[Fault]) -> list[str]:
    notes = [f"columns not used: {', '.join(known.unused)}"] if known.unused else []
    silent = len(table.rows) - len(readings) - len({fault.row for fault in faults})
    return notes + ([f"{silent} rows say nothing of any finding"] if silent > 0 else [])


class _Cells:
    """One row by meaning; faults are collected as cells are read."""

    def __init__(self, row: int, cells: Sequence[str], known: Columns) -> None:
        self.row, self.faults = row, list[Fault]()
        self._cells, self._known = cells, known

    def __getitem__(self, meaning: str) -> str:
        place = self._known.places.get(meaning)
        return self._cells[place] if place is not None else ""

    def wrong(self, meaning: str, value: str, remedy: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(self.row, self._known.called(meaning), value, remedy))

    def moment(self, meaning: str) -> datetime | None:
        """Return an aware time; without an offset it is this host's."""
        if not self[meaning]:
            return None
        try:
            return datetime.fromisoformat(self[meaning]).astimezone()
        except (ValueError, OverflowError):
            self.wrong(meaning, self[meaning], "write 2026-01-31 08:15, or with its offset 2026-01-31T08:15:00+01:00")
            return None

    def number(self, meaning: str) -> float | None:
        """Return a number, whichever decimal mark it has."""
        if not self[meaning]:
            return None
        try:
            found = float(self[meaning].replace(",", "."))
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            self.wrong(meaning, self[meaning], "write a number such as 0.25, or nothing")
            return None
        return found

    def state(self, meaning: str) -> LabelState | None:
        """Return what a cell of a finding says; None: nothing."""
        word = self[meaning].lower()
        if word in SAYS_NOTHING:
            return None
        try:
            found = WORDS.get(word) or NUMBERS.get(float(word))
        except ValueError:
            found = None
        if found is None:
            self.wrong(meaning, self[meaning], "write present, absent or uncertain (or 1, 0, -1), or nothing")
        return found


def _row(number: int, cells: Sequence[str], known: Columns, defaults: Defaults) -> tuple[Reading | None, list[Fault]]:
    """Return the reading of one row, and what is wrong with it."""
    surplus = next((cell for cell in cells[len(known.header) :] if cell), None)
    if surplus is not None or len(cells) < len(known.header):
        remedy = f"this row has {len(cells)} cells, the header has {len(known.header)}: look for a missing quotation mark"
        return None, [Fault(number, "", surplus or "", remedy)]
    row = _Cells(number, cells, known)
    for meaning in (columns.STUDY, columns.ACCESSION):
        if SPOILT_NUMBER.fullmatch(row[meaning]):
            row.wrong(meaning, row[meaning], "a spreadsheet has rounded this number: format the column as text and enter it again")
    findings = _listed(row, defaults) if columns.LISTED in known.places else _wide(row, known)
    reading = Reading(
        row=number,
        study_instance_uid=row[columns.STUDY],
        accession_number=row[columns.ACCESSION],
        findings=findings,
        reader=row[columns.READER] or defaults.reader,
        source=row[columns.SOURCE] or defaults.source,
        stated_at=row.moment(columns.STATED_AT),
        asked_because=row[columns.ASKED_BECAUSE],
        selection_probability=row.number(columns.SELECTION_PROBABILITY),
        document=row[columns.DOCUMENT],
    )
    return (None if row.faults else reading), row.faults


def _wide(row: _Cells, known: Columns) -> Mapping[str, LabelState]:
    """A column for each finding. "No Finding" speaks for all 14 and suffers nothing beside it but absent."""
    said = {finding: state for finding in known.findings if (state := row.state(finding)) is not None}
    nothing = said.pop(NO_FINDING, None)
    if nothing is not LabelState.PRESENT:
        return said
    _refuse_beside_no_finding(row, NO_FINDING, [finding for finding, state in said.items() if state is not LabelState.ABSENT])
    return no_finding()


def _listed(row: _Cells, defaults: Defaults) -> Mapping[str, LabelState]:
    """Names with | between them are present; "No Finding" stands alone."""
    names = [name for part in row[columns.LISTED].split("|") if (name := part.strip())]
    found = [finding_named(name) for name in names]
    for name, finding in zip(names, found, strict=True):
        if finding is None:
            row.wrong(columns.LISTED, name, f"no finding is called so: one of {', '.join(FINDINGS)}, or {NO_FINDING}")
    present = [finding for finding in found if finding is not None]
    if NO_FINDING in present:
        _refuse_beside_no_finding(row, columns.LISTED, [finding for finding in present if finding != NO_FINDING])
        return no_finding()
    listed = dict.fromkeys(present, LabelState.PRESENT)
    if defaults.unlisted is None or not listed:
        return listed
    return dict.fromkeys(FINDINGS, defaults.unlisted) | listed


def _refuse_beside_no_finding(row: _Cells, meaning: str, findings: Iterable[str]) -> None:
    named = ", ".join(findings)
    if named:
        row.wrong(
            meaning, row[meaning], f"{NO_FINDING} means that all 14 are absent, and this row names {named}: correct one of the two"
        )
