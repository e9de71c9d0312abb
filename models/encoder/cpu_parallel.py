"""Data parallelism on a CPU: each thread encodes a chunk of the batch, instead of all threads sharing every matrix product.

Threads that share a product synchronise at its end, some hundred times a batch, and wait longest where another process, such as a
decoder of the next images, uses one of the cores. Chunks synchronise once. A batch too small for two chunks is computed by all
threads together, which has the lower latency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import Any, TypeVar

import torch

T = TypeVar("T")
ImageBatch = TypeVar("ImageBatch", torch.Tensor, Sequence[Any])

MIN_IMAGES_PER_CHUNK = 8
"""Each chunk reads all weights, which fewer images do not amortise."""


class CpuDataParallel:
    """A pool of `threads` threads. With one, batches are not chunked."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")

    def map_chunks(self, work: Callable[[ImageBatch], T], images: ImageBatch) -> list[T]:
        """Return the results of `work` on consecutive chunks of the images, a tensor [N, ...] or a sequence, in order."""
        chunks = min(self._threads, len(images) // MIN_IMAGES_PER_CHUNK)
        if chunks < 2:
            return [work(images)]

        def work_on_chunk(chunk: ImageBatch) -> T:
            torch.set_num_threads(self._threads // chunks)  # of this thread; for MKL of all threads
            return work(chunk)

        size = ceil(len(images) / chunks)
        try:
            return list(self._pool.map(work_on_chunk, [images[first : first + size] for first in range(0, len(images), size)]))
        finally:
            torch.set_num_threads(self._threads)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
