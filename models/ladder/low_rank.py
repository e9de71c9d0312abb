"""LoRA on the attention of the image tower: to the weights of query, key and value a product of two thin matrices is added.

The setting that Zanella and Ben Ayed (2024) hold fixed for every data set and shot count: rank 2, scaling alpha / sqrt(rank) with
alpha 1, dropout .25, rate 2e-4, all blocks. Two things differ here: only the image tower is touched (the head stands for the
text's side), and dropout leaves out input features of the thin path for a whole step rather than for each token, since the
product is added to the weight itself.
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
    """The numbers of CLIP-LoRA."""

    rank: int = 2
    alpha: float = 1.0
    dropout: float = 0.25
    rate: float = 2e-4
    weight_decay: float = 1e-2

    @property
    def card(self) -> dict[str, Any]:
        """Return every number, JSON-able."""
        return asdict(self)


class LowRankUpdate(torch.nn.Module):
    """A weight [3 W, W] -> that weight plus scaling times B A for each of its three shares. B starts at 0: nothing changes."""

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
        """Return the weight [3 W, W]; in training mode some columns get nothing added, others the more."""
        down: torch.Tensor = self.down
        if self.training and self._dropout:
            kept = torch.rand(_PROJECTIONS, 1, down.shape[2], generator=self._generator) >= self._dropout
            down = down * kept.to(down) / (1.0 - self._dropout)
        return weight + self._scaling * (self.up @ down).flatten(0, 1)


class LowRankEncoder:
    """An encoder whose blocks carry LowRankUpdate; the given one stays as it is. Same seed, same start and same dropout.

    CannotPartition for towers that have no such blocks.
    """

    def __init__(self, encoder: Encoder, setting: LowRankSetting, *, seed: int) -> None:
        blocks = vision_transformer(encoder.network).transformer.resblocks
        self._modules = [f"visual.transformer.resblocks.{index}.attn" for index in range(len(blocks))]
        self.encoder = copy_with_own_parameters(encoder, [f"{module}.{_WEIGHT}" for module in self._modules])
        self.updates: list[LowRankUpdate] = []
        generator = torch.Generator().manual_seed(seed)
        for name in self._modules:
            module = self.encoder.network.get_submodule(name)
            added = LowRankUpdate(module.get_parameter(_WEIGHT), setting, generator)
            parametrize.register_parametrization(module, _WEIGHT, added)
            self.updates.append(added)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Both thin matrices of every block."""
        return [parameter for added in self.updates for parameter in added.parameters()]

    def train(self, training: bool) -> None:
        """Switch the dropout on or off."""
        for added in self.updates:
            added.train(training)

    @torch.no_grad()
    def merged_weights(self) -> Delta:
        """Return the weights with what was learnt added, by the names that the base has for them, on the CPU."""
        self.train(False)
        weights: list[torch.Tensor] = [getattr(self.encoder.network.get_submodule(name), _WEIGHT) for name in self._modules]
        return {f"{name}.{_WEIGHT}": weight.cpu() for name, weight in zip(self._modules, weights, strict=True)}
