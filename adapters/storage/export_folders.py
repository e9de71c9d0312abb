"""Folders of exports: their writing, and the removal of a patient from them.

OUT/dicom/PATIENT/STUDY/INSTANCE.dcm   images, by their pseudonyms
OUT/TABLE.csv, OUT/TABLE.parquet       rows with a column patient_id, the pseudonym
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import OutOfResources, PermanentError
from pipeline.export import TABLES

IMAGES_FOLDER = "dicom"
PATIENT_COLUMN = "patient_id"


class FileExportWriter:
    """`pipeline.export.ExportWriter`: a new folder. Tables are CSV, and Parquet where that is wanted."""

    def __init__(self, root: Path, *, parquet: bool = False) -> None:
        """Make the folder. PermanentError where it holds anything; OutOfResources."""
        self._root, self._parquet = root.absolute(), parquet
        with _translate_errors(str(root)):
            self._root.mkdir(mode=0o750, parents=True, exist_ok=True)
            if any(self._root.iterdir()):
                raise PermanentError(f"the folder {root} is not empty", hint="name a new folder: an export is made anew")

    @property
    def directory(self) -> str:
        """Its absolute path."""
        return str(self._root)

    def write_image(self, patient: str, study: str, instance: str, content: bytes) -> str:
        path = Path(IMAGES_FOLDER) / patient / study / f"{instance}.dcm"
        with _translate_errors(self.directory):
            (self._root / path).parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            part = self._root / f"{path}.part"
            part.write_bytes(content)
            part.replace(self._root / path)
        return str(path)

    def write_tables(self, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        with _translate_errors(self.directory):
            for name, rows in tables.items():
                self._write_csv(name, rows)
                if self._parquet:
                    self._write_parquet(name, rows)

    def _write_csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        with (self._root / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, TABLES[name], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def _write_parquet(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({column: [row[column] for row in rows] for column in TABLES[name]})
        pyarrow.parquet.write_table(table, self._root / f"{name}.parquet")


class FileExportFolders:
    """`ports.erasure.ExportFolders` on the file systems that this process sees."""

    def remove_patient(self, directory: str, pseudonym: str) -> bool:
        """Remove the patient's images and rows; return False where the folder is not there. OutOfResources."""
        root = Path(directory)
        if not root.is_dir():
            return False
        with _translate_errors(directory):
            if (images := root / IMAGES_FOLDER / pseudonym).exists():
                shutil.rmtree(images)
            for table in sorted(root.glob("*.csv")):
                _filter_csv(table, pseudonym)
            for table in sorted(root.glob("*.parquet")):
                _filter_parquet(table, pseudonym)
        return True


@contextmanager
def _translate_errors(directory: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutOfResources(
            f"the export {directory} cannot be written: {error.strerror}", hint="make room, and the folder writable for radclipd"
        ) from error


def _filter_csv(path: Path, pseudonym: str) -> None:
    part = path.with_name(f"{path.name}.part")
    with path.open(newline="", encoding="utf-8") as source, part.open("w", newline="", encoding="utf-8") as target:
        reader = csv.DictReader(source)
        writer = csv.DictWriter(target, reader.fieldnames or (), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in reader if row.get(PATIENT_COLUMN) != pseudonym)
    part.replace(path)


def _filter_parquet(path: Path, pseudonym: str) -> None:
    import pyarrow.compute
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    kept = table.filter(pyarrow.compute.not_equal(table.column(PATIENT_COLUMN), pseudonym))
    part = path.with_name(f"{path.name}.part")
    pyarrow.parquet.write_table(kept, part)
    part.replace(path)
