"""Partial unfreezing trains the unfrozen parameters alone, learns, and is reproducible."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.encoder.activations import compute_activations, encode_activations
from models.encoder.delta import apply_delta, copy_parameters
from models.encoder.encoder import Encoder
from models.encoder.partition import LN_POST, PROJ, parameter_names, partition
from models.encoder.precision import choose_dtype
from models.errors import CannotPartition, NothingToLearn
from models.images.preprocess import Preprocess
from models.training.fine_tuning import FineTuningResult, TrainedWeights, fine_tune, view_activations
from models.training.recipe import Augmentation, Recipe
from tests.builders import learnable_films, tiny, towers

RECIPE = replace(Recipe(), k=1, max_steps=20, augmentation=Augmentation(views=2))
QUICK = replace(RECIPE, block_rate=1e-4, proj_rate=1e-4)
PREPROCESS = Preprocess(size=tiny.SIZE)
IMAGES, LABELS = learnable_films.labelled(40, seed=1)
MODEL_INPUTS = torch.from_numpy(IMAGES.astype(np.float32))[:, None]


def fitted(
    encoder: Encoder,
    recipe: Recipe = RECIPE,
    labels: npt.NDArray[np.int8] = LABELS,
    *,
    seed: int = 0,
    model_inputs: torch.Tensor = MODEL_INPUTS,
    steps: int = 12,
) -> FineTuningResult:
    activations = view_activations(encoder, PREPROCESS, model_inputs, recipe, k=recipe.k, seed=seed)
    head = learnable_films.head_for(encoder, findings=labels.shape[1])
    return fine_tune(encoder, activations, labels, head, recipe, steps=steps, seed=seed)


def equal(one: TrainedWeights, other: TrainedWeights) -> bool:
    return all(torch.equal(tensor, other.delta[name]) for name, tensor in one.delta.items()) and all(
        torch.equal(tensor, other.head.tensors[name]) for name, tensor in one.head.tensors.items()
    )


@pytest.mark.parametrize("kind", ["plain", "custom text", "average, norm after", "custom blocks", "layer scale", "patch dropout"])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_frozen_tensors_stay_bit_identical_and_unfrozen_ones_change(kind: str, k: int) -> None:
    encoder = towers.encoder(kind)
    was = {name: tensor.clone() for name, tensor in encoder.network.state_dict().items()}
    result = fitted(encoder, replace(QUICK, k=k))
    unfrozen = parameter_names(partition(encoder.network).last_parts(k))
    assert tuple(result.last.delta) == tuple(result.averaged.delta) == unfrozen
    assert not any(torch.equal(result.last.delta[name], was[name]) for name in unfrozen)
    assert all(torch.equal(tensor, was[name]) for name, tensor in encoder.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())
    after = apply_delta(encoder, result.last.delta).network.state_dict()
    assert {name for name, tensor in after.items() if not torch.equal(tensor, was[name])} == set(unfrozen)


def test_the_same_seed_gives_the_same_weights_and_another_seed_different_ones() -> None:
    encoder = towers.encoder("plain")
    first, again, other = fitted(encoder), fitted(encoder), fitted(encoder, seed=1)
    assert equal(first.last, again.last) and equal(first.averaged, again.averaged) and first.report == again.report
    assert not equal(first.last, other.last)


def test_an_infinite_pull_gives_the_base_weights_and_the_warm_head() -> None:
    encoder = towers.encoder("plain")
    held = fitted(encoder, replace(QUICK, k=2, pull=math.inf, head_pull=math.inf))
    base = copy_parameters(encoder, held.last.delta)
    assert all(torch.equal(tensor, base[name]) for name, tensor in held.last.delta.items())
    text = learnable_films.head_for(encoder)
    assert held.last.head.directions.numpy() == pytest.approx(text.directions.numpy(), abs=1e-6)


def test_a_stronger_pull_ends_nearer_to_the_base() -> None:
    encoder = towers.encoder("plain")
    distances = []
    for pull in (0.0, 0.1, 1.0, 10.0):
        delta = fitted(encoder, replace(QUICK, pull=pull)).last.delta
        base = copy_parameters(encoder, delta)
        distances.append(sum(float((tensor - base[name]).norm()) for name, tensor in delta.items()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.3 * distances[0]


def test_fine_tuning_learns_a_task_that_the_base_cannot_do() -> None:
    given = learnable_films.bench()
    support = learnable_films.support(given, shots=16)
    model_inputs = torch.from_numpy(given.model_inputs[support.rows].astype(np.float32))[:, None]
    recipe = replace(QUICK, k=2, max_steps=120, augmentation=Augmentation(views=3))
    activations = view_activations(given.encoder, PREPROCESS, model_inputs, recipe, k=2, seed=0)
    result = fine_tune(given.encoder, activations, support.labels(given.cases), given.ensemble, recipe, steps=120, seed=0)
    before = learnable_films.mean_auc(given, given.ensemble.logits(given.features[given.split.test]).numpy())
    test = PREPROCESS.normalise(torch.from_numpy(given.model_inputs[given.split.test].astype(np.float32))[:, None])
    after = {
        kind: learnable_films.mean_auc(
            given, trained.head.logits(apply_delta(given.encoder, trained.delta).encode_images(test)).numpy()
        )
        for kind, trained in (("last", result.last), ("averaged", result.averaged))
    }
    assert result.report.loss < 0.7 * result.report.warm_loss
    assert before < 0.65
    assert after["last"] > 0.95 and after["averaged"] > 0.85


def test_the_averaged_weights_are_half_way_in_every_element() -> None:
    encoder = towers.encoder("plain")
    result = fitted(encoder, QUICK)
    base = copy_parameters(encoder, result.last.delta)
    for name, tensor in result.averaged.delta.items():
        assert tensor.numpy() == pytest.approx(((base[name] + result.last.delta[name]) / 2).numpy(), abs=1e-6)
    whole = fitted(encoder, replace(QUICK, average=1.0))
    for name, tensor in whole.averaged.head.tensors.items():
        assert tensor.numpy() == pytest.approx(whole.last.head.tensors[name].numpy(), abs=1e-5)
    none = fitted(encoder, replace(QUICK, average=0.0))
    assert all(torch.equal(tensor, base[name]) for name, tensor in none.averaged.delta.items())


def test_the_report_lists_the_trained_parts() -> None:
    encoder = towers.encoder("plain")
    report = fitted(encoder, replace(RECIPE, k=2)).report
    card = json.loads(json.dumps(report.card, allow_nan=False))
    assert [part["name"] for part in card["trained"]] == ["block 1", "block 2", LN_POST, PROJ]
    assert card["parameters"] == sum(
        tensor.numel() for name, tensor in encoder.network.named_parameters() if name in parameter_names(report.parts)
    )
    assert card["findings"] == [0, 1, 2, 3] and card["steps"] == 12 and card["films"] == 40


class Stopped(Exception):
    pass


def test_computing_views_reports_progress_and_can_be_stopped() -> None:
    seen: list[tuple[int, int]] = []

    def on_step(step: int, total: int) -> None:
        seen.append((step, total))
        if step == 2:
            raise Stopped

    many = MODEL_INPUTS.repeat(2, 1, 1, 1)
    with pytest.raises(Stopped):
        view_activations(_ENCODER, PREPROCESS, many, RECIPE, k=1, seed=0, on_step=on_step)
    assert seen == [(1, 4), (2, 4)]  # two chunks of each of two views


@pytest.mark.parametrize("at", [1, 5, 12])
def test_stopping_between_steps_leaves_encoder_and_activations_unchanged(at: int) -> None:
    encoder = towers.encoder("plain")
    was = {name: tensor.clone() for name, tensor in encoder.network.state_dict().items()}
    activations = view_activations(encoder, PREPROCESS, MODEL_INPUTS, RECIPE, k=1, seed=0)
    kept, seen = activations.clone(), []

    def on_step(step: int, total: int) -> None:
        seen.append((step, total))
        if step == at:
            raise Stopped

    with pytest.raises(Stopped):
        fine_tune(encoder, activations, LABELS, learnable_films.head_for(encoder), RECIPE, steps=12, seed=0, on_step=on_step)
    assert seen == [(step, 12) for step in range(1, at + 1)]
    assert all(torch.equal(tensor, was[name]) for name, tensor in encoder.network.state_dict().items())
    assert torch.equal(activations, kept) and not any(p.requires_grad for p in encoder.network.parameters())
    again = fine_tune(encoder, activations, LABELS, learnable_films.head_for(encoder), RECIPE, steps=12, seed=0)
    assert equal(again.last, fitted(towers.encoder("plain")).last)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_images_without_a_known_label_do_not_affect_the_weights(seed: int) -> None:
    encoder, chance = _ENCODER, np.random.default_rng(seed)
    unlabelled = chance.random(len(LABELS)) < 0.3
    labels = np.where(unlabelled[:, None], -1, LABELS).astype(np.int8)
    changed = MODEL_INPUTS.clone()
    changed[torch.from_numpy(unlabelled)] = torch.rand(int(unlabelled.sum()), 1, tiny.SIZE, tiny.SIZE)
    one, other = (fitted(encoder, labels=labels, model_inputs=model_inputs, steps=3) for model_inputs in (MODEL_INPUTS, changed))
    assert equal(one.last, other.last)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_finding_without_both_kinds_of_labels_does_not_affect_the_weights(seed: int) -> None:
    """With all labels of the finding present, absent or unknown, the encoder and the other findings are the same."""
    chance = np.random.default_rng(seed)
    column = int(chance.integers(4))
    results = []
    for one_sided in (1, 0, -1):
        labels = LABELS.copy()
        labels[:, column] = np.where(chance.random(len(labels)) < 0.5, one_sided, -1)
        results.append(fitted(_ENCODER, labels=labels, steps=3))
        assert results[-1].report.findings == tuple(other for other in range(4) if other != column)
    assert all(equal(result.last, results[0].last) for result in results[1:])


_ENCODER = towers.encoder("plain")


def test_nothing_to_learn_and_too_many_blocks_raise() -> None:
    with pytest.raises(NothingToLearn, match="present and absent"):
        fitted(_ENCODER, labels=np.ones_like(LABELS))
    with pytest.raises(CannotPartition, match="3 blocks"):
        fitted(_ENCODER, replace(RECIPE, k=4))


def test_the_first_view_is_the_unchanged_image_and_the_others_differ() -> None:
    views = view_activations(
        _ENCODER, PREPROCESS, MODEL_INPUTS[:5], replace(RECIPE, augmentation=Augmentation(views=3)), k=1, seed=2
    )
    alone = compute_activations(_ENCODER, PREPROCESS.normalise(MODEL_INPUTS[:5]), k=1)
    assert views.shape == (5, 3, 17, 64) and views.dtype == torch.float16
    assert views[:, 0].float().numpy() == pytest.approx(alone.numpy(), abs=2e-3, rel=1e-3)
    assert not any(torch.equal(views[:, 0], views[:, other]) for other in (1, 2))


def test_bfloat16_gives_about_the_same_loss_and_float32_weights() -> None:
    exact, coarse, again = (fitted(_ENCODER, replace(QUICK, precision=kind)) for kind in ("float32", "bfloat16", "bfloat16"))
    assert coarse.report.loss == pytest.approx(exact.report.loss, rel=0.05)
    assert equal(coarse.last, again.last) and not equal(coarse.last, exact.last)
    assert all(tensor.dtype == torch.float32 for tensor in coarse.last.delta.values())
    assert (exact.report.precision, coarse.report.precision) == ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("instructions", "kind"), [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({}, torch.float32)]
)
def test_auto_is_bfloat16_on_processors_with_bfloat16_instructions(
    monkeypatch: pytest.MonkeyPatch, instructions: dict[str, bool], kind: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert choose_dtype("auto", torch.device("cpu")) == kind
    assert choose_dtype("float32", torch.device("cpu")) == torch.float32


def test_the_warm_head_ranks_as_the_given_head() -> None:
    """Scaling and shifting of the start serve the learning rate alone; a fit with infinite pull returns the head's ranking."""
    held = fitted(_ENCODER, replace(RECIPE, pull=math.inf, head_pull=math.inf))
    pixels = PREPROCESS.normalise(MODEL_INPUTS)
    features = encode_activations(_ENCODER, compute_activations(_ENCODER, pixels, k=1), k=1).features.detach()
    given_logits, after = learnable_films.head_for(_ENCODER).logits(features), held.last.head.logits(features)
    for column in range(4):
        assert np.corrcoef(given_logits[:, column].numpy(), after[:, column].numpy())[0, 1] > 1 - 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_reproducible_and_close_to_the_cpu() -> None:
    device = torch.device("cuda")
    first, again = (fitted(towers.encoder("plain").to(device), QUICK) for _ in range(2))
    assert equal(first.last, again.last)
    cpu = fitted(_ENCODER, QUICK)
    assert all(torch.allclose(tensor, cpu.last.delta[name], atol=1e-3) for name, tensor in first.last.delta.items())
