"""Truth tables: the ground truth of studies as a CSV file beside the films."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from adapters.datasets import nih
from adapters.simulator.truth import GroundTruth
from pipeline.errors import OutOfResources, PermanentError

TRUTH_FILE = "truth.csv"
STUDY_UID = "StudyInstanceUID"


def write_truth(path: Path, truths: Mapping[str, GroundTruth]) -> None:
    """Write one row per study: UID, patient, findings joined by |. OutOfResources where the file cannot be written."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow((STUDY_UID, nih.PATIENT, nih.LABELS))
            table.writerows((study, truth.patient, nih.format_findings(truth.findings)) for study, truth in truths.items())
    except OSError as error:
        raise OutOfResources(f"cannot write {path}: {error.strerror}", hint="choose another folder") from error


def known_findings(folder: Path) -> dict[str, frozenset[str]]:
    """Return the known findings of the DICOM files of a folder, by StudyInstanceUID or by file name without suffix.

    Source: the truth.csv of `radclipd experiment nih-to-dicom` or of a demonstration (keys are StudyInstanceUIDs), otherwise a
    label table of ChestX-ray14 (keys are file stems). Empty without either; PermanentError for a table that cannot be read.
    """
    if (folder / TRUTH_FILE).is_file():
        return _read_truth_table(folder / TRUTH_FILE)
    table = nih.find_table(folder)
    return {Path(row.file_name).stem: row.findings for row in nih.read_table(table)} if table else {}


def _read_truth_table(path: Path) -> dict[str, frozenset[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            return {row[STUDY_UID]: nih.parse_findings(row[nih.LABELS] or "", f"{path.name}, line {rows.line_num}") for row in rows}
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise PermanentError(f"{path} cannot be read", hint=f"its first line names {STUDY_UID} and {nih.LABELS}") from error
