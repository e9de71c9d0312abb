"""A candidate within groups of patients."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.ml.group_comparison import OLDEST_GROUP, age_group, compare_groups, groups_of
from tests.builders.catalog_rows import chest_header

N = 240


@pytest.mark.parametrize(
    ("age", "group"),
    [
        ("058Y", "40 to 64"),
        ("017Y", "below 18"),
        ("011M", "below 18"),
        ("018Y", "18 to 39"),
        ("101Y", OLDEST_GROUP),
        ("", ""),
        ("Y", ""),
    ],
)
def test_ages_are_grouped(age: str, group: str) -> None:
    assert age_group(age) == group


def test_a_group_in_which_the_candidate_ranks_worse_is_named() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((N, 14)) < 0.3).astype(np.int8)
    headers = [
        chest_header(
            patient_sex="FM"[row % 2], view_position=("PA", "AP")[row // 2 % 2], patient_age="050Y", manufacturer_model_name="D"
        )
        for row in range(N - 5)
    ] + [chest_header(patient_sex="O")] * 5
    groups = groups_of(headers)
    second = rng.normal(size=labels.shape) + 1.5 * labels
    first = second + np.where((groups["sex"] == "F")[:, None], -1.2 * labels, 0.0)
    found = compare_groups("version 2", first, second, labels, np.arange(N).astype(str), groups, seed=0)
    worse = {one.group for one in found if one.worse}
    assert "F" in worse
    assert "M" not in worse
    assert {(one.attribute, one.group) for one in found} >= {("sex", "M"), ("view", "AP"), ("age", "40 to 64"), ("scanner", "D")}
    assert "O" not in {one.group for one in found}  # five patients decide nothing
    (women,) = [one for one in found if one.group == "F"]
    assert women.upper < 0
    assert women.card["candidate"] == round(women.candidate, 6)
