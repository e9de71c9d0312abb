"""Heat maps of a ViT without labels of places: which patches of an image speak for a finding, by two methods.

Both start from the activations that enter the last block. `map_by_similarity` compares each patch with the finding's direction
among texts: the values of the last block's attention, projected like the class token, keep the place that its keys and queries mix
(MaskCLIP, Zhou et al. 2022). `map_by_attention` weights the attention of the class token by the gradient of the finding's score
(Chefer et al. 2021, last block).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from models.classifier.head import LinearHead
from models.encoder.activations import project, run_blocks
from models.encoder.encoder import Encoder
from models.encoder.fast_blocks import is_standard_block
from models.encoder.partition import vision_transformer
from models.errors import CannotPartition


def map_by_similarity(encoder: Encoder, head: LinearHead, activations: torch.Tensor, *, k: int) -> torch.Tensor:
    """Return float32 [N, F, G, G] for activations [N, 1 + G * G, W] that enter the last `k` blocks, k at least 1.

    A value is a difference of cosines: above 0 the patch is closer to the affirming texts. CannotPartition.
    """
    tower, block = _require_last_block(encoder)
    with torch.no_grad():
        tokens = block.ln_1(run_blocks(encoder, activations, k=k, last=1)[:, 1:])
        values = functional.linear(tokens, *_split_projection(block)[2])
        patches = block.attn.out_proj(values)
        features = project(tower.ln_post(patches), tower.proj)  # [N, P, D]
        return _to_grid((features @ head.directions.T).transpose(1, 2))


def map_by_attention(encoder: Encoder, head: LinearHead, activations: torch.Tensor, *, k: int) -> torch.Tensor:
    """Return float32 [N, F, G, G], not negative, for activations as in `map_by_similarity`. CannotPartition."""
    tower, block = _require_last_block(encoder)
    tokens = run_blocks(encoder, activations, k=k, last=1).detach()
    with torch.enable_grad():
        attention, logits_of = _open_attention(tower, block, tokens)
        logits = head.logits(logits_of(attention))
        maps = []
        for finding in range(logits.shape[1]):
            (gradient,) = torch.autograd.grad(logits[:, finding].sum(), attention, retain_graph=True)
            maps.append((gradient * attention).clamp(min=0).mean(dim=1)[:, 1:].detach())
    return _to_grid(torch.stack(maps, dim=1))


METHODS: dict[str, Callable[..., torch.Tensor]] = {"similarity": map_by_similarity, "attention": map_by_attention}
"""Name of a method -> its function."""


def _require_last_block(encoder: Encoder) -> tuple[Any, Any]:
    """Return the tower and its last block. CannotPartition for a tower that does not pool the class token of a standard block."""
    tower = vision_transformer(encoder.network)
    block = tower.transformer.resblocks[-1]
    if tower.pool_type != "tok" or not is_standard_block(block):
        raise CannotPartition("heat maps need a ViT whose last block is standard and whose class token is pooled")
    return tower, block


def _split_projection(block: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return weight and bias of queries, keys and values."""
    attention = block.attn
    return list(zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True))


def _open_attention(tower: Any, block: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the attention [N, H, L] of the class token, a leaf, and the function from it to the image's features [N, D]."""
    heads = block.attn.num_heads
    queries, keys, values = (
        functional.linear(block.ln_1(tokens), *pair).view(*tokens.shape[:2], heads, -1).transpose(1, 2)  # [N, H, L, D / H]
        for pair in _split_projection(block)
    )
    scores = (queries[:, :, :1] @ keys.transpose(2, 3)).squeeze(2) * queries.shape[-1] ** -0.5
    attention = scores.softmax(dim=-1).detach().requires_grad_()

    def compute_features(weights: torch.Tensor) -> torch.Tensor:
        attended = (weights[:, :, None] @ values).squeeze(2).flatten(1)
        token = tokens[:, 0] + block.ls_1(block.attn.out_proj(attended))
        token = token + block.ls_2(block.mlp(block.ln_2(token)))
        return project(tower.ln_post(token), tower.proj)

    return attention, compute_features


def _to_grid(patches: torch.Tensor) -> torch.Tensor:
    """Map [N, F, P] of a square image to [N, F, G, G]."""
    edge = round(patches.shape[-1] ** 0.5)
    return patches.reshape(*patches.shape[:-1], edge, edge).float()
