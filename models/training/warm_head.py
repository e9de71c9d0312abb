"""A trainable linear head in units independent of the encoder.

Features of one kind of image lie in a narrow cone, of a width that depends on the encoder. Centred to mean 0 and scaled to spread
1, they allow one learning rate for all encoders. A head taken from text starts with logits of spread 1 and, for each finding, with
its threshold half-way between present and absent images. Neither changes the ranking of the head.
"""

from __future__ import annotations

import torch

from models.classifier.head import LinearHead
from models.training.batches import Targets

_MIN_SPREAD = 1e-6  # a smaller spread is rounding


class WarmHead(torch.nn.Module):
    """logits = gain (f - mean) . v + b, with trainable v [F, D] and b [F]; mean [D] and gain are set by the initial features."""

    mean: torch.Tensor
    gain: torch.Tensor

    def __init__(self, head: LinearHead, features: torch.Tensor, targets: Targets) -> None:
        """Start from a head and the unchanged encoder's features [n, D] of the images of the targets [n, F]."""
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
        """Return a LinearHead on the CPU with the same logits."""
        weights = (self.gain * self.vectors).cpu()
        return LinearHead.from_weights(weights, self.bias.cpu() - weights @ self.mean.cpu())


def interpolate(start: LinearHead, last: LinearHead, share: float) -> LinearHead:
    """Return the head with logits share * last + (1 - share) * start: WiSE-FT's average for a linear head."""
    return LinearHead.from_weights(torch.lerp(start.weights, last.weights, share), torch.lerp(start.bias, last.bias, share))
