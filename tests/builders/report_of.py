"""SRs of given images, by the product's writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from adapters.dicom.image import part10
from adapters.dicom.sr.writer import ReportSettings, SrWriter
from pipeline import decisions
from pipeline.domain import ModelVersion, StoredInstance, Study, StudyState
from pipeline.messages import load_messages
from pipeline.ports.services import ReportContent
from pipeline.statements import tell_study
from tests.builders.dicom_files import file_of
from tests.builders.fakes.images import FakeImageStore
from tests.builders.fakes.versions import a_version

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_card_version(**changes: Any) -> ModelVersion:
    card = {"preprocess": {"fingerprint": "p" * 16}, "prompts": {"fingerprint": "q" * 16}}
    return a_version(weights_sha256="ab" * 32, card=card, **changes)


def stored(store: FakeImageStore, content: bytes) -> StoredInstance:
    return StoredInstance(part10.read_header(*part10.split_file(content)), store.write(content), NOW)


def content_of(
    films: Sequence[bytes], store: FakeImageStore, writer: SrWriter, version: ModelVersion, revision: int = 1
) -> ReportContent:
    evidence = [stored(store, film) for film in films]
    study_uid = evidence[0].header.study_instance_uid
    scores = [0.97, 0.52, *[0.03 * n for n in range(12)]]
    predictions = decisions.predict_study(scores, version)  # type: ignore[arg-type]  # any 14 numbers
    return ReportContent(
        report=writer.pending_report(study_uid, version.number, revision),
        study=Study(
            study_instance_uid=study_uid,
            state=StudyState.SCORED,
            revision=revision,
            received_at=NOW,
            last_received_at=NOW,
        ),
        version=version,
        predictions=predictions,
        statement=tell_study(predictions, version, None, load_messages()),
        evidence=evidence,
    )


def report_on(*films: Dataset | bytes, version: ModelVersion | None = None, follows: bool = False, **settings: Any) -> FileDataset:
    """Build the SR of images of one study and read it back; `follows`: as a second revision that names the first."""
    store = FakeImageStore()
    writer = SrWriter(ReportSettings(**settings), store)
    contents = [film if isinstance(film, bytes) else file_of(film) for film in films]
    version = version or a_card_version()
    content = content_of(contents, store, writer, version, revision=2 if follows else 1)
    if follows:
        before = writer.pending_report(content.study.study_instance_uid, version.number, 1)
        content = replace(content, predecessor=before)
    return dcmread(BytesIO(writer.write(content)))
