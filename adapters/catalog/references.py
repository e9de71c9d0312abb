"""Reference distributions of zero-shot scores. Append-only."""

from __future__ import annotations

import numpy as np
from sqlalchemy import Connection, RowMapping, func, insert, select

from adapters.catalog.scores import SCORE_DTYPE
from adapters.catalog.tables import reference_distributions, reference_scores
from pipeline.domain import FINDINGS, ReferenceDistribution

REFERENCE_LOCK_KEY = 7_270_413
"""Key of the PostgreSQL advisory lock that two makers of a distribution take in turn."""


class SqlReferences:
    """`ports.studies.References`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def lock(self) -> None:
        if self._connection.dialect.name == "postgresql":  # SQLite has one writer
            self._connection.execute(select(func.pg_advisory_xact_lock(REFERENCE_LOCK_KEY)))

    def current_number(self, version: int) -> int | None:
        query = select(func.max(reference_distributions.c.number)).where(reference_distributions.c.version == version)
        number: int | None = self._connection.scalar(query)
        return number

    def find(self, number: int) -> ReferenceDistribution | None:
        query = select(reference_distributions).where(reference_distributions.c.number == number)
        row = self._connection.execute(query).mappings().one_or_none()
        return self._build_reference(row) if row else None

    def next_number(self) -> int:
        return (self._connection.scalar(select(func.max(reference_distributions.c.number))) or 0) + 1

    def add(self, reference: ReferenceDistribution) -> None:
        self._connection.execute(
            insert(reference_distributions).values(
                number=reference.number,
                version=reference.version,
                studies=reference.studies,
                priors=dict(reference.priors),
                call_rates=dict(reference.call_rates),
                separation=reference.separation,
                made_at=reference.made_at,
            )
        )
        self._connection.execute(
            insert(reference_scores),
            [
                {"reference": reference.number, "view": view, "scores": np.asarray(scores, SCORE_DTYPE).tobytes()}
                for view, scores in reference.scores.items()
            ],
        )

    def _build_reference(self, row: RowMapping) -> ReferenceDistribution:
        query = select(reference_scores.c.view, reference_scores.c.scores).where(reference_scores.c.reference == row["number"])
        scores = {
            view: np.frombuffer(stored, SCORE_DTYPE).reshape(-1, len(FINDINGS)).astype(np.float32)
            for view, stored in self._connection.execute(query)
        }
        return ReferenceDistribution(
            number=row["number"],
            version=row["version"],
            studies=row["studies"],
            made_at=row["made_at"],
            scores=scores,
            priors=row["priors"],
            call_rates=row["call_rates"],
            separation=row["separation"],
        )
