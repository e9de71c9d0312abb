"""ProLIP (Fahes et al. 2024): only the visual projection is trained, pulled to its pre-trained value; text directions are fixed."""

from __future__ import annotations

import numpy as np
import torch

from models.encoder.activations import project
from models.encoder.partition import vision_transformer
from models.errors import NothingToLearn
from models.ladder.bench_activations import fill_with_zero_shot, require_support
from models.ladder.method import FewShotBenchmark, Logits, Support
from models.training.batches import Targets, learnable_rows
from models.training.optimiser_loop import ParameterGroup, optimise
from models.training.recipe import Recipe
from models.training.warm_head import WarmHead


class ProjectionOnly:
    """Implements Method on pooled features, without augmentation: takes seconds.

    The pull is `pull` / shots, as the paper's lambda = 1 / N; `rate` holds for towers of any width, as in the paper.
    """

    name = "prolip"
    needs_support = True

    def __init__(self, recipe: Recipe, *, rate: float = 1e-3, pull: float = 0.1) -> None:
        self._recipe = recipe
        self._rate = rate
        self._pull = pull

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        support = require_support(support)
        labels = support.labels(bench.cases)
        rows = learnable_rows(labels)
        try:
            targets = Targets.of(labels[rows], smoothing=self._recipe.label_smoothing)
        except NothingToLearn:
            return fill_with_zero_shot(bench, None, ())
        pooled = bench.pooled[torch.from_numpy(support.rows[rows])][:, None]
        proj = torch.nn.Parameter(vision_transformer(bench.encoder.network).proj.detach().clone())
        targets = targets.to(proj.device)
        head = WarmHead(bench.ensemble.to(proj.device), project(pooled[:, 0].to(proj), proj).detach(), targets)
        optimise(
            lambda chunk: project(chunk, proj),
            head,
            [ParameterGroup([proj], self._rate, self._pull / support.shots)],
            pooled,
            targets,
            self._recipe,
            steps=self._recipe.step_count(support.shots),
            seed=seed,
        )
        with torch.no_grad():
            test = bench.pooled[torch.from_numpy(bench.split.test)].to(proj)
            logits = head(project(test, proj)).cpu().numpy()
        return fill_with_zero_shot(bench, logits, np.flatnonzero(targets.learnable.cpu().numpy()))
