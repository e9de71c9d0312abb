"""Gain of learning on several devices: `python -m tests.benchmarks.devices [--devices 2] [--steps 60] [--rounds 1] [--json]`.

Whole rounds by the real trainer, of all 14 findings with an untrained ViT-B/32, k = 2, five folds and the fit of all films, from an
activation store filled with noise: by one process, and by `--devices` processes, each with one thread. Wall time is the waiting
time of a user on an otherwise idle machine. CPU time shows on any machine the total cost, and so the largest possible gain.
`start` is the time a round waits for its ranks.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from adapters.ml.activation_cache import ActivationCacheSettings
from adapters.ml.distributed.ranks import RankPool
from adapters.ml.trainer import ClipTrainer, TrainerSettings
from models.training.fold_fits import OnSteps
from models.training.recipe import Recipe
from tests.benchmarks.films import ratio, untrained
from tests.benchmarks.output import format_result, prints_result_alone
from tests.benchmarks.retrain import K, Round


def processors() -> float:
    """Return the CPU seconds of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class Side(Round):
    """Rounds on a number of devices."""

    devices = 1

    def _watch(self, what: str, done: int, total: int) -> None:
        if what == "unfreezing" and done:
            self._steps.append(time.monotonic())

    def _learn(self, kept: ActivationCacheSettings | None, clock: Any) -> None:
        settings = TrainerSettings(
            plan=self._plan,
            min_positives=1,
            undetermined_margin=0.05,
            device="cpu",
            devices=self.devices,
            threads=1,
            cache_settings=kept,
        )
        ClipTrainer(self._store, self._films, settings).train(self._course, self._watch)

    def on(self, devices: int) -> tuple[float, float, float]:
        """One round: seconds by the clock, of all processors, and by the clock from the first step of a fit to the last."""
        self.devices, self._steps = devices, list[float]()
        wall, cost = time.monotonic(), processors()
        self._learn(self._kept, time.monotonic)
        return time.monotonic() - wall, processors() - cost, self._steps[-1] - self._steps[0]


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--unlabelled", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store, version = untrained(Path(folder) / "models")
        recipe = Recipe(k=K, max_steps=options.steps)
        side = Side(Path(folder), store, version, recipe, shots=options.shots, unlabelled=options.unlabelled)
        side._fill_with_noise()
        return format_result(measured(side, options.devices, options.rounds), as_json=options.json)


def measured(side: Side, devices: int, rounds: int) -> dict[str, Any]:
    """Alternate rounds on one device and on several."""
    starts: list[float] = []
    gather = RankPool._accept_ranks

    def timed(self: RankPool, on_steps: OnSteps) -> None:
        begun = time.monotonic()
        gather(self, on_steps)
        starts.append(time.monotonic() - begun)

    found: dict[str, list[tuple[float, float, float]]] = {"one": [], "several": []}
    with patch.object(RankPool, "_accept_ranks", timed):
        for _ in range(rounds):
            found["one"].append(side.on(1))
            found["several"].append(side.on(devices))
    kinds = ("wall", "processor", "steps")
    one, several = (dict(zip(kinds, map(list, zip(*found[who], strict=True)), strict=True)) for who in ("one", "several"))
    result = {
        f"seconds_{kind}_{who}": round(statistics.median(of[kind]), 1)
        for kind in kinds
        for who, of in (("one", one), ("several", several))
    }
    return {
        "devices": devices,
        **result,
        "seconds_start": round(statistics.median(starts), 1),
        "ratios": {f"{kind}_one_vs_several": ratio(one[kind], several[kind]) for kind in kinds},
    }


if __name__ == "__main__":
    main()
