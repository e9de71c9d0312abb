"""radclipd's own row: what the daemon would serve if these were all the labels it had."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from models.encoder.activations import compute_activations
from models.encoder.delta import apply_delta
from models.encoder.partition import check_blocks, partition
from models.errors import CannotPartition, NothingToLearn
from models.experiment.summary import PRODUCT
from models.images.views import AugmentedViews
from models.ladder.bench_activations import SharedActivations, fill_with_zero_shot, require_support, select_model_inputs
from models.ladder.labelled_features import head_logits
from models.ladder.method import FewShotBenchmark, Logits, Support
from models.training.fine_tuning import ACTIVATION_DTYPE
from models.training.training_round import TrainingData, TrainingPlan, TrainingResult, run_training_round

Rows = npt.NDArray[np.intp]
DEFAULT_MAX_BYTES = 2 << 30
"""Bytes of activations of labelled films that are kept from one support to the next."""


class ViewActivationCache:
    """Of one bench: what enters the last k blocks for each copy of a labelled film, made once and kept up to `limit` bytes."""

    def __init__(self, bench: FewShotBenchmark, views: AugmentedViews, k: int, *, max_bytes: int) -> None:
        self.bench, self.views = bench, views
        self._k = k
        self._max_bytes = max_bytes
        self._cached: dict[int, torch.Tensor] = {}

    def of_rows(self, rows: Rows) -> torch.Tensor:
        """Return [n, V, L, W] on the CPU for these films of the bench. CannotPartition."""
        return torch.stack([self._get_or_compute(int(row)) for row in rows])

    def _get_or_compute(self, row: int) -> torch.Tensor:
        if row not in self._cached:
            made = self._compute_activations(row)
            if made.nbytes * (len(self._cached) + 1) > self._max_bytes:
                return made
            self._cached[row] = made
        return self._cached[row]

    def _compute_activations(self, row: int) -> torch.Tensor:
        square, name = select_model_inputs(self.bench, np.array([row]))[0], str(self.bench.cases.key[row])
        copies = torch.stack([self.views.view(square, name, number) for number in range(self.views.amounts.views)])
        pixels = self.bench.preprocess.normalise(copies.to(self.bench.encoder.device))
        return compute_activations(self.bench.encoder, pixels, k=self._k).to("cpu", ACTIVATION_DTYPE)


class RadclipdMethod:
    """Implements Method by `training_round`, as the learner role calls it: the better of stage 1 and partial unfreezing.

    Everything is drawn from the plan's own seed, as in the daemon, so the copies of a film are the same in every support that
    holds it, and what the frozen blocks make of them is kept. The pool is the archive that whitens. A finding is learnt from one
    positive on: the least number that `[learn] min_positives` asks for is a rule of the daemon, not of the learner.
    """

    name = PRODUCT
    needs_support = True

    def __init__(
        self, activations: SharedActivations, plan: TrainingPlan | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        self._test_activations = activations
        self._plan = plan or TrainingPlan()
        self._max_bytes = max_bytes
        self._view_cache: ViewActivationCache | None = None

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        support = require_support(support)
        try:
            taught = self._train_on_support(bench, support)
        except NothingToLearn:
            return fill_with_zero_shot(bench, None, ())
        return fill_with_zero_shot(bench, self._score_test(bench, taught), np.flatnonzero(taught.findings))

    def _train_on_support(self, bench: FewShotBenchmark, support: Support) -> TrainingResult:
        archive = np.setdiff1d(bench.split.pool, support.rows)
        films = TrainingData(
            features=bench.features[torch.from_numpy(support.rows)].cpu(),
            activations=self._compute_view_activations(bench, support),
            labels=support.labels(bench.cases),
            patients=bench.cases.patient[support.rows],
            unlabelled_features=bench.features[torch.from_numpy(archive)].cpu(),
        )
        return run_training_round(bench.encoder, bench.ensemble, films, self._plan, lambda what, done, total: None)

    def _compute_view_activations(self, bench: FewShotBenchmark, support: Support) -> torch.Tensor | None:
        """[n, V, L, W] on the CPU; None where stage 1 is all that this tower allows."""
        try:
            check_blocks(self._plan.recipe.k, partition(bench.encoder.network).block_count)
        except CannotPartition:
            return None
        views = self._plan.views(bench.encoder, len(support.rows))
        if self._view_cache is None or self._view_cache.bench is not bench or self._view_cache.views != views:
            self._view_cache = ViewActivationCache(bench, views, self._plan.recipe.k, max_bytes=self._max_bytes)
        return self._view_cache.of_rows(support.rows)

    def _score_test(self, bench: FewShotBenchmark, result: TrainingResult) -> Logits:
        if result.fine_tuned is None:
            return head_logits(result.head, bench)
        moved = result.fine_tuned
        return self._test_activations.of_bench(bench).logits(apply_delta(bench.encoder, moved.delta), moved.head, moved.k)
