"""The gate: which candidates may serve, and which findings can be learnt, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline import rules
from pipeline.domain import FINDINGS, Comparison, Header, StoredFile, StoredInstance, TrainingExample
from pipeline.rules import GatePolicy, learnable_findings, may_promote
from tests.builders.fakes.catalog import FakeCatalog

BETTER = Comparison(
    against="zero-shot", cases=60, patients=40, candidate=0.8, other=0.7, lower=0.02, upper=0.18, better=0.99, worse=()
)
MONITORED = replace(BETTER, monitoring=True, cases=30, patients=30)
ALIKE = replace(BETTER, against="version 2", candidate=0.8, other=0.79, lower=-0.05, upper=0.07, better=0.6)


@pytest.mark.parametrize(
    ("comparisons", "passed", "words"),
    [
        ([BETTER], True, "mean AUC 0.800 against 0.700 of zero-shot (difference +0.020 to +0.180"),
        ([BETTER, replace(BETTER, against="version 2")], True, "of version 2"),
        ([BETTER, ALIKE], False, "not better than version 2 for certain"),
        ([ALIKE, BETTER], False, "not better than version 2 for certain"),
        ([replace(BETTER, better=0.9)], True, ""),
        ([replace(BETTER, better=0.89)], False, "not better than zero-shot for certain"),
        ([replace(BETTER, candidate=0.7, better=1.0)], False, "not better than zero-shot for certain"),
        ([replace(BETTER, candidate=0.6, better=0.1)], False, "mean AUC 0.600 against 0.700"),
        ([replace(BETTER, worse=("Mass", "Edema"))], False, "worse than zero-shot in Mass, Edema"),
        ([replace(BETTER, patients=9)], False, "9 patients to compare it with zero-shot are too few; 10 are asked for"),
        ([replace(BETTER, patients=10)], True, ""),
        ([replace(BETTER, candidate=float("nan"))], False, "no finding has both kinds"),
        ([replace(BETTER, other=float("nan"))], False, "no finding has both kinds"),
        ([], False, "compared with nothing"),
        ([MONITORED], False, "compared with nothing"),
        ([BETTER, MONITORED], True, "30 monitoring cases of 30 patients"),
        ([BETTER, replace(MONITORED, candidate=0.6, lower=-0.3, upper=0.1, better=0.2)], True, "mean AUC 0.600"),
        (
            [BETTER, replace(MONITORED, candidate=0.6, lower=-0.3, upper=-0.1, better=0.0)],
            False,
            "worse than zero-shot for certain",
        ),
        ([BETTER, replace(MONITORED, worse=("Mass",))], False, "worse than zero-shot in Mass"),
        ([BETTER, replace(MONITORED, worse=("Mass",), patients=9)], True, ""),
        ([BETTER, replace(MONITORED, candidate=float("nan"), upper=float("nan"))], True, "of zero-shot"),
        ([ALIKE, MONITORED], False, "not better than version 2"),
    ],
)
def test_a_candidate_must_beat_every_other_version(comparisons: list[Comparison], passed: bool, words: str) -> None:
    verdict = may_promote(comparisons, GatePolicy())
    assert verdict.passed is passed
    assert words in verdict.reason
    assert "nan" not in verdict.reason


def make_example(number: int, target: int, *, patient: str = "") -> TrainingExample:
    header = Header(
        sop_instance_uid=f"1.{number}.1",
        sop_class_uid=rules.DIGITAL_X_RAY_FOR_PRESENTATION,
        series_instance_uid=f"1.{number}.9",
        study_instance_uid=f"1.{number}",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
    image = StoredInstance(header, StoredFile("f", "f" * 64, 1), FakeCatalog().now)
    return TrainingExample(f"1.{number}", patient or f"P{number}", image, (target, *[-1] * (len(FINDINGS) - 1)))


@pytest.mark.parametrize(
    ("positives", "negatives", "learnt"),
    [
        (["a", "b", "c", "d"], ["e", "f"], True),
        (["a", "b", "c"], ["e", "f"], False),  # too few
        (["a", "a", "a", "a"], ["e", "f"], False),  # of one patient
        (["a", "a", "b", "b"], ["e", "f"], True),
        (["a", "b", "c", "d"], ["e"], False),
        (["a", "b", "c", "d"], [], False),
        ([], [], False),
        (["a", "a", "b", "b"], ["a", "b"], True),
    ],
)
def test_a_learnable_finding_needs_enough_positives_and_negatives(positives: list[str], negatives: list[str], learnt: bool) -> None:
    targets = [(1, patient) for patient in positives] + [(0, patient) for patient in negatives]
    learnable = learnable_findings(
        [make_example(n, target, patient=patient) for n, (target, patient) in enumerate(targets)], min_positives=4
    )
    assert learnable.findings == ((FINDINGS[0],) if learnt else ())
    assert len(learnable.exclusions) == len(FINDINGS) - learnt
    if not learnt:
        assert learnable.exclusions[FINDINGS[0]].startswith(f"{len(positives)} present, of {len(set(positives))} patients")
