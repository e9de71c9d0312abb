"""Unusable images in the archive and on the worklist: `python -m tests.benchmarks.unusable_images [--site harbour] [--json]`.

Phantom films of a site at natural prevalence, a share of them spoilt: rotated, inverted, shifted, wrongly collimated, or of another
region of the body. `spoilt_ratio`: their share among the studies that lists ask for (without the random sample), over their share
in the archive, by the check of the daemon; `unchecked_ratio`: without the check. `sound_flagged`: share of sound films that are
called unusable; `worst_finding`: the largest such share among films with any one finding.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adapters.experiment.bases import demo_base
from adapters.simulator import other_films, population
from adapters.simulator.site_file import choose_site
from adapters.simulator.sites import Site
from models.classifier.head import zero_shot_head
from models.classifier.prompts import read_prompts
from pipeline.acquisition import CandidateStudies, LabelHistory, SelectionPolicy, SelectionReason, select_studies
from pipeline.domain import FINDINGS, Image
from pipeline.thumbnails import THUMBNAIL_SIDE, ImageReference
from tests.benchmarks.output import format_result, prints_result_alone

ARCHIVE, ENRICHED, PER_FINDING, EDGE = 500, 400, 25, 128
SPOILT_SHARE = 0.03
LISTS, LIST_SIZE = 6, 20

Rng = np.random.Generator


def rotate(film: Image, rng: Rng) -> Image:
    return np.rot90(film, int(rng.integers(1, 4))).copy()


def invert(film: Image, rng: Rng) -> Image:
    return np.asarray(film.max() + film.min() - film)


def shift(film: Image, rng: Rng) -> Image:
    moved = np.roll(film, rng.choice([-1, 1]) * round(0.4 * len(film)), axis=int(rng.integers(2)))
    return np.asarray(0.6 * moved, dtype=np.float32)


def collimate(film: Image, rng: Rng) -> Image:
    half = len(film) // 2
    row, column = rng.integers(0, half, 2)
    field = np.zeros_like(film)
    field[row : row + half, column : column + half] = film[row : row + half, column : column + half]
    return field


FAULTS: tuple[Callable[[Image, Rng], Image], ...] = (rotate, invert, shift, collimate)


def measure(site: Site, *, seed: int = 0, workers: int = 1, archive: int = ARCHIVE) -> dict[str, Any]:
    """Render, spoil, check and select."""
    rng = np.random.default_rng([seed, 9])
    cases = [case for case in population.natural_cases(site, 6 * archive, seed=seed + 900) if case.visit == 0][:archive]
    enriched = population.enriched_cases(site, ENRICHED, seed=seed + 901, per_finding=PER_FINDING)
    films = [film.pixels for film in population.take_films([*cases, *enriched], size=(EDGE, EDGE), workers=workers)]
    sound = films[len(cases) :]
    spoilt = np.zeros(len(cases), dtype=bool)
    spoilt[rng.choice(len(cases), round(SPOILT_SHARE * len(cases)), replace=False)] = True
    for row in np.flatnonzero(spoilt):
        films[row] = _spoil(films[row], int(row), site, rng)
    base = demo_base()
    inputs = torch.stack([base.preprocess.make_model_input(film) for film in films[: len(cases)]])
    thumbnails = [_make_thumbnail(base.preprocess.make_model_input(film)) for film in films]
    distances = ImageReference.of_archive(thumbnails[: len(cases)]).distances(thumbnails)
    flagged, sound_flagged = distances[: len(cases)] > 1, distances[len(cases) :] > 1
    with torch.inference_mode():
        features = base.encoder.encode_images(base.preprocess.normalise(inputs))
        scores = zero_shot_head(base.encoder, read_prompts()).scores(features).numpy().astype(np.float64)
    weight = np.array([case.weight for case in enriched])
    shows = np.array([[finding in case.findings for finding in FINDINGS] for case in enriched])
    return {
        "spoilt_ratio": _ask(scores, spoilt, ~flagged, seed) / float(spoilt.mean()),
        "unchecked_ratio": _ask(scores, spoilt, np.ones_like(flagged), seed) / float(spoilt.mean()),
        "found": float(flagged[spoilt].mean()),
        "sound_flagged": float(np.average(sound_flagged, weights=weight)),
        "worst_finding": float(
            max(np.average(sound_flagged, weights=weight * shows[:, column]) for column in range(len(FINDINGS)))
        ),
        "films": len(cases) + len(sound),
    }


def _spoil(film: Image, row: int, site: Site, rng: Rng) -> Image:
    kind = int(rng.integers(len(FAULTS) + 2))
    if kind < len(FAULTS):
        return FAULTS[kind](film, rng)
    if kind == len(FAULTS):
        return other_films.lateral(row, size=(EDGE, EDGE), site=site).pixels
    region = list(other_films.OTHER_REGION_FILMS.values())[int(rng.integers(len(other_films.OTHER_REGION_FILMS)))]
    return region(row, size=(EDGE, EDGE), site=site).pixels


def _make_thumbnail(model_input: torch.Tensor) -> bytes:
    tile = torch.nn.functional.adaptive_avg_pool2d(model_input, THUMBNAIL_SIDE)
    return (255 * tile).round().to(torch.uint8).numpy().tobytes()


def _ask(scores: npt.NDArray[np.float64], spoilt: npt.NDArray[np.bool_], usable: npt.NDArray[np.bool_], seed: int) -> float:
    """Return the share of spoilt films among the studies that LISTS lists ask for, the random sample left out."""
    asked: list[int] = []
    free = usable.copy()
    for number in range(LISTS):
        rows = np.flatnonzero(free)
        candidates = CandidateStudies(
            rows.astype(str), np.full(len(rows), "PA"), scores[rows], np.full((len(rows), len(FINDINGS)), np.nan)
        )
        none = np.zeros(len(FINDINGS))
        history = LabelHistory(positives=none, searched=none, search_positives=none, read_scores=scores[asked])
        for pick in select_studies(candidates, history, SelectionPolicy(), count=LIST_SIZE, seed=seed * 100 + number):
            free[rows[pick.row]] = False
            if pick.reason is not SelectionReason.MONITORING:
                asked.append(int(rows[pick.row]))
    return float(spoilt[asked].mean())


@prints_result_alone
def main(arguments: Sequence[str] | None = None) -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", default="west", help="a site of the simulator, or a file that describes one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    measured = measure(choose_site(options.site), seed=options.seed, workers=options.workers)
    return format_result(measured, as_json=options.json)


if __name__ == "__main__":
    main()
