"""Partial unfreezing: the last k blocks, ln_post, proj and the head learn from a few labelled films.

Always from the base weights. What is below the k blocks is frozen, so a film enters as its activations there (`prefix`), of
several augmented copies made once: each step runs the last blocks alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.encoder.activations import compute_activations, encode_activations
from models.encoder.delta import Delta, average_weights, copy_parameters, copy_with_own_parameters
from models.encoder.encoder import Encoder
from models.encoder.partition import PROJ, EncoderPart, parameter_names, partition, vision_transformer
from models.encoder.precision import choose_dtype
from models.images.augment import augment_inputs
from models.images.preprocess import Preprocess
from models.training.batches import Targets, learnable_rows
from models.training.data_parallel import SINGLE_PROCESS, DataParallelProcess
from models.training.optimiser_loop import Forward, OnStep, ParameterGroup, encode_in_chunks, head_parameter_groups, optimise
from models.training.recipe import Recipe
from models.training.warm_head import WarmHead, interpolate

ACTIVATION_DTYPE = torch.float16
"""Kind of number that activations are kept in: half the memory, and less error than any augmentation makes."""
_CHUNK = 64  # films at a time through the frozen blocks


@dataclass(frozen=True)
class TrainedWeights:
    """Trained tensors by name, of an encoder whose other parameters are the base's, and the head that goes with them."""

    delta: Delta
    head: LinearHead


@dataclass(frozen=True)
class FitReport:
    """What was trained, on what, how long. `findings`: column numbers that were learnt; the others have no meaning here."""

    parts: tuple[EncoderPart, ...]
    films: int
    findings: tuple[int, ...]
    steps: int
    seed: int
    precision: str  # of the encoder's products
    warm_loss: float  # of all films' own view, before the encoder moves
    loss: float  # mean of the last steps' batches

    @property
    def card(self) -> dict[str, Any]:
        """Return it JSON-able, the parts with names and numbers of parameters."""
        parts = [{"name": part.name, "parameters": part.parameter_count} for part in self.parts]
        return {
            "trained": parts,
            "parameters": sum(part.parameter_count for part in self.parts),
            "films": self.films,
            "findings": list(self.findings),
            "steps": self.steps,
            "seed": self.seed,
            "precision": self.precision,
            "warm_loss": self.warm_loss,
            "loss": self.loss,
        }


@dataclass(frozen=True)
class FineTuningResult:
    """The outcome of a fit: what was learnt, and its average with the start (WiSE-FT)."""

    last: TrainedWeights
    averaged: TrainedWeights
    report: FitReport


def view_activations(
    encoder: Encoder,
    preprocess: Preprocess,
    model_inputs: torch.Tensor,
    recipe: Recipe,
    *,
    k: int,
    seed: int,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """Return float16 [n, V, L, W] on the CPU: what enters the last k blocks for V views of each grey square [n, 1, S, S].

    The first view is the film itself, the others augmented copies. Same seed, same views. `on_step` is called after each
    chunk of films. CannotPartition.
    """
    generator, views = torch.Generator().manual_seed(seed), recipe.augmentation.views
    chunks = [(view, chunk) for view in range(views) for chunk in torch.split(model_inputs, _CHUNK)]
    entering = []
    for number, (view, chunk) in enumerate(chunks):
        films = chunk.to(encoder.device, torch.float32)
        changed = augment_inputs(films, recipe.augmentation, generator) if view else films
        entering.append(compute_activations(encoder, preprocess.normalise(changed), k=k).to("cpu", ACTIVATION_DTYPE))
        if on_step is not None:
            on_step(number + 1, len(chunks))
    whole = torch.cat(entering)
    return whole.reshape(views, len(model_inputs), *whole.shape[1:]).transpose(0, 1)


def fine_tune(
    encoder: Encoder,
    activations: torch.Tensor,
    labels: npt.NDArray[np.int8],
    head: LinearHead,
    recipe: Recipe,
    *,
    steps: int,
    seed: int,
    on_step: OnStep | None = None,
    process: DataParallelProcess = SINGLE_PROCESS,
) -> FineTuningResult:
    """Train a copy of the last `recipe.k` blocks, ln_post, proj and `head`; the encoder stays as it is.

    `activations`: [n, V, L, W], V views of each film, as `view_activations` or the prefix store give; `labels`: int8 [n, F].
    The same arguments give the same weights on the same device and number of threads. With a share of a training, every process
    of it is given all of the films, and of a batch no fewer than there are processes. CannotPartition; NothingToLearn.
    """
    names = parameter_names(parts := partition(encoder.network).last_parts(recipe.k))
    rows = learnable_rows(labels)
    targets = Targets.of(labels[rows], smoothing=recipe.label_smoothing).to(encoder.device)
    used = activations[torch.from_numpy(rows)]
    twin = copy_with_own_parameters(encoder, names)

    def forward(entering: torch.Tensor) -> torch.Tensor:
        return encode_activations(twin, entering, k=recipe.k).features

    learner, warm_loss = make_warm_head(forward, head, used, targets, encoder.device)
    start = learner.to_linear_head()
    groups = [*encoder_parameter_groups(twin, parts, recipe), *head_parameter_groups(learner, targets, recipe)]
    loss = optimise(forward, learner, groups, used, targets, recipe, steps=steps, seed=seed, on_step=on_step, process=process)
    last = TrainedWeights(copy_parameters(twin, names), learner.to_linear_head())
    middle = TrainedWeights(
        average_weights(copy_parameters(encoder, names), last.delta, alpha=recipe.average),
        interpolate(start, last.head, recipe.average),
    )
    learnt = tuple(np.flatnonzero(targets.learnable.cpu().numpy()).tolist())
    precision = str(choose_dtype(recipe.precision, encoder.device)).removeprefix("torch.")
    return FineTuningResult(last, middle, FitReport(parts, len(rows), learnt, steps, seed, precision, warm_loss, loss))


def encoder_parameter_groups(encoder: Encoder, parts: Sequence[EncoderPart], recipe: Recipe) -> list[ParameterGroup]:
    """Return the parameters of these parts as groups: matrices of blocks, their vectors, and the projection."""
    sorts: dict[str, list[torch.nn.Parameter]] = {"matrix": [], "vector": [], PROJ: []}
    for part in parts:
        for name in part.parameters:
            parameter = encoder.network.get_parameter(name)
            sorts[PROJ if part.name == PROJ else "matrix" if parameter.ndim > 1 else "vector"].append(parameter)
    width = vision_transformer(encoder.network).proj.shape[0]
    block_rate, proj_rate = (recipe.encoder_rate(rate, width) for rate in (recipe.block_rate, recipe.proj_rate))
    return [
        ParameterGroup(sorts["matrix"], block_rate, recipe.pull, recipe.weight_decay),
        ParameterGroup(sorts["vector"], block_rate, recipe.pull),
        ParameterGroup(sorts[PROJ], proj_rate, recipe.pull, recipe.weight_decay),
    ]


def make_warm_head(
    forward: Forward, head: LinearHead, activations: torch.Tensor, targets: Targets, device: torch.device
) -> tuple[WarmHead, float]:
    """Return a head fitted to what the encoder gives before it moves, and its loss on the films' own views."""
    features = encode_in_chunks(forward, activations[:, 0], device)
    learner = WarmHead(head.to(device), features, targets)
    with torch.no_grad():
        loss = targets.loss(learner(features), torch.arange(len(features), device=device))
    return learner, float(loss)
