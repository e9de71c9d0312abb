from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score

from models import anchored
from models.anchored import Anchoring, Whitening, anchored_head
from models.head import LinearHead
from tests.models import benches

Floats = npt.NDArray[np.float64]
ONE_POINT = Anchoring(sizes=(0.8,), powers=(0.5,), shared=(0.3,))


@pytest.fixture(scope="module")
def world() -> benches.World:
    return benches.world(films=900)


@pytest.fixture(scope="module")
def whitening(world: benches.World) -> Whitening:
    return Whitening.of(world.bench.features[world.bench.split.pool])


def fit(world: benches.World, whitening: Whitening, rows: npt.NDArray[np.intp], **numbers: object) -> LinearHead:
    bench = world.bench
    chosen = replace(Anchoring(), **numbers)  # type: ignore[arg-type]
    return anchored_head(bench.features[rows], bench.cases.labels[rows], bench.ensemble, whitening, chosen)


def test_whitened_films_scatter_alike_in_all_directions(world: benches.World, whitening: Whitening) -> None:
    pool = world.bench.features[world.bench.split.pool]
    white = whitening(pool)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-6)
    spread = np.linalg.eigvalsh(np.cov(white.T))
    assert spread.max() < 1.1
    assert 0.3 < spread.min() < 0.9  # Ledoit and Wolf shrink: the smallest are not blown up to 1
    assert np.median(spread) > 0.8
    np.testing.assert_allclose(whitening.inverse_root.T @ whitening.inverse_root, np.diag(1 / whitening.variance), atol=1e-9)


