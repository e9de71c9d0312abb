"""The image encoder cut in two before its last k blocks.

With all before them frozen, what enters those blocks is a pure function of the image: computed once, it serves every training
step and every re-scoring that touches the last k blocks alone. `prefix` and `encode_activations` together are `encode_images`, by
the
short cuts of `blocks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch.nn import functional

from models.encoder.encoder import Encoder
from models.encoder.fast_blocks import is_standard_block, run_block, run_block_for_class_token
from models.encoder.partition import check_blocks, vision_transformer
from models.errors import CannotPartition

TOLERANCE = 1e-5
"""Largest difference of any number of a unit vector from that of `encode_images`, float32 on a CPU."""


class EncoderOutput(NamedTuple):
    """What the image tower gives for N images."""

    pooled: torch.Tensor  # [N, W] after ln_post, before the projection
    features: torch.Tensor  # [N, D] projected, of unit length


class SplitActivations(NamedTuple):
    """N images in front of the last k blocks, where learning starts, and behind them as they were before anything was learnt."""

    activations: torch.Tensor  # [N, L, W], the activations that enter the last k blocks
    features: torch.Tensor  # [N, D], what the base makes of the images, of unit length

    @classmethod
    def stack(cls, images: Iterable[SplitActivations]) -> Self:
        """Join single images, [L, W] and [D] each."""
        return cls(*map(torch.stack, zip(*images, strict=True)))

    def select(self, rows: Sequence[int]) -> Self:
        """Return some of the images."""
        return type(self)(self.activations[rows], self.features[rows])


@torch.no_grad()
def encode_split(encoder: Encoder, pixels: torch.Tensor, *, k: int) -> SplitActivations:
    """Return both of one pass, float32 on the encoder's device, for `pixels` as `prefix` wants them. CannotPartition."""
    entering = compute_activations(encoder, pixels, k=k)
    return SplitActivations(entering, encode_activations(encoder, entering, k=k).features)


def encode_images_fast(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """Return what `encode_images` does within TOLERANCE, of any tower: with the short cuts where it can be cut."""
    try:
        return encode_split(encoder, pixels, k=1).features
    except CannotPartition:
        return encoder.encode_images(pixels)


@torch.no_grad()
def compute_activations(encoder: Encoder, pixels: torch.Tensor, *, k: int) -> torch.Tensor:
    """Return the activations that enter the first of the last `k` blocks, float32 [N, L, W], on the encoder's device.

    `pixels`: float32 [N, 3, S, S], preprocessed. L is 1 + the number of patches, class token first; W the tower's width. k = 0
    gives what enters ln_post, k = all blocks what leaves the stem. CannotPartition.
    """
    tower, blocks = _require_blocks(encoder, k)
    tokens: torch.Tensor = tower._embeds(pixels.to(encoder.device))
    return _run_transformer_blocks(tower.transformer, blocks[: len(blocks) - k], tokens)


@torch.no_grad()
def run_blocks(encoder: Encoder, activations: torch.Tensor, *, k: int, last: int) -> torch.Tensor:
    """Return what enters the last `to` blocks, given the activations [N, L, W] that enter the last `k`; `to` is at most k."""
    tower, blocks = _require_blocks(encoder, k)
    check_blocks(last, k)
    tokens = activations.to(encoder.device, torch.float32)
    return _run_transformer_blocks(tower.transformer, blocks[len(blocks) - k : len(blocks) - last], tokens)


def encode_activations(encoder: Encoder, activations: torch.Tensor, *, k: int) -> EncoderOutput:
    """Return what the last `k` blocks, ln_post and proj make of activations [N, L, W], computed in float32.

    Gradients flow, to the activations and to whatever parameters ask for them. CannotPartition.
    """
    tower, blocks = _require_blocks(encoder, k)
    tokens, last = activations.to(encoder.device, torch.float32), blocks[len(blocks) - k :]
    if k and tower.pool_type == "tok" and is_standard_block(last[-1]):
        tokens = run_block_for_class_token(last[-1], _run_transformer_blocks(tower.transformer, last[:-1], tokens))
    else:
        tokens = _run_transformer_blocks(tower.transformer, last, tokens)
    pooled: torch.Tensor = tower._pool(tokens)[0]
    return EncoderOutput(pooled, project(pooled, tower.proj))


def activation_shape(encoder: Encoder) -> tuple[int, int]:
    """Return L and W of the activations, the same in front of every block. CannotPartition."""
    length, width = vision_transformer(encoder.network).positional_embedding.shape
    return int(length), int(width)


def project(pooled: torch.Tensor, proj: torch.Tensor) -> torch.Tensor:
    """Return the features of pooled vectors [N, W] under a projection [W, D]: unit vectors [N, D]."""
    return functional.normalize(pooled @ proj, dim=-1)


def _require_blocks(encoder: Encoder, k: int) -> tuple[Any, Any]:
    """Return the tower and its blocks, of which there must be k."""
    tower = vision_transformer(encoder.network)
    blocks = tower.transformer.resblocks
    check_blocks(k, len(blocks))
    return tower, blocks


def _run_transformer_blocks(transformer: Any, blocks: Any, tokens: torch.Tensor) -> torch.Tensor:
    """[N, L, W] -> [N, L, W]; open_clip's transformers may run sequence first inside."""
    tokens = tokens if transformer.batch_first else tokens.transpose(0, 1)
    for block in blocks:
        tokens = run_block(block, tokens)
    return tokens if transformer.batch_first else tokens.transpose(0, 1)
