"""Rounds of learning as jobs: when they are enqueued, that they never pile up, and the state after a stop or a crash."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from adapters.config.sections import LearnConfig
from adapters.service.scheduler import Scheduler
from pipeline import learn
from pipeline.domain import ABSENT, FINDINGS, PRESENT, UNKNOWN, JobKind, JobState, Label, LabelExposure, LabelState, VersionState
from pipeline.errors import OutOfResources, StopRequested
from tests.builders.hospital_in_memory import Hospital


def label(hospital: Hospital, *numbers: int) -> None:
    """Receive studies of separate patients and label them, every other one with a mass."""
    for number in numbers:
        hospital.receive(hospital.header(f"1.{number}", f"1.{number}.1", patient_id=f"P{number}"))
    hospital.run()
    with hospital.catalog.begin() as tx:
        tx.labels.append(
            [
                Label(
                    study_instance_uid=f"1.{number}",
                    finding="Mass",
                    state=LabelState.PRESENT if number % 2 else LabelState.ABSENT,
                    reader="alice",
                    source="test",
                    stated_at=tx.now(),
                )
                for number in numbers
            ]
        )


@pytest.fixture
def hospital() -> Hospital:
    made = Hospital()
    label(made, *range(1, 9))
    return made


def enqueue(hospital: Hospital, minimum: int = 4) -> bool:
    return learn.enqueue_learning(catalog=hospital.catalog, min_new_labels=minimum)


def states(hospital: Hospital) -> list[VersionState]:
    return [version.state for version in hospital.catalog.tables.versions.values()]


def count_learn_jobs(hospital: Hospital) -> dict[JobState, int]:
    with hospital.catalog.read() as tx:
        return {state: count for (kind, state), count in tx.jobs.count_by_state().items() if kind is JobKind.LEARN}


def test_enough_new_labels_enqueue_one_round_of_learning(hospital: Hospital) -> None:
    assert not enqueue(hospital, 9)
    assert enqueue(hospital, 8)
    assert not enqueue(hospital, 8)  # one waits already
    assert count_learn_jobs(hospital) == {JobState.WAITING: 1}
    assert hospital.work_once(JobKind.LEARN) == 1
    assert count_learn_jobs(hospital) == {JobState.DONE: 1}
    assert states(hospital) == [VersionState.RETIRED, VersionState.SERVING]
    assert hospital.catalog.tables.audit[-1].detail.startswith("promoted: mean AUC 0.800 against 0.700")
    assert not enqueue(hospital, 1)  # no new label since
    label(hospital, 9, 10)
    assert not enqueue(hospital, 3)
    assert enqueue(hospital, 2)


@pytest.mark.parametrize(
    ("cron", "sound"),
    [("", True), ("30 2 * * *", True), ("*/5 * * * mon", True), ("nightly", False), ("61 2 * * *", False)],
)
def test_a_crontab_line_is_checked_when_the_configuration_is_read(cron: str, sound: bool) -> None:
    with nullcontext() if sound else pytest.raises(ValidationError):
        assert LearnConfig(cron=cron).cron == cron


def test_the_scheduler_follows_the_crontab_line_in_utc_and_runs_one_call_at_a_time() -> None:
    clock = Scheduler()
    clock.add_cron("30 2 * * *", "learn", lambda: None)
    clock.start()
    try:
        (job,) = clock._scheduler.get_jobs()
        assert (job.id, job.coalesce, job.max_instances) == ("learn", True, 1)
        assert job.trigger.get_next_fire_time(None, datetime(2026, 1, 1, 3, tzinfo=UTC)) == datetime(2026, 1, 2, 2, 30, tzinfo=UTC)
    finally:
        clock.stop()


def test_one_round_at_a_time(hospital: Hospital) -> None:
    enqueue(hospital)
    with hospital.catalog.begin() as tx:
        (job,) = tx.jobs.claim([JobKind.LEARN], worker="w1", lease_seconds=60)
    enqueue(hospital)  # waits while the first round runs
    assert hospital.work_once(JobKind.LEARN) == 0
    with hospital.catalog.begin() as tx:
        tx.jobs.finish(job)
    assert hospital.work_once(JobKind.LEARN) == 1


def test_labels_that_return_to_the_learnt_state_are_not_learnt_again(hospital: Hospital) -> None:
    enqueue(hospital)
    hospital.work_once(JobKind.LEARN)
    with hospital.catalog.begin() as tx:
        before = tx.labels.all()[0]
        tx.labels.append([before])  # the same statement again
    assert enqueue(hospital, 1)
    hospital.work_once(JobKind.LEARN)
    assert len(hospital.trainer.courses) == 1
    assert count_learn_jobs(hospital) == {JobState.DONE: 2}
    assert hospital.catalog.tables.audit[-1].detail.startswith("unchanged")


def test_a_stopped_round_counts_no_attempt_and_restarts(hospital: Hospital) -> None:
    enqueue(hospital)
    hospital.trainer.stopped = StopRequested("stop requested")
    for _ in range(5):  # more often than max_attempts
        hospital.catalog.tick(60)
        assert hospital.work_once(JobKind.LEARN) == 1
        assert count_learn_jobs(hospital) == {JobState.WAITING: 1}
    assert states(hospital) == [VersionState.SERVING]
    hospital.trainer.stopped = None
    hospital.catalog.tick(60)
    hospital.work_once(JobKind.LEARN)
    assert states(hospital) == [VersionState.RETIRED, VersionState.SERVING]


def test_another_worker_takes_over_the_round_of_a_dead_worker(hospital: Hospital) -> None:
    enqueue(hospital)
    with hospital.catalog.begin() as tx:
        tx.jobs.claim([JobKind.LEARN], worker="killed", lease_seconds=60)
    assert hospital.work_once(JobKind.LEARN) == 0
    hospital.catalog.tick(61)
    assert hospital.work_once(JobKind.LEARN) == 1
    assert states(hospital) == [VersionState.RETIRED, VersionState.SERVING]


def test_version_state_job_and_audit_event_are_one_transaction(hospital: Hospital) -> None:
    enqueue(hospital)
    events = len(hospital.catalog.tables.audit)

    def fail_at_the_commit(what: str, done: int, total: int) -> None:
        hospital.catalog.fail_next_commit = OutOfResources("the catalog is unreachable")

    hospital.trainer.watch = fail_at_the_commit  # type: ignore[method-assign]  # nothing commits between it and the result
    hospital.work_once(JobKind.LEARN)
    assert states(hospital) == [VersionState.SERVING]
    assert len(hospital.catalog.tables.audit) == events
    assert count_learn_jobs(hospital) == {JobState.WAITING: 1}


def test_a_candidate_that_may_be_worse_is_rejected_with_the_reason(hospital: Hospital) -> None:
    hospital.trainer.ahead = -0.01
    enqueue(hospital)
    hospital.work_once(JobKind.LEARN)
    assert states(hospital) == [VersionState.SERVING, VersionState.REJECTED]
    assert "may be worse than zero-shot" in hospital.catalog.tables.versions[2].reason


def test_a_withdrawn_label_changes_the_training_set(hospital: Hospital) -> None:
    enqueue(hospital)
    hospital.work_once(JobKind.LEARN)
    with hospital.catalog.begin() as tx:
        first = tx.labels.all()[0]
        withdrawal = Label(
            study_instance_uid=first.study_instance_uid,
            finding=first.finding,
            state=None,
            reader="alice",
            source="test",
            stated_at=tx.now(),
            revokes=first.id,
        )
        tx.labels.append([withdrawal])
    assert enqueue(hospital, 1)
    hospital.work_once(JobKind.LEARN)
    first_set, second_set = hospital.trainer.courses
    assert len(second_set.examples) == len(first_set.examples) - 1
    assert second_set.label_fingerprint != first_set.label_fingerprint


def state_mass(hospital: Hospital, study: str, state: LabelState, reader: str, exposure: LabelExposure) -> None:
    with hospital.catalog.begin() as tx:
        label = Label(
            study_instance_uid=study,
            finding="Mass",
            state=state,
            reader=reader,
            source="test",
            stated_at=tx.now(),
            exposure=exposure,
        )
        tx.labels.append([label])


def test_exposed_labels_are_learnt_by_their_weight_and_measured_on_never(hospital: Hospital) -> None:
    state_mass(hospital, "1.2", LabelState.ABSENT, "bob", LabelExposure.SEEN)  # beside alice, who was blind
    label(hospital, 10)
    with hospital.catalog.begin() as tx:
        alone = tx.labels.of_studies(["1.10"])[0]
        tx.labels.append([replace(alone, id=0, state=None, revokes=alone.id)])
    state_mass(hospital, "1.10", LabelState.ABSENT, "bob", LabelExposure.SEEN)
    assert enqueue(hospital)
    assert hospital.work_once(JobKind.LEARN) == 1
    mass = FINDINGS.index("Mass")
    examples = {one.study_instance_uid: one for one in hospital.trainer.courses[-1].examples}
    shown = {
        uid: (one.targets[mass], one.measured_targets[mass], one.weights[mass])
        for uid, one in examples.items()
        if uid in ("1.1", "1.2", "1.10")
    }
    assert shown == {"1.1": (PRESENT, PRESENT, 1.0), "1.2": (ABSENT, ABSENT, 1.0), "1.10": (ABSENT, UNKNOWN, 0.5)}


def test_a_blind_label_of_a_known_state_is_something_new_to_learn() -> None:
    """The state is known from an exposed label, and now a version can be measured on it."""
    hospital = Hospital()
    label(hospital, *range(1, 9))
    label(hospital, 9)
    with hospital.catalog.begin() as tx:
        blind = tx.labels.of_studies(["1.9"])[0]
        tx.labels.append([replace(blind, id=0, state=None, revokes=blind.id)])
    state_mass(hospital, "1.9", LabelState.PRESENT, "bob", LabelExposure.POSSIBLE)
    assert enqueue(hospital)
    hospital.work_once(JobKind.LEARN)
    state_mass(hospital, "1.9", LabelState.PRESENT, "carol", LabelExposure.NONE)
    assert enqueue(hospital, 1)
    hospital.work_once(JobKind.LEARN)
    first, second = (course.label_fingerprint for course in hospital.trainer.courses)
    assert first != second


def test_a_candidate_waits_while_too_few_unexposed_labels_measure_it(hospital: Hospital) -> None:
    hospital.gate = replace(hospital.gate, min_patients=31)  # the fake trainer compares on 30
    assert enqueue(hospital)
    hospital.work_once(JobKind.LEARN)
    assert states(hospital) == [VersionState.SERVING, VersionState.CANDIDATE]
    assert "so 1 more with labels given without the model's result" in hospital.catalog.tables.versions[2].reason
    assert hospital.catalog.tables.audit[-1].detail.startswith("waiting: waits for labels")


def test_the_monitoring_sample_is_made_of_unexposed_labels(hospital: Hospital) -> None:
    for number, exposure in ((11, LabelExposure.NONE), (12, LabelExposure.POSSIBLE)):
        hospital.receive(hospital.header(f"1.{number}", f"1.{number}.1", patient_id=f"P{number}"))
        hospital.run()
        with hospital.catalog.begin() as tx:
            tx.labels.append(
                [
                    Label(
                        study_instance_uid=f"1.{number}",
                        finding="Mass",
                        state=LabelState.PRESENT,
                        reader="alice",
                        source="test",
                        stated_at=tx.now(),
                        selection_reason="monitoring",
                        exposure=exposure,
                    )
                ]
            )
    enqueue(hospital)
    hospital.work_once(JobKind.LEARN)
    course = hospital.trainer.courses[-1]
    assert [one.study_instance_uid for one in course.monitoring_examples] == ["1.11"]
    assert {"1.11", "1.12"}.isdisjoint(one.study_instance_uid for one in course.examples)
