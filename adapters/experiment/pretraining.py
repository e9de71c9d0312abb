"""The demonstration encoder, made from nothing: phantom films of several sites, captions in a radiologist's words, a small CLIP.

The films of the unseen site are never trained on; they and held-out films of the other sites only measure the result.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from adapters.simulator.captions import Style, caption
from adapters.simulator.population import Case, enriched, films
from adapters.simulator.sites import PRETRAINING_SITES, UNSEEN_SITE
from models import demo
from models.classifier.head import zero_shot_head
from models.classifier.prompts import read_prompts
from models.encoder.architecture import Architecture
from models.encoder.base import libraries
from models.encoder.encoder import Encoder
from models.evaluation.cases import ABSENT, PRESENT
from models.evaluation.statistics import auc, macro
from models.fingerprint import file_sha256
from models.images.preprocess import Preprocess
from models.pretraining.contrastive import ContrastiveRecipe, Step, pretrain
from pipeline.domain import FINDINGS

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much."""
Squares = npt.NDArray[np.float16]

TRAINING_SEED, MEASURING_SEED = 11, 12
"""Added to the seed: films that measure are of other patients than films that train."""
MEASURED_SHARE = 0.05
"""Of the measured films, the least that show each finding."""
_BATCH = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the encoder is made from."""

    films: int = 4000  # of each site that is trained on
    share: float = 0.055  # of them, the least that show each finding
    measured: int = 1000  # of each site, to measure with
    edge: int = 256  # pixels, of the films that are taken; the encoder sees less
    style: Style = field(default_factory=Style)
    recipe: ContrastiveRecipe = field(default_factory=ContrastiveRecipe)
    seed: int = 0

    def with_epochs(self, epochs: int) -> Plan:
        """Return the same plan with another length of training."""
        return replace(self, recipe=replace(self.recipe, epochs=epochs))


def make_encoder(plan: Plan, out: Path, *, device: torch.device, workers: int, progress: Progress) -> dict[str, Any]:
    """Make the encoder, write weights (float16) and card into `out`, return the card. OSError where `out` cannot be written."""
    out.mkdir(parents=True, exist_ok=True)
    architecture = Architecture.read(demo.ARCHITECTURE)
    preprocess = demo.source(out).preprocess
    cases, squares = training_films(plan, preprocess, workers=workers, progress=progress)

    def on_step(step: Step) -> None:
        progress("training", step.number, step.total)

    encoder = pretrain(
        architecture,
        preprocess,
        squares,
        partial(captions_of, cases, plan),
        recipe=plan.recipe,
        seed=plan.seed,
        device=device,
        on_step=on_step,
    )
    write_weights(encoder, out / demo.WEIGHTS)
    measures = measure(demo.source(out).encoder(), preprocess, plan, workers=workers, progress=progress)
    card = _card(plan, architecture, out / demo.WEIGHTS, measures, device)
    (out / demo.CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


def training_films(plan: Plan, preprocess: Preprocess, *, workers: int, progress: Progress) -> tuple[list[Case], Squares]:
    """Take the films of all sites that are trained on: N cases and float16 [N, S, S]."""
    per_finding = round(plan.films * plan.share)
    cases = [
        case
        for site in PRETRAINING_SITES
        for case in enriched(site, plan.films, seed=TRAINING_SEED + plan.seed, per_finding=per_finding)
    ]
    return cases, squares_of(cases, preprocess, plan.edge, workers=workers, progress=partial(progress, "films"))


def squares_of(
    cases: Sequence[Case], preprocess: Preprocess, edge: int, *, workers: int, progress: Callable[[int, int], None]
) -> Squares:
    """Take the film of every case and make it the encoder's square: float16 [N, S, S] in 0..1."""
    squares = np.empty((len(cases), preprocess.size, preprocess.size), dtype=np.float16)
    for row, film in enumerate(films(cases, size=(edge, edge), workers=workers)):
        squares[row] = preprocess.square(film.pixels)[0].numpy()
        progress(row + 1, len(cases))
    return squares


def captions_of(cases: Sequence[Case], plan: Plan, epoch: int) -> list[str]:
    """Return what is dictated of each case this time: other words every epoch."""
    chance = np.random.default_rng([plan.seed, epoch])
    return [caption(case.findings, case.view, chance, style=plan.style) for case in cases]


def measure(encoder: Encoder, preprocess: Preprocess, plan: Plan, *, workers: int, progress: Progress) -> dict[str, dict[str, Any]]:
    """Return, for every site, the zero-shot AUC of each finding and their mean, on films that nothing was trained on."""
    head = zero_shot_head(encoder, read_prompts())
    found = {}
    for site in (*PRETRAINING_SITES, UNSEEN_SITE):
        cases = enriched(site, plan.measured, seed=MEASURING_SEED + plan.seed, per_finding=round(plan.measured * MEASURED_SHARE))
        squares = squares_of(cases, preprocess, plan.edge, workers=workers, progress=partial(progress, f"measuring at {site}"))
        areas = auc(head.logits(_features(encoder, preprocess, squares)).numpy(), _labels(cases))
        found[site] = {
            "mean_auc": round(float(macro(areas)), 4),
            "auc": {finding: round(float(area), 4) for finding, area in zip(FINDINGS, areas, strict=True)},
            "films": len(cases),
        }
    return found


def write_weights(encoder: Encoder, path: Path) -> None:
    """Write the weights as float16 safetensors: half the size, and AUCs that differ in the fifth place. Atomic."""
    part = path.with_name(path.name + ".part")
    halves = {name: tensor.detach().cpu().half().contiguous() for name, tensor in encoder.network.state_dict().items()}
    safetensors.torch.save_file(halves, part, metadata={"format": "pt"})
    part.chmod(0o644)
    part.replace(path)


def _features(encoder: Encoder, preprocess: Preprocess, squares: Squares) -> torch.Tensor:
    batches: Iterable[Squares] = (squares[start : start + _BATCH] for start in range(0, len(squares), _BATCH))
    return torch.cat([encoder.encode_images(preprocess.normalised(torch.from_numpy(batch).float()[:, None])) for batch in batches])


def _labels(cases: Sequence[Case]) -> npt.NDArray[np.int8]:
    return np.array([[PRESENT if finding in case.findings else ABSENT for finding in FINDINGS] for case in cases], dtype=np.int8)


def _card(
    plan: Plan, architecture: Architecture, weights: Path, measures: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    return {
        "name": demo.NAME,
        "marking": demo.MARKING,
        "made_by": "radclipd experiment pretrain-demo",
        "intended_use": "demonstrations and tests; it has never seen a patient and must not be used for one",
        "architecture": architecture.card,
        "weights": {"file": weights.name, "sha256": file_sha256(weights), "size": weights.stat().st_size, "dtype": "float16"},
        "training_data": {
            "kind": "procedural phantom films with generated captions",
            "sites": list(PRETRAINING_SITES),
            "films": plan.films * len(PRETRAINING_SITES),
            "at_least_of_each_finding": round(plan.films * plan.share) * len(PRETRAINING_SITES),
            "film_edge_pixels": plan.edge,
            "captions": asdict(plan.style),
        },
        "recipe": {**plan.recipe.card, "seed": plan.seed},
        "measures": {"zero-shot": dict(measures), "unseen_site": UNSEEN_SITE},
        "made_on": {
            "device": device.type,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        },
        "libraries": libraries(),
    }
