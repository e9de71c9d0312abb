"""resolve: the statements of readers -> one state for each study and finding. Pure functions; the order of statements is no matter.

A statement stands until a later one revokes it or the same reader has said something else since. Each reader has one vote on a
study's finding: what he or she said last, if it stands.
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
from pipeline.domain import FINDINGS, Label, LabelState

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
"""Values of `Resolution.targets`."""

Key = tuple[str, str]
"""StudyInstanceUID, finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPolicy:
    """What holds where readers disagree: `[labels]` of the configuration.

    newest: the last word. majority: what more than half of the readers say, else uncertain. adjudicator: what the first of
    `adjudicators` says who has read the study; where none has, it is uncertain.
    """

    policy: Literal["newest", "majority", "adjudicator"] = "newest"
    adjudicators: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Consensus:
    """What holds of one finding in one study, and the votes that it rests on: one of each reader, oldest first."""

    study_instance_uid: str
    finding: str
    state: LabelState
    votes: tuple[Label, ...]

    @property
    def is_disputed(self) -> bool:
        """Whether the readers disagree, however the policy settles it."""
        return len({vote.state for vote in self.votes}) > 1


@dataclass(frozen=True)
class ConsensusSet:
    """All that holds, in order of study and finding."""

    by_key: Mapping[Key, Consensus]

    @cached_property
    def conflicts(self) -> list[Consensus]:
        """The findings on which readers disagree."""
        return [resolved for resolved in self.by_key.values() if resolved.is_disputed]

    @cached_property
    def fingerprint(self) -> str:
        """See rules.labels_fingerprint."""
        return rules.labels_fingerprint({key: resolved.state for key, resolved in self.by_key.items()})

    @cached_property
    def studies(self) -> list[str]:
        """The studies of which something is known, present or absent, in order of their UIDs."""
        return list(dict.fromkeys(study for (study, _), held in self.by_key.items() if held.state is not LabelState.UNCERTAIN))

    def targets(self, studies: Sequence[str]) -> npt.NDArray[np.int8]:
        """Return int8 [N, 14], PRESENT, ABSENT or UNKNOWN, for N studies. Uncertain is unknown: nothing is learnt from it."""
        known = {LabelState.PRESENT: PRESENT, LabelState.ABSENT: ABSENT}
        found = np.full((len(studies), len(FINDINGS)), UNKNOWN, dtype=np.int8)
        for row, study in enumerate(studies):
            for column, finding in enumerate(FINDINGS):
                resolved = self.by_key.get((study, finding))
                if resolved is not None:
                    found[row, column] = known.get(resolved.state, UNKNOWN)
        return found


def labels_in_force(labels: Iterable[Label]) -> list[Label]:
    """Return the statements that hold, oldest first: of each reader the last on a study's finding, unless it was revoked."""
    revoked: set[int] = set()
    last: dict[tuple[str, str, str], Label] = {}
    for label in labels:
        if label.revokes is not None:
            revoked.add(label.revokes)
        if label.state is None:
            continue
        key = (label.study_instance_uid, label.finding, label.reader)
        if key not in last or _get_order_key(last[key]) < _get_order_key(label):
            last[key] = label
    return sorted((label for label in last.values() if label.id not in revoked), key=_get_order_key)


def resolve_consensus(labels: Iterable[Label], policy: LabelPolicy) -> ConsensusSet:
    """Resolve all statements on any number of studies; the ids must be the catalog's."""
    votes: dict[Key, list[Label]] = {}
    for label in labels_in_force(labels):
        votes.setdefault((label.study_instance_uid, label.finding), []).append(label)
    held = {key: Consensus(*key, _decide_state(cast, policy), tuple(cast)) for key, cast in votes.items()}
    return ConsensusSet(dict(sorted(held.items(), key=lambda item: (item[0][0], FINDINGS.index(item[0][1])))))


def _get_order_key(label: Label) -> tuple[datetime, int]:
    """Later said is later; of what was said at one moment, later heard."""
    return label.stated_at, label.id


def _decide_state(votes: Sequence[Label], policy: LabelPolicy) -> LabelState:
    said = {vote.reader: vote.state for vote in votes if vote.state is not None}  # oldest first
    states = list(said.values())
    if len(set(states)) == 1 or policy.policy == "newest":
        return states[-1]
    if policy.policy == "majority":
        state, count = Counter(states).most_common(1)[0]
        return state if 2 * count > len(states) else LabelState.UNCERTAIN
    return next((said[name] for name in policy.adjudicators if name in said), LabelState.UNCERTAIN)
