"""radclipd's own row: what the daemon would serve if these were all the labels it had."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from models.encoder.activations import prefix
from models.encoder.delta import adapted
from models.encoder.partition import check_blocks, partition
from models.errors import CannotPartition, NothingToLearn
from models.experiment.summary import PRODUCT
from models.images.views import Views
from models.ladder.labelled import head_logits
from models.ladder.method import Bench, Logits, Support
from models.ladder.prefixes import SharedPrefixes, given, squares, zero_shot_where_not_learnt
from models.training.fine_tuning import STORED
from models.training.training_round import Films, Plan, Taught, teach

Rows = npt.NDArray[np.intp]
DEFAULT_LIMIT = 2 << 30
"""Bytes of activations of labelled films that are kept from one support to the next."""


class Copies:
    """Of one bench: what enters the last k blocks for each copy of a labelled film, made once and kept up to `limit` bytes."""

    def __init__(self, bench: Bench, views: Views, k: int, *, limit: int) -> None:
        self.bench, self.views = bench, views
        self._k = k
        self._limit = limit
        self._kept: dict[int, torch.Tensor] = {}

    def of(self, rows: Rows) -> torch.Tensor:
        """Return [n, V, L, W] on the CPU for these films of the bench. CannotPartition."""
        return torch.stack([self._of(int(row)) for row in rows])

    def _of(self, row: int) -> torch.Tensor:
        if row not in self._kept:
            made = self._made(row)
            if made.nbytes * (len(self._kept) + 1) > self._limit:
                return made
            self._kept[row] = made
        return self._kept[row]

    def _made(self, row: int) -> torch.Tensor:
        square, name = squares(self.bench, np.array([row]))[0], str(self.bench.cases.key[row])
        copies = torch.stack([self.views.copy(square, name, number) for number in range(self.views.amounts.views)])
        pixels = self.bench.preprocess.normalised(copies.to(self.bench.encoder.device))
        return prefix(self.bench.encoder, pixels, k=self._k).to("cpu", STORED)


class Radclipd:
    """Implements Method by `training_round`, as the learner role calls it: the better of stage 1 and partial unfreezing.

    Everything is drawn from the plan's own seed, as in the daemon, so the copies of a film are the same in every support that
    holds it, and what the frozen blocks make of them is kept. The pool is the archive that whitens. A finding is learnt from one
    positive on: the least number that `[learn] minimum_positives` asks for is a rule of the daemon, not of the learner.
    """

    name = PRODUCT
    learns = True

    def __init__(self, prefixes: SharedPrefixes, plan: Plan | None = None, *, limit: int = DEFAULT_LIMIT) -> None:
        self._prefixes = prefixes
        self._plan = plan or Plan()
        self._limit = limit
        self._copies: Copies | None = None

    def scores(self, bench: Bench, support: Support | None, *, seed: int) -> Logits:
        support = given(support)
        try:
            taught = self._taught(bench, support)
        except NothingToLearn:
            return zero_shot_where_not_learnt(bench, None, ())
        return zero_shot_where_not_learnt(bench, self._logits(bench, taught), np.flatnonzero(taught.findings))

    def _taught(self, bench: Bench, support: Support) -> Taught:
        archive = np.setdiff1d(bench.split.pool, support.rows)
        films = Films(
            features=bench.features[torch.from_numpy(support.rows)].cpu(),
            activations=self._activations(bench, support),
            labels=support.labels(bench.cases),
            patients=bench.cases.patient[support.rows],
            background=bench.features[torch.from_numpy(archive)].cpu(),
        )
        return teach(bench.encoder, bench.ensemble, films, self._plan, lambda what, done, total: None)

    def _activations(self, bench: Bench, support: Support) -> torch.Tensor | None:
        """[n, V, L, W] on the CPU; None where stage 1 is all that this tower allows."""
        try:
            check_blocks(self._plan.recipe.k, partition(bench.encoder.network).blocks)
        except CannotPartition:
            return None
        views = self._plan.views(bench.encoder, len(support.rows))
        if self._copies is None or self._copies.bench is not bench or self._copies.views != views:
            self._copies = Copies(bench, views, self._plan.recipe.k, limit=self._limit)
        return self._copies.of(support.rows)

    def _logits(self, bench: Bench, taught: Taught) -> Logits:
        if taught.moved is None:
            return head_logits(taught.head, bench)
        moved = taught.moved
        return self._prefixes.of(bench).logits(adapted(bench.encoder, moved.delta), moved.head, moved.k)
