"""learn: what readers say -> a candidate version, measured -> the serving one, or a rejected one with the reason in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pipeline import rules, versions
from pipeline.consensus import UNKNOWN, LabelPolicy, resolve_consensus
from pipeline.domain import (
    FINDINGS,
    AuditEvent,
    Job,
    JobKind,
    Label,
    LabelState,
    ModelVersion,
    StoredInstance,
    TrainingExample,
    TrainingSet,
    VersionState,
)
from pipeline.ports.services import Candidate, Catalog, StageCallback, Trainer, Transaction

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
    min_positives: int
    unlabelled_studies: int  # studies of the archive that are looked at for how films differ


class LearnResult(StrEnum):
    """What became of a round of learning."""

    PROMOTED = "promoted"
    WAITING = "waiting"  # good enough, and a person is to promote it
    REJECTED = "rejected"
    UNCHANGED = "unchanged"  # the labels have been learnt already
    NOTHING = "nothing to learn"


@dataclass(frozen=True, slots=True)
class LearnOutcome:
    """The result, the reason in words, and the version that was made, if one was."""

    result: LearnResult
    reason: str
    version: ModelVersion | None = None


def enqueue_learning(*, catalog: Catalog, min_new_labels: int) -> bool:
    """Put a LEARN job where at least so many statements have come since labels were last learnt; say whether.

    Where one waits already it stays the only one.
    """
    with catalog.begin() as tx:
        learnt = [int(version.card.get("learning", {}).get("newest_label", 0)) for version in tx.versions.all()]
        fresh = sum(label.id > max(learnt, default=0) for label in tx.labels.all())
        if fresh < max(1, min_new_labels):
            return False
        return tx.jobs.put(JobKind.LEARN, ALL_LABELS, priority=BACKGROUND_PRIORITY) is not None


def learn_job(job: Job, *, catalog: Catalog, trainer: Trainer, policy: LearnPolicy, on_progress: StageCallback) -> LearnOutcome:
    """Do one round and finish the job, in the transaction that holds the version where one was made."""
    return learn(catalog=catalog, trainer=trainer, policy=policy, on_progress=on_progress, job=job)


def learn(
    *,
    catalog: Catalog,
    trainer: Trainer,
    policy: LearnPolicy,
    on_progress: StageCallback,
    relearn: bool = False,
    job: Job | None = None,
) -> LearnOutcome:
    """Learn from all labels that hold but those of the monitoring sample, and let the candidate serve where it has earned it.

    Nothing is learnt where too little is labelled, or where the labels have not changed since they were last learnt; `again`
    learns them in that case too. Nothing is written before the candidate is whole. NoWeights where no version serves.
    """
    with catalog.read() as tx:
        course, missing = _build_training_set(tx, policy)
        known = None if relearn else _find_learnt_version(tx.versions.all(), course)
    if not course.findings:
        return _finish_without_version(
            LearnOutcome(LearnResult.NOTHING, _explain_too_few_labels(course, missing, policy)), job, catalog
        )
    if known is not None:
        words = f"these labels were learnt as version {known.number}, {known.state.value}"
        return _finish_without_version(LearnOutcome(LearnResult.UNCHANGED, words, known), job, catalog)
    candidate = trainer.train(course, on_progress)
    return _commit_candidate(candidate, course, job, catalog=catalog, policy=policy)


def _build_training_set(tx: Transaction, policy: LearnPolicy) -> tuple[TrainingSet, rules.LearnableFindings]:
    serving = versions.require_serving(tx)
    statements = tx.labels.all()
    aside = _find_monitoring_patients(tx, statements)
    labelled = list(_build_examples(tx, statements, policy))
    lessons = [lesson for lesson in labelled if lesson.patient_key not in aside]
    drawn = {label.study_instance_uid for label in statements if label.selection_reason == rules.MONITORING}
    found = rules.learnable_findings(lessons, min_positives=policy.min_positives)
    wanted = [finding in found.findings for finding in FINDINGS]
    taught = [_mask_targets(lesson, wanted) for lesson in lessons]
    taught = [lesson for lesson in taught if set(lesson.targets) != {UNKNOWN}]
    course = TrainingSet(
        examples=tuple(taught),
        findings=found.findings,
        unlabelled_instances=tuple(_choose_unlabelled(tx, policy, aside)) if found.findings else (),
        serving=serving,
        label_fingerprint=_compute_fingerprint(taught),
        newest_label_id=max((label.id for label in statements), default=0),
        monitoring_examples=tuple(lesson for lesson in labelled if lesson.study_instance_uid in drawn),
    )
    return course, found


def _find_monitoring_patients(tx: Transaction, statements: Iterable[Label]) -> set[str]:
    """Return the patients of the monitoring sample. Once in it, always in it: withdrawn statements count too, and so does what
    was asked for and is not read yet."""
    uids = {label.study_instance_uid for label in statements if label.selection_reason == rules.MONITORING}
    uids |= {request.study_instance_uid for request in tx.requests.all() if request.selection_reason == rules.MONITORING}
    studies = (tx.studies.find(uid) for uid in sorted(uids))
    return {study.patient_key for study in studies if study is not None}


def _build_examples(tx: Transaction, statements: Sequence[Label], policy: LearnPolicy) -> Iterable[TrainingExample]:
    resolution = resolve_consensus(statements, policy.labels)
    for uid, targets in zip(resolution.studies, resolution.targets(resolution.studies), strict=True):
        study = tx.studies.find(uid)
        films = rules.choose_images(tx.studies.instances(uid), policy.chest).images
        if study is not None and films:
            yield TrainingExample(uid, study.patient_key, films[0], tuple(int(target) for target in targets))


def _mask_targets(example: TrainingExample, wanted: Sequence[bool]) -> TrainingExample:
    """Return the lesson without the findings that are not learnt."""
    kept = zip(example.targets, wanted, strict=True)
    return replace(example, targets=tuple(target if learnt else UNKNOWN for target, learnt in kept))


def _choose_unlabelled(tx: Transaction, policy: LearnPolicy, aside: set[str]) -> Iterable[StoredInstance]:
    for uid in tx.studies.newest_complete(limit=policy.unlabelled_studies):
        films = rules.choose_images(tx.studies.instances(uid), policy.chest).images
        if films and films[0].header.patient_key not in aside:
            yield films[0]


def _compute_fingerprint(examples: Iterable[TrainingExample]) -> str:
    """Return rules.labels_fingerprint of what is taught."""
    states = {1: LabelState.PRESENT, 0: LabelState.ABSENT}
    return rules.labels_fingerprint(
        {
            (lesson.study_instance_uid, finding): states[target]
            for lesson in examples
            for finding, target in zip(FINDINGS, lesson.targets, strict=True)
            if target != UNKNOWN
        }
    )


def _find_learnt_version(versions: Sequence[ModelVersion], training_set: TrainingSet) -> ModelVersion | None:
    """Return the last version that was learnt, where it was from these labels and on this base."""
    learnt = [version for version in versions if version.label_fingerprint]
    same = learnt and (learnt[-1].label_fingerprint, learnt[-1].base) == (training_set.label_fingerprint, training_set.serving.base)
    return learnt[-1] if same else None


def _explain_too_few_labels(training_set: TrainingSet, found: rules.LearnableFindings, policy: LearnPolicy) -> str:
    asked = f"{policy.min_positives} studies that show it, and either kind of two patients or more"
    labelled = {finding: words for finding, words in found.exclusions.items() if not words.startswith("0 present, of 0")}
    if not labelled:
        return f"no study with a frontal film shows a finding by its labels; a finding needs {asked}"
    return f"a finding needs {asked}: " + "; ".join(f"{finding}: {words}" for finding, words in labelled.items())


def _finish_without_version(outcome: LearnOutcome, job: Job | None, catalog: Catalog) -> LearnOutcome:
    if job is not None:
        with catalog.begin() as tx:
            tx.audit(AuditEvent("learn", "done", "", f"{outcome.result.value}: {outcome.reason}"))
            _finish_job(tx, job, outcome)
    return outcome


def _commit_candidate(
    candidate: Candidate, training_set: TrainingSet, job: Job | None, *, catalog: Catalog, policy: LearnPolicy
) -> LearnOutcome:
    """Files first, the row with its state and the audit in one transaction."""
    verdict = rules.may_promote(candidate.comparisons, policy.gate)
    with candidate.stage_files() as publish, catalog.begin() as tx:
        made = publish(tx.versions.next_number())
        serving = tx.versions.serving()
        compared = serving is not None and serving.number == training_set.serving.number
        result, reason = _decide_result(verdict, policy.gate, compared=compared)
        state = VersionState.REJECTED if result is LearnResult.REJECTED else VersionState.CANDIDATE
        tx.versions.add(replace(made, state=state, reason=reason))
        if result is LearnResult.PROMOTED:
            tx.versions.serve(made.number)
        tx.audit(AuditEvent("learn", "done", f"version {made.number}", f"{result.value}: {reason}"))
        learnt = LearnOutcome(result, reason, tx.versions.find(made.number) or made)
        if job is not None:
            _finish_job(tx, job, learnt)
    return learnt


def _finish_job(tx: Transaction, job: Job, outcome: LearnOutcome) -> None:
    """The job keeps what became of it, also where no version did."""
    number = outcome.version.number if outcome.version else None
    tx.jobs.put_notes(job, {"result": outcome.result.value, "reason": outcome.reason, "version": number})
    tx.jobs.finish(job)


def _decide_result(verdict: rules.Verdict, gate: rules.GatePolicy, *, compared: bool) -> tuple[LearnResult, str]:
    if not verdict.passed:
        return LearnResult.REJECTED, verdict.reason
    if not compared:
        return LearnResult.WAITING, f"another version serves than the one it was compared with; {verdict.reason}"
    if gate.promote == "manual":
        return LearnResult.WAITING, verdict.reason
    return LearnResult.PROMOTED, verdict.reason
