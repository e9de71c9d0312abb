"""CLIP-LoRA's fixed setting on the image tower, with the head warm from the text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn.utils import parametrize

from models.encoder.activations import from_prefix
from models.encoder.delta import adapted
from models.encoder.partition import partition
from models.errors import NothingToLearn
from models.ladder.low_rank import LowRankEncoder, LowRankSetting
from models.ladder.method import Bench, Logits, Support
from models.ladder.prefixes import SharedPrefixes, given, squares, zero_shot_where_not_learnt
from models.training.batches import Targets, of_use
from models.training.fine_tuning import view_activations, warmed
from models.training.optimiser_loop import Group, descend, head_groups
from models.training.recipe import Recipe


class LowRankAdaptation:
    """Implements Method: rank 2 on query, key and value of all blocks. Nothing pulls it back; its smallness is its restraint."""

    name = "lora-r2"
    learns = True

    def __init__(self, recipe: Recipe, prefixes: SharedPrefixes, setting: LowRankSetting | None = None) -> None:
        self._recipe = recipe
        self._prefixes = prefixes
        self._setting = setting or LowRankSetting()

    def scores(self, bench: Bench, support: Support | None, *, seed: int) -> Logits:
        support = given(support)
        labels, k = support.labels(bench.cases), partition(bench.encoder.network).blocks
        rows, recipe, device = of_use(labels), replace(self._recipe, k=k), bench.encoder.device
        try:
            targets = Targets.of(labels[rows], smoothing=recipe.label_smoothing).to(device)
        except NothingToLearn:
            return zero_shot_where_not_learnt(bench, None, ())
        films = squares(bench, support.rows[rows])
        activations = view_activations(bench.encoder, bench.preprocess, films, recipe, k=k, seed=seed)
        thin = LowRankEncoder(bench.encoder, self._setting, seed=seed)

        def forward(entering: torch.Tensor) -> torch.Tensor:
            with parametrize.cached():  # one product, and one dropout, a step
                return from_prefix(thin.encoder, entering, k=k).features

        thin.train(False)
        head, _ = warmed(forward, bench.ensemble, activations, targets, device)
        thin.train(True)
        groups = [
            Group(thin.parameters, self._setting.rate, weight_decay=self._setting.weight_decay),
            *head_groups(head, targets, recipe),
        ]
        descend(forward, head, groups, activations, targets, recipe, steps=recipe.steps(support.shots), seed=seed)
        logits = self._prefixes.of(bench).logits(adapted(bench.encoder, thin.merged()), head.linear(), k)
        return zero_shot_where_not_learnt(bench, logits, np.flatnonzero(targets.learnable.cpu().numpy()))
