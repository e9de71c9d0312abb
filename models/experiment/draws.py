"""Which films a radiologist would have labelled: nested supports, drawn by reading the pool in a random order.

K shots are the first K positives of each finding and the first K normal films that the order meets. A film with several
findings counts for each of them, so a finding may have more than K positives. What K shots cost is not K: a finding with a
prevalence of .2 % is met once in 500 studies, and `Support.studies_read` says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.evaluation.cases import PRESENT, UNKNOWN, Cases, Split
from models.ladder.method import Support

_NEVER = np.iinfo(np.intp).max  # the shot count at which a film that shows nothing wanted enters


def draw_supports(cases: Cases, split: Split, *, shots: Sequence[int], draws: int, seed: int) -> list[Support]:
    """Return a support for each draw and each shot count, by draw, then by shots as given. Same seed, same supports.

    Each draw reads one study of each patient of the pool, whichever comes first in its order. A finding that has fewer than K
    positives there gives what it has.
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
    """One film a patient. A film that stands for more of the archive is met earlier: an exponential race with its weight."""
    waiting = rng.standard_exponential(len(split.pool)) / np.maximum(cases.weight[split.pool], np.finfo(np.float32).tiny)
    order = split.pool[np.argsort(waiting, kind="stable")]
    _, first = np.unique(cases.patient[order], return_index=True)
    return np.asarray(order[np.sort(first)])


def _mark_kinds(cases: Cases, rows: npt.NDArray[np.intp] | slice = slice(None)) -> npt.NDArray[np.bool_]:
    """[n, F + 1]: shows the finding; in the last column: shows none."""
    return np.column_stack([cases.labels[rows] == PRESENT, cases.normal[rows]])


def _nest_supports(
    cases: Cases, order: npt.NDArray[np.intp], rates: npt.NDArray[np.float64], shots: Sequence[int], draw: int
) -> list[Support]:
    wanted = _mark_kinds(cases, order)
    nth = np.where(wanted, wanted.cumsum(axis=0), _NEVER)  # [n, F + 1] the film is the n-th of its kind
    enters = nth.min(axis=1)
    entering = np.argsort(enters, kind="stable")
    return [
        Support(
            shots=k,
            draw=draw,
            rows=order[entering[: int((enters <= k).sum())]],
            studies_read=_expect_studies_read(np.minimum(k, wanted.sum(axis=0)), rates),
        )
        for k in shots
    ]


def _estimate_rates(cases: Cases, split: Split) -> npt.NDArray[np.float64]:
    """[F + 1]: what share of the archive's films, among those of which it is known, shows each finding; and none."""
    weight = cases.weight[split.pool].astype(np.float64)
    known = np.column_stack([cases.labels != UNKNOWN, np.ones(len(cases), dtype=bool)])[split.pool]
    return np.asarray((weight @ _mark_kinds(cases, split.pool)) / np.maximum(weight @ known, np.finfo(np.float64).tiny))


def _expect_studies_read(found: npt.NDArray[np.intp], rates: npt.NDArray[np.float64]) -> float:
    """How many studies are read at random, on average, until the scarcest kind has been met that often: n / rate."""
    with np.errstate(divide="ignore"):  # a kind that stands for nothing in the archive is never met
        return float(np.max(found[found > 0] / rates[found > 0], initial=0.0))
