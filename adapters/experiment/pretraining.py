"""Training of the demonstration encoder: a small CLIP on phantom films of several sites with captions in radiologists' terms.

Films of the unseen site are never trained on; they and held-out films of the other sites only evaluate the result.
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

from adapters.simulator.captions import CaptionStyle, caption
from adapters.simulator.population import Case, enriched_cases, take_films
from adapters.simulator.sites import PRETRAINING_SITES, UNSEEN_SITE
from models import demo
from models.classifier.head import zero_shot_head
from models.classifier.prompts import read_prompts
from models.encoder.architecture import Architecture
from models.encoder.base import library_versions
from models.encoder.encoder import Encoder
from models.evaluation.cases import ABSENT, PRESENT
from models.evaluation.statistics import auc, macro_average
from models.fingerprint import file_sha256
from models.images.preprocess import Preprocess
from models.pretraining.contrastive import ContrastiveRecipe, PretrainingStep, pretrain
from pipeline.domain import FINDINGS

PretrainingProgress = Callable[[str, int, int], None]
"""Called with the phase, the number done and the total."""
ModelInputs = npt.NDArray[np.float16]

TRAINING_SEED, EVALUATION_SEED = 11, 12
"""Added to the seed: evaluation films have other patients than training films."""
EVALUATION_FINDING_SHARE = 0.05
"""Minimum share of each finding among the evaluation films."""
_BATCH = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingPlan:
    """Parameters of the training."""

    films_per_site: int = 4000  # per training site
    min_finding_share: float = 0.055  # minimum share of each finding among them
    evaluation_films: int = 1000  # per site
    film_edge_pixels: int = 256  # of the rendered films; model inputs are smaller
    style: CaptionStyle = field(default_factory=CaptionStyle)
    recipe: ContrastiveRecipe = field(default_factory=ContrastiveRecipe)
    seed: int = 0

    def with_epochs(self, epochs: int) -> PretrainingPlan:
        """Return the same plan with another number of epochs."""
        return replace(self, recipe=replace(self.recipe, epochs=epochs))


def make_encoder(
    plan: PretrainingPlan, out: Path, *, device: torch.device, workers: int, progress: PretrainingProgress
) -> dict[str, Any]:
    """Train the encoder, write weights (float16) and card into `out`, return the card. OSError where `out` cannot be written."""
    out.mkdir(parents=True, exist_ok=True)
    architecture = Architecture.read(demo.ARCHITECTURE)
    preprocess = demo.source(out).preprocess
    cases, model_inputs = training_films(plan, preprocess, workers=workers, progress=progress)

    def on_step(step: PretrainingStep) -> None:
        progress("training", step.number, step.total)

    encoder = pretrain(
        architecture,
        preprocess,
        model_inputs,
        partial(draw_captions, cases, plan),
        recipe=plan.recipe,
        seed=plan.seed,
        device=device,
        on_step=on_step,
    )
    write_weights(encoder, out / demo.WEIGHTS)
    measures = measure_zero_shot(demo.source(out).encoder(), preprocess, plan, workers=workers, progress=progress)
    card = _build_card(plan, architecture, out / demo.WEIGHTS, measures, device)
    (out / demo.CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


def training_films(
    plan: PretrainingPlan, preprocess: Preprocess, *, workers: int, progress: PretrainingProgress
) -> tuple[list[Case], ModelInputs]:
    """Render the films of all training sites: N cases and float16 [N, S, S]."""
    per_finding = round(plan.films_per_site * plan.min_finding_share)
    cases = [
        case
        for site in PRETRAINING_SITES
        for case in enriched_cases(site, plan.films_per_site, seed=TRAINING_SEED + plan.seed, per_finding=per_finding)
    ]
    return cases, render_model_inputs(
        cases, preprocess, plan.film_edge_pixels, workers=workers, progress=partial(progress, "films")
    )


def render_model_inputs(
    cases: Sequence[Case], preprocess: Preprocess, edge: int, *, workers: int, progress: Callable[[int, int], None]
) -> ModelInputs:
    """Render the model input of every case: float16 [N, S, S] in 0..1."""
    model_inputs = np.empty((len(cases), preprocess.size, preprocess.size), dtype=np.float16)
    for row, film in enumerate(take_films(cases, size=(edge, edge), workers=workers)):
        model_inputs[row] = preprocess.make_model_input(film.pixels)[0].numpy()
        progress(row + 1, len(cases))
    return model_inputs


def draw_captions(cases: Sequence[Case], plan: PretrainingPlan, epoch: int) -> list[str]:
    """Return a caption of each case, drawn anew every epoch."""
    rng = np.random.default_rng([plan.seed, epoch])
    return [caption(case.findings, case.view, rng, style=plan.style) for case in cases]


def measure_zero_shot(
    encoder: Encoder, preprocess: Preprocess, plan: PretrainingPlan, *, workers: int, progress: PretrainingProgress
) -> dict[str, dict[str, Any]]:
    """Return, for every site, the zero-shot AUC of each finding and their mean, on films not used in training."""
    head = zero_shot_head(encoder, read_prompts())
    measures = {}
    for site in (*PRETRAINING_SITES, UNSEEN_SITE):
        cases = enriched_cases(
            site,
            plan.evaluation_films,
            seed=EVALUATION_SEED + plan.seed,
            per_finding=round(plan.evaluation_films * EVALUATION_FINDING_SHARE),
        )
        model_inputs = render_model_inputs(
            cases, preprocess, plan.film_edge_pixels, workers=workers, progress=partial(progress, f"measuring at {site}")
        )
        areas = auc(head.logits(_encode_features(encoder, preprocess, model_inputs)).numpy(), _build_labels(cases))
        measures[site] = {
            "mean_auc": round(float(macro_average(areas)), 4),
            "auc": {finding: round(float(area), 4) for finding, area in zip(FINDINGS, areas, strict=True)},
            "films": len(cases),
        }
    return measures


def write_weights(encoder: Encoder, path: Path) -> None:
    """Write the weights as float16 safetensors: half the size, AUCs differ in the fifth decimal. Atomic."""
    part = path.with_name(path.name + ".part")
    halves = {name: tensor.detach().cpu().half().contiguous() for name, tensor in encoder.network.state_dict().items()}
    safetensors.torch.save_file(halves, part, metadata={"format": "pt"})
    part.chmod(0o644)
    part.replace(path)


def _encode_features(encoder: Encoder, preprocess: Preprocess, model_inputs: ModelInputs) -> torch.Tensor:
    batches: Iterable[ModelInputs] = (model_inputs[start : start + _BATCH] for start in range(0, len(model_inputs), _BATCH))
    return torch.cat([encoder.encode_images(preprocess.normalise(torch.from_numpy(batch).float()[:, None])) for batch in batches])


def _build_labels(cases: Sequence[Case]) -> npt.NDArray[np.int8]:
    return np.array([[PRESENT if finding in case.findings else ABSENT for finding in FINDINGS] for case in cases], dtype=np.int8)


def _build_card(
    plan: PretrainingPlan, architecture: Architecture, weights: Path, measures: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    return {
        "name": demo.NAME,
        "notice": demo.NOTICE,
        "made_by": "radclipd experiment pretrain-demo",
        "intended_use": "demonstrations and tests; it has never seen a patient and must not be used for one",
        "architecture": architecture.card,
        "weights": {"file": weights.name, "sha256": file_sha256(weights), "size": weights.stat().st_size, "dtype": "float16"},
        "training_data": {
            "kind": "procedural phantom films with generated captions",
            "sites": list(PRETRAINING_SITES),
            "films": plan.films_per_site * len(PRETRAINING_SITES),
            "at_least_of_each_finding": round(plan.films_per_site * plan.min_finding_share) * len(PRETRAINING_SITES),
            "film_edge_pixels": plan.film_edge_pixels,
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
        "libraries": library_versions(),
    }
