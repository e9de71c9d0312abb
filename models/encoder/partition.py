"""One named, ordered partition of CLIP's image encoder: stem, block 0 .. block n-1, ln_post, proj.

The names are those of open_clip's VisionTransformer. The stem is everything before the first block: patches, class token,
positions, ln_pre. Freezing, learning rates and the record of trained parameters all use this partition, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from open_clip.transformer import VisionTransformer

from models.errors import CannotPartition

STEM, LN_POST, PROJ = "stem", "ln_post", "proj"
"""Names of the parts other than blocks. Blocks are named `block 0`, `block 1`, ..."""

_VISUAL = "visual."  # the image tower in both of open_clip's CLIP classes
_BLOCKS = "transformer.resblocks."


@dataclass(frozen=True)
class EncoderPart:
    """One part. `parameters`: names in the network's state dict, in its order. `parameter_count`: their number of elements."""

    name: str
    parameters: tuple[str, ...]
    parameter_count: int


@dataclass(frozen=True)
class Partition:
    """All parts, in the order of the forward pass. Every parameter of the image tower is in exactly one."""

    parts: tuple[EncoderPart, ...]

    @property
    def block_count(self) -> int:
        """Number of transformer blocks."""
        return sum(part.name not in (STEM, LN_POST, PROJ) for part in self.parts)

    @property
    def parameter_count(self) -> int:
        """Number of elements of all parameters of the tower."""
        return sum(part.parameter_count for part in self.parts)

    def last_parts(self, k: int) -> tuple[EncoderPart, ...]:
        """Return the last `k` blocks, ln_post and proj: the parts that partial unfreezing trains. CannotPartition."""
        check_blocks(k, self.block_count)
        return self.parts[1 + self.block_count - k :]


def check_blocks(k: int, blocks: int) -> None:
    """Raise CannotPartition unless 0 <= k <= blocks."""
    if not 0 <= k <= blocks:
        raise CannotPartition(
            f"the image encoder has {blocks} blocks: there is no last {k} of them", hint=f"choose from 0 to {blocks} blocks"
        )


def partition(network: torch.nn.Module) -> Partition:
    """Divide the image tower of an open_clip network.

    CannotPartition for towers other than a sequence of blocks followed by ln_post and proj: timm's, ResNets, attentional pools.
    """
    tower = vision_transformer(network)
    members: dict[str, list[tuple[str, int]]] = {}
    for name, parameter in tower.named_parameters():
        members.setdefault(_find_part_name(name), []).append((_VISUAL + name, parameter.numel()))
    order = [STEM, *(block_name(index) for index in range(len(tower.transformer.resblocks))), LN_POST, PROJ]
    return Partition(tuple(_build_part(name, members.get(name, [])) for name in order))


def block_name(index: int) -> str:
    """Return the name of a block; block 0 is the first after the stem."""
    return f"block {index}"


def parameter_names(parts: Iterable[EncoderPart]) -> tuple[str, ...]:
    """Return the parameter names of several parts, in order."""
    return tuple(name for part in parts for name in part.parameters)


def vision_transformer(network: torch.nn.Module) -> Any:
    """Return the image tower, an open_clip VisionTransformer. CannotPartition for another class or another pooling."""
    tower = getattr(network, "visual", None)
    if reason := _find_obstacle(network, tower):
        raise CannotPartition(
            f"the image encoder cannot be partially unfrozen: {reason}",
            hint="choose a CLIP with open_clip's own vision transformer, as ViT-B-32 or ViT-L-14, or leave the encoder frozen",
        )
    return tower


def _find_obstacle(network: torch.nn.Module, tower: Any) -> str:
    """Return the reason why the tower cannot be partitioned, or ''."""
    if not isinstance(network, (open_clip.CLIP, open_clip.CustomTextCLIP)):
        return f"{type(network).__name__} is none of open_clip's CLIP networks"
    if not isinstance(tower, VisionTransformer):
        return f"its image tower is a {type(tower).__name__}"
    if tower.attn_pool is not None:
        return "it pools by attention"
    if tower.pool_type not in ("tok", "avg") or tower.output_tokens:
        return "it gives tokens in place of one vector an image"
    if tower.proj is None or not len(tower.transformer.resblocks):
        return "it was pruned"
    return ""


def _find_part_name(name: str) -> str:
    """Return the part of a parameter of the tower."""
    if name.startswith(_BLOCKS):
        return block_name(int(name.removeprefix(_BLOCKS).split(".", 1)[0]))
    head = name.split(".", 1)[0]
    return head if head in (LN_POST, PROJ) else STEM


def _build_part(name: str, members: list[tuple[str, int]]) -> EncoderPart:
    return EncoderPart(name, tuple(parameter for parameter, _ in members), sum(count for _, count in members))
