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
from adapters.label_csv.csv_text import CsvTable, read_rows
from pipeline import labels
from pipeline.domain import FINDINGS, NO_FINDING, LabelState, ReaderStatement
from pipeline.errors import InvalidLabels, LabelFault
from pipeline.finding_names import all_absent, match_finding
from pipeline.labels import ImportResult
from pipeline.ports.services import Catalog

STATE_WORDS = {
    **dict.fromkeys(("present", "yes", "y", "true", "positive", "pos"), LabelState.PRESENT),
    **dict.fromkeys(("absent", "no", "n", "false", "negative", "neg"), LabelState.ABSENT),
    **dict.fromkeys(("uncertain", "maybe", "unclear", "undetermined"), LabelState.UNCERTAIN),
}
STATE_NUMBERS = {1.0: LabelState.PRESENT, 0.0: LabelState.ABSENT, -1.0: LabelState.UNCERTAIN}  # CheXpert (Irvin et al., AAAI 2019)
EMPTY_CELLS = {"", "nan", "na", "n/a", "-"}
ROUNDED_NUMBER = re.compile(r"\d(?:[.,]\d+)?[eE]\+?\d+")
"""1.23457E+15: what is left of a long number after a spreadsheet has taken it for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportDefaults:
    """What holds where a table does not say. `unlisted`: what a name missing from a list like `Effusion|Mass` means."""

    reader: str = ""
    source: str = "csv"
    unlisted_state: LabelState | None = None


@dataclass(frozen=True, slots=True)
class ParsedTable:
    """A table as it was understood: its readings, its faults, and what is worth saying of it."""

    readings: Sequence[ReaderStatement]
    faults: Sequence[LabelFault]
    columns: Columns
    notes: Sequence[str]


def import_table(
    content: bytes, defaults: ImportDefaults, *, catalog: Catalog, dry_run: bool = False
) -> tuple[ImportResult, Sequence[str]]:
    """Take all labels of a table, or none; return what became of them, and notes. InvalidLabels names every fault with its row."""
    table = read_table(content, defaults)
    faults = list(table.faults)
    taken = ImportResult(0, 0, 0)
    try:
        taken = labels.import_readings(table.readings, catalog=catalog, dry_run=dry_run or bool(faults))
    except InvalidLabels as error:
        faults += [LabelFault(f.row, table.columns.column_name(f.column), f.value, f.remedy) for f in error.label_faults]
    if faults:
        rows = len({fault.row for fault in faults})
        message = f"{rows} {'row' if rows == 1 else 'rows'} cannot be taken; nothing was imported"
        raise InvalidLabels(message, sorted(faults, key=lambda fault: fault.row))
    return taken, table.notes


def read_table(content: bytes, defaults: ImportDefaults) -> ParsedTable:
    """Read a table without looking at the catalog. InvalidLabels where there is no table to read."""
    table = read_rows(content, lambda name: columns.meaning_of(name) is not None)
    known, faults = columns.parse_header(table.header)
    if faults:
        raise InvalidLabels("the columns are not those of a table of labels; nothing was imported", faults)
    readings: list[ReaderStatement] = []
    for number, cells in table.rows:
        reading, wrong = _parse_row(number, cells, known, defaults)
        faults += wrong
        if reading is not None and reading.findings:
            readings.append(reading)
    return ParsedTable(readings, faults, known, _collect_notes(table, known, readings, faults))


def _collect_notes(table: CsvTable, known: Columns, readings: Sequence[ReaderStatement], faults: Sequence[LabelFault]) -> list[str]:
    notes = [f"columns not used: {', '.join(known.unused)}"] if known.unused else []
    silent = len(table.rows) - len(readings) - len({fault.row for fault in faults})
    return notes + ([f"{silent} rows say nothing of any finding"] if silent > 0 else [])


class _CsvRow:
    """One row by meaning; faults are collected as cells are read."""

    def __init__(self, row: int, cells: Sequence[str], known: Columns) -> None:
        self.row, self.faults = row, list[LabelFault]()
        self._cells, self._columns = cells, known

    def __getitem__(self, meaning: str) -> str:
        place = self._columns.positions.get(meaning)
        return self._cells[place] if place is not None else ""

    def add_fault(self, meaning: str, value: str, remedy: str) -> None:
        """Note a fault."""
        self.faults.append(LabelFault(self.row, self._columns.column_name(meaning), value, remedy))

    def parse_time(self, meaning: str) -> datetime | None:
        """Return an aware time; without an offset it is this host's."""
        if not self[meaning]:
            return None
        try:
            return datetime.fromisoformat(self[meaning]).astimezone()
        except (ValueError, OverflowError):
            self.add_fault(meaning, self[meaning], "write 2026-01-31 08:15, or with its offset 2026-01-31T08:15:00+01:00")
            return None

    def parse_number(self, meaning: str) -> float | None:
        """Return a number, whichever decimal mark it has."""
        if not self[meaning]:
            return None
        try:
            found = float(self[meaning].replace(",", "."))
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            self.add_fault(meaning, self[meaning], "write a number such as 0.25, or nothing")
            return None
        return found

    def parse_state(self, meaning: str) -> LabelState | None:
        """Return what a cell of a finding says; None: nothing."""
        word = self[meaning].lower()
        if word in EMPTY_CELLS:
            return None
        try:
            found = STATE_WORDS.get(word) or STATE_NUMBERS.get(float(word))
        except ValueError:
            found = None
        if found is None:
            self.add_fault(meaning, self[meaning], "write present, absent or uncertain (or 1, 0, -1), or nothing")
        return found


