"""A candidate against another version within groups of patients: view, sex, age and scanner, as the headers state them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from adapters.ml.measures import LabelMatrix, Patients, ScoreMatrix, json_number
from models.evaluation.compare import compare
from models.evaluation.statistics import CONFIDENCE_LEVEL
from pipeline.domain import Header

MIN_GROUP_PATIENTS = 10
"""Patients from which on a group is compared by itself."""
AGE_GROUPS = ((18, "below 18"), (40, "18 to 39"), (65, "40 to 64"))
OLDEST_GROUP = "65 and above"
"""Groups by PatientAge: the upper bounds in years, and the group above."""
_RESAMPLES = 200

Groups = Mapping[str, npt.NDArray[np.str_]]
"""Attribute, such as "sex", -> the group of each image [n]; "": not stated."""


@dataclass(frozen=True)
class GroupComparison:
    """Mean AUCs of a candidate and another version in one group, with the 95 % interval of the difference.

    `worse`: the candidate ranks significantly worse, at 95 % for all groups together.
    """

    against: str
    attribute: str
    group: str
    cases: int
    patients: int
    candidate: float
    other: float
    lower: float
    upper: float
    worse: bool

    @property
    def card(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: json_number(value) if isinstance(value, float) else value for name, value in asdict(self).items()}


def groups_of(headers: Sequence[Header]) -> Groups:
    """Return the groups of the images with these headers."""
    return {
        "view": _to_names(header.view_position.strip().upper() for header in headers),
        "sex": _to_names(header.patient_sex if header.patient_sex in ("F", "M", "O") else "" for header in headers),
        "age": _to_names(age_group(header.patient_age) for header in headers),
        "scanner": _to_names(header.manufacturer_model_name.strip() for header in headers),
    }


def age_group(patient_age: str) -> str:
    """Return the group of a PatientAge such as 058Y; "" where it is not stated. Ages in months, weeks and days are below 18."""
    stated = re.fullmatch(r"(\d{1,3})([YMWD])", patient_age.strip().upper())
    if stated is None:
        return ""
    years = int(stated[1]) if stated[2] == "Y" else 0
    return next((name for bound, name in AGE_GROUPS if years < bound), OLDEST_GROUP)


def compare_groups(
    against: str,
    first: ScoreMatrix,
    second: ScoreMatrix,
    labels: LabelMatrix,
    patients: Patients,
    groups: Groups,
    *,
    weights: npt.NDArray[np.float64] | None = None,
    seed: int,
) -> list[GroupComparison]:
    """Compare scores [n, F] within each group of MIN_GROUP_PATIENTS patients or more; the same arguments as `compare_scores`."""
    chosen = [
        (attribute, group, rows)
        for attribute, names in groups.items()
        for group in sorted(set(names.tolist()) - {""})
        if len(np.unique(patients[rows := np.flatnonzero(names == group)])) >= MIN_GROUP_PATIENTS
    ]
    certain = norm.ppf(1 - (1 - CONFIDENCE_LEVEL) / 2 / max(len(chosen), 1))  # Bonferroni
    found = []
    for attribute, group, rows in chosen:
        weight = None if weights is None else weights[rows]
        one = compare(first[rows], second[rows], labels[rows], patients[rows], weights=weight, seed=seed, resamples=_RESAMPLES)
        worse = bool(one.first - one.second + certain * one.standard_error < 0)
        found.append(
            GroupComparison(against, attribute, group, one.cases, one.patients, one.first, one.second, one.lower, one.upper, worse)
        )
    return found


def _to_names(values: Iterable[str]) -> npt.NDArray[np.str_]:
    return np.array(list(values), dtype=np.str_)
