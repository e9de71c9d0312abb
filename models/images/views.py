"""The copies of a film that training sees, each named: the film itself, and augmented ones.

A copy is a function of the film's name, the copy's number, the amounts and the seed, and of nothing else: not of the films that it
is made with, nor of their order. So what an encoder makes of it can be kept under its name.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property

import torch

from models.fingerprint import fingerprint
from models.images.augment import augment_inputs
from models.training.recipe import Augmentation

ALGORITHM = 1
"""Raised whenever the same name would mean other pixels."""


@dataclass(frozen=True)
class AugmentedViews:
    """All copies of any film: `amounts.views` of them, of which number 0 is the film itself."""

    amounts: Augmentation
    seed: int

    def names(self, instance_key: str) -> tuple[str, ...]:
        """Return the names of all copies of a film; that of the first is the film's own."""
        return (instance_key, *(f"{instance_key} {self._amounts_digest} {number}" for number in range(1, self.amounts.views)))

    def view(self, model_input: torch.Tensor, instance_key: str, number: int) -> torch.Tensor:
        """Return one copy, float32 [1, S, S] in 0..1, of a film's grey square of that shape."""
        if number == 0:
            return model_input.float()
        drawn = hashlib.sha256(self.names(instance_key)[number].encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(drawn[:7], "big"))
        return augment_inputs(model_input[None], self.amounts, generator)[0]

    @cached_property
    def _amounts_digest(self) -> str:
        """12 hex digits for everything but the count: more copies leave the first ones as they are."""
        amounts = {name: value for name, value in asdict(self.amounts).items() if name != "views"}
        return fingerprint({"algorithm": ALGORITHM, "seed": self.seed, **amounts})[:12]
