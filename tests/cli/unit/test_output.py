"""Rows as a table, CSV and JSON: what a stored text can do to a spreadsheet or a terminal."""

from __future__ import annotations

import csv
import io
import json

import pytest
import typer

from adapters.cli.output import Format, choose_format, write_rows

HOSTILE = ["=1+1", "@SUM(1)", "+1+1", "-1+1", "\t=1", "\x1b]0;owned\x07", "\x9b31m", "a\r\n=1", "\u202edlrow"]


def printed(capsys: pytest.CaptureFixture[str], form: Format) -> str:
    write_rows(["reason", "=column"], [(text, -1.5) for text in HOSTILE], form)
    return capsys.readouterr().out


def test_csv_is_safe_for_spreadsheets_and_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, Format.CSV)
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0][1] == "'=column"
    assert all(not row[0].startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows)
    assert {row[1] for row in rows[1:]} == {"-1.5"}
    assert all(character.isprintable() or character == "\n" for character in text)


def test_raw_csv_holds_the_cells_as_stored(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.reader(io.StringIO(printed(capsys, Format.RAW_CSV), newline="")))
    assert [row[0] for row in rows[1:]] == HOSTILE


def test_json_holds_the_cells_as_stored_and_is_safe_for_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, Format.JSON)
    assert [row["reason"] for row in json.loads(text)] == HOSTILE
    assert text.isascii()
    assert all(character.isprintable() or character == "\n" for character in text)


def test_a_table_holds_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(character.isprintable() or character == "\n" for character in printed(capsys, Format.TABLE))


def test_raw_is_csv_and_goes_with_no_other_format() -> None:
    assert choose_format(table=False, csv=True, json=False, raw=True) is Format.RAW_CSV
    assert choose_format(table=False, csv=False, json=False, raw=True) is Format.RAW_CSV
    assert choose_format(table=False, csv=True, json=False, raw=False) is Format.CSV
    with pytest.raises(typer.BadParameter):
        choose_format(table=False, csv=False, json=True, raw=True)
