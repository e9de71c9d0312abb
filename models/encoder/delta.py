"""Trained parameters as a delta: a network that shares all other parameters with its base.

A version of a partially unfrozen encoder is its base plus a few tensors. Frozen parameters share the base's memory, so they cannot
drift.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch

from models.encoder.encoder import Encoder
from models.errors import CheckpointIncompatible

Delta = dict[str, torch.Tensor]
"""Parameter name of the network -> trained value, on the CPU."""


def copy_with_own_parameters(encoder: Encoder, names: Iterable[str]) -> Encoder:
    """Return an encoder with copies of the parameters `names`; it shares all others.

    CheckpointIncompatible for a name that the network lacks.
    """
    own, parameters = set(names), dict(encoder.network.named_parameters())
    if unknown := sorted(own - parameters.keys()):
        raise CheckpointIncompatible(
            f"the network has no parameter {unknown[0]}", hint="use the base that these weights were trained on"
        )
    shared = {id(parameter): parameter for name, parameter in parameters.items() if name not in own}
    twin = copy.copy(encoder)  # the tokenizer is shared too
    twin.network = copy.deepcopy(encoder.network, memo=shared)
    return twin


def copy_parameters(encoder: Encoder, names: Iterable[str]) -> Delta:
    """Return copies of these parameters on the CPU."""
    return {name: encoder.network.get_parameter(name).detach().to("cpu", copy=True) for name in names}


@torch.no_grad()
def apply_delta(encoder: Encoder, delta: Mapping[str, torch.Tensor]) -> Encoder:
    """Return a copy of the encoder with a delta applied, on the encoder's device.

    CheckpointIncompatible where a name or a shape does not fit the network, or a value is not finite.
    """
    twin = copy_with_own_parameters(encoder, delta)
    for name, tensor in delta.items():
        parameter = twin.network.get_parameter(name)
        if parameter.shape != tensor.shape or not bool(torch.isfinite(tensor).all()):
            raise CheckpointIncompatible(
                f"{name} has the shape {tuple(tensor.shape)} or values that do not fit this network",
                hint="use the base that these weights were trained on",
            )
        parameter.copy_(tensor)
    return twin


def average_weights(base: Mapping[str, torch.Tensor], trained: Mapping[str, torch.Tensor], *, alpha: float) -> Delta:
    """Return (1 - alpha) base + alpha trained, name by name: WiSE-FT (Wortsman et al. 2022)."""
    return {name: torch.lerp(base[name], tensor, alpha) for name, tensor in trained.items()}
