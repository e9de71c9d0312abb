"""The pipeline on fakes: one object with every step, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pipeline import consensus, decisions, labels, learn, receive, report, rules, score, settle, work
from pipeline.domain import FINDINGS, DeliveryMode, Header, Job, JobKind, JobState, Receipt, Sender, Study
from pipeline.ports.services import CircuitPolicy
from tests.builders.fakes.catalog import FakeCatalog
from tests.builders.fakes.images import FakeDocuments, FakeImageReader, FakeImageStore
from tests.builders.fakes.models import FakeScorers, FakeTrainer
from tests.builders.fakes.reports import FakeArchive, FakeReportWriter
from tests.builders.fakes.versions import a_version

SENDER = Sender("ORTHANC", "127.0.0.1", "RADCLIPD")


class Hospital:
    """Catalog, image store, archive and workers of one installation, all fakes. `run` drives studies to their reports."""

    def __init__(self, *, serving: bool = True) -> None:
        self.catalog, self.images, self.archive = FakeCatalog(), FakeImageStore(), FakeArchive()
        self.pixels, self.writer, self.documents = FakeImageReader(), FakeReportWriter(), FakeDocuments()
        self.trainer, self.scorers = FakeTrainer(), FakeScorers()
        self.chest = rules.ChestPolicy()
        self.decision = decisions.DecisionPolicy(priors=dict.fromkeys(FINDINGS, 0.1))
        self.gate = rules.GatePolicy(promote="auto")
        self.reads_documents = True
        self.rescored_studies: Literal["all", "changed", "none"] = "changed"
        self.deliver, self.silent_share = DeliveryMode.ALL, 0.0
        self.backfill_reports: Literal["all", "none"] = "none"
        self.work = work.WorkPolicy(lease_seconds=60, max_attempts=3, retry_base_seconds=1, retry_cap_seconds=8)
        self.circuit = CircuitPolicy(threshold=2, open_seconds=30)
        self.idle_task: Callable[[], bool] = lambda: False
        if serving:
            with self.catalog.begin() as tx:
                tx.versions.add(a_version())

    def header(self, study: str = "1.1", sop: str = "1.1.1", **elements: object) -> Header:
        values: dict[str, object] = {
            "sop_class_uid": rules.DIGITAL_X_RAY_FOR_PRESENTATION,
            "series_instance_uid": f"{study}.9",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "modality": "DX",
            "body_part_examined": "CHEST",
            "view_position": "PA",
            "has_pixels": True,
            "patient_id": "P1",
        }
        values |= elements
        return Header(study_instance_uid=study, sop_instance_uid=sop, **values)  # type: ignore[arg-type]  # a row of a table

    def receive(self, header: Header, content: bytes | None = None) -> Receipt:
        return receive.receive(
            header,
            content or header.sop_instance_uid.encode(),
            SENDER,
            catalog=self.catalog,
            images=self.images,
            policy=receive.ReceivePolicy(min_free_bytes=1000, read_documents=self.reads_documents),
        )

    def settle(self, *, stable_age: float = 60, on_release: bool = False, ask_archive: bool = False) -> list[settle.SettleResult]:
        policy = settle.SettlePolicy(stable_age_seconds=stable_age, settle_on_release=on_release, chest=self.chest)
        settled = settle.settle(catalog=self.catalog, policy=policy)
        if ask_archive:
            counting = settle.CountPolicy(circuit=self.circuit)
            counts = settle.ArchiveCounts(catalog=self.catalog, archive=self.archive, policy=counting)
            settled += settle.settle_complete(catalog=self.catalog, counts=counts, policy=policy)
        return settled

    def worker_spec(self, kind: JobKind) -> work.WorkerSpec:
        match kind:
            case JobKind.SCORE:
                policy = score.ScorePolicy(
                    aggregate="max",
                    chest=self.chest,
                    rescored_studies=self.rescored_studies,
                    backfill_reports=self.backfill_reports,
                    decision=self.decision,
                    deliver=self.deliver,
                    silent_share=self.silent_share,
                )
                return work.WorkerSpec(
                    kind=kind,
                    claim_sizer=work.ClaimSizer(target_seconds=1.0, min_jobs=8, max_jobs=8),
                    step=lambda jobs: score.score(
                        jobs, catalog=self.catalog, pixels=self.pixels, scorers=self.scorers, policy=policy
                    ),
                    idle_task=self.idle_task,
                    prefer_newest=True,
                )
            case JobKind.REPORT:
                telling = report.ReportPolicy(decision=self.decision, deliver=self.deliver)
                step = work.per_job_step(
                    lambda job: report.report(job, catalog=self.catalog, images=self.images, writer=self.writer, policy=telling)
                )
                return work.WorkerSpec(kind=kind, step=step, prefer_newest=True)
            case JobKind.LABEL:
                return work.WorkerSpec(kind=kind, step=work.per_job_step(self._read_document))
            case JobKind.LEARN:
                return work.WorkerSpec(kind=kind, step=work.per_job_step(self._learn))
            case JobKind.SEND:
                return work.WorkerSpec(kind=kind, step=work.per_job_step(self._send), admit=self._admit)

    def _send(self, job: Job) -> None:
        report.send(
            job,
            catalog=self.catalog,
            images=self.images,
            archive=self.archive,
            circuit=self.circuit,
            deliver=self.deliver,
        )

    def _read_document(self, job: Job) -> None:
        labels.read_document(job, catalog=self.catalog, images=self.images, documents=self.documents)

    def _learn(self, job: Job) -> None:
        policy = learn.LearnPolicy(
            labels=consensus.LabelPolicy(), chest=self.chest, gate=self.gate, min_positives=1, unlabelled_studies=10
        )
        learn.learn_job(job, catalog=self.catalog, trainer=self.trainer, policy=policy, on_progress=self.trainer.watch)

    def _admit(self) -> bool:
        with self.catalog.begin() as tx:
            return tx.circuits.admit(self.archive.name, probe_seconds=10)

    def work_once(self, kind: JobKind) -> int:
        return work.work_once(self.worker_spec(kind), catalog=self.catalog, worker="w1", policy=self.work)

    def run(self) -> None:
        """Let received studies become stable, settle them, and work until no job is due."""
        self.catalog.tick(61)
        self.settle()
        while sum(self.work_once(kind) for kind in JobKind):
            pass

    def study(self, uid: str = "1.1") -> Study:
        with self.catalog.read() as tx:
            found = tx.studies.find(uid)
        assert found is not None
        return found

    def jobs(self, state: JobState) -> list[Job]:
        return [row.job for row in self.catalog.tables.jobs.values() if row.job.state is state]
