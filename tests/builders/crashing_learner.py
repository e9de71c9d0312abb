"""The slow loop as scenes of `crashing`: real catalog, model store and version files; only the training is a stub."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.engine import database_url
from adapters.ml.scorer import read_version_weights
from adapters.ml.trainer import ClipCandidate
from adapters.storage.model_store import ModelStore
from models.classifier.head import LinearHead
from models.classifier.version_weights import VersionWeights
from pipeline import learn, report, rescore, rules, score, versions, work
from pipeline.consensus import LabelPolicy
from pipeline.domain import (
    FINDINGS,
    Comparison,
    Header,
    Job,
    JobKind,
    ModelVersion,
    Sender,
    StoredFile,
    StudyState,
    TrainingSet,
    VersionState,
)
from pipeline.errors import PermanentError
from pipeline.ports.services import CircuitPolicy, StageCallback
from pipeline.preemption import Preemption
from pipeline.progress import JobProgress, chain_callbacks
from tests.builders.crashing import Countdown, CrashingPipeline, prepare
from tests.builders.fakes.images import FakeImageReader
from tests.builders.fakes.models import FakeScorers
from tests.builders.fakes.reports import FakeReportWriter
from tests.builders.fakes.versions import a_version
from tests.builders.labelled_archive import statements

LABELLED = 8
STUDY = "1.1"
"""The study with two images that is scored and reported; the other studies are only labelled."""
NO_EXPIRY = work.WorkPolicy(lease_seconds=600)
"""Leases do not expire by themselves, however busy the machine; see `expire_leases`."""


class StubTrainer:
    """ports.services.Trainer: three steps, then an untrained head with a comparison that passes the gate."""

    def __init__(self, store: ModelStore, countdown: Countdown) -> None:
        self._store, self._countdown = store, countdown

    def train(self, training_set: TrainingSet, on_progress: StageCallback) -> ClipCandidate:
        for step in (1, 2, 3):
            on_progress("unfreezing", step, 3)
            self._countdown.tick()
        better = Comparison(
            against="zero-shot",
            cases=9,
            patients=9,
            candidate=0.8,
            other=0.7,
            lower=0.05,
            upper=0.15,
            better=0.99,
            not_inferior=0.99,
        )
        head = LinearHead(torch.ones(len(FINDINGS), 4), torch.ones(len(FINDINGS)), torch.zeros(len(FINDINGS)))
        learning = {"newest_label": training_set.newest_label_id}
        row = a_version(0, VersionState.CANDIDATE, label_fingerprint=training_set.label_fingerprint, card={"learning": learning})
        row = replace(row, device_uid="2.25.77", thresholds=dict.fromkeys(FINDINGS, 2.0))
        return ClipCandidate((better,), (), self._store, VersionWeights(head), row)


class CrashingSlowLoop(CrashingPipeline):
    """Learning, promotion, rollback and rescoring as scenes."""

    def __init__(self, folder: Path, url: str, countdown: Countdown) -> None:
        super().__init__(folder, url, countdown)
        self.store = ModelStore(folder / "models")
        self.trainer = StubTrainer(self.store, countdown)

    def play(self, scene: str) -> str:
        if scene in ("promote", "rollback"):
            return self._decide(scene)
        if scene == "rescore":
            rescore.rescore(catalog=self.catalog)
        return self.work_until_idle(NO_EXPIRY)

    def _decide(self, verb: str) -> str:
        verify = partial(_verify_weights, self.store.root)
        try:
            if verb == "promote":
                versions.promote(2, catalog=self.catalog, verify=verify, source="test")
            else:
                versions.rollback(reason="odd", catalog=self.catalog, verify=verify, source="test")
        except PermanentError:
            return "refused"
        return "done"

    def steps(self) -> dict[JobKind, work.BatchStep]:
        scoring = score.ScorePolicy(aggregate="max", chest=self.chest, rescored_studies="all")
        step = partial(score.score, catalog=self.catalog, pixels=FakeImageReader(), scorers=FakeScorers(), policy=scoring)
        per_job: dict[JobKind, Callable[[Job], None]] = {
            JobKind.REPORT: partial(
                report.report,
                catalog=self.catalog,
                images=self.images,
                writer=FakeReportWriter(),
                policy=report.ReportPolicy(),
            ),
            JobKind.SEND: partial(
                report.send, catalog=self.catalog, images=self.images, archive=self.archive, circuit=CircuitPolicy()
            ),
            JobKind.LEARN: self._learn,
        }
        batch_steps: dict[JobKind, work.BatchStep] = {
            kind: work.per_job_step(step_of_kind) for kind, step_of_kind in per_job.items()
        }
        return {JobKind.SCORE: step} | batch_steps

    def _learn(self, job: Job) -> None:
        on_progress = chain_callbacks(JobProgress(job, catalog=self.catalog), Preemption(catalog=self.catalog))
        policy = learn.LearnPolicy(
            labels=LabelPolicy(),
            chest=self.chest,
            gate=rules.GatePolicy(min_patients=2, promote="auto" if (self.store.root / "auto").exists() else "manual"),
            min_positives=1,
            unlabelled_studies=2,
        )
        learn.learn_job(job, catalog=self.catalog, trainer=self.trainer, policy=policy, on_progress=on_progress)


def _verify_weights(root: Path, version: ModelVersion) -> object:
    return read_version_weights(version, root) if version.number > 1 else None


def build_installation(folder: Path, *, auto: bool = True) -> str:
    """Build an installation with a reported STUDY, other labelled studies and a LEARN job that waits; return its catalog URL."""
    url = f"sqlite:///{folder / 'catalog.db'}"
    prepare(url)
    (folder / "models").mkdir()
    if auto:
        (folder / "models" / "auto").touch()
    catalog = SqlCatalog(url)
    with catalog.begin() as tx:
        for header in _make_headers():
            file = StoredFile(f"{header.sop_instance_uid}.dcm", f"{len(header.sop_instance_uid):064x}", 1)
            tx.studies.add_instance(header, file, Sender("PACS", "h", "US"), opens_study=True)
            state = StudyState.SETTLED if header.study_instance_uid == STUDY else StudyState.IGNORED
            tx.studies.put_state(header.study_instance_uid, state, reason="labelled only" if state is StudyState.IGNORED else "")
        tx.labels.append(statements("Mass", {f"2.{number}": number % 2 == 1 for number in range(LABELLED)}, tx.now()))
        tx.jobs.put(JobKind.SCORE, STUDY)
    CrashingSlowLoop(folder, url, Countdown(0)).work_until_idle(NO_EXPIRY)
    assert learn.enqueue_learning(catalog=catalog, min_new_labels=LABELLED)
    catalog.dispose()
    return url


def _make_headers() -> Iterable[Header]:
    for study, images in {STUDY: 2, **{f"2.{number}": 1 for number in range(LABELLED)}}.items():
        for number in range(images):
            yield Header(
                sop_instance_uid=f"{study}.{number}",
                sop_class_uid=rules.DIGITAL_X_RAY_FOR_PRESENTATION,
                series_instance_uid=f"{study}.9",
                study_instance_uid=study,
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                patient_id=f"P{study}",
                view_position="PA",
                body_part_examined="CHEST",
                has_pixels=True,
            )


def expire_leases(url: str) -> None:
    """Expire the leases of all running jobs, as time does for a dead worker."""
    with closing(sqlite3.connect(str(database_url(url).database))) as connection, connection:
        connection.execute("UPDATE jobs SET lease_until = '2000-01-01 00:00:00.000+00:00' WHERE state = 'running'")
