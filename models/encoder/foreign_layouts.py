"""Checkpoints of published chest X-ray models in layouts of their own, converted to open_clip's: CheXzero and CLEAR.

The architecture is read from the shapes of the tensors. Conversion is exact up to rounding: the converted network gives the
features of the original, and its image tower is open_clip's, so that its last blocks can be unfrozen.

* `chexzero` (Tiu et al. 2022, github.com/rajpurkarlab/CheXzero, model.py): OpenAI's CLIP with QuickGELU. ViT-B/32 at 224 pixels
  where training began with OpenAI's weights, else ViT-B/16 at 320.
* `clear` (Han et al. 2026, github.com/peterhan91/CLEAR, zero_shot.py): the text tower of `chexzero`, and a DINOv2 image tower
  (Oquab et al. 2023) followed by a linear projection with a bias. The tower is below `visual.base` or `visual.backbone`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from models.encoder.architecture import Architecture
from models.encoder.sources import WeightsSource
from models.encoder.weights import StateDict, read_weights
from models.errors import CheckpointIncompatible
from models.images.preprocess import Preprocess

HEAD_WIDTH = 64
"""Width of an attention head in every published CLIP and DINOv2 of these layouts."""
CLEAR_INPUT = 448
"""Edge of CLEAR's input, pixels. DINOv2 interpolates its positional embedding (518 pixels) to it."""
GREY_MEAN, GREY_STD = 101.48761 / 255, 83.43944 / 255
"""Mean and standard deviation of the training films, by which both projects normalise; grey levels in 0..1."""

_DINO_TOWERS = ("visual.base.", "visual.backbone.")
_DINO_NAMES = {
    "norm1.": "ln_1.",
    "norm2.": "ln_2.",
    "ls1.gamma": "ls_1.gamma",
    "ls2.gamma": "ls_2.gamma",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.proj.": "attn.out_proj.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}
"""Start of a name within a DINOv2 block -> within a block of open_clip."""
_DINO_EPS = 1e-6
_DINO_OFFSET = 0.1  # added to the grid before DINOv2 divides it: its positions are sampled by this factor
_MAX_PROJECTION_ERROR = 1e-4


class WeightsLayout(StrEnum):
    """Layouts of `radclipd model import --layout`."""

    CHEXZERO = "chexzero"
    CLEAR = "clear"


def foreign_source(path: Path, layout: WeightsLayout) -> WeightsSource:
    """Read a checkpoint once and return it as a source with converted weights.

    CheckpointMissing, CheckpointCorrupt and CheckpointUnsafe as `read_weights`; CheckpointIncompatible for another layout.
    """
    state = {name: tensor.float() for name, tensor in read_weights(path).items()}
    try:
        config, converted = _CONVERSIONS[layout](state)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise CheckpointIncompatible(
            f"{path.name} is no checkpoint of the layout {layout.value}: {error!r}", hint=f"choose from: {', '.join(WeightsLayout)}"
        ) from error
    grey = ((GREY_MEAN,) * 3, (GREY_STD,) * 3)
    return WeightsSource(
        path=path,
        architecture=Architecture(f"{layout.value}-{_describe_tower(config)}", config),
        preprocess=Preprocess(size=config["vision_cfg"]["image_size"], mean=grey[0], std=grey[1]),
        origin={"kind": "file", "name": path.name, "layout": layout.value},
        state=converted,
    )


def _convert_chexzero(state: StateDict) -> tuple[dict[str, Any], StateDict]:
    patches, positions = state["visual.conv1.weight"], state["visual.positional_embedding"]
    grid = round((len(positions) - 1) ** 0.5)
    vision = {
        "image_size": grid * patches.shape[-1],
        "layers": _count_blocks(state, "visual.transformer.resblocks."),
        "width": patches.shape[0],
        "head_width": HEAD_WIDTH,
        "patch_size": patches.shape[-1],
    }
    return _build_config(state, vision), state


