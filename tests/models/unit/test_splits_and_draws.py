from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import SplitLeaks, SplitUnusable
from models.evaluation.cases import Cases, Split
from models.experiment.draws import draw_supports
from models.experiment.splits import check_split, split_by_lists, split_by_patient
from tests.builders import benches

RATES = [0.3, 0.1, 0.03]


def archive(films: int = 600, *, films_per_patient: int = 2, unknown: float = 0.0, seed: int = 0) -> Cases:
    labels = benches.random_labels(films, RATES, seed=seed, unknown=unknown)
    return benches.cases(labels, films_per_patient=films_per_patient)


def all_but_the_last(cases: Cases, test: int = 100) -> Split:
    return Split(pool=np.arange(len(cases) - test), test=np.arange(len(cases) - test, len(cases)))


def same(left: npt.NDArray[np.intp], right: npt.NDArray[np.intp]) -> bool:
    return bool(np.array_equal(left, right))


def test_lists_determine_the_split_and_may_name_absent_films() -> None:
    cases = archive(40)
    split = split_by_lists(cases, pool=[*cases.key[:30], "elsewhere"], test=list(cases.key[30:]))
    assert same(split.pool, np.arange(30))
    assert same(split.test, np.arange(30, 40))


def test_a_film_on_neither_list_is_an_error() -> None:
    cases = archive(40)
    with pytest.raises(SplitUnusable, match="3 of 40 films"):
        split_by_lists(cases, pool=cases.key[:20], test=cases.key[23:])


@pytest.mark.parametrize("empty", ["pool", "test"])
def test_an_empty_side_is_an_error(empty: str) -> None:
    with pytest.raises(SplitUnusable, match="neither may be empty"):
        check_split(archive(10), replace(Split(pool=np.arange(5), test=np.arange(5, 10)), **{empty: np.arange(0)}))


def test_patients_on_both_sides_are_counted_but_never_named() -> None:
    cases = archive(40, films_per_patient=4)
    with pytest.raises(SplitLeaks, match="share 1 patients and 0 films") as caught:
        split_by_lists(cases, pool=cases.key[:22], test=cases.key[22:])
    assert "patient-0" not in str(caught.value) + caught.value.hint
    assert "split by patient" in caught.value.hint


def test_a_film_filed_under_two_patients_leaves_the_pool_and_is_counted() -> None:
    cases = archive(40)
    pixels = cases.pixel_sha256.copy()
    pixels[[35, 36]] = pixels[[3, 4]]
    pixels[7] = pixels[3]  # a third copy, in the pool as well
    split = check_split(replace(cases, pixel_sha256=pixels), all_but_the_last(cases, 10))
    assert split.duplicates.tolist() == [3, 4, 7]
    assert same(split.pool, np.array([row for row in range(30) if row not in (3, 4, 7)]))
    assert same(split.test, np.arange(30, 40))
    by_lists = split_by_lists(replace(cases, pixel_sha256=pixels), pool=cases.key[:30], test=cases.key[30:])
    assert by_lists.duplicates.tolist() == [3, 4, 7]
    assert not len(check_split(cases, all_but_the_last(cases, 10)).duplicates)


def test_a_pool_of_nothing_but_test_films_is_an_error() -> None:
    cases = archive(20)
    pixels = cases.pixel_sha256.copy()
    pixels[:10] = pixels[10]
    with pytest.raises(SplitUnusable, match=r"the pool has 0 films .*10 films of the pool are in the test set"):
        check_split(replace(cases, pixel_sha256=pixels), all_but_the_last(cases, 10))


def test_a_blank_film_filed_under_every_patient_does_not_empty_a_side() -> None:
    cases = archive(300, films_per_patient=3)
    pixels = cases.pixel_sha256.copy()
    pixels[::3] = "0" * 64
    split = split_by_patient(replace(cases, pixel_sha256=pixels), test_share=0.5, seed=3)
    assert not set(cases.patient[split.pool]) & set(cases.patient[split.test])
    assert set(split.duplicates % 3) == {0}
    assert set(split.pool % 3) == {1, 2}
    assert len(split.test) + len(split.pool) + len(split.duplicates) == 300


