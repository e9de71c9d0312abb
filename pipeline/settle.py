"""settle: a study that is quiet, or complete -> a score job, or `ignored` with the reason in words."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import backfill, rules
from pipeline.domain import ARRIVAL_PRIORITY, JobKind, ReportState, StoredInstance, Study, StudyState
from pipeline.ports.services import Catalog, InstanceCounter, Transaction

MAX_STUDIES_PER_ROUND = 200
"""Studies looked at in one round: a bound on work, not on what is settled in the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlePolicy:
    """`[study]` of the configuration."""

    stable_age_seconds: float
    settle_on_release: bool
    chest: rules.ChestPolicy


@dataclass(frozen=True, slots=True)
class SettleResult:
    """What became of one study."""

    study_instance_uid: str
    state: StudyState
    reason: str


def settle(*, catalog: Catalog, archive: InstanceCounter | None, policy: SettlePolicy) -> list[SettleResult]:
    """Settle every study whose time has come. `archive` is asked for its instance counts where given."""
    with catalog.read() as tx:
        ready = tx.studies.stable_studies(
            seconds=policy.stable_age_seconds, released=policy.settle_on_release, limit=MAX_STUDIES_PER_ROUND
        )
        arriving = tx.studies.arriving_studies(limit=MAX_STUDIES_PER_ROUND) if archive is not None else []
    for study_instance_uid, received in arriving:
        if study_instance_uid not in ready and _is_complete_in_archive(study_instance_uid, received, archive):
            ready.append(study_instance_uid)
    return [settled for uid in ready if (settled := _settle_study(uid, catalog=catalog, policy=policy))]


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
        if state is StudyState.SETTLED:
            brought = tx.backfills.backfilled_studies([study_instance_uid])
            tx.jobs.put(JobKind.SCORE, study_instance_uid, priority=backfill.BACKFILL_PRIORITY if brought else ARRIVAL_PRIORITY)
        return SettleResult(study_instance_uid, state, choice.reason)


def _decide_state(tx: Transaction, study: Study, images: tuple[StoredInstance, ...]) -> StudyState:
    """A late object that brings nothing to score puts the study back where it stood."""
    if not images:
        return StudyState.IGNORED
    version = tx.versions.serving()
    scored = tx.scores.image_scores(study.study_instance_uid, version.number) if version else {}
    if any(image.header.sop_instance_uid not in scored for image in images):
        return StudyState.SETTLED
    latest = tx.reports.latest(study.study_instance_uid)
    told = latest is not None and latest.state is ReportState.SENT and not tx.jobs.is_open(JobKind.REPORT, study.study_instance_uid)
    return StudyState.REPORTED if told else StudyState.SCORED
