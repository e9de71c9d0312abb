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
from models.training.data_parallel import WHOLE, Share
from models.training.fine_tuning import Trained, fit
from models.training.recipe import Recipe

_DELTA, _HEAD = "delta.", "head."

OnSteps = Callable[[int], None]
"""Hears how many steps of all the fits asked for are done. May wait, or raise to stop: nothing is half done."""


@dataclass(frozen=True)
class Order:
    """A fit to be made: of these films, from this head, in so many steps."""

    rows: Rows
    head: LinearHead
    steps: int


@dataclass(frozen=True)
class Made:
    """The averaged weights of a fit, and what a card tells of it, JSON-able."""

    trained: Trained
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
        return cls(Trained(delta, LinearHead.from_tensors(head)), card)


@dataclass(frozen=True)
class Fitting:
    """What all fits of a round have in common: base, films with their labels [n, F] and activations [n, V, L, W], recipe, seed."""

    encoder: Encoder
    activations: torch.Tensor
    labels: Labels
    recipe: Recipe
    seed: int

    def fit(self, order: Order, on_steps: OnSteps, share: Share = WHOLE) -> Made:
        """Make one. CannotPartition; NothingToLearn."""
        fitted = fit(
            self.encoder,
            self.activations[torch.from_numpy(order.rows)],
            self.labels[order.rows],
            order.head,
            self.recipe,
            steps=order.steps,
            seed=self.seed,
            on_step=lambda done, _steps: on_steps(done),
            share=share,
        )
        return Made(fitted.averaged, fitted.report.card)


Fits = Callable[[Fitting, Sequence[Order], OnSteps], Iterator[Made]]
"""Makes the fits that are ordered, and gives them in order."""


def one_by_one(fitting: Fitting, orders: Sequence[Order], on_steps: OnSteps) -> Iterator[Made]:
    """Implements Fits: here, each when the one before it has been taken."""
    before = 0

    def on_own(done: int) -> None:
        on_steps(before + done)

    for order in orders:
        yield fitting.fit(order, on_own)
        before += order.steps
