"""The image encoder cut in two before its last k blocks.

With all before them frozen, what enters those blocks is a pure function of the image: computed once, it serves every training
step and every re-scoring that touches the last k blocks alone. `prefix` and `from_prefix` together are `encode_images`.
"""

from __future__ import annotations

import models.torchvision_ops  # noqa: F401 - before open_clip, whose import of torchvision may fail otherwise

# isort: split

from typing import Any, NamedTuple

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch.nn import functional

from models.encoder import Encoder
from models.partition import check_blocks, vision_transformer

TOLERANCE = 1e-5
"""Largest difference of any number of a unit vector from that of `encode_images`, float32 on a CPU."""


class Encoded(NamedTuple):
    """What the image tower gives for N images."""

    pooled: torch.Tensor  # [N, W] after ln_post, before the projection
    features: torch.Tensor  # [N, D] projected, of unit length


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
    if k and tower.pool_type == "tok" and type(last[-1]) is ResidualAttentionBlock and tower.transformer.batch_first:
        tokens = _class_token(last[-1], _through(tower.transformer, last[:-1], tokens))
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


def _class_token(block: ResidualAttentionBlock, tokens: torch.Tensor) -> torch.Tensor:
    """Return the class token [N, 1, W] as the block gives it for tokens [N, L, W].

    Nothing reads the other tokens after the last block: of them it needs keys and values alone, a sixth of its products.
    """
    normed, own = block.ln_1(tokens), tokens[:, :1]
    own = own + block.ls_1(block.attention(q_x=normed[:, :1], k_x=normed, v_x=normed))
    seen: torch.Tensor = own + block.ls_2(block.mlp(block.ln_2(own)))
    return seen


def _through(transformer: Any, blocks: Any, tokens: torch.Tensor) -> torch.Tensor:
    """[N, L, W] -> [N, L, W]; open_clip's transformers may run sequence first inside."""
    tokens = tokens if transformer.batch_first else tokens.transpose(0, 1)
    for block in blocks:
        tokens = block(tokens)
    return tokens if transformer.batch_first else tokens.transpose(0, 1)
