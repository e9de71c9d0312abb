"""Readers of TID 1500 by other projects read each finding of a report: dcmqi. highdicom's stands in `test_writer.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.domain import FINDINGS, Scale
from tests.builders.dicom_files import dx, file_of
from tests.builders.report_of import LEARNT, a_card_version, report_on

READER = [sys.executable, "-c", "import dcmqi; dcmqi.tid1500reader()"]


@pytest.mark.parametrize(
    ("scales", "quantity", "value"),
    [(LEARNT, "Probability", 0.97), (dict.fromkeys(FINDINGS, Scale.RANK), "Percentile Ranking of measurement", 96.77)],
    ids=["learnt", "zero-shot"],
)
def test_dcmqi_reads_number_and_presence_of_each_finding(
    scales: dict[str, Scale], quantity: str, value: float, tmp_path: Path
) -> None:
    film = dx()
    (tmp_path / "sr.dcm").write_bytes(file_of(report_on(film, version=a_card_version(scales=scales))))
    subprocess.run(
        [*READER, "--inputDICOM", "sr.dcm", "--outputMetadata", "read.json"], cwd=tmp_path, check=True, capture_output=True
    )
    read = json.loads((tmp_path / "read.json").read_text())["Measurements"]
    assert len({one["Finding"]["CodeValue"] for one in read}) == len(FINDINGS)
    assert {one["measurementAlgorithmIdentification"]["AlgorithmName"] for one in read} == {"radclipd"}
    (number,) = read[0]["measurementItems"]
    assert number["quantity"]["CodeMeaning"] == quantity
    assert float(number["value"]) == pytest.approx(value)
    presence = [one["conceptValue"] for one in read[0]["qualitativeEvaluations"] if isinstance(one["conceptValue"], dict)]
    assert [one["CodeMeaning"] for one in presence] == ["Present"]
