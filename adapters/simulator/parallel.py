"""Many like things made in processes, handed over in order, never many ahead of the one that is wanted."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")

BATCHES_AHEAD = 3
"""Batches that wait for each process, or are done before they are wanted."""
BATCH_SIZE = 4
"""Things handed to a process at a time."""


def map_in_processes(make: Callable[[T], R], items: Sequence[T], *, workers: int) -> Generator[R, None, None]:
    """Yield make(thing) for each thing, in order; in `workers` processes of one thread each, with fewer than two in this one.

    The processes are spawned, so `make` and what it makes must be picklable, and a script that calls this must be importable
    without side effects (`if __name__ == "__main__"`). What is under way when the caller stops is finished, the rest dropped.
    """
    if workers < 2 or len(items) <= BATCH_SIZE:
        yield from map(make, items)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_limit_threads)
    waiting: deque[Future[list[R]]] = deque()
    try:
        for start in range(0, len(items), BATCH_SIZE):
            with _block_sigint():  # here the processes are started
                waiting.append(pool.submit(_run_batch, make, items[start : start + BATCH_SIZE]))
            if len(waiting) > BATCHES_AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _block_sigint() -> Iterator[None]:
    """Block SIGINT for what is started meanwhile. A Ctrl-C reaches every process of a terminal; the caller is the one to act."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a mask is inherited from the first instruction on
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _limit_threads() -> None:
    threadpool_limits(1)


def _run_batch(make: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [make(thing) for thing in items]
