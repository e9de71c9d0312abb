"""Synthetic images with findings that depend on the pixels alone, in known places."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.encoder.activations import compute_activations, encode_activations
from models.encoder.encoder import Encoder
from models.evaluation.cases import Cases, Split
from models.images.preprocess import Preprocess
from models.ladder.method import FewShotBenchmark, Support
from tests.builders import tiny, towers

FINDINGS = ("left", "right", "top", "hazy")
_PATCHES = {"left": (28, 4), "right": (28, 44), "top": (4, 24)}  # row and column of a bright square


def labelled(count: int, *, seed: int) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int8]]:
    """Return images [N, 64, 64] and labels [N, 4]: a bright square on the left, on the right, at the top; haze everywhere."""
    chance = np.random.default_rng(seed)
    labels = (chance.random((count, len(FINDINGS))) < 0.35).astype(np.int8)
    images = 0.3 + 0.1 * chance.random((count, tiny.SIZE, tiny.SIZE))
    for column, name in enumerate(FINDINGS[:3]):
        row, left = _PATCHES[name]
        images[:, row : row + 16, left : left + 16] += 0.35 * labels[:, column, None, None]
    images += 0.12 * labels[:, 3, None, None]
    return np.clip(images, 0, 1).astype(np.float16), labels


def head_for(encoder: Encoder, *, findings: int = len(FINDINGS), seed: int = 0) -> LinearHead:
    """Return a head of random directions, as from an untrained text tower."""
    width = int(encoder.architecture.config["embed_dim"])
    drawn = torch.randn(findings, width, generator=torch.Generator().manual_seed(seed))
    return LinearHead(drawn / drawn.norm(dim=1, keepdim=True), torch.full((findings,), 20.0), torch.zeros(findings))


def bench(encoder: Encoder | None = None, *, pool: int = 120, test: int = 160) -> FewShotBenchmark:
    """Return a benchmark of such images, one image per patient, the first `pool` of them for training."""
    encoder = encoder or towers.encoder("plain")
    images, labels = labelled(pool + test, seed=5)
    preprocess = Preprocess(size=tiny.SIZE)
    pixels = preprocess.normalise(torch.from_numpy(images.astype(np.float32))[:, None])
    encoded = encode_activations(encoder, compute_activations(encoder, pixels, k=0), k=0)
    names, blank = np.array([f"{number:03}" for number in range(pool + test)]), np.array([""] * (pool + test))
    return FewShotBenchmark(
        cases=Cases(
            key=names,
            patient=names,
            labels=labels,
            age=np.full(len(names), np.nan, dtype=np.float32),
            sex=blank,
            view=blank,
            pixel_sha256=names,
            weight=np.ones(len(names), dtype=np.float32),
            findings=FINDINGS,
        ),
        split=Split(pool=np.arange(pool), test=np.arange(pool, pool + test)),
        model_inputs=images,
        features=encoded.features.detach(),
        pooled=encoded.pooled.detach(),
        encoder=encoder,
        preprocess=preprocess,
        single=head_for(encoder, seed=1),
        ensemble=head_for(encoder),
    )


def support(given: FewShotBenchmark, *, shots: int, draw: int = 0) -> Support:
    """Return the shortest prefix of the pool that holds `shots` positives of each finding."""
    labels = given.cases.labels[given.split.pool]
    count = int(np.argmax((np.cumsum(labels == 1, axis=0) >= shots).all(axis=1))) + 1
    return Support(shots=shots, draw=draw, rows=given.split.pool[:count], studies_read=float(count))


def mean_auc(given: FewShotBenchmark, logits: npt.NDArray[np.float32]) -> float:
    """Return the mean AUC over the findings on the test images."""
    from sklearn.metrics import roc_auc_score

    truth = given.cases.labels[given.split.test]
    return float(np.mean([roc_auc_score(truth[:, column], logits[:, column]) for column in range(truth.shape[1])]))
