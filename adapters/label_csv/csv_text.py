"""The bytes of a table, as any spreadsheet in any country saves it -> rows of cells."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from pipeline.errors import InvalidLabels, LabelFault

MAX_BYTES = 64 << 20
MAX_ROWS = 1_000_000
DELIMITERS = ",;\t|"
BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
WESTERN_WINDOWS = "cp1252"
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx, .xls
FORMULA_BEGINS = tuple("=+-@|%\uff1d\uff0b\uff0d\uff20")
"""Characters, their full-width forms among them, with which a spreadsheet begins a formula or a command."""
PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
TEXT_MARK = "'"
"""Put before a text that a spreadsheet would take for a formula."""


def escape_cell(value: Any) -> Any:
    """Return a cell that a spreadsheet shows and does not run, and a terminal as well; numbers are unchanged.

    TEXT_MARK before a formula, https://owasp.org/www-community/attacks/CSV_Injection; a space for each control character.
    """
    if not isinstance(value, str) or not value:
        return value
    shown = "".join(character if character.isprintable() else " " for character in value)
    is_formula = _begins_formula(shown) or value[0] in "\t\r\n"
    return TEXT_MARK + shown if is_formula and not PLAIN_NUMBER.fullmatch(value) else shown


def _unescape_cell(cell: str) -> str:
    """Return the stored text of a cell that `escape_cell` has written."""
    return cell[1:] if cell.startswith(TEXT_MARK) and _begins_formula(cell[1:]) else cell


def _begins_formula(text: str) -> bool:
    return text.lstrip().startswith(FORMULA_BEGINS)


@dataclass(frozen=True, slots=True)
class CsvTable:
    """Header cells, and rows with their numbers as a spreadsheet counts them: the header is row 1. Cells are stripped."""

    header: Sequence[str]
    rows: Sequence[tuple[int, Sequence[str]]]


def read_rows(content: bytes, is_known: Callable[[str], bool]) -> CsvTable:
    """Read a table. Its delimiter is the one that gives the most known header cells. InvalidLabels where it is no table."""
    text = _decode_text(content)
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep="):  # Excel names the delimiter so and hides the line
        text = rest
    delimiter = _detect_delimiter(text, is_known)
    records: list[tuple[int, list[str]]] = []
    try:
        for number, record in enumerate(csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True), 1):
            cells = [_unescape_cell(cell.strip()) for cell in record]
            if any(cells):
                records.append((number, cells))
            if len(records) > MAX_ROWS:
                raise _build_table_error(number, "", f"at most {MAX_ROWS} rows: split the table")
    except csv.Error as error:
        number = records[-1][0] + 1 if records else 1
        raise _build_table_error(
            number, "", f"this row is no CSV ({error}): look for a quotation mark without its other half"
        ) from error
    if not records:
        raise _build_table_error(1, "", "the table is empty: radclipd labels template shows what it looks like")
    return CsvTable(records[0][1], records[1:])


def _decode_text(content: bytes) -> str:
    """Return the text. Without a byte order mark it is UTF-8, or Windows-1252, which Excel writes in western Europe."""
    if len(content) > MAX_BYTES:
        raise _build_table_error(0, "", f"the file has {len(content)} bytes, more than {MAX_BYTES}: split the table")
    if content.startswith(WORKBOOKS):
        raise _build_table_error(0, "", "this is a workbook: save it as CSV (UTF-8)")
    marked = next((encoding for mark, encoding in BYTE_ORDER_MARKS if content.startswith(mark)), None)
    for encoding in [marked] if marked else ["utf-8", WESTERN_WINDOWS]:
        try:
            text = content.decode(encoding)
        except UnicodeError:
            continue
        if "\0" not in text:
            return text
    raise _build_table_error(0, "", "this is no text: save the table as CSV (UTF-8)")


def _detect_delimiter(text: str, is_known: Callable[[str], bool]) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "")

    def known(delimiter: str) -> int:
        try:
            return sum(map(is_known, next(csv.reader([line], delimiter=delimiter), [])))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=known)


def _build_table_error(row: int, value: str, remedy: str) -> InvalidLabels:
    return InvalidLabels("this is no table of labels; nothing was taken", [LabelFault(row, "", value, remedy)])
