"""Time of the steps of an experiment at 5 000 and at 20 000 films: it grows with their number, not with its square."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from adapters.experiment.feature_files import FeatureFiles, FilmBatch
from models.evaluation.statistics import PatientBootstrap
from models.experiment.draws import draw_supports
from models.experiment.splits import split_by_lists, split_by_patient
from models.ladder.bench_activations import SharedActivations
from models.ladder.labelled_features import pool_whitening
from models.ladder.product import RadclipdMethod
from models.ladder.registry import find_methods
from models.training.training_round import TrainingPlan
from models.training.whitening import WhiteningTransform
from tests.builders import benches

FEW, MANY = 5_000, 20_000
MEASURED_FLOOR = 0.03  # seconds: shorter times are mostly constant costs
LARGEST_FACTOR = 2.0 * MANY / FEW  # quadratic growth would be 4 * MANY / FEW


def assert_growth(few: Callable[[], object], many: Callable[[], object]) -> None:
    """Compare processor times of one thread: the least of up to four runs each, for other processes share the caches."""
    least = [math.inf, math.inf]
    for _ in range(4):
        with threadpool_limits(1):
            for place, work in enumerate((few, many)):
                started = time.process_time()
                work()
                least[place] = min(least[place], time.process_time() - started)
        if least[1] < LARGEST_FACTOR * max(MEASURED_FLOOR, least[0]):
            return
    raise AssertionError(f"{MANY} films take {least[1]:.2f} s, and {FEW} take {least[0]:.2f} s")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cache_films(folder: Path, films: int) -> None:
    """Append as the cache does, then find every film as a new run does."""
    folder.mkdir()
    files, names = FeatureFiles(folder), [f"{row:064x}" for row in range(films)]
    for start in range(0, films, 64):
        batch = names[start : start + 64]
        features = np.ones((len(batch), 8), np.float32)
        files.append(FilmBatch(batch, np.zeros((len(batch), 4, 4), np.float16), features, features[:, :0]))
    assert (FeatureFiles(folder).find_rows(names) == np.arange(films)).all()


def run_methods(world: benches.World) -> None:
    supports = draw_supports(world.bench.cases, world.bench.split, shots=[4], draws=1, seed=0)
    for method in find_methods(["zero-shot", "stage-1", "gda", "tip-adapter", "all-labels"]):
        method.scores(world.bench, supports[0] if method.needs_support else None, seed=0)


def resample(world: benches.World) -> None:
    test = world.bench.split.test
    bootstrap = PatientBootstrap(world.bench.cases.patient[test], resamples=50, seed=0)
    bootstrap.auc(np.asarray(world.bench.features[test, :4]), world.bench.cases.labels[test])


def divide(world: benches.World) -> None:
    cases = world.bench.cases
    split_by_patient(cases, test_share=0.4, seed=0)
    split_by_lists(cases, cases.key[::2].tolist(), cases.key[1::2].tolist())


@pytest.mark.parametrize("step", [run_methods, resample, divide], ids=lambda step: step.__name__)
def test_a_step_grows_with_the_number_of_films(step: Callable[[benches.World], None]) -> None:
    few, many = benches.world(images=FEW), benches.world(images=MANY)
    assert_growth(lambda: step(few), lambda: step(many))


def test_the_feature_cache_grows_with_the_number_of_films(tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in range(8))
    assert_growth(lambda: cache_films(next(folders), FEW), lambda: cache_films(next(folders), MANY))


def test_the_pool_is_whitened_once_for_all_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    """radclipd's own method and the methods on frozen features share the whitening of the pool."""
    bench, estimated = benches.world(images=600, seed=3).bench, list[int]()
    estimate = WhiteningTransform.from_features

    def count(cls: type[WhiteningTransform], features: torch.Tensor) -> WhiteningTransform:
        estimated.append(len(features))
        return estimate(features)

    monkeypatch.setattr(WhiteningTransform, "from_features", classmethod(count))
    supports = draw_supports(bench.cases, bench.split, shots=[1, 2], draws=2, seed=0)
    for support in supports:
        for method in find_methods(["gda", "stage-1"]):
            method.scores(bench, support, seed=0)
        RadclipdMethod(SharedActivations(), TrainingPlan(method="stage-1")).scores(bench, support, seed=0)
    assert estimated == [len(bench.split.pool)]
    assert pool_whitening(bench) is pool_whitening(bench)
