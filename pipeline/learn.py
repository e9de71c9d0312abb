"""learn: labels -> a trained and measured candidate version -> serving, waiting for a person, or rejected with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pipeline import priorities, rules, versions
from pipeline.consensus import (
    USUAL_WEIGHTS,
    ConsensusSet,
    ExposureWeights,
    LabelPolicy,
    resolve_consensus,
    select_blind_labels,
    select_unexposed_labels,
)
from pipeline.domain import (
    ABSENT,
    FINDINGS,
    PRESENT,
    UNKNOWN,
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
from pipeline.reading_errors import USUAL_ERRORS, ReadingErrors

ALL_LABELS = "labels"
"""Subject of every LEARN job. At most one job of a subject waits and one runs, so rounds of learning never pile up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnPolicy:
    """`[learn]`, `[labels]` and `[study]` of the configuration."""

    labels: LabelPolicy
    chest: rules.ChestPolicy
    gate: rules.GatePolicy
    min_positives: float  # true positive studies, expected from the labels, that a finding needs
    errors: ReadingErrors = USUAL_ERRORS
    weights: ExposureWeights = USUAL_WEIGHTS
    unlabelled_studies: int  # newest studies of the archive whose images are used without labels


class LearnResult(StrEnum):
    """Result of a round of learning."""

    PROMOTED = "promoted"
    WAITING = "waiting"  # the candidate waits for a person to promote it, or for labels to measure it on
    REJECTED = "rejected"
    UNCHANGED = "unchanged"  # a version was trained on the same labels before
    NOTHING = "nothing to learn"


@dataclass(frozen=True, slots=True)
class LearnOutcome:
    """The result of a round of learning with its reason."""

    result: LearnResult
    reason: str  # in words
    version: ModelVersion | None = None  # the candidate, or of UNCHANGED the earlier version; None: NOTHING


def enqueue_learning(*, catalog: Catalog, min_new_labels: int) -> bool:
    """Enqueue a LEARN job where at least `min_new_labels` labels are newer than the last training; return whether.

    False also where a LEARN job waits already.
    """
    with catalog.begin() as tx:
        learnt_ids = [int(version.card.get("learning", {}).get("newest_label", 0)) for version in tx.versions.all()]
        if tx.labels.count_newer(max(learnt_ids, default=0)) < max(1, min_new_labels):
            return False
        return tx.jobs.put(JobKind.LEARN, ALL_LABELS, priority=priorities.LEARN) is not None


def learn_job(job: Job, *, catalog: Catalog, trainer: Trainer, policy: LearnPolicy, on_progress: StageCallback) -> LearnOutcome:
    """Run one round of learning and finish the job, in the transaction that inserts the candidate where there is one."""
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
    """Train a candidate on the consensus of all labels except those of the monitoring sample; promote it where the gate allows.

    No training where there are too few labels, or where the labels are those of the last training, unless `relearn`. Nothing is
    written before the candidate is complete. NoWeights where no version serves.
    """
    with catalog.read() as tx:
        training_set, learnable = _build_training_set(tx, policy)
        earlier = None if relearn else _find_learnt_version(tx.versions.all(), training_set)
    if not training_set.findings:
        outcome = LearnOutcome(LearnResult.NOTHING, _explain_too_few_labels(learnable, policy))
        return _finish_without_version(outcome, job, catalog)
    if earlier is not None:
        reason = f"these labels were learnt as version {earlier.number}, {earlier.state.value}"
        return _finish_without_version(LearnOutcome(LearnResult.UNCHANGED, reason, earlier), job, catalog)
    candidate = trainer.train(training_set, on_progress)
    return _commit_candidate(candidate, training_set, job, catalog=catalog, policy=policy)


def _build_training_set(tx: Transaction, policy: LearnPolicy) -> tuple[TrainingSet, rules.LearnableFindings]:
    """Return the training set, and of each finding that it leaves out the reason."""
    serving = versions.require_serving(tx)
    labels = tx.labels.all()
    monitoring_patients = _find_monitoring_patients(tx, labels)
    monitoring_studies = {label.study_instance_uid for label in labels if label.selection_reason == rules.MONITORING}
    labelled = list(_build_examples(tx, labels, policy))
    candidates = [example for example in labelled if example.patient_key not in monitoring_patients]
    learnable = rules.learnable_findings(candidates, min_positives=policy.min_positives, errors=policy.errors)
    masked = [_mask_targets(example, learnable.findings) for example in candidates]
    examples = [example for example in masked if set(example.targets) != {UNKNOWN}]
    training_set = TrainingSet(
        examples=tuple(examples),
        findings=learnable.findings,
        unlabelled_instances=tuple(_choose_unlabelled(tx, policy, monitoring_patients)) if learnable.findings else (),
        serving=serving,
        label_fingerprint=_compute_fingerprint(examples),
        newest_label_id=max((label.id for label in labels), default=0),
        required_confidence=policy.gate.required_confidence(_count_candidates(tx.versions.all(), serving) + 1),
        monitoring_examples=tuple(
            _select_measured(example for example in labelled if example.study_instance_uid in monitoring_studies)
        ),
    )
    return training_set, learnable


