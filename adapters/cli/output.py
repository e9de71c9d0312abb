"""Rows to a terminal: a table, CSV or JSON. One way for every verb that lists."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    RAW_CSV = "raw"
    JSON = "json"


TableFlag = Annotated[bool, typer.Option("--table", help="A table (the default).")]
CsvFlag = Annotated[bool, typer.Option("--csv", help="CSV with a header line.")]
RawFlag = Annotated[bool, typer.Option("--raw", help="CSV with the cells as stored: for programs, not for spreadsheets.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="A JSON array of objects.")]


def choose_format(*, table: bool, csv: bool, json: bool, raw: bool) -> Format:
    """Return the one format asked for; `raw` is CSV, too. typer.BadParameter for more than one."""
    if table + (csv or raw) + json > 1:
        raise typer.BadParameter("choose one of --table, --csv and --json")
    if raw:
        return Format.RAW_CSV
    return Format.CSV if csv else Format.JSON if json else Format.TABLE


def write_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], form: Format) -> None:
    """Print rows to standard output. CSV is safe in a spreadsheet; RAW_CSV holds cells as they are stored."""
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
        _write_table(columns, rows)


def _keep_cell(value: Any) -> Any:
    return value


def write_facts(facts: Mapping[str, Any]) -> None:
    """Print a line for each name and value, names in one column; empty values are left out."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if value not in (None, ""):
            typer.echo(f"{name:{width}}  {format_cell(value)}")


def _write_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(format_cell(column), overflow="fold")
    for row in rows:
        table.add_row(*map(format_cell, row))
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)  # "[listener]" is text, not a style


def format_cell(value: Any) -> str:
    """Return a value as one line of printable characters: text from the network must not control the terminal."""
    if value is None:
        return ""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return "".join(character if character.isprintable() else " " for character in text)
