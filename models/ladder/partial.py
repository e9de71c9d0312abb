"""The paper's method, repaired: the last k blocks, ln_post and proj unfrozen, the head warm from the text."""

from __future__ import annotations

from dataclasses import replace

from models.encoder.delta import adapted
from models.encoder.partition import partition
from models.errors import NothingToLearn
from models.ladder.method import Bench, Logits, Support
from models.ladder.prefixes import SharedPrefixes, given, squares, zero_shot_where_not_learnt
from models.training.fine_tuning import Fitted, Trained, fit, view_activations
from models.training.recipe import Recipe


class Fits:
    """One fit for two methods: whichever asks first has it trained, and the other's scores wait until it asks.

    `k`: number of blocks; None for all of them, with the stem alone frozen.
    """

    def __init__(self, k: int | None, recipe: Recipe, prefixes: SharedPrefixes) -> None:
        self._k = k
        self._recipe = recipe
        self._prefixes = prefixes
        self._bench: Bench | None = None
        self._waiting: dict[tuple[object, ...], Logits] = {}
        self._asked: set[bool] = set()

    def serve(self, *, averaged: bool) -> None:
        """Say that a method will ask for the averaged weights' scores, or for the last ones'."""
        self._asked.add(averaged)

    def scores(self, bench: Bench, support: Support, *, seed: int, averaged: bool) -> Logits:
        """Return the scores of the averaged weights, or of the last ones; zero-shot where there is nothing to learn."""
        if bench is not self._bench:
            self._bench, self._waiting = bench, {}
        key = (support.shots, support.draw, support.rows.tobytes(), seed)
        if (key, averaged) not in self._waiting:
            made = self._made(bench, support, seed)
            self._waiting |= {(key, kind): logits for kind, logits in made.items()}
        return self._waiting.pop((key, averaged))

    def _made(self, bench: Bench, support: Support, seed: int) -> dict[bool, Logits]:
        blocks = partition(bench.encoder.network).blocks
        recipe = replace(self._recipe, k=blocks if self._k is None else self._k)
        try:
            fitted = _fitted(bench, support, recipe, seed)
        except NothingToLearn:
            return {averaged: zero_shot_where_not_learnt(bench, None, ()) for averaged in self._asked}
        prefixes = self._prefixes.of(bench)

        def scored(trained: Trained) -> Logits:
            logits = prefixes.logits(adapted(bench.encoder, trained.delta), trained.head, recipe.k)
            return zero_shot_where_not_learnt(bench, logits, fitted.report.findings)

        return {averaged: scored(fitted.averaged if averaged else fitted.last) for averaged in self._asked}


class PartialUnfreezing:
    """Implements Method: the last k blocks as the last step leaves them, or averaged with the base's weights (WiSE-FT)."""

    learns = True

    def __init__(self, name: str, fits: Fits, *, averaged: bool = False) -> None:
        self.name = name
        self._fits = fits
        self._averaged = averaged
        fits.serve(averaged=averaged)

    def scores(self, bench: Bench, support: Support | None, *, seed: int) -> Logits:
        return self._fits.scores(bench, given(support), seed=seed, averaged=self._averaged)


def _fitted(bench: Bench, support: Support, recipe: Recipe, seed: int) -> Fitted:
    activations = view_activations(bench.encoder, bench.preprocess, squares(bench, support.rows), recipe, k=recipe.k, seed=seed)
    labels, steps = support.labels(bench.cases), recipe.steps(support.shots)
    return fit(bench.encoder, activations, labels, bench.ensemble, recipe, steps=steps, seed=seed)
