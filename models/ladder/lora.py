"""CLIP-LoRA's fixed setting on the image tower, with a warm head from the text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn.utils import parametrize

from models.encoder.activations import encode_activations
from models.encoder.delta import apply_delta
from models.encoder.partition import partition
from models.errors import NothingToLearn
from models.ladder.bench_activations import SharedActivations, fill_with_zero_shot, require_support, select_model_inputs
from models.ladder.low_rank import LowRankEncoder, LowRankSetting
from models.ladder.method import FewShotBenchmark, Logits, Support
from models.training.batches import Targets, learnable_rows
from models.training.fine_tuning import make_warm_head, view_activations
from models.training.optimiser_loop import ParameterGroup, head_parameter_groups, optimise
from models.training.recipe import Recipe


class LowRankAdaptation:
    """Implements Method: rank 2 on query, key and value of all blocks. No pull to the base: the low rank is the regularisation."""

    name = "lora-r2"
    needs_support = True

    def __init__(self, recipe: Recipe, activations: SharedActivations, setting: LowRankSetting | None = None) -> None:
        self._recipe = recipe
        self._activations = activations
        self._setting = setting or LowRankSetting()

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        support = require_support(support)
        labels, k = support.labels(bench.cases), partition(bench.encoder.network).block_count
        rows, recipe, device = learnable_rows(labels), replace(self._recipe, k=k), bench.encoder.device
        try:
            targets = Targets.of(labels[rows], smoothing=recipe.label_smoothing).to(device)
        except NothingToLearn:
            return fill_with_zero_shot(bench, None, ())
        inputs = select_model_inputs(bench, support.rows[rows])
        activations = view_activations(bench.encoder, bench.preprocess, inputs, recipe, k=k, seed=seed)
        low_rank = LowRankEncoder(bench.encoder, self._setting, seed=seed)

        def forward(chunk: torch.Tensor) -> torch.Tensor:
            with parametrize.cached():  # one product and one dropout mask per step
                return encode_activations(low_rank.encoder, chunk, k=k).features

        low_rank.train(False)
        head, _ = make_warm_head(forward, bench.ensemble, activations, targets, device)
        low_rank.train(True)
        groups = [
            ParameterGroup(low_rank.parameters, self._setting.rate, weight_decay=self._setting.weight_decay),
            *head_parameter_groups(head, targets, recipe),
        ]
        optimise(forward, head, groups, activations, targets, recipe, steps=recipe.step_count(support.shots), seed=seed)
        logits = self._activations.of_bench(bench).logits(
            apply_delta(bench.encoder, low_rank.merged_weights()), head.to_linear_head(), k
        )
        return fill_with_zero_shot(bench, logits, np.flatnonzero(targets.learnable.cpu().numpy()))
