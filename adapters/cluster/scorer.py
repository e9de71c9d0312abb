"""The worker on a machine of the cluster: loads the serving version and opens the catalog once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from adapters.app.compose import Parts
from adapters.app.policies import work_policy
from adapters.app.workers import build_score_spec_and_cache_warming, worker_name
from adapters.config import sections as configuration
from pipeline import archive_scoring
from pipeline.archive_scoring import BlockResult, StudyBlock
from pipeline.backoff import backoff_seconds
from pipeline.errors import OutOfResources, RadclipdError

MAX_ATTEMPTS = 6
BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS = 2.0, 60.0
"""Back-off between attempts: a block survives a catalog that is unreachable for a minute."""

log = structlog.get_logger("radclipd.cluster")


class BlockScorer:
    """A callable of Ray Data: a batch of blocks -> their results."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._score: Callable[[StudyBlock], BlockResult] | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Score the blocks `first`..`last`, int [n] each; return them with `jobs` and `left`, int [n], and errors, str [n].

        A RadclipdError is returned as strings: Ray would lose the hint of an exception.
        """
        pairs = zip(batch["first"], batch["last"], strict=True)
        rows = [self._score_to_row(StudyBlock(int(first), int(last))) for first, last in pairs]
        columns = ("jobs", "left", "error", "message", "hint")
        return {"first": batch["first"], "last": batch["last"]} | {
            name: np.array([row[column] for row in rows]) for column, name in enumerate(columns)
        }

    def _score_to_row(self, block: StudyBlock) -> Sequence[Any]:
        try:
            done = self._score_with_retries(block)
        except RadclipdError as error:
            return 0, 0, type(error).__name__, str(error), error.hint
        return done.jobs, done.leased_jobs, "", "", ""

    def _score_with_retries(self, block: StudyBlock) -> BlockResult:
        for attempt in range(MAX_ATTEMPTS):
            try:
                self._score = self._score or self._load_scorer()
                return self._score(block)
            except OutOfResources as error:
                if attempt == MAX_ATTEMPTS - 1:
                    raise
                log.warning("catalog unreachable", error=str(error), hint=error.hint)
                delay = backoff_seconds(attempt, base_seconds=BACKOFF_BASE_SECONDS, cap_seconds=BACKOFF_CAP_SECONDS)
                time.sleep(delay)
        raise AssertionError("the last attempt returns or raises")

    def _load_scorer(self) -> Callable[[StudyBlock], BlockResult]:
        with ExitStack() as on_failure:
            parts = on_failure.enter_context(Parts(configuration.load(self._path)))
            spec, warming = build_score_spec_and_cache_warming(parts)
            on_failure.pop_all()  # loaded: the parts last as long as the worker's process
        name, policy = worker_name("score"), work_policy(parts.config)
        warm = warming.warm_studies if warming is not None else lambda _studies: None

        def score(block: StudyBlock) -> BlockResult:
            return archive_scoring.score_block(block, spec=spec, catalog=parts.catalog, worker=name, policy=policy, warm_cache=warm)

        return score
