"""Rows to a terminal: a table, CSV or JSON. One way for every verb that lists."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

WIDTH = 80
"""Columns of a terminal that tables and lines fit, unless they are asked to be wide."""
SHORT_UID = 16
"""Last characters of a UID that a narrow table shows."""
LONG_UID = re.compile(r"\b[0-2]\.[0-9.]{18,}")
MINUTE = re.compile(r"^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d):\d\d\S*$")
"""A time, of which a narrow table shows date, hour and minute."""


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    RAW_CSV = "raw"
    JSON = "json"


TableFlag = Annotated[bool, typer.Option("--table", help="A table (the default).")]
CsvFlag = Annotated[bool, typer.Option("--csv", help="CSV with a header line.")]
RawFlag = Annotated[bool, typer.Option("--raw", help="CSV with the cells as stored: for programs, not for spreadsheets.")]
WideFlag = Annotated[bool, typer.Option("--wide", help="Whole UIDs and lines, wider than 80 columns.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="A JSON array of objects.")]


def choose_format(*, table: bool, csv: bool, json: bool, raw: bool) -> Format:
    """Return the one format asked for; `raw` is CSV, too. typer.BadParameter for more than one."""
    if table + (csv or raw) + json > 1:
        raise typer.BadParameter("choose one of --table, --csv and --json")
    if raw:
        return Format.RAW_CSV
    return Format.CSV if csv else Format.JSON if json else Format.TABLE


def write_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], form: Format, *, narrow: Sequence[str] = ()) -> None:
    """Print rows to standard output. CSV is safe in a spreadsheet; RAW_CSV holds cells as they are stored.

    `narrow`: the columns of a table that fits WIDTH, with short UIDs and times; empty: all columns, whole.
    """
    if form in (Format.CSV, Format.RAW_CSV):
        from adapters.label_csv.csv_text import escape_cell

        writer = csv.writer(sys.stdout, lineterminator="\n")
        escape = escape_cell if form is Format.CSV else _keep_cell
        writer.writerow(map(escape, columns))
        writer.writerows(map(escape, row) for row in rows)
    elif form is Format.JSON:
        json.dump([dict(zip(columns, row, strict=True)) for row in rows], sys.stdout, indent=2, default=str)
        sys.stdout.write("\n")
    else:
        _write_table(columns, rows, narrow)


def _keep_cell(value: Any) -> Any:
    return value


def write_facts(facts: Mapping[str, Any]) -> None:
    """Print a line for each name and value, names in one column; empty values are left out."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if value not in (None, ""):
            typer.echo(f"{name:{width}}  {format_cell(value)}")


def _write_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], narrow: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [columns.index(name) for name in narrow] if narrow else range(len(columns))
    for index in shown:
        table.add_column(format_cell(columns[index]), overflow="fold")
    for row in rows:
        table.add_row(*(format_cell(_shorten_cell(row[index]) if narrow else row[index]) for index in shown))
    width = WIDTH if narrow else None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)  # "[listener]" is text, not a style


def _shorten_cell(value: Any) -> Any:
    return value if value is None or isinstance(value, float) else MINUTE.sub(r"\1 \2", shorten_uids(str(value)))


def shorten_uids(text: str) -> str:
    """Return the text with long UIDs cut to an ellipsis and their last characters."""
    return LONG_UID.sub(lambda found: f"…{found[0][-SHORT_UID:]}", text)


def format_cell(value: Any) -> str:
    """Return a value as one line of printable characters: text from the network must not control the terminal."""
    if value is None:
        return ""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return "".join(character if character.isprintable() else " " for character in text)
