"""The fits of a training round: one without each fold, for measurement, and one on all images, for serving.

The fits without a fold are independent of each other: they may run anywhere and in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from models.classifier.head import LinearHead
from models.encoder.encoder import Encoder
from models.training.calibration import Floats, Labels
from models.training.cross_validation import Rows
from models.training.data_parallel import SINGLE_PROCESS, DataParallelProcess
from models.training.fine_tuning import TrainedWeights, fine_tune
from models.training.recipe import Recipe

AVERAGED, LAST = "averaged", "last"
"""Names of the weights of a fit: averaged with those of the start (WiSE-FT), and after the last step."""
_DELTA, _HEAD = "delta.", "head."

OnSteps = Callable[[int], None]
"""Called with the number of finished steps of all requested fits. May block, or raise to stop: no state is left half changed."""


@dataclass(frozen=True)
class FitSpec:
    """Specification of a fit: training rows, initial head, number of steps."""

    rows: Rows
    head: LinearHead
    steps: int


@dataclass(frozen=True)
class FitResult:
    """The weights of a fit, AVERAGED and LAST, and its card as JSON values."""

    weights: Mapping[str, TrainedWeights]
    card: Mapping[str, Any]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name; the card is separate."""
        found: dict[str, torch.Tensor] = {}
        for kind, trained in self.weights.items():
            found |= {f"{kind}.{_DELTA}{name}": tensor for name, tensor in trained.delta.items()}
            found |= {f"{kind}.{_HEAD}{name}": tensor for name, tensor in trained.head.tensors.items()}
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> Self:
        """Read the form that `tensors` writes."""
        weights = {}
        for kind in (AVERAGED, LAST):
            delta, head = (_select_tensors(tensors, f"{kind}.{part}") for part in (_DELTA, _HEAD))
            weights[kind] = TrainedWeights(delta, LinearHead.from_tensors(head))
        return cls(weights, card)


def _select_tensors(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class FitContext:
    """The common inputs of all fits of a round: base encoder, activations [n, V, L, W], labels [n, F], recipe and seed.

    `weights` [n, F]: of the labels; None: equal.
    """

    encoder: Encoder
    activations: torch.Tensor
    labels: Labels
    recipe: Recipe
    seed: int
    weights: Floats | None = None

    def fit(self, spec: FitSpec, on_steps: OnSteps, process: DataParallelProcess = SINGLE_PROCESS) -> FitResult:
        """Run one fit. Raise CannotPartition and NothingToLearn."""
        fitted = fine_tune(
            self.encoder,
            self.activations[torch.from_numpy(spec.rows)],
            self.labels[spec.rows],
            spec.head,
            self.recipe,
            steps=spec.steps,
            seed=self.seed,
            weights=None if self.weights is None else self.weights[spec.rows],
            on_step=lambda done, _steps: on_steps(done),
            process=process,
        )
        return FitResult({AVERAGED: fitted.averaged, LAST: fitted.last}, fitted.report.card)


RunFits = Callable[[FitContext, Sequence[FitSpec], OnSteps], Iterator[FitResult]]
"""Runs the specified fits and yields their results in the same order."""


def run_fits_sequentially(context: FitContext, specs: Sequence[FitSpec], on_steps: OnSteps) -> Iterator[FitResult]:
    """Implement RunFits in this process: each fit starts when the previous result has been consumed."""
    before = 0

    def on_fit_steps(done: int) -> None:
        on_steps(before + done)

    for spec in specs:
        yield context.fit(spec, on_fit_steps)
        before += spec.steps
