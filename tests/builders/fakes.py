"""Fakes of the ports: small, in memory, held to the same contract tests as the real adapters."""

from __future__ import annotations

import copy
import hashlib
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np

from pipeline import rules
from pipeline.domain import (
    ARRIVAL_PRIORITY,
    FINDINGS,
    AuditEvent,
    Comparison,
    Document,
    Header,
    Image,
    Job,
    JobKind,
    JobState,
    Label,
    ModelVersion,
    Prediction,
    Report,
    ReportState,
    Request,
    Scores,
    Sender,
    StoredFile,
    StoredInstance,
    Study,
    StudyState,
    TrainingSet,
    VersionState,
)
from pipeline.errors import ArchiveUnreachable, LeaseLost, PermanentError, PixelsUnreadable
from pipeline.ports.images import DecoderTransform, DeviceTransfer, ImageReader, ModelInput, copy_to_host, read_whole_image
from pipeline.ports.jobs import SubjectFilter
from pipeline.ports.services import (
    Archive,
    Buffer,
    Catalog,
    DocumentReader,
    ImageStore,
    ReportContent,
    ReportWriter,
    Scorer,
    Scorers,
    StageCallback,
    Trainer,
    Transaction,
)
from tests.builders.fake_backfills import BackfillRows, FakeBackfills


@dataclass
class _JobRow:
    job: Job
    lease_until: datetime | None = None
    finished_at: datetime | None = None


@dataclass
class _Tables:
    """All rows. A transaction works on a copy and puts it back when it commits."""

    studies: dict[str, Study] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    instances: dict[str, StoredInstance] = field(default_factory=dict)
    scores: dict[tuple[str, int], Scores] = field(default_factory=dict)
    predictions: dict[tuple[str, int], list[Prediction]] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    versions: dict[int, ModelVersion] = field(default_factory=dict)
    retired: list[int] = field(default_factory=list)  # versions in the order in which they ceased to serve
    jobs: dict[int, _JobRow] = field(default_factory=dict)
    circuits: dict[str, tuple[int, datetime | None]] = field(default_factory=dict)
    audit: list[AuditEvent] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    requests: dict[str, Request] = field(default_factory=dict)
    backfills: BackfillRows = field(default_factory=BackfillRows)


