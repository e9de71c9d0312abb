"""A linear head while it learns, in units that suit every encoder.

Features of one kind of image crowd in a narrow cone, as narrow as the encoder likes. Moved to mean 0 and scaled to spread 1, they
let one learning rate serve all encoders, and a head taken from text starts with logits of spread 1 and, of each finding,
half-way between its present and its absent films. Neither changes what a head ranks first.
"""

from __future__ import annotations

import torch

from models.classifier.head import LinearHead
from models.training.batches import Targets

_MIN_SPREAD = 1e-6  # a spread below it is rounding


class WarmHead(torch.nn.Module):
    """logits = gain (f - mean) . v + b, with v [F, D] and b [F] to be learnt; mean [D] and gain follow the first features."""

    mean: torch.Tensor
    gain: torch.Tensor

    def __init__(self, head: LinearHead, features: torch.Tensor, targets: Targets) -> None:
        """Start from a head and the features [n, D] that the encoder gives the films of the targets [n, F] before it moves."""
        super().__init__()
        mean = features.mean(dim=0)
        self.register_buffer("mean", mean)
        self.register_buffer("gain", 1.0 / (features - mean).square().mean().sqrt().clamp(min=_MIN_SPREAD))
        aligned = self.gain * (features - mean) @ head.directions.T
        vectors = head.directions / aligned.std(dim=0, correction=0).clamp(min=_MIN_SPREAD)[:, None]
        self.vectors = torch.nn.Parameter(vectors)
        self.bias = torch.nn.Parameter(-targets.midpoint(self.gain * (features - mean) @ vectors.T))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits [N, F] for unit vectors [N, D]."""
        return self.gain * (features - self.mean) @ self.vectors.T + self.bias

    @torch.no_grad()
    def to_linear_head(self) -> LinearHead:
        """Return what it has learnt as a head on the CPU: the same logits."""
        weights = (self.gain * self.vectors).cpu()
        return LinearHead.from_weights(weights, self.bias.cpu() - weights @ self.mean.cpu())


def interpolate(start: LinearHead, last: LinearHead, share: float) -> LinearHead:
    """Return the head whose logits are `share` of the last's and the rest of the start's: WiSE-FT's average, for a linear head."""
    return LinearHead.from_weights(torch.lerp(start.weights, last.weights, share), torch.lerp(start.bias, last.bias, share))
