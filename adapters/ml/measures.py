"""Measures of scores on labelled images, as the pipeline's Comparison and as part of a version's card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from models.evaluation.cases import UNKNOWN
from models.evaluation.compare import compare
from models.evaluation.statistics import auc, brier
from models.training.calibration import rates_with_intervals
from pipeline.domain import FINDINGS, Comparison

ScoreMatrix = npt.NDArray[np.floating]
LabelMatrix = npt.NDArray[np.int8]
Patients = npt.NDArray[np.str_]


def compare_scores(
    against: str,
    first: ScoreMatrix,
    second: ScoreMatrix,
    labels: LabelMatrix,
    patients: Patients,
    *,
    seed: int,
    monitoring: bool = False,
) -> Comparison:
    """Compare scores [n, F] with others [n, F] of the same images."""
    found = compare(first, second, labels, patients, seed=seed)
    return Comparison(
        against=against,
        monitoring=monitoring,
        cases=found.cases,
        patients=found.patients,
        candidate=found.first,
        other=found.second,
        lower=found.lower,
        upper=found.upper,
        better=found.share_not_worse,
        worse=tuple(FINDINGS[column] for column in found.worse_columns),
    )


def measure_scores(
    scores: ScoreMatrix, zero_shot: ScoreMatrix, labels: LabelMatrix, patients: Patients, *, thresholds: ScoreMatrix, seed: int
) -> dict[str, dict[str, Any]]:
    """Return the measures of scores [n, F] by finding, JSON-able; sensitivity and specificity at `thresholds` [F].

    They are undefined where a threshold is NaN.
    """
    labels = np.where(np.isfinite(scores), labels, UNKNOWN).astype(np.int8)
    scores = np.where(labels == UNKNOWN, 0.0, scores)
    decided = scores >= thresholds
    columns = {"auc": auc(scores, labels), "auc_zero_shot": auc(zero_shot, labels), "brier": brier(scores, labels)}
    for name, correct, state in (("sensitivity", decided, 1), ("specificity", ~decided, 0)):
        rate = rates_with_intervals(correct, (labels == state) & ~np.isnan(thresholds), patients, seed=seed)
        columns |= {name: rate.value, f"{name}_lower": rate.lower, f"{name}_upper": rate.upper}
    return {
        finding: {
            "positives": int((labels[:, column] == 1).sum()),
            "negatives": int((labels[:, column] == 0).sum()),
            **{name: json_number(values[column]) for name, values in columns.items()},
        }
        for column, finding in enumerate(FINDINGS)
    }


def comparison_card(found: Comparison) -> dict[str, Any]:
    """Return a comparison for the card, JSON-able."""
    numbers = ("candidate", "other", "lower", "upper", "better")
    return {
        "against": found.against,
        "monitoring": found.monitoring,
        "cases": found.cases,
        "patients": found.patients,
        "worse": list(found.worse),
        **{name: json_number(getattr(found, name)) for name in numbers},
    }


def json_number(value: float) -> float | None:
    """Round to six digits; None for NaN, which JSON lacks."""
    return round(float(value), 6) if np.isfinite(value) else None


def select_findings(found: Mapping[str, dict[str, Any]], findings: npt.NDArray[np.bool_]) -> dict[str, dict[str, Any]]:
    """Return the measures of the findings selected by bool [F]."""
    return {finding: found[finding] for column, finding in enumerate(FINDINGS) if findings[column]}
