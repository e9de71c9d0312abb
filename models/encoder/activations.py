"""The image encoder split before its last k blocks.

Activations are what enters the last k blocks. With the blocks before them frozen, activations are a pure function of the image:
computed once, they serve every training step and every re-scoring of the last k blocks. `compute_activations` followed by
`encode_activations` equals `encode_images`; both use `fast_blocks`.
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
"""Largest difference of any component of a unit vector from `encode_images`, float32 on a CPU."""


class EncoderOutput(NamedTuple):
    """Output of the image tower for N images."""

    pooled: torch.Tensor  # [N, W] after ln_post, before the projection
    features: torch.Tensor  # [N, D] projected, of unit length


class SplitActivations(NamedTuple):
    """N images before the last k blocks, where training starts, and their features by the base."""

    activations: torch.Tensor  # [N, L, W], input of the last k blocks
    features: torch.Tensor  # [N, D], unit vectors of the base

    @classmethod
    def stack(cls, images: Iterable[SplitActivations]) -> Self:
        """Join single images, [L, W] and [D] each."""
        return cls(*map(torch.stack, zip(*images, strict=True)))

    def select(self, rows: Sequence[int]) -> Self:
        """Return some of the images."""
        return type(self)(self.activations[rows], self.features[rows])


@torch.no_grad()
def encode_split(encoder: Encoder, pixels: torch.Tensor, *, k: int) -> SplitActivations:
    """Return both of one pass, float32 on the encoder's device, for `pixels` as in `compute_activations`. CannotPartition."""
    activations = compute_activations(encoder, pixels, k=k)
    return SplitActivations(activations, encode_activations(encoder, activations, k=k).features)


def encode_images_fast(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """Return the result of `encode_images` within TOLERANCE, by `fast_blocks` where the tower can be split."""
    try:
        return encode_split(encoder, pixels, k=1).features
    except CannotPartition:
        return encoder.encode_images(pixels)


@torch.no_grad()
def compute_activations(encoder: Encoder, pixels: torch.Tensor, *, k: int) -> torch.Tensor:
    """Return the activations that enter the first of the last `k` blocks, float32 [N, L, W], on the encoder's device.

    `pixels`: float32 [N, 3, S, S], preprocessed. L is 1 + the number of patches, class token first; W the tower's width. k = 0
    returns the input of ln_post, k = all blocks the output of the stem. CannotPartition.
    """
    tower, blocks = _require_blocks(encoder, k)
    tokens: torch.Tensor = tower._embeds(pixels.to(encoder.device))
    return _run_transformer_blocks(tower.transformer, blocks[: len(blocks) - k], tokens)


@torch.no_grad()
def run_blocks(encoder: Encoder, activations: torch.Tensor, *, k: int, last: int) -> torch.Tensor:
    """Return the activations that enter the last `last` blocks, given those [N, L, W] of the last `k`; `last` is at most k."""
    tower, blocks = _require_blocks(encoder, k)
    check_blocks(last, k)
    tokens = activations.to(encoder.device, torch.float32)
    return _run_transformer_blocks(tower.transformer, blocks[len(blocks) - k : len(blocks) - last], tokens)


def encode_activations(encoder: Encoder, activations: torch.Tensor, *, k: int) -> EncoderOutput:
    """Return the output of the last `k` blocks, ln_post and proj for activations [N, L, W], computed in float32.

    Gradients flow to the activations and to all parameters with requires_grad. CannotPartition.
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
    """Return L and W of the activations, equal before every block. CannotPartition."""
    length, width = vision_transformer(encoder.network).positional_embedding.shape
    return int(length), int(width)


def project(pooled: torch.Tensor, proj: torch.Tensor) -> torch.Tensor:
    """Return the features of pooled vectors [N, W] under a projection [W, D]: unit vectors [N, D]."""
    return functional.normalize(pooled @ proj, dim=-1)


def _require_blocks(encoder: Encoder, k: int) -> tuple[Any, Any]:
    """Return the tower and its blocks, at least k. CannotPartition."""
    tower = vision_transformer(encoder.network)
    blocks = tower.transformer.resblocks
    check_blocks(k, len(blocks))
    return tower, blocks


def _run_transformer_blocks(transformer: Any, blocks: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Map [N, L, W] to [N, L, W]; open_clip's transformers may run sequence first inside."""
    tokens = tokens if transformer.batch_first else tokens.transpose(0, 1)
    for block in blocks:
        tokens = run_block(block, tokens)
    return tokens if transformer.batch_first else tokens.transpose(0, 1)
