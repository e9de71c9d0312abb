"""Nested supports: simulated labelling sessions in which a radiologist reads the pool in a random order.

K shots are the first K positives of each finding and the first K normal films in that order. A film with several findings counts
for each of them, so a finding may have more than K positives. The cost of K shots is not K studies: a finding with a prevalence of
.2 % occurs once in 500 studies, and `Support.studies_read` holds the expected number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.evaluation.cases import PRESENT, UNKNOWN, Cases, Split
from models.ladder.method import Support

_NEVER = np.iinfo(np.intp).max  # shot count of a film that belongs to no kind and never enters a support


def draw_supports(cases: Cases, split: Split, *, shots: Sequence[int], draws: int, seed: int) -> list[Support]:
    """Return a support for each draw and each shot count, by draw, then by shots as given. Same seed, same supports.

    Each draw reads one study of each patient of the pool, the first in its order. A finding with fewer than K positives among these
    gives all of them.
    """
    rates = _estimate_rates(cases, split)
    return [
        support
        for draw in range(draws)
        for support in _nest_supports(
            cases, _draw_reading_order(cases, split, np.random.default_rng([seed, draw])), rates, shots, draw
        )
    ]


def _draw_reading_order(cases: Cases, split: Split, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw one film per patient, in order. A film of larger weight tends to come earlier: an exponential race with the weights."""
    waiting = rng.standard_exponential(len(split.pool)) / np.maximum(cases.weight[split.pool], np.finfo(np.float32).tiny)
    order = split.pool[np.argsort(waiting, kind="stable")]
    _, first = np.unique(cases.patient[order], return_index=True)
    return np.asarray(order[np.sort(first)])


def _mark_kinds(cases: Cases, rows: npt.NDArray[np.intp] | slice = slice(None)) -> npt.NDArray[np.bool_]:
    """Return [n, F + 1]: positive for the finding; last column: normal."""
    return np.column_stack([cases.labels[rows] == PRESENT, cases.normal[rows]])


def _nest_supports(
    cases: Cases, order: npt.NDArray[np.intp], rates: npt.NDArray[np.float64], shots: Sequence[int], draw: int
) -> list[Support]:
    kinds = _mark_kinds(cases, order)
    nth = np.where(kinds, kinds.cumsum(axis=0), _NEVER)  # [n, F + 1] ordinal of the film within its kind
    first_shots = nth.min(axis=1)  # smallest shot count whose support holds the film
    by_shots = np.argsort(first_shots, kind="stable")
    return [
        Support(
            shots=k,
            draw=draw,
            rows=order[by_shots[: int((first_shots <= k).sum())]],
            studies_read=_expect_studies_read(np.minimum(k, kinds.sum(axis=0)), rates),
        )
        for k in shots
    ]


def _estimate_rates(cases: Cases, split: Split) -> npt.NDArray[np.float64]:
    """Return [F + 1]: prevalence of each finding in the archive, among films with a known label, and the share of normal films."""
    weight = cases.weight[split.pool].astype(np.float64)
    known = np.column_stack([cases.labels != UNKNOWN, np.ones(len(cases), dtype=bool)])[split.pool]
    return np.asarray((weight @ _mark_kinds(cases, split.pool)) / np.maximum(weight @ known, np.finfo(np.float64).tiny))


def _expect_studies_read(found: npt.NDArray[np.intp], rates: npt.NDArray[np.float64]) -> float:
    """Return the expected number of random studies read until the scarcest kind is complete: n / rate."""
    with np.errstate(divide="ignore"):  # a kind of rate 0 in the archive never occurs
        return float(np.max(found[found > 0] / rates[found > 0], initial=0.0))
