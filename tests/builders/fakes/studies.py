"""Fakes of ports.Studies, ports.ScoreRows and ports.Reports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from pipeline import rules
from pipeline.domain import (
    FINDINGS,
    Header,
    JobKind,
    JobState,
    NotAssessedReason,
    Prediction,
    ReferenceDistribution,
    Report,
    ReportState,
    Scores,
    Sender,
    StoredFile,
    StoredInstance,
    Study,
    StudyState,
    VisibleObject,
    WithheldReason,
)
from tests.builders.fakes.rows import CatalogTables


class FakeStudies:
    def __init__(self, tables: CatalogTables, now: Callable[[], datetime]) -> None:
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

    def patient_keys(self, study_instance_uids: Collection[str]) -> dict[str, str]:
        return {uid: self._t.studies[uid].patient_key for uid in study_instance_uids if uid in self._t.studies}

    def highest_patient_number(self) -> int:
        return len(self._patient_keys())

    def _patient_keys(self) -> list[str]:
        return list(dict.fromkeys(study.patient_key for study in self._t.studies.values()))

    def label_candidates(
        self,
        version: int,
        *,
        request_expiry_days: float,
        patients: Collection[int] | None = None,
        among: Collection[str] | None = None,
    ) -> dict[str, str]:
        everyone = self._patient_keys()
        oldest = self._now() - timedelta(days=request_expiry_days)
        valid = (r for r in self._t.requests.values() if r.selection_reason == rules.MONITORING or r.requested_at > oldest)
        excluded = {label.study_instance_uid for label in self._t.labels} | {request.study_instance_uid for request in valid}
        known = {self._t.studies[uid].patient_key for uid in excluded}
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

    def newest_files(self, *, limit: int) -> list[StoredFile]:
        return [instance.file for instance in reversed(self._t.instances.values())][:limit]

    def earlier_studies(self, study_instance_uid: str, *, limit: int) -> list[tuple[str, str]]:
        this = self._t.studies[study_instance_uid]
        same = (study for study in self._t.studies.values() if study.patient_key == this.patient_key)
        earlier = [study for study in same if study.study_date < this.study_date]
        earlier.sort(key=lambda study: study.study_date, reverse=True)
        return [(study.study_instance_uid, study.study_date) for study in earlier[:limit]]

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
            if self._is_ended(study) and (uid, version) not in self._t.predictions and uid not in in_hand
            if numbers is None or number in numbers
        ]
        return [study.study_instance_uid for study in sorted(found, key=lambda s: s.received_at, reverse=True)][:limit]

    def _is_ended(self, study: Study) -> bool:
        if study.state is not StudyState.SCORED:
            return study.state is StudyState.REPORTED
        uid = study.study_instance_uid
        backfilled = uid in self._t.backfills.studies
        reports = [report for report in self._t.reports.values() if report.study_instance_uid == uid]
        unfinished = (JobState.WAITING, JobState.RUNNING)
        rows = (row.job for row in self._t.jobs.values())
        is_active = any(job.kind is JobKind.REPORT and job.subject == uid and job.state in unfinished for job in rows)
        is_ended = any(one.state is ReportState.REFUSED or one.withheld is not None for one in reports[-1:])
        return (is_ended or (backfilled and not reports)) and not is_active

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

    def follow_clock(self) -> int:
        now = self._now()
        ahead = [s for s in self._t.studies.values() if s.state is StudyState.ARRIVING and s.last_received_at > now]
        for study in ahead:
            self._t.studies[study.study_instance_uid] = replace(study, last_received_at=now)
        return len(ahead)

    def put_state(self, study_instance_uid: str, state: StudyState, *, reason: str = "") -> None:
        self._t.studies[study_instance_uid] = replace(self._t.studies[study_instance_uid], state=state, reason=reason)

    def put_states(self, study_instance_uids: Collection[str], state: StudyState) -> None:
        for uid in study_instance_uids:
            self.put_state(uid, state)

    def draw_key(self) -> bytes:
        return b"the key of the fake"

    def put_silent(self, study_instance_uids: Collection[str], *, silent: bool) -> None:
        for uid in study_instance_uids:
            self._t.studies[uid] = replace(self._t.studies[uid], silent=silent)

    def next_revisions(self, study_instance_uids: Collection[str]) -> dict[str, int]:
        for uid in study_instance_uids:
            self._t.studies[uid] = replace(self._t.studies[uid], revision=self._t.studies[uid].revision + 1)
        return {uid: self._t.studies[uid].revision for uid in study_instance_uids}


class FakeScoreRows:
    def __init__(self, tables: CatalogTables) -> None:
        self._t = tables

    def image_scores(self, study_instance_uid: str, version: int) -> dict[str, Scores]:
        return {
            uid: scores
            for (uid, v), scores in self._t.scores.items()
            if v == version and self._t.instances[uid].header.study_instance_uid == study_instance_uid
        }

    def image_scores_of(self, study_instance_uids: Collection[str], version: int) -> dict[str, dict[str, Scores]]:
        return {uid: found for uid in study_instance_uids if (found := self.image_scores(uid, version))}

    def remove_image_scores(self, sop_instance_uid: str) -> None:
        self._t.scores = {key: scores for key, scores in self._t.scores.items() if key[0] != sop_instance_uid}
        self._t.thumbnails.pop(sop_instance_uid, None)

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

    def without_reference(self, version: int, *, limit: int) -> list[str]:
        unranked = [
            uid
            for (uid, v), of in self._t.predictions.items()
            if v == version and any(p.reason is NotAssessedReason.NO_REFERENCE for p in of)
        ]
        return unranked[::-1][:limit]

    def count_scored(self, version: int, *, at_most: int) -> int:
        return min(at_most, sum(v == version for _, v in self._t.predictions))

    def newest_scored(self, version: int, *, limit: int) -> list[str]:
        return [uid for uid in reversed(self._t.studies) if (uid, version) in self._t.predictions][:limit]

    def study_scores(self, study_instance_uids: Collection[str], version: int) -> dict[str, Scores]:
        return {
            uid: np.array([p.score for p in self.predictions(uid, version)], dtype=np.float32)
            for uid in study_instance_uids
            if (uid, version) in self._t.predictions
        }


class FakeReferences:
    def __init__(self, tables: CatalogTables) -> None:
        self._t = tables

    def lock(self) -> None:
        pass

    def current_number(self, version: int) -> int | None:
        return max((r.number for r in self._t.references.values() if r.version == version), default=None)

    def find(self, number: int) -> ReferenceDistribution | None:
        return self._t.references.get(number)

    def next_number(self) -> int:
        return max(self._t.references, default=0) + 1

    def add(self, reference: ReferenceDistribution) -> None:
        self._t.references[reference.number] = reference


class FakeReportStops:
    def __init__(self, tables: CatalogTables) -> None:
        self._t = tables

    def current(self) -> dict[str, str]:
        return dict(self._t.stops)

    def stop(self, finding: str, *, reason: str, source: str) -> None:
        self._t.stops[finding] = reason

    def resume(self, finding: str) -> None:
        self._t.stops.pop(finding, None)


class FakeReports:
    def __init__(self, tables: CatalogTables, now: Callable[[], datetime]) -> None:
        self._t, self._now = tables, now

    def find(self, sop_instance_uid: str) -> Report | None:
        return self._t.reports.get(sop_instance_uid)

    def latest(self, study_instance_uid: str) -> Report | None:
        found = [r for r in self._t.reports.values() if r.study_instance_uid == study_instance_uid]
        return found[-1] if found else None

    def latest_of(self, study_instance_uids: Collection[str]) -> dict[str, Report]:
        return {uid: found for uid in study_instance_uids if (found := self.latest(uid))}

    def studies_reported_by(self, version: int, *, after: str, limit: int) -> list[str]:
        found = {r.study_instance_uid for r in self._t.reports.values() if r.version == version}
        return sorted(uid for uid in found if uid > after)[:limit]

    def studies_withheld(self, *, since: datetime, after: str, limit: int) -> list[str]:
        kept = (report for report in self._t.reports.values() if report.withheld is WithheldReason.SHADOW)
        created = self._t.report_created
        uids = {one.study_instance_uid for one in kept if created[one.sop_instance_uid] >= since}
        return sorted(uid for uid in uids if uid > after)[:limit]

    def first_sent(self, study_instance_uids: Collection[str]) -> dict[str, datetime]:
        return {uid: at for uid, at in self._t.first_sent.items() if uid in study_instance_uids}

    def ensure_pending(self, report: Report) -> Report:
        same = (report.study_instance_uid, report.version, report.revision)
        rows = self._t.reports.values()
        known = next((r for r in rows if (r.study_instance_uid, r.version, r.revision) == same), None)
        self._t.report_created.setdefault((known or report).sop_instance_uid, self._now())
        return known or self._t.reports.setdefault(report.sop_instance_uid, report)

    def mark_built(self, sop_instance_uid: str, file: StoredFile) -> None:
        self._update_report(sop_instance_uid, state=ReportState.BUILT, file=file)

    def mark_sent(self, sop_instance_uid: str, status: str) -> None:
        self._update_report(sop_instance_uid, state=ReportState.SENT, status=status)
        visible = self._t.visible_objects.get(sop_instance_uid)
        if report := self._t.reports.get(visible.report if visible else sop_instance_uid):
            self._t.first_sent.setdefault(report.study_instance_uid, self._now())

    def mark_refused(self, sop_instance_uid: str, status: str) -> None:
        self._update_report(sop_instance_uid, state=ReportState.REFUSED, status=status)

    def put_withheld(self, sop_instance_uid: str, reason: WithheldReason | None) -> None:
        self._t.reports[sop_instance_uid] = replace(self._t.reports[sop_instance_uid], withheld=reason)

    def find_visible(self, sop_instance_uid: str) -> VisibleObject | None:
        return self._t.visible_objects.get(sop_instance_uid)

    def visible_objects(self, report: str) -> list[VisibleObject]:
        return [one for one in self._t.visible_objects.values() if one.report == report]

    def ensure_visible(self, visible: VisibleObject) -> VisibleObject:
        same = (visible.report, visible.kind)
        known = (one for one in self._t.visible_objects.values() if (one.report, one.kind) == same)
        return next(known, None) or self._t.visible_objects.setdefault(visible.sop_instance_uid, visible)

    def _update_report(self, uid: str, **changes: Any) -> None:
        if uid in self._t.visible_objects:
            self._t.visible_objects[uid] = replace(self._t.visible_objects[uid], **changes)
        else:
            self._t.reports[uid] = replace(self._t.reports[uid], **changes)
