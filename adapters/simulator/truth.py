"""What studies really show. The hospital keeps it to itself: in a table beside the films, never in a DICOM file."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters.datasets import nih
from pipeline.errors import OutOfResources, PermanentError

TRUTH_FILE = "truth.csv"
STUDY_UID = "StudyInstanceUID"


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Whose study it is and what it shows."""

    patient: str
    findings: frozenset[str]


def write_truth(path: Path, truths: Mapping[str, GroundTruth]) -> None:
    """Write a row for each study: its UID, patient, findings joined by |. OutOfResources where that is impossible."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow((STUDY_UID, nih.PATIENT, nih.LABELS))
            table.writerows((study, truth.patient, nih.format_findings(truth.findings)) for study, truth in truths.items())
    except OSError as error:
        raise OutOfResources(f"cannot write {path}: {error.strerror}", hint="choose another folder") from error


def known_findings(folder: Path) -> dict[str, frozenset[str]]:
    """Return what is known of the DICOM files of a folder: by StudyInstanceUID, or else by the file's name without its suffix.

    From the truth.csv of `radclipd experiment nih-to-dicom` or of a demonstration, or from a label table of ChestX-ray14. Empty
    where there is neither; Refused for one that cannot be read.
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
