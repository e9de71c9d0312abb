"""What runs on a machine of the cluster: one worker, that has loaded the serving version and opened the catalog once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from adapters import wiring
from adapters.host import config as configuration
from adapters.posts import score_post_and_fill
from pipeline import blocks
from pipeline.blocks import Block, Done
from pipeline.errors import OutOfResources

TRIES = 6
REST_SECONDS = 2.0
"""Doubled with each try: a catalog that is away for a minute costs no block."""

log = structlog.get_logger("radclipd.cluster")


class BlockScorer:
    """A callable of Ray Data: a batch of blocks in, what became of them out."""

    def __init__(self, path: str) -> None:
        self._config = configuration.load(Path(path))
        self._catalog = wiring.open_catalog(self._config)
        self._post, fill = score_post_and_fill(self._config, self._catalog)
        self._fill = fill.of if fill is not None else lambda _studies: None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Score the blocks `first`..`last`, int [n] each; return them with `jobs` and `left`, int [n]."""
        found = [self._score(Block(int(first), int(last))) for first, last in zip(batch["first"], batch["last"], strict=True)]
        return {
            "first": batch["first"],
            "last": batch["last"],
            "jobs": np.array([done.jobs for done in found]),
            "left": np.array([done.left for done in found]),
        }

    def _score(self, block: Block) -> Done:
        for attempt in range(TRIES):
            try:
                return blocks.score_block(
                    block,
                    post=self._post,
                    catalog=self._catalog,
                    worker=wiring.worker_name("score"),
                    policy=wiring.work_policy(self._config),
                    fill=self._fill,
                )
            except OutOfResources as error:
                if attempt == TRIES - 1:
                    raise
                log.warning("catalog away", error=str(error), hint=error.hint)
                time.sleep(REST_SECONDS * 2**attempt)
        raise AssertionError("the last try returns or raises")
