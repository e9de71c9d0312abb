from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score

from models.classifier.head import LinearHead
from models.training import anchored_head as heads
from models.training.anchored_head import AnchoredHeadSettings, anchored_head
from models.training.whitening import WhiteningTransform
from tests.builders import benches

Floats = npt.NDArray[np.float64]
ONE_POINT = AnchoredHeadSettings(counts=(0.7,), differs=0.3, sizes=(0.8,), own=(0.0,), powers=(0.5,), trust=1.0)


@pytest.fixture(scope="module")
def world() -> benches.World:
    return benches.world(images=900)


@pytest.fixture(scope="module")
def whitening(world: benches.World) -> WhiteningTransform:
    return WhiteningTransform.from_features(world.bench.features[world.bench.split.pool])


def fit(world: benches.World, whitening: WhiteningTransform, rows: npt.NDArray[np.intp], **numbers: object) -> LinearHead:
    bench = world.bench
    chosen = replace(AnchoredHeadSettings(), **numbers)  # type: ignore[arg-type]
    return anchored_head(bench.features[rows], bench.cases.labels[rows], bench.ensemble, whitening, chosen)


def test_whitened_features_have_unit_variance_in_all_directions(world: benches.World, whitening: WhiteningTransform) -> None:
    pool = world.bench.features[world.bench.split.pool]
    white = whitening(pool)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-6)
    spread = np.linalg.eigvalsh(np.cov(white.T))
    assert spread.max() < 1.1
    assert 0.3 < spread.min() < 0.9  # Ledoit and Wolf shrink: the smallest are not blown up to 1
    assert np.median(spread) > 0.8
    np.testing.assert_allclose(whitening.inverse_root.T @ whitening.inverse_root, np.diag(1 / whitening.variance), atol=1e-9)


