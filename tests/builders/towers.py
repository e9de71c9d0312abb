"""Small image towers in every configuration of open_clip's VisionTransformer."""

from __future__ import annotations

import copy
from typing import Any

import open_clip

from models.encoder.architecture import Architecture
from models.encoder.encoder import Encoder
from tests.builders import tiny


def config(layers: int = 3, **vision: Any) -> dict[str, Any]:
    made = tiny.config(layers=layers)
    made["vision_cfg"] |= {"patch_size": 16, **vision}
    return made


def shrunk(name: str) -> dict[str, Any]:
    """Return an open_clip configuration with fewer and narrower blocks."""
    made: dict[str, Any] = copy.deepcopy(open_clip.get_model_config(name))
    made["embed_dim"] = 32
    made["vision_cfg"] |= {"layers": 3, "width": 64, "head_width": 32, "image_size": tiny.SIZE}
    made["text_cfg"] |= {"width": 32, "heads": 1, "layers": 1}
    return made


TOWERS: dict[str, dict[str, Any]] = {
    "plain": config(),
    "one block": config(layers=1),
    "quickgelu": {**config(), "quick_gelu": True},
    "ViT-B-32": shrunk("ViT-B-32"),
    "ViT-B-32-quickgelu": shrunk("ViT-B-32-quickgelu"),
    "ViT-H-14": shrunk("ViT-H-14") | {"embed_dim": 48},
    "custom text": {**config(), "custom_text": True},
    "average": config(pool_type="avg"),
    "average, norm after": {**config(pool_type="avg", final_ln_after_pool=True), "custom_text": True},
    "token, norm after": config(final_ln_after_pool=True),
    "no ln_pre, fixed positions": config(no_ln_pre=True, pos_embed_type="sin_cos_2d"),
    "layer scale": config(ls_init_value=0.3),
    "patch dropout": config(patch_dropout=0.5),
    "custom blocks": config(qk_norm=True, scale_heads=True, scale_attn_inner=True, scale_attn=True, scale_fc=True),
}


def encoder(kind: str, *, seed: int = 0) -> Encoder:
    return Encoder.untrained(Architecture(kind, TOWERS[kind]), seed=seed)
