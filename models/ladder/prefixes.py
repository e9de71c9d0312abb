"""The activations of a bench's films in front of the last k blocks: what encoder methods score from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.encoder.activations import from_prefix, prefix, shape
from models.encoder.encoder import Encoder
from models.encoder.partition import check_blocks, partition
from models.ladder.method import Bench, Logits, Support
from models.training.fine_tuning import STORED

_CHUNK = 128  # films at a time
DEFAULT_LIMIT = 4 << 30
"""Bytes of activations kept; those beyond it are made again from the films each time."""


class Prefixes:
    """Of one bench, by k: float16 activations of the test films. Made on first use, kept as long as they fit.

    `limit`: bytes kept, of all k together.
    """

    def __init__(self, bench: Bench, *, limit: int = DEFAULT_LIMIT) -> None:
        self.bench = bench
        self._limit = limit
        self._kept: dict[int, list[torch.Tensor]] = {}

    @property
    def held(self) -> int:
        """Bytes kept."""
        return sum(chunk.nbytes for chunks in self._kept.values() for chunk in chunks)

    def of_test(self, k: int) -> Iterable[torch.Tensor]:
        """Return the activations [b, L, W] of the test films in order, some at a time. CannotPartition."""
        if k in self._kept:
            return self._kept[k]
        test = self.bench.split.test
        check_blocks(k, partition(self.bench.encoder.network).blocks)
        made = (self._entering(test[start : start + _CHUNK], k) for start in range(0, len(test), _CHUNK))
        needed = len(test) * int(np.prod(shape(self.bench.encoder))) * STORED.itemsize
        if self.held + needed > self._limit:
            return made
        self._kept[k] = list(made)
        return self._kept[k]

    def logits(self, encoder: Encoder, head: LinearHead, k: int) -> Logits:
        """Score the test films with an encoder that differs from the bench's in its last k blocks and what follows them."""
        head = head.to(encoder.device)
        with torch.no_grad():
            parts = [head.logits(from_prefix(encoder, chunk, k=k).features).cpu() for chunk in self.of_test(k)]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)

    def _entering(self, rows: npt.NDArray[np.intp], k: int) -> torch.Tensor:
        pixels = self.bench.preprocess.normalised(squares(self.bench, rows).to(self.bench.encoder.device))
        return prefix(self.bench.encoder, pixels, k=k).to("cpu", STORED)


class SharedPrefixes:
    """The Prefixes of the bench in use, for several methods. Those of another bench take the place of the last's."""

    def __init__(self) -> None:
        self._prefixes: Prefixes | None = None

    def of(self, bench: Bench) -> Prefixes:
        """Return the bench's."""
        if self._prefixes is None or self._prefixes.bench is not bench:
            self._prefixes = Prefixes(bench)
        return self._prefixes


def given(support: Support | None) -> Support:
    """Return the support. ValueError where there is none."""
    if support is None:
        raise ValueError("a method that learns needs a support")
    return support


def squares(bench: Bench, rows: npt.NDArray[np.intp]) -> torch.Tensor:
    """Return the grey squares of these films, float32 [n, 1, S, S]."""
    return torch.from_numpy(np.asarray(bench.films[rows], dtype=np.float32))[:, None]


def zero_shot_where_not_learnt(bench: Bench, logits: Logits | None, learnt: Iterable[int]) -> Logits:
    """Return the logits [T, F] in the columns that were learnt, and the base encoder's zero-shot ones in the others."""
    features = bench.features[torch.from_numpy(bench.split.test)]
    scores = np.asarray(bench.ensemble.to(features.device).logits(features).cpu().numpy(), dtype=np.float32)
    columns = list(learnt)
    if logits is not None:
        scores[:, columns] = logits[:, columns]
    return scores
