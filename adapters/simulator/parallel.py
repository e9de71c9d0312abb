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

AHEAD = 3
"""Batches that wait for each process, or are done before they are wanted."""
BATCH = 4
"""Things handed to a process at a time."""


def in_processes(make: Callable[[T], R], of: Sequence[T], *, workers: int) -> Generator[R, None, None]:
    """Yield make(thing) for each thing, in order; in `workers` processes of one thread each, with fewer than two in this one.

    The processes are spawned, so `make` and what it makes must be picklable, and a script that calls this must be importable
    without side effects (`if __name__ == "__main__"`). What is under way when the caller stops is finished, the rest dropped.
    """
    if workers < 2 or len(of) <= BATCH:
        yield from map(make, of)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread)
    waiting: deque[Future[list[R]]] = deque()
    try:
        for start in range(0, len(of), BATCH):
            with _deaf_to_ctrl_c():  # here the processes are started
                waiting.append(pool.submit(_batch, make, of[start : start + BATCH]))
            if len(waiting) > AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Block SIGINT for what is started meanwhile. A Ctrl-C reaches every process of a terminal; the caller is the one to act."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a mask is inherited from the first instruction on
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _one_thread() -> None:
    threadpool_limits(1)


def _batch(make: Callable[[T], R], of: Sequence[T]) -> list[R]:
    return [make(thing) for thing in of]