def _convert_clear(state: StateDict) -> tuple[dict[str, Any], StateDict]:
    prefix = next((each for each in _DINO_TOWERS if f"{each}cls_token" in state), "")
    if not prefix:
        raise ValueError("no DINOv2 tower below visual.base or visual.backbone")
    tower = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if "register_tokens" in tower:
        raise ValueError("its DINOv2 has register tokens, and open_clip's tower has none")
    patch = tower["patch_embed.proj.weight"].shape[-1]
    vision = {
        "image_size": CLEAR_INPUT // patch * patch,
        "layers": _count_blocks(tower, "blocks."),
        "width": tower["cls_token"].shape[-1],
        "head_width": HEAD_WIDTH,
        "patch_size": patch,
        "mlp_ratio": tower["blocks.0.mlp.fc1.weight"].shape[0] / tower["cls_token"].shape[-1],
        "ls_init_value": 1e-5,
        "no_ln_pre": True,
        "norm_kwargs": {"eps": _DINO_EPS},
        "quick_gelu": False,
    }
    text = {name: tensor for name, tensor in state.items() if not name.startswith("visual.")}
    projection = state["visual.projection.weight"], state["visual.projection.bias"]
    visual = _convert_dino_tower(tower, projection, CLEAR_INPUT // patch)
    return _build_config(state, vision), text | {f"visual.{name}": tensor for name, tensor in visual.items()}


def _convert_dino_tower(tower: StateDict, projection: tuple[torch.Tensor, torch.Tensor], grid: int) -> StateDict:
    """Return the tower under open_clip's names.

    open_clip's patch embedding and projection have no bias: the first is added to the positions of the patches, the second moves
    into the bias of the last layer norm.
    """
    weight, bias = projection
    positions = _interpolate_positions(tower["pos_embed"][0], grid)
    positions[1:] += tower["patch_embed.proj.bias"]
    converted = {
        "class_embedding": tower["cls_token"].flatten(),
        "positional_embedding": positions,
        "conv1.weight": tower["patch_embed.proj.weight"],
        "ln_post.weight": tower["norm.weight"],
        "ln_post.bias": tower["norm.bias"] + _solve_bias(weight, bias),
        "proj": weight.T,
    }
    for name, tensor in tower.items():
        if name.startswith("blocks."):
            _, index, part = name.split(".", 2)
            converted[f"transformer.resblocks.{index}.{_rename_part(part)}"] = tensor
    return converted


def _interpolate_positions(positions: torch.Tensor, grid: int) -> torch.Tensor:
    """Return the positions [1 + grid^2, W] as DINOv2 interpolates its own [1 + N, W] for another input size."""
    own = round((len(positions) - 1) ** 0.5)
    if own == grid:
        return positions.clone()
    square = positions[1:].reshape(1, own, own, -1).permute(0, 3, 1, 2)
    factor = (grid + _DINO_OFFSET) / own
    resized = functional.interpolate(square, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([positions[:1], resized.permute(0, 2, 3, 1).reshape(grid * grid, -1)])


def _solve_bias(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return b [W] with weight @ b = bias. ValueError where there is none."""
    exact = weight.double()
    solved: torch.Tensor = torch.linalg.lstsq(exact, bias.double()[:, None], driver="gelsd").solution[:, 0].float()
    error = (exact @ solved.double() - bias).norm()
    if float(error) > _MAX_PROJECTION_ERROR * max(float(bias.norm()), 1e-12):
        raise ValueError("the bias of its projection cannot be expressed before the projection")
    return solved


def _rename_part(part: str) -> str:
    for name, renamed in _DINO_NAMES.items():
        if part.startswith(name):
            return renamed + part.removeprefix(name)
    raise ValueError(f"an unknown part of a block: {part}")


def _build_config(state: StateDict, vision: dict[str, Any]) -> dict[str, Any]:
    """Return open_clip's configuration with the text tower of these weights and QuickGELU in it."""
    context, width = state["positional_embedding"].shape
    text = {
        "context_length": context,
        "vocab_size": len(state["token_embedding.weight"]),
        "width": width,
        "heads": width // HEAD_WIDTH,
        "layers": _count_blocks(state, "transformer.resblocks."),
    }
    return {"embed_dim": state["text_projection"].shape[1], "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def _count_blocks(state: StateDict, prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".", 1)[0]) for name in state if name.startswith(prefix))


def _describe_tower(config: Mapping[str, Any]) -> str:
    vision = config["vision_cfg"]
    return f"vit-{vision['width']}x{vision['layers']}-{vision['patch_size']}-{vision['image_size']}"


_CONVERSIONS: Mapping[WeightsLayout, Callable[[StateDict], tuple[dict[str, Any], StateDict]]] = {
    WeightsLayout.CHEXZERO: _convert_chexzero,
    WeightsLayout.CLEAR: _convert_clear,
}
