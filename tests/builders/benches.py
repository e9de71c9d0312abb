"""Constructed cases and benchmarks: features drawn around known directions, so that the best ranking is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.evaluation.cases import Cases, Split
from models.images.preprocess import Preprocess
from models.ladder.method import FewShotBenchmark
from tests.builders import tiny

FINDINGS = ("Effusion", "Mass", "Hernia", "Edema")


def cases(labels: npt.NDArray[np.int8], *, films_per_patient: int = 1, weight: npt.NDArray[np.float32] | None = None) -> Cases:
    """Return cases with these labels [N, F]; all other fields are functions of the row number."""
    number = np.arange(len(labels))
    return Cases(
        key=np.array([f"film-{row:05d}" for row in number]),
        patient=np.array([f"patient-{row // films_per_patient:05d}" for row in number]),
        labels=labels,
        age=(30 + number % 50).astype(np.float32),
        sex=np.where(number % 2, "M", "F"),
        view=np.where(number % 3, "PA", "AP"),
        pixel_sha256=np.array([f"{row:064x}" for row in number]),
        weight=np.ones(len(labels), dtype=np.float32) if weight is None else weight,
        findings=FINDINGS[: labels.shape[1]],
    )


def random_labels(images: int, rates: list[float], *, seed: int, unknown: float = 0.0) -> npt.NDArray[np.int8]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, len(rates))) < rates).astype(np.int8)
    labels[rng.random(labels.shape) < unknown] = -1
    return labels


WIDTH = 32
RATES = [0.3, 0.25, 0.2, 0.15]


@dataclass(frozen=True)
class World:
    """A benchmark and its best ranking directions [F, D]."""

    bench: FewShotBenchmark
    truth: npt.NDArray[np.float32]


def world(*, images: int = 1500, seed: int = 0, effect: float = 2.0, text: float = 0.5, unknown: float = 0.0) -> World:
    """Return a benchmark of Gaussian features around a common direction, with unequal variances; a finding shifts them by `effect`
    standard deviations along its own direction. `text`: cosine of each text direction with the truth, -1..1. A third of the images
    is the test set.
    """
    rng = np.random.default_rng(seed)
    labels = random_labels(images, RATES, seed=seed, unknown=0.0)
    spread = np.linspace(1.5, 0.3, WIDTH)
    truth = unit(rng.normal(size=(len(RATES), WIDTH)))  # as weights on whitened coordinates
    scattered = (rng.normal(size=(images, WIDTH)) + effect * labels @ truth) * spread
    features = unit(4 * unit(rng.normal(size=WIDTH)) + 0.2 * scattered)
    orthogonal = rng.normal(size=truth.shape)
    orthogonal = unit(orthogonal - (orthogonal * truth).sum(axis=1, keepdims=True) * truth)
    prompts = unit((text * truth + np.sqrt(1 - text**2) * orthogonal) / spread)
    known = np.where(rng.random(labels.shape) < unknown, -1, labels).astype(np.int8)
    bench = FewShotBenchmark(
        cases=cases(known),
        split=Split(pool=np.arange(images // 3, images), test=np.arange(images // 3)),
        model_inputs=np.zeros((images, tiny.SIZE, tiny.SIZE), dtype=np.float16),
        features=torch.from_numpy(features.astype(np.float32)),
        pooled=torch.zeros(images, 64),
        encoder=tiny.encoder(),
        preprocess=Preprocess(size=tiny.SIZE),
        single=head_of(unit(prompts + 0.3 * rng.normal(size=prompts.shape) / np.sqrt(WIDTH))),
        ensemble=head_of(prompts),
    )
    return World(bench, unit(truth / spread).astype(np.float32))


def head_of(directions: npt.NDArray[np.float64]) -> LinearHead:
    findings = len(directions)
    return LinearHead(torch.from_numpy(directions.astype(np.float32)), torch.full((findings,), 20.0), torch.zeros(findings))


def unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
