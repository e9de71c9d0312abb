"""The fits of a round of learning: one without each fold, to measure, and one of all films, to serve.

Those without a fold know nothing of each other, so they may be made anywhere and in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from models.classifier.head import LinearHead
from models.encoder.encoder import Encoder
from models.training.calibration import Labels
from models.training.cross_validation import Rows
from models.training.data_parallel import SINGLE_PROCESS, DataParallelProcess
from models.training.fine_tuning import TrainedWeights, fine_tune
from models.training.recipe import Recipe

_DELTA, _HEAD = "delta.", "head."

OnSteps = Callable[[int], None]
"""Hears how many steps of all the fits asked for are done. May wait, or raise to stop: nothing is half done."""


@dataclass(frozen=True)
class FitSpec:
    """A fit to be made: of these films, from this head, in so many steps."""

    rows: Rows
    head: LinearHead
    steps: int


@dataclass(frozen=True)
class FitResult:
    """The averaged weights of a fit, and what a card tells of it, JSON-able."""

    trained: TrainedWeights
    card: Mapping[str, Any]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything but the card, by name."""
        delta = {f"{_DELTA}{name}": tensor for name, tensor in self.trained.delta.items()}
        return delta | {f"{_HEAD}{name}": tensor for name, tensor in self.trained.head.tensors.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> Self:
        """Put together what `tensors` took apart."""
        delta, head = (
            {name.removeprefix(kind): tensors[name] for name in tensors if name.startswith(kind)} for kind in (_DELTA, _HEAD)
        )
        return cls(TrainedWeights(delta, LinearHead.from_tensors(head)), card)


@dataclass(frozen=True)
class FitContext:
    """What all fits of a round have in common: base, films with their labels [n, F] and activations [n, V, L, W], recipe, seed."""

    encoder: Encoder
    activations: torch.Tensor
    labels: Labels
    recipe: Recipe
    seed: int

    def fit(self, spec: FitSpec, on_steps: OnSteps, process: DataParallelProcess = SINGLE_PROCESS) -> FitResult:
        """Make one. CannotPartition; NothingToLearn."""
        fitted = fine_tune(
            self.encoder,
            self.activations[torch.from_numpy(spec.rows)],
            self.labels[spec.rows],
            spec.head,
            self.recipe,
            steps=spec.steps,
            seed=self.seed,
            on_step=lambda done, _steps: on_steps(done),
            process=process,
        )
        return FitResult(fitted.averaged, fitted.report.card)


RunFits = Callable[[FitContext, Sequence[FitSpec], OnSteps], Iterator[FitResult]]
"""Makes the fits that are ordered, and gives them in order."""


def run_fits_sequentially(context: FitContext, specs: Sequence[FitSpec], on_steps: OnSteps) -> Iterator[FitResult]:
    """Implements Fits: here, each when the one before it has been taken."""
    before = 0

    def on_own(done: int) -> None:
        on_steps(before + done)

    for order in specs:
        yield context.fit(order, on_own)
        before += order.steps
