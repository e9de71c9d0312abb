"""learn: what readers say -> a candidate version, measured -> the serving one, or a rejected one with the reason in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pipeline import rules
from pipeline.consensus import UNKNOWN, LabelPolicy, resolve
from pipeline.domain import (
    FINDINGS,
    AuditEvent,
    Course,
    Job,
    JobKind,
    Label,
    LabelState,
    Lesson,
    ModelVersion,
    StoredInstance,
    VersionState,
)
from pipeline.errors import NoWeights
from pipeline.ports.outside import Candidate, Catalog, Trainer, Transaction, Watch

ALL_LABELS = "labels"
"""Subject of every LEARN job: of one subject one job waits and one runs at most, so rounds of learning never pile up."""
BACKGROUND_PRIORITY = 500
"""Of jobs that can wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnPolicy:
    """`[learn]`, `[labels]` and `[study]` of the configuration."""

    labels: LabelPolicy
    chest: rules.ChestPolicy
    gate: rules.GatePolicy
    minimum_positives: int
    background: int  # studies of the archive that are looked at for how films differ


class LearnResult(StrEnum):
    """What became of a round of learning."""

    PROMOTED = "promoted"
    WAITING = "waiting"  # good enough, and a person is to promote it
    REJECTED = "rejected"
    UNCHANGED = "unchanged"  # the labels have been learnt already
    NOTHING = "nothing to learn"


@dataclass(frozen=True, slots=True)
class Learnt:
    """The result, the reason in words, and the version that was made, if one was."""

    result: LearnResult
    reason: str
    version: ModelVersion | None = None


def call(*, catalog: Catalog, minimum_labels: int) -> bool:
    """Put a LEARN job where at least so many statements have come since labels were last learnt; say whether.

    Where one waits already it stays the only one.
    """
    with catalog.begin() as tx:
        learnt = [int(version.card.get("learning", {}).get("newest_label", 0)) for version in tx.versions.all()]
        fresh = sum(label.id > max(learnt, default=0) for label in tx.labels.all())
        if fresh < max(1, minimum_labels):
            return False
        return tx.jobs.put(JobKind.LEARN, ALL_LABELS, priority=BACKGROUND_PRIORITY) is not None


def learn_job(job: Job, *, catalog: Catalog, trainer: Trainer, policy: LearnPolicy, watch: Watch) -> Learnt:
    """Do one round and finish the job, in the transaction that holds the version where one was made."""
    return learn(catalog=catalog, trainer=trainer, policy=policy, watch=watch, job=job)


def learn(
    *,
    catalog: Catalog,
    trainer: Trainer,
    policy: LearnPolicy,
    watch: Watch,
    again: bool = False,
    job: Job | None = None,
) -> Learnt:
    """Learn from all labels that hold but those of the monitoring sample, and let the candidate serve where it has earned it.

    Nothing is learnt where too little is labelled, or where the labels have not changed since they were last learnt; `again`
    learns them in that case too. Nothing is written before the candidate is whole. NoWeights where no version serves.
    """
    with catalog.read() as tx:
        course, missing = _course(tx, policy)
        known = None if again else _learnt_before(tx.versions.all(), course)
    if not course.findings:
        return _nothing_made(Learnt(LearnResult.NOTHING, _too_little(course, missing, policy)), job, catalog)
    if known is not None:
        words = f"these labels were learnt as version {known.number}, {known.state.value}"
        return _nothing_made(Learnt(LearnResult.UNCHANGED, words, known), job, catalog)
    candidate = trainer.train(course, watch)
    return _commit(candidate, course, job, catalog=catalog, policy=policy)


def _course(tx: Transaction, policy: LearnPolicy) -> tuple[Course, rules.Learnable]:
    serving = tx.versions.serving()
    if serving is None:
        raise NoWeights("no model version serves", hint="radclipd model import FILE, or radclipd model fetch TAG")
    statements = tx.labels.all()
    aside = _monitored(tx, statements)
    labelled = list(_lessons(tx, statements, policy))
    lessons = [lesson for lesson in labelled if lesson.patient not in aside]
    drawn = {label.study_instance_uid for label in statements if label.asked_because == rules.MONITORING}
    found = rules.learnable(lessons, minimum_positives=policy.minimum_positives)
    wanted = [finding in found.findings for finding in FINDINGS]
    taught = [_only(lesson, wanted) for lesson in lessons]
    taught = [lesson for lesson in taught if set(lesson.targets) != {UNKNOWN}]
    course = Course(
        lessons=tuple(taught),
        findings=found.findings,
        background=tuple(_background(tx, policy, aside)) if found.findings else (),
        serving=serving,
        label_fingerprint=_fingerprint(taught),
        newest_label=max((label.id for label in statements), default=0),
        monitored=tuple(lesson for lesson in labelled if lesson.study_instance_uid in drawn),
    )
    return course, found


