"""The prevalence of each finding in an archive, and the operating points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from adapters.simulator.prevalence import VIEWS, combinations
from models.published_shares import CHESTXRAY14_SHARES, OTHER_SHARE
from models.training.operating_point import OperatingPointSettings, choose_thresholds
from models.training.prevalence import (
    PrevalenceSettings,
    estimate_prevalences,
    published_prevalence,
)
from pipeline.domain import FINDINGS

Floats = npt.NDArray[np.float64]
NO_SAMPLE = np.zeros((0, 1), dtype=np.int8)


def archive_odds(images: int, share: float, *, effect: float, seed: int = 0) -> Floats:
    """Return true log-odds at even odds [N, 1] of an archive's images."""
    rng = np.random.default_rng(seed)
    present = rng.random((images, 1)) < share
    return effect * (rng.normal(size=(images, 1)) + effect * (present - 0.5))


def estimate(published: float, odds: Floats, sample: npt.NDArray[np.int8] = NO_SAMPLE) -> float:
    return float(estimate_prevalences(np.array([published]), odds, sample)[0])


def test_the_published_shares_are_those_of_the_label_table() -> None:
    """The simulator's summary of the same table holds the share of each view."""
    films = {view: combinations(view) for view in VIEWS}
    count = {"PA": 67310, "AP": 44810}  # films of each view in the table of 2020
    for column, finding in enumerate(FINDINGS):
        shown = sum(count[view] * float(films[view].share @ films[view].has[:, column]) for view in VIEWS)
        assert CHESTXRAY14_SHARES[finding] == pytest.approx(shown / sum(count.values()), rel=0.05), finding


def test_without_scores_and_labels_the_prevalence_is_the_published_share() -> None:
    for share in (0.002, 0.04, 0.18):
        assert estimate(share, np.zeros((0, 1))) == pytest.approx(share, rel=0.2)
        assert estimate(share, np.zeros((1000, 1))) == pytest.approx(share, rel=0.2)  # scores without discrimination


@pytest.mark.parametrize("share", [0.02, 0.05, 0.12])
@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_scores_of_the_archive_move_the_published_share_toward_the_true_one(share: float, factor: float) -> None:
    found = estimate(share * factor, archive_odds(1000, share, effect=3.0))
    assert share / 3 < found < share * 3


def test_scores_move_the_estimate_by_a_bounded_factor() -> None:
    certain = np.full((1000, 1), 15.0)
    assert estimate(0.01, certain) == pytest.approx(0.01 * PrevalenceSettings().bound, rel=0.1)


def test_labels_of_a_random_sample_outweigh_the_published_share() -> None:
    labels = np.zeros((400, 1), dtype=np.int8)
    labels[:80] = 1
    assert estimate(0.05, np.zeros((0, 1)), labels) == pytest.approx(0.2, rel=0.25)
    assert estimate(0.05, np.zeros((0, 1)), np.full((400, 1), -1, dtype=np.int8)) == pytest.approx(0.05, rel=0.2)


def test_a_few_present_labels_of_a_rare_finding_may_be_errors_of_the_reader() -> None:
    labels = np.zeros((400, 1), dtype=np.int8)
    labels[:4] = 1  # 1 %, of which the errors of readers explain half
    assert estimate(0.002, np.zeros((0, 1)), labels) < 0.007


def test_a_stated_prevalence_replaces_the_published_one() -> None:
    shares = published_prevalence(("Hernia", "Edema", "Elsewhere"), {"Edema": 0.3})
    assert shares.tolist() == [CHESTXRAY14_SHARES["Hernia"], 0.3, OTHER_SHARE]


def test_the_stricter_of_specificity_and_call_rate_holds() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random((1000, 2)) * 0.1
    prevalence = np.array([0.002, 0.3])
    thresholds = choose_thresholds(probability, prevalence)
    called = (probability >= thresholds).sum(axis=0)
    assert called[0] == 4  # twice the prevalence
    assert 18 <= called[1] <= 21  # a specificity of .98
    assert choose_thresholds(probability, prevalence, OperatingPointSettings(even_odds=True)).tolist() == prevalence.tolist()


def test_a_finding_that_is_rarer_than_one_image_of_the_archive_is_called_above_every_image() -> None:
    thresholds = choose_thresholds(np.full((10, 1), 0.2), np.array([0.001]))
    assert thresholds[0] > 0.2
