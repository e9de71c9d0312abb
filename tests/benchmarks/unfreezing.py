"""Gain of partial unfreezing over the frozen encoder: `python -m tests.benchmarks.unfreezing [--blocks 2,6] [--shots 1,4,16]
[--draws 5] [--whole-rounds] [--json]`.

On the reported site of `label_efficiency`, both encoders, the same supports. Each fit starts from the stage-1 head of its support
(LP-FT) and trains the last k blocks; its weights after the last step and their average with the start are scored on other
patients, on the findings with both kinds of labels. `curve`: mean AUC difference to the stage-1 head by encoder, shots, k and
weights, with the worst draw. With --whole-rounds also the product's whole training round, which chooses between the frozen encoder
and `learn.unfrozen_blocks` by out-of-fold loss and between learnt and text column by finding, minus the round on the frozen
encoder: `unfreezing_gain` by shots, the mean of both encoders, and `unfreezing_worst_draw_1_2`, the worst draw at one or two shots.

Each fit takes minutes of a core. A result is stored when it is there, under the fingerprint of all settings: the same command
resumes, and prints what is stored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adapters.cli.fewshot import default_cache, parse_whole_numbers
from adapters.experiment.bases import ChosenBase
from adapters.experiment.feature_cache import FeatureCache, load_or_fill_cache
from models.classifier.head import LinearHead, zero_shot_head
from models.classifier.prompts import read_prompts
from models.encoder.delta import apply_delta
from models.encoder.encoder import Encoder
from models.evaluation.cases import Split
from models.evaluation.statistics import auc
from models.experiment.draws import draw_supports
from models.training.cross_validation import learnable_findings
from models.training.fine_tuning import fine_tune, view_activations
from models.training.fold_fits import AVERAGED, LAST
from models.training.optimiser_loop import encode_in_chunks
from models.training.stage_one import stage_one_head
from models.training.training_round import TrainingPlan, run_training_round
from models.training.whitening import WhiteningTransform
from tests.benchmarks import label_efficiency
from tests.benchmarks.decisions import Hospital, load_hospital, pool_source
from tests.benchmarks.output import format_result, prints_result_alone
from tests.benchmarks.unfreezing_rows import ROUND, RowStore, TrainedRow, collect_measures, describe_curve

BLOCKS, SHOTS, DRAWS = "2,6", "1,4,16", 5
PLAN = TrainingPlan()

Rows = npt.NDArray[np.intp]


@prints_result_alone
def main() -> str:
    """Measure what is missing and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=parse_whole_numbers, default=BLOCKS)
    parser.add_argument("--shots", type=parse_whole_numbers, default=SHOTS)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--whole-rounds", action="store_true")
    parser.add_argument("--tuning", action="store_true", help="the two sites on which settings may be chosen, each with a store")
    parser.add_argument("--quick", action="store_true", help="fewer films")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    role = "tuning" if options.tuning else "reported"
    sites = [one[1:] for one in label_efficiency.list_sites(options.cache / "hospitals") if one[0] == role]
    result = {Path(site).stem: measure_site(site, seed, options) for site, seed in sites}
    return format_result(result if options.tuning else next(iter(result.values())), as_json=options.json)


