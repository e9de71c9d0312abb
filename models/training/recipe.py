"""The hyperparameters of partial unfreezing, in one place and saved with the trained weights.

The method is few-shot fine-tuning without a validation set: a fixed number of steps, a head that is warm before the encoder changes
(LP-FT, Kumar et al. 2022), a pull back to the base weights (L2-SP, Li et al. 2018), and the average of base and trained weights
(WiSE-FT, Wortsman et al. 2022). No value is chosen on labels of the site of use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from models.encoder.precision import Precision
from models.errors import CheckpointIncompatible
from models.fingerprint import fingerprint

REFERENCE_WIDTH = 768
"""Width of the tower for which the encoder's learning rates are stated: ViT-B."""


@dataclass(frozen=True)
class Augmentation:
    """Limits of augmentation that keep the findings of an image unchanged. No flip: the heart is on the left."""

    views: int = 8  # views per image; the first is the unchanged image
    degrees: float = 7.0  # rotation, either way
    shift: float = 0.05  # of the edge, either way, in both axes
    zoom: float = 0.10  # of the size, either way
    brightness: float = 0.15
    contrast: float = 0.15
    gamma: float = 0.15


@dataclass(frozen=True)
class Recipe:
    """Training of the last k blocks, ln_post, proj and the head.

    Rates are AdamW's. Those of the encoder hold at REFERENCE_WIDTH and grow as towers get narrower (`encoder_rate`). A pull s takes
    back the share s / (1 + s) of the distance to the start per step at the peak rate: 0 is no pull, infinity fixes the start.
    """

    k: int = 2
    block_rate: float = 1e-5
    proj_rate: float = 1e-5
    head_rate: float = 1e-3
    weight_decay: float = 1e-2  # of matrices
    pull: float = 0.01  # of the encoder, toward the base weights
    head_pull: float = 0.1  # toward the initial head; divided by the positives of each finding
    label_smoothing: float = 0.05
    gradient_norm: float = 1.0  # clipping norm of the gradient of all parameters together
    batch: int = 32  # images
    steps_per_shot: int = 25
    max_steps: int = 200
    warmup: float = 0.1  # share of the steps with rising rates; then cosine decay
    average: float = 0.5  # share of the trained weights in the averaged ones
    precision: Precision = "auto"
    augmentation: Augmentation = field(default_factory=Augmentation)

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Self:
        """Read the form that `card` writes. Raise CheckpointIncompatible for a card of another release."""
        try:
            fields = {key: value for key, value in card.items() if key != "fingerprint"}
            return cls(**{**fields, "augmentation": Augmentation(**fields["augmentation"])})
        except (KeyError, TypeError) as error:
            raise CheckpointIncompatible(f"the card's recipe cannot be read: {error}", hint="train again") from error

    @property
    def card(self) -> dict[str, Any]:
        """Return every value and the fingerprint as JSON values."""
        return {**asdict(self), "fingerprint": fingerprint(asdict(self))}

    def step_count(self, shots: int) -> int:
        """Return the number of training steps for `shots` positives per finding; at least one."""
        return max(1, min(self.steps_per_shot * shots, self.max_steps))

    def rate_factor(self, step: int, steps: int) -> float:
        """Return the learning rate at a step, counted from 0, as a share of the peak rate: above 0 and at most 1."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1.0 + math.cos(math.pi * (step - rising + 1) / (steps - rising + 1)))

    def encoder_rate(self, rate: float, width: int) -> float:
        """Return the rate for a tower of this width: Adam's steps on a matrix keep their effect at 1 / width (Yang et al. 2022)."""
        return rate * REFERENCE_WIDTH / width
