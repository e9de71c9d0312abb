"""backoff: the wait before another attempt. Free of numpy, because the supervisor uses it and loads no heavy library."""

from __future__ import annotations

MAX_DOUBLINGS = 30
MIN_SHARE = 0.1
"""Smallest share of the ceiling that is waited, so that a retry is never immediate."""


def backoff_seconds(attempts: int, *, base_seconds: float, cap_seconds: float, jitter: float = 1.0) -> float:
    """Return the seconds to wait after `attempts` failures: exponential back-off with full jitter.

    The ceiling is min(cap_seconds, base_seconds * 2^attempts). `jitter` (0..1) is the share of the ceiling that is waited, at least
    MIN_SHARE; workers pass a uniform random number so that their retries spread, a lone process passes 1.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    ceiling = min(cap_seconds, base_seconds * 2.0 ** min(attempts, MAX_DOUBLINGS))
    return ceiling * max(MIN_SHARE, jitter)
