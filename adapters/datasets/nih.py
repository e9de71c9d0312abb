"""ChestX-ray14 on disk: a label table, pictures in any number of sub-folders, and the official lists.

Wang et al., CVPR 2017. The header of the table contains commas inside its last names, after every column that is read by name. The
table of 2017 writes ages as 058Y, that of 2020 as 58; a reduced table may omit columns.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapters.datasets.pictures import PICTURE_SUFFIXES
from pipeline.domain import FINDINGS
from pipeline.errors import PermanentError

TABLE_PATTERNS = ("Data_Entry_2017*.csv", "Data_Entry_2017*.csv.gz", "labels.csv", "labels.csv.gz")
"""File names of a label table by priority. The last match of a pattern counts: the corrected table of 2020 over that of 2017."""
IMAGE, LABELS, PATIENT = "Image Index", "Finding Labels", "Patient ID"
FOLLOW_UP, AGE, SEX, VIEW = "Follow-up #", "Patient Age", "Patient Gender", "View Position"
REQUIRED_COLUMNS = (IMAGE, LABELS, PATIENT)
NO_FINDING = "No Finding"
FILE_STEM = re.compile(r"^(\d{8})_(\d{3})$")
"""Stem of a file name: patient and follow-up number."""
OLDEST = 120
"""Maximum plausible age, years. The table has typing errors of up to 414, which are read as unknown."""
POOL_LIST, TEST_LIST = "train_val_list.txt", "test_list.txt"
UNITS_PER_YEAR = {"Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}
"""Units per year of the DICOM VR AS (PS3.5 section 6.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NihRow:
    """One line of the label table."""

    file_name: str
    findings: frozenset[str]
    patient: str  # a number is padded to eight digits
    follow_up: int = 0
    age: float | None = None  # years
    sex: str = ""  # "M", "F" or ""
    view: str = ""  # "PA", "AP" or ""
    size_mm: tuple[float, float] | None = None  # height and width of the original film, mm; None where the table lacks them


@dataclass(frozen=True, slots=True)
class NihCollection:
    """Films of a folder: rows with a file, in the order of the table, and the counts of unmatched rows and files."""

    table: Path
    rows: Sequence[NihRow]
    files: Sequence[Path]
    without_file: int = 0
    without_row: int = 0
    lists: dict[str, frozenset[str]] = field(default_factory=dict)  # POOL_LIST, TEST_LIST -> file names; empty without lists


def find_table(folder: Path) -> Path | None:
    """Return the label table of a folder, in it or one level below; None where there is none."""
    for pattern in TABLE_PATTERNS:
        if found := sorted([*folder.glob(pattern), *folder.glob(f"*/{pattern}")]):
            return found[-1]
    return None


def read_collection(folder: Path) -> NihCollection:
    """Read table, files and lists of a folder. PermanentError where one of them is missing or invalid."""
    if not folder.is_dir():
        raise PermanentError(f"{folder} is no folder", hint="name the folder that holds the films and their label table")
    table = find_table(folder)
    if table is None:
        raise PermanentError(
            f"no label table in {folder}", hint="put Data_Entry_2017_v2020.csv (or its .gz, or labels.csv) into it"
        )
    rows, files = read_table(table), _find_pictures(folder)
    paired = [(row, files[row.file_name]) for row in rows if row.file_name in files]
    if not paired:
        raise PermanentError(
            f"none of the {len(rows)} films of {table.name} lies in {folder}", hint="unpack the images_*.tar.gz into it"
        )
    return NihCollection(
        table=table,
        rows=[row for row, _ in paired],
        files=[file for _, file in paired],
        without_file=len(rows) - len(paired),
        without_row=len(files) - len(paired),
        lists=_read_lists(folder),
    )


def read_table(path: Path) -> list[NihRow]:
    """Read a label table, plain or gzip. PermanentError with row, column and value for invalid or duplicate entries."""
    reader = csv.reader(_read_lines(path))
    columns = {name.strip(): place for place, name in reversed(list(enumerate(next(reader, []))))}
    if absent := [name for name in REQUIRED_COLUMNS if name not in columns]:
        raise PermanentError(
            f"{path.name} has no column {absent[0]!r}", hint=f"its first line must name {', '.join(REQUIRED_COLUMNS)}"
        )
    rows = [_parse_row(values, columns, f"{path.name}, line {reader.line_num}") for values in reader if any(values)]
    seen: set[str] = set()
    for row in rows:
        if row.file_name in seen:
            raise PermanentError(f"{path.name} lists {row.file_name} twice", hint="keep one of the two rows")
        seen.add(row.file_name)
    return rows


def _read_lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise PermanentError(f"{path} cannot be read as a table", hint="is it whole? it is UTF-8 text, plain or gzip") from error


def _parse_row(values: Sequence[str], columns: dict[str, int], place: str) -> NihRow:
    def cell(name: str) -> str:
        column = columns.get(name)
        return values[column].strip() if column is not None and column < len(values) else ""

    image, patient = cell(IMAGE), cell(PATIENT)
    if not image or not patient:
        raise PermanentError(f"{place}: no {IMAGE if not image else PATIENT}", hint="every row names a film and a patient")
    stem = FILE_STEM.match(Path(image).stem)
    follow_up = cell(FOLLOW_UP) or (stem.group(2) if stem else "0")
    return NihRow(
        file_name=image,
        findings=parse_findings(cell(LABELS), place),
        patient=patient.zfill(8) if patient.isdigit() else patient,
        follow_up=int(follow_up) if follow_up.isdigit() else 0,
        age=parse_age(cell(AGE)),
        sex=cell(SEX)[:1].upper() if cell(SEX)[:1].upper() in ("M", "F") else "",
        view=cell(VIEW).upper() if cell(VIEW).upper() in ("PA", "AP") else "",
        size_mm=_parse_size(values, columns),
    )


def parse_findings(text: str, place: str) -> frozenset[str]:
    """Return the findings of "A|B"; empty for "No Finding". PermanentError, naming `place`, for any other text."""
    named = [word.strip().replace(" ", "_") for word in text.split("|") if word.strip()]
    unknown = [word for word in named if word not in FINDINGS and word != NO_FINDING.replace(" ", "_")]
    if unknown or not named:
        raise PermanentError(
            f"{place}, column {LABELS!r}: {unknown[0] if unknown else 'nothing'} is no finding of ChestX-ray14",
            hint=f"write {NO_FINDING}, or findings joined by |: {', '.join(FINDINGS)}",
        )
    return frozenset(named) & frozenset(FINDINGS)


def format_findings(findings: frozenset[str]) -> str:
    """Return findings in the format of a label table: "A|B", or "No Finding"."""
    return "|".join(sorted(findings)) or NO_FINDING


def parse_age(text: str) -> float | None:
    """Return years for "58", "058Y", "011M"; None for an absent or unreadable age and one above OLDEST."""
    found = re.fullmatch(r"(\d{1,3})([YMWD]?)", text.strip().upper())
    if not found:
        return None
    years = int(found.group(1)) / UNITS_PER_YEAR[found.group(2) or "Y"]
    return years if years <= OLDEST else None


def _parse_size(values: Sequence[str], columns: dict[str, int]) -> tuple[float, float] | None:
    """Return height and width of the original in mm, from the four columns with commas in their names."""
    places = [columns.get(name) for name in ("OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]")]
    try:
        width, height, x, y = (float(values[place]) for place in places if place is not None)
    except (ValueError, IndexError):
        return None
    return (height * y, width * x) if min(width, height, x, y) > 0 else None


def _find_pictures(folder: Path) -> dict[str, Path]:
    """Return every picture by file name, recursively. PermanentError for the same name in two folders."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in PICTURE_SUFFIXES or path.name.startswith("."):
            continue
        if path.name in found:
            raise PermanentError(
                f"{path.name} lies in {found[path.name].parent.name} and in {path.parent.name}", hint="keep one of the two files"
            )
        found[path.name] = path
    return found


def _read_lists(folder: Path) -> dict[str, frozenset[str]]:
    """Return the official lists. PermanentError where only one of the two exists."""
    found = {name: path for name in (POOL_LIST, TEST_LIST) for path in (folder / name, *folder.glob(f"*/{name}")) if path.is_file()}
    if len(found) == 1:
        absent = TEST_LIST if POOL_LIST in found else POOL_LIST
        raise PermanentError(
            f"{folder} holds {next(iter(found))} but no {absent}", hint="put both official lists into it, or neither"
        )
    return {name: frozenset(path.read_text(encoding="utf-8").split()) for name, path in found.items()}
