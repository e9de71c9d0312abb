"""Networks of published chest X-ray models, narrow and shallow, by libraries other than the converter."""

from __future__ import annotations

from typing import Any

import timm.models.vision_transformer
import torch

import models.encoder.torchvision_ops  # noqa: F401 # before timm imports torchvision
from models.encoder.architecture import Architecture
from models.encoder.encoder import Encoder


def openai_clip(*, patch: int, grid: int, embed: int) -> Encoder:
    """OpenAI's CLIP with QuickGELU: CheXzero's checkpoints hold its state dict."""
    vision = {"image_size": patch * grid, "layers": 2, "width": 64, "head_width": 64, "patch_size": patch}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 3}
    config = {"embed_dim": embed, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}
    return Encoder.untrained(Architecture("original", config), seed=1)


def text_tower(*, embed: int) -> dict[str, torch.Tensor]:
    """The tensors of a CLIP beside its image tower."""
    state: dict[str, torch.Tensor] = openai_clip(patch=32, grid=2, embed=embed).network.state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith("visual.")}


def dinov2_tower(*, size: int) -> Any:
    """timm's network under the tensor names of DINOv2's own code, every tensor random."""
    tower = timm.models.vision_transformer.VisionTransformer(
        img_size=size, patch_size=14, embed_dim=64, depth=2, num_heads=1, init_values=1.0, num_classes=0
    )
    generator = torch.Generator().manual_seed(5)
    for parameter in tower.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return tower.eval()
