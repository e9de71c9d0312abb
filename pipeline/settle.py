"""settle: a stable or complete study -> a score job, or `ignored` with the reason in words."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import priorities, rules
from pipeline.domain import AuditEvent, JobKind, ReportState, StoredInstance, Study, StudyState
from pipeline.ports.services import Catalog, InstanceCounter, Transaction

MAX_STUDIES_PER_ROUND = 200
"""Studies considered in one round. The rest is settled in the next rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlePolicy:
    """`[study]` of the configuration."""

    stable_age_seconds: float  # a study without a new instance for this long is complete
    settle_on_release: bool  # a study is complete when the association that carried it is released
    chest: rules.ChestPolicy


@dataclass(frozen=True, slots=True)
class SettleResult:
    """The new state of one study."""

    study_instance_uid: str
    state: StudyState
    reason: str


def settle(*, catalog: Catalog, archive: InstanceCounter | None, policy: SettlePolicy) -> list[SettleResult]:
    """Settle every stable, released or complete study. Complete: all instances that `archive` counts have arrived."""
    with catalog.read() as tx:
        ready = tx.studies.stable_studies(
            seconds=policy.stable_age_seconds, released=policy.settle_on_release, limit=MAX_STUDIES_PER_ROUND
        )
        arriving = tx.studies.arriving_studies(limit=MAX_STUDIES_PER_ROUND) if archive is not None else []
    for study_instance_uid, received in arriving:
        if study_instance_uid not in ready and _is_complete_in_archive(study_instance_uid, received, archive):
            ready.append(study_instance_uid)
    return [result for uid in ready if (result := _settle_study(uid, catalog=catalog, policy=policy))]


def _is_complete_in_archive(study_instance_uid: str, received: int, archive: InstanceCounter | None) -> bool:
    return archive is not None and rules.is_complete(received, archive.count_instances(study_instance_uid))


def _settle_study(study_instance_uid: str, *, catalog: Catalog, policy: SettlePolicy) -> SettleResult | None:
    with catalog.begin() as tx:
        study = tx.studies.find(study_instance_uid)
        if study is None or study.state is not StudyState.ARRIVING:
            return None
        choice = rules.choose_images(tx.studies.instances(study_instance_uid), policy.chest)
        state = _decide_state(tx, study, choice.images)
        tx.studies.put_state(study_instance_uid, state, reason=choice.reason)
        if choice.unclear:
            detail = f"view or body part not understood in {choice.unclear} images, scored by the rules of [study]"
            tx.audit(AuditEvent("settle", "done", study_instance_uid, detail))
        if state is StudyState.SETTLED:
            backfilled = tx.backfills.backfilled_studies([study_instance_uid])
            tx.jobs.put(JobKind.SCORE, study_instance_uid, priority=priorities.BACKFILL if backfilled else priorities.ARRIVED)
        return SettleResult(study_instance_uid, state, choice.reason)


def _decide_state(tx: Transaction, study: Study, images: tuple[StoredInstance, ...]) -> StudyState:
    """Return SETTLED where an image has no scores, else the state in which the late instance found the study."""
    if not images:
        return StudyState.IGNORED
    version = tx.versions.serving()
    scored = tx.scores.image_scores(study.study_instance_uid, version.number) if version else {}
    if any(image.header.sop_instance_uid not in scored for image in images):
        return StudyState.SETTLED
    latest = tx.reports.latest(study.study_instance_uid)
    report_sent = latest is not None and latest.state is ReportState.SENT
    if report_sent and not tx.jobs.is_open(JobKind.REPORT, study.study_instance_uid):
        return StudyState.REPORTED
    return StudyState.SCORED
