"""Where an experiment's films come from. A source gives cases, a split and the films, one row each, in one order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from models.evaluation.cases import ABSENT, PRESENT, Cases, Split
from models.fingerprint import fingerprint
from pipeline.domain import FINDINGS, Image

Kind = Literal["phantom", "nih", "catalog"]
Made = TypeVar("Made")

AHEAD = 32
"""Films that are read before they are asked for."""
TEST_SHARE = 0.4
"""Of the patients, where no official list says who is tested."""
SPLIT_SEED = 0
"""Of the split by patient. Fixed: another seed of the experiment draws other supports and keeps the test set."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Films and what is known of them.

    `cases.pixel_sha256` is empty until the films have been read. `split` is made anew when it is known: a film filed under two
    patients is found only then. `identity` is JSON-able and says which films these are, whatever is known of them.
    """

    kind: Kind
    title: str  # in words, for the report
    cases: Cases
    identity: Mapping[str, Any]
    film: Callable[[int], Image]  # float32 [H, W] in 0..1 of a row
    split: Callable[[Cases], Split]
    split_words: str  # how it was made, for the report
    stream: Callable[[range], Iterator[Image]] | None = None  # many rows in order, where that is faster than one by one
    counts: Mapping[str, int] = field(default_factory=dict)  # what was left out, by reason
    notes: Sequence[str] = ()  # what a reader must know of these films

    @property
    def fingerprint(self) -> str:
        """SHA-256 over kind and identity."""
        return fingerprint({"kind": self.kind, **self.identity})

    def each(self, rows: range, make: Callable[[Image], Made], *, workers: int) -> Iterator[Made]:
        """Yield what `make` makes of each film, in order, read ahead by threads."""
        if self.stream is not None:
            yield from map(make, self.stream(rows))
            return
        with ThreadPoolExecutor(workers) as pool:
            waiting = iter(rows)
            ahead: list[Future[Made]] = [pool.submit(self._made, row, make) for row in islice(waiting, AHEAD)]
            try:
                while ahead:
                    yield ahead.pop(0).result()
                    ahead += [pool.submit(self._made, row, make) for row in islice(waiting, 1)]
            finally:
                for left in ahead:
                    left.cancel()

    def _made(self, row: int, make: Callable[[Image], Made]) -> Made:
        return make(self.film(row))


def cases_of(
    *,
    key: Sequence[str],
    patient: Sequence[str],
    labels: npt.NDArray[np.int8],
    age: Sequence[float | None],
    sex: Sequence[str],
    view: Sequence[str],
    weight: Sequence[float] | None = None,
) -> Cases:
    """Return cases whose pixels nobody has hashed yet. None is an unknown age."""
    count = len(key)
    return Cases(
        key=np.array(key, dtype=np.str_),
        patient=np.array(patient, dtype=np.str_),
        labels=labels,
        age=np.array([np.nan if years is None else years for years in age], dtype=np.float32),
        sex=np.array(sex, dtype=np.str_),
        view=np.array(view, dtype=np.str_),
        pixel_sha256=np.array(key, dtype=np.str_),  # each film its own until it has been read
        weight=np.ones(count, dtype=np.float32) if weight is None else np.array(weight, dtype=np.float32),
        findings=FINDINGS,
    )


def labels_of(present: Sequence[frozenset[str]]) -> npt.NDArray[np.int8]:
    """Return labels [N, 14] of films whose every finding is known."""
    labels = np.full((len(present), len(FINDINGS)), ABSENT, dtype=np.int8)
    for row, findings in enumerate(present):
        labels[row, [FINDINGS.index(finding) for finding in findings]] = PRESENT
    return labels


def with_pixels(cases: Cases, pixel_sha256: npt.NDArray[np.str_]) -> Cases:
    """Return the same cases with the hashes of their films."""
    return replace(cases, pixel_sha256=pixel_sha256)
