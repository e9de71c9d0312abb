"""Folders of exports, and the removal of a patient from them.

OUT/dicom/PATIENT/STUDY/INSTANCE.dcm   images, by their pseudonyms
OUT/TABLE.csv, OUT/TABLE.parquet       rows with a column patient_id, the pseudonym
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from pipeline.errors import OutOfResources

IMAGES_FOLDER = "dicom"
PATIENT_COLUMN = "patient_id"


class FileExportFolders:
    """`ports.erasure.ExportFolders` on the file systems that this process sees."""

    def remove_patient(self, directory: str, pseudonym: str) -> bool:
        """Remove the patient's images and rows; return False where the folder is not there. OutOfResources."""
        root = Path(directory)
        if not root.is_dir():
            return False
        try:
            if (images := root / IMAGES_FOLDER / pseudonym).exists():
                shutil.rmtree(images)
            for table in sorted(root.glob("*.csv")):
                _filter_csv(table, pseudonym)
            for table in sorted(root.glob("*.parquet")):
                _filter_parquet(table, pseudonym)
        except OSError as error:
            raise OutOfResources(
                f"the export {directory} cannot be changed: {error.strerror}",
                hint="make it writable for radclipd, and forget again",
            ) from error
        return True


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
