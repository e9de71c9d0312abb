"""Transformer blocks of open_clip's image tower, computed faster with the same result.

`run_block_for_class_token`: after the last block only the class token is read, so it is computed for that token alone, without keys
and values. `run_block`: without gradients a CPU multiplies float32 by oneDNN instead of MKL, torch's default, which leaves half of
an AMD processor's vector width unused.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch.nn import functional


def is_standard_block(block: Any) -> bool:
    """Return whether a block is open_clip's standard one, batch first, with biases, as `run_block_for_class_token` requires."""
    return type(block) is ResidualAttentionBlock and bool(block.attn.batch_first) and block.attn.in_proj_bias is not None


def run_block(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the output of a block for tokens [N, L, W] ([L, N, W] where it runs sequence first)."""
    if not (is_standard_block(block) and _is_onednn_usable(tokens, block.attn.in_proj_weight)):
        whole: torch.Tensor = block(tokens)
        return whole
    tokens = tokens + block.ls_1(_run_attention(block.attn, block.ln_1(tokens)))
    output: torch.Tensor = tokens + block.ls_2(_run_mlp(block.mlp, block.ln_2(tokens)))
    return output


def run_block_for_class_token(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the class token [N, 1, W] of a standard block's output for tokens [N, L, W]. Gradients flow."""
    normed, own = block.ln_1(tokens), tokens[:, 0]
    with torch.autocast(tokens.device.type, enabled=False):
        own = own + block.ls_1(_attend_class_token(block.attn, normed.float()).to(normed.dtype))
    output: torch.Tensor = own + block.ls_2(_run_mlp(block.mlp, block.ln_2(own)))
    return output[:, None]


def _run_attention(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the self-attention of tokens [N, L, W]: [N, L, W]."""
    count, length, width = tokens.shape
    projected = _apply_linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = projected.view(count, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)  # [N, H, L, D] each
    attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(count, length, width)
    return _apply_linear(attended, attention.out_proj.weight, attention.out_proj.bias)


def _attend_class_token(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the attention of the class token, the first of tokens [N, L, W], over all of them: [N, W].

    q . (K x) = (K'q) . x, and the sum of a_i (V x_i) is V times that of a_i x_i: for one query, two products with the query replace
    keys and values of all tokens. The bias of the keys adds a constant, which the softmax removes; that of the values adds once,
    since the a_i sum to 1. These few products are in float32 at any precision.
    """
    query, key, value = attention.in_proj_weight.float().unflatten(0, (3, attention.num_heads, -1))  # [H, D, W] each
    query_bias, _, value_bias = attention.in_proj_bias.float().unflatten(0, (3, attention.num_heads, -1))
    heads = torch.einsum("nw,hdw->nhd", tokens[:, 0], query) + query_bias
    logits = torch.einsum("nhd,hdw->nhw", heads * attention.head_dim**-0.5, key) @ tokens.transpose(1, 2)
    attended = logits.softmax(dim=-1) @ tokens
    values = (torch.einsum("nhw,hdw->nhd", attended, value) + value_bias).flatten(1)
    return functional.linear(values, attention.out_proj.weight.float(), attention.out_proj.bias.float())


def _run_mlp(layers: torch.nn.Sequential, tokens: torch.Tensor) -> torch.Tensor:
    if not _is_onednn_usable(tokens, layers.get_parameter("c_fc.weight")):
        output: torch.Tensor = layers(tokens)
        return output
    for layer in layers:
        tokens = _apply_linear(tokens, layer.weight, layer.bias) if isinstance(layer, torch.nn.Linear) else layer(tokens)
    return tokens


def _apply_linear(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Map [..., W] to [..., V] by oneDNN, which computes on tensors in its own layout."""
    output: torch.Tensor = functional.linear(tokens.to_mkldnn(), weight, bias).to_dense()
    return output


def _is_onednn_usable(tokens: torch.Tensor, weight: torch.Tensor) -> bool:
    """Return whether oneDNN is available, without gradients, in float32 on the CPU."""
    there = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call] # torch leaves it untyped
    plain = tokens.device.type == "cpu" and tokens.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and not torch.is_grad_enabled() and there
