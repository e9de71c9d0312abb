"""ChestX-ray14 as DICOM studies: one object per film; the findings only in a table beside the files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adapters.datasets import nih
from adapters.datasets.picture_studies import study_from_row
from adapters.datasets.pictures import read_picture
from adapters.datasets.truth_table import STUDY_UID, TRUTH_FILE
from pipeline.errors import OutOfResources, PermanentError

COLUMNS = (STUDY_UID, nih.IMAGE, nih.LABELS)


class StudyArchive(Protocol):
    """Destination of studies: adapters.dicom.network.archive.DicomArchive."""

    def store(self, content: bytes) -> str:
        """Send one object and return the status. Raises where the object is not accepted."""


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """Counts of a conversion."""

    studies: int
    sent: int
    without_file: int
    without_row: int
    unreadable: tuple[str, ...]  # file names


def convert(
    folder: Path,
    out: Path,
    *,
    limit: int | None = None,
    size: int | None = None,
    archive: StudyArchive | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ConversionResult:
    """Write `out`/NIH-.../*.dcm and `out`/truth.csv; the result is deterministic.

    `size`: maximum of the longer edge, pixels; `archive`: receives every object as well; `on_progress`: called with the numbers of
    finished and of all films. PermanentError where the folder is not a collection, OutOfResources where `out` cannot be written;
    errors of the archive pass through.
    """
    collection = nih.read_collection(folder)
    total = len(collection.rows) if limit is None else min(limit, len(collection.rows))
    truth: list[tuple[str, str, str]] = []
    unreadable: list[str] = []
    for done, (row, file) in enumerate(zip(collection.rows[:total], collection.files[:total], strict=True), 1):
        try:
            picture = read_picture(file)
        except PermanentError:
            unreadable.append(file.name)
            continue
        finally:
            on_progress(done, total)
        study = study_from_row(row, picture.shrunk_to(size) if size else picture)
        content = study.instances[0].content
        _write_file(out / f"NIH-{row.patient}" / f"{Path(row.file_name).stem}.dcm", content)
        if archive is not None:
            archive.store(content)
        truth.append((study.study_instance_uid, row.file_name, nih.format_findings(row.findings)))
    _write_truth(out / TRUTH_FILE, truth)
    return ConversionResult(
        len(truth), len(truth) if archive else 0, collection.without_file, collection.without_row, tuple(unreadable)
    )


def _write_file(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise OutOfResources(f"cannot write below {path.parent.parent}: {error.strerror}", hint="choose another --out") from error


def _write_truth(path: Path, rows: list[tuple[str, str, str]]) -> None:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([COLUMNS, *rows])
    _write_file(path, table.getvalue().encode())
