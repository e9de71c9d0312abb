"""Fake methods of the ladder: small, fast, and of different information."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from models.errors import CannotPartition
from models.evaluation.cases import ABSENT, PRESENT
from models.ladder.method import FewShotBenchmark, Logits, Support


@dataclass
class ZeroShot:
    """The text directions alone."""

    name: str = "zero-shot"
    needs_support: bool = False

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        assert support is None
        logits: Logits = bench.ensemble.logits(bench.features[bench.split.test]).numpy()
        return logits


@dataclass
class Chance:
    """Random numbers."""

    name: str = "chance"
    needs_support: bool = False

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        shape = len(bench.split.test), len(bench.cases.findings)
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@dataclass
class Means:
    """The direction from the mean of the absent to the mean of the present; no score without both kinds."""

    name: str = "means"
    needs_support: bool = True
    asked: list[tuple[int, int]] = field(default_factory=list)

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        assert support is not None
        self.asked.append((support.shots, support.draw))
        features, labels = bench.features.numpy(), support.labels(bench.cases)
        logits = np.full((len(bench.split.test), labels.shape[1]), np.nan, dtype=np.float32)
        for finding in range(labels.shape[1]):
            present, absent = (features[support.rows[labels[:, finding] == value]] for value in (PRESENT, ABSENT))
            if len(present) and len(absent):
                logits[:, finding] = features[bench.split.test] @ (present.mean(axis=0) - absent.mean(axis=0))
        return logits


@dataclass
class Oracle:
    """The true labels as scores."""

    name: str = "oracle"
    needs_support: bool = True

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        return bench.cases.labels[bench.split.test].astype(np.float32)


@dataclass
class Impossible:
    """A method that raises CannotPartition."""

    name: str = "impossible"
    needs_support: bool = True

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        raise CannotPartition("the image encoder cannot be partially unfrozen: its image tower is a Stand-in")


@dataclass
class Interrupted:
    """Means, with KeyboardInterrupt (Ctrl-C) after `after` calls."""

    after: int
    name: str = "means"
    needs_support: bool = True
    inner: Means = field(default_factory=Means)

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        if len(self.inner.asked) == self.after:
            raise KeyboardInterrupt
        return self.inner.scores(bench, support, seed=seed)
