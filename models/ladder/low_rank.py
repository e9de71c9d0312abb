"""LoRA on the attention of the image tower: a product of two low-rank matrices is added to the query, key and value weights.

The setting is that of Zanella and Ben Ayed (2024), fixed for every data set and shot count: rank 2, scaling alpha / sqrt(rank) with
alpha 1, dropout .25, rate 2e-4, all blocks. There are two differences: only the image tower is adapted (the head takes the place of
the text tower), and dropout drops input features of the low-rank path for a whole step, not per token, since the product is added
to the weight itself.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.utils import parametrize

from models.encoder.delta import Delta, copy_with_own_parameters
from models.encoder.encoder import Encoder
from models.encoder.partition import vision_transformer

_WEIGHT = "in_proj_weight"  # query, key and value one above the other: [3 W, W]
_PROJECTIONS = 3


@dataclass(frozen=True)
class LowRankSetting:
    """Hyperparameters of CLIP-LoRA."""

    rank: int = 2
    alpha: float = 1.0
    dropout: float = 0.25
    rate: float = 2e-4
    weight_decay: float = 1e-2

    @property
    def card(self) -> dict[str, Any]:
        """Return every hyperparameter as JSON values."""
        return asdict(self)


class LowRankUpdate(torch.nn.Module):
    """A weight [3 W, W] -> that weight plus scaling times B A for each of its three parts. B starts at 0: no change."""

    def __init__(self, weight: torch.Tensor, setting: LowRankSetting, generator: torch.Generator) -> None:
        super().__init__()
        width = weight.shape[1]
        bound = 1.0 / math.sqrt(width)  # Kaiming's for a linear layer without a gain
        drawn = (2.0 * torch.rand(_PROJECTIONS, setting.rank, width, generator=generator) - 1.0) * bound
        self.down = torch.nn.Parameter(drawn.to(weight))
        self.up = torch.nn.Parameter(weight.new_zeros(_PROJECTIONS, weight.shape[0] // _PROJECTIONS, setting.rank))
        self._scaling = setting.alpha / math.sqrt(setting.rank)
        self._dropout = setting.dropout
        self._generator = generator

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight [3 W, W]; in training mode some columns of the update are dropped and the others scaled up."""
        down: torch.Tensor = self.down
        if self.training and self._dropout:
            kept = torch.rand(_PROJECTIONS, 1, down.shape[2], generator=self._generator) >= self._dropout
            down = down * kept.to(down) / (1.0 - self._dropout)
        return weight + self._scaling * (self.up @ down).flatten(0, 1)


class LowRankEncoder:
    """A copy of an encoder with a LowRankUpdate in every block. Same seed, same start and same dropout.

    Raise CannotPartition for a tower without such blocks.
    """

    def __init__(self, encoder: Encoder, setting: LowRankSetting, *, seed: int) -> None:
        blocks = vision_transformer(encoder.network).transformer.resblocks
        self._modules = [f"visual.transformer.resblocks.{index}.attn" for index in range(len(blocks))]
        self.encoder = copy_with_own_parameters(encoder, [f"{module}.{_WEIGHT}" for module in self._modules])
        self.updates: list[LowRankUpdate] = []
        generator = torch.Generator().manual_seed(seed)
        for name in self._modules:
            module = self.encoder.network.get_submodule(name)
            update = LowRankUpdate(module.get_parameter(_WEIGHT), setting, generator)
            parametrize.register_parametrization(module, _WEIGHT, update)
            self.updates.append(update)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Both low-rank matrices of every block."""
        return [parameter for update in self.updates for parameter in update.parameters()]

    def train(self, training: bool) -> None:
        """Switch the dropout on or off."""
        for update in self.updates:
            update.train(training)

    @torch.no_grad()
    def merged_weights(self) -> Delta:
        """Return the weights with their updates added, by the base's parameter names, on the CPU."""
        self.train(False)
        weights: list[torch.Tensor] = [getattr(self.encoder.network.get_submodule(name), _WEIGHT) for name in self._modules]
        return {f"{name}.{_WEIGHT}": weight.cpu() for name, weight in zip(self._modules, weights, strict=True)}
