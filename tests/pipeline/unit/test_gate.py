"""The gate: which candidates may serve, and which findings can be learnt, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline import rules
from pipeline.domain import FINDINGS, Comparison, Header, StoredFile, StoredInstance, TrainingExample
from pipeline.rules import GatePolicy, learnable_findings, may_promote, selection_weight
from tests.builders.fakes.catalog import FakeCatalog

BETTER = Comparison(
    against="zero-shot", cases=60, patients=40, candidate=0.8, other=0.7, lower=0.02, upper=0.18, better=0.99, not_inferior=0.999
)
MONITORED = replace(BETTER, monitoring=True, cases=30, patients=30)
ALIKE = replace(BETTER, against="version 2", candidate=0.8, other=0.79, lower=-0.01, upper=0.03, better=0.8, not_inferior=0.95)
SAME = replace(ALIKE, candidate=0.79, lower=0.0, upper=0.0, better=1.0, not_inferior=1.0)
UNSURE = replace(ALIKE, lower=-0.05, upper=0.07, better=0.6, not_inferior=0.7)


@pytest.mark.parametrize(
    ("comparisons", "passed", "words"),
    [
        ([BETTER], True, "mean AUC 0.800 against 0.700 of zero-shot (difference +0.020 to +0.180"),
        ([BETTER, replace(BETTER, against="version 2")], True, "of version 2"),
        ([BETTER, ALIKE], True, "of version 2"),
        ([BETTER, UNSURE], False, "may be worse than version 2 (90.0% confidence is asked for)"),
        ([UNSURE, BETTER], False, "may be worse than version 2"),
        ([replace(BETTER, not_inferior=0.9)], True, ""),
        ([replace(BETTER, not_inferior=0.89)], False, "may be worse than zero-shot"),
        ([replace(BETTER, candidate=0.6, better=0.1, not_inferior=0.1)], False, "mean AUC 0.600 against 0.700"),
        ([replace(BETTER, worse=("Mass", "Edema"))], True, ""),
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
        ([BETTER, replace(MONITORED, worse=("Mass",))], True, ""),
        (
            [BETTER, replace(MONITORED, candidate=0.6, lower=-0.3, upper=-0.1, better=0.0, patients=9)],
            True,
            "9 patients",
        ),
        ([BETTER, replace(MONITORED, candidate=float("nan"), upper=float("nan"))], True, "of zero-shot"),
        ([UNSURE, MONITORED], False, "may be worse than version 2"),
        ([BETTER, SAME], False, "it ranks the cases as version 2 does, in every finding: nothing would be gained"),
        ([BETTER, replace(SAME, new=("Mass",))], True, "new: Mass"),
        ([SAME, BETTER], True, "of version 2"),
        ([replace(BETTER, worse_groups=("sex F", "view AP"))], True, "worse in groups: sex F, view AP"),
    ],
)
def test_a_candidate_must_not_be_worse_than_any_other_version(comparisons: list[Comparison], passed: bool, words: str) -> None:
    verdict = may_promote(comparisons, GatePolicy())
    assert verdict.passed is passed
    assert words in verdict.reason
    assert "nan" not in verdict.reason


def test_later_looks_at_one_serving_version_ask_for_more_confidence() -> None:
    policy = GatePolicy()
    required = [policy.required_confidence(look) for look in range(1, 31)]
    assert required[0] == pytest.approx(0.9)
    assert required == sorted(set(required))
    assert sum(1 - each for each in required) < 0.35  # the error probability of a month of looks is bounded
    assert may_promote([ALIKE], policy, look=1).passed
    assert not may_promote([ALIKE], policy, look=3).passed
    assert may_promote([BETTER], policy, look=10).passed
    assert may_promote([replace(BETTER, not_inferior=0.9), replace(BETTER, against="version 2")], policy, look=10).passed


def test_a_case_that_was_hardly_selected_weighs_more_within_a_bound() -> None:
    weights = [selection_weight(probability) for probability in (1.0, 0.5, 0.01, None)]
    assert weights == [1.0, 2.0, 4.0, 4.0]


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
        [make_example(n, target, patient=patient) for n, (target, patient) in enumerate(targets)], min_positives=3
    )
    assert learnable.findings == ((FINDINGS[0],) if learnt else ())
    assert len(learnable.exclusions) == len(FINDINGS) - learnt
    if not learnt:
        assert learnable.exclusions[FINDINGS[0]].startswith(f"{len(positives)} present, of {len(set(positives))} patients")


@pytest.mark.parametrize(
    ("comparisons", "words"),
    [
        ([replace(BETTER, patients=4)], "4 patients to compare it with zero-shot are too few; 10 are asked for, so 6 more"),
        ([BETTER, replace(ALIKE, patients=9, not_inferior=0.0)], "so 1 more with labels given without the model's result"),
        ([replace(BETTER, candidate=float("nan"), not_inferior=float("nan"))], "no finding has both kinds"),
    ],
)
def test_a_candidate_waits_for_labels_given_without_the_result(comparisons: list[Comparison], words: str) -> None:
    verdict = may_promote(comparisons, GatePolicy())
    assert (verdict.passed, verdict.waits) == (False, True)
    assert words in verdict.reason


def test_a_candidate_that_is_worse_elsewhere_does_not_wait() -> None:
    worse = replace(BETTER, against="version 2", not_inferior=0.1)
    assert not may_promote([replace(BETTER, patients=4), worse], GatePolicy()).waits
    certainly_worse = replace(MONITORED, candidate=0.6, lower=-0.3, upper=-0.1)
    verdict = may_promote([replace(BETTER, patients=4), certainly_worse], GatePolicy())
    assert (verdict.waits, "for certain" in verdict.reason) == (False, True)
