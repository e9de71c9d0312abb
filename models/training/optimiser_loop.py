"""The optimiser loop of all training: a fixed number of AdamW steps, each followed by a proximal step toward the start.

The pull is decoupled from Adam, as weight decay is in AdamW (Loshchilov and Hutter 2019): after each step the distance to the
start is divided by 1 + pull. This is the proximal step of L2-SP's penalty (Li et al. 2018), stable at any strength, and Adam's
division by the gradient's size does not cancel it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.encoder.precision import choose_dtype
from models.training.batches import Targets, draw_batches
from models.training.data_parallel import SINGLE_PROCESS, DataParallelProcess
from models.training.recipe import Recipe
from models.training.warm_head import WarmHead

Forward = Callable[[torch.Tensor], torch.Tensor]
"""Activations [b, ...] to unit vectors [b, D], with gradients."""
OnStep = Callable[[int, int], None]
"""Called after each step with its number, from 1, and the total. May block, or raise to stop: no state is left half changed."""

_REPORTED_STEPS = 10  # last steps whose mean loss is reported
_CHUNK = 256  # images per forward pass without gradients


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with one peak learning rate and one pull; a tensor pull gives each row of the parameters its own."""

    parameters: Sequence[torch.nn.Parameter]
    rate: float
    pull: float | torch.Tensor = 0.0
    weight_decay: float = 0.0


def optimise(
    forward: Forward,
    head: WarmHead,
    groups: Sequence[ParameterGroup],
    activations: torch.Tensor,
    targets: Targets,
    recipe: Recipe,
    *,
    steps: int,
    seed: int,
    on_step: OnStep | None = None,
    process: DataParallelProcess = SINGLE_PROCESS,
) -> float:
    """Train the groups in place on activations [n, V, ...] and return the mean loss of the last steps.

    A step uses one random view of the V of each image. Parameters outside the groups get no gradient. All random draws come from
    `seed`. In data-parallel training every process makes the same call, and all end with the same parameters and the same loss.
    """
    device = head.vectors.device
    groups = [group for group in groups if group.parameters and group.rate > 0.0]
    learner = process.wrap_module(_TrainableModel(forward, head, groups, recipe))
    optimizer = _ProximalAdamW(groups, recipe)
    drawn = draw_batches(len(activations), activations.shape[1], size=recipe.batch, steps=steps, seed=seed)
    losses: list[float] = []
    with _select_reproducible_attention(device):
        for step, (rows, views) in enumerate(drawn):
            own = process.batch_slice(len(rows))
            logits = learner(activations[rows[own], views[own]].to(device, torch.float32))
            loss = targets.loss(logits, rows[own].to(device), batch=len(rows)) * process.world_size
            optimizer.step(loss, rate_factor=recipe.rate_factor(step, steps))
            losses.append(float(loss.detach()))
            if on_step is not None:
                on_step(step + 1, steps)
    return process.all_reduce_mean(sum(losses[-_REPORTED_STEPS:]) / len(losses[-_REPORTED_STEPS:]))


def head_parameter_groups(head: WarmHead, targets: Targets, recipe: Recipe) -> list[ParameterGroup]:
    """Return the head's parameters as groups.

    The pull of a finding's vector toward its start is divided by the number of its positives. Biases encode frequency, not
    appearance: they have no pull.
    """
    rate, pull = recipe.head_rate, recipe.head_pull / targets.positives.clamp(min=1).to(head.vectors)
    return [ParameterGroup([head.vectors], rate, pull[:, None]), ParameterGroup([head.bias], rate)]


@torch.no_grad()
def encode_in_chunks(forward: Forward, activations: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the unit vectors [n, D] of activations [n, ...] without gradients, in chunks."""
    return torch.cat([forward(chunk.to(device, torch.float32)) for chunk in torch.split(activations, _CHUNK)])


class _TrainableModel(torch.nn.Module):
    """All trained parameters as one module: activations [b, ...] to logits [b, F]. Frozen parameters of `forward` are excluded."""

    def __init__(self, forward: Forward, head: WarmHead, groups: Sequence[ParameterGroup], recipe: Recipe) -> None:
        super().__init__()
        self._forward, self._recipe, self.head = forward, recipe, head
        own = {id(parameter) for parameter in head.parameters()}
        learning = [parameter.requires_grad_() for group in groups for parameter in group.parameters]
        self.unfrozen = torch.nn.ParameterList(parameter for parameter in learning if id(parameter) not in own)

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        with _make_autocast(activations.device, self._recipe):
            features = self._forward(activations)
        logits: torch.Tensor = self.head(features.float())
        return logits


class _ProximalAdamW:
    """AdamW over groups, with clipped gradients and the proximal step toward the start."""

    def __init__(self, groups: Sequence[ParameterGroup], recipe: Recipe) -> None:
        self._groups = groups
        self._starts = [[parameter.detach().clone() for parameter in group.parameters] for group in self._groups]
        self._parameters = [parameter for group in self._groups for parameter in group.parameters]
        self._max_norm = recipe.gradient_norm
        self._adam = torch.optim.AdamW(
            [{"params": list(group.parameters), "lr": group.rate, "weight_decay": group.weight_decay} for group in self._groups],
            fused=True,
        )

    def step(self, loss: torch.Tensor, *, rate_factor: float) -> None:
        """Take one step down the loss at this share of the peak learning rates."""
        self._adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        for group, settings in zip(self._groups, self._adam.param_groups, strict=True):
            settings["lr"] = group.rate * rate_factor
        self._adam.step()
        self._pull_to_start(rate_factor)

    @torch.no_grad()
    def _pull_to_start(self, rate_factor: float) -> None:
        for group, starts in zip(self._groups, self._starts, strict=True):
            for parameter, start in zip(group.parameters, starts, strict=True):
                parameter.sub_(start).div_(1.0 + group.pull * rate_factor).add_(start)


def _make_autocast(device: torch.device, recipe: Recipe) -> contextlib.AbstractContextManager[object]:
    kind = choose_dtype(recipe.precision, device)
    return torch.autocast(device.type, dtype=kind, enabled=kind != torch.float32)


def _select_reproducible_attention(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Select plain attention on CUDA: the backward pass of fused attention sums in any order. On a CPU all are deterministic."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cuda" else contextlib.nullcontext()
