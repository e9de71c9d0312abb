"""The network of some weights: open_clip's whole configuration, with an explicit activation.

OpenAI's weights were trained with QuickGELU (x * sigmoid(1.702 x)), nearly all later ones with GELU, and a weights file does not
state the activation. The wrong one loads without an error and scores worse. So the activation is part of an Architecture, and a
card holds the whole configuration, since a later open_clip may change the meaning of a name. `vision_cfg.quick_gelu` is a field of
radclipd's own: the activation of an image tower that differs from that of the text tower.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import open_clip
import torch
from torch.overrides import TorchFunctionMode

from models.errors import UnknownArchitecture

VOCABULARY = 49408
"""Tokens of CLIP's byte-pair encoding, the tokenizer that ships with open_clip."""


@dataclass(frozen=True)
class Architecture:
    """A CLIP network without its weights. `config` is open_clip's model_cfg; `name` is for display."""

    name: str
    config: Mapping[str, Any]

    @classmethod
    def from_name(cls, name: str) -> Self:
        """Return open_clip's architecture of that name. UnknownArchitecture with the nearest names."""
        config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
        if config is None:
            near = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.5)
            raise UnknownArchitecture(
                f"open_clip knows no architecture {name!r}",
                hint=f"nearest: {', '.join(near)}" if near else "give open_clip's name, as ViT-B-32, or a JSON configuration file",
            )
        return cls(name, config)._require_servable()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a model_cfg, or an open_clip_config.json that holds one. UnknownArchitecture for other files."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UnknownArchitecture(f"{path} is no architecture file: {error}") from error
        if not isinstance(content, dict):
            raise UnknownArchitecture(f"{path} is no architecture file: it holds no JSON object")
        return cls(path.stem, content.get("model_cfg", content))._require_servable()

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Self:
        """Read an architecture from its card. UnknownArchitecture where this release cannot build it."""
        try:
            made = cls(card["name"], card["config"])
            agrees = made.quickgelu == card["quickgelu"]
        except (KeyError, TypeError, AttributeError) as error:
            raise UnknownArchitecture(
                f"the card's architecture cannot be read: {error!r}", hint="import the weights again"
            ) from error
        if not agrees:
            raise UnknownArchitecture("the card's architecture contradicts itself on QuickGELU", hint="import the weights again")
        return made._require_servable()

    @property
    def card(self) -> dict[str, Any]:
        """Return name, activation and configuration, JSON-able."""
        return {"name": self.name, "quickgelu": self.quickgelu, "config": copy.deepcopy(dict(self.config))}

    @property
    def quickgelu(self) -> bool:
        """True where the network's activation is QuickGELU; timm towers have their own."""
        return bool(self.config.get("quick_gelu", False))

    @property
    def image_size(self) -> int:
        """Edge of the square input, pixels."""
        size = self.config["vision_cfg"].get("image_size", 224)
        return int(size if isinstance(size, int) else size[0])

    @property
    def context_length(self) -> int:
        """Number of tokens of a text."""
        return int(self.config["text_cfg"].get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH))

    def with_quickgelu(self, quickgelu: bool | None) -> Self:
        """Return the architecture with this activation; None keeps the present one."""
        if quickgelu is None:
            return self
        return type(self)(self.name, {**self.config, "quick_gelu": quickgelu})

    def build(self, *, seed: int | None = 0) -> torch.nn.Module:
        """Return the network in evaluation mode on the CPU, float32, its weights drawn from `seed`; None: uninitialised.

        The global random state stays unchanged. UnknownArchitecture where open_clip refuses the configuration.
        """
        config = copy.deepcopy(dict(self.config))
        custom_text = config.pop("custom_text", False)
        config["vision_cfg"].pop("timm_model_pretrained", None)  # would download
        vision_quickgelu = config["vision_cfg"].pop("quick_gelu", None)
        network = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
        with torch.random.fork_rng(devices=[]), _SkipInitialisation() if seed is None else nullcontext():
            torch.default_generator.manual_seed(seed or 0)
            try:
                built: torch.nn.Module = network(**config)
            except (TypeError, ValueError, RuntimeError, KeyError, ZeroDivisionError, AssertionError) as error:
                raise UnknownArchitecture(f"open_clip cannot build {self.name}: {error}") from error
        if vision_quickgelu is not None:
            _replace_activations(built, open_clip.model.QuickGELU if vision_quickgelu else torch.nn.GELU)
        return built.eval().requires_grad_(False)

    def _require_servable(self) -> Self:
        """Return self. UnknownArchitecture with the reason where radclipd cannot serve it."""
        for part in ("embed_dim", "vision_cfg", "text_cfg"):
            if part not in self.config:
                raise UnknownArchitecture(f"the architecture {self.name} lacks {part}", hint="give an open_clip configuration")
        if reason := _find_obstacle(self.config):
            raise UnknownArchitecture(
                f"{self.name} cannot be served: {reason}", hint="choose a CLIP with its own text tower, as ViT-B-32 or ViT-L-14"
            )
        return self


class _SkipInitialisation(TorchFunctionMode):
    """Skips random initialisation, for weights that are loaded afterwards. Sine positions, which are computed, stay."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def _replace_activations(network: torch.nn.Module, activation: type[torch.nn.Module]) -> None:
    """Replace the activations of the image tower's blocks."""
    for block in network.get_submodule("visual.transformer.resblocks").children():
        block.get_submodule("mlp").register_module("gelu", activation())


def _find_obstacle(config: Mapping[str, Any]) -> str:
    """Return why radclipd cannot use a network of this configuration, or ''."""
    text, size = config["text_cfg"], config["vision_cfg"].get("image_size", 224)
    if "multimodal_cfg" in config:
        return "it is a captioning network (CoCa)"
    if text.get("hf_model_name") or text.get("hf_tokenizer_name"):
        return "its text side needs the Hugging Face transformers library and its files"
    if int(text.get("vocab_size", VOCABULARY)) < VOCABULARY:
        return f"its vocabulary is smaller than CLIP's {VOCABULARY} tokens"
    if not isinstance(size, int) and len(set(size)) != 1:
        return "its input is not square"
    return ""
