"""Labels "present" as evidence, and labels that everything else contradicts."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.domain import FINDINGS, StoredFile, StoredInstance, TrainingExample
from pipeline.reading_errors import ReadingErrors, expected_positives, probability_wrong
from tests.builders.catalog_rows import chest_header
from tests.builders.fakes.catalog import FakeCatalog

ERRORS = ReadingErrors()
INSTANCE = StoredInstance(chest_header(), StoredFile("k", "0" * 64, 1), FakeCatalog().now)


def examples(present: int, absent: int, *, votes: int = 1) -> list[TrainingExample]:
    """Return examples whose first finding is labelled; positives by so many readers."""
    others = (-1,) * (len(FINDINGS) - 1)
    kinds = [(1, votes)] * present + [(0, 1)] * absent
    return [
        TrainingExample(f"1.{n}", f"P{n}", INSTANCE, (target, *others), votes=(net,) + (1,) * len(others))
        for n, (target, net) in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("present", "absent", "least", "most"),
    [
        (6, 6, 5.5, 6.0),  # a search that finds: nearly all are true
        (4, 16, 3.0, 4.0),
        (7, 293, 0.0, 3.0),  # of 300 studies at random a reader invents six
        (40, 260, 30.0, 40.0),
        (0, 300, 0.0, 0.0),
    ],
)
def test_a_label_counts_as_far_as_inventions_do_not_explain_it(present: int, absent: int, least: float, most: float) -> None:
    found = expected_positives(examples(present, absent), ERRORS)
    assert least <= found[0] <= most
    assert not found[1:].any()


def test_a_second_reader_who_agrees_is_strong_evidence() -> None:
    once, twice = (expected_positives(examples(7, 293, votes=votes), ERRORS)[0] for votes in (1, 2))
    assert twice > 6.0 > once


def test_the_expectation_is_calibrated_on_simulated_readers() -> None:
    rng = np.random.default_rng(0)
    expected, true = 0.0, 0
    for share in (0.01, 0.03, 0.1, 0.3):
        for _ in range(20):
            shows = rng.random(200) < share
            chance = rng.random(200)
            said = np.where(shows, chance >= ERRORS.missed, chance < ERRORS.invented)
            expected += expected_positives(examples(int(said.sum()), int((~said).sum())), ERRORS)[0]
            true += int((said & shows).sum())
    assert expected == pytest.approx(true, rel=0.05)


def test_a_label_is_doubted_where_everything_else_says_the_opposite() -> None:
    present = np.array([0.001, 0.5, 0.999, 0.001, 0.5, 0.999])
    labelled = np.array([True, True, True, False, False, False])
    wrong = probability_wrong(present, labelled, ERRORS)
    assert wrong[0] > 0.9
    assert wrong[5] > 0.9
    assert (wrong[[2, 3]] < 0.001).all()
    assert wrong[1] == pytest.approx(0.02 / 0.97)
