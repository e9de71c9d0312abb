"""Learning from few labels, on two encoders and three sites: `python -m tests.benchmarks.label_efficiency [--quick] [--json]`.

Encoders: the shipped demonstration model, whose text is weak, and one of the same architecture with good text
(`encoders/good_text`). Sites: two on which settings may be chosen, one of them with a hidden factor (1/4 to 4) on every
prevalence, and one that is only reported. The reported site and its films are drawn by a seed from the fingerprint of all
settings of a training round: other settings, other films. Supports are drawn from an enriched pool, with the labels as they are
and with those of a reader who misses 10 % and invents 2 %. Each row is the product's own training round on the frozen encoder
(`stage-1`, with the choice of columns), scored on other patients; `zero_shot` is the text alone, `head` the learnt columns of all
findings, without the choice. As a control the scores are dealt to other studies.

The rows of 16 shots also give probabilities at natural prevalence: Brier over that of the base rate, calibration error, slope,
sensitivity, false calls, and the prevalence estimate over the truth. `gate_*` come from `gate_campaigns`, `spoilt_ratio` from
`unusable_images` on the reported site. `unfreezing_*` are those that `python -m tests.benchmarks.unfreezing --whole-rounds` has
stored for these settings; null without it.

Films are rendered once and cached; with --quick three sites take about fifteen minutes of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adapters.cli.fewshot import default_cache
from adapters.experiment.bases import ChosenBase, demo_base
from adapters.simulator.site_file import choose_site
from models import demo
from models.classifier.head import LinearHead, zero_shot_head
from models.classifier.prompts import read_prompts
from models.evaluation.cases import Cases, Split
from models.evaluation.decisions import measure_decisions
from models.evaluation.statistics import auc, ece
from models.experiment.draws import draw_supports
from models.fingerprint import fingerprint
from models.training.prevalence import published_prevalence
from models.training.stage_one import stage_one_head
from models.training.training_round import TrainingData, TrainingPlan, TrainingResult, run_training_round
from models.training.whitening import WhiteningTransform
from pipeline.domain import FINDINGS
from tests.benchmarks import gate_campaigns, unfreezing_rows, unusable_images
from tests.benchmarks.decisions import Hospital, draw_sites, load_hospital
from tests.benchmarks.output import format_result, prints_result_alone
from tests.benchmarks.unfreezing_rows import RowStore, TrainedRow, describe_curve

ENCODERS = Path(__file__).parent / "encoders"
SHOTS = (1, 2, 4, 8, 16)
MISSED, INVENTED = 0.1, 0.02
"""Errors of the reader of the spoilt labels."""
HARM = 0.01
"""Loss of AUC against zero-shot from which on a finding counts as harmed."""
PLAN = TrainingPlan(method="stage-1")
TUNING_SITE, TUNING_SEED = "west", 0
CLEAN, ERRORS = "clean", "reader_errors"

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Row:
    """AUC [F] of one support: served, of the learnt columns alone, and of zero-shot; probabilities [T, F] of the served columns."""

    shots: int
    draw: int
    served: Floats
    head: Floats
    zero_shot: Floats
    result: TrainingResult
    probabilities: Floats


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer films and draws, no campaigns of the gate")
    parser.add_argument("--draws", type=int, default=0, help="supports of each row; default 20, with --quick 4")
    parser.add_argument("--campaigns", type=int, default=4, help="simulated campaigns of the gate; 0: none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    draws = options.draws or (4 if options.quick else 20)
    tables: dict[str, Any] = {}
    for role, site, seed in list_sites(options.cache / "hospitals"):
        for name, base in list_encoders().items():
            hospital = load_hospital(site, base, quick=options.quick, seed=seed, cache=options.cache)
            tables.setdefault(f"{role}: {Path(site).stem}", {})[name] = measure_encoder(hospital, base, draws=draws, seed=seed)
    campaigns = 0 if options.quick else options.campaigns
    gate = gate_campaigns.measure(campaigns, gate_campaigns.NIGHTS, seed=report_seed()) if campaigns else {}
    reported = next(table for role, table in tables.items() if role.startswith("reported"))
    site = reported_site(options.cache / "hospitals")
    trained = RowStore.of_settings(
        options.cache, TrainingPlan(), site=Path(site).stem, seed=report_seed(), quick=options.quick
    ).read()
    spoilt = {} if options.quick else unusable_images.measure(choose_site(site), seed=report_seed())
    result = {
        "measures": collect_measures(reported, gate | spoilt, trained),
        "control": collect_measures({name: table["control"] for name, table in reported.items()}, {}, []),
        "settings": {"plan": PLAN.card, "draws": draws, "quick": options.quick, "report_seed": report_seed()},
        "sites": tables,
        "unfreezing": describe_curve(trained),
    }
    return format_result(result, as_json=True) if options.json else "\n".join(list_lines(result)) + "\n"


def report_seed() -> int:
    """Return the seed of the reported site: of the settings, so that nobody chooses it."""
    return int(fingerprint(PLAN.card)[:8], 16)


def list_sites(folder: Path) -> Iterator[tuple[str, str, int]]:
    """Yield role, site and film seed of each site."""
    yield "tuning", TUNING_SITE, TUNING_SEED
    yield "tuning", str(draw_sites(folder, TUNING_SEED)[1]), TUNING_SEED
    yield "reported", reported_site(folder), report_seed()


def reported_site(folder: Path) -> str:
    """Return the file of the reported site, written into this folder."""
    return str(draw_sites(folder, report_seed())[2])


def list_encoders() -> dict[str, ChosenBase]:
    """Return the encoders of weak and of good text."""
    weak = demo_base()
    source = demo.source(ENCODERS / "good_text")
    good = replace(weak, name="good-text", encoder=source.encoder(), sha256=source.provenance()["sha256"])
    return {"weak_text": weak, "good_text": good}


def measure_encoder(hospital: Hospital, base: ChosenBase, *, draws: int, seed: int) -> dict[str, Any]:
    """Return the tables of one encoder at one site, JSON-able."""
    text = zero_shot_head(base.encoder, read_prompts())
    zero_shot = auc(text.scores(hospital.test).numpy(), hospital.test_cases.labels)
    rows = {kind: list(measure_rows(hospital, base, text, kind, draws=draws, seed=seed)) for kind in (CLEAN, ERRORS)}
    rng = np.random.default_rng([seed, 7])
    dealt = replace(hospital, test=hospital.test[torch.from_numpy(rng.permutation(len(hospital.test)))])
    control = {
        kind: list(measure_rows(dealt, base, text, kind, draws=min(draws, 2), seed=seed, shots=(16,))) for kind in (CLEAN, ERRORS)
    }
    everything = fit_all_labels(hospital, text)
    return {
        "zero_shot": round(float(np.nanmean(zero_shot)), 4),
        "all_labels_frozen": round(everything, 4),
        **describe_rows(rows, hospital, everything),
        "control": {"all_labels_frozen": everything, **describe_rows(control, dealt, everything)},
    }


def measure_rows(
    hospital: Hospital, base: ChosenBase, text: LinearHead, kind: str, *, draws: int, seed: int, shots: Sequence[int] = SHOTS
) -> Iterator[Row]:
    """Yield a row for each shot count and draw. Supports are drawn from the labels as the reader gives them."""
    test, truth = hospital.test, hospital.test_cases.labels
    zero_shot = auc(text.scores(test).numpy(), truth)
    whitening = WhiteningTransform.from_features(hospital.archive)
    split = Split(pool=np.arange(len(hospital.pool_cases)), test=np.arange(0))
    for draw in range(draws):
        given = hospital.pool_cases.labels if kind == CLEAN else read_with_errors(hospital.pool_cases.labels, seed=[seed, draw])
        cases = replace(hospital.pool_cases, labels=given)
        supports = draw_supports(cases, split, shots=shots, draws=draw + 1, seed=seed)
        for support in supports[-len(shots) :]:
            data = build_data(hospital, cases, support.rows, whitening)
            result = run_training_round(base.encoder, text, data, PLAN, lambda work, done, total: None)
            served = np.where(result.findings, result.head.scores(test).numpy(), text.scores(test).numpy()).astype(np.float64)
            head = stage_one_head(data.features, data.labels, text, whitening)
            learnt = auc(head.scores(test).numpy(), truth)
            yield Row(support.shots, draw, auc(served, truth), learnt, zero_shot, result, served)


def build_data(hospital: Hospital, cases: Cases, rows: npt.NDArray[np.intp], whitening: WhiteningTransform) -> TrainingData:
    """Return the input of a training round for these rows of the pool."""
    return TrainingData(
        features=hospital.pool[torch.from_numpy(rows)],
        activations=None,
        labels=cases.labels[rows],
        patients=cases.patient[rows],
        unlabelled_features=hospital.archive,
        unlabelled_activations=None,
        random_labels=np.zeros((0, len(FINDINGS)), dtype=np.int8),
        published_prevalence=published_prevalence(FINDINGS),
        whitening=whitening,
    )


def read_with_errors(labels: Labels, *, seed: Sequence[int]) -> Labels:
    """Return labels int8 [n, F] of a reader who misses MISSED of the findings and invents INVENTED."""
    luck = np.random.default_rng(seed).random(labels.shape)
    return np.where(labels == 1, luck >= MISSED, luck < INVENTED).astype(np.int8)


def fit_all_labels(hospital: Hospital, text: LinearHead) -> float:
    """Return the mean AUC of the learnt head with all labels of the pool."""
    whitening = WhiteningTransform.from_features(hospital.archive)
    head = stage_one_head(hospital.pool, hospital.pool_cases.labels, text, whitening)
    return float(np.nanmean(auc(head.scores(hospital.test).numpy(), hospital.test_cases.labels)))


def describe_rows(rows: Mapping[str, Sequence[Row]], hospital: Hospital, everything: float) -> dict[str, Any]:
    """Return the tables of the rows, and the measures of probabilities at 16 shots, JSON-able."""
    found: dict[str, Any] = {
        kind: {str(shots): describe_shots(of) for shots, of in group(each).items()} for kind, each in rows.items()
    }
    clean = [row for row in rows[CLEAN] if row.shots == max(SHOTS)]
    found["probabilities"] = describe_probabilities(clean, hospital)
    found["vs_all_labels_16"] = round(float(np.mean([np.nanmean(row.served) for row in clean]) - everything), 4)
    return found


def group(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Return the rows by shot count."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.shots, []).append(row)
    return found


def describe_shots(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the means over draws of one shot count, and those of each finding."""
    gain = np.array([row.served - row.zero_shot for row in rows])
    learnt = np.array([row.head - row.zero_shot for row in rows])
    return {
        "served": round(float(np.nanmean([row.served for row in rows])), 4),
        "head": round(float(np.nanmean([row.head for row in rows])), 4),
        "gain": round(float(np.nanmean(gain)), 4),
        "worst_draw": round(float(np.nanmean(gain, axis=1).min()), 4),
        "harm": round(float((gain < -HARM).mean()), 4),
        "head_harm": round(float((learnt < -HARM).mean()), 4),
        "learnt": round(float(np.mean([row.result.columns.first.mean() for row in rows])), 4),
        "findings": {finding: round(float(np.nanmean(gain[:, column])), 4) for column, finding in enumerate(FINDINGS)},
    }


