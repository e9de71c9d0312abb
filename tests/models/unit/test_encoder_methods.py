"""The methods that fine-tune the encoder: they learn, fall back to zero-shot without labels, and share fits and activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from models.encoder.delta import apply_delta
from models.encoder.partition import partition
from models.errors import CannotPartition
from models.evaluation.cases import ABSENT, UNKNOWN
from models.ladder import bench_activations, partial
from models.ladder.bench_activations import BenchActivations, SharedActivations
from models.ladder.encoder_methods import ENCODER_METHODS, make_encoder_methods
from models.ladder.method import FewShotBenchmark, Logits, Method
from models.training.fine_tuning import fine_tune, view_activations
from models.training.recipe import Augmentation, Recipe
from tests.builders import learnable_films, towers

NAMES = ["prolip", "lora-r2", *(f"partial-k{k}{kind}" for k in (1, 2, 3) for kind in ("", "-wise")), "full", "radclipd"]
RECIPE = replace(Recipe(), block_rate=1e-4, proj_rate=1e-4, steps_per_shot=4, augmentation=Augmentation(views=2))


@pytest.fixture(scope="module")
def bench() -> FewShotBenchmark:
    return learnable_films.bench()


@pytest.fixture(scope="module")
def methods() -> dict[str, Method]:
    return {method.name: method for method in make_encoder_methods(RECIPE)}


def zero_shot(bench: FewShotBenchmark) -> Logits:
    scores: npt.NDArray[np.float32] = bench.ensemble.logits(bench.features[bench.split.test]).numpy()
    return scores


def with_labels(bench: FewShotBenchmark, labels: npt.NDArray[np.int8]) -> FewShotBenchmark:
    return replace(bench, cases=replace(bench.cases, labels=labels))


def test_the_methods_have_the_names_of_the_ladder() -> None:
    assert [method.name for method in ENCODER_METHODS] == NAMES
    assert all(method.needs_support for method in ENCODER_METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_each_method_exceeds_zero_shot_with_sixteen_shots(bench: FewShotBenchmark, methods: dict[str, Method], name: str) -> None:
    logits = methods[name].scores(bench, learnable_films.support(bench, shots=16), seed=0)
    assert logits.shape == (160, 4) and logits.dtype == np.float32 and np.isfinite(logits).all()
    assert learnable_films.mean_auc(bench, logits) > learnable_films.mean_auc(bench, zero_shot(bench)) + 0.08


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_logits(bench: FewShotBenchmark, name: str) -> None:
    support = learnable_films.support(bench, shots=2)
    first, again, other = (
        {method.name: method for method in make_encoder_methods(RECIPE)}[name].scores(bench, support, seed=seed)
        for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    uses_seed = name not in ("prolip", "radclipd")  # prolip draws nothing, radclipd uses its plan's own seed, as in the daemon
    assert np.array_equal(first, other) != uses_seed


@pytest.mark.parametrize("name", NAMES)
def test_findings_without_both_kinds_of_labels_keep_their_zero_shot_scores(
    bench: FewShotBenchmark, methods: dict[str, Method], name: str
) -> None:
    support, labels = learnable_films.support(bench, shots=2), bench.cases.labels.copy()
    labels[support.rows, 1], labels[support.rows, 2] = ABSENT, UNKNOWN
    logits = methods[name].scores(with_labels(bench, labels), support, seed=0)
    assert np.array_equal(logits[:, 1:3], zero_shot(bench)[:, 1:3])
    assert not np.allclose(logits[:, [0, 3]], zero_shot(bench)[:, [0, 3]])


@pytest.mark.parametrize("name", NAMES)
def test_without_any_label_all_scores_are_zero_shot(bench: FewShotBenchmark, methods: dict[str, Method], name: str) -> None:
    blank = with_labels(bench, np.full_like(bench.cases.labels, UNKNOWN))
    assert np.array_equal(methods[name].scores(blank, learnable_films.support(bench, shots=1), seed=0), zero_shot(bench))


@pytest.mark.parametrize("name", NAMES)
def test_test_labels_do_not_affect_the_scores(bench: FewShotBenchmark, methods: dict[str, Method], name: str) -> None:
    support, labels = learnable_films.support(bench, shots=1), bench.cases.labels.copy()
    labels[bench.split.test] = 1 - labels[bench.split.test]
    assert np.array_equal(
        methods[name].scores(bench, support, seed=0), methods[name].scores(with_labels(bench, labels), support, seed=0)
    )


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The k of each fine-tuning."""
    trainings: list[int] = []

    def counting(*args: object, **settings: object) -> object:
        recipe = args[4]
        assert isinstance(recipe, Recipe)
        trainings.append(recipe.k)
        return fine_tune(*args, **settings)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(partial, "fine_tune", counting)
    yield trainings


@pytest.mark.parametrize("draws_first", [True, False])
def test_the_averaged_method_shares_the_fit_in_either_order(bench: FewShotBenchmark, counted: list[int], draws_first: bool) -> None:
    methods = {method.name: method for method in make_encoder_methods(RECIPE)}
    pair = [methods["partial-k2-wise"], methods["partial-k2"]]
    supports = [learnable_films.support(bench, shots=1, draw=draw) for draw in range(2)]
    order = [(m, s) for s in supports for m in pair] if draws_first else [(m, s) for m in pair for s in supports]
    made = {(method.name, support.draw): method.scores(bench, support, seed=support.draw) for method, support in order}
    assert counted == [2, 2]
    assert not any(np.array_equal(made["partial-k2", draw], made["partial-k2-wise", draw]) for draw in range(2))


