"""Heat maps against the true place of findings: `python -m tests.benchmarks.heat_maps [--films N] [--site NAME] [--json]`.

Phantoms of a site that the encoder has not seen, each with one finding whose place the simulator knows. Two figures for each method
and finding. Pointing: the share of films in which the centre of the warmest patch lies on the finding. Energy: the mean share of a
map's heat that lies on it, heat being what exceeds the map's median. The baseline is the lungs themselves: one heat everywhere in
them, and the centre of a lung, either of the two, in place of the warmest patch. A finding may be drawn where the energy of its map
exceeds that of the baseline in more than .95 of bootstrap samples of films, and pointing is not below it. The default is the method
with the higher mean energy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adapters.experiment.bases import demo_base
from adapters.simulator.phantom import LocatedFinding, take_located
from adapters.simulator.sites import PRETRAINING_SITES, SITES
from models.classifier.head import zero_shot_head
from models.classifier.prompts import read_prompts
from models.encoder.activations import compute_activations
from pipeline.domain import FINDINGS
from tests.benchmarks.heat_map_methods import METHODS
from tests.benchmarks.output import format_result, prints_result_alone

FIRST_SEED = 700_000
SIZE = (224, 224)
BLOCKS = 2
"""Blocks after the activations that the daemon keeps."""
SAMPLES, CONFIDENCE = 2000, 0.95

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """Of one method and finding: a value for each film."""

    pointing: Floats
    energy: Floats


@prints_result_alone
def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--films", type=int, default=40, help="films of each finding")
    parser.add_argument("--site", choices=sorted(set(SITES) - set(PRETRAINING_SITES)), default="west")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    return format_result(measure(asked.films, asked.site), as_json=asked.json)


def measure(films: int, site: str) -> dict[str, Any]:
    """Return the figures of each method, the default, and the findings that may be drawn by each."""
    base = demo_base()
    head = zero_shot_head(base.encoder, read_prompts())
    by_method: dict[str, dict[str, Figures]] = {name: {} for name in ("baseline", *METHODS)}
    for column, finding in enumerate(FINDINGS):
        located = [_take_film(finding, number, site) for number in range(films)]
        sys.stderr.write(f"{finding}\n")
        pixels = torch.stack([base.preprocess(np.asarray(one.film.pixels, dtype=np.float32)) for one in located])
        activations = compute_activations(base.encoder, pixels, k=BLOCKS)
        by_method["baseline"][finding] = _measure_baseline(located)
        for name, method in METHODS.items():
            maps = method(base.encoder, head, activations, k=BLOCKS)[:, column].numpy()
            by_method[name][finding] = _measure_maps(maps, located)
    return _summarise(by_method) | {"films": films, "site": site}


def _take_film(finding: str, number: int, site: str) -> LocatedFinding:
    seed = FIRST_SEED + 1000 * FINDINGS.index(finding) + number
    extent = float(np.random.default_rng(seed).uniform(0.4, 1.0))
    return take_located(seed, finding, findings={finding: extent}, size=SIZE, site=SITES[site])


def _measure_maps(maps: npt.NDArray[np.float32], located: Sequence[LocatedFinding]) -> Figures:
    pointing, energy = [], []
    for heat, one in zip(maps, located, strict=True):
        row, column = np.unravel_index(int(heat.argmax()), heat.shape)
        edge = one.mask.shape[0] // heat.shape[0]
        pointing.append(float(one.mask[row * edge : (row + 1) * edge, column * edge : (column + 1) * edge].mean() > 0.0))
        above = np.clip(heat - np.median(heat), 0, None)
        spread = np.kron(above, np.ones((edge, edge), dtype=np.float32))
        energy.append(_share_on(spread, one.mask))
    return Figures(np.array(pointing), np.array(energy))


def _measure_baseline(located: Sequence[LocatedFinding]) -> Figures:
    pointing, energy = [], []
    for one in located:
        halves = np.arange(one.lungs.shape[1]) < one.lungs.shape[1] // 2
        centres = [_find_centre(np.where(half[None, :], one.lungs, 0)) for half in (halves, ~halves)]
        reach = one.mask.shape[0] // 14  # half of a patch of the demo encoder's grid, as the maps have
        hits = [one.mask[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach].any() for y, x in centres]
        pointing.append(float(np.mean(hits)))
        energy.append(_share_on(one.lungs, one.mask))
    return Figures(np.array(pointing), np.array(energy))


def _find_centre(lung: npt.NDArray[np.float32]) -> tuple[int, int]:
    rows, columns = np.indices(lung.shape)
    return int((rows * lung).sum() / lung.sum()), int((columns * lung).sum() / lung.sum())


def _share_on(heat: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> float:
    return float(heat[mask].sum() / max(float(heat.sum()), 1e-9))


def _summarise(by_method: dict[str, dict[str, Figures]]) -> dict[str, Any]:
    means = {
        name: {finding: [round(float(f.pointing.mean()), 3), round(float(f.energy.mean()), 3)] for finding, f in of.items()}
        for name, of in by_method.items()
    }
    mean_energy = {name: float(np.mean([energy for _, energy in of.values()])) for name, of in means.items()}
    drawn = {
        name: [finding for finding in FINDINGS if _is_better(by_method[name][finding], by_method["baseline"][finding])]
        for name in METHODS
    }
    return {
        "default": max(METHODS, key=mean_energy.__getitem__),
        "mean_energy": {name: round(energy, 3) for name, energy in mean_energy.items()},
        "mean_pointing": {name: round(float(np.mean([p for p, _ in of.values()])), 3) for name, of in means.items()},
        "drawn": drawn,
        "pointing_and_energy": means,
    }


def _is_better(of: Figures, baseline: Figures) -> bool:
    """Tell whether energy exceeds the baseline's in more than CONFIDENCE of bootstrap samples, and pointing is not below it."""
    chosen = np.random.default_rng(0).integers(len(of.energy), size=(SAMPLES, len(of.energy)))
    better = float(((of.energy - baseline.energy)[chosen].mean(axis=1) > 0).mean())
    return better > CONFIDENCE and float(of.pointing.mean()) >= float(baseline.pointing.mean())


if __name__ == "__main__":
    main()
