"""The gate in simulated campaigns: power and false promotions. The whole measurement is `tests.benchmarks.gate_campaigns`."""

from __future__ import annotations

import pytest

from tests.benchmarks.gate_campaigns import MAX_ERROR, Campaign, Look, find_episodes, measure, power_by_error


def test_better_candidates_are_promoted_and_worse_ones_are_not_where_the_error_is_small() -> None:
    found = power_by_error(4000)
    for error, rates in found.items():
        if float(error) <= MAX_ERROR:
            assert rates["power"] >= 0.7
            assert rates["false"] <= 0.05


def test_an_episode_ends_with_a_promotion_or_after_three_looks() -> None:
    def look(whole: float, *, promoted: bool = False, truth: float | None = None) -> Look:
        return Look(1, whole, whole if truth is None else truth, whole, 0.01, 1, promoted)

    better, alike = look(0.02), look(0.0)
    assert find_episodes([alike, better, better, look(0.02, promoted=True), alike]) == [True]
    assert find_episodes([better, better, better, look(0.02, promoted=True)]) == [False, True]
    assert find_episodes([better, look(0.02, promoted=True, truth=-0.01), better]) == [False]
    assert find_episodes([alike, better, better]) == []  # cut short by the last night


def test_a_campaign_promotes_a_better_version_and_keeps_the_others_out() -> None:
    looks = list(Campaign(0, spoilt=False).run(6))
    assert any(look.promoted and look.truth > 0.01 for look in looks)
    assert not any(look.promoted and look.truth < -0.01 for look in looks)
    assert next(look.number for look in looks if look.promoted) <= 3


@pytest.mark.slow
def test_power_and_false_promotions_of_whole_campaigns() -> None:
    found = measure(8)
    assert found["gate_power"] >= 0.7
    assert found["gate_false"] <= 0.05