def describe_probabilities(rows: Sequence[Row], hospital: Hospital) -> dict[str, Any]:
    """Return the means over draws of the measures of probabilities, at natural prevalence."""
    labels, weights = hospital.test_cases.labels, hospital.test_cases.weight.astype(np.float64)
    share = weights / weights.sum()
    truth = (share[:, None] * (labels == 1)).sum(axis=0)
    each = []
    for row in rows:
        result, told = row.result, row.probabilities
        called = told >= result.thresholds
        measured = measure_decisions(called, told, told, labels, weights, np.maximum(truth, 1e-9))
        brier = (share[:, None] * (told - (labels == 1)) ** 2).sum(axis=0)
        drawn = np.random.default_rng(row.draw).choice(len(share), size=4 * len(share), p=share)  # natural weights for the bins
        ratio = result.prevalence / np.maximum(truth, 1e-9)
        each.append(
            {
                "brier_over_base": float(brier.mean() / (truth * (1 - truth)).mean()),
                "ece": float(np.nanmean(ece(told[drawn], labels[drawn]))),
                "calibration_slope": measured.calibration_slope,
                "sensitivity": measured.sensitivity,
                "false_calls": float((share[:, None] * (called & (labels == 0))).sum()),
                "least_prevalence_ratio": float(ratio.min()),
                "most_prevalence_ratio": float(ratio.max()),
            }
        )
    return {name: round(float(np.nanmean([one[name] for one in each])), 4) for name in each[0]} if each else {}