def _find_monitoring_patients(tx: Transaction, labels: Iterable[Label]) -> set[str]:
    """Return the keys of the monitoring sample's patients. Membership is permanent: revoked labels and open requests count too."""
    uids = {label.study_instance_uid for label in labels if label.selection_reason == rules.MONITORING}
    uids |= {request.study_instance_uid for request in tx.requests.all() if request.selection_reason == rules.MONITORING}
    return set(tx.studies.patient_keys(sorted(uids)).values())


def _build_examples(tx: Transaction, labels: Sequence[Label], policy: LearnPolicy) -> Iterable[TrainingExample]:
    consensus = resolve_consensus(select_blind_labels(labels), policy.labels)
    measured = resolve_consensus(select_unexposed_labels(labels), policy.labels).targets(consensus.studies)
    patient_keys = tx.studies.patient_keys(consensus.studies)
    instances = tx.studies.instances_of(consensus.studies)
    probabilities = {label.study_instance_uid: label.selection_probability for label in reversed(labels)}  # the first label's stays
    for uid, targets, unexposed in zip(consensus.studies, consensus.targets(consensus.studies), measured, strict=True):
        images = rules.choose_images(instances.get(uid, []), policy.chest).images
        if images:
            yield TrainingExample(
                study_instance_uid=uid,
                patient_key=patient_keys[uid],
                instance=images[0],
                targets=tuple(int(target) for target in targets),
                selection_probability=probabilities[uid],
                votes=_count_net_votes(consensus, uid),
                weights=_weigh_targets(consensus, uid, policy.weights),
                measured=tuple(int(target) for target in unexposed),
            )


def _count_net_votes(consensus: ConsensusSet, study: str) -> tuple[int, ...]:
    """Return [14]: readers that agree with the consensus less those that disagree, at least 1."""
    found = (consensus.by_key.get((study, finding)) for finding in FINDINGS)
    return tuple(max(1, sum(1 if vote.state is one.state else -1 for vote in one.votes)) if one else 1 for one in found)


def _weigh_targets(consensus: ConsensusSet, study: str, weights: ExposureWeights) -> tuple[float, ...]:
    """Return [14]: the weight of the least exposed reader who agrees with the consensus; 1 without one."""
    found = (consensus.by_key.get((study, finding)) for finding in FINDINGS)
    agreeing = ([weights.weigh(vote) for vote in one.votes if vote.state is one.state] if one else [] for one in found)
    return tuple(max(of, default=1.0) for of in agreeing)


def _select_measured(examples: Iterable[TrainingExample]) -> Iterable[TrainingExample]:
    """Yield the examples with the targets that versions are measured on, those that have any."""
    for example in examples:
        if set(example.measured_targets) != {UNKNOWN}:
            yield replace(example, targets=example.measured_targets)


def _mask_targets(example: TrainingExample, findings: Sequence[str]) -> TrainingExample:
    """Return the example with the targets of all other findings UNKNOWN."""
    targets, measured = (
        tuple(target if finding in findings else UNKNOWN for finding, target in zip(FINDINGS, known, strict=True))
        for known in (example.targets, example.measured_targets)
    )
    return replace(example, targets=targets, measured=measured)


def _choose_unlabelled(tx: Transaction, policy: LearnPolicy, monitoring_patients: set[str]) -> Iterable[StoredInstance]:
    newest = tx.studies.newest_complete(limit=policy.unlabelled_studies)
    instances, patient_keys = tx.studies.instances_of(newest), tx.studies.patient_keys(newest)
    for uid in newest:
        images = rules.choose_images(instances.get(uid, []), policy.chest).images
        if images and patient_keys[uid] not in monitoring_patients:
            yield images[0]


