"""A batch on a CPU in lanes: each thread takes some of the films, in place of some rows of every product.

Threads that share a product wait for each other at its end, some hundred times a batch, and longest where another program has one
of their processors, as one that decodes the next films does. Lanes meet once. Of a single film all threads share each product
still: it is there sooner.
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
"""Films of a lane, at least: each lane reads all weights, and fewer films do not make up for that."""


class CpuDataParallel:
    """So many threads of torch's. With one there are no lanes."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lane")

    def map_chunks(self, work: Callable[[ImageBatch], T], images: ImageBatch) -> list[T]:
        """Return, in order, what `work` makes of some of the films, a tensor [N, ...] or a sequence, of the next, and so on."""
        lanes = min(self._threads, len(images) // MIN_IMAGES_PER_CHUNK)
        if lanes < 2:
            return [work(images)]

        def in_lane(some: ImageBatch) -> T:
            torch.set_num_threads(self._threads // lanes)  # of this thread; for MKL of all
            return work(some)

        each = ceil(len(images) / lanes)
        try:
            return list(self._pool.map(in_lane, [images[first : first + each] for first in range(0, len(images), each)]))
        finally:
            torch.set_num_threads(self._threads)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
