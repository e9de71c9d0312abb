"""The choice between the text's column and the learnt one, finding by finding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.training.column_choice import ColumnChoiceSettings, choose_columns, probability_better

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]


def draw(positives: list[int], *, images: int = 150, seed: int = 0) -> tuple[Labels, np.random.Generator]:
    rng = np.random.default_rng(seed)
    labels = np.zeros((images, len(positives)), dtype=np.int8)
    for column, count in enumerate(positives):
        labels[rng.choice(images, count, replace=False), column] = 1
    return labels, rng


def scores(labels: Labels, effects: Floats | float, rng: np.random.Generator) -> Floats:
    return np.asarray(rng.normal(size=labels.shape) + effects * labels)


def alone(labels: Labels) -> npt.NDArray[np.str_]:
    return np.arange(len(labels)).astype(str)


def test_a_column_that_is_better_everywhere_is_chosen_for_a_finding_without_evidence_too() -> None:
    labels, rng = draw([16] * 10 + [1])
    choice = choose_columns(scores(labels, 2.0, rng), scores(labels, 0.5, rng), labels, alone(labels))
    assert choice.first.all()


def test_equal_columns_leave_the_text() -> None:
    labels, rng = draw([16] * 14)
    choice = choose_columns(scores(labels, 1.0, rng), scores(labels, 1.0, rng), labels, alone(labels))
    assert choice.first.sum() <= 3


def test_a_finding_that_learning_harms_keeps_the_text() -> None:
    labels, rng = draw([16] * 14)
    learnt, text = np.full(14, 2.0), np.full(14, 1.0)
    learnt[3], text[3] = 0.0, 2.5
    choice = choose_columns(scores(labels, learnt, rng), scores(labels, text, rng), labels, alone(labels))
    assert not choice.first[3]
    assert choice.first.sum() >= 10


def test_a_finding_without_a_learnt_score_keeps_the_text() -> None:
    labels, rng = draw([16, 16])
    learnt = scores(labels, 3.0, rng)
    learnt[:, 1] = np.nan
    assert choose_columns(learnt, scores(labels, 0.0, rng), labels, alone(labels)).first.tolist() == [True, False]


def test_without_any_evidence_no_column_is_probably_better() -> None:
    labels, rng = draw([1, 1])
    better = probability_better(scores(labels, 1.0, rng), scores(labels, 1.0, rng), labels, alone(labels), ColumnChoiceSettings())
    assert np.allclose(better, 0.5)


def test_the_optimism_of_the_choice_is_measured() -> None:
    gains, estimates = [], []
    for seed in range(30):
        labels, rng = draw([12] * 14, seed=seed)
        choice = choose_columns(
            scores(labels, 1.0, rng),
            scores(labels, 1.0, rng),
            labels,
            alone(labels),
            ColumnChoiceSettings(confidence=0.5),
            seed=seed,
        )
        gains.append(choice.first.mean())
        estimates.append(choice.optimism)
    assert np.mean(estimates) > 0.001  # of equal columns the apparently better one is chosen: the gain is optimism
    assert 0.2 < np.mean(gains) < 0.8
