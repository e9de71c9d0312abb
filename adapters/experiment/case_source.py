"""Film sources of an experiment. A source gives cases, a split and the films, one row each, in the same order."""

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

SourceKind = Literal["phantom", "nih", "catalog"]
FilmResult = TypeVar("FilmResult")

READ_AHEAD_FILMS = 32
"""Films read ahead of the consumer."""
TEST_SHARE = 0.4
"""Share of the patients in the test set, without an official list."""
SPLIT_SEED = 0
"""Seed of the split by patient. Fixed: another seed of the experiment draws other supports and keeps the test set."""


@dataclass(frozen=True, kw_only=True)
class CaseSource:
    """Films with their cases.

    `cases.pixel_sha256` holds the keys of the films until the films have been read, then the hashes of their pixels. `split` runs
    a second time with the hashes, which show a film filed under two patients. `identity`
    is JSON-able and identifies the films, independent of their labels. `film_keys` identify each film by itself: a film that is the
    same in another source of the kind has the same key.
    """

    kind: SourceKind
    title: str  # for the report
    cases: Cases
    identity: Mapping[str, Any]
    film_keys: Sequence[str]  # one per case
    read_film: Callable[[int], Image]  # float32 [H, W] in 0..1 of a row
    split: Callable[[Cases], Split]
    split_description: str  # for the report
    read_films: Callable[[Sequence[int]], Iterator[Image]] | None = None  # several rows in order, where that is faster
    left_out_counts: Mapping[str, int] = field(default_factory=dict)  # excluded films by reason
    notes: Sequence[str] = ()  # cautions for the reader of the report

    @property
    def fingerprint(self) -> str:
        """SHA-256 of kind and identity."""
        return fingerprint({"kind": self.kind, **self.identity})

    def map_films(self, rows: Sequence[int], make: Callable[[Image], FilmResult], *, workers: int) -> Iterator[FilmResult]:
        """Yield `make(film)` for each row, in order; threads read ahead."""
        if self.read_films is not None:
            yield from map(make, self.read_films(rows))
            return
        with ThreadPoolExecutor(workers) as pool:
            remaining = iter(rows)
            pending: list[Future[FilmResult]] = [
                pool.submit(self._map_film, row, make) for row in islice(remaining, READ_AHEAD_FILMS)
            ]
            try:
                while pending:
                    yield pending.pop(0).result()
                    pending += [pool.submit(self._map_film, row, make) for row in islice(remaining, 1)]
            finally:
                for future in pending:
                    future.cancel()

    def _map_film(self, row: int, make: Callable[[Image], FilmResult]) -> FilmResult:
        return make(self.read_film(row))


def build_cases(
    *,
    key: Sequence[str],
    patient: Sequence[str],
    labels: npt.NDArray[np.int8],
    age: Sequence[float | None],
    sex: Sequence[str],
    view: Sequence[str],
    weight: Sequence[float] | None = None,
) -> Cases:
    """Return cases without pixel hashes. An age of None is unknown."""
    count = len(key)
    return Cases(
        key=np.array(key, dtype=np.str_),
        patient=np.array(patient, dtype=np.str_),
        labels=labels,
        age=np.array([np.nan if years is None else years for years in age], dtype=np.float32),
        sex=np.array(sex, dtype=np.str_),
        view=np.array(view, dtype=np.str_),
        pixel_sha256=np.array(key, dtype=np.str_),  # distinct for each film, as the hash is
        weight=np.ones(count, dtype=np.float32) if weight is None else np.array(weight, dtype=np.float32),
        findings=FINDINGS,
    )


def build_labels(present: Sequence[frozenset[str]]) -> npt.NDArray[np.int8]:
    """Return labels [N, 14] of films with all findings known."""
    labels = np.full((len(present), len(FINDINGS)), ABSENT, dtype=np.int8)
    for row, findings in enumerate(present):
        labels[row, [FINDINGS.index(finding) for finding in findings]] = PRESENT
    return labels


def with_pixel_hashes(cases: Cases, pixel_sha256: npt.NDArray[np.str_]) -> Cases:
    """Return the same cases with the hashes of their films."""
    return replace(cases, pixel_sha256=pixel_sha256)
