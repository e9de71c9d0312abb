"""How long learning takes: `python -m tests.benchmarks.retrain [--shots 4] [--background 100] [--rounds 3] [--clock cpu] [--json]`.

A round of learning of all 14 findings with an untrained ViT-B/32, k = 2, on films of 10 megabytes: `shots` films that show each
finding and five folds, as the trainer does it. From the prefix store, that earlier rounds have filled, and from the pixels, with
no store. Beside it, steps of training whose batches come from the store and steps of the same recipe that go through the whole
encoder each time, as training does that stores nothing.

The full size is `--shots 16 --background 1000`: 224 labelled films. `--store-alone` fills the store with noise in place of films
and measures no round from the pixels: what the numbers are does not change how long they take.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from adapters.gpu.kept import Kept, KeptSettings, key_of
from adapters.gpu.trainer import ClipTrainer, TrainerSettings
from adapters.host.model_store import ModelStore
from adapters.model_files import base_folder
from models import fit
from models.augment import augmented
from models.base import Base, read_base
from models.batches import Targets
from models.delta import own_copy
from models.descent import descend, head_groups
from models.head import LinearHead, zero_shot_head
from models.partition import names_of, partition
from models.prefix import Cut, from_prefix, prefix, shape
from models.prompts import read_prompts
from models.recipe import Recipe
from models.teach import Plan
from models.warm_head import WarmHead
from pipeline.domain import FINDINGS, Course, Lesson, ModelVersion
from tests.benchmarks.films import CLOCKS, Films, ratio, side_by_side, tell, untrained

K, STEPS = 2, 3
LIMIT = 4 << 30


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--background", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--steps-alone", action="store_true", help="no whole rounds of learning")
    parser.add_argument("--store-alone", action="store_true", help="no rounds from the pixels")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        store, version = untrained(Path(folder) / "models")
        measured: dict[str, Any] = {"threads": options.threads, "clock": options.clock}
        measured |= steps(store, version, rounds=options.rounds, clock=CLOCKS[options.clock])
        if not options.steps_alone:
            whole = Round(Path(folder), store, version, shots=options.shots, background=options.background)
            told = whole.measure(rounds=options.rounds, clock=CLOCKS[options.clock], store_alone=options.store_alone)
            measured |= told | {"ratios": measured["ratios"] | told["ratios"]}
    tell(measured, as_json=options.json)


class Round:
    """Rounds of learning by the real trainer."""

    def __init__(self, folder: Path, store: ModelStore, version: ModelVersion, *, shots: int, background: int) -> None:
        self._store, self._films = store, Films(folder / "images")
        self._kept = KeptSettings(directory=folder / "prefixes", limit=LIMIT, k=K)
        lessons = [self._lesson(number) for number in range(shots * len(FINDINGS))]
        self._course = Course(
            lessons=tuple(lessons),
            findings=FINDINGS,
            background=tuple(self._films.film(number) for number in range(len(lessons), len(lessons) + background)),
            serving=version,
            label_fingerprint="0" * 64,
        )
        self._optimising = 0.0

    def _lesson(self, number: int) -> Lesson:
        film = self._films.film(number)
        shown = tuple(int(number % len(FINDINGS) == column) for column in range(len(FINDINGS)))
        return Lesson(film.header.study_instance_uid, f"P{number}", film, shown)

    def measure(self, *, rounds: int, clock: Callable[[], float], store_alone: bool = False) -> dict[str, Any]:
        """Return seconds of a round from the store, how much of them is the optimiser's, and the ratio to one from the pixels."""
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
            ways["pixels"] = lambda: self._learn(None, clock)
        seconds = side_by_side(ways, rounds=rounds, clock=clock)
        return {
            "labelled_films": len(self._course.lessons),
            "archive_films": len(self._course.background),
            **{f"seconds_round_{name}": round(statistics.median(of), 1) for name, of in seconds.items()},
            "share_not_optimiser": round(statistics.median(shares), 3),
            "ratios": {} if store_alone else {"round_pixels_to_store": ratio(seconds["pixels"], seconds["store"])},
        }

    def _fill_with_noise(self) -> None:
        version = self._course.serving
        base = read_base(base_folder(self._store.root, version.base), expected=version.card)
        kept = Kept(base, self._kept)
        views = Plan(method="partial", recipe=Recipe(k=K)).views(base.encoder, len(self._course.lessons))
        names = [name for lesson in self._course.lessons for name in views.names(key_of(lesson.image))]
        names += [key_of(film) for film in self._course.background]
        for name in names:
            kept.write([name], Cut(torch.randn(1, *shape(base.encoder)), torch.randn(1, base.dimension)))
        kept.close()

    def _learn(self, kept: KeptSettings | None, clock: Callable[[], float]) -> None:
        self._optimising = 0.0
        plan = Plan(method="partial", recipe=Recipe(k=K))
        settings = TrainerSettings(plan=plan, minimum_positives=2, band=0.05, device="cpu", threads=0, kept=kept)
        with patch.object(fit, "descend", partial(self._timed, clock)):
            ClipTrainer(self._store, self._films, settings).train(self._course, lambda *_: None)

    def _timed(self, clock: Callable[[], float], *arguments: Any, **named: Any) -> float:
        begun = clock()
        try:
            return descend(*arguments, **named)
        finally:
            self._optimising += clock() - begun


def steps(store: ModelStore, version: ModelVersion, *, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Return seconds of a step of 32 films from stored activations and through the whole encoder, and their ratio."""
    base = read_base(base_folder(store.root, version.base), expected=version.card)
    recipe, text = Recipe(k=K), zero_shot_head(base.encoder, read_prompts())
    squares = torch.rand(recipe.batch, 1, base.preprocess.size, base.preprocess.size)
    with torch.no_grad():
        entering = prefix(base.encoder, base.preprocess.normalised(squares), k=K).half()
    generator = torch.Generator().manual_seed(0)

    def through_all(chosen: torch.Tensor) -> torch.Tensor:
        return prefix(base.encoder, base.preprocess.normalised(augmented(chosen, recipe.augmentation, generator)), k=K)

    ways = {
        "store": partial(_descend, base, text, recipe, entering, lambda chosen: chosen),
        "pixels": partial(_descend, base, text, recipe, squares, through_all),
    }
    side_by_side(ways, rounds=1)  # warms up
    seconds = side_by_side(ways, rounds=rounds, clock=clock)
    measured = {f"seconds_step_{name}": round(statistics.median(of) / STEPS, 3) for name, of in seconds.items()}
    return measured | {"ratios": {"step_pixels_to_store": ratio(seconds["pixels"], seconds["store"])}}


def _descend(
    base: Base, text: LinearHead, recipe: Recipe, inputs: torch.Tensor, enter: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    parts = partition(base.encoder.network).last(K)
    twin = own_copy(base.encoder, names_of(parts))
    labels = np.add.outer(np.arange(len(inputs)), np.arange(len(FINDINGS))) % 2
    targets = Targets.of(labels.astype(np.int8), smoothing=recipe.label_smoothing)
    with torch.no_grad():
        head = WarmHead(text, torch.nn.functional.normalize(torch.randn(len(inputs), base.dimension), dim=1), targets)

    def forward(chosen: torch.Tensor) -> torch.Tensor:
        return from_prefix(twin, enter(chosen), k=K).features

    groups = [*fit.encoder_groups(twin, parts, recipe), *head_groups(head, targets, recipe)]
    descend(forward, head, groups, inputs[:, None], targets, recipe, steps=STEPS, seed=0)


if __name__ == "__main__":
    main()