def test_whitening_is_finite_for_fewer_images_than_features() -> None:
    features = torch.nn.functional.normalize(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    assert np.isfinite(WhiteningTransform.from_features(features)(features)).all()
    assert np.isfinite(WhiteningTransform.from_features(features[:1].repeat(3, 1))(features)).all()


@dataclass(frozen=True)
class Observed:
    """Observed shifts [F, D], their noise variance [F], anchors [F, D] of unit length, the archive's variance [D]."""

    shifts: Floats
    noise: Floats
    anchor: Floats
    variance: Floats

    def posterior(self, numbers: AnchoredHeadSettings) -> Floats:
        return heads._average_posterior(self.shifts, self.noise, self.anchor, self.variance, numbers)

    def dense(self, numbers: AnchoredHeadSettings) -> list[tuple[Floats, Floats, Floats]]:
        """Return for each finding the mean and covariance [D, D] of the observed shift, and the covariance of d_c."""
        (count,), (size,), (power,) = numbers.counts, numbers.sizes, numbers.powers
        signal = np.diag(size * self.variance**power / np.sum(self.variance**power))
        of_d = [signal + numbers.differs**2 * np.outer(along, along) for along in self.anchor]
        scatter = np.eye(len(self.variance))
        return [(count * a, d + n * scatter, d) for a, n, d in zip(self.anchor, self.noise, of_d, strict=True)]


@pytest.fixture
def observed() -> Observed:
    rng = np.random.default_rng(0)
    anchor = rng.normal(size=(3, 5))
    anchor /= np.linalg.norm(anchor, axis=-1, keepdims=True)
    return Observed(rng.normal(size=(3, 5)), rng.uniform(0.1, 1, size=3), anchor, rng.uniform(0.1, 2, size=5))


def test_the_posterior_mean_equals_the_dense_gaussian_one(observed: Observed) -> None:
    written_out = [
        mean + of_d @ np.linalg.solve(covariance, shift - mean)
        for (mean, covariance, of_d), shift in zip(observed.dense(ONE_POINT), observed.shifts, strict=True)
    ]
    np.testing.assert_allclose(observed.posterior(ONE_POINT), written_out)


def test_the_evidence_is_the_density_of_the_observed_shifts(observed: Observed) -> None:
    """Up to a constant common to all grid points; at its expected k and size a point has no prior penalty."""
    off = []
    for count, size, power in [(0.7, 0.8, 0.5), (0.0, 0.8, 0.0), (0.3, 3.0, 1.0)]:
        point = replace(ONE_POINT, text=(count, 1.0), counts=(count,), sizes=(size,), powers=(power,))
        point = replace(point, apart=size + count**2 + point.differs**2)
        density = sum(
            multivariate_normal(mean, covariance).logpdf(shift)
            for (mean, covariance, _), shift in zip(observed.dense(point), observed.shifts, strict=True)
        )
        ((evidence, _),) = heads._evaluate_grid(observed.shifts, observed.noise, observed.anchor, observed.variance, point)
        off.append(evidence[0] - density)
    np.testing.assert_allclose(off, off[0])


def test_grid_points_are_weighted_by_evidence(observed: Observed) -> None:
    """Of two sizes, the posterior follows the one of the higher likelihood."""
    far = replace(observed, shifts=5 * observed.shifts, noise=0.1 * observed.noise)
    small, large = (replace(ONE_POINT, sizes=(size,), apart=0.6, size_spread=100.0) for size in (0.01, 10.0))
    both = replace(small, sizes=(0.01, 10.0))
    np.testing.assert_allclose(far.posterior(both), far.posterior(large), rtol=1e-6)
    assert not np.allclose(far.posterior(small), far.posterior(large), rtol=0.1)


def agreement(right: float, *, shots: int) -> float:
    """Return the mean correlation of the head with zero-shot for a text of this cosine with the truth."""
    bench = benches.world(images=1500, effect=1.5, text=right).bench
    pool = bench.split.pool
    labels = bench.cases.labels[pool]
    few = np.concatenate([*(pool[labels[:, f] == 1][:shots] for f in range(4)), pool[(labels == 0).all(axis=1)][:shots]])
    head = anchored_head(
        bench.features[few], bench.cases.labels[few], bench.ensemble, WhiteningTransform.from_features(bench.features[pool])
    )
    learnt, text = head.logits(bench.features).numpy().T, bench.ensemble.logits(bench.features).numpy().T
    return float(np.mean([np.corrcoef(*both)[0, 1] for both in zip(learnt, text, strict=True)]))


def test_a_correct_text_is_kept() -> None:
    assert agreement(0.95, shots=1) > 0.8
    assert agreement(0.95, shots=16) > 0.8


def test_the_weight_of_a_weak_text_falls_with_labels() -> None:
    assert agreement(0.2, shots=16) < agreement(0.2, shots=4) < agreement(0.95, shots=4) - 0.15


def test_without_labels_the_head_is_the_text_head(world: benches.World, whitening: WhiteningTransform) -> None:
    bench = world.bench
    nothing = np.full((3, 4), -1, dtype=np.int8)
    assert anchored_head(bench.features[:3], nothing, bench.ensemble, whitening) is bench.ensemble
    assert anchored_head(bench.features[:0], nothing[:0], bench.ensemble, whitening) is bench.ensemble


@pytest.mark.parametrize("only", [1, 0, -1])
def test_a_finding_with_one_kind_of_label_keeps_its_text_classifier(
    world: benches.World, whitening: WhiteningTransform, only: int
) -> None:
    bench, rows = world.bench, world.bench.split.pool[:40]
    labels = bench.cases.labels[rows].copy()
    labels[:, 2] = only
    head = anchored_head(bench.features[rows], labels, bench.ensemble, whitening)
    for name, tensor in head.tensors.items():
        assert torch.equal(tensor[2], bench.ensemble.tensors[name][2])
        assert not torch.equal(tensor[1], bench.ensemble.tensors[name][1])


def test_unlabelled_images_and_the_order_of_images_change_nothing(world: benches.World, whitening: WhiteningTransform) -> None:
    bench, rows = world.bench, world.bench.split.pool[:40]
    labels = bench.cases.labels[rows].copy()
    labels[5] = -1
    more = anchored_head(bench.features[rows], labels, bench.ensemble, whitening)
    order = np.random.default_rng(0).permutation([row for row in range(40) if row != 5])
    fewer = anchored_head(bench.features[rows[order]], labels[order], bench.ensemble, whitening)
    assert torch.allclose(more.weights, fewer.weights, atol=1e-4, rtol=1e-4)
    assert torch.allclose(more.bias, fewer.bias, atol=1e-4, rtol=1e-4)


def test_the_decision_boundary_is_midway_between_positives_and_archive(world: benches.World, whitening: WhiteningTransform) -> None:
    head = fit(world, whitening, world.bench.split.pool[:60])
    shift = (head.weights.numpy() @ whitening.axes) * np.sqrt(whitening.variance)  # expected d_c, whitened
    half_way = whitening.mean + (shift / 2) @ (whitening.axes * np.sqrt(whitening.variance)).T
    logits = half_way @ head.weights.numpy().T.astype(np.float64) + head.bias.numpy()
    np.testing.assert_allclose(np.diag(logits), 0, atol=1e-3)


def test_labels_outweigh_a_text_of_the_wrong_sign() -> None:
    wrong = benches.world(images=1500, text=-0.6)
    whitening = WhiteningTransform.from_features(wrong.bench.features[wrong.bench.split.pool])
    bench, test = wrong.bench, wrong.bench.split.test

    def auc(head: LinearHead) -> float:
        return float(roc_auc_score(bench.cases.labels[test], head.logits(bench.features[test]), average="macro"))

    few, many = (auc(fit(wrong, whitening, bench.split.pool[:n])) for n in (40, 1000))
    assert auc(bench.ensemble) < 0.4
    assert auc(bench.ensemble) < few < many
    assert many > 0.85


def test_a_head_from_weights_gives_the_logits_of_the_weights() -> None:
    weights, bias = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, -1.0, 0.0])
    weights[2] = 0
    head = LinearHead.from_weights(weights.double(), bias.double())
    features = torch.eye(5)
    assert torch.allclose(head.logits(features), features @ weights.T + bias, atol=1e-6)
    assert torch.allclose(head.weights, weights, atol=1e-6)
    assert {tensor.dtype for tensor in head.tensors.values()} == {torch.float32}