def test_whitening_survives_fewer_films_than_features() -> None:
    features = torch.nn.functional.normalize(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    assert np.isfinite(Whitening.of(features)(features)).all()
    assert np.isfinite(Whitening.of(features[:1].repeat(3, 1))(features)).all()


def dense(shifts: Floats, noise: Floats, anchors: Floats, variance: Floats, numbers: Anchoring) -> tuple[Floats, Floats, Floats]:
    """The same Gaussian written out: mean and covariance of all F x D observed shifts, and their covariance with d."""
    findings, width = shifts.shape
    (size,), (power,), (shared,) = numbers.sizes, numbers.powers, numbers.shared
    signal = size * variance**power / np.mean(variance**power) / width
    alike = shared + (1 - shared) * np.eye(findings)
    of_d = np.kron(alike, np.diag(signal))
    mean = np.zeros(findings * width)
    for (expected, deviation), anchor in zip((numbers.as_weights, numbers.as_shift), anchors, strict=True):
        mean += expected * anchor.ravel()
        of_d = of_d + deviation**2 * np.outer(anchor.ravel(), anchor.ravel())
    return mean, np.asarray(of_d + np.kron(noise, np.eye(width))), np.asarray(of_d)


@pytest.fixture
def observed() -> tuple[Floats, Floats, Floats, Floats]:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    anchors = rng.normal(size=(2, 3, 5))
    anchors /= np.linalg.norm(anchors, axis=-1, keepdims=True)
    return rng.normal(size=(3, 5)), root @ root.T + 0.1 * np.eye(3), anchors, rng.uniform(0.1, 2, size=5)


def test_the_posterior_is_that_of_the_gaussian_written_out(observed: tuple[Floats, Floats, Floats, Floats]) -> None:
    shifts, noise, anchors, variance = observed
    mean, covariance, of_d = dense(shifts, noise, anchors, variance, ONE_POINT)
    expected = mean + of_d @ np.linalg.solve(covariance, shifts.ravel() - mean)
    np.testing.assert_allclose(anchored._posterior(shifts, noise, anchors, variance, ONE_POINT), expected.reshape(3, 5))


def test_the_evidence_is_the_density_of_what_was_observed(observed: tuple[Floats, Floats, Floats, Floats]) -> None:
    """Up to a constant that all points of the grid share; the median size has no penalty."""
    shifts, noise, anchors, variance = observed
    off = []
    for size, power, shared in [(0.8, 0.5, 0.3), (0.8, 0.0, 0.0), (3.0, 1.0, 0.5)]:
        point = Anchoring(sizes=(size,), size=(size, 1.0), powers=(power,), shared=(shared,))
        mean, covariance, _ = dense(shifts, noise, anchors, variance, point)
        ((evidence, _),) = anchored._grid(shifts, noise, anchors, variance, point)
        off.append(evidence - multivariate_normal(mean, covariance).logpdf(shifts.ravel()))
    np.testing.assert_allclose(off, off[0])


def test_without_labels_it_is_the_text(world: benches.World, whitening: Whitening) -> None:
    bench = world.bench
    nothing = np.full((3, 4), -1, dtype=np.int8)
    assert anchored_head(bench.features[:3], nothing, bench.ensemble, whitening) is bench.ensemble
    assert anchored_head(bench.features[:0], nothing[:0], bench.ensemble, whitening) is bench.ensemble


@pytest.mark.parametrize("only", [1, 0, -1])
def test_a_finding_with_one_kind_of_label_keeps_its_text(world: benches.World, whitening: Whitening, only: int) -> None:
    bench, rows = world.bench, world.bench.split.pool[:40]
    labels = bench.cases.labels[rows].copy()
    labels[:, 2] = only
    head = anchored_head(bench.features[rows], labels, bench.ensemble, whitening)
    for name, tensor in head.tensors.items():
        assert torch.equal(tensor[2], bench.ensemble.tensors[name][2])
        assert not torch.equal(tensor[1], bench.ensemble.tensors[name][1])


def test_films_of_which_nothing_is_known_and_their_order_change_nothing(world: benches.World, whitening: Whitening) -> None:
    bench, rows = world.bench, world.bench.split.pool[:40]
    labels = bench.cases.labels[rows].copy()
    labels[5] = -1
    more = anchored_head(bench.features[rows], labels, bench.ensemble, whitening)
    order = np.random.default_rng(0).permutation([row for row in range(40) if row != 5])
    fewer = anchored_head(bench.features[rows[order]], labels[order], bench.ensemble, whitening)
    assert torch.allclose(more.weights, fewer.weights, atol=1e-4, rtol=1e-4)
    assert torch.allclose(more.bias, fewer.bias, atol=1e-4, rtol=1e-4)


def test_the_boundary_lies_midway_between_the_positives_and_the_archive(world: benches.World, whitening: Whitening) -> None:
    head = fit(world, whitening, world.bench.split.pool[:60])
    shift = (head.weights.numpy() @ whitening.axes) * np.sqrt(whitening.variance)  # expected d_c, whitened
    half_way = whitening.mean + (shift / 2) @ (whitening.axes * np.sqrt(whitening.variance)).T
    logits = half_way @ head.weights.numpy().T.astype(np.float64) + head.bias.numpy()
    np.testing.assert_allclose(np.diag(logits), 0, atol=1e-3)


def test_even_a_text_that_points_the_wrong_way_fades() -> None:
    wrong = benches.world(films=1500, text=-0.6)
    whitening = Whitening.of(wrong.bench.features[wrong.bench.split.pool])
    bench, test = wrong.bench, wrong.bench.split.test

    def auc(head: LinearHead) -> float:
        return float(roc_auc_score(bench.cases.labels[test], head.logits(bench.features[test]), average="macro"))

    few, many = (auc(fit(wrong, whitening, bench.split.pool[:n])) for n in (40, 1000))
    assert auc(bench.ensemble) < 0.4
    assert auc(bench.ensemble) < few < many
    assert many > 0.85


def test_the_first_label_moves_little(world: benches.World, whitening: Whitening) -> None:
    """The rank correlation with zero-shot on the archive stays high with one positive a finding."""
    bench = world.bench
    labels = bench.cases.labels[bench.split.pool]
    first = [int(bench.split.pool[np.flatnonzero(labels[:, f] == 1)[0]]) for f in range(4)]
    normal = int(bench.split.pool[np.flatnonzero((labels == 0).all(axis=1))[0]])
    archive = bench.features[bench.split.pool]
    head = fit(world, whitening, np.array([*first, normal]))
    for learnt, text in zip(head.logits(archive).T, bench.ensemble.logits(archive).T, strict=True):
        assert np.corrcoef(learnt, text)[0, 1] > 0.6


def test_a_head_made_of_weights_gives_their_logits() -> None:
    weights, bias = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, -1.0, 0.0])
    weights[2] = 0
    head = LinearHead.from_weights(weights.double(), bias.double())
    features = torch.eye(5)
    assert torch.allclose(head.logits(features), features @ weights.T + bias, atol=1e-6)
    assert torch.allclose(head.weights, weights, atol=1e-6)
    assert {tensor.dtype for tensor in head.tensors.values()} == {torch.float32}
