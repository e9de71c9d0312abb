"""The paper's method, corrected: the last k blocks, ln_post and proj unfrozen, with a warm head from the text."""

from __future__ import annotations

from dataclasses import replace

from models.encoder.delta import apply_delta
from models.encoder.partition import partition
from models.errors import NothingToLearn
from models.ladder.bench_activations import SharedActivations, fill_with_zero_shot, require_support, select_model_inputs
from models.ladder.method import FewShotBenchmark, Logits, Support
from models.training.fine_tuning import FineTuningResult, TrainedWeights, fine_tune, view_activations
from models.training.recipe import Recipe


class SharedFits:
    """One fit shared by two methods: the first request trains it, and the scores of the other method are kept for its request.

    `k`: number of blocks; None for all blocks, with the stem alone frozen.
    """

    def __init__(self, k: int | None, recipe: Recipe, activations: SharedActivations) -> None:
        self._k = k
        self._recipe = recipe
        self._activations = activations
        self._bench: FewShotBenchmark | None = None
        self._pending_logits: dict[tuple[object, ...], Logits] = {}
        self._registered: set[bool] = set()

    def register(self, *, averaged: bool) -> None:
        """Register a method that requests the scores of the averaged weights, or of the last ones."""
        self._registered.add(averaged)

    def scores(self, bench: FewShotBenchmark, support: Support, *, seed: int, averaged: bool) -> Logits:
        """Return the scores of the averaged weights, or of the last ones; zero-shot without a learnable finding."""
        if bench is not self._bench:
            self._bench, self._pending_logits = bench, {}
        key = (support.shots, support.draw, support.rows.tobytes(), seed)
        if (key, averaged) not in self._pending_logits:
            scored = self._score_fit(bench, support, seed)
            self._pending_logits |= {(key, kind): logits for kind, logits in scored.items()}
        return self._pending_logits.pop((key, averaged))

    def _score_fit(self, bench: FewShotBenchmark, support: Support, seed: int) -> dict[bool, Logits]:
        blocks = partition(bench.encoder.network).block_count
        recipe = replace(self._recipe, k=blocks if self._k is None else self._k)
        try:
            fitted = _fine_tune_support(bench, support, recipe, seed)
        except NothingToLearn:
            return {averaged: fill_with_zero_shot(bench, None, ()) for averaged in self._registered}
        activations = self._activations.of_bench(bench)

        def score(trained: TrainedWeights) -> Logits:
            logits = activations.logits(apply_delta(bench.encoder, trained.delta), trained.head, recipe.k)
            return fill_with_zero_shot(bench, logits, fitted.report.findings)

        return {averaged: score(fitted.averaged if averaged else fitted.last) for averaged in self._registered}


class PartialUnfreezing:
    """Implements Method: the last k blocks after the last step, or averaged with the base's weights (WiSE-FT)."""

    needs_support = True

    def __init__(self, name: str, fits: SharedFits, *, averaged: bool = False) -> None:
        self.name = name
        self._fits = fits
        self._averaged = averaged
        fits.register(averaged=averaged)

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        return self._fits.scores(bench, require_support(support), seed=seed, averaged=self._averaged)


def _fine_tune_support(bench: FewShotBenchmark, support: Support, recipe: Recipe, seed: int) -> FineTuningResult:
    activations = view_activations(
        bench.encoder, bench.preprocess, select_model_inputs(bench, support.rows), recipe, k=recipe.k, seed=seed
    )
    labels, steps = support.labels(bench.cases), recipe.step_count(support.shots)
    return fine_tune(bench.encoder, activations, labels, bench.ensemble, recipe, steps=steps, seed=seed)
