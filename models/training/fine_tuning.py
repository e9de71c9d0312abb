"""Partial unfreezing: fine-tuning of the last k blocks, ln_post, proj and the head on a few labelled images.

Training always starts from the base weights. The blocks before the last k are frozen, so their activations are computed once for
several augmented views of each image, and each step runs the last blocks alone.
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
"""Data type of stored activations: half the memory of float32, with less error than any augmentation makes."""
_CHUNK = 64  # images per forward pass through the frozen blocks


@dataclass(frozen=True)
class TrainedWeights:
    """Trained tensors by name, all other parameters being the base's, and the head trained with them."""

    delta: Delta
    head: LinearHead


@dataclass(frozen=True)
class FitReport:
    """Trained parts, training data and steps of a fit. `findings`: learnt columns; scores of other columns have no meaning."""

    parts: tuple[EncoderPart, ...]
    films: int
    findings: tuple[int, ...]
    steps: int
    seed: int
    precision: str  # of the encoder's products
    warm_loss: float  # of all images' unaugmented views, before the encoder changes
    loss: float  # mean over the batches of the last steps

    @property
    def card(self) -> dict[str, Any]:
        """Return the report as JSON values, the parts with names and numbers of parameters."""
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
    """The outcome of a fit: the weights after the last step, and their average with the start (WiSE-FT)."""

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
    """Return float16 [n, V, L, W] on the CPU: activations entering the last k blocks for V views of model inputs [n, 1, S, S].

    The first view is the unchanged input, the others are augmented. Same seed, same views. `on_step` is called after each chunk of
    images. Raise CannotPartition.
    """
    generator, views = torch.Generator().manual_seed(seed), recipe.augmentation.views
    chunks = [(view, chunk) for view in range(views) for chunk in torch.split(model_inputs, _CHUNK)]
    activations = []
    for number, (view, chunk) in enumerate(chunks):
        inputs = chunk.to(encoder.device, torch.float32)
        viewed = augment_inputs(inputs, recipe.augmentation, generator) if view else inputs
        activations.append(compute_activations(encoder, preprocess.normalise(viewed), k=k).to("cpu", ACTIVATION_DTYPE))
        if on_step is not None:
            on_step(number + 1, len(chunks))
    whole = torch.cat(activations)
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
    weights: npt.NDArray[np.float64] | None = None,
    on_step: OnStep | None = None,
    process: DataParallelProcess = SINGLE_PROCESS,
) -> FineTuningResult:
    """Train a copy of the last `recipe.k` blocks, ln_post, proj and `head`; `encoder` stays unchanged.

    `activations`: [n, V, L, W], V views of each image, from `view_activations` or the activation cache; `labels`: int8 [n, F];
    `weights`: see `Targets.of`.
    The same arguments give the same weights on the same device and number of threads. In data-parallel training every process is
    given all images, and a batch holds at least one image per process. Raise CannotPartition and NothingToLearn.
    """
    names = parameter_names(parts := partition(encoder.network).last_parts(recipe.k))
    rows = learnable_rows(labels)
    of_rows = None if weights is None else weights[rows]
    targets = Targets.of(labels[rows], smoothing=recipe.label_smoothing, weights=of_rows).to(encoder.device)
    used = activations[torch.from_numpy(rows)]
    twin = copy_with_own_parameters(encoder, names)

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        return encode_activations(twin, inputs, k=recipe.k).features

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
    """Return the parameters of these parts as groups: matrices of the blocks, vectors of the blocks, and the projection."""
    by_kind: dict[str, list[torch.nn.Parameter]] = {"matrix": [], "vector": [], PROJ: []}
    for part in parts:
        for name in part.parameters:
            parameter = encoder.network.get_parameter(name)
            by_kind[PROJ if part.name == PROJ else "matrix" if parameter.ndim > 1 else "vector"].append(parameter)
    width = vision_transformer(encoder.network).proj.shape[0]
    block_rate, proj_rate = (recipe.encoder_rate(rate, width) for rate in (recipe.block_rate, recipe.proj_rate))
    return [
        ParameterGroup(by_kind["matrix"], block_rate, recipe.pull, recipe.weight_decay),
        ParameterGroup(by_kind["vector"], block_rate, recipe.pull),
        ParameterGroup(by_kind[PROJ], proj_rate, recipe.pull, recipe.weight_decay),
    ]


def make_warm_head(
    forward: Forward, head: LinearHead, activations: torch.Tensor, targets: Targets, device: torch.device
) -> tuple[WarmHead, float]:
    """Return a head fitted to the features of the unchanged encoder, and its loss on the unaugmented views."""
    features = encode_in_chunks(forward, activations[:, 0], device)
    learner = WarmHead(head.to(device), features, targets)
    with torch.no_grad():
        loss = targets.loss(learner(features), torch.arange(len(features), device=device))
    return learner, float(loss)
