"""The simulated radiologist: error rates, determinism, and tables and reports readable by the importers."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from adapters.demo.dictated_sr import build_dictated_sr
from adapters.demo.simulated_reader import FALSE_POSITIVE_RATE, MISS_RATE, SimulatedReader, count_wrong_statements
from adapters.dicom.sr.label_reader import DicomDocumentReader, DocumentSettings
from adapters.label_csv.exporter import TEMPLATE_COLUMNS, empty_rows
from adapters.label_csv.importer import ImportDefaults, read_table
from adapters.simulator import scanner
from adapters.simulator.truth import GroundTruth
from pipeline.domain import FINDINGS, LabelState
from pipeline.rules import OWN_MODEL_NAME

DAY = scanner.varied_examinations(len(scanner.VARIED_STUDIES), size=(64, 64))
MANY = {f"1.2.{number}": GroundTruth(f"p{number}", frozenset(FINDINGS[: number % 8])) for number in range(1500)}


def test_errors_of_both_kinds_have_the_stated_frequency() -> None:
    reader = SimulatedReader(seed=3)
    said = {study: reader.read_study(study, truth) for study, truth in MANY.items()}
    there = sum(len(truth.findings) for truth in MANY.values())
    missed = sum(len(truth.findings - said[study]) for study, truth in MANY.items())
    invented = sum(len(said[study] - truth.findings) for study, truth in MANY.items())
    elsewhere = len(MANY) * len(FINDINGS) - there
    for count, rate, chances in ((missed, MISS_RATE, there), (invented, FALSE_POSITIVE_RATE, elsewhere)):
        assert abs(count - rate * chances) < 4 * np.sqrt(rate * (1 - rate) * chances)
    assert count_wrong_statements(said, MANY) == missed + invented


def test_a_reader_with_zero_error_rates_reports_the_truth() -> None:
    said = {
        study: SimulatedReader(miss_rate=0.0, false_positive_rate=0.0).read_study(study, truth) for study, truth in MANY.items()
    }
    assert said == {study: truth.findings for study, truth in MANY.items()}
    assert count_wrong_statements(said, MANY) == 0


def test_a_reader_is_deterministic_and_another_seed_errs_elsewhere() -> None:
    once, again, other = (
        {study: SimulatedReader(seed=seed).read_study(study, truth) for study, truth in reversed(MANY.items())}
        for seed in (1, 1, 2)
    )
    assert once == again
    assert once != other


def test_a_table_is_filled_in_for_the_read_studies_only(tmp_path: Path) -> None:
    asked, answered = tmp_path / "asked.csv", tmp_path / "answered.csv"
    with asked.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(TEMPLATE_COLUMNS)
        for number, row in enumerate(empty_rows({"1.2.1": "A1", "1.2.2": "A2", "1.2.3": "A3"})):
            cells = dict(zip(TEMPLATE_COLUMNS, row, strict=True)) | {
                "selection_reason": "coverage",
                "selection_probability": f"0.{number + 1}",
            }
            table.writerow(cells[name] for name in TEMPLATE_COLUMNS)
    SimulatedReader(name="Somebody^Else").fill_in_table(
        asked, answered, {"1.2.1": frozenset({"Mass", "Edema"}), "1.2.3": frozenset()}
    )
    found = read_table(answered.read_bytes(), ImportDefaults())
    assert not found.faults
    one, three = found.readings
    assert (one.study_instance_uid, one.accession_number, one.reader) == ("1.2.1", "A1", "Somebody^Else")
    assert (one.selection_reason, one.selection_probability, three.selection_probability) == ("coverage", 0.1, 0.3)
    assert {finding for finding, state in one.findings.items() if state is LabelState.PRESENT} == {"Mass", "Edema"}
    assert set(three.findings) == set(FINDINGS)
    assert set(three.findings.values()) == {LabelState.ABSENT}


@pytest.mark.parametrize("number", range(len(scanner.VARIED_STUDIES)))
def test_a_dictated_report_on_any_film_is_read_back_completely(number: int) -> None:
    study = DAY[number]
    present = frozenset({FINDINGS[number], "Hernia"})
    content = build_dictated_sr(study.instances[0].content, present, reader="Somebody^Else")
    document = DicomDocumentReader(DocumentSettings()).read(content)
    assert document.reason == ""
    [reading] = document.readings
    assert (reading.study_instance_uid, reading.reader, reading.source) == (study.study_instance_uid, "Somebody^Else", "sr")
    assert {finding for finding, state in reading.findings.items() if state is LabelState.PRESENT} == present
    assert set(reading.findings) == set(FINDINGS)
    assert OWN_MODEL_NAME.encode() not in content


def test_a_dictated_report_is_deterministic() -> None:
    film = DAY[0].instances[0].content
    once, again = (build_dictated_sr(film, frozenset(), reader="A^B") for _ in range(2))
    assert _uid(once) == _uid(again)


def _uid(content: bytes) -> str:
    return str(dcmread(io.BytesIO(content)).SOPInstanceUID)
