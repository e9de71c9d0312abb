"""Linear head: from an image vector to 14 scores.

Zero-shot: per finding c the affirming and the denying prompts are encoded and averaged to m+ and m-. CLIP's own answer to
"which of the two fits the image f better" is a softmax over its two scaled cosines, and that is

    p_c = sigmoid(tau * (f . m+  -  f . m-)) = sigmoid(scale_c * (f . t_c) + bias_c)

with t_c = (m+ - m-) / |m+ - m-|, scale_c = tau * |m+ - m-|, bias_c = 0 and tau the encoder's trained temperature (Radford et
al. 2021; the pairing of a finding with its denial is CheXzero's, Tiu et al. 2022). The score ranks like f . t_c. It uses no
label and is not calibrated: a score is a certainty of the encoder, not a probability of disease.

A head trained on labels has the same form with other numbers, so the same code serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch

from models.classifier.prompts import Prompts
from models.encoder.encoder import Encoder
from models.errors import CheckpointIncompatible

_MIN_LENGTH = 1e-6  # a shorter m+ - m- is rounding, not a direction


@dataclass(frozen=True)
class LinearHead:
    """Independent binary classifiers on unit vectors: float32 directions [F, D], scale [F], bias [F]."""

    directions: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Read the form that `tensors` writes. Raise CheckpointIncompatible for other names or shapes."""
        try:
            head = cls(**tensors)
        except TypeError as error:
            raise CheckpointIncompatible(f"a head is directions, scale and bias, not {', '.join(sorted(tensors))}") from error
        findings = head.directions.shape[0]
        if head.directions.ndim != 2 or head.scale.shape != (findings,) or head.bias.shape != (findings,):
            raise CheckpointIncompatible("the shapes of the head's directions, scale and bias do not belong together")
        return head

    @classmethod
    def from_weights(cls, weights: torch.Tensor, bias: torch.Tensor) -> Self:
        """Make the head whose logits are features @ weights.T + bias, for weights [F, D] and bias [F]."""
        length = weights.norm(dim=1)
        return cls(directions=(weights / length.clamp(min=_MIN_LENGTH)[:, None]).float(), scale=length.float(), bias=bias.float())

    @property
    def weights(self) -> torch.Tensor:
        """float32 [F, D]: scale and direction in one."""
        return self.scale[:, None] * self.directions

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The three tensors by name."""
        return {"directions": self.directions, "scale": self.scale, "bias": self.bias}

    def to(self, device: torch.device) -> Self:
        """Return the same head on a device."""
        return type(self)(**{name: tensor.to(device) for name, tensor in self.tensors.items()})

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return float32 [N, F] for unit vectors [N, D]."""
        return self.scale * (features @ self.directions.T) + self.bias

    def standardised(self, features: torch.Tensor) -> Self:
        """Return the head with the same ranking whose logits of these images [N, D] have mean 0 and deviation 1 per finding."""
        logits = self.logits(features)
        spread = logits.std(dim=0, correction=0).clamp(min=_MIN_LENGTH)
        return type(self)(self.directions, self.scale / spread, (self.bias - logits.mean(dim=0)) / spread)

    def where(self, columns: torch.Tensor, other: Self) -> Self:
        """Return the head with these columns, bool [F], of its own and all others of another head."""
        mine, theirs = self.tensors, other.tensors
        picked = {name: torch.where(columns.reshape(-1, *[1] * (mine[name].ndim - 1)), mine[name], theirs[name]) for name in mine}
        return type(self)(**picked)

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Return float32 [N, F] in 0..1 for unit vectors [N, D]."""
        return torch.sigmoid(self.logits(features))


def zero_shot_head(encoder: Encoder, prompts: Prompts) -> LinearHead:
    """Return the zero-shot head of the prompts. Raise CheckpointIncompatible for a text tower that gives equal vectors."""
    texts = sorted({text for finding in prompts.findings for text in (*prompts.positives(finding), *prompts.negatives(finding))})
    vectors = dict(zip(texts, encoder.encode_texts(texts).cpu(), strict=True))
    differences = torch.stack(
        [
            _average_vectors(vectors, prompts.positives(finding)) - _average_vectors(vectors, prompts.negatives(finding))
            for finding in prompts.findings
        ]
    )
    length = differences.norm(dim=1)
    if bool((length < _MIN_LENGTH).any()):
        raise CheckpointIncompatible("the text encoder gives the same vector for a finding and for its denial")
    return LinearHead(
        directions=differences / length[:, None], scale=encoder.temperature * length, bias=torch.zeros(len(prompts.findings))
    )


def _average_vectors(vectors: Mapping[str, torch.Tensor], texts: list[str]) -> torch.Tensor:
    return torch.stack([vectors[text] for text in texts]).mean(dim=0)
