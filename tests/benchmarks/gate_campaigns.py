"""Power and false promotions of the gate: `python -m tests.benchmarks.gate_campaigns [--campaigns 4] [--json]`.

Whole labelling campaigns of the daemon's own functions, on features drawn from a model in place of films: the worklist's selection,
a training round (stage 1), the choice of columns, the comparisons and `may_promote`. Readers miss 10 % of the findings and invent
2 %. The truth is the mean AUC on other studies without reader errors.

`gate_power`: share of the episodes, each from the first night with a candidate truly better than the serving version by more than
.01, that promote a truly better version within three looks. `gate_false`: share of the campaigns that ever promote a candidate
truly worse by more than .01 at a look whose standard error is at most MAX_ERROR; `gate_false_any_error`: at any look. Half of the
campaigns spoil every candidate by noise from night SPOILT_FROM on, so that there are such candidates. `power_by_error`: power and
false promotions against the standard error of the difference, for a normal difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import norm

from adapters.ml.candidate_evaluation import EvaluationCases, ServingColumns, evaluate_candidate
from models.classifier.head import LinearHead
from models.encoder.encoder import Encoder
from models.evaluation.compare import INFERIORITY_MARGIN
from models.evaluation.statistics import auc, macro_average
from models.training.prevalence import published_prevalence
from models.training.training_round import TrainingData, TrainingPlan, TrainingResult, run_training_round
from pipeline.acquisition import CandidateStudies, LabelHistory, SelectedStudy, SelectionPolicy, SelectionReason, select_studies
from pipeline.domain import FINDINGS, Header, StoredFile, StoredInstance, TrainingExample
from pipeline.rules import GatePolicy, learnable_findings, may_promote, selection_weight
from tests.benchmarks.output import format_result, prints_result_alone

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]

CAMPAIGNS, NIGHTS, LIST_SIZE = 8, 30, 20
BETTER = 0.01
"""Difference of the true mean AUC from which on a candidate is better, or worse."""
LOOKS = 3
SPOILT_FROM = 6
SPOILT_BY = 0.02
MAX_ERROR = 0.007
"""Standard error of the paired difference up to which the targets hold."""
ERRORS = np.array([0.005, 0.007, 0.01, 0.015])
LOOK_CORRELATION = 0.9
MISSED, INVENTED = 0.1, 0.02
POOL, TEST, BACKGROUND, DIMENSION = 3000, 3000, 500, 32
MIN_POSITIVES = 3.0
NO_HEADER = Header(sop_instance_uid="", sop_class_uid="", series_instance_uid="", study_instance_uid="", transfer_syntax_uid="")


@dataclass(frozen=True)
class Look:
    """One night: the true difference of the training's result from the serving version, and that of the candidate with the columns
    kept; the gate's estimate of the latter on the findings that both have learnt, with its standard error; the number of the look
    and whether the candidate was promoted.
    """

    night: int
    whole: float
    truth: float
    estimate: float
    error: float
    number: int
    promoted: bool


@dataclass(frozen=True)
class Archive:
    """Studies: features [N, D] of unit length, true labels [N, F]."""

    features: torch.Tensor
    labels: Labels


class Hospital:
    """A model of features: each finding shifts them along its own direction; the text knows each direction more or less."""

    def __init__(self, seed: int) -> None:
        self._rng = rng = np.random.default_rng([seed, 1])
        directions = rng.normal(size=(len(FINDINGS), DIMENSION))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self._shifts = directions * rng.uniform(0.7, 2.4, len(FINDINGS))[:, None]  # AUC of the best score: .69 to .95
        trust = rng.uniform(-0.2, 0.8, len(FINDINGS))[:, None]
        text = trust * directions + np.sqrt(1 - trust**2) * rng.normal(size=directions.shape) / np.sqrt(DIMENSION)
        self.text = LinearHead.from_weights(torch.from_numpy(np.pad(text, ((0, 0), (1, 0)))), torch.zeros(len(FINDINGS)))
        prevalence = published_prevalence(FINDINGS)
        self.pool = self._draw_archive(POOL, prevalence)
        self.background = self._draw_archive(BACKGROUND, prevalence)
        self.test = self._draw_archive(TEST, np.maximum(prevalence, 0.08))

    def _draw_archive(self, studies: int, prevalence: Floats) -> Archive:
        labels = (self._rng.random((studies, len(FINDINGS))) < prevalence).astype(np.int8)
        points = self._rng.normal(size=(studies, DIMENSION)) + labels @ self._shifts
        points = np.pad(points, ((0, 0), (1, 0)), constant_values=5.0)
        return Archive(torch.from_numpy(points / np.linalg.norm(points, axis=1, keepdims=True)).float(), labels)

    def true_auc(self, logits: Floats) -> float:
        """Return the mean AUC of logits [T, F] of the test studies."""
        return float(macro_average(auc(logits, self.test.labels)))


@dataclass
class ServedVersion:
    """The serving version: its logits of pool [N, F] and test [T, F], its out-of-fold scores by row of the pool, learnt columns."""

    name: str
    pool: Floats
    test: Floats
    learnt: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(len(FINDINGS), dtype=bool))
    out_of_fold: dict[int, Floats] = field(default_factory=dict)

    def columns(self, rows: Sequence[int]) -> ServingColumns | None:
        """Return the columns on these rows of the pool, as the trainer does."""
        if not self.out_of_fold:
            return None
        scores = self.pool[rows].copy()
        for place, row in enumerate(rows):
            if row in self.out_of_fold:
                scores[place, self.learnt] = self.out_of_fold[row][self.learnt]
        return ServingColumns(self.name, scores, self.learnt, np.ones(len(FINDINGS), dtype=bool))


class Campaign:
    """One hospital's nights. `spoilt`: from night SPOILT_FROM on every candidate is made worse by SPOILT_BY."""

    def __init__(self, seed: int, *, spoilt: bool) -> None:
        self._hospital, self._spoilt, self._seed = Hospital(seed), spoilt, seed
        self._rng = np.random.default_rng([seed, 2])
        truth = self._hospital.pool.labels
        chance = self._rng.random(truth.shape)
        self._read_labels = np.where(truth == 1, chance >= MISSED, chance < INVENTED).astype(np.int8)
        text = [
            self._hospital.text.logits(part.features).numpy().astype(np.float64)
            for part in (self._hospital.pool, self._hospital.test)
        ]
        self._zero_shot = ServedVersion("zero-shot", text[0], text[1])
        self._serving = self._zero_shot
        self._views = np.where(self._rng.random(POOL) < 0.4, "AP", "PA")
        self._picks: dict[int, SelectedStudy] = {}
        self._looks = 0

    def run(self, nights: int) -> Iterator[Look]:
        """Yield the looks, one a night; no look on nights without a finding to learn."""
        for night in range(1, nights + 1):
            self._read_list(night)
            look = self._look(night)
            if look is not None:
                yield look

    def _read_list(self, night: int) -> None:
        unread = np.array([row for row in range(POOL) if row not in self._picks])
        scores = 1 / (1 + np.exp(-self._serving.pool))
        zero_shot = np.full((len(unread), len(FINDINGS)), np.nan)
        if self._serving is not self._zero_shot:
            zero_shot = 1 / (1 + np.exp(-self._zero_shot.pool[unread]))
        candidates = CandidateStudies(unread.astype(str), self._views[unread], scores[unread], zero_shot)
        trained = self._training_rows()
        searched, found = np.zeros(len(FINDINGS)), np.zeros(len(FINDINGS))
        for row, pick in self._picks.items():
            if pick.reason is SelectionReason.POSITIVES:
                column = FINDINGS.index(pick.finding)
                searched[column] += 1
                found[column] += self._read_labels[row, column]
        history = LabelHistory(
            positives=self._read_labels[trained].sum(axis=0).astype(np.float64),
            searched=searched,
            search_positives=found,
            read_scores=scores[list(self._picks)],
        )
        for pick in select_studies(candidates, history, SelectionPolicy(), count=LIST_SIZE, seed=1000 * self._seed + night):
            self._picks[int(unread[pick.row])] = pick

    def _training_rows(self) -> list[int]:
        return sorted(row for row, pick in self._picks.items() if pick.reason is not SelectionReason.MONITORING)

    def _look(self, night: int) -> Look | None:
        rows = self._training_rows()
        labels = self._read_labels[rows].copy()
        learnable = self._find_learnable(labels)
        labels[:, [finding not in learnable for finding in FINDINGS]] = -1
        if not (labels == 1).any():
            return None
        patients = np.array(rows).astype(str)
        weights = np.array([selection_weight(self._picks[row].probability) for row in rows])
        result, served = self._train(rows, labels, patients, weights)
        if self._spoilt and night >= SPOILT_FROM:
            result, served = self._spoil(result, served, rows)
        zero_shot = self._zero_shot.pool[rows]
        cases = EvaluationCases(labels, patients, weights)
        self._looks += 1
        required = GatePolicy().required_confidence(self._looks)
        evaluated = evaluate_candidate(result, zero_shot, self._serving.columns(rows), cases, required=required, seed=night)
        whole = self._measure_gain(self._keep_columns(served, result, night))
        served = self._keep_columns(served, evaluated.result, night)
        served.out_of_fold = dict(zip(rows, evaluated.out_of_fold, strict=True))
        served.learnt = np.asarray(np.isfinite(evaluated.out_of_fold).any(axis=0))
        promoted = may_promote(evaluated.comparisons, GatePolicy(), look=self._looks).passed
        last = evaluated.comparisons[-1]
        look = Look(
            night, whole, self._measure_gain(served), last.candidate - last.other, last.standard_error, self._looks, promoted
        )
        if promoted:
            self._serving, self._looks = served, 0
        return look

    def _find_learnable(self, labels: Labels) -> tuple[str, ...]:
        instance = StoredInstance(NO_HEADER, StoredFile("", "", 0), datetime.now(UTC))
        examples = [
            TrainingExample(str(row), str(row), instance, tuple(int(target) for target in targets))
            for row, targets in enumerate(labels)
        ]
        return learnable_findings(examples, min_positives=MIN_POSITIVES).findings

    def _measure_gain(self, candidate: ServedVersion) -> float:
        return self._hospital.true_auc(candidate.test) - self._hospital.true_auc(self._serving.test)

    def _train(
        self, rows: Sequence[int], labels: Labels, patients: npt.NDArray[np.str_], weights: Floats
    ) -> tuple[TrainingResult, ServedVersion]:
        hospital = self._hospital
        monitored = [row for row, pick in self._picks.items() if pick.reason is SelectionReason.MONITORING]
        data = TrainingData(
            features=hospital.pool.features[list(rows)],
            activations=None,
            labels=labels,
            patients=patients,
            unlabelled_features=hospital.background.features,
            unlabelled_activations=None,
            random_labels=self._read_labels[monitored],
            published_prevalence=published_prevalence(FINDINGS),
            weights=weights,
        )
        plan = TrainingPlan(method="stage-1")
        no_encoder = cast("Encoder", None)  # stage 1 trains on features alone
        result = run_training_round(no_encoder, hospital.text, data, plan, lambda what, done, total: None)
        logits = [result.head.logits(part.features).numpy().astype(np.float64) for part in (hospital.pool, hospital.test)]
        return result, ServedVersion(f"version of night {len(self._picks) // LIST_SIZE}", logits[0], logits[1])

    def _spoil(self, result: TrainingResult, served: ServedVersion, rows: Sequence[int]) -> tuple[TrainingResult, ServedVersion]:
        """Add noise to the candidate's scores, as much as makes it SPOILT_BY worse than the serving version."""
        wanted = self._hospital.true_auc(self._serving.test) - SPOILT_BY
        noise = [self._rng.normal(size=logits.shape) for logits in (served.pool, served.test)]
        low, high = 0.0, 8.0
        for _ in range(12):
            size = (low + high) / 2
            worse = self._hospital.true_auc(served.test + size * noise[1]) < wanted
            low, high = (low, size) if worse else (size, high)
        own = size * noise[0][list(rows)]
        result = replace(
            result, out_of_fold_scores=_shift(result.out_of_fold_scores, own), nested_scores=_shift(result.nested_scores, own)
        )
        return result, replace(served, pool=served.pool + size * noise[0], test=served.test + size * noise[1])

    def _keep_columns(self, served: ServedVersion, result: TrainingResult, night: int) -> ServedVersion:
        """Return the candidate with the serving version's columns of all findings that it does not learn."""
        pool, test = (
            np.where(result.findings, own, kept)
            for own, kept in ((served.pool, self._serving.pool), (served.test, self._serving.test))
        )
        return ServedVersion(f"version of night {night}", pool, test)