def collect_measures(
    tables: Mapping[str, Mapping[str, Any]], others: Mapping[str, Any], trained: Sequence[TrainedRow]
) -> dict[str, Any]:
    """Return the named measures of one site, of both encoders together where a measure does not name one; None: not measured.

    `others`: measures of the gate and of unusable images; `trained`: rows of the trained encoder.
    """
    shots = [of for table in tables.values() for of in table[CLEAN].values()]
    weak, good = tables["weak_text"], tables["good_text"]
    many = [str(count) for count in SHOTS if count >= 4]
    probabilities = [table["probabilities"] for table in tables.values()]
    return {
        "good_text_gain_16": good[CLEAN]["16"]["gain"],
        "worst_draw_vs_zero_shot": min(of["worst_draw"] for of in shots),
        "harm_clean": _average_harm(tables, CLEAN, many),
        "harm_reader_errors": _average_harm(tables, ERRORS, many),
        **unfreezing_rows.collect_measures(trained),
        "vs_all_labels_16": _average([table["vs_all_labels_16"] for table in tables.values()]),
        "shots_for_16": find_shots(weak[CLEAN]),
        **{
            name: _average([of[name] for of in probabilities])
            for name in ("brier_over_base", "ece", "calibration_slope", "sensitivity", "false_calls")
        },
        "prevalence_ratio": [
            min(of["least_prevalence_ratio"] for of in probabilities),
            max(of["most_prevalence_ratio"] for of in probabilities),
        ],
        "gate_power": others.get("gate_power"),
        "gate_false": others.get("gate_false"),
        "campaign_240": None,
        "spoilt_ratio": others.get("spoilt_ratio"),
    }


