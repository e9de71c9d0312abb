"""Transformer blocks of open_clip's image tower, computed the cheap way where that gives the same numbers.

Two short cuts. Nothing reads the other tokens after the last block, so it is computed for the class token alone, and its keys and
values are never made: `run_block_for_class_token`. And without gradients a CPU multiplies float32 by oneDNN in place of torch's
own library, MKL,
which leaves half of an AMD processor's vector width unused: `passed`.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch.nn import functional


def is_standard_block(block: Any) -> bool:
    """Say whether a block is open_clip's usual one, batch first, with biases: the only kind that `run_block_for_class_token`
    knows."""
    return type(block) is ResidualAttentionBlock and bool(block.attn.batch_first) and block.attn.in_proj_bias is not None


def run_block(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return what a block makes of tokens [N, L, W] (of [L, N, W] where it runs sequence first)."""
    if not (is_standard_block(block) and _is_onednn_usable(tokens, block.attn.in_proj_weight)):
        made: torch.Tensor = block(tokens)
        return made
    tokens = tokens + block.ls_1(_run_attention(block.attn, block.ln_1(tokens)))
    seen: torch.Tensor = tokens + block.ls_2(_run_mlp(block.mlp, block.ln_2(tokens)))
    return seen


def run_block_for_class_token(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the class token [N, 1, W] as a plain block gives it for tokens [N, L, W]. Gradients flow."""
    normed, own = block.ln_1(tokens), tokens[:, 0]
    with torch.autocast(tokens.device.type, enabled=False):
        own = own + block.ls_1(_attend_class_token(block.attn, normed.float()).to(normed.dtype))
    seen: torch.Tensor = own + block.ls_2(_run_mlp(block.mlp, block.ln_2(own)))
    return seen[:, None]


def _run_attention(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What attention lets each of tokens [N, L, W] take from all of them: [N, L, W]."""
    count, length, width = tokens.shape
    mixed = _apply_linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = mixed.view(count, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)  # [N, H, L, D] each
    taken = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(count, length, width)
    return _apply_linear(taken, attention.out_proj.weight, attention.out_proj.bias)


def _attend_class_token(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What attention lets the class token, the first of tokens [N, L, W], take from all of them: [N, W].

    q . (K x) = (K'q) . x, and the sum of a_i (V x_i) is V times that of a_i x_i: with one query two products with it stand for
    keys and values of all tokens. The bias of the keys adds as much to every token and the softmax takes it out again; that of the
    values adds once, since the a_i sum to 1. These products are few, and in float32 whatever the rest is in.
    """
    query, key, value = attention.in_proj_weight.float().unflatten(0, (3, attention.num_heads, -1))  # [H, D, W] each
    query_bias, _, value_bias = attention.in_proj_bias.float().unflatten(0, (3, attention.num_heads, -1))
    asked = torch.einsum("nw,hdw->nhd", tokens[:, 0], query) + query_bias
    likeness = torch.einsum("nhd,hdw->nhw", asked * attention.head_dim**-0.5, key) @ tokens.transpose(1, 2)
    taken = likeness.softmax(dim=-1) @ tokens
    found = (torch.einsum("nhw,hdw->nhd", taken, value) + value_bias).flatten(1)
    return functional.linear(found, attention.out_proj.weight.float(), attention.out_proj.bias.float())


def _run_mlp(layers: torch.nn.Sequential, tokens: torch.Tensor) -> torch.Tensor:
    if not _is_onednn_usable(tokens, layers.get_parameter("c_fc.weight")):
        made: torch.Tensor = layers(tokens)
        return made
    for layer in layers:
        tokens = _apply_linear(tokens, layer.weight, layer.bias) if isinstance(layer, torch.nn.Linear) else layer(tokens)
    return tokens


def _apply_linear(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """[..., W] -> [..., V], by oneDNN: it takes the tensors that are in its own layout."""
    made: torch.Tensor = functional.linear(tokens.to_mkldnn(), weight, bias).to_dense()
    return made


def _is_onednn_usable(tokens: torch.Tensor, weight: torch.Tensor) -> bool:
    """Say whether oneDNN is there, and no gradient and no other precision is asked for."""
    there = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call] # torch leaves it untyped
    plain = tokens.device.type == "cpu" and tokens.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and not torch.is_grad_enabled() and there
