"""agreement: how far two readers agree on a finding, and a reader with himself a second time. Pure functions of what was said.

A reader's first statement on a finding counts, whatever was said later: a second one may follow the model's result. Uncertain
statements are left out, and verdicts, which are given beside other readers' labels. Cohen's kappa: Educ Psychol Meas 1960;20:37.
PABAK, the prevalence- and bias-adjusted kappa: Byrt et al., J Clin Epidemiol 1993;46:423.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from pipeline.domain import FINDINGS, DeskReading, Label, LabelState
from pipeline.labelling import VERDICT

_DECIDED = (LabelState.PRESENT, LabelState.ABSENT)


@dataclass(frozen=True, slots=True)
class ReaderAgreement:
    """Two readers on one finding, or one reader twice."""

    finding: str
    readers: tuple[str, str]  # in order of name; the same twice: a reader with himself
    studies: int  # that were read twice
    observed: float  # share (0..1) of these studies on which they agree
    kappa: float | None  # None: undefined, for both always say the same one state

    @property
    def pabak(self) -> float:
        """Prevalence- and bias-adjusted kappa: 2 p - 1 of the observed agreement p."""
        return 2 * self.observed - 1


def measure_agreement(labels: Iterable[Label]) -> list[ReaderAgreement]:
    """Return the agreement of every two readers on each finding, in order of FINDINGS and names."""
    said: dict[str, dict[str, dict[str, bool]]] = {}  # finding -> reader -> study -> present
    for label in sorted(labels, key=lambda label: (label.stated_at, label.id)):
        if label.state in _DECIDED and label.selection_reason != VERDICT:
            studies = said.setdefault(label.finding, {}).setdefault(label.reader, {})
            studies.setdefault(label.study_instance_uid, label.state is LabelState.PRESENT)
    return [
        _compare_readers(finding, (first, second), pairs)
        for finding in FINDINGS
        for first, second in combinations(sorted(said.get(finding, {})), 2)
        if (pairs := _pair_statements(said[finding][first], said[finding][second]))
    ]


def measure_repeatability(pairs: Iterable[tuple[DeskReading, DeskReading]]) -> list[ReaderAgreement]:
    """Return the agreement of each reader with himself on each finding, of first statements and repeats, ordered as above."""
    said: dict[tuple[str, str], list[tuple[bool, bool]]] = {}  # finding, reader
    for first, again in pairs:
        for finding in FINDINGS:
            states = first.states.get(finding), again.states.get(finding)
            if states[0] in _DECIDED and states[1] in _DECIDED:
                present = states[0] is LabelState.PRESENT, states[1] is LabelState.PRESENT
                said.setdefault((finding, first.reader), []).append(present)
    ordered = sorted(said.items(), key=lambda item: (FINDINGS.index(item[0][0]), item[0][1]))
    return [_compare_readers(finding, (reader, reader), both) for (finding, reader), both in ordered]


def _pair_statements(first: dict[str, bool], second: dict[str, bool]) -> list[tuple[bool, bool]]:
    return [(present, second[study]) for study, present in first.items() if study in second]


def _compare_readers(finding: str, readers: tuple[str, str], pairs: Sequence[tuple[bool, bool]]) -> ReaderAgreement:
    count = len(pairs)
    observed = sum(one == other for one, other in pairs) / count
    shares = [sum(pair[index] for pair in pairs) / count for index in (0, 1)]
    expected = shares[0] * shares[1] + (1 - shares[0]) * (1 - shares[1])
    kappa = (observed - expected) / (1 - expected) if expected < 1 else None
    return ReaderAgreement(finding, readers, count, observed, kappa)
