"""shadow: what a version says of the hospital's studies beside what readers said, and what would have been sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipeline.consensus import LabelPolicy, labels_in_force, resolve_consensus, select_unexposed_labels
from pipeline.domain import FINDINGS, Decision, LabelExposure, LabelState, WithheldReason
from pipeline.ports.desk import DeskTransaction

MAX_ROWS = 10_000_000
"""Rows of a view that are read: all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingAgreement:
    """One finding in the studies of the period: calls, and calls beside the readers' consensus."""

    finding: str
    assessed: int  # studies in which it was assessed
    called: int  # of these, decided present
    present: int  # assessed studies in which the readers state it
    found: int  # of these, called
    absent: int  # assessed studies in which the readers deny it
    false_calls: int  # of these, called


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSummary:
    """The period in numbers. Agreement is with labels of exposure NONE alone."""

    since: datetime
    until: datetime
    arrived: int  # studies received
    scored: int  # of these, with a prediction
    silent: int  # of these, of the silent share
    kept: int  # reports that were built and would have been sent
    kept_silent: int  # reports that are kept for the silent share
    kept_objects: Mapping[str, int]  # visible objects of `kept`, by kind
    sent: int  # reports that the archive has accepted
    calls: int  # findings decided present
    without_call: int  # scored studies with none
    read: int  # scored studies with a label of exposure NONE
    exposed: int  # labels in force that are left out: their readers may have seen the result
    findings: Sequence[FindingAgreement]


def summarise_shadow(tx: DeskTransaction, *, days: float, policy: LabelPolicy) -> ShadowSummary:
    """Summarise the studies that were received in the last `days`, by the version that scored each last."""
    until = tx.now()
    since = until - timedelta(days=days)
    studies = _select_all(tx, "v_studies", ("study_instance_uid", "silent"), ("received_at", since))
    silent = {row["study_instance_uid"]: bool(row["silent"]) for row in studies}
    decisions = _load_decisions(tx, silent, since)
    labels = tx.labels.of_studies(decisions)
    consensus = resolve_consensus(select_unexposed_labels(labels), policy).by_key
    stated = {key: one.state for key, one in consensus.items()}
    reports = _select_all(tx, "v_reports", ("sop_instance_uid", "state", "withheld"), ("created_at", since))
    kept = {row["sop_instance_uid"] for row in reports if row["withheld"] == WithheldReason.SHADOW.value}
    objects = _select_all(tx, "v_visible_objects", ("report_sop_instance_uid", "kind"), ("created_at", since))
    called = {study: sum(made is Decision.PRESENT for made in of.values()) for study, of in decisions.items()}
    return ShadowSummary(
        since=since,
        until=until,
        arrived=len(silent),
        scored=len(decisions),
        silent=sum(silent[study] for study in decisions),
        kept=len(kept),
        kept_silent=sum(row["withheld"] == WithheldReason.SILENT.value for row in reports),
        kept_objects=Counter(row["kind"] for row in objects if row["report_sop_instance_uid"] in kept),
        sent=sum(row["state"] == "sent" for row in reports),
        calls=sum(called.values()),
        without_call=sum(not count for count in called.values()),
        read=len({study for study, _ in stated}),
        exposed=sum(label.exposure is not LabelExposure.NONE for label in labels_in_force(labels)),
        findings=[_compare_finding(finding, decisions, stated) for finding in FINDINGS],
    )


def _select_all(tx: DeskTransaction, view: str, columns: Sequence[str], after: tuple[str, Any]) -> Sequence[Mapping[str, Any]]:
    return tx.views.select(view, columns, after=after, limit=MAX_ROWS)


def _load_decisions(tx: DeskTransaction, studies: Collection[str], since: datetime) -> dict[str, dict[str, Decision]]:
    """Return StudyInstanceUID -> finding -> decision, of those studies that are scored."""
    columns = ("study_instance_uid", "finding", "decision")
    decisions: dict[str, dict[str, Decision]] = {}
    for row in _select_all(tx, "v_predictions", columns, ("predicted_at", since)):
        if row["study_instance_uid"] in studies:
            decisions.setdefault(row["study_instance_uid"], {})[row["finding"]] = Decision(row["decision"])
    return decisions


def _compare_finding(
    finding: str, decisions: Mapping[str, Mapping[str, Decision]], stated: Mapping[tuple[str, str], LabelState]
) -> FindingAgreement:
    assessed = {study for study, of in decisions.items() if of.get(finding, Decision.NOT_ASSESSED) is not Decision.NOT_ASSESSED}
    called = {study for study in assessed if decisions[study][finding] is Decision.PRESENT}
    present, absent = (
        {study for study in assessed if stated.get((study, finding)) is state} for state in (LabelState.PRESENT, LabelState.ABSENT)
    )
    return FindingAgreement(
        finding=finding,
        assessed=len(assessed),
        called=len(called),
        present=len(present),
        found=len(present & called),
        absent=len(absent),
        false_calls=len(absent & called),
    )
