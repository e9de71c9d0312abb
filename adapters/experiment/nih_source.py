"""Source: ChestX-ray14, with the official split where its lists exist, otherwise a split by patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adapters.datasets import nih
from adapters.datasets.pictures import read_picture
from adapters.experiment.case_source import SPLIT_SEED, TEST_SHARE, CaseSource, build_cases, build_labels
from adapters.ml.error_translation import translate_model_errors
from models.evaluation.cases import Cases, Split
from models.experiment.splits import split_by_lists, split_by_patient
from pipeline.domain import Image

MINED_LABELS_NOTE = (
    "The labels of ChestX-ray14 were mined from report texts; films were re-read by radiologists with clearly lower agreement "
    "than its documentation states. An AUC on them measures agreement with the miner."
)
UNOFFICIAL_SPLIT_NOTE = (
    "The official lists train_val_list.txt and test_list.txt were not there: patients were split by the hash of their number. "
    "These figures cannot be set beside any published on the official test list."
)


def nih_source(folder: Path) -> CaseSource:
    """Return the films of a folder. PermanentError where it is not a collection, or a patient is on both official lists."""
    collection = nih.read_collection(folder)
    official = bool(collection.lists)
    listed = frozenset().union(*collection.lists.values())
    chosen = [index for index, row in enumerate(collection.rows) if not official or row.file_name in listed]
    rows, files = [collection.rows[index] for index in chosen], [collection.files[index] for index in chosen]
    cases = build_cases(
        key=[row.file_name for row in rows],
        patient=[row.patient for row in rows],
        labels=build_labels([row.findings for row in rows]),
        age=[row.age for row in rows],
        sex=[row.sex for row in rows],
        view=[row.view for row in rows],
    )

    def film(row: int) -> Image:
        return read_picture(files[row]).brightness

    def split(of: Cases) -> Split:
        with translate_model_errors():
            if official:
                return split_by_lists(of, collection.lists[nih.POOL_LIST], collection.lists[nih.TEST_LIST])
            return split_by_patient(of, test_share=TEST_SHARE, seed=SPLIT_SEED)

    split(cases)  # fails before hours of reading where a patient is on both sides
    return CaseSource(
        kind="nih",
        title=f"ChestX-ray14, {len(rows)} films of {len(np.unique(cases.patient))} patients, labels of {collection.table.name}",
        cases=cases,
        identity={"films": [[row.file_name, file.stat().st_size] for row, file in zip(rows, files, strict=True)]},
        film_keys=[_identify_file(file) for file in files],
        read_film=film,
        split=split,
        split_description="official lists of ChestX-ray14"
        if official
        else f"by patient hash, {TEST_SHARE:.0%} of the patients tested",
        left_out_counts={
            "rows without a file": collection.without_file,
            "files without a row": collection.without_row,
            "films on neither list": len(collection.rows) - len(rows),
        },
        notes=(MINED_LABELS_NOTE,) if official else (MINED_LABELS_NOTE, UNOFFICIAL_SPLIT_NOTE),
    )


def _identify_file(file: Path) -> str:
    """Return name, size and time of the last change: a film that is replaced is another film, a moved folder has the same films."""
    status = file.stat()
    return f"{file.name} {status.st_size} {status.st_mtime_ns}"
