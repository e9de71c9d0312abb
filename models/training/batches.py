"""What the loss asks of each film, and which films each step sees."""

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
    """Labels as the loss uses them: `wanted` and `weight` float32 [n, F].

    Of each finding the present films weigh 1/2 together and the absent ones 1/2, whatever their numbers; unknown ones weigh
    nothing. A finding without both is not `learnable` [F] and weighs nothing at all. `positives` [F] counts present films.
    """

    target: torch.Tensor
    weight: torch.Tensor
    learnable: torch.Tensor
    positives: torch.Tensor

    @classmethod
    def of(cls, labels: npt.NDArray[np.int8], *, smoothing: float) -> Targets:
        """Weigh labels [n, F]. NothingToLearn where no finding has both present and absent films."""
        given = torch.from_numpy(np.asarray(labels, dtype=np.int8))
        present, absent = given == PRESENT, given == ABSENT
        learnable = present.any(dim=0) & absent.any(dim=0)
        if not bool(learnable.any()):
            raise NothingToLearn(
                "no finding is labelled both present and absent", hint="label films with a finding, and films without it"
            )
        halves = [side / (2.0 * side.sum(dim=0).clamp(min=1)) for side in (present, absent)]
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
        """Return the weighted binary cross-entropy of logits [b, F] of these rows [b]: on average over batches that of all.

        Where the rows are part of a `batch` of so many, what they add to its loss.
        """
        each = functional.binary_cross_entropy_with_logits(logits, self.target[rows], reduction="none")
        return (each * self.weight[rows]).sum() * (len(self.target) / (batch or len(rows)))

    def midpoint(self, logits: torch.Tensor) -> torch.Tensor:
        """Return [F]: half-way between the mean logit [n, F] of present and of absent films; 0 where not learnable."""
        return (logits * self.weight).sum(dim=0) * self.learnable.sum()


def learnable_rows(labels: npt.NDArray[np.int8]) -> npt.NDArray[np.intp]:
    """Return the row numbers of films with a known label for a finding that can be learnt."""
    present, absent = labels == PRESENT, labels == ABSENT
    learnable = present.any(axis=0) & absent.any(axis=0)
    return np.flatnonzero(((present | absent) & learnable).any(axis=1))


def draw_batches(count: int, views: int, *, size: int, steps: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield for each step the rows [b] of the films and the number [b] of the view of each; b is `size` or all films.

    Every film comes once before any comes again. Same seed, same batches. A batch of all films holds them in order: whatever was
    drawn, sums over it are the same to the last bit.
    """
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.long)
    size = min(size, count)
    for _ in range(steps):
        if len(waiting) < size:
            again = torch.randperm(count, generator=generator)
            fresh = again[~torch.isin(again, waiting)]  # no film twice in the batch that bridges two rounds
            waiting = torch.cat([waiting, fresh, again[torch.isin(again, waiting)]])
        rows, waiting = waiting[:size], waiting[size:]
        drawn = torch.randint(views, (size,), generator=generator)
        order = rows.argsort() if size == count else torch.arange(size)
        yield rows[order], drawn[order]