def _compute_fingerprint(examples: Sequence[TrainingExample]) -> str:
    """Return `rules.labels_fingerprint` of the examples' targets, and of what they are measured on."""
    state_of_target = {PRESENT: LabelState.PRESENT, ABSENT: LabelState.ABSENT}
    known = [
        (example.study_instance_uid, finding, target, measured)
        for example in examples
        for finding, target, measured in zip(FINDINGS, example.targets, example.measured_targets, strict=True)
        if target != UNKNOWN
    ]
    return rules.labels_fingerprint(
        {(study, finding): state_of_target[target] for study, finding, target, _ in known},
        exposed={(study, finding) for study, finding, target, measured in known if measured != target},
    )


def _find_learnt_version(all_versions: Sequence[ModelVersion], training_set: TrainingSet) -> ModelVersion | None:
    """Return the newest trained version where it was trained on the labels and the base of this training set; else None."""
    newest = next((version for version in reversed(all_versions) if version.label_fingerprint), None)
    if newest is None:
        return None
    same = (newest.label_fingerprint, newest.base) == (training_set.label_fingerprint, training_set.serving.base)
    return newest if same else None


def _explain_too_few_labels(learnable: rules.LearnableFindings, policy: LearnPolicy) -> str:
    required = f"{policy.min_positives:g} true positive studies, and either kind of two patients or more"
    labelled = {finding: reason for finding, reason in learnable.exclusions.items() if not reason.startswith("0 present, of 0")}
    if not labelled:
        return f"no study with a frontal film shows a finding by its labels; a finding needs {required}"
    return f"a finding needs {required}: " + "; ".join(f"{finding}: {reason}" for finding, reason in labelled.items())


def _finish_without_version(outcome: LearnOutcome, job: Job | None, catalog: Catalog) -> LearnOutcome:
    if job is not None:
        with catalog.begin() as tx:
            tx.audit(AuditEvent("learn", "done", "", f"{outcome.result.value}: {outcome.reason}"))
            _finish_job(tx, job, outcome)
    return outcome


def _commit_candidate(
    candidate: Candidate, training_set: TrainingSet, job: Job | None, *, catalog: Catalog, policy: LearnPolicy
) -> LearnOutcome:
    """Publish the candidate's files, then insert its row with state and audit event in one transaction."""
    with catalog.read() as tx:
        look = _count_candidates(tx.versions.all(), training_set.serving) + 1
    verdict = rules.may_promote(candidate.comparisons, policy.gate, look=look)
    with candidate.stage_files() as publish, catalog.begin() as tx:
        version = publish(tx.versions.next_number())
        serving = tx.versions.serving()
        same_serving = serving is not None and serving.number == training_set.serving.number
        result, reason = _decide_result(verdict, policy.gate, compared_with_serving=same_serving)
        state = VersionState.REJECTED if result is LearnResult.REJECTED else VersionState.CANDIDATE
        tx.versions.add(replace(version, state=state, reason=reason))
        if result is LearnResult.PROMOTED:
            tx.versions.serve(version.number)
        tx.audit(AuditEvent("learn", "done", f"version {version.number}", f"{result.value}: {reason}"))
        outcome = LearnOutcome(result, reason, tx.versions.find(version.number) or version)
        if job is not None:
            _finish_job(tx, job, outcome)
    return outcome


def _count_candidates(all_versions: Sequence[ModelVersion], serving: ModelVersion) -> int:
    """Return the number of versions that were trained while this one served."""
    return sum(version.number > serving.number and bool(version.label_fingerprint) for version in all_versions)


def _finish_job(tx: Transaction, job: Job, outcome: LearnOutcome) -> None:
    """Finish the job and keep the outcome in its payload, also where there is no version."""
    number = outcome.version.number if outcome.version else None
    tx.jobs.put_notes(job, {"result": outcome.result.value, "reason": outcome.reason, "version": number})
    tx.jobs.finish(job)


def _decide_result(verdict: rules.Verdict, gate: rules.GatePolicy, *, compared_with_serving: bool) -> tuple[LearnResult, str]:
    if verdict.waits:
        return LearnResult.WAITING, verdict.reason
    if not verdict.passed:
        return LearnResult.REJECTED, verdict.reason
    if not compared_with_serving:
        return LearnResult.WAITING, f"another version serves than the one it was compared with; {verdict.reason}"
    if gate.promote == "manual":
        return LearnResult.WAITING, verdict.reason
    return LearnResult.PROMOTED, verdict.reason
