"""Duration of learning: `python -m tests.benchmarks.retrain [--steps 5] [--rounds 1] [--clock cpu] [--json]`.

Whole rounds of learning by the real trainer, of all 14 findings with an untrained ViT-B/32, k = 2, on films of 10 megabytes:
`shots` films that show each finding, their augmented copies, and five folds.

* `store`: from the activation store, filled by earlier rounds;
* `pixels`: the same recipe, copies and batches where no activations exist: each step passes its films through the whole encoder;
* `nothing_kept`: radclipd without a store, which makes the activations once and holds them while the round lasts.

A fit has few steps here, which the store gains least by: what is not training weighs more. By default it has five, and each way
runs once after the round that fills the store, so that two slow processors need minutes; nearly all of them encode films, about
1,600 in all. `--steps 10 --rounds 3` is the size of the published figures, with their spread, and takes five times as long. Beside
them stand steps of training alone. The full size is `--shots 16 --unlabelled 1000`: 224 labelled films. `--store-alone` fills the
store with noise in place of films and measures no round without it, with as many steps as the recipe says: what the numbers are
does not change how long they take.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from typing_extensions import override

from adapters.ml import trainer
from adapters.ml.activation_cache import ActivationCache, ActivationCacheSettings, activation_key
from adapters.ml.trainer import ClipTrainer, TrainerSettings
from adapters.ml.training_images import TrainingImageReader
from adapters.storage.model_files import base_folder
from adapters.storage.model_store import ModelStore
from models.classifier.head import LinearHead, zero_shot_head
from models.classifier.prompts import read_prompts
from models.encoder.activations import (
    EncoderOutput,
    SplitActivations,
    activation_shape,
    compute_activations,
    encode_activations,
    encode_images_fast,
)
from models.encoder.base import Base, read_base
from models.encoder.delta import copy_with_own_parameters
from models.encoder.encoder import Encoder
from models.encoder.partition import parameter_names, partition
from models.images.augment import augment_inputs
from models.images.views import AugmentedViews
from models.training import fine_tuning, training_round
from models.training.batches import Targets
from models.training.optimiser_loop import head_parameter_groups, optimise
from models.training.recipe import Augmentation, Recipe
from models.training.training_round import TrainingPlan
from models.training.warm_head import WarmHead
from pipeline.domain import FINDINGS, ModelVersion, StoredInstance, TrainingExample, TrainingSet
from pipeline.ports.services import StageCallback
from tests.benchmarks.films import CLOCKS, Films, ratio, side_by_side, untrained
from tests.benchmarks.output import format_result, prints_result_alone

K, STEPS = 2, 3
LIMIT = 4 << 30
NAMES = {"pixels": "from_pixels", "nothing_kept": "nothing_kept"}
"""Of the ways without a store, in the ratios."""


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=int, default=2)
    parser.add_argument("--unlabelled", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5, help="of a fit")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--steps-alone", action="store_true", help="no whole rounds of learning")
    parser.add_argument("--store-alone", action="store_true", help="no rounds without the store, and of full length")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        store, version = untrained(Path(folder) / "models")
        measured: dict[str, Any] = {"threads": options.threads, "clock": options.clock}
        measured |= steps(store, version, rounds=options.rounds, clock=CLOCKS[options.clock])
        if not options.steps_alone:
            recipe = Recipe(k=K) if options.store_alone else Recipe(k=K, max_steps=options.steps)
            whole = Round(Path(folder), store, version, recipe, shots=options.shots, unlabelled=options.unlabelled)
            whole_rounds = whole.measure(rounds=options.rounds, clock=CLOCKS[options.clock], store_alone=options.store_alone)
            measured |= whole_rounds | {"ratios": measured["ratios"] | whole_rounds["ratios"]}
    return format_result(measured, as_json=options.json)


class Round:
    """Rounds of learning by the real trainer."""

    def __init__(
        self, folder: Path, store: ModelStore, version: ModelVersion, recipe: Recipe, *, shots: int, unlabelled: int
    ) -> None:
        self._store, self._films, self._plan = store, Films(folder / "images"), TrainingPlan(method="partial", recipe=recipe)
        self._kept = ActivationCacheSettings(directory=folder / "activations", max_bytes=LIMIT, k=K)
        lessons = [self._lesson(number) for number in range(shots * len(FINDINGS))]
        self._course = TrainingSet(
            examples=tuple(lessons),
            findings=FINDINGS,
            unlabelled_instances=tuple(self._films.film(number) for number in range(len(lessons), len(lessons) + unlabelled)),
            serving=version,
            label_fingerprint="0" * 64,
        )
        self._optimising = 0.0

    def _lesson(self, number: int) -> TrainingExample:
        film = self._films.film(number)
        shown = tuple(int(number % len(FINDINGS) == column) for column in range(len(FINDINGS)))
        return TrainingExample(film.header.study_instance_uid, f"P{number}", film, shown)

    def measure(self, *, rounds: int, clock: Callable[[], float], store_alone: bool = False) -> dict[str, Any]:
        """Return seconds of a round, how much of one from the store is not the optimiser's, and the ratios."""
        if store_alone:
            self._fill_with_noise()
        else:
            self._learn(self._kept, clock)  # fills the store
        shares: list[float] = []

        def from_store() -> None:
            begun = clock()
            self._learn(self._kept, clock)
            shares.append(1.0 - self._optimising / (clock() - begun))

        ways: dict[str, Callable[[], object]] = {"store": from_store}
        if not store_alone:
            ways |= {"pixels": partial(self._learn_from_pixels, clock), "nothing_kept": partial(self._learn, None, clock)}
        seconds = side_by_side(ways, rounds=rounds, clock=clock)
        return {
            "labelled_films": len(self._course.examples),
            "archive_films": len(self._course.unlabelled_instances),
            **{f"seconds_round_{name}": round(statistics.median(of), 1) for name, of in seconds.items()},
            "share_not_optimiser": round(statistics.median(shares), 3),
            "steps_a_fit": self._plan.recipe.step_count(len(self._course.examples) // len(FINDINGS)),
            "ratios": {f"vs_{NAMES[name]}": ratio(of, seconds["store"]) for name, of in seconds.items() if name in NAMES},
        }

    def _fill_with_noise(self) -> None:
        base = self._base()
        kept = ActivationCache(base, self._kept)
        views = self._plan.views(base.encoder, len(self._course.examples))
        names = [name for lesson in self._course.examples for name in views.names(activation_key(lesson.instance))]
        names += [activation_key(film) for film in self._course.unlabelled_instances]
        for name in names:
            kept.write([name], SplitActivations(torch.randn(1, *activation_shape(base.encoder)), torch.randn(1, base.dimension)))
        kept.close()

    def _learn(self, kept: ActivationCacheSettings | None, clock: Callable[[], float]) -> None:
        self._optimising = 0.0
        settings = TrainerSettings(
            plan=self._plan, min_positives=1, undetermined_margin=0.05, device="cpu", threads=0, cache_settings=kept
        )
        with patch.object(fine_tuning, "optimise", partial(self._timed, clock)):
            ClipTrainer(self._store, self._films, settings).train(self._course, lambda *_: None)

    def _learn_from_pixels(self, clock: Callable[[], float]) -> None:
        normalised = self._base().preprocess.normalise

        def through_all(encoder: Encoder, squares: torch.Tensor, *, k: int) -> EncoderOutput:
            return encode_activations(encoder, compute_activations(encoder, normalised(squares), k=k), k=k)

        with (
            patch.object(trainer, "TrainingImageReader", PixelReader),
            patch.object(fine_tuning, "encode_activations", through_all),
            patch.object(training_round, "encode_activations", through_all),
        ):
            self._learn(None, clock)

    def _base(self) -> Base:
        version = self._course.serving
        return read_base(base_folder(self._store.root, version.base), expected=version.card)

    def _timed(self, clock: Callable[[], float], *arguments: Any, **named: Any) -> float:
        begun = clock()
        try:
            return optimise(*arguments, **named)
        finally:
            self._optimising += clock() - begun


class PixelReader(TrainingImageReader):
    """Gives the grey squares of a film's copies [V, 1, S, S] in place of activations, and makes features from the pixels."""

    @override
    def read_views(
        self, instances: Sequence[StoredInstance], views: AugmentedViews, on_progress: StageCallback
    ) -> list[SplitActivations | None]:
        """Of each film, with the features [1, D] of the film itself."""
        return [self._of(film, views) for film in instances]

    @override
    def read_features(
        self, instances: Sequence[StoredInstance], what: str, on_progress: StageCallback
    ) -> list[torch.Tensor | None]:
        """Of each film."""
        copies = [self._of(film, AugmentedViews(Augmentation(views=1), seed=0)) for film in instances]
        return [found.features[0] for found in copies]

    def _of(self, film: StoredInstance, views: AugmentedViews) -> SplitActivations:
        square = self.read_model_input(film)
        assert square is not None
        copies = torch.stack([views.view(square, activation_key(film), number) for number in range(views.amounts.views)])
        return SplitActivations(copies.half(), encode_images_fast(self._base.encoder, self._base.preprocess.normalise(copies[:1])))


def steps(store: ModelStore, version: ModelVersion, *, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Return seconds of a step of 32 films from stored activations and through the whole encoder, and their ratio."""
    base = read_base(base_folder(store.root, version.base), expected=version.card)
    recipe, text = Recipe(k=K), zero_shot_head(base.encoder, read_prompts())
    squares = torch.rand(recipe.batch, 1, base.preprocess.size, base.preprocess.size)
    with torch.no_grad():
        entering = compute_activations(base.encoder, base.preprocess.normalise(squares), k=K).half()
    generator = torch.Generator().manual_seed(0)

    def through_all(chosen: torch.Tensor) -> torch.Tensor:
        return compute_activations(
            base.encoder, base.preprocess.normalise(augment_inputs(chosen, recipe.augmentation, generator)), k=K
        )

    ways = {
        "store": partial(_descend, base, text, recipe, entering, lambda chosen: chosen),
        "pixels": partial(_descend, base, text, recipe, squares, through_all),
    }
    side_by_side(ways, rounds=1)  # warms up
    seconds = side_by_side(ways, rounds=rounds, clock=clock)
    measured = {f"seconds_step_{name}": round(statistics.median(of) / STEPS, 3) for name, of in seconds.items()}
    return measured | {"ratios": {"step_vs_from_pixels": ratio(seconds["pixels"], seconds["store"])}}


def _descend(
    base: Base, text: LinearHead, recipe: Recipe, inputs: torch.Tensor, enter: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    parts = partition(base.encoder.network).last_parts(K)
    twin = copy_with_own_parameters(base.encoder, parameter_names(parts))
    labels = np.add.outer(np.arange(len(inputs)), np.arange(len(FINDINGS))) % 2
    targets = Targets.of(labels.astype(np.int8), smoothing=recipe.label_smoothing)
    with torch.no_grad():
        head = WarmHead(text, torch.nn.functional.normalize(torch.randn(len(inputs), base.dimension), dim=1), targets)

    def forward(chosen: torch.Tensor) -> torch.Tensor:
        return encode_activations(twin, enter(chosen), k=K).features

    groups = [*fine_tuning.encoder_parameter_groups(twin, parts, recipe), *head_parameter_groups(head, targets, recipe)]
    optimise(forward, head, groups, inputs[:, None], targets, recipe, steps=STEPS, seed=0)


if __name__ == "__main__":
    main()
