"""consensus: labels of several readers -> one state per study and finding. Pure functions; the order of the labels is irrelevant.

A label is in force until a later one revokes it, or the same reader labels the same finding of the study again. Each reader has one
vote on a finding of a study: the reader's last label, if it is in force.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline import rules
from pipeline.domain import ABSENT, FINDINGS, PRESENT, UNKNOWN, Label, LabelExposure, LabelState

Key = tuple[str, str]
"""StudyInstanceUID, finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPolicy:
    """The consensus of readers who disagree: `[labels]` of the configuration.

    newest: the latest vote. majority: the state with more than half of the votes, else uncertain. adjudicator: the vote of the
    first of `adjudicators` who has read the study, else uncertain.
    """

    policy: Literal["newest", "majority", "adjudicator"] = "newest"
    adjudicators: Sequence[str] = ()  # names of readers, in order of precedence


@dataclass(frozen=True, slots=True)
class Consensus:
    """The consensus on one finding in one study."""

    study_instance_uid: str
    finding: str
    state: LabelState
    votes: tuple[Label, ...]  # one per reader, oldest first

    @property
    def is_disputed(self) -> bool:
        """Whether the readers disagree, whatever the policy decides."""
        return len({vote.state for vote in self.votes}) > 1


@dataclass(frozen=True)
class ConsensusSet:
    """The consensus on every labelled finding, in order of StudyInstanceUID and FINDINGS."""

    by_key: Mapping[Key, Consensus]

    @cached_property
    def conflicts(self) -> list[Consensus]:
        """The findings on which readers disagree."""
        return [consensus for consensus in self.by_key.values() if consensus.is_disputed]

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the states, see `rules.labels_fingerprint`."""
        return rules.labels_fingerprint({key: consensus.state for key, consensus in self.by_key.items()})

    @cached_property
    def studies(self) -> list[str]:
        """The studies with a finding that is present or absent, in order of their UIDs."""
        return list(dict.fromkeys(study for (study, _), held in self.by_key.items() if held.state is not LabelState.UNCERTAIN))

    def targets(self, studies: Sequence[str]) -> npt.NDArray[np.int8]:
        """Return int8 [N, 14], PRESENT, ABSENT or UNKNOWN, for N studies. Uncertain findings are UNKNOWN."""
        target_of_state = {LabelState.PRESENT: PRESENT, LabelState.ABSENT: ABSENT}
        targets = np.full((len(studies), len(FINDINGS)), UNKNOWN, dtype=np.int8)
        for row, study in enumerate(studies):
            for column, finding in enumerate(FINDINGS):
                consensus = self.by_key.get((study, finding))
                if consensus is not None:
                    targets[row, column] = target_of_state.get(consensus.state, UNKNOWN)
        return targets


def labels_in_force(labels: Iterable[Label]) -> list[Label]:
    """Return the labels in force, oldest first: each reader's last label on a finding of a study, unless it was revoked."""
    revoked: set[int] = set()
    last: dict[tuple[str, str, str], Label] = {}  # by vote
    for label in labels:
        if label.revokes is not None:
            revoked.add(label.revokes)
        if label.state is None:
            continue
        key = vote_key(label)
        if key not in last or _get_order_key(last[key]) < _get_order_key(label):
            last[key] = label
    return sorted((label for label in last.values() if label.id not in revoked), key=_get_order_key)


def select_blind_labels(labels: Iterable[Label]) -> list[Label]:
    """Return the labels without those that a reader gave after the model's result, where the reader had spoken before.

    A changed mind after the result is a statement on the result too: to learn from it would teach the model its own words. The
    earlier label stays in force for learning unless it was withdrawn.
    """
    given = list(labels)
    withdrawn = {label.revokes for label in given if label.revokes is not None}
    blind = {
        vote_key(label)
        for label in given
        if label.state is not None and label.exposure is not LabelExposure.SEEN and label.id not in withdrawn
    }
    return [label for label in given if label.exposure is not LabelExposure.SEEN or vote_key(label) not in blind]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureWeights:
    """`[learn]` of the configuration: weights, above 0 and up to 1, of exposed labels in training; all others weigh 1.

    A reader who has seen the model miss a finding misses it more often, too: wrong results that were shown raised missed findings
    on chest films from 2.7 % to 33 % (PMC10235827). "Absent" of a reader who misses a quarter of the findings is half the evidence
    of "absent" of one who misses a twentieth.
    """

    seen_present: float = 1.0
    seen_absent: float = 0.5
    possible_absent: float = 0.75  # the reader may have seen it

    def weigh(self, label: Label) -> float:
        """Return the weight of a label."""
        if label.exposure is LabelExposure.SEEN:
            return self.seen_absent if label.state is LabelState.ABSENT else self.seen_present
        is_doubtful = label.exposure is LabelExposure.POSSIBLE and label.state is LabelState.ABSENT
        return self.possible_absent if is_doubtful else 1.0


USUAL_WEIGHTS = ExposureWeights()
"""Weights where a hospital states none."""


def select_unexposed_labels(labels: Iterable[Label]) -> list[Label]:
    """Return the labels that were given without the model's result, and all withdrawals: what versions are measured on."""
    return [label for label in labels if label.exposure is LabelExposure.NONE or label.state is None]


def resolve_consensus(labels: Iterable[Label], policy: LabelPolicy) -> ConsensusSet:
    """Return the consensus of all labels on any number of studies. Each label needs the id that the catalog gave it."""
    votes: dict[Key, list[Label]] = {}
    for label in labels_in_force(labels):
        votes.setdefault((label.study_instance_uid, label.finding), []).append(label)
    by_key = {
        key: Consensus(*key, _decide_state(labels_of_key, policy), tuple(labels_of_key)) for key, labels_of_key in votes.items()
    }
    return ConsensusSet(dict(sorted(by_key.items(), key=lambda item: (item[0][0], FINDINGS.index(item[0][1])))))


def vote_key(label: Label) -> tuple[str, str, str]:
    """Return study, finding and reader: a reader has one vote on a finding of a study."""
    return label.study_instance_uid, label.finding, label.reader


def _get_order_key(label: Label) -> tuple[datetime, int]:
    """Order labels by the time of the statement; of the same time, by the order of storage."""
    return label.stated_at, label.id


def _decide_state(votes: Sequence[Label], policy: LabelPolicy) -> LabelState:
    state_of_reader = {vote.reader: vote.state for vote in votes if vote.state is not None}  # oldest first
    states = list(state_of_reader.values())
    if len(set(states)) == 1 or policy.policy == "newest":
        return states[-1]
    if policy.policy == "majority":
        state, count = Counter(states).most_common(1)[0]
        return state if 2 * count > len(states) else LabelState.UNCERTAIN
    return next((state_of_reader[name] for name in policy.adjudicators if name in state_of_reader), LabelState.UNCERTAIN)
