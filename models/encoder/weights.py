"""Foreign weights files: safetensors or a torch checkpoint, read without ever running code from them.

The first bytes determine the kind, not the name. A torch checkpoint is a pickle; torch's weights_only reader accepts tensors and
plain containers and refuses everything else.
"""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import safetensors
import safetensors.torch
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict

from models.errors import CheckpointCorrupt, CheckpointIncompatible, CheckpointMissing, CheckpointUnsafe

StateDict = dict[str, torch.Tensor]
"""Parameter name -> tensor, on the CPU."""

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel and torch.compile prepend these
_NOT_WEIGHTS = frozenset({"input_resolution", "context_length", "vocab_size"})  # tensors in OpenAI's archives
_NAMES_SHOWN = 3


def read_weights(path: Path) -> StateDict:
    """Read a weights file.

    CheckpointMissing; CheckpointCorrupt for truncated or foreign bytes; CheckpointUnsafe for a pickle with a payload.
    """
    try:
        with path.open("rb") as stream:
            start, size = stream.read(9), path.stat().st_size
    except OSError as error:
        raise CheckpointMissing(f"cannot read {path}: {error.strerror}") from error
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:  # eight bytes of length, then a JSON header
        return _read_safetensors(path)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":  # a zip archive, or a bare pickle of torch before 1.6
        return _extract_state_dict(_read_torch(path), path)
    raise CheckpointCorrupt(
        f"{path} is neither safetensors nor a torch checkpoint", hint="check that the download is complete and no page of HTML"
    )


def assign_weights(network: torch.nn.Module, state: StateDict) -> None:
    """Assign exactly these tensors to the network, without a copy. CheckpointIncompatible names the tensors that do not fit.

    Layouts that open_clip can convert (OpenAI's, big_vision's, MobileCLIP's) are converted. Positional embeddings are never
    interpolated: another input size is another network.
    """
    state = _convert_layout(network, {name: tensor for name, tensor in state.items() if name not in _NOT_WEIGHTS})
    wanted = network.state_dict()
    missing, surplus = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    misshapen = sorted(name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape)
    if missing or surplus or misshapen:
        raise CheckpointIncompatible(_describe_mismatch(missing, surplus, misshapen), hint=_suggest_architectures(state))
    if broken := [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]:
        raise CheckpointIncompatible(
            f"weights are not finite: {_abbreviate_names(broken)}", hint="the training that made them diverged"
        )
    whole = {name: tensor.to(wanted[name].dtype) for name, tensor in state.items()}
    network.load_state_dict(whole, strict=True, assign=True)  # no copy: the tensors may be pages of the file


def _read_safetensors(path: Path) -> StateDict:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointCorrupt(f"{path} is no whole safetensors file: {error}", hint="download or copy it again") from error


def _read_torch(path: Path) -> Any:
    try:
        with path.open("rb") as stream, warnings.catch_warnings():  # an open file, since torch guesses the kind from a path's name
            warnings.simplefilter("ignore")  # warnings about odd pickles and archives, which fail right after
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointUnsafe(
            f"{path} holds more than tensors; reading it would run code from it: {_take_first_line(error)}",
            hint="radclipd never does that: ask its author for a safetensors file, or a checkpoint of the bare state dict",
        ) from error
    except Exception as error:  # a parser of foreign bytes raises anything: IndexError, struct.error, ...
        if "TorchScript" in str(error):
            raise CheckpointUnsafe(
                f"{path} is a TorchScript archive, a program and not only weights",
                hint="for OpenAI's CLIP: radclipd model fetch ViT-B-32-quickgelu/openai",
            ) from error
        raise CheckpointCorrupt(
            f"{path} is no whole torch checkpoint: {_take_first_line(error)}", hint="download or copy it again"
        ) from error


def _extract_state_dict(content: Any, path: Path) -> StateDict:
    """Extract the state dict of a training checkpoint and remove wrapper prefixes from its names."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointCorrupt(f"{path} holds no state dict of tensors", hint="save the network's state_dict()")
    state = {str(name): tensor for name, tensor in content.items()}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _convert_layout(network: torch.nn.Module, state: StateDict) -> StateDict:
    """Return the weights under open_clip's present names; unchanged for an unknown layout."""
    try:
        state = convert_state_dict(network, state)
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        raise CheckpointIncompatible(f"the weights have a known layout and yet do not convert: {error!r}") from error
    if "positional_embedding" in state and not hasattr(network, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    scale = network.get_parameter("logit_scale")
    if "logit_scale" in state and state["logit_scale"].numel() == scale.numel():
        state = {
            **state,
            "logit_scale": state["logit_scale"].reshape(scale.shape),
        }  # some files have a scalar, some a vector of one element
    return state


def _describe_mismatch(missing: list[str], surplus: list[str], misshapen: list[str]) -> str:
    parts = [("missing", missing), ("unknown", surplus), ("of another shape", misshapen)]
    return "the weights are another network's: " + "; ".join(
        f"{len(names)} {word} ({_abbreviate_names(names)})" for word, names in parts if names
    )


def _abbreviate_names(names: list[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")


def _take_first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _suggest_architectures(state: StateDict) -> str:
    """Return a hint with the open_clip architectures whose image tower has these shapes."""
    patch, grid = state.get("visual.conv1.weight"), state.get("visual.positional_embedding")
    if patch is None or patch.ndim != 4 or grid is None:
        return "name the architecture that these weights were trained with"
    blocks = Counter(name.split(".")[3] for name in state if name.startswith("visual.transformer.resblocks."))
    edge = round((grid.shape[0] - 1) ** 0.5) * patch.shape[-1]
    shape = (patch.shape[0], patch.shape[-1], len(blocks), edge)
    towers = {name: open_clip.get_model_config(name)["vision_cfg"] for name in open_clip.list_models()}
    names = [name for name, vision in towers.items() if "timm_model_name" not in vision and _read_tower_shape(vision) == shape]
    return f"they look like {' or '.join(names[:_NAMES_SHOWN])}" if names else "name the architecture they were trained with"


def _read_tower_shape(vision: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return width, patch size, number of blocks, input edge."""
    return vision.get("width", 768), vision.get("patch_size", 16), vision.get("layers", 12), vision.get("image_size", 224)
