"""Tables of labels: an empty template, requests, and the labels in force, in columns that the importer reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from adapters.label_csv.columns import (
    ACCESSION,
    DOCUMENT,
    EXPOSURE,
    READER,
    SELECTION_PROBABILITY,
    SELECTION_REASON,
    SOURCE,
    STATED_AT,
    STUDY,
)
from pipeline.domain import FINDINGS, NO_FINDING, Label, LabelState, Request

TEMPLATE_COLUMNS = (STUDY, ACCESSION, READER, STATED_AT, SELECTION_REASON, SELECTION_PROBABILITY, NO_FINDING, *FINDINGS)
EXPORT_COLUMNS = (
    STUDY,
    ACCESSION,
    READER,
    STATED_AT,
    SOURCE,
    SELECTION_REASON,
    SELECTION_PROBABILITY,
    DOCUMENT,
    EXPOSURE,
    NO_FINDING,
    *FINDINGS,
)


def empty_rows(accession_numbers: Mapping[str, str]) -> Iterator[Sequence[str]]:
    """Yield a row of TEMPLATE_COLUMNS for each study."""
    for study, accession_number in accession_numbers.items():
        yield [study, accession_number, *[""] * (len(TEMPLATE_COLUMNS) - 2)]


def request_rows(requests: Iterable[tuple[Request, str]]) -> Iterator[Sequence[object]]:
    """Yield a row of TEMPLATE_COLUMNS for each request and the accession number of its study."""
    for request, accession_number in requests:
        head = [request.study_instance_uid, accession_number, "", "", request.selection_reason, repr(request.selection_probability)]
        yield [*head, *[""] * (len(TEMPLATE_COLUMNS) - len(head))]


def exported_rows(standing: Iterable[Label], accession_numbers: Mapping[str, str]) -> Iterator[Sequence[object]]:
    """Yield rows of EXPORT_COLUMNS, by study, time and reader: one row for the labels that share all columns but the finding."""
    rows: dict[tuple[object, ...], dict[str, LabelState]] = {}
    for label in standing:
        if label.state is not None:
            rows.setdefault(_build_row_key(label), {})[label.finding] = label.state
    for (study, stated_at, reader, source, reason, probability, document, exposure), states in sorted(
        rows.items(), key=lambda row: repr(row[0])
    ):
        head = [study, accession_numbers.get(str(study), ""), reader, stated_at, source, reason, probability, document, exposure]
        nothing = len(states) == len(FINDINGS) and set(states.values()) == {LabelState.ABSENT}
        yield [*head, LabelState.PRESENT.value if nothing else "", *(states[f].value if f in states else "" for f in FINDINGS)]


def _build_row_key(label: Label) -> tuple[object, ...]:
    probability = "" if label.selection_probability is None else repr(label.selection_probability)
    stated_at = label.stated_at.isoformat(sep=" ")
    given = (label.reader, label.source, label.selection_reason, probability, label.document, label.exposure.value)
    return label.study_instance_uid, stated_at, *given
