"""The benchmark of decisions on features without films: a good text reaches the targets before labels, dealt decisions do not."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from models.classifier.head import LinearHead
from models.evaluation.cases import Cases
from pipeline.domain import FINDINGS
from tests.benchmarks import decisions as bench

F = len(FINDINGS)


def a_hospital(seed: int = 0, *, signal: float = 2.5) -> bench.Hospital:
    """Unit features with one direction a finding: present findings lie `signal` deviations higher."""
    rng = np.random.default_rng(seed)
    prevalence = np.array([bench.POLICY.priors[finding] for finding in FINDINGS])

    def draw(count: int) -> tuple[torch.Tensor, Cases]:
        labels = (rng.random((count, F)) < prevalence).astype(np.int8)
        features = rng.standard_normal((count, F)) + signal * labels
        padded = np.column_stack([features, np.full(count, 10.0)])  # nearly equal lengths: the normalisation changes little
        names = np.array([str(number) for number in range(count)])
        cases = Cases(
            key=names,
            patient=names,
            labels=labels,
            age=np.full(count, 50, np.float32),
            sex=np.full(count, "F"),
            view=np.where(rng.random(count) < 0.5, "AP", "PA"),
            pixel_sha256=names,
            weight=np.ones(count, np.float32),
            findings=FINDINGS,
        )
        return torch.nn.functional.normalize(torch.from_numpy(padded).float(), dim=1), cases

    (archive, archive_cases), (pool, pool_cases), (test, test_cases) = draw(500), draw(20), draw(1500)
    return bench.Hospital(archive, archive_cases.view, pool, pool_cases, test, test_cases)


@pytest.fixture
def text() -> LinearHead:
    directions = torch.eye(F, F + 1)
    return LinearHead(directions, torch.full((F,), 20.0), torch.full((F,), 3.0))


def test_ranks_reach_the_targets_before_any_label_and_dealt_ranks_fail(text: LinearHead) -> None:
    hospital = a_hospital()
    before = bench.tell_before(hospital, text, bench.build_reference(hospital, text))
    measured = before.measure(hospital.test_cases)
    assert bench.find_missed("before", measured) == []
    assert measured.calls_per_study == pytest.approx(measured.reference_per_study, rel=0.25)
    assert bench.find_missed("before", before.measure(hospital.test_cases, np.random.default_rng(1)))


def test_raw_scores_call_nearly_everything(text: LinearHead) -> None:
    hospital = a_hospital()
    measured = bench.tell_raw(hospital, text).measure(hospital.test_cases)
    assert measured.calls_per_study > 10
    assert measured.normal_without_call < 0.1


def test_without_a_signal_no_target_of_rightness_is_reached(text: LinearHead) -> None:
    hospital = a_hospital(signal=0.0)
    before = bench.tell_before(hospital, text, bench.build_reference(hospital, text))
    missed = bench.find_missed("before", before.measure(hospital.test_cases))
    assert {"ppv_over_prevalence", "sensitivity"} <= set(missed)


def test_the_result_holds_medians_and_says_what_is_missed(text: LinearHead) -> None:
    hospital = a_hospital()
    of = bench.tell_raw(hospital, text).measure(hospital.test_cases)
    names = ("raw", "before", "after16", "permuted_before", "permuted_after16")
    result = bench.summarise({site: dict.fromkeys(names, of) for site in ("a", "b", "c")})
    assert result["measures"]["raw"]["ppv"] == pytest.approx(asdict(of)["ppv"], abs=1e-4)
    assert not result["targets_reached"]
    assert bench.table(result)[-2].startswith("targets missed: before: ")
