"""settle: a stable or complete study -> a score job, or `ignored` with the reason in words."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline import priorities, rules
from pipeline.domain import AuditEvent, JobKind, ReportState, StoredInstance, Study, StudyState
from pipeline.errors import ArchiveBusy, ArchiveUnreachable, RefusedByArchive
from pipeline.ports.services import Catalog, CircuitPolicy, InstanceCounter, Transaction

log = logging.getLogger("radclipd.settle")

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


def settle(*, catalog: Catalog, policy: SettlePolicy) -> list[SettleResult]:
    """Settle every stable or released study. No archive is asked: a stable study waits for nobody."""
    with catalog.read() as tx:
        ready = tx.studies.stable_studies(
            seconds=policy.stable_age_seconds, released=policy.settle_on_release, limit=MAX_STUDIES_PER_ROUND
        )
    return _settle_studies(ready, catalog=catalog, policy=policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountPolicy:
    """How an archive is asked for instance counts; times in seconds."""

    circuit: CircuitPolicy
    max_age_seconds: float = 5.0  # between two queries about one study
    query_seconds: float = 10.0  # one query, all told
    round_seconds: float = 10.0  # a round begins no query later than this; the other studies come first in the next round


class ArchiveCounts:
    """Instance counts of an archive: of each study as of its last query. The archive has a circuit breaker for these queries alone,
    so an archive that only stores still gets its reports, and one that is silent is left alone."""

    def __init__(
        self, *, catalog: Catalog, archive: InstanceCounter, policy: CountPolicy, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._catalog, self._archive, self._policy, self._clock = catalog, archive, policy, clock
        self._circuit = f"{archive.name} C-FIND"
        self._queried_at: dict[str, float] = {}
        self._counts: dict[str, int | None] = {}

    def complete_studies(self) -> list[str]:
        """Query the counts that are due, and return the arriving studies whose instances have all come."""
        with self._catalog.read() as tx:
            arriving = dict(tx.studies.arriving_studies(limit=MAX_STUDIES_PER_ROUND))
        self._queried_at = {uid: at for uid, at in self._queried_at.items() if uid in arriving}
        self._counts = {uid: count for uid, count in self._counts.items() if uid in arriving}
        if due := self._find_due(list(arriving)):
            self._query_counts(due)
        return [uid for uid, received in arriving.items() if rules.is_complete(received, self._counts.get(uid))]

    def _find_due(self, arriving: Sequence[str]) -> list[str]:
        """Return the studies to ask for: the one whose last query is longest ago comes first, so a slow archive starves none."""
        latest = self._clock() - self._policy.max_age_seconds
        due = [uid for uid in arriving if self._queried_at.get(uid, latest) <= latest]
        return sorted(due, key=lambda uid: self._queried_at.get(uid, float("-inf")))

    def _query_counts(self, due: Sequence[str]) -> None:
        policy, ends_at = self._policy, self._clock() + self._policy.round_seconds
        with self._catalog.begin() as tx:
            if not tx.circuits.admit(self._circuit, probe_seconds=policy.round_seconds + policy.query_seconds):
                return
        for uid in due:
            if self._clock() >= ends_at:
                break
            if not self._query_count(uid):
                return
        with self._catalog.begin() as tx:
            tx.circuits.record_success(self._circuit)

    def _query_count(self, study_instance_uid: str) -> bool:
        """Query one count; return whether the archive was reached."""
        self._queried_at[study_instance_uid] = self._clock()
        try:
            count = self._archive.count_instances(study_instance_uid, limit_seconds=self._policy.query_seconds)
        except ArchiveUnreachable as error:
            log.warning("archive cannot be asked", extra={"archive": self._archive.name, "error": str(error), "hint": error.hint})
            circuit = self._policy.circuit
            with self._catalog.begin() as tx:
                tx.circuits.record_failure(self._circuit, threshold=circuit.threshold, open_seconds=circuit.open_seconds)
            return False
        except (ArchiveBusy, RefusedByArchive) as error:
            log.info("archive cannot count", extra={"archive": self._archive.name, "error": str(error), "hint": error.hint})
            count = None
        self._counts[study_instance_uid] = count
        return True


def settle_complete(*, catalog: Catalog, counts: ArchiveCounts, policy: SettlePolicy) -> list[SettleResult]:
    """Settle the arriving studies whose instances, as the archive counts them, have all come."""
    return _settle_studies(counts.complete_studies(), catalog=catalog, policy=policy)


def _settle_studies(study_instance_uids: Sequence[str], *, catalog: Catalog, policy: SettlePolicy) -> list[SettleResult]:
    return [result for uid in study_instance_uids if (result := _settle_study(uid, catalog=catalog, policy=policy))]


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
