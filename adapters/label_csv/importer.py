"""A table of labels -> readers' statements, or every fault in it. Three styles, distinguished by their columns:

* our own and CheXpert's: a column for each finding, with a word or 1, 0, -1 (present, absent, uncertain), or empty (no statement);
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
from pipeline.domain import FINDINGS, NO_FINDING, LabelExposure, LabelState, ReaderStatement
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
WARNING = "WARNING:"
"""Begin of a note that must not be missed."""
EMPTY_CELLS = {"", "nan", "na", "n/a", "-", ".", "null", "<na>", "#n/a"}
ROUNDED_NUMBER = re.compile(r"\d(?:[.,]\d+)?[eE]\+?\d+")
"""1.23457E+15: an identifier that a spreadsheet has rounded as a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportDefaults:
    """Values for cells that a table lacks.

    `unlisted_state`: the state of findings that a list like `Effusion|Mass` omits. `exposure`: see `ReaderStatement`.
    """

    reader: str = ""
    source: str = "csv"
    unlisted_state: LabelState | None = None
    exposure: LabelExposure | None = None
    strict: bool = False  # a column that is not used is a fault


@dataclass(frozen=True, slots=True)
class ParsedTable:
    """A parsed table: its statements, its faults, and notes for the user."""

    readings: Sequence[ReaderStatement]
    faults: Sequence[LabelFault]
    columns: Columns
    notes: Sequence[str]


def import_table(
    content: bytes, defaults: ImportDefaults, *, catalog: Catalog, dry_run: bool = False
) -> tuple[ImportResult, Sequence[str]]:
    """Import all labels of a table, or none; return the counts, and notes. InvalidLabels lists every fault with its row."""
    table = read_table(content, defaults)
    faults = list(table.faults)
    result = ImportResult(0, 0, 0)
    try:
        result = labels.import_readings(table.readings, catalog=catalog, dry_run=dry_run or bool(faults))
    except InvalidLabels as error:
        faults += [LabelFault(f.row, table.columns.column_name(f.column), f.value, f.remedy) for f in error.label_faults]
    if faults:
        rows = len({fault.row for fault in faults})
        message = f"{rows} {'row' if rows == 1 else 'rows'} cannot be taken; nothing was imported"
        raise InvalidLabels(message, sorted(faults, key=lambda fault: fault.row))
    return result, table.notes


def read_table(content: bytes, defaults: ImportDefaults) -> ParsedTable:
    """Read a table without the catalog. InvalidLabels where its text or its columns are not those of a table of labels."""
    table = read_rows(content, lambda name: columns.meaning_of(name) is not None)
    known, faults = columns.parse_header(table.header)
    if defaults.strict:
        faults += [LabelFault(1, name, "", _suggest_column(name, known)) for name in known.unused]
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
    notes += [f"{silent} rows say nothing of any finding"] if silent > 0 else []
    similar = [name for name in known.unused if columns.find_similar_finding(name)]
    return notes + [f"{WARNING} column {name} was left out: {_suggest_column(name, known)}" for name in similar]


def _suggest_column(name: str, known: Columns) -> str:
    """Return the remedy for a column that is not used."""
    near = columns.find_similar_finding(name)
    if near is None:
        return "it is not used: remove it"
    twice = f", whose column {known.column_name(near)} is there already" if near in known.positions else ""
    return f"did you mean {near}{twice}? rename it, or remove it"


class _CsvRow:
    """The cells of one row by meaning. Reading a cell collects its faults."""

    def __init__(self, row: int, cells: Sequence[str], known: Columns) -> None:
        self.row, self.faults = row, list[LabelFault]()
        self._cells, self._columns = cells, known

    def __getitem__(self, meaning: str) -> str:
        position = self._columns.positions.get(meaning)
        present = position is not None and position < len(self._cells)  # empty cells at the end of a row may be left out
        return self._cells[position] if position is not None and present else ""

    def add_fault(self, meaning: str, value: str, remedy: str) -> None:
        """Add a fault of this cell."""
        self.faults.append(LabelFault(self.row, self._columns.column_name(meaning), value, remedy))

    def parse_time(self, meaning: str) -> datetime | None:
        """Return an aware time; a time without an offset is local time of this host."""
        if not self[meaning]:
            return None
        try:
            return datetime.fromisoformat(self[meaning]).astimezone()
        except (ValueError, OverflowError):
            self.add_fault(meaning, self[meaning], "write 2026-01-31 08:15, or with its offset 2026-01-31T08:15:00+01:00")
            return None

    def parse_number(self, meaning: str) -> float | None:
        """Return a number; its decimal mark is a point or a comma."""
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

    def parse_exposure(self, meaning: str) -> LabelExposure | None:
        """Return the stated exposure; None where the cell is empty."""
        word = self[meaning].lower()
        if word and word not in set(LabelExposure):
            self.add_fault(meaning, self[meaning], f"write {', '.join(LabelExposure)}, or nothing")
            return None
        return LabelExposure(word) if word else None

    def parse_state(self, meaning: str) -> LabelState | None:
        """Return the state in a finding's cell; None where the cell is empty."""
        word = self[meaning].lower().replace("\u2212", "-")  # the minus sign of typesetters
        if word in EMPTY_CELLS:
            return None
        try:
            found = STATE_WORDS.get(word) or STATE_NUMBERS.get(float(word.replace(",", ".")))
        except ValueError:
            found = None
        if found is None:
            self.add_fault(meaning, self[meaning], "write present, absent or uncertain (or 1, 0, -1), or nothing")
        return found


def _parse_row(
    number: int, cells: Sequence[str], known: Columns, defaults: ImportDefaults
) -> tuple[ReaderStatement | None, list[LabelFault]]:
    """Return the statement of one row, or None, and its faults."""
    surplus = next((cell for cell in cells[len(known.header) :] if cell), None)
    if surplus is not None:
        remedy = f"this row has {len(cells)} cells, the header has {len(known.header)}: look for a missing quotation mark"
        return None, [LabelFault(number, "", surplus, remedy)]
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
        exposure=row.parse_exposure(columns.EXPOSURE) or defaults.exposure,
    )
    return (None if row.faults else reading), row.faults


def _parse_finding_columns(row: _CsvRow, known: Columns) -> Mapping[str, LabelState]:
    """Return the states of a table with a column for each finding. "No Finding": all 14 are absent."""
    states = {finding: state for finding in known.findings if (state := row.parse_state(finding)) is not None}
    nothing = states.pop(NO_FINDING, None)
    if nothing is not LabelState.PRESENT:
        return states
    _refuse_beside_no_finding(row, NO_FINDING, [finding for finding, state in states.items() if state is not LabelState.ABSENT])
    return all_absent()


def _parse_finding_labels(row: _CsvRow, defaults: ImportDefaults) -> Mapping[str, LabelState]:
    """Return the states of a list of findings separated by |: those listed are present. "No Finding" stands alone."""
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