def measure_site(site: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is missing of one site; return all that is stored of it, JSON-able."""
    store = RowStore.of_settings(options.cache, PLAN, site=Path(site).stem, seed=seed, quick=options.quick)
    for name, base in label_efficiency.list_encoders().items():
        trials = Trials.of_site(site, name, base, quick=options.quick, seed=seed, cache=options.cache)
        for row in measure_rows(trials, store, options.blocks, options.shots, options.draws, whole=options.whole_rounds):
            store.append(row)
            sys.stderr.write(f"{row}\n")
    return {"measures": collect_measures(store.read()), "curve": describe_curve(store.read())}


@dataclass(frozen=True)
class Trials:
    """One encoder at one site: features and model inputs [N, S, S] of the pool and the test films."""

    name: str
    base: ChosenBase
    hospital: Hospital
    pool_inputs: torch.Tensor
    test_inputs: torch.Tensor
    seed: int

    @classmethod
    def of_site(cls, site: str, name: str, base: ChosenBase, *, quick: bool, seed: int, cache: Path) -> Trials:
        """Render the films, or take them from the cache."""
        hospital = load_hospital(site, base, quick=quick, seed=seed, cache=cache)
        source = pool_source(site, quick=quick, seed=seed)
        films: FeatureCache = load_or_fill_cache(cache, source, base, device=torch.device("cpu"), workers=2)
        split = source.split(source.cases)
        pool, test = (torch.from_numpy(films.films[films.rows[rows]][:, None]) for rows in (split.pool, split.test))
        return cls(name, base, hospital, pool, test, seed)

    @cached_property
    def text(self) -> LinearHead:
        """The zero-shot head."""
        return zero_shot_head(self.base.encoder, read_prompts())

    @cached_property
    def whitening(self) -> WhiteningTransform:
        """Of the archive's features."""
        return WhiteningTransform.from_features(self.hospital.archive)

    def support(self, shots: int, draw: int) -> Rows:
        """Return the rows of a support in the pool: the same for all encoders and k."""
        split = Split(pool=np.arange(len(self.hospital.pool_cases)), test=np.arange(0))
        return draw_supports(self.hospital.pool_cases, split, shots=(shots,), draws=draw + 1, seed=self.seed)[-1].rows

    def measure_auc(self, head: LinearHead, features: torch.Tensor, findings: npt.NDArray[np.bool_]) -> float:
        """Return the mean AUC of these findings on the test films."""
        return float(np.nanmean(auc(head.logits(features).numpy(), self.hospital.test_cases.labels)[findings]))


def measure_rows(
    trials: Trials, store: RowStore, blocks: Sequence[int], shots: Sequence[int], draws: int, *, whole: bool
) -> Iterator[TrainedRow]:
    """Yield the rows that the store lacks."""
    done = {(row.encoder, row.shots, row.draw, row.k, row.weights) for row in store.read()}
    for draw in range(draws):
        for count in shots:
            for k in blocks:
                if (trials.name, count, draw, k, LAST) not in done:
                    yield from fit_blocks(trials, count, draw, k)
            if whole and (trials.name, count, draw, PLAN.recipe.k, ROUND) not in done:
                yield run_round(trials, count, draw)


def fit_blocks(trials: Trials, shots: int, draw: int, k: int) -> Iterator[TrainedRow]:
    """Train the last k blocks under the stage-1 head of a support."""
    rows = trials.support(shots, draw)
    labels = trials.hospital.pool_cases.labels[rows]
    findings = learnable_findings(labels)
    start = stage_one_head(trials.hospital.pool[torch.from_numpy(rows)], labels, trials.text, trials.whitening)
    frozen = trials.measure_auc(start, trials.hospital.test, findings)
    recipe = replace(PLAN.recipe, k=k)
    encoder = trials.base.encoder
    inputs = trials.pool_inputs[torch.from_numpy(rows)]
    activations = view_activations(encoder, trials.base.preprocess, inputs, recipe, k=k, seed=draw)
    positives = int(np.median((labels == 1).sum(axis=0)[findings]))
    fitted = fine_tune(encoder, activations, labels, start, recipe, steps=recipe.step_count(positives), seed=draw)
    for weights, trained in ((AVERAGED, fitted.averaged), (LAST, fitted.last)):
        features = encode_films(apply_delta(encoder, trained.delta), trials)
        gain = trials.measure_auc(trained.head, features, findings) - frozen
        yield TrainedRow(trials.name, shots, draw, k, weights, round(gain, 5))


def encode_films(encoder: Encoder, trials: Trials) -> torch.Tensor:
    """Return the features [T, D] of the test films."""

    def encode(chunk: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return encoder.encode_images(trials.base.preprocess.normalise(chunk.float()))

    return encode_in_chunks(encode, trials.test_inputs, torch.device("cpu"))


def run_round(trials: Trials, shots: int, draw: int) -> TrainedRow:
    """Run the product's round with and without unfreezing on a support."""
    rows = trials.support(shots, draw)
    data = label_efficiency.build_data(trials.hospital, trials.hospital.pool_cases, rows, trials.whitening)
    k = PLAN.recipe.k
    inputs = trials.pool_inputs[torch.from_numpy(rows)]
    views = PLAN.views(trials.base.encoder, len(rows))
    recipe = replace(PLAN.recipe, augmentation=views.amounts)
    activations = view_activations(trials.base.encoder, trials.base.preprocess, inputs, recipe, k=k, seed=PLAN.seed)
    scores = []
    for plan, given in ((replace(PLAN, method="stage-1"), None), (PLAN, activations)):
        result = run_training_round(
            trials.base.encoder, trials.text, replace(data, activations=given), plan, lambda work, done, total: None
        )
        told = result.head.scores(trials.hospital.test).numpy()
        if result.fine_tuned is not None:
            encoder = apply_delta(trials.base.encoder, result.fine_tuned.delta)
            own = result.fine_tuned.head.scores(encode_films(encoder, trials)).numpy()
            told = np.where(result.fine_tuned.findings.numpy(), own, told)
        scores.append(np.where(result.findings, told, trials.text.scores(trials.hospital.test).numpy()))
    frozen, served = (float(np.nanmean(auc(one, trials.hospital.test_cases.labels))) for one in scores)
    return TrainedRow(trials.name, shots, draw, k, ROUND, round(served - frozen, 5))


if __name__ == "__main__":
    main()
