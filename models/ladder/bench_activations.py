"""Activations of a benchmark's images entering the last k blocks, the input of the encoder methods."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.encoder.activations import activation_shape, compute_activations, encode_activations
from models.encoder.encoder import Encoder
from models.encoder.partition import check_blocks, partition
from models.ladder.method import FewShotBenchmark, Logits, Support
from models.training.fine_tuning import ACTIVATION_DTYPE

_CHUNK = 128  # images per forward pass
DEFAULT_MAX_BYTES = 4 << 30
"""Largest size of cached activations in bytes; activations beyond it are recomputed from the model inputs each time."""


class BenchActivations:
    """float16 activations of one benchmark's test images, by k. Computed on first use and cached within the limit.

    `max_bytes`: largest size of the cache, all k together.
    """

    def __init__(self, bench: FewShotBenchmark, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.bench = bench
        self._max_bytes = max_bytes
        self._chunks: dict[int, list[torch.Tensor]] = {}

    @property
    def held_bytes(self) -> int:
        """Size of the cached activations in bytes."""
        return sum(chunk.nbytes for chunks in self._chunks.values() for chunk in chunks)

    def test_chunks(self, k: int) -> Iterable[torch.Tensor]:
        """Return the activations [b, L, W] of the test images in order, in chunks. Raise CannotPartition."""
        if k in self._chunks:
            return self._chunks[k]
        test = self.bench.split.test
        check_blocks(k, partition(self.bench.encoder.network).block_count)
        computed = (self._compute_activations(test[start : start + _CHUNK], k) for start in range(0, len(test), _CHUNK))
        needed = len(test) * int(np.prod(activation_shape(self.bench.encoder))) * ACTIVATION_DTYPE.itemsize
        if self.held_bytes + needed > self._max_bytes:
            return computed
        self._chunks[k] = list(computed)
        return self._chunks[k]

    def logits(self, encoder: Encoder, head: LinearHead, k: int) -> Logits:
        """Score the test images with an encoder that differs from the benchmark's from its last k blocks on."""
        head = head.to(encoder.device)
        with torch.no_grad():
            parts = [head.logits(encode_activations(encoder, chunk, k=k).features).cpu() for chunk in self.test_chunks(k)]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)

    def _compute_activations(self, rows: npt.NDArray[np.intp], k: int) -> torch.Tensor:
        pixels = self.bench.preprocess.normalise(select_model_inputs(self.bench, rows).to(self.bench.encoder.device))
        return compute_activations(self.bench.encoder, pixels, k=k).to("cpu", ACTIVATION_DTYPE)


class SharedActivations:
    """The BenchActivations of the current benchmark, shared by several methods. Another benchmark replaces them."""

    def __init__(self) -> None:
        self._current: BenchActivations | None = None

    def of_bench(self, bench: FewShotBenchmark) -> BenchActivations:
        """Return the activations of this benchmark."""
        if self._current is None or self._current.bench is not bench:
            self._current = BenchActivations(bench)
        return self._current


def require_support(support: Support | None) -> Support:
    """Return the support. Raise ValueError for None."""
    if support is None:
        raise ValueError("a method that learns needs a support")
    return support


def select_model_inputs(bench: FewShotBenchmark, rows: npt.NDArray[np.intp]) -> torch.Tensor:
    """Return the model inputs of these rows, float32 [n, 1, S, S]."""
    stored = rows if bench.input_rows is None else bench.input_rows[rows]
    return torch.from_numpy(np.asarray(bench.model_inputs[stored], dtype=np.float32))[:, None]


def fill_with_zero_shot(bench: FewShotBenchmark, logits: Logits | None, learnt: Iterable[int]) -> Logits:
    """Return the logits [T, F] in the learnt columns, and the base encoder's zero-shot logits in the others."""
    features = bench.features[torch.from_numpy(bench.split.test)]
    scores = np.asarray(bench.ensemble.to(features.device).logits(features).cpu().numpy(), dtype=np.float32)
    columns = list(learnt)
    if logits is not None:
        scores[:, columns] = logits[:, columns]
    return scores
