"""One prediction is told in one way, whatever the scores: statement, view, CSV, `radclipd show`, SR, text report and card agree."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.catalog import query, schema
from adapters.catalog.catalog import SqlCatalog
from adapters.cli.output import Format, write_rows
from adapters.cli.overview import describe_statement
from adapters.dicom.image.pixels import DicomImageReader
from adapters.dicom.sr.codes import finding_codes
from adapters.dicom.sr.document import ReportSettings
from adapters.dicom.sr.writer import SrWriter
from adapters.dicom.visible import card
from adapters.dicom.visible.drawing import WHITE, Canvas, Colour
from pipeline import report
from pipeline.decisions import predict_study, withhold
from pipeline.domain import (
    FINDINGS,
    Decision,
    ModelVersion,
    NotAssessedReason,
    Prediction,
    ReferenceDistribution,
    Scale,
    VersionState,
    VisibleKind,
)
from pipeline.report import ReportPolicy
from pipeline.statements import StudyStatement
from tests.builders.catalog_rows import add_instance, reported_header
from tests.builders.dicom_files import dx, file_of
from tests.builders.fakes.images import FakeImageStore
from tests.builders.report_of import a_card_version, a_reference, content_of, told_of

STUDY = "1.4"
FILM = file_of(dx())
PRESENCE = {"Present": Decision.PRESENT, "Absent": Decision.ABSENT, "Undetermined": Decision.UNDETERMINED}


@pytest.fixture(scope="module")
def catalog_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = f"sqlite:///{tmp_path_factory.mktemp('told') / 'told.db'}"
    schema.upgrade(url)
    catalog = SqlCatalog(url)
    add_instance(catalog, reported_header("1.1"))
    catalog.dispose()
    yield url


scores = st.lists(st.floats(0, 1, width=32), min_size=len(FINDINGS), max_size=len(FINDINGS))
scales = st.dictionaries(st.sampled_from(FINDINGS), st.sampled_from([Scale.PROBABILITY, Scale.BAND]))
withheld = st.dictionaries(st.sampled_from([NotAssessedReason.STOPPED, NotAssessedReason.AGE]), st.sets(st.sampled_from(FINDINGS)))


@given(scores, scales, withheld, st.booleans())
@settings(max_examples=25)
def test_every_output_says_the_same_of_a_prediction(
    catalog_url: str,
    values: list[float],
    scales: dict[str, Scale],
    withheld: dict[NotAssessedReason, set[str]],
    has_reference: bool,
) -> None:
    catalog = SqlCatalog(catalog_url)
    with catalog.begin() as tx:
        number = tx.versions.next_number()
        version = a_card_version(number=number, state=VersionState.CANDIDATE, scales=scales, device_uid=f"2.25.{number}")
        tx.versions.add(version)
        reference = a_reference(version) if has_reference else None
        if reference is not None:
            reference = _numbered(reference, tx.references.next_number())
            tx.references.add(reference)
        predictions = predict_study(np.array(values, np.float32), version, reference)
        for reason, findings in withheld.items():
            predictions = withhold(predictions, reason, sorted(findings))
        tx.scores.put_predictions(version.number, {STUDY: predictions}, tx.studies.next_revisions([STUDY]))
    with catalog.read() as tx:
        stored = tx.scores.predictions(STUDY, version.number)
        told = report.tell(tx, stored, version, ReportPolicy())
    catalog.dispose()
    assert stored == predictions
    assert_view_says(told, catalog_url)
    assert_shown(told)
    assert_reports_say(told, predictions, version)
    assert_card_says(told)


def _numbered(reference: ReferenceDistribution, number: int) -> ReferenceDistribution:
    return replace(reference, number=number)


def assert_view_says(told: StudyStatement, url: str) -> None:
    """Compare the rows of v_predictions, and their CSV, with the statement."""
    columns, rows = query.run(url, f"SELECT * FROM v_predictions WHERE study_instance_uid = '{STUDY}'")
    seen = {row["finding"]: row for row in (dict(zip(columns, values, strict=True)) for values in rows)}
    wide_columns, (wide,) = query.run(url, "SELECT * FROM v_findings_wide")
    in_one_row = dict(zip(wide_columns, wide, strict=True))
    assert seen.keys() == set(FINDINGS)
    for one in told.findings:
        row = seen[one.finding]
        assert (row["decision"], row["scale"], row["reason"]) == (one.decision, one.scale, one.reason or "")
        assert (row["band"], row["reference"]) == (one.band, one.reference)
        for number in ("probability", "percentile", "operating_point", "excess"):
            assert row[number] == pytest.approx(getattr(one, number)), number
        assert row["excess"] == in_one_row[one.finding.lower()]
    printed = io.StringIO()
    with redirect_stdout(printed):
        write_rows(columns, rows, Format.RAW_CSV)
    for line in csv.DictReader(io.StringIO(printed.getvalue())):
        one = told.of(line["finding"])
        assert (line["decision"], line["band"]) == (one.decision.value, one.band.value if one.band else "")


def assert_shown(told: StudyStatement) -> None:
    """`radclipd show` prints every sentence, the first findings first."""
    lines = list(describe_statement(told))
    assert [line for line in lines if line in {one.sentence for one in told.findings}] == [one.sentence for one in told.findings]
    assert all(line in lines for line in told.summary)


class RecordingCanvas(Canvas):
    """Keeps what is written, by line of the picture."""

    last: RecordingCanvas

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self.lines: list[tuple[int, str]] = []
        RecordingCanvas.last = self

    def write(self, x: int, y: int, text: str, *, size: int, colour: Colour = WHITE) -> None:
        self.lines.append((y, text))
        super().write(x, y, text, size=size, colour=colour)


def assert_card_says(told: StudyStatement) -> None:
    """Compare the words in the pixels of the card, finding by finding in order, and the warnings beside the film."""
    with patch.object(card, "Canvas", RecordingCanvas):
        card.draw_card(told, None, made_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
    lines = RecordingCanvas.last.lines
    rows = [(text, words) for (y, text), (below, words) in pairwise(lines) if below == y + 1]
    assert rows == [
        (one.name, f"{one.decision_words}: {one.reason_words}" if one.excess is None else f"{one.band_words}, {one.decision_words}")
        for one in told.findings
    ]
    written = " ".join(text for _, text in lines)
    assert told.research_only in written
    assert told.summary[0] in written


def assert_reports_say(told: StudyStatement, predictions: list[Prediction], version: ModelVersion) -> None:
    """Compare the SR by its codes and numbers, and the text report by its words, with the statement."""
    store = FakeImageStore()
    writer = SrWriter(ReportSettings(visible=(VisibleKind.TEXT,)), store, DicomImageReader(store))
    content = told_of(content_of([FILM], store, writer, version), predictions)
    (visible,) = writer.pending_visible(content)
    groups = read_groups(dcmread(BytesIO(writer.write(content))))
    text = json.dumps(_texts(dcmread(BytesIO(writer.write_visible(content, visible, None)))), ensure_ascii=False)
    for one in content.statement.findings:
        of_catalog = told.of(one.finding)
        assert (one.decision, one.band, one.excess) == (of_catalog.decision, of_catalog.band, of_catalog.excess)
        assert one.name in text
        assert (one.reason_words or one.band_words) in text
        if one.decision is Decision.NOT_ASSESSED:
            assert one.finding not in groups
            continue
        decision, number = groups[one.finding]
        assert decision is one.decision
        shown = one.probability if one.probability is not None else one.percentile and 100 * one.percentile
        assert number == (None if shown is None else pytest.approx(shown, abs=0.0051))
        assert one.number_words in text


def read_groups(sr: Dataset) -> dict[str, tuple[Decision, float | None]]:
    """Return finding -> decision and number of each measurement group of an SR."""
    names = {code.concept.value: finding for finding, code in finding_codes().items()}
    found: dict[str, tuple[Decision, float | None]] = {}
    for item in _walk(sr):
        if item.ValueType == "CONTAINER" and item.ConceptNameCodeSequence[0].CodeValue == "125007":
            parts = list(item.ContentSequence)
            (finding,) = (part.ConceptCodeSequence[0].CodeValue for part in parts if _name(part) == "121071")
            (presence,) = (part.ConceptCodeSequence[0].CodeMeaning for part in parts if _name(part) == finding)
            numbers = [float(part.MeasuredValueSequence[0].NumericValue) for part in parts if part.ValueType == "NUM"]
            found[names[finding]] = PRESENCE[presence], next(iter(numbers), None)
    return found


def _walk(item: Dataset) -> Iterator[Dataset]:
    for below in item.get("ContentSequence", []):
        yield below
        yield from _walk(below)


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def _texts(document: Dataset) -> list[str]:
    return [str(item.TextValue) for item in _walk(document) if item.ValueType == "TEXT"]