def _shift(scores: Floats, shift: Floats) -> Floats:
    """Return the log-odds of probabilities plus a shift: rankings alone are compared."""
    clipped = scores.clip(1e-12, 1 - 1e-12)
    return np.asarray(np.log(clipped / (1 - clipped)) + shift)


def measure(campaigns: int = CAMPAIGNS, nights: int = NIGHTS, *, seed: int = 0) -> dict[str, Any]:
    """Return `gate_power` and `gate_false` with their basis. Half of the campaigns spoil their candidates."""
    honest = [list(Campaign(seed + number, spoilt=False).run(nights)) for number in range((campaigns + 1) // 2)]
    spoilt = [list(Campaign(seed + 1000 + number, spoilt=True).run(nights)) for number in range(campaigns // 2)]
    episodes = [episode for looks in honest for episode in find_episodes(looks)]
    looks = [look for campaign in honest + spoilt for look in campaign]
    bad = [[look for look in campaign if look.promoted and look.truth < -BETTER] for campaign in honest + spoilt]
    compared = [look for look in looks if np.isfinite(look.estimate) and look.error > 0]
    return {
        "gate_power": float(np.mean(episodes)) if episodes else None,
        "gate_false": float(np.mean([any(look.error <= MAX_ERROR for look in campaign) for campaign in bad])),
        "gate_false_any_error": float(np.mean([bool(campaign) for campaign in bad])),
        "campaigns": campaigns,
        "episodes": len(episodes),
        "looks": len(looks),
        "promoted": sum(look.promoted for look in looks),
        "worse_looks": sum(look.whole < -BETTER for look in looks),
        "worst_promoted": min((look.truth for look in looks if look.promoted), default=None),
        "bias": float(np.mean([look.estimate - look.truth for look in compared])) if compared else None,
        "standard_error": float(np.median([look.error for look in compared])) if compared else None,
        "power_by_error": power_by_error(),
    }


def find_episodes(looks: Sequence[Look]) -> list[bool]:
    """Return for each episode whether a truly better version was promoted within LOOKS looks. An episode that the last night cuts
    short and that has promoted none is left out.
    """
    found, start = [], 0
    while start < len(looks):
        if looks[start].whole <= BETTER:
            start += 1
            continue
        window = looks[start : start + LOOKS]
        promoted = next((place for place, look in enumerate(window) if look.promoted and look.truth > 0), None)
        if promoted is not None or len(window) == LOOKS:
            found.append(promoted is not None)
        start += LOOKS if promoted is None else promoted + 1
    return found


def power_by_error(resamples: int = 20000, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return standard error -> power within LOOKS looks for a candidate better by BETTER, and false promotions in NIGHTS looks at
    candidates worse by BETTER. The estimates of successive looks are normal with LOOK_CORRELATION.
    """
    rng, policy = np.random.default_rng(seed), GatePolicy()
    own = rng.normal(size=(resamples, NIGHTS))
    noise = own.copy()
    for look in range(1, NIGHTS):
        noise[:, look] = LOOK_CORRELATION * noise[:, look - 1] + np.sqrt(1 - LOOK_CORRELATION**2) * own[:, look]
    limits = norm.ppf([policy.required_confidence(look) for look in range(1, NIGHTS + 1)])
    found = {}
    for error in ERRORS:
        passed = {
            name: (truth + error * noise + INFERIORITY_MARGIN) / error >= limits
            for name, truth in (("better", BETTER), ("worse", -BETTER))
        }
        found[f"{error:g}"] = {
            "power": float(passed["better"][:, :LOOKS].any(axis=1).mean()),
            "false": float(passed["worse"].any(axis=1).mean()),
        }
    return found


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--campaigns", type=int, default=CAMPAIGNS)
    parser.add_argument("--nights", type=int, default=NIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    return format_result(measure(options.campaigns, options.nights, seed=options.seed), as_json=options.json)


if __name__ == "__main__":
    main()
