"""The configuration as the pipeline's steps read it: functions of a Config, without any part of the daemon."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import acquisition, consensus, deliveries, labelling, learn, receive, retention, rules, settle, work, worklist
from pipeline.domain import JobKind
from pipeline.ports.services import CircuitPolicy
from pipeline.reading_errors import ReadingErrors

if TYPE_CHECKING:
    from adapters.config.sections import Config


def receive_policy(config: Config) -> receive.ReceivePolicy:
    """`[storage]` and `[labels]` as the step reads them."""
    return receive.ReceivePolicy(
        min_free_bytes=int(config.storage.min_free),
        read_documents=reads_documents(config),
        keep_conflicts=config.storage.conflicts == "keep",
        slow_free_bytes=int(config.storage.slow_free),
    )


def retention_policy(config: Config) -> retention.RetentionPolicy:
    """`[retention]` as the step reads it."""
    return retention.RetentionPolicy(min_free_bytes=int(config.retention.min_free), min_days=config.retention.min_days)


def reads_documents(config: Config) -> bool:
    """Whether received SR and KOS instances are read for labels."""
    return config.labels.accept_sr != "none" or bool(config.labels.key_object_titles)


def chest_policy(config: Config) -> rules.ChestPolicy:
    """`[study]` as the rules read it."""
    return rules.ChestPolicy(
        no_view_position=config.study.no_view_position,
        no_body_part=config.study.no_body_part,
        for_processing=config.study.for_processing,
    )


def settle_policy(config: Config) -> settle.SettlePolicy:
    """`[study]` as the step reads it."""
    return settle.SettlePolicy(
        stable_age_seconds=config.study.stable_age_seconds,
        settle_on_release=config.study.settle_on_release,
        chest=chest_policy(config),
    )


def reading_policy(config: Config) -> labelling.ReadingPolicy:
    """`[web]` as labelling reads it."""
    return labelling.ReadingPolicy(
        second_reading=config.web.second_reading,
        repeated_reading=config.web.repeated_reading,
        repeat_days=config.web.repeat_days,
        documents=config.web.reader_documents,
        uid_root=config.report.uid_root,
    )


def circuit_policy(config: Config) -> CircuitPolicy:
    """The circuit breaker of `[work]`."""
    return CircuitPolicy(threshold=config.work.circuit_threshold, open_seconds=config.work.circuit_open_seconds)


def count_policy(config: Config) -> settle.CountPolicy:
    """`[work]` and `[archive]` as the queries to the archive need them."""
    longest = settle.CountPolicy(circuit=circuit_policy(config))
    return replace(longest, query_seconds=min(longest.query_seconds, config.archive.timeout_seconds))


def label_policy(config: Config) -> consensus.LabelPolicy:
    """`[labels]` as the consensus reads it."""
    return consensus.LabelPolicy(policy=config.labels.policy, adjudicators=config.labels.adjudicators)


def reading_errors(config: Config) -> ReadingErrors:
    """`[labels]` as the evidence for a finding reads it."""
    return ReadingErrors(missed=config.labels.missed, invented=config.labels.invented)


def learn_policy(config: Config) -> learn.LearnPolicy:
    """`[learn]` as the step reads it."""
    wanted = config.learn
    return learn.LearnPolicy(
        labels=label_policy(config),
        chest=chest_policy(config),
        gate=rules.GatePolicy(min_patients=wanted.min_gate_patients, min_confidence=wanted.gate_confidence, promote=wanted.promote),
        min_positives=wanted.min_positives,
        errors=reading_errors(config),
        weights=consensus.ExposureWeights(
            seen_present=wanted.seen_present_weight,
            seen_absent=wanted.seen_absent_weight,
            possible_absent=wanted.possible_absent_weight,
        ),
        unlabelled_studies=wanted.unlabelled_studies,
    )


def worklist_policy(config: Config) -> worklist.WorklistPolicy:
    """`[worklist]` as the step reads it."""
    wanted = config.worklist
    shares = wanted.model_dump(include={reason.value for reason in acquisition.SelectionReason})
    return worklist.WorklistPolicy(
        selection=acquisition.SelectionPolicy(**shares),
        second_readings=wanted.second_readings,
        labels=label_policy(config),
        chest=chest_policy(config),
        max_patients=wanted.max_patients,
        request_expiry_days=wanted.request_expiry_days,
        seed=wanted.seed,
    )


def delivery_policy(config: Config) -> deliveries.DeliveryPolicy:
    """`[archive]`: how the delivery of an object is proven."""
    wanted = config.archive
    return deliveries.DeliveryPolicy(
        verify_seconds=wanted.verify_seconds,
        with_commitment=wanted.verification == "commitment",
        reconcile_days=wanted.reconcile_days,
        query_seconds=wanted.timeout_seconds * 2,
        circuit=circuit_policy(config),
    )


def work_policy(config: Config) -> work.WorkPolicy:
    """`[work]` as the loop of a worker reads it."""
    return work.WorkPolicy(
        lease_seconds=config.work.lease_seconds,
        max_attempts=config.work.max_attempts,
        retry_base_seconds=config.work.retry_base_seconds,
        retry_cap_seconds=config.work.retry_cap_seconds,
        max_seconds={
            JobKind.SCORE: config.work.max_score_seconds,
            JobKind.REPORT: config.work.max_report_seconds,
            JobKind.SEND: config.work.max_send_seconds,
            JobKind.LABEL: config.work.max_label_seconds,
            JobKind.LEARN: config.work.max_learn_seconds,
        },
    )
