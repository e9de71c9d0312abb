"""radclipd's own method: the version that the daemon would serve with the support as its only labels."""

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
from models.training.prevalence import published_prevalence
from models.training.training_round import TrainingData, TrainingPlan, TrainingResult, run_training_round

Rows = npt.NDArray[np.intp]
DEFAULT_MAX_BYTES = 2 << 30
"""Largest size in bytes of the labelled images' activations cached between supports."""


class ViewActivationCache:
    """Activations entering the last k blocks for each view of a benchmark's labelled images, cached up to `max_bytes`."""

    def __init__(self, bench: FewShotBenchmark, views: AugmentedViews, k: int, *, max_bytes: int) -> None:
        self.bench, self.views = bench, views
        self._k = k
        self._max_bytes = max_bytes
        self._cached: dict[int, torch.Tensor] = {}

    def of_rows(self, rows: Rows) -> torch.Tensor:
        """Return activations [n, V, L, W] on the CPU for these rows. Raise CannotPartition."""
        return torch.stack([self._get_or_compute(int(row)) for row in rows])

    def _get_or_compute(self, row: int) -> torch.Tensor:
        if row not in self._cached:
            activations = self._compute_activations(row)
            if activations.nbytes * (len(self._cached) + 1) > self._max_bytes:
                return activations
            self._cached[row] = activations
        return self._cached[row]

    def _compute_activations(self, row: int) -> torch.Tensor:
        model_input, name = select_model_inputs(self.bench, np.array([row]))[0], str(self.bench.cases.key[row])
        views = torch.stack([self.views.view(model_input, name, number) for number in range(self.views.amounts.views)])
        pixels = self.bench.preprocess.normalise(views.to(self.bench.encoder.device))
        return compute_activations(self.bench.encoder, pixels, k=self._k).to("cpu", ACTIVATION_DTYPE)


class RadclipdMethod:
    """Implements Method by `training_round`, as in the learner role: the better of stage 1 and partial unfreezing.

    All random draws come from the plan's own seed, as in the daemon, so the views of an image are the same in every support and
    their activations are cached. The pool is the archive of the whitening. A finding is learnt from one positive on: the minimum of
    `[learn] min_positives` is a rule of the daemon, not of the training round.
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
            result = self._train_on_support(bench, support)
        except NothingToLearn:
            return fill_with_zero_shot(bench, None, ())
        return fill_with_zero_shot(bench, self._score_test(bench, result), np.flatnonzero(result.findings))

    def _train_on_support(self, bench: FewShotBenchmark, support: Support) -> TrainingResult:
        archive = np.setdiff1d(bench.split.pool, support.rows)
        data = TrainingData(
            features=bench.features[torch.from_numpy(support.rows)].cpu(),
            activations=self._compute_view_activations(bench, support),
            labels=support.labels(bench.cases),
            patients=bench.cases.patient[support.rows],
            unlabelled_features=bench.features[torch.from_numpy(archive)].cpu(),
            unlabelled_activations=None,
            random_labels=np.zeros((0, len(bench.cases.findings)), dtype=np.int8),
            published_prevalence=published_prevalence(bench.cases.findings),
        )
        return run_training_round(bench.encoder, bench.ensemble, data, self._plan, lambda work, done, total: None)

    def _compute_view_activations(self, bench: FewShotBenchmark, support: Support) -> torch.Tensor | None:
        """Return activations [n, V, L, W] on the CPU; None for a tower that allows stage 1 alone."""
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
        blocks = result.fine_tuned
        return self._test_activations.of_bench(bench).logits(apply_delta(bench.encoder, blocks.delta), blocks.head, blocks.k)
