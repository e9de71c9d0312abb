"""The image encoder cut in two before its last k blocks.

With all before them frozen, what enters those blocks is a pure function of the image: computed once, it serves every training
step and every re-scoring that touches the last k blocks alone. `prefix` and `from_prefix` together are `encode_images`, by the
short cuts of `blocks`.
"""

from __future__ import annotations

import models.encoder.torchvision_ops  # noqa: F401 - before open_clip, whose import of torchvision may fail otherwise

# isort: split

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch.nn import functional

from models.encoder.encoder import Encoder
from models.encoder.fast_blocks import class_token, is_plain, passed
from models.encoder.partition import check_blocks, vision_transformer
from models.errors import CannotPartition

TOLERANCE = 1e-5
"""Largest difference of any number of a unit vector from that of `encode_images`, float32 on a CPU."""


class Encoded(NamedTuple):
    """What the image tower gives for N images."""

    pooled: torch.Tensor  # [N, W] after ln_post, before the projection
    features: torch.Tensor  # [N, D] projected, of unit length


class Cut(NamedTuple):
    """N images in front of the last k blocks, where learning starts, and behind them as they were before anything was learnt."""

    entering: torch.Tensor  # [N, L, W], the activations that enter the last k blocks
    features: torch.Tensor  # [N, D], what the base makes of the images, of unit length

    @classmethod
    def of(cls, images: Iterable[Cut]) -> Self:
        """Join single images, [L, W] and [D] each."""
        return cls(*map(torch.stack, zip(*images, strict=True)))

    def rows(self, rows: Sequence[int]) -> Self:
        """Return some of the images."""
        return type(self)(self.entering[rows], self.features[rows])


@torch.no_grad()
def cut(encoder: Encoder, pixels: torch.Tensor, *, k: int) -> Cut:
    """Return both of one pass, float32 on the encoder's device, for `pixels` as `prefix` wants them. CannotPartition."""
    entering = prefix(encoder, pixels, k=k)
    return Cut(entering, from_prefix(encoder, entering, k=k).features)


def encoded(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """Return what `encode_images` does within TOLERANCE, of any tower: with the short cuts where it can be cut."""
    try:
        return cut(encoder, pixels, k=1).features
    except CannotPartition:
        return encoder.encode_images(pixels)


@torch.no_grad()
def prefix(encoder: Encoder, pixels: torch.Tensor, *, k: int) -> torch.Tensor:
    """Return the activations that enter the first of the last `k` blocks, float32 [N, L, W], on the encoder's device.

    `pixels`: float32 [N, 3, S, S], preprocessed. L is 1 + the number of patches, class token first; W the tower's width. k = 0
    gives what enters ln_post, k = all blocks what leaves the stem. CannotPartition.
    """
    tower, blocks = _blocks(encoder, k)
    tokens: torch.Tensor = tower._embeds(pixels.to(encoder.device))
    return _through(tower.transformer, blocks[: len(blocks) - k], tokens)


@torch.no_grad()
def onward(encoder: Encoder, activations: torch.Tensor, *, k: int, to: int) -> torch.Tensor:
    """Return what enters the last `to` blocks, given the activations [N, L, W] that enter the last `k`; `to` is at most k."""
    tower, blocks = _blocks(encoder, k)
    check_blocks(to, k)
    tokens = activations.to(encoder.device, torch.float32)
    return _through(tower.transformer, blocks[len(blocks) - k : len(blocks) - to], tokens)


def from_prefix(encoder: Encoder, activations: torch.Tensor, *, k: int) -> Encoded:
    """Return what the last `k` blocks, ln_post and proj make of activations [N, L, W], computed in float32.

    Gradients flow, to the activations and to whatever parameters ask for them. CannotPartition.
    """
    tower, blocks = _blocks(encoder, k)
    tokens, last = activations.to(encoder.device, torch.float32), blocks[len(blocks) - k :]
    if k and tower.pool_type == "tok" and is_plain(last[-1]):
        tokens = class_token(last[-1], _through(tower.transformer, last[:-1], tokens))
    else:
        tokens = _through(tower.transformer, last, tokens)
    pooled: torch.Tensor = tower._pool(tokens)[0]
    return Encoded(pooled, projected(pooled, tower.proj))


def shape(encoder: Encoder) -> tuple[int, int]:
    """Return L and W of the activations, the same in front of every block. CannotPartition."""
    length, width = vision_transformer(encoder.network).positional_embedding.shape
    return int(length), int(width)


def projected(pooled: torch.Tensor, proj: torch.Tensor) -> torch.Tensor:
    """Return the features of pooled vectors [N, W] under a projection [W, D]: unit vectors [N, D]."""
    return functional.normalize(pooled @ proj, dim=-1)


def _blocks(encoder: Encoder, k: int) -> tuple[Any, Any]:
    """Return the tower and its blocks, of which there must be k."""
    tower = vision_transformer(encoder.network)
    blocks = tower.transformer.resblocks
    check_blocks(k, len(blocks))
    return tower, blocks


def _through(transformer: Any, blocks: Any, tokens: torch.Tensor) -> torch.Tensor:
    """[N, L, W] -> [N, L, W]; open_clip's transformers may run sequence first inside."""
    tokens = tokens if transformer.batch_first else tokens.transpose(0, 1)
    for block in blocks:
        tokens = passed(block, tokens)
    return tokens if transformer.batch_first else tokens.transpose(0, 1)
