"""Decisions before and after learning: `python -m tests.benchmarks.decisions [--quick] [--site FILE ...] [--json]`.

Phantom hospitals whose look and prevalences nothing was tuned on: three that `--seed` draws, or those of the files. In each the
archive gives the reference distribution, 16 shots of an enriched pool give the labels, and other patients with natural weights the
figures. Compared are raw scores at a threshold of one half (`raw`), the ranks before any label (`before`), and the version that the
daemon makes of 16 shots with a frozen encoder (`after16`), all told by `pipeline.decisions`. As a control the same decisions are
dealt to other studies (`permuted_before`, `permuted_after16`): they must fail the targets. Figures are medians over the hospitals,
and TARGETS are compared with them; the exit status is 0 either way.

Films are rendered once and cached: three hospitals take about an hour of one core, with --quick a quarter of that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adapters.cli.fewshot import default_cache
from adapters.experiment.bases import ChosenBase, demo_base
from adapters.experiment.case_source import CaseSource
from adapters.experiment.feature_cache import load_or_fill_cache
from adapters.experiment.phantom_source import PhantomSizes, natural_source, phantom_source
from adapters.ml.trainer import MIN_CALIBRATION_POSITIVES
from models.classifier.head import LinearHead, zero_shot_head
from models.classifier.prompts import read_prompts
from models.evaluation.cases import Cases, Split
from models.evaluation.decisions import DecisionMeasures, measure_decisions
from models.experiment.draws import draw_supports
from models.published_shares import published_share
from models.training.prevalence import published_prevalence
from models.training.training_round import TrainingData, TrainingPlan, TrainingResult, run_training_round
from pipeline.decisions import ALL_VIEWS, DecisionPolicy, predict_study
from pipeline.domain import FINDINGS, Decision, ModelVersion, Prediction, ReferenceDistribution, Scale, VersionState
from pipeline.references import sort_scores
from tests.benchmarks.output import format_result, prints_result_alone

SHOTS = 16
FULL = PhantomSizes(pool=600, test=500, pool_positives=24, test_positives=24)
QUICK = PhantomSizes(pool=320, test=300, pool_positives=16, test_positives=12)
ARCHIVE_STUDIES, QUICK_ARCHIVE_STUDIES = 500, 260
LOOKS = ("west", "south", "east")
"""Sites that the drawn hospitals build on; their look and prevalences are drawn."""
FACTOR = 4.0
"""Prevalences of a drawn hospital lie within this factor of ChestX-ray14's."""
UNDETERMINED_MARGIN = 0.4
POLICY = DecisionPolicy(priors={finding: published_share(finding) for finding in FINDINGS})
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Hospital:
    """Features of one phantom hospital: [A, D] of its archive, [P, D] of the pool, [T, D] of the test studies."""

    archive: torch.Tensor
    archive_views: npt.NDArray[np.str_]
    pool: torch.Tensor
    pool_cases: Cases
    test: torch.Tensor
    test_cases: Cases


@dataclass(frozen=True)
class Told:
    """Predictions of the test studies, and the rate that calls of each finding are compared with."""

    predictions: Sequence[Sequence[Prediction]]
    rates: Floats

    def measure(self, cases: Cases, rng: np.random.Generator | None = None) -> DecisionMeasures:
        """Measure on these cases; with a generator after dealing the predictions of a study to another one."""
        rows = self.predictions if rng is None else [self.predictions[row] for row in rng.permutation(len(self.predictions))]
        calls = np.array([[one.decision is Decision.PRESENT for one in row] for row in rows])
        rank = np.array([[-np.inf if one.excess is None else one.excess for one in row] for row in rows])
        told = np.array(
            [[one.likelihood if one.scale is Scale.PROBABILITY else np.nan for one in row] for row in rows], dtype=float
        )
        return measure_decisions(calls, rank, told, cases.labels, cases.weight.astype(np.float64), self.rates)


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", action="append", default=[], help="file that describes a phantom hospital; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn hospitals, their films and the supports")
    parser.add_argument("--draws", type=int, default=3, help="supports of each hospital; figures are medians")
    parser.add_argument("--quick", action="store_true", help="fewer films")
    parser.add_argument("--threads", type=int, default=0, help="of each computation; 0: torch's choice")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    base = demo_base()
    sites = options.site or [str(path) for path in draw_sites(options.cache / "hospitals", options.seed)]
    measured = {}
    for site in sites:
        hospital = load_hospital(site, base, quick=options.quick, seed=options.seed, cache=options.cache)
        measured[Path(site).stem] = measure_hospital(hospital, base, draws=options.draws, seed=options.seed)
    result = summarise(measured)
    return format_result(result, as_json=True) if options.json else "\n".join(table(result)) + "\n"


