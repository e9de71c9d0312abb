"""What a reader has said leaves as an SR of a person, and is read as that reader's statements."""

from __future__ import annotations

import socket
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.dicom.image import part10
from adapters.dicom.sr.document import ReportSettings
from adapters.dicom.sr.label_reader import DicomDocumentReader, DocumentSettings
from adapters.dicom.sr.reader_document import ReaderSrWriter
from adapters.storage.image_store import FileImageStore
from pipeline import rules
from pipeline.domain import FINDINGS, LabelState, ReaderDocument, ReportState, StoredInstance
from pipeline.errors import ReportImpossible
from tests.builders.dicom_files import dx, file_of

NOON = datetime(2026, 5, 4, 12, 30, 15, 250_000, tzinfo=UTC)
STATES = dict.fromkeys(FINDINGS, LabelState.ABSENT) | {"Mass": LabelState.PRESENT, "Edema": LabelState.UNCERTAIN}


@pytest.fixture
def store(tmp_path: Path) -> FileImageStore:
    return FileImageStore(tmp_path)


def store_film(store: FileImageStore, film: Dataset) -> StoredInstance:
    content = file_of(film)
    return StoredInstance(part10.read_header(*part10.split_file(content)), store.write(content), NOON)


def a_document(film: Dataset, **changes: object) -> ReaderDocument:
    values: dict[str, object] = {
        "sop_instance_uid": "2.25.7",
        "study_instance_uid": str(film.StudyInstanceUID),
        "reader": "山田.太郎",
        "states": STATES,
        "points": {"Mass": (12.5, 7.0)},
        "comment": "",
        "stated_at": NOON,
        "state": ReportState.PENDING,
    }
    return ReaderDocument(**(values | changes))  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize("sop_class", ["comprehensive-3d", "comprehensive", "enhanced"])
def test_a_document_is_read_as_the_statements_of_its_reader(sop_class: str, store: FileImageStore) -> None:
    film = dx()
    content = ReaderSrWriter(ReportSettings(sop_class=sop_class), store).write_document(a_document(film), [store_film(store, film)])
    [reading] = DicomDocumentReader(DocumentSettings()).read(content).readings
    assert (reading.reader, reading.findings, reading.stated_at) == ("山田.太郎", STATES, NOON)
    assert reading.study_instance_uid == film.StudyInstanceUID
    header = part10.read_header(*part10.split_file(content))
    assert rules.may_hold_labels(header)
    assert not rules.is_own_object(header)


def test_a_document_names_person_patient_place_and_predecessor(store: FileImageStore) -> None:
    film = dx()
    document = a_document(film, predecessor="2.25.6", comment="old scar", reader="alice")
    content = ReaderSrWriter(ReportSettings(uid_root="1.2.3"), store).write_document(document, [store_film(store, film)])
    written = dcmread(BytesIO(content))
    assert (written.PatientID, written.SOPInstanceUID, written.VerificationFlag) == ("T-1", "2.25.7", "UNVERIFIED")
    assert written.SeriesInstanceUID.startswith("1.2.3.")
    named = written.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert (named.SeriesInstanceUID, named.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) == (
        written.SeriesInstanceUID,
        "2.25.6",
    )
    told = written.to_json()
    assert '"POINT"' in told
    assert "12.5" in told
    assert "old scar" in told
    assert socket.gethostname() not in told
    assert "Algorithm" not in told


def test_nothing_said_is_no_document(store: FileImageStore) -> None:
    film = dx()
    document, writer = a_document(film), ReaderSrWriter(ReportSettings(), store)
    for said, films in ((document, []), (replace(document, states={}), [store_film(store, film)])):
        with pytest.raises(ReportImpossible, match="no frontal film"):
            writer.write_document(said, films)
