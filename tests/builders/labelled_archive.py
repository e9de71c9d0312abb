"""An archive of sixteen DICOM instances, of which every other shows an effusion, and a reader's labels of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import numpy as np

from adapters.catalog.catalog import SqlCatalog
from adapters.storage.image_store import FileImageStore
from pipeline.domain import Header, Label, LabelState, Sender, StudyState
from tests.builders.dicom_files import dx, file_of, pixels

STUDIES = 16
SENDER = Sender("PACS", "127.0.0.1", "RADCLIPD")


def fill(catalog: SqlCatalog, images: FileImageStore) -> None:
    """Add the instances to the catalog and the store, their studies as reported."""
    for number in range(STUDIES):
        reported_film(catalog, images, number, effusion=number % 2 == 0)


def reported_film(catalog: SqlCatalog, images: FileImageStore, number: int, *, effusion: bool) -> None:
    """Add one instance, its study as reported."""
    film = np.random.default_rng(number).integers(1200, 1800, size=(64, 64))
    if effusion:
        film[40:60, 4:24] += 2000
    made = dx(StudyInstanceUID=f"1.2.{number}", SOPInstanceUID=f"1.2.{number}.1", PatientID=f"P{number}")
    pixels(made, film, bits=12)
    header = Header(
        study_instance_uid=made.StudyInstanceUID,
        sop_instance_uid=made.SOPInstanceUID,
        series_instance_uid=made.SeriesInstanceUID,
        sop_class_uid=made.SOPClassUID,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        patient_id=made.PatientID,
        view_position="PA",
        body_part_examined="CHEST",
        has_pixels=True,
    )
    with catalog.begin() as tx:
        tx.studies.add_instance(header, images.write(file_of(made)), SENDER, opens_study=True)
        tx.studies.put_state(header.study_instance_uid, StudyState.REPORTED)


def label(url: str) -> None:
    """Add a reader's label for each study."""
    catalog = SqlCatalog(url)
    with catalog.begin() as tx:
        tx.labels.append(statements("Effusion", {f"1.2.{number}": number % 2 == 0 for number in range(STUDIES)}, tx.now()))
    catalog.dispose()


def statements(finding: str, shows: Mapping[str, bool], stated_at: datetime) -> list[Label]:
    """Return alice's labels on whether studies show the finding."""
    return [
        Label(
            study_instance_uid=study,
            finding=finding,
            state=LabelState.PRESENT if shown else LabelState.ABSENT,
            reader="alice",
            source="test",
            stated_at=stated_at,
        )
        for study, shown in shows.items()
    ]