def _average_harm(tables: Mapping[str, Mapping[str, Any]], kind: str, shots: Sequence[str]) -> float:
    return _average([table[kind][count]["harm"] for table in tables.values() for count in shots if count in table[kind]])


def _average(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def find_shots(table: Mapping[str, Mapping[str, float]]) -> float | None:
    """Return the shots at which the served columns reach the 16-shot AUC of the learnt columns alone; None: they do not."""
    wanted, last = table[str(max(SHOTS))]["head"], None
    for count in [shots for shots in SHOTS if str(shots) in table]:
        reached = table[str(count)]["served"]
        if reached >= wanted:
            if last is None:
                return float(count)
            share = (wanted - last[1]) / max(reached - last[1], 1e-9)
            return round(float(last[0] * (count / last[0]) ** share), 2)
        last = (count, reached)
    return None


def list_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the measures and the tables of all sites as lines."""
    lines = [f"{name:28} {value}" for name, value in result["measures"].items()]
    for site, encoders in result["sites"].items():
        for encoder, table in encoders.items():
            lines += ["", f"{site}, {encoder}: zero-shot {table['zero_shot']}, all labels {table['all_labels_frozen']}"]
            for kind in (CLEAN, ERRORS):
                for shots, of in table[kind].items():
                    told = " ".join(
                        f"{name} {of[name]:+.4f}" for name in ("served", "gain", "worst_draw", "harm", "head_harm", "learnt")
                    )
                    lines.append(f"  {kind:14} {shots:>2} {told}")
            lines.append("  probabilities  " + " ".join(f"{name} {value}" for name, value in table["probabilities"].items()))
    return lines


if __name__ == "__main__":
    main()
