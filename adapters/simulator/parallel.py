"""Ordered parallel map over processes with bounded look-ahead."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")

BATCHES_AHEAD = 3
"""Batches queued or finished ahead of the consumer, per process."""
BATCH_SIZE = 4
"""Items per batch."""


def map_in_processes(make: Callable[[T], R], items: Sequence[T], *, workers: int) -> Generator[R, None, None]:
    """Yield make(item) for each item, in order, from `workers` processes of one thread each; with fewer than two, in this process.

    The processes are spawned: `make` and its results must be picklable, and the calling script must be importable without side
    effects (`if __name__ == "__main__"`). When the caller stops, running batches are finished and queued ones dropped; when it is
    killed, the processes end.
    """
    if workers < 2 or len(items) <= BATCH_SIZE:
        yield from map(make, items)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_process)
    waiting: deque[Future[list[R]]] = deque()
    try:
        for start in range(0, len(items), BATCH_SIZE):
            with _block_sigint():  # submit() starts the processes
                waiting.append(pool.submit(_run_batch, make, items[start : start + BATCH_SIZE]))
            if len(waiting) > BATCHES_AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _block_sigint() -> Iterator[None]:
    """Block SIGINT in child processes: Ctrl-C reaches every process of a terminal, but only the caller handles it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child inherits the mask from its first instruction
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_process() -> None:
    threadpool_limits(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the caller is gone: each process holds both ends of the queue, and would wait for ever."""
    caller = parent_process()
    if caller is not None:
        connection.wait([caller.sentinel])
        os._exit(0)


def _run_batch(make: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [make(item) for item in items]