def _monitored(tx: Transaction, statements: Iterable[Label]) -> set[str]:
    """Return the patients of the monitoring sample. Once in it, always in it: withdrawn statements count too, and so does what
    was asked for and is not read yet."""
    uids = {label.study_instance_uid for label in statements if label.asked_because == rules.MONITORING}
    uids |= {request.study_instance_uid for request in tx.requests.all() if request.asked_because == rules.MONITORING}
    studies = (tx.studies.find(uid) for uid in sorted(uids))
    return {study.patient_key for study in studies if study is not None}


def _lessons(tx: Transaction, statements: Sequence[Label], policy: LearnPolicy) -> Iterable[Lesson]:
    resolution = resolve(statements, policy.labels)
    for uid, targets in zip(resolution.studies, resolution.targets(resolution.studies), strict=True):
        study = tx.studies.find(uid)
        films = rules.choose_images(tx.studies.instances(uid), policy.chest).images
        if study is not None and films:
            yield Lesson(uid, study.patient_key, films[0], tuple(int(target) for target in targets))


def _only(lesson: Lesson, wanted: Sequence[bool]) -> Lesson:
    """Return the lesson without the findings that are not learnt."""
    kept = zip(lesson.targets, wanted, strict=True)
    return replace(lesson, targets=tuple(target if learnt else UNKNOWN for target, learnt in kept))


def _background(tx: Transaction, policy: LearnPolicy, aside: set[str]) -> Iterable[StoredInstance]:
    for uid in tx.studies.newest(limit=policy.background):
        films = rules.choose_images(tx.studies.instances(uid), policy.chest).images
        if films and films[0].header.patient_key not in aside:
            yield films[0]


def _fingerprint(lessons: Iterable[Lesson]) -> str:
    """Return rules.labels_fingerprint of what is taught."""
    states = {1: LabelState.PRESENT, 0: LabelState.ABSENT}
    return rules.labels_fingerprint(
        {
            (lesson.study_instance_uid, finding): states[target]
            for lesson in lessons
            for finding, target in zip(FINDINGS, lesson.targets, strict=True)
            if target != UNKNOWN
        }
    )


def _learnt_before(versions: Sequence[ModelVersion], course: Course) -> ModelVersion | None:
    """Return the last version that was learnt, where it was from these labels and on this base."""
    learnt = [version for version in versions if version.label_fingerprint]
    same = learnt and (learnt[-1].label_fingerprint, learnt[-1].base) == (course.label_fingerprint, course.serving.base)
    return learnt[-1] if same else None


def _too_little(course: Course, found: rules.Learnable, policy: LearnPolicy) -> str:
    asked = f"{policy.minimum_positives} studies that show it, and either kind of two patients or more"
    labelled = {finding: words for finding, words in found.missing.items() if not words.startswith("0 present, of 0")}
    if not labelled:
        return f"no study with a frontal film shows a finding by its labels; a finding needs {asked}"
    return f"a finding needs {asked}: " + "; ".join(f"{finding}: {words}" for finding, words in labelled.items())


def _nothing_made(learnt: Learnt, job: Job | None, catalog: Catalog) -> Learnt:
    if job is not None:
        with catalog.begin() as tx:
            tx.audit(AuditEvent("learn", "done", "", f"{learnt.result.value}: {learnt.reason}"))
            _finish(tx, job, learnt)
    return learnt


def _commit(candidate: Candidate, course: Course, job: Job | None, *, catalog: Catalog, policy: LearnPolicy) -> Learnt:
    """Files first, the row with its state and the audit in one transaction."""
    verdict = rules.may_promote(candidate.comparisons, policy.gate)
    with candidate.staged() as publish, catalog.begin() as tx:
        made = publish(tx.versions.next_number())
        serving = tx.versions.serving()
        compared = serving is not None and serving.number == course.serving.number
        result, reason = _result(verdict, policy.gate, compared=compared)
        state = VersionState.REJECTED if result is LearnResult.REJECTED else VersionState.CANDIDATE
        tx.versions.add(replace(made, state=state, reason=reason))
        if result is LearnResult.PROMOTED:
            tx.versions.serve(made.number)
        tx.audit(AuditEvent("learn", "done", f"version {made.number}", f"{result.value}: {reason}"))
        learnt = Learnt(result, reason, tx.versions.find(made.number) or made)
        if job is not None:
            _finish(tx, job, learnt)
    return learnt


def _finish(tx: Transaction, job: Job, learnt: Learnt) -> None:
    """The job keeps what became of it, also where no version did."""
    number = learnt.version.number if learnt.version else None
    tx.jobs.note(job, {"result": learnt.result.value, "reason": learnt.reason, "version": number})
    tx.jobs.finish(job)


def _result(verdict: rules.Verdict, gate: rules.GatePolicy, *, compared: bool) -> tuple[LearnResult, str]:
    if not verdict.passed:
        return LearnResult.REJECTED, verdict.reason
    if not compared:
        return LearnResult.WAITING, f"another version serves than the one it was compared with; {verdict.reason}"
    if gate.promote == "by-hand":
        return LearnResult.WAITING, verdict.reason
    return LearnResult.PROMOTED, verdict.reason
