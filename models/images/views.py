"""Views of an image for training, each with a name: the image itself, and augmented views.

A view depends on the image's key, the view's number, the amounts and the seed alone, not on the batch or its order. So activations
of a view can be cached under its name.
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
"""Incremented with each change of the pixels of a name."""


@dataclass(frozen=True)
class AugmentedViews:
    """All views of an image: `amounts.views`, of which number 0 is the image itself."""

    amounts: Augmentation
    seed: int

    def names(self, instance_key: str) -> tuple[str, ...]:
        """Return the names of all views of an image; the first is the image's key."""
        return (instance_key, *(f"{instance_key} {self._amounts_digest} {number}" for number in range(1, self.amounts.views)))

    def view(self, model_input: torch.Tensor, instance_key: str, number: int) -> torch.Tensor:
        """Return one view, float32 [1, S, S] in 0..1, of an image's model input of that shape."""
        if number == 0:
            return model_input.float()
        digest = hashlib.sha256(self.names(instance_key)[number].encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return augment_inputs(model_input[None], self.amounts, generator)[0]

    @cached_property
    def _amounts_digest(self) -> str:
        """12 hex digits of all amounts but the count: more views do not change the first ones."""
        amounts = {name: value for name, value in asdict(self.amounts).items() if name != "views"}
        return fingerprint({"algorithm": ALGORITHM, "seed": self.seed, **amounts})[:12]