class FakeCatalog:
    """ports.Catalog with a clock that tests turn."""

    def __init__(self) -> None:
        self.tables = _Tables()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.committed = 0
        self.fail_next_commit: Exception | None = None
        self._lock = threading.RLock()

    def tick(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        with self._lock:
            work = copy.deepcopy(self.tables)
            yield FakeTransaction(work, lambda: self.now)
            if self.fail_next_commit:
                error, self.fail_next_commit = self.fail_next_commit, None
                raise error
            self.tables = work
            self.committed += 1

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        with self._lock:
            yield FakeTransaction(copy.deepcopy(self.tables), lambda: self.now)


class FakeTransaction:
    def __init__(self, tables: _Tables, now: Callable[[], datetime]) -> None:
        self._tables = tables
        self.studies = FakeStudies(tables, now)
        self.scores = FakeScoreRows(tables)
        self.reports = FakeReports(tables)
        self.versions = FakeVersions(tables)
        self.jobs = FakeJobs(tables, now)
        self.circuits = FakeCircuits(tables, now)
        self.labels = FakeLabels(tables)
        self.requests = FakeRequests(tables)
        self.backfills = FakeBackfills(tables.backfills, tables.studies, now)
        self.now = now

    def audit(self, event: AuditEvent) -> None:
        self._tables.audit.append(event)


class FakeStudies:
    def __init__(self, tables: _Tables, now: Callable[[], datetime]) -> None:
        self._t, self._now = tables, now

    def find_instance(self, sop_instance_uid: str) -> StoredInstance | None:
        return self._t.instances.get(sop_instance_uid)

    def add_instance(self, header: Header, file: StoredFile, sender: Sender, *, opens_study: bool) -> None:
        if header.sop_instance_uid in self._t.instances:
            raise ValueError("instance exists")
        uid, now = header.study_instance_uid, self._now()
        known = self._t.studies.get(uid)
        if known is None:
            known = Study(study_instance_uid=uid, state=StudyState.ARRIVING, received_at=now, last_received_at=now)
        state, reason = (StudyState.ARRIVING, "") if opens_study else (known.state, known.reason)
        self._t.studies[uid] = replace(
            known,
            state=state,
            reason=reason,
            instances=known.instances + 1,
            last_received_at=now,
            accession_number=known.accession_number or header.accession_number,
            study_date=known.study_date or header.study_date,
            patient_key=known.patient_key or header.patient_key,
        )
        self._t.instances[header.sop_instance_uid] = StoredInstance(header, file, now)
        self._t.released.discard(uid)

    def find(self, study_instance_uid: str) -> Study | None:
        return self._t.studies.get(study_instance_uid)

    def lock(self, study_instance_uids: Collection[str]) -> dict[str, Study]:
        return {uid: self._t.studies[uid] for uid in sorted(study_instance_uids) if uid in self._t.studies}

    def instances(self, study_instance_uid: str) -> list[StoredInstance]:
        found = [i for i in self._t.instances.values() if i.header.study_instance_uid == study_instance_uid]
        return sorted(found, key=lambda i: (i.header.series_number or 0, i.header.instance_number or 0, i.header.sop_instance_uid))

    def instances_of(self, study_instance_uids: Collection[str]) -> dict[str, list[StoredInstance]]:
        return {uid: self.instances(uid) for uid in study_instance_uids if uid in self._t.studies}

    def highest_patient_number(self) -> int:
        return len(self._patients())

    def _patients(self) -> list[str]:
        return list(dict.fromkeys(study.patient_key for study in self._t.studies.values()))

    def label_candidates(
        self,
        version: int,
        *,
        request_expiry_days: float,
        patients: Collection[int] | None = None,
        among: Collection[str] | None = None,
    ) -> dict[str, str]:
        everyone = self._patients()
        lapsed = self._now() - timedelta(days=request_expiry_days)
        holding = (r for r in self._t.requests.values() if r.selection_reason == rules.MONITORING or r.asked_at > lapsed)
        read = {label.study_instance_uid for label in self._t.labels} | {request.study_instance_uid for request in holding}
        known = {self._t.studies[uid].patient_key for uid in read}
        return {
            uid: study.patient_key
            for uid, study in sorted(self._t.studies.items())
            if study.state in (StudyState.SCORED, StudyState.REPORTED)
            and (uid, version) in self._t.predictions
            and study.patient_key not in known
            and (patients is None or everyone.index(study.patient_key) + 1 in patients)
            and (among is None or uid in among)
            and uid not in self._t.requests
        }

    def accession_numbers(self, study_instance_uids: Collection[str]) -> dict[str, str]:
        return {uid: self._t.studies[uid].accession_number for uid in study_instance_uids if uid in self._t.studies}

    def uids_by_accession_number(self, accession_numbers: Collection[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for uid, study in sorted(self._t.studies.items()):
            if study.accession_number in accession_numbers:
                found.setdefault(study.accession_number, []).append(uid)
        return found

    def newest_complete(self, *, limit: int) -> list[str]:
        complete = [s for s in reversed(self._t.studies.values()) if s.state is not StudyState.ARRIVING]
        return [s.study_instance_uid for s in sorted(complete, key=lambda s: s.received_at, reverse=True)][:limit]

    def highest_study_number(self) -> int:
        return len(self._t.studies)

    def uids_by_number(self, numbers: range) -> list[str]:
        return [uid for number, uid in enumerate(self._t.studies, 1) if number in numbers][::-1]

    def unscored(self, version: int, *, limit: int, numbers: range | None = None) -> list[str]:
        rows = (row.job for row in self._t.jobs.values())
        in_hand = {job.subject for job in rows if job.kind is JobKind.SCORE and job.state is not JobState.DONE}
        found = [
            study
            for number, (uid, study) in reversed(list(enumerate(self._t.studies.items(), 1)))
            if self._ended(study) and (uid, version) not in self._t.predictions and uid not in in_hand
            if numbers is None or number in numbers
        ]
        return [study.study_instance_uid for study in sorted(found, key=lambda s: s.received_at, reverse=True)][:limit]

    def _ended(self, study: Study) -> bool:
        if study.state is not StudyState.SCORED:
            return study.state is StudyState.REPORTED
        uid = study.study_instance_uid
        quiet = uid in self._t.backfills.brought
        told = [report.state for report in self._t.reports.values() if report.study_instance_uid == uid]
        unfinished = (JobState.WAITING, JobState.RUNNING)
        rows = (row.job for row in self._t.jobs.values())
        on_its_way = any(job.kind is JobKind.REPORT and job.subject == uid and job.state in unfinished for job in rows)
        return (told[-1:] == [ReportState.REFUSED] or (quiet and not told)) and not on_its_way

    def document_uids(self) -> list[str]:
        kinds = {rules.ObjectKind.REPORT, rules.ObjectKind.KEY_OBJECTS}
        return [uid for uid, instance in self._t.instances.items() if rules.object_kind(instance.header) in kinds]

    def mark_released(self, study_instance_uids: Sequence[str]) -> None:
        self._t.released |= {
            u for u in study_instance_uids if u in self._t.studies and self._t.studies[u].state is StudyState.ARRIVING
        }

    def stable_studies(self, *, seconds: float, released: bool, limit: int) -> list[str]:
        before = self._now() - timedelta(seconds=seconds)
        found = [
            s
            for s in self._t.studies.values()
            if s.state is StudyState.ARRIVING
            and (s.last_received_at <= before or (released and s.study_instance_uid in self._t.released))
        ]
        return [s.study_instance_uid for s in sorted(found, key=lambda s: s.last_received_at)][:limit]

    def arriving_studies(self, *, limit: int) -> list[tuple[str, int]]:
        found = [s for s in self._t.studies.values() if s.state is StudyState.ARRIVING]
        return [(s.study_instance_uid, s.instances) for s in found][:limit]

    def put_state(self, study_instance_uid: str, state: StudyState, *, reason: str = "") -> None:
        self._t.studies[study_instance_uid] = replace(self._t.studies[study_instance_uid], state=state, reason=reason)

    def put_states(self, study_instance_uids: Collection[str], state: StudyState) -> None:
        for uid in study_instance_uids:
            self.put_state(uid, state)

    def next_revisions(self, study_instance_uids: Collection[str]) -> dict[str, int]:
        for uid in study_instance_uids:
            self._t.studies[uid] = replace(self._t.studies[uid], revision=self._t.studies[uid].revision + 1)
        return {uid: self._t.studies[uid].revision for uid in study_instance_uids}


class FakeScoreRows:
    def __init__(self, tables: _Tables) -> None:
        self._t = tables

    def image_scores(self, study_instance_uid: str, version: int) -> dict[str, Scores]:
        return {
            uid: scores
            for (uid, v), scores in self._t.scores.items()
            if v == version and self._t.instances[uid].header.study_instance_uid == study_instance_uid
        }

    def image_scores_of(self, study_instance_uids: Collection[str], version: int) -> dict[str, dict[str, Scores]]:
        return {uid: found for uid in study_instance_uids if (found := self.image_scores(uid, version))}

    def add_image_scores(self, version: int, scores: Mapping[str, Scores]) -> None:
        self._t.scores.update({(uid, version): s for uid, s in scores.items()})

    def put_predictions(self, version: int, predictions: Mapping[str, Sequence[Prediction]], revisions: Mapping[str, int]) -> None:
        assert predictions.keys() == revisions.keys()
        self._t.predictions.update({(uid, version): list(of) for uid, of in predictions.items()})

    def predictions(self, study_instance_uid: str, version: int) -> list[Prediction]:
        found = self._t.predictions.get((study_instance_uid, version), [])
        return sorted(found, key=lambda p: FINDINGS.index(p.finding))

    def predictions_of(self, study_instance_uids: Collection[str], version: int) -> dict[str, list[Prediction]]:
        return {uid: found for uid in study_instance_uids if (found := self.predictions(uid, version))}

    def probabilities(self, study_instance_uids: Collection[str], version: int) -> dict[str, Scores]:
        return {
            uid: np.array([p.probability for p in self.predictions(uid, version)], dtype=np.float32)
            for uid in study_instance_uids
            if (uid, version) in self._t.predictions
        }


class FakeReports:
    def __init__(self, tables: _Tables) -> None:
        self._t = tables

    def find(self, sop_instance_uid: str) -> Report | None:
        return self._t.reports.get(sop_instance_uid)

    def latest(self, study_instance_uid: str) -> Report | None:
        found = [r for r in self._t.reports.values() if r.study_instance_uid == study_instance_uid]
        return found[-1] if found else None

    def latest_of(self, study_instance_uids: Collection[str]) -> dict[str, Report]:
        return {uid: found for uid in study_instance_uids if (found := self.latest(uid))}

    def ensure_pending(self, report: Report) -> Report:
        same = (report.study_instance_uid, report.version, report.revision)
        rows = self._t.reports.values()
        known = next((r for r in rows if (r.study_instance_uid, r.version, r.revision) == same), None)
        return known or self._t.reports.setdefault(report.sop_instance_uid, report)

    def mark_built(self, sop_instance_uid: str, file: StoredFile) -> None:
        self._put(sop_instance_uid, state=ReportState.BUILT, file=file)

    def mark_sent(self, sop_instance_uid: str, status: str) -> None:
        self._put(sop_instance_uid, state=ReportState.SENT, status=status)

    def mark_refused(self, sop_instance_uid: str, status: str) -> None:
        self._put(sop_instance_uid, state=ReportState.REFUSED, status=status)

    def _put(self, uid: str, **changes: Any) -> None:
        self._t.reports[uid] = replace(self._t.reports[uid], **changes)


class FakeLabels:
    def __init__(self, tables: _Tables) -> None:
        self._t = tables

    def append(self, labels: Sequence[Label]) -> None:
        if any(label.study_instance_uid not in self._t.studies for label in labels):
            raise ValueError("a study is not in the catalog")
        for label in labels:
            numbered = replace(label, id=len(self._t.labels) + 1)
            self._check(numbered)
            self._t.labels.append(numbered)

    def _check(self, label: Label) -> None:
        revoked = next((known for known in self._t.labels if known.id == label.revokes), None)
        if label.state is None and label.revokes is None:
            raise ValueError("constraint: says something")
        if label.revokes is not None and (revoked is None or (revoked.study_instance_uid, revoked.finding) != self._what(label)):
            raise ValueError("constraint: revokes a statement on another study or finding")
        if label.revokes is not None and any(known.revokes == label.revokes for known in self._t.labels):
            raise ValueError("unique: revoked once")
        same = (*self._what(label), label.reader, label.document)
        said = [(*self._what(k), k.reader, k.document) for k in self._t.labels if k.document and k.state is not None]
        if label.state is not None and same in said:
            raise ValueError("unique: a document says a thing once")

    @staticmethod
    def _what(label: Label) -> tuple[str, str]:
        return label.study_instance_uid, label.finding

    def all(self) -> list[Label]:
        return list(self._t.labels)

    def of_studies(self, study_instance_uids: Collection[str]) -> list[Label]:
        return [label for label in self._t.labels if label.study_instance_uid in study_instance_uids]

    def multi_reader_studies(self) -> list[str]:
        readers: dict[tuple[str, str], set[str]] = {}
        for label in self._t.labels:
            readers.setdefault((label.study_instance_uid, label.finding), set()).add(label.reader)
        return sorted({study for (study, _), several in readers.items() if len(several) > 1})

    def find(self, ids: Collection[int]) -> list[Label]:
        return [label for label in self._t.labels if label.id in ids]


class FakeRequests:
    def __init__(self, tables: _Tables) -> None:
        self._t = tables

    def lock(self) -> None:
        """The catalog's lock is held already."""

    def append(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.study_instance_uid not in self._t.studies:
                raise ValueError("a study is not in the catalog")
            if request.study_instance_uid in self._t.requests:
                raise ValueError("unique: a study is asked for once")
            if not request.selection_reason or not 0 < request.selection_probability <= 1:
                raise ValueError("constraint: says why, with a probability")
            self._t.requests[request.study_instance_uid] = request

    def all(self) -> list[Request]:
        return list(self._t.requests.values())

    def of_studies(self, study_instance_uids: Collection[str]) -> dict[str, Request]:
        return {uid: request for uid, request in self._t.requests.items() if uid in study_instance_uids}


class FakeVersions:
    def __init__(self, tables: _Tables) -> None:
        self._t = tables

    def serving(self) -> ModelVersion | None:
        return next((v for v in self._t.versions.values() if v.state is VersionState.SERVING), None)

    def find(self, number: int) -> ModelVersion | None:
        return self._t.versions.get(number)

    def all(self) -> list[ModelVersion]:
        return sorted(self._t.versions.values(), key=lambda v: v.number)

    def next_number(self) -> int:
        return max(self._t.versions, default=0) + 1

    def add(self, version: ModelVersion) -> None:
        if version.number in self._t.versions or (version.state is VersionState.SERVING and self.serving()):
            raise ValueError("number taken, or another version serves")
        self._t.versions[version.number] = version

    def previously_serving(self) -> ModelVersion | None:
        retired = [n for n in self._t.retired if self._t.versions[n].state is VersionState.RETIRED]
        return self._t.versions[retired[-1]] if retired else None

    def put_state(self, number: int, state: VersionState, *, reason: str) -> None:
        self._t.versions[number] = replace(self._t.versions[number], state=state, reason=reason)

    def serve(self, number: int) -> None:
        before = self.serving()
        if before is not None and before.number != number:
            self._t.retired.append(before.number)
            self._t.versions[before.number] = replace(before, state=VersionState.RETIRED)
        self._t.versions[number] = replace(self._t.versions[number], state=VersionState.SERVING)


class FakeJobs:
    def __init__(self, tables: _Tables, now: Callable[[], datetime]) -> None:
        self._t, self._now = tables, now

    def put(
        self, kind: JobKind, subject: str, payload: Mapping[str, Any] | None = None, *, priority: int = ARRIVAL_PRIORITY
    ) -> int | None:
        waiting = self._waiting(kind, subject)
        if waiting is not None:
            waiting.job = replace(waiting.job, payload=dict(payload or {}), priority=min(waiting.job.priority, priority))
            return None
        number = max(self._t.jobs, default=0) + 1
        self._t.jobs[number] = _JobRow(
            Job(id=number, kind=kind, subject=subject, due_at=self._now(), payload=dict(payload or {}), priority=priority)
        )
        return number

    def put_all(
        self,
        kind: JobKind,
        payloads: Mapping[str, Mapping[str, Any]],
        *,
        priority: int = ARRIVAL_PRIORITY,
        due: Mapping[str, datetime] | None = None,
    ) -> None:
        for subject, payload in payloads.items():
            number = self.put(kind, subject, payload, priority=priority)
            if number is not None and due is not None:
                self._t.jobs[number].job = replace(self._t.jobs[number].job, due_at=due[subject])

    def _waiting(self, kind: JobKind, subject: str) -> _JobRow | None:
        rows = (r for r in self._t.jobs.values() if r.job.state is JobState.WAITING)
        return next((r for r in rows if (r.job.kind, r.job.subject) == (kind, subject)), None)

    def claim(
        self,
        kinds: Sequence[JobKind],
        *,
        worker: str,
        lease_seconds: float,
        limit: int = 1,
        newest: int = 0,
        subjects: SubjectFilter = None,
    ) -> list[Job]:
        now = self._now()
        in_hand = {(r.job.kind, r.job.subject) for r in self._t.jobs.values() if r.job.state is JobState.RUNNING}
        asked = [r for r in self._t.jobs.values() if r.job.kind in kinds and (subjects is None or r.job.subject in subjects)]
        lost = [r for r in asked if r.job.state is JobState.RUNNING and r.lease_until is not None and r.lease_until <= now]
        due = [
            r
            for r in asked
            if r.job.state is JobState.WAITING and r.job.due_at <= now and (r.job.kind, r.job.subject) not in in_hand
        ]
        for rows in (lost, due):
            rows.sort(key=lambda r: (r.job.priority, r.job.due_at, r.job.id))
        latest = [r for r in due if r.job.priority == ARRIVAL_PRIORITY]
        latest = sorted(latest, key=lambda r: (r.job.due_at, r.job.id), reverse=True)[:newest]
        taken = (lost + latest + [r for r in due if r not in latest])[:limit]
        for row in taken:
            row.job = replace(row.job, state=JobState.RUNNING, attempts=row.job.attempts + 1, lease_token=secrets.token_hex(8))
            row.lease_until = now + timedelta(seconds=lease_seconds)
        return [row.job for row in taken]

    def count_leased(self, kind: JobKind, subjects: Collection[str]) -> int:
        rows = (row.job for row in self._t.jobs.values())
        return sum(job.kind is kind and job.subject in subjects and job.state is JobState.RUNNING for job in rows)

    def _held(self, job: Job) -> _JobRow | None:
        row = self._t.jobs.get(job.id)
        return row if row and row.job.state is JobState.RUNNING and row.job.lease_token == job.lease_token else None

    def extend(self, job: Job, *, lease_seconds: float) -> None:
        row = self._held(job)
        if row is None:
            raise LeaseLost(f"job {job.id} is no longer ours")
        row.lease_until = self._now() + timedelta(seconds=lease_seconds)

    def finish(self, *finished: Job) -> None:
        for job in finished:
            row = self._held(job)
            if row is None:
                raise LeaseLost(f"job {job.id} is no longer ours")
            row.job, row.lease_until, row.finished_at = replace(row.job, state=JobState.DONE), None, self._now()

    def put_notes(self, job: Job, notes: Mapping[str, Any]) -> None:
        row = self._held(job)
        if row is None:
            raise LeaseLost(f"job {job.id} is no longer ours")
        row.job = replace(row.job, payload={**job.payload, **notes})

    def retry(self, job: Job, *, error: str, delay_seconds: float, counts: bool = True) -> None:
        row = self._held(job)
        if row is None:
            return
        if self._waiting(job.kind, job.subject):
            row.job, row.lease_until, row.finished_at = replace(row.job, state=JobState.DONE), None, self._now()
            return
        tries = job.attempts if counts else job.attempts - 1
        due = self._now() + timedelta(seconds=delay_seconds)
        row.job = replace(row.job, state=JobState.WAITING, attempts=tries, lease_token="", error=error, due_at=due)
        row.lease_until = None

    def quarantine(self, job: Job, *, error: str) -> None:
        row = self._held(job)
        if row is not None:
            row.job, row.lease_until = replace(row.job, state=JobState.QUARANTINED, error=error), None

    def is_open(self, kind: JobKind, subject: str) -> bool:
        rows = (row.job for row in self._t.jobs.values())
        return any((job.kind, job.subject) == (kind, subject) and job.state is not JobState.DONE for job in rows)

    def has_urgent(self, kind: JobKind, *, before: int) -> bool:
        urgent = [r for r in self._t.jobs.values() if r.job.kind is kind and r.job.priority < before]
        due = any(r.job.state is JobState.WAITING and r.job.due_at <= self._now() for r in urgent)
        return due or any(r.lease_until is not None and r.lease_until > self._now() for r in urgent)

    def count_by_state(self) -> dict[tuple[JobKind, JobState], int]:
        return dict(Counter((r.job.kind, r.job.state) for r in self._t.jobs.values()))

    def count_waiting(self, kind: JobKind, *, at_most: int) -> int:
        return min(at_most, self.count_by_state().get((kind, JobState.WAITING), 0))

    def purge_done(self, *, older_than_days: float, limit: int = 10_000) -> int:
        before = self._now() - timedelta(days=older_than_days)
        old = [n for n, r in self._t.jobs.items() if r.finished_at is not None and r.finished_at < before][:limit]
        for number in old:
            del self._t.jobs[number]
        return len(old)

    def requeue(self, ids: Sequence[int] | None = None) -> int:
        rows = [r for r in self._t.jobs.values() if r.job.state is JobState.QUARANTINED and (ids is None or r.job.id in ids)]
        for row in reversed(rows):
            if self._waiting(row.job.kind, row.job.subject) is None:
                self.put(row.job.kind, row.job.subject, row.job.payload, priority=row.job.priority)
            row.job, row.finished_at = replace(row.job, state=JobState.DONE), self._now()
        return len(rows)


class FakeCircuits:
    def __init__(self, tables: _Tables, now: Callable[[], datetime]) -> None:
        self._t, self._now = tables, now

    def admit(self, destination: str, *, probe_seconds: float) -> bool:
        failures, open_until = self._t.circuits.get(destination, (0, None))
        if open_until is None:
            return True
        if open_until > self._now():
            return False
        self._t.circuits[destination] = (failures, self._now() + timedelta(seconds=probe_seconds))
        return True

    def record_failure(self, destination: str, *, threshold: int, open_seconds: float) -> None:
        failures = self._t.circuits.get(destination, (0, None))[0] + 1
        until = self._now() + timedelta(seconds=open_seconds) if failures >= threshold else None
        self._t.circuits[destination] = (failures, until)

    def record_success(self, destination: str) -> None:
        self._t.circuits.pop(destination, None)


class FakeArriving:
    """ports.Arriving in memory; its bytes take room in the store, if it has one."""

    def __init__(self, store: FakeImageStore | None = None) -> None:
        self.content, self.store, self.kept, self.discarded = b"", store, False, False

    @property
    def file(self) -> StoredFile:
        return FakeImageStore().file_of(self.content)

    def write(self, content: Buffer) -> None:
        self.content += bytes(content)
        if self.store:
            self.store.free -= len(content)

    def open(self) -> BinaryIO:
        return BytesIO(self.content)

    def commit(self) -> StoredFile:
        self.kept = True
        return self.store.write(self.content) if self.store else self.file

    def discard(self) -> None:
        if not self.kept:
            self.discarded = True
        if self.store and self.discarded:
            self.store.free += len(self.content)
            self.content = b""


class FakeImageStore:
    """ports.ImageStore in a dict; `free` is what free_bytes() says."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.free = 1 << 40

    def open_incoming(self) -> FakeArriving:
        return FakeArriving(self)

    def file_of(self, content: bytes) -> StoredFile:
        digest = hashlib.sha256(content).hexdigest()
        return StoredFile(f"{digest[:2]}/{digest[2:4]}/{digest}.dcm", digest, len(content))

    def write(self, content: bytes) -> StoredFile:
        file = self.file_of(content)
        self.files[file.key] = bytes(content)
        return file

    def read(self, file: StoredFile) -> bytes:
        if file.key not in self.files:
            raise PermanentError(f"{file.key} is missing")
        return self.files[file.key]

    def exists(self, file: StoredFile) -> bool:
        return file.key in self.files

    def remove(self, file: StoredFile) -> None:
        self.files.pop(file.key, None)

    def free_bytes(self) -> int:
        return self.free


class FakeImageReader:
    """ports.ImageReader: every image is flat grey of its file's first digest byte; `broken` UIDs cannot be read."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.asked: list[str] = []

    def read(self, instance: StoredInstance) -> Image:
        uid = instance.header.sop_instance_uid
        self.asked.append(uid)
        if uid in self.broken:
            raise PixelsUnreadable(f"instance {uid}: no image can be made of it")
        return np.full((4, 5), int(instance.file.sha256[:2], 16) / 255, dtype=np.float32)

    def read_ahead(
        self, instances: Sequence[StoredInstance], transform: DecoderTransform, to_device: DeviceTransfer = copy_to_host
    ) -> Iterator[ModelInput | PixelsUnreadable]:
        for instance in instances:
            try:
                yield to_device(transform(self.read(instance)))
            except PixelsUnreadable as error:
                yield error


class FakeDocuments:
    """ports.DocumentReader: what is said of a content here; of any other, nothing."""

    def __init__(self) -> None:
        self.said: dict[bytes, Document] = {}

    def read(self, content: bytes) -> Document:
        return self.said.get(content, Document(reason="codes none of the 14 findings"))


class FakeScorer:
    """ports.Scorer: the mean grey, minus a little more for each further finding. `kept`: SHA-256 of a file -> its mean grey."""

    def __init__(self, version: ModelVersion, kept: dict[str, float] | None = None, *, room: int = 0) -> None:
        self._version = version
        self.kept, self.cache_capacity = {} if kept is None else kept, room

    @property
    def version(self) -> ModelVersion:
        return self._version

    @property
    def decoder_transform(self) -> DecoderTransform:
        return read_whole_image

    @property
    def to_device(self) -> DeviceTransfer:
        return copy_to_host

    def score_cached(self, instances: Sequence[StoredInstance]) -> dict[str, Scores]:
        there = [film for film in instances if film.file.sha256 in self.kept]
        return {film.header.sop_instance_uid: _greys([self.kept[film.file.sha256]])[0] for film in there}

    def score(self, images: Sequence[Image], instances: Sequence[StoredInstance] = ()) -> Scores:
        if instances:
            self.cache_activations(images, instances)
        return _greys([float(image.mean()) for image in images])

    def uncached(self, instances: Sequence[StoredInstance]) -> list[StoredInstance]:
        return [film for film in instances if film.file.sha256 not in self.kept and len(self.kept) < self.cache_capacity]

    def cache_activations(self, images: Sequence[Image], instances: Sequence[StoredInstance]) -> None:
        for image, film in zip(images, instances, strict=True):
            if len(self.kept) < self.cache_capacity:
                self.kept[film.file.sha256] = float(image.mean())


def _greys(means: Sequence[float]) -> Scores:
    steps = np.linspace(0, 0.1, len(FINDINGS), dtype=np.float32)
    return np.stack([np.clip(mean - steps, 0, 1) for mean in means]).astype(np.float32)


class FakeScorers:
    """ports.Scorers. What its scorers keep stays through versions; `room`: of how many films."""

    def __init__(self, *, room: int = 0) -> None:
        self.kept: dict[str, float] = {}
        self.room = room

    def load(self, version: ModelVersion) -> FakeScorer:
        return FakeScorer(version, self.kept, room=self.room)


@dataclass
class FakeCandidate:
    """ports.Candidate: a row without files."""

    course: TrainingSet
    comparisons: Sequence[Comparison]

    @contextmanager
    def stage_files(self) -> Iterator[Callable[[int], ModelVersion]]:
        learning = {"newest_label": self.course.newest_label_id}
        fingerprint = self.course.label_fingerprint
        yield lambda number: a_version(number, VersionState.CANDIDATE, label_fingerprint=fingerprint, card={"learning": learning})


class FakeTrainer:
    """ports.Trainer: every candidate beats the others by this much (0..1); `watch` raises what is put into `stopped`."""

    def __init__(self) -> None:
        self.courses: list[TrainingSet] = []
        self.ahead = 0.1
        self.stopped: Exception | None = None

    def train(self, training_set: TrainingSet, on_progress: StageCallback) -> FakeCandidate:
        self.courses.append(training_set)
        on_progress("films", 1, 1)
        ahead = self.ahead
        better = Comparison(
            against="zero-shot",
            cases=40,
            patients=30,
            candidate=0.7 + ahead,
            other=0.7,
            lower=ahead,
            upper=ahead,
            better=float(ahead >= 0),
        )
        return FakeCandidate(training_set, [better])

    def watch(self, what: str, done: int, total: int) -> None:
        if self.stopped:
            raise self.stopped


class FakeReportWriter:
    """ports.ReportWriter: the report as words."""

    def __init__(self) -> None:
        self.written: list[ReportContent] = []

    def pending_report(self, study_instance_uid: str, version: int, revision: int) -> Report:
        uid = f"{study_instance_uid}.{version}.{revision}"
        return Report(
            sop_instance_uid=uid,
            series_instance_uid=f"{uid}.0",
            study_instance_uid=study_instance_uid,
            version=version,
            revision=revision,
            state=ReportState.PENDING,
        )

    def write(self, content: ReportContent) -> bytes:
        self.written.append(content)
        return f"SR {content.report.sop_instance_uid} {len(self.written)}".encode()


class FakeArchive:
    """ports.Archive: keeps what it gets; `errors` are raised first, one a call."""

    name = "FAKE"

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.errors: list[Exception] = []
        self.counts: dict[str, int] = {}
        self.reachable = True

    def store(self, content: bytes) -> str:
        if not self.reachable:
            raise ArchiveUnreachable("FAKE does not answer")
        if self.errors:
            raise self.errors.pop(0)
        self.kept.append(content)
        return "0x0000 Success"

    def count_instances(self, study_instance_uid: str) -> int | None:
        return self.counts.get(study_instance_uid)

    def echo(self) -> None:
        if not self.reachable:
            raise ArchiveUnreachable("FAKE does not answer")


def a_version(number: int = 1, state: VersionState = VersionState.SERVING, **changes: Any) -> ModelVersion:
    """A ModelVersion with a threshold of .5 for every finding."""
    values: dict[str, Any] = {
        "number": number,
        "state": state,
        "name": f"zero-shot-{number}",
        "base": "tiny",
        "weights_sha256": "0" * 64,
        "device_uid": f"2.25.{1000 + number}",
        "thresholds": dict.fromkeys(FINDINGS, 0.5),
        "undetermined_margin": 0.05,
    }
    return ModelVersion(**{**values, **changes})


# The type checker holds each fake against its port.
def _catalog(fake: FakeCatalog) -> Catalog:
    return fake


def _images(fake: FakeImageStore) -> ImageStore:
    return fake


def _reader(fake: FakeImageReader) -> ImageReader:
    return fake


def _documents(fake: FakeDocuments) -> DocumentReader:
    return fake


def _scorer(fake: FakeScorer) -> Scorer:
    return fake


def _scorers(fake: FakeScorers) -> Scorers:
    return fake


def _trainer(fake: FakeTrainer) -> Trainer:
    return fake


def _writer(fake: FakeReportWriter) -> ReportWriter:
    return fake


def _archive(fake: FakeArchive) -> Archive:
    return fake