def test_a_row_on_both_sides_is_a_leak() -> None:
    with pytest.raises(SplitLeaks, match="share 1 patients and 1 films"):
        check_split(archive(10, films_per_patient=1), Split(pool=np.arange(6), test=np.arange(5, 10)))


@given(share=st.floats(0.2, 0.8), seed=st.integers(0, 50))
@settings(max_examples=20)
def test_patients_stay_together_and_the_test_share_is_kept(share: float, seed: int) -> None:
    cases = archive(600, films_per_patient=3)
    split = split_by_patient(cases, test_share=share, seed=seed)
    assert not set(cases.patient[split.pool]) & set(cases.patient[split.test])
    assert same(np.sort(np.concatenate([split.pool, split.test])), np.arange(600))
    assert abs(len(split.test) / 600 - share) < 0.17  # 200 patients: five standard errors


def test_patients_with_a_shared_film_stay_together() -> None:
    cases = archive(300, films_per_patient=1)
    pixels = np.array([f"{row // 2:064x}" for row in range(300)])
    split = split_by_patient(replace(cases, pixel_sha256=pixels), test_share=0.5, seed=3)
    assert not set(split.pool // 2) & set(split.test // 2)


def test_additional_films_do_not_move_patients() -> None:
    cases = archive(400)
    whole = split_by_patient(cases, test_share=0.4, seed=9)
    fewer = split_by_patient(archive(200), test_share=0.4, seed=9)
    assert set(fewer.test) == {row for row in whole.test if row < 200}
    assert set(split_by_patient(cases, test_share=0.4, seed=10).test) != set(whole.test)


@given(
    seed=st.integers(0, 10_000), unknown=st.sampled_from([0.0, 0.3]), shots=st.lists(st.integers(1, 20), min_size=2, unique=True)
)
@settings(max_examples=40, deadline=None)
def test_supports_are_nested_from_the_pool_with_one_film_per_patient_and_enough_positives(
    seed: int, unknown: float, shots: list[int]
) -> None:
    cases = archive(unknown=unknown)
    split = all_but_the_last(cases)
    supports = {support.shots: support for support in draw_supports(cases, split, shots=shots, draws=1, seed=seed)}
    (everything,) = draw_supports(cases, split, shots=[len(cases)], draws=1, seed=seed)
    available = (everything.labels(cases) == 1).sum(axis=0)  # with one film per patient
    for few, many in zip(sorted(shots), sorted(shots)[1:], strict=False):
        assert same(supports[few].rows, supports[many].rows[: len(supports[few].rows)])
        assert supports[few].studies_read <= supports[many].studies_read
    for k, support in supports.items():
        assert np.isin(support.rows, split.pool).all()
        assert len(set(cases.patient[support.rows])) == len(support.rows)
        labels = support.labels(cases)
        found = (labels == 1).sum(axis=0)
        in_pool = (cases.labels[split.pool] == 1).sum(axis=0)
        assert (found >= np.minimum(k, available)).all()
        assert (found <= in_pool).all()
        assert ((labels == 1).any(axis=1) | (labels == 0).all(axis=1)).all()  # nothing but positives and normals
        assert len(support.rows) <= k * (len(RATES) + 1)


def test_a_support_says_how_many_positives_and_normal_films_it_really_holds() -> None:
    labels = np.zeros((60, 2), dtype=np.int8)
    labels[:50, 0] = labels[50:52, 1] = 1  # two positives of the second finding, eight normal films
    cases = benches.cases(np.concatenate([labels, np.eye(2, dtype=np.int8)]))
    split = Split(pool=np.arange(60), test=np.arange(60, 62))
    few, many = draw_supports(cases, split, shots=[2, 16], draws=1, seed=0)
    assert (few.positives(cases).tolist(), few.normals(cases)) == ([2, 2], 2)
    assert (many.positives(cases).tolist(), many.normals(cases)) == ([16, 2], 8)


def test_a_support_holds_the_first_positives_and_normals_in_order() -> None:
    """With one film per patient and all others normal: exactly K of each kind."""
    labels = np.zeros((200, 2), dtype=np.int8)
    labels[:50, 0] = labels[50:60, 1] = 1
    cases = benches.cases(labels)
    for support in draw_supports(cases, all_but_the_last(cases), shots=[1, 5, 50], draws=3, seed=0):
        k, found = support.shots, support.labels(cases)
        np.testing.assert_array_equal(found.sum(axis=0), [min(k, 50), min(k, 10)])
        assert (found == 0).all(axis=1).sum() == min(k, 40)
        assert support.studies_read == pytest.approx(min(k, 10) / 0.1)


def test_a_film_with_two_findings_counts_for_both() -> None:
    labels = np.array([[1, 1], [0, 0], [0, 0]], dtype=np.int8)
    cases = benches.cases(labels)
    (support,) = draw_supports(cases, Split(pool=np.array([0, 1]), test=np.array([2])), shots=[1], draws=1, seed=0)
    assert set(support.rows) == {0, 1}


def test_an_unknown_label_is_neither_positive_nor_normal() -> None:
    labels = np.array([[-1, 0], [1, -1], [0, 0], [0, 0]], dtype=np.int8)
    cases = benches.cases(labels)
    (support,) = draw_supports(cases, Split(pool=np.arange(3), test=np.array([3])), shots=[4], draws=1, seed=0)
    assert set(support.rows) == {1, 2}
    assert support.studies_read == pytest.approx(3.0)  # a normal one in three; the finding in one of the two known


def test_prevalence_is_weighted_to_the_archive() -> None:
    """Half of the films are positive, but each of them has a hundredth of the weight of the others."""
    labels = np.array([[1], [0]] * 100, dtype=np.int8)
    cases = benches.cases(labels, weight=np.where(labels[:, 0] == 1, 0.01, 1.0).astype(np.float32))
    supports = draw_supports(cases, Split(pool=np.arange(198), test=np.array([198, 199])), shots=[1, 4], draws=1, seed=0)
    assert [support.studies_read for support in supports] == pytest.approx([101.0, 404.0], rel=1e-4)


def test_films_of_larger_weight_are_read_earlier() -> None:
    labels = np.ones((400, 1), dtype=np.int8)
    weight = np.where(np.arange(400) < 200, 1.0, 0.1).astype(np.float32)
    cases = benches.cases(labels, weight=weight)
    supports = draw_supports(cases, Split(pool=np.arange(399), test=np.array([399])), shots=[20], draws=20, seed=0)
    heavy = np.mean([(support.rows < 200).mean() for support in supports])
    assert heavy == pytest.approx(10 / 11, abs=0.05)


def test_a_pool_without_any_label_gives_empty_supports() -> None:
    cases = benches.cases(np.full((10, 2), -1, dtype=np.int8))
    (support,) = draw_supports(cases, Split(pool=np.arange(9), test=np.array([9])), shots=[4], draws=1, seed=0)
    assert len(support.rows) == 0
    assert support.studies_read == 0.0


def test_the_same_seed_gives_the_same_supports_and_draws_differ() -> None:
    cases = archive()
    split = all_but_the_last(cases)
    once, twice, other = (draw_supports(cases, split, shots=[2, 4], draws=3, seed=seed) for seed in (5, 5, 6))
    assert [(s.draw, s.shots) for s in once] == [(0, 2), (0, 4), (1, 2), (1, 4), (2, 2), (2, 4)]
    assert all(same(a.rows, b.rows) and a.studies_read == b.studies_read for a, b in zip(once, twice, strict=True))
    assert not same(once[0].rows, other[0].rows)
    assert not same(once[0].rows, once[2].rows)
    # more draws do not change the first ones
    assert same(draw_supports(cases, split, shots=[2], draws=9, seed=5)[0].rows, once[0].rows)