def _parse_row(
    number: int, cells: Sequence[str], known: Columns, defaults: ImportDefaults
) -> tuple[ReaderStatement | None, list[LabelFault]]:
    """Return the reading of one row, and what is wrong with it."""
    surplus = next((cell for cell in cells[len(known.header) :] if cell), None)
    if surplus is not None or len(cells) < len(known.header):
        remedy = f"this row has {len(cells)} cells, the header has {len(known.header)}: look for a missing quotation mark"
        return None, [LabelFault(number, "", surplus or "", remedy)]
    row = _CsvRow(number, cells, known)
    for meaning in (columns.STUDY, columns.ACCESSION):
        if ROUNDED_NUMBER.fullmatch(row[meaning]):
            row.add_fault(
                meaning, row[meaning], "a spreadsheet has rounded this number: format the column as text and enter it again"
            )
    findings = (
        _parse_finding_labels(row, defaults) if columns.FINDING_LABELS in known.positions else _parse_finding_columns(row, known)
    )
    reading = ReaderStatement(
        row=number,
        study_instance_uid=row[columns.STUDY],
        accession_number=row[columns.ACCESSION],
        findings=findings,
        reader=row[columns.READER] or defaults.reader,
        source=row[columns.SOURCE] or defaults.source,
        stated_at=row.parse_time(columns.STATED_AT),
        selection_reason=row[columns.SELECTION_REASON],
        selection_probability=row.parse_number(columns.SELECTION_PROBABILITY),
        document=row[columns.DOCUMENT],
    )
    return (None if row.faults else reading), row.faults


def _parse_finding_columns(row: _CsvRow, known: Columns) -> Mapping[str, LabelState]:
    """A column for each finding. "No Finding" speaks for all 14 and suffers nothing beside it but absent."""
    said = {finding: state for finding in known.findings if (state := row.parse_state(finding)) is not None}
    nothing = said.pop(NO_FINDING, None)
    if nothing is not LabelState.PRESENT:
        return said
    _refuse_beside_no_finding(row, NO_FINDING, [finding for finding, state in said.items() if state is not LabelState.ABSENT])
    return all_absent()


def _parse_finding_labels(row: _CsvRow, defaults: ImportDefaults) -> Mapping[str, LabelState]:
    """Names with | between them are present; "No Finding" stands alone."""
    names = [name for part in row[columns.FINDING_LABELS].split("|") if (name := part.strip())]
    found = [match_finding(name) for name in names]
    for name, finding in zip(names, found, strict=True):
        if finding is None:
            row.add_fault(columns.FINDING_LABELS, name, f"no finding is called so: one of {', '.join(FINDINGS)}, or {NO_FINDING}")
    present = [finding for finding in found if finding is not None]
    if NO_FINDING in present:
        _refuse_beside_no_finding(row, columns.FINDING_LABELS, [finding for finding in present if finding != NO_FINDING])
        return all_absent()
    listed = dict.fromkeys(present, LabelState.PRESENT)
    if defaults.unlisted_state is None or not listed:
        return listed
    return dict.fromkeys(FINDINGS, defaults.unlisted_state) | listed


def _refuse_beside_no_finding(row: _CsvRow, meaning: str, findings: Iterable[str]) -> None:
    named = ", ".join(findings)
    if named:
        row.add_fault(
            meaning, row[meaning], f"{NO_FINDING} means that all 14 are absent, and this row names {named}: correct one of the two"
        )
