"""decisions: the scores of a study -> one Prediction for each finding, on the scale that its version has for it.

A learnt finding is decided at its version's threshold. A finding that was not learnt (zero-shot) has a score without a meaning of
its own: its rank among the hospital's own studies decides, where the finding may be called no more often than a stated rate. The
rank's likelihood is that of a binormal model: the normal scores of present studies lie `separation` standard deviations above those
of absent ones, and a stated prior gives the share of present ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import numpy as np

from pipeline.domain import (
    FINDINGS,
    Decision,
    ModelVersion,
    NotAssessedReason,
    Prediction,
    ReferenceDistribution,
    Scale,
    Scores,
)

ALL_VIEWS = ""
"""Key of `ReferenceDistribution.scores`: the studies of all views."""
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_UNITS_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_NORMAL = NormalDist()
_SMALLEST = 1e-6  # a likelihood is kept this far from 0 and 1, so that its log-odds are finite


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionPolicy:
    """`[decision]` of the configuration."""

    min_reference_studies: int = 200  # studies scored before a rank is told; also of a view that has ranks of its own
    max_reference_studies: int = 2000  # newest studies that a reference distribution holds
    priors: Mapping[str, float] = field(default_factory=dict)  # finding -> stated prevalence
    call_rates: Mapping[str, float] = field(default_factory=dict)  # finding -> share of studies in which it may be called
    assumed_auc: float = 0.7  # of a finding that was not learnt
    min_age_years: int = 16  # younger patients lie outside the scope
    unknown_age: Literal["assess", "withhold"] = "assess"  # a patient whose age the header does not state

    @property
    def separation(self) -> float:
        """Distance of present and absent studies in standard deviations that gives `assumed_auc` (Green and Swets 1966)."""
        return math.sqrt(2) * _NORMAL.inv_cdf(self.assumed_auc)


DEFAULT_POLICY = DecisionPolicy()


def scale_of(version: ModelVersion, finding: str) -> Scale:
    """Return the meaning that a version's scores of a finding have."""
    return Scale(version.scales.get(finding, Scale.RANK))


def ranked_findings(version: ModelVersion) -> list[str]:
    """Return the findings whose scores have a meaning only as ranks."""
    return [finding for finding in FINDINGS if scale_of(version, finding) is Scale.RANK]


def predict_study(
    scores: Scores, version: ModelVersion, reference: ReferenceDistribution | None = None, view: str = ALL_VIEWS
) -> list[Prediction]:
    """Return the predictions of a study in the order of FINDINGS, from its scores [14]. KeyError where a threshold is missing."""
    return [
        _predict_rank(finding, column, float(score), reference, view)
        if scale_of(version, finding) is Scale.RANK
        else _predict_learnt(finding, float(score), version)
        for column, (finding, score) in enumerate(zip(FINDINGS, scores, strict=True))
    ]


def judge_age(patient_age: str, policy: DecisionPolicy) -> NotAssessedReason | None:
    """Return why a patient of this age (VR AS, PS3.5 6.2; "": not stated) lies outside the scope; None: inside."""
    years = _read_years(patient_age)
    if years is None:
        return NotAssessedReason.AGE_UNKNOWN if policy.unknown_age == "withhold" and policy.min_age_years else None
    return NotAssessedReason.AGE if years < policy.min_age_years else None


def _read_years(patient_age: str) -> float | None:
    match = _AGE.fullmatch(patient_age.strip().upper())
    return int(match[1]) / _UNITS_PER_YEAR[match[2]] if match else None


def withhold(predictions: Sequence[Prediction], reason: NotAssessedReason, findings: Sequence[str] = FINDINGS) -> list[Prediction]:
    """Return the predictions with these findings not assessed for this reason. A finding that is not assessed keeps its reason."""
    return [
        _refuse_finding(one.finding, one.score, one.scale, reason, one.reference)
        if one.finding in findings and one.decision is not Decision.NOT_ASSESSED
        else one
        for one in predictions
    ]


def _predict_learnt(finding: str, score: float, version: ModelVersion) -> Prediction:
    excess = log_odds(score) - log_odds(version.thresholds[finding])
    decision = _decide_excess(excess, version.undetermined_margin)
    return Prediction(finding, score, decision, scale_of(version, finding), likelihood=score, excess=excess)


def _decide_excess(excess: float, margin: float) -> Decision:
    """Return PRESENT at or above the operating point, UNDETERMINED within the margin below it, else ABSENT."""
    if excess >= 0:
        return Decision.PRESENT
    return Decision.UNDETERMINED if excess >= -margin else Decision.ABSENT


def _predict_rank(finding: str, column: int, score: float, reference: ReferenceDistribution | None, view: str) -> Prediction:
    if reference is None:
        return _refuse_finding(finding, score, Scale.RANK, NotAssessedReason.NO_REFERENCE, None)
    rank = percentile(score, reference.scores.get(view, reference.scores[ALL_VIEWS])[:, column])
    place, point = _NORMAL.inv_cdf(rank), _NORMAL.inv_cdf(1 - reference.call_rates[finding])
    odds = log_odds(reference.priors[finding]) + reference.separation * place - reference.separation**2 / 2
    excess = reference.separation * (place - point)
    return Prediction(
        finding,
        score,
        Decision.PRESENT if excess >= 0 else Decision.UNDETERMINED,  # a rank is no evidence that a finding is absent
        Scale.RANK,
        likelihood=1 / (1 + math.exp(-odds)),
        percentile=rank,
        excess=excess,
        reference=reference.number,
    )


def _refuse_finding(finding: str, score: float, scale: Scale, reason: NotAssessedReason, reference: int | None) -> Prediction:
    return Prediction(finding, score, Decision.NOT_ASSESSED, scale, reference=reference, reason=reason)


def percentile(score: float, ascending: Scores) -> float:
    """Return the share, in (0, 1), of n reference scores [n] below a score. An equal one counts half, the score itself is one more.

    Above all of them it is 1 - 1 / (2n + 2): n studies cannot tell a rarer rank.
    """
    below, upto = np.searchsorted(ascending, np.float32(score), "left"), np.searchsorted(ascending, np.float32(score), "right")
    return float((below + upto + 1) / (2 * (len(ascending) + 1)))


def log_odds(share: float) -> float:
    """Return the natural log-odds of a share in 0..1, finite."""
    bounded = min(max(share, _SMALLEST), 1 - _SMALLEST)
    return math.log(bounded / (1 - bounded))
