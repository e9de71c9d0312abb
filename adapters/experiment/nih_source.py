"""ChestX-ray14 as a source: the official split where its lists are there, a split by patient else, and it says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adapters.datasets import nih
from adapters.datasets.pictures import read_picture
from adapters.experiment.sources import SPLIT_SEED, TEST_SHARE, Source, cases_of, labels_of
from adapters.ml.error_translation import in_the_pipelines_words
from models.evaluation.cases import Cases, Split
from models.experiment.splits import split_by_lists, split_by_patient
from pipeline.domain import Image

MINED = (
    "The labels of ChestX-ray14 were mined from report texts; films were re-read by radiologists with clearly lower agreement "
    "than its documentation states. An AUC on them measures agreement with the miner."
)
NOT_OFFICIAL = (
    "The official lists train_val_list.txt and test_list.txt were not there: patients were split by the hash of their number. "
    "These figures cannot be set beside any published on the official test list."
)


def nih_source(folder: Path) -> Source:
    """Return the films of a folder. Refused where it is no collection, or where a patient is on both official lists."""
    collection = nih.read_collection(folder)
    official = bool(collection.lists)
    listed = frozenset().union(*collection.lists.values())
    chosen = [place for place, row in enumerate(collection.rows) if not official or row.image in listed]
    rows, files = [collection.rows[place] for place in chosen], [collection.files[place] for place in chosen]
    cases = cases_of(
        key=[row.image for row in rows],
        patient=[row.patient for row in rows],
        labels=labels_of([row.findings for row in rows]),
        age=[row.age for row in rows],
        sex=[row.sex for row in rows],
        view=[row.view for row in rows],
    )

    def film(row: int) -> Image:
        return read_picture(files[row]).brightness

    def split(of: Cases) -> Split:
        with in_the_pipelines_words():
            if official:
                return split_by_lists(of, collection.lists[nih.POOL_LIST], collection.lists[nih.TEST_LIST])
            return split_by_patient(of, test_share=TEST_SHARE, seed=SPLIT_SEED)

    split(cases)  # a patient on both sides is said before hours of reading
    return Source(
        kind="nih",
        title=f"ChestX-ray14, {len(rows)} films of {len(np.unique(cases.patient))} patients, labels of {collection.table.name}",
        cases=cases,
        identity={"films": [[row.image, file.stat().st_size] for row, file in zip(rows, files, strict=True)]},
        film=film,
        split=split,
        split_words="official lists of ChestX-ray14" if official else f"by patient hash, {TEST_SHARE:.0%} of the patients tested",
        counts={
            "rows without a file": collection.without_file,
            "files without a row": collection.without_row,
            "films on neither list": len(collection.rows) - len(rows),
        },
        notes=(MINED,) if official else (MINED, NOT_OFFICIAL),
    )
