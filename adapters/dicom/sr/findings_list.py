"""The findings of a study as lines of fixed width, for the text report and the terminal."""

from __future__ import annotations

from pipeline.statements import FindingStatement, StudyStatement

GAP = "  "


def list_findings(statement: StudyStatement) -> list[str]:
    """Return a line for each finding, in the order of the statement: name, decision, band, number.

    A finding that is not assessed has the reason in place of band and number.
    """
    rows = [_list_words(told) for told in statement.findings]
    bands = [told.band_words for told in statement.findings]
    widths = [max(map(len, column)) for column in (*list(zip(*rows, strict=True))[:2], bands)]
    return [_join_words(row, widths) for row in rows]


def _list_words(told: FindingStatement) -> tuple[str, str, str, str]:
    return told.name, told.decision_words, told.reason_words or told.band_words, told.number_words


def _join_words(row: tuple[str, ...], widths: list[int]) -> str:
    return GAP.join(word.ljust(width) for word, width in zip(row, [*widths, 0], strict=True)).rstrip()