def test_a_repeated_request_or_another_bench_trains_again(bench: FewShotBenchmark, counted: list[int]) -> None:
    method = {method.name: method for method in make_encoder_methods(RECIPE)}["partial-k1"]
    support = learnable_films.support(bench, shots=1)
    first = method.scores(bench, support, seed=0)
    other = replace(bench, model_inputs=bench.model_inputs[:, ::-1].copy())
    assert not np.array_equal(method.scores(other, support, seed=0), first)
    assert np.array_equal(method.scores(bench, support, seed=0), first)
    assert counted == [1, 1, 1]


def test_scores_from_activations_equal_scores_from_pixels(bench: FewShotBenchmark) -> None:
    support = learnable_films.support(bench, shots=4)
    model_inputs = bench_activations.select_model_inputs(bench, support.rows)
    activations = view_activations(bench.encoder, bench.preprocess, model_inputs, RECIPE, k=2, seed=0)
    trained = fine_tune(bench.encoder, activations, support.labels(bench.cases), bench.ensemble, RECIPE, steps=16, seed=0).last
    encoder = apply_delta(bench.encoder, trained.delta)
    pixels = bench.preprocess.normalise(bench_activations.select_model_inputs(bench, bench.split.test))
    whole = trained.head.logits(encoder.encode_images(pixels)).numpy()
    assert BenchActivations(bench).logits(encoder, trained.head, 2) == pytest.approx(whole, abs=0.02)
    assert np.abs(whole).max() > 0.2


def test_activations_are_cached_within_the_limit_and_otherwise_recomputed(bench: FewShotBenchmark) -> None:
    ample, none, one = BenchActivations(bench), BenchActivations(bench, max_bytes=0), 160 * 17 * 64 * 2
    for k in (1, 2):
        kept, made = torch.cat(list(ample.test_chunks(k))), torch.cat(list(none.test_chunks(k)))
        assert torch.equal(kept, made) and kept.shape == (160, 17, 64)
    assert (ample.held_bytes, none.held_bytes) == (2 * one, 0)
    one_k = BenchActivations(bench, max_bytes=one)
    for k in (1, 2, 1):
        assert torch.equal(torch.cat(list(one_k.test_chunks(k))), torch.cat(list(ample.test_chunks(k))))
    assert one_k.held_bytes == one


def test_activations_beyond_the_limit_are_files_that_continue(
    bench: FewShotBenchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after the first chunk of 128, then read: the first chunk comes from the disk, the second is computed."""
    wanted = torch.cat(list(BenchActivations(bench).test_chunks(1)))
    folder = tmp_path / "activations"
    filed = replace(bench, scratch=folder)
    next(iter(BenchActivations(filed, max_bytes=0).test_chunks(1)))
    computed: list[int] = []
    resumed = BenchActivations(filed, max_bytes=0)
    compute = resumed._compute_activations

    def count(rows: npt.NDArray[np.intp], k: int) -> torch.Tensor:
        computed.append(len(rows))
        return compute(rows, k)

    monkeypatch.setattr(resumed, "_compute_activations", count)
    assert torch.equal(torch.cat(list(resumed.test_chunks(1))), wanted)
    assert computed == [32]
    assert torch.equal(torch.cat(list(resumed.test_chunks(1))), wanted)
    assert computed == [32] and resumed.held_bytes == 0
    assert sorted(path.name.split("-")[1] for path in folder.iterdir()) == ["k1", "k1"]  # no file of another k
    (rows,) = folder.glob("*.f16")
    rows.write_bytes(rows.read_bytes()[:1000])  # what a lost disk cache leaves
    assert torch.equal(torch.cat(list(resumed.test_chunks(1))), wanted)
    list(resumed.test_chunks(partition(bench.encoder.network).block_count))
    assert {path.name.split("-")[1] for path in folder.iterdir()} == {"k1"}  # k = all blocks: the stem is computed again


def test_another_bench_replaces_the_shared_activations(bench: FewShotBenchmark) -> None:
    shared, other = SharedActivations(), learnable_films.bench(pool=20, test=20)
    first = shared.of_bench(bench)
    assert shared.of_bench(bench) is first and shared.of_bench(other).bench is other and shared.of_bench(bench) is not first


def test_an_encoder_with_too_few_blocks_raises() -> None:
    small = learnable_films.bench(towers.encoder("one block"), pool=60, test=20)
    methods = {method.name: method for method in make_encoder_methods(RECIPE)}
    support = learnable_films.support(small, shots=1)
    assert methods["partial-k1"].scores(small, support, seed=0).shape == (20, 4)
    with pytest.raises(CannotPartition, match="has 1 blocks"):
        methods["partial-k2"].scores(small, support, seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_support_raises_value_error(bench: FewShotBenchmark, methods: dict[str, Method], name: str) -> None:
    with pytest.raises(ValueError, match="support"):
        methods[name].scores(bench, None, seed=0)