def draw_sites(folder: Path, seed: int) -> list[Path]:
    """Write descriptions of hospitals that nothing was tuned on; return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, look in enumerate(LOOKS):
        rng = np.random.default_rng([seed, number, 16])
        low = {"scatter": rng.uniform(0.05, 0.22), "noise": rng.uniform(0.004, 0.016), "edge_strength": rng.uniform(0, 1.6)}
        width = {"scatter": 0.12, "noise": 0.009, "edge_strength": 0.7}
        described: dict[str, Any] = {key: [round(low[key], 4), round(low[key] + width[key], 4)] for key in low}
        factors = {finding: round(float(FACTOR ** rng.uniform(-1, 1)), 3) for finding in FINDINGS}
        described |= {"name": f"drawn-{seed}-{number}", "based_on": look, "ap_share": round(rng.uniform(0.3, 0.6), 2)}
        described |= {"border": str(rng.choice(["black", "white"])), "prevalence_factors": factors}
        paths.append(folder / f"drawn-{seed}-{number}.json")
        paths[-1].write_text(json.dumps(described, indent=2), "utf-8")
    return paths


def load_hospital(site: str, base: ChosenBase, *, quick: bool, seed: int, cache: Path) -> Hospital:
    """Render the films of a hospital, or take them from the cache, and encode them."""
    learnt = pool_source(site, quick=quick, seed=seed)
    count = QUICK_ARCHIVE_STUDIES if quick else ARCHIVE_STUDIES
    natural = natural_source(site, PhantomSizes(pool=count, test=len(FINDINGS), test_positives=1), film_seed=seed)
    features, own = (_encode(source, base, cache) for source in (learnt, natural))
    cases, split = learnt.cases, learnt.split(learnt.cases)
    archive = natural.split(natural.cases).pool
    return Hospital(
        archive=own[torch.from_numpy(archive)],
        archive_views=natural.cases.view[archive],
        pool=features[torch.from_numpy(split.pool)],
        pool_cases=select_cases(cases, split.pool),
        test=features[torch.from_numpy(split.test)],
        test_cases=select_cases(cases, split.test),
    )


def pool_source(site: str, *, quick: bool, seed: int) -> CaseSource:
    """Return the films of the pool and of the test studies of a hospital."""
    return phantom_source(site, QUICK if quick else FULL, film_seed=seed)


def _encode(source: CaseSource, base: ChosenBase, cache: Path) -> torch.Tensor:
    sys.stderr.write(f"{source.title}\n")
    return load_or_fill_cache(cache, source, base, device=torch.device("cpu"), workers=2).features


def select_cases(cases: Cases, rows: npt.NDArray[np.intp]) -> Cases:
    """Return these rows of the cases."""
    names = ("key", "patient", "labels", "age", "sex", "view", "pixel_sha256", "weight")
    fields = {name: getattr(cases, name)[rows] for name in names}
    return Cases(**fields, findings=cases.findings)


def measure_hospital(hospital: Hospital, base: ChosenBase, *, draws: int, seed: int) -> dict[str, DecisionMeasures]:
    """Return the figures of one hospital: of raw scores, before labels, after 16 shots, and of the permuted controls."""
    text, cases, rng = zero_shot_head(base.encoder, read_prompts()), hospital.test_cases, np.random.default_rng([seed, 99])
    reference = build_reference(hospital, text)
    before = tell_before(hospital, text, reference)
    measured = {
        "raw": tell_raw(hospital, text).measure(cases),
        "before": before.measure(cases),
        "permuted_before": before.measure(cases, rng),
    }
    learnt = [tell_after(hospital, base, text, reference, rows) for rows in draw_rows(hospital, draws, seed)]
    measured["after16"] = take_medians([told.measure(cases) for told in learnt])
    measured["permuted_after16"] = take_medians([told.measure(cases, rng) for told in learnt])
    return measured


def draw_rows(hospital: Hospital, draws: int, seed: int) -> list[npt.NDArray[np.intp]]:
    """Return rows of the pool that hold 16 shots of each finding, for each draw."""
    everything = np.arange(len(hospital.pool_cases))
    split = Split(pool=everything, test=everything[:0])
    return [support.rows for support in draw_supports(hospital.pool_cases, split, shots=[SHOTS], draws=draws, seed=seed)]


def build_reference(hospital: Hospital, text: LinearHead) -> ReferenceDistribution:
    """Return the reference distribution that the daemon makes of the archive."""
    scores = text.scores(hospital.archive).numpy()
    rows: dict[str, list[Any]] = {ALL_VIEWS: list(scores)}
    for row, view in zip(scores, hospital.archive_views, strict=True):
        rows.setdefault(str(view), []).append(row)
    return ReferenceDistribution(
        number=1,
        version=1,
        studies=len(scores),
        made_at=datetime.now(UTC),
        scores=sort_scores(rows, POLICY),
        priors=POLICY.priors,
        call_rates=POLICY.priors,
        separation=POLICY.separation,
    )


def tell_raw(hospital: Hospital, text: LinearHead) -> Told:
    """Tell the softmax as a probability, present from one half on."""
    scores = text.scores(hospital.test).numpy()
    version = _build_version(thresholds=dict.fromkeys(FINDINGS, 0.5), scales=dict.fromkeys(FINDINGS, Scale.PROBABILITY))
    return Told([predict_study(row, version) for row in scores], published_prevalence(FINDINGS))


def tell_before(hospital: Hospital, text: LinearHead, reference: ReferenceDistribution) -> Told:
    """Tell ranks among the archive, before any label."""
    rows = zip(text.scores(hospital.test).numpy(), hospital.test_cases.view, strict=True)
    version = _build_version()
    return Told([predict_study(row, version, reference, str(view)) for row, view in rows], published_prevalence(FINDINGS))


def tell_after(
    hospital: Hospital, base: ChosenBase, text: LinearHead, reference: ReferenceDistribution, rows: npt.NDArray[np.intp]
) -> Told:
    """Tell by the version that these labelled rows of the pool give; findings that it cannot learn stay ranks."""
    data = TrainingData(
        features=hospital.pool[torch.from_numpy(rows)],
        activations=None,
        labels=hospital.pool_cases.labels[rows],
        patients=hospital.pool_cases.patient[rows],
        unlabelled_features=hospital.archive,
        unlabelled_activations=None,
        random_labels=np.zeros((0, len(FINDINGS)), dtype=np.int8),
        published_prevalence=published_prevalence(FINDINGS),
    )
    result = run_training_round(base.encoder, text, data, TrainingPlan(method="stage-1"), lambda work, done, total: None)
    scores = np.where(result.findings, result.head.scores(hospital.test).numpy(), text.scores(hospital.test).numpy())
    version = _build_version(**_describe_learnt(result, data))
    told = [predict_study(row, version, reference, str(view)) for row, view in zip(scores, hospital.test_cases.view, strict=True)]
    return Told(told, np.where(result.findings, result.prevalence, published_prevalence(FINDINGS)))


def _describe_learnt(result: TrainingResult, data: TrainingData) -> dict[str, Any]:
    positives = (data.labels == 1).sum(axis=0)
    learnt = [(column, finding) for column, finding in enumerate(FINDINGS) if result.findings[column]]
    enough = {finding: positives[column] >= MIN_CALIBRATION_POSITIVES for column, finding in learnt}
    return {
        "thresholds": {finding: float(result.thresholds[column]) for column, finding in learnt},
        "scales": {finding: Scale.PROBABILITY if enough[finding] else Scale.BAND for _, finding in learnt},
    }


def _build_version(**fields: Any) -> ModelVersion:
    values: dict[str, Any] = {"number": 1, "state": VersionState.SERVING, "name": "bench", "base": "demo"}
    values |= {"weights_sha256": "0" * 64, "device_uid": "2.25.1", "undetermined_margin": UNDETERMINED_MARGIN}
    return ModelVersion(**values | fields)


def take_medians(measured: Sequence[DecisionMeasures]) -> DecisionMeasures:
    """Return the median of each figure; NaN ones are left out."""
    rows = [asdict(one) for one in measured]
    return DecisionMeasures(**{name: _take_median([row[name] for row in rows]) for name in rows[0]})


def _take_median(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return statistics.median(defined) if defined else float("nan")


TARGETS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "before": {
        "calls_over_reference": (0.5, 1.3),
        "ppv_over_prevalence": (3, np.inf),
        "sensitivity": (0.12, 1),
        "normal_without_call": (0.6, 1),
        "worst_call_over_prior": (0, 3),
    },
    "after16": {
        "calls_over_reference": (0.5, 1.3),
        "ppv_over_prevalence": (5, np.inf),
        "sensitivity": (0.25, 1),
        "normal_without_call": (0.75, 1),
        "calibration_slope": (0.7, 1.4),
        "brier_skill": (0.1, 1),
        "worst_call_over_prior": (0, 3),
    },
}
"""Lowest and highest value of each figure. Calls are compared with the stated rates before labels, later with the truth."""


def find_missed(name: str, measures: DecisionMeasures) -> list[str]:
    """Return the targets of `before` or `after16` that these figures miss."""
    figures = asdict(measures)
    compared = measures.reference_per_study if name == "before" else measures.true_per_study
    figures["calls_over_reference"] = measures.calls_per_study / compared
    return [key for key, (lowest, highest) in TARGETS[name].items() if not lowest <= figures[key] <= highest]


def summarise(measured: Mapping[str, Mapping[str, DecisionMeasures]]) -> dict[str, Any]:
    """Return medians over the hospitals, the targets missed, and the figures of each hospital, JSON-able."""
    names = list(next(iter(measured.values())))
    medians = {name: take_medians([of[name] for of in measured.values()]) for name in names}
    missed = {name: find_missed(name, medians[name]) for name in TARGETS}
    controls = {f"permuted_{name}": find_missed(name, medians[f"permuted_{name}"]) for name in TARGETS}
    return {
        "measures": {name: _round(of) for name, of in medians.items()},
        "missed": missed,
        "missed_by_controls": controls,
        "targets_reached": not any(missed.values()),
        "controls_fail": all(controls.values()),
        "hospitals": {site: {name: _round(of) for name, of in each.items()} for site, each in measured.items()},
    }


def _round(measures: DecisionMeasures) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else round(value, 4) for name, value in asdict(measures).items()}


def table(result: Mapping[str, Any]) -> list[str]:
    """Return the medians as lines of a table, and the targets missed."""
    names = list(result["measures"])
    rows = [f"{'':24}" + "".join(f"{name:>18}" for name in names)]
    for figure in result["measures"]["raw"]:
        values = [result["measures"][name][figure] for name in names]
        rows.append(f"{figure:24}" + "".join(f"{'-' if value is None else format(value, '.3f'):>18}" for value in values))
    missed = [f"{name}: {', '.join(of)}" for name, of in result["missed"].items() if of]
    return [*rows, "", f"targets missed: {'; '.join(missed) or 'none'}", f"permuted controls fail: {result['controls_fail']}"]


if __name__ == "__main__":
    main()
