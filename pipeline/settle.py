"""settle: a study that is quiet, or complete -> a score job, or `ignored` with the reason in words."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import backfill, rules
from pipeline.domain import ARRIVED, JobKind, ReportState, StoredInstance, Study, StudyState
from pipeline.ports.outside import Catalog, Counter, Transaction

BATCH = 200
"""Studies looked at in one round: a bound on work, not on what is settled in the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlePolicy:
    """`[study]` of the configuration."""

    quiet_seconds: float
    settle_on_release: bool
    chest: rules.ChestPolicy


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one study."""

    study_instance_uid: str
    state: StudyState
    reason: str


def settle(*, catalog: Catalog, archive: Counter | None, policy: SettlePolicy) -> list[Settled]:
    """Settle every study whose time has come. `archive` is asked for its instance counts where given."""
    with catalog.read() as tx:
        ready = tx.studies.quiet(seconds=policy.quiet_seconds, released=policy.settle_on_release, limit=BATCH)
        arriving = tx.studies.arriving(limit=BATCH) if archive is not None else []
    for study_instance_uid, received in arriving:
        if study_instance_uid not in ready and _all_here(study_instance_uid, received, archive):
            ready.append(study_instance_uid)
    return [settled for uid in ready if (settled := _settle_one(uid, catalog=catalog, policy=policy))]


def _all_here(study_instance_uid: str, received: int, archive: Counter | None) -> bool:
    return archive is not None and rules.is_complete(received, archive.count_instances(study_instance_uid))


def _settle_one(study_instance_uid: str, *, catalog: Catalog, policy: SettlePolicy) -> Settled | None:
    with catalog.begin() as tx:
        study = tx.studies.find(study_instance_uid)
        if study is None or study.state is not StudyState.ARRIVING:
            return None
        choice = rules.choose_images(tx.studies.instances(study_instance_uid), policy.chest)
        state = _next_state(tx, study, choice.images)
        tx.studies.put_state(study_instance_uid, state, reason=choice.reason)
        if state is StudyState.SETTLED:
            brought = tx.backfills.brought([study_instance_uid])
            tx.jobs.put(JobKind.SCORE, study_instance_uid, priority=backfill.PRIORITY if brought else ARRIVED)
        return Settled(study_instance_uid, state, choice.reason)


def _next_state(tx: Transaction, study: Study, images: tuple[StoredInstance, ...]) -> StudyState:
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
