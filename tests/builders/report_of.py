"""SRs of given images, by the product's writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from adapters.dicom.image import part10
from adapters.dicom.image.pixels import DicomImageReader
from adapters.dicom.sr.document import ReportSettings
from adapters.dicom.sr.writer import SrWriter
from pipeline import decisions
from pipeline.domain import (
    FINDINGS,
    ModelVersion,
    Prediction,
    ReferenceDistribution,
    Scale,
    StoredInstance,
    Study,
    StudyState,
    VisibleKind,
)
from pipeline.messages import load_messages
from pipeline.ports.services import ReportContent
from pipeline.statements import tell_study
from tests.builders.dicom_files import file_of
from tests.builders.fakes.images import FakeImageStore
from tests.builders.fakes.versions import a_version

NOW = datetime(2026, 1, 1, tzinfo=UTC)


SCORES = (0.97, 0.52, *(0.03 * n for n in range(12)))
"""Of the 14 findings."""
LEARNT = dict.fromkeys(FINDINGS, Scale.PROBABILITY)
"""Scales of a version that has learnt every finding."""


def a_card_version(**changes: Any) -> ModelVersion:
    card = {"preprocess": {"fingerprint": "p" * 16}, "prompts": {"fingerprint": "q" * 16}}
    return a_version(weights_sha256="ab" * 32, card=card, **{"scales": {}, **changes})


def stored(store: FakeImageStore, content: bytes) -> StoredInstance:
    return StoredInstance(part10.read_header(*part10.split_file(content)), store.write(content), NOW)


def a_reference(version: ModelVersion, studies: int = 200) -> ReferenceDistribution:
    """A reference distribution of evenly spaced scores: the percentile of a score is the score."""
    even = np.linspace(0, 1, studies, dtype=np.float32)
    return ReferenceDistribution(
        number=3,
        version=version.number,
        studies=studies,
        made_at=NOW,
        scores={decisions.ALL_VIEWS: np.stack([even] * len(FINDINGS), axis=1)},
        priors=dict.fromkeys(FINDINGS, 0.05),
        call_rates=dict.fromkeys(FINDINGS, 0.05),
        separation=decisions.DecisionPolicy().separation,
    )


def told_of(content: ReportContent, predictions: Sequence[Prediction], language: str = "en") -> ReportContent:
    """The content with other predictions, told in this language."""
    reference = a_reference(content.version)
    statement = tell_study(predictions, content.version, reference, load_messages(language))
    return replace(content, predictions=predictions, statement=statement)


def content_of(
    films: Sequence[bytes],
    store: FakeImageStore,
    writer: SrWriter,
    version: ModelVersion,
    revision: int = 1,
    *,
    scores: Sequence[float] = SCORES,
    has_reference: bool = True,
) -> ReportContent:
    evidence = [stored(store, film) for film in films]
    study_uid = evidence[0].header.study_instance_uid
    reference = a_reference(version) if has_reference else None
    predictions = decisions.predict_study(np.array(scores, dtype=np.float32), version, reference)
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
        statement=tell_study(predictions, version, reference, load_messages()),
        evidence=evidence,
    )


def report_on(
    *films: Dataset | bytes,
    version: ModelVersion | None = None,
    follows: bool = False,
    has_reference: bool = True,
    **settings: Any,
) -> FileDataset:
    """Build the SR of images of one study and read it back; `follows`: as a second revision that names the first."""
    store = FakeImageStore()
    writer = SrWriter(ReportSettings(**settings), store)
    content = _content_on(films, store, writer, version, follows=follows, has_reference=has_reference)
    return dcmread(BytesIO(writer.write(content)))


def visible_on(
    *films: Dataset | bytes,
    kind: VisibleKind = VisibleKind.TEXT,
    version: ModelVersion | None = None,
    follows: bool = False,
    has_reference: bool = True,
    language: str = "en",
    **settings: Any,
) -> FileDataset:
    """Build a visible object of the same report and read it back."""
    store = FakeImageStore()
    writer = SrWriter(ReportSettings(visible=(kind,), **settings), store, DicomImageReader(store))
    content = _content_on(films, store, writer, version, follows=follows, has_reference=has_reference)
    content = told_of(content, content.predictions, language) if language != "en" else content
    (visible,) = writer.pending_visible(content)
    before = None
    if content.predecessor is not None:
        (before,) = writer.pending_visible(replace(content, report=content.predecessor))
    return dcmread(BytesIO(writer.write_visible(content, visible, before)))


def _content_on(
    films: Sequence[Dataset | bytes],
    store: FakeImageStore,
    writer: SrWriter,
    version: ModelVersion | None,
    *,
    follows: bool,
    has_reference: bool,
) -> ReportContent:
    contents = [film if isinstance(film, bytes) else file_of(film) for film in films]
    version = version or a_card_version()
    content = content_of(contents, store, writer, version, revision=2 if follows else 1, has_reference=has_reference)
    before = writer.pending_report(content.study.study_instance_uid, version.number, 1) if follows else None
    return replace(content, predecessor=before)
