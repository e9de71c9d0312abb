"""Finished rows of the benchmark `unfreezing`, in a file, and the measures of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.fingerprint import fingerprint
from models.training.training_round import TrainingPlan

ROUND = "round"


@dataclass(frozen=True)
class TrainedRow:
    """Mean AUC difference to the frozen encoder on one support: of the last `k` blocks with these weights, or of a whole round."""

    encoder: str
    shots: int
    draw: int
    k: int
    weights: str
    gain: float


@dataclass(frozen=True)
class RowStore:
    """The file of finished rows, one JSON object a line."""

    path: Path

    @classmethod
    def of_settings(cls, cache: Path, plan: TrainingPlan, *, site: str, seed: int, quick: bool) -> RowStore:
        """Return the store of all settings that change a row. `seed`: of the site's films."""
        settings = {"plan": plan.card, "site": site, "seed": seed, "quick": quick}
        return cls(cache / f"unfreezing-{fingerprint(settings)[:16]}.jsonl")

    def read(self) -> list[TrainedRow]:
        """Return the finished rows; none without a file."""
        if not self.path.exists():
            return []
        return [TrainedRow(**json.loads(line)) for line in self.path.read_text().splitlines() if line.endswith("}")]

    def append(self, row: TrainedRow) -> None:
        """Add a row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def describe_curve(rows: Sequence[TrainedRow]) -> dict[str, Any]:
    """Return mean, worst draw and number of draws by encoder, shots, k and weights."""
    found: dict[str, Any] = {}
    for key in sorted({(row.encoder, row.shots, row.k, row.weights) for row in rows}):
        gains = [row.gain for row in rows if (row.encoder, row.shots, row.k, row.weights) == key]
        name = f"{key[0]}, {key[1]} shots, k={key[2]}, {key[3]}"
        found[name] = {"mean": round(float(np.mean(gains)), 4), "worst": round(min(gains), 4), "draws": len(gains)}
    return found


def collect_measures(rows: Sequence[TrainedRow]) -> dict[str, Any]:
    """Return the named measures of the whole rounds; None: not measured."""
    rounds = [row for row in rows if row.weights == ROUND]
    few = [row.gain for row in rounds if row.shots <= 2]
    gains: Mapping[str, float] = {
        str(shots): round(float(np.mean([row.gain for row in rounds if row.shots == shots])), 4)
        for shots in sorted({row.shots for row in rounds})
    }
    return {"unfreezing_gain": gains or None, "unfreezing_worst_draw_1_2": min(few) if few else None}
