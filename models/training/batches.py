"""Targets and weights of the training loss, and the batches of each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from models.errors import NothingToLearn
from models.evaluation.cases import ABSENT, PRESENT


@dataclass(frozen=True)
class Targets:
    """Labels in the form of the loss: `target` and `weight` float32 [n, F].

    For each finding the weights of the present images sum to 1/2 and those of the absent ones to 1/2, whatever their numbers,
    divided by the number of learnable findings; unknown labels weigh 0. A finding without both kinds is not `learnable` [F] and
    weighs 0. `positives` [F] counts present images.
    """

    target: torch.Tensor
    weight: torch.Tensor
    learnable: torch.Tensor
    positives: torch.Tensor

    @classmethod
    def of(cls, labels: npt.NDArray[np.int8], *, smoothing: float, weights: npt.NDArray[np.float64] | None = None) -> Targets:
        """Weigh labels [n, F]. `weights` [n, F], above 0: of labels beside others of their kind; None: equal.

        Raise NothingToLearn if no finding has both present and absent images.
        """
        given = torch.from_numpy(np.asarray(labels, dtype=np.int8))
        present, absent = given == PRESENT, given == ABSENT
        learnable = present.any(dim=0) & absent.any(dim=0)
        if not bool(learnable.any()):
            raise NothingToLearn(
                "no finding is labelled both present and absent", hint="label studies with a finding, and studies without it"
            )
        of_labels = torch.ones(given.shape) if weights is None else torch.from_numpy(weights).float()
        sides = [side * of_labels for side in (present, absent)]
        halves = [side / (2.0 * torch.where(side.any(dim=0), side.sum(dim=0), 1.0)) for side in sides]
        return cls(
            target=present.float() * (1.0 - smoothing) + smoothing / 2.0,
            weight=(halves[0] + halves[1]) * learnable / learnable.sum(),
            learnable=learnable,
            positives=present.sum(dim=0),
        )

    def to(self, device: torch.device) -> Targets:
        """Return the same on a device."""
        return Targets(*(tensor.to(device) for tensor in (self.target, self.weight, self.learnable, self.positives)))

    def loss(self, logits: torch.Tensor, rows: torch.Tensor, *, batch: int | None = None) -> torch.Tensor:
        """Return the weighted binary cross-entropy of logits [b, F] of rows [b]; its mean over batches is the loss of all rows.

        `batch`: size of the whole batch, if the rows are only part of one: the result is their share of its loss.
        """
        each = functional.binary_cross_entropy_with_logits(logits, self.target[rows], reduction="none")
        return (each * self.weight[rows]).sum() * (len(self.target) / (batch or len(rows)))

    def midpoint(self, logits: torch.Tensor) -> torch.Tensor:
        """Return [F]: the midpoint of the mean logits [n, F] of present and of absent images; 0 for findings not learnable."""
        return (logits * self.weight).sum(dim=0) * self.learnable.sum()


def learnable_rows(labels: npt.NDArray[np.int8]) -> npt.NDArray[np.intp]:
    """Return the row numbers of images with a known label for a learnable finding."""
    present, absent = labels == PRESENT, labels == ABSENT
    learnable = present.any(axis=0) & absent.any(axis=0)
    return np.flatnonzero(((present | absent) & learnable).any(axis=1))


def draw_batches(count: int, views: int, *, size: int, steps: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield for each step the rows [b] of the images and the view number [b] of each; b is `size`, or `count` if smaller.

    Every image is used once before any is repeated. Same seed, same batches. A batch of all images is in row order, so sums over it
    are the same to the last bit for every permutation drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.long)
    size = min(size, count)
    for _ in range(steps):
        if len(waiting) < size:
            again = torch.randperm(count, generator=generator)
            fresh = again[~torch.isin(again, waiting)]  # no image twice in the batch that bridges two epochs
            waiting = torch.cat([waiting, fresh, again[torch.isin(again, waiting)]])
        rows, waiting = waiting[:size], waiting[size:]
        drawn = torch.randint(views, (size,), generator=generator)
        order = rows.argsort() if size == count else torch.arange(size)
        yield rows[order], drawn[order]
