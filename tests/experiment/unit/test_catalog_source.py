"""The catalog as a source: consensus labels, one frontal film per study, every patient on one side."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from adapters.catalog.catalog import SqlCatalog
from adapters.dicom.image import part10
from adapters.dicom.image.pixels import DicomImageReader
from adapters.experiment.case_source import CaseSource
from adapters.experiment.catalog_source import SELECTION_BIAS_NOTE, catalog_source
from adapters.storage.image_store import FileImageStore
from models.evaluation.cases import ABSENT, PRESENT, UNKNOWN
from pipeline import receive
from pipeline.consensus import LabelPolicy
from pipeline.domain import FINDINGS, Label, LabelState, Sender
from pipeline.errors import PermanentError
from pipeline.rules import ChestPolicy
from tests.builders.dicom_files import dx, file_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Place:
    """A catalog and an image store with films."""

    def __init__(self, catalog: SqlCatalog, folder: Path) -> None:
        self.catalog, self.images = catalog, FileImageStore(folder)

    def film(self, patient: str, **elements: Any) -> str:
        film: Dataset = dx(PatientID=patient, **elements)
        content = file_of(film)
        header = part10.read_header(*part10.split_file(content))
        policy = receive.ReceivePolicy(min_free_bytes=0)
        receive.receive(header, content, Sender("A", "127.0.0.1", "B"), catalog=self.catalog, images=self.images, policy=policy)
        return str(film.StudyInstanceUID)

    def say(self, study: str, finding: str, state: LabelState, *, reader: str = "alice", later: int = 0) -> None:
        stated = NOON + timedelta(minutes=later)
        said = Label(study_instance_uid=study, finding=finding, state=state, reader=reader, source="csv", stated_at=stated)
        with self.catalog.begin() as transaction:
            transaction.labels.append([said])

    def source(self, policy: LabelPolicy | None = None) -> CaseSource:
        reader = DicomImageReader(self.images)
        return catalog_source(self.catalog, reader, chest=ChestPolicy(), labels=policy or LabelPolicy())


@pytest.fixture
def place(sqlite_template: Path, tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "catalog.db").write_bytes(sqlite_template.read_bytes())
    catalog = SqlCatalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    yield Place(catalog, tmp_path / "images")
    catalog.dispose()


def of(source: CaseSource, study: str, finding: str) -> int:
    row = source.cases.key.tolist().index(study)
    return int(source.cases.labels[row, FINDINGS.index(finding)])


def test_the_newest_label_counts_and_uncertain_is_unknown(place: Place) -> None:
    one, two = place.film("P1"), place.film("P2", ViewPosition="AP", PatientAge="061Y", PatientSex="M")
    place.say(one, "Mass", LabelState.ABSENT, later=5)
    place.say(one, "Mass", LabelState.PRESENT, reader="bob", later=1)
    place.say(one, "Hernia", LabelState.PRESENT)
    place.say(two, "Mass", LabelState.PRESENT)
    place.say(two, "Hernia", LabelState.UNCERTAIN)
    source = place.source()
    assert [of(source, one, "Mass"), of(source, one, "Hernia"), of(source, one, "Edema")] == [ABSENT, PRESENT, UNKNOWN]
    assert [of(source, two, "Mass"), of(source, two, "Hernia")] == [PRESENT, UNKNOWN]
    row = source.cases.key.tolist().index(two)
    assert (source.cases.age[row], source.cases.sex[row], source.cases.view[row]) == (61, "M", "AP")
    assert source.notes == (SELECTION_BIAS_NOTE,)


def test_the_configured_policy_resolves_disagreements(place: Place) -> None:
    study = place.film("P1")
    place.say(study, "Edema", LabelState.PRESENT)
    for minute, (reader, state) in enumerate((("a", LabelState.PRESENT), ("b", LabelState.PRESENT), ("c", LabelState.ABSENT))):
        place.say(study, "Mass", state, reader=reader, later=minute)
    assert of(place.source(), study, "Mass") == ABSENT
    assert of(place.source(LabelPolicy(policy="majority")), study, "Mass") == PRESENT


def test_films_are_decoded_and_studies_without_a_frontal_film_are_counted(place: Place) -> None:
    chest, knee, dark = place.film("P1"), place.film("P2", BodyPartExamined="KNEE"), place.film("P3")
    for study in (chest, knee):
        place.say(study, "Mass", LabelState.PRESENT)
    place.say(dark, "Mass", LabelState.UNCERTAIN)
    source = place.source()
    assert source.cases.key.tolist() == [chest]
    assert source.left_out_counts == {"labelled studies without a frontal film": 1}
    film = source.read_film(0)
    assert film.shape == (40, 32)
    assert film.dtype == np.float32
    assert film[-1, -1] > 0.95


def test_every_patient_is_on_one_side_whatever_the_patient_id(place: Place) -> None:
    for number in range(40):
        study = place.film(f"P{number % 20}", SeriesNumber=number + 1)
        place.say(study, "Mass", LabelState.PRESENT if number % 3 else LabelState.ABSENT)
    source = place.source()
    cases = source.cases
    split = source.split(cases)
    assert not set(cases.patient[split.pool]) & set(cases.patient[split.test])
    assert len(split.pool) + len(split.test) == 40
    assert not {"P1", "P2"} & set(source.identity["films"])


def test_a_new_study_changes_the_fingerprint(place: Place) -> None:
    place.say(place.film("P1"), "Mass", LabelState.PRESENT)
    before = place.source().fingerprint
    place.say(place.film("P2"), "Mass", LabelState.ABSENT)
    assert place.source().fingerprint != before


def test_a_catalog_without_labels_is_refused(place: Place) -> None:
    place.film("P1")
    with pytest.raises(PermanentError, match="no study of this catalog has both a label and a frontal film"):
        place.source()
