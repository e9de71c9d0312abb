"""ProLIP (Fahes et al. 2024): the visual projection alone learns, pulled to its pre-trained value; the text's directions stay."""

from __future__ import annotations

import numpy as np
import torch

from models.encoder.activations import projected
from models.encoder.partition import vision_transformer
from models.errors import NothingToLearn
from models.ladder.method import Bench, Logits, Support
from models.ladder.prefixes import given, zero_shot_where_not_learnt
from models.training.batches import Targets, of_use
from models.training.optimiser_loop import Group, descend
from models.training.recipe import Recipe
from models.training.warm_head import WarmHead


class ProjectionOnly:
    """Implements Method on pooled features, without augmentation: seconds.

    The pull is `pull` / shots, as the paper's lambda = 1 / N; `rate` holds for towers of any width, as it does there.
    """

    name = "prolip"
    learns = True

    def __init__(self, recipe: Recipe, *, rate: float = 1e-3, pull: float = 0.1) -> None:
        self._recipe = recipe
        self._rate = rate
        self._pull = pull

    def scores(self, bench: Bench, support: Support | None, *, seed: int) -> Logits:
        support = given(support)
        labels = support.labels(bench.cases)
        rows = of_use(labels)
        try:
            targets = Targets.of(labels[rows], smoothing=self._recipe.label_smoothing)
        except NothingToLearn:
            return zero_shot_where_not_learnt(bench, None, ())
        pooled = bench.pooled[torch.from_numpy(support.rows[rows])][:, None]
        proj = torch.nn.Parameter(vision_transformer(bench.encoder.network).proj.detach().clone())
        targets = targets.to(proj.device)
        head = WarmHead(bench.ensemble.to(proj.device), projected(pooled[:, 0].to(proj), proj).detach(), targets)
        descend(
            lambda entering: projected(entering, proj),
            head,
            [Group([proj], self._rate, self._pull / support.shots)],
            pooled,
            targets,
            self._recipe,
            steps=self._recipe.steps(support.shots),
            seed=seed,
        )
        with torch.no_grad():
            test = bench.pooled[torch.from_numpy(bench.split.test)].to(proj)
            logits = head(projected(test, proj)).cpu().numpy()
        return zero_shot_where_not_learnt(bench, logits, np.flatnonzero(targets.learnable.cpu().numpy()))
