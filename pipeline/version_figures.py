"""version_figures: how a version does on labels that it has not learnt from, and what more labels are expected to bring.

Pure functions of labels, predictions and cards. A label counts where its patient had no label when the version was trained. AUC by
mid-ranks, its interval by DeLong (Biometrics 1988;44:837) on the scale of the log-odds. Shares have Wilson's interval (J Am Stat
Assoc 1927;22:209).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import rules
from pipeline.consensus import LabelPolicy, resolve_consensus
from pipeline.domain import ABSENT, FINDINGS, PRESENT, Label, LabelExposure, ModelVersion

Floats = npt.NDArray[np.float64]
Z = 1.959964
"""Of a two-sided 95 % interval."""
MAX_BINS, MIN_BIN_LABELS = 10, 10
"""Bins of a reliability curve, of equal numbers of labels."""
NEXT_STUDIES = 50
"""Studies whose labels the learning curve looks ahead."""
MIN_CURVE_VERSIONS = 3
SAMPLES = (*LabelExposure, rules.MONITORING)
"""Exposures of labels outside the monitoring sample, and the monitoring sample."""


@dataclass(frozen=True, slots=True)
class VersionAuc:
    """AUC with its 95 % interval; None: undefined."""

    value: float | None
    lower: float | None
    upper: float | None
    positives: int
    negatives: int


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Labels of similar stated probability: its mean, and the share that readers call present, with its 95 % interval."""

    stated: float
    observed: float
    lower: float
    upper: float
    labels: int


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A learnt version on the learning curve."""

    version: int
    studies: int  # whose labels it has learnt
    auc: float  # mean of the findings, on held-out patients


@dataclass(frozen=True, slots=True)
class Projection:
    """What the labels of NEXT_STUDIES more studies are expected to add to the mean AUC."""

    gain: float
    error: float  # standard error of the gain


def select_unseen_labels(labels: Iterable[Label], version: ModelVersion, patient_keys: Mapping[str, str]) -> list[Label]:
    """Return the labels of patients without a label that the version could learn from. A zero-shot version has learnt from none.

    Withdrawals stay. The monitoring sample is never learnt from.
    """
    given = list(labels)
    newest = int(version.card.get("learning", {}).get("newest_label", 0))
    learnt = {
        patient_keys.get(label.study_instance_uid, label.study_instance_uid)
        for label in given
        if label.id <= newest and label.selection_reason != rules.MONITORING
    }
    return [label for label in given if patient_keys.get(label.study_instance_uid, label.study_instance_uid) not in learnt]


def split_samples(labels: Iterable[Label]) -> dict[str, list[Label]]:
    """Return the labels by SAMPLES. A withdrawal goes into each, where it finds its label or none."""
    found: dict[str, list[Label]] = {sample: [] for sample in SAMPLES}
    for label in labels:
        if label.state is None:
            for each in found.values():
                each.append(label)
        else:
            found[rules.MONITORING if label.selection_reason == rules.MONITORING else label.exposure].append(label)
    return found


def measure_sample(labels: Iterable[Label], scores: Mapping[tuple[str, str], float], policy: LabelPolicy) -> dict[str, VersionAuc]:
    """Return finding -> AUC of the scores (study, finding) on the consensus of these labels; findings with a label only."""
    values = _pair_values(labels, scores, policy)
    return {finding: estimate_auc(*both) for finding, both in values.items() if len(both[0])}


def measure_reliability(
    labels: Iterable[Label], probabilities: Mapping[tuple[str, str], float], policy: LabelPolicy
) -> dict[str, list[ReliabilityBin]]:
    """Return finding -> reliability curve, of the findings with labels for two bins; "" -> that of all findings together."""
    values = _pair_values(labels, probabilities, policy)
    stated, present = zip(*values.values(), strict=True)
    curves = {"": _bin_values(np.concatenate(stated), np.concatenate(present))}
    curves |= {finding: _bin_values(*both) for finding, both in values.items()}
    return {name: bins for name, bins in curves.items() if len(bins) > 1}


def estimate_auc(scores: Floats, present: npt.NDArray[np.bool_]) -> VersionAuc:
    """Return the AUC of scores [n] for flags [n]."""
    positive, negative = np.sort(scores[present]), np.sort(scores[~present])
    counts = len(positive), len(negative)
    if not all(counts):
        return VersionAuc(None, None, None, *counts)
    above, below = _share_below(positive, negative), 1 - _share_below(negative, positive)
    value = float(above.mean())
    variance = sum(float(each.var(ddof=1)) / len(each) for each in (above, below)) if min(counts) > 1 else 0.0
    if not 0 < value < 1 or variance == 0:
        return VersionAuc(value, None, None, *counts)
    centre, width = math.log(value / (1 - value)), Z * math.sqrt(variance) / (value * (1 - value))
    lower, upper = (1 / (1 + math.exp(-(centre + sign * width))) for sign in (-1, 1))
    return VersionAuc(value, lower, upper, *counts)


def average_auc(found: Mapping[str, VersionAuc]) -> float | None:
    """Return the mean AUC of the findings that have one."""
    values = [each.value for each in found.values() if each.value is not None]
    return sum(values) / len(values) if values else None


def list_curve_points(versions: Iterable[ModelVersion]) -> list[CurvePoint]:
    """Return the learnt versions in order of their studies; of each its comparison with zero-shot on held-out patients."""
    points = []
    for version in versions:
        learning: Mapping[str, Any] = version.card.get("learning", {})
        compared = [one for one in learning.get("comparisons", ()) if one["against"] == "zero-shot" and not one["monitoring"]]
        if learning.get("films") and compared and compared[0]["candidate"] is not None:
            points.append(CurvePoint(version.number, int(learning["films"]), float(compared[0]["candidate"])))
    return sorted(points, key=lambda point: (point.studies, point.version))


def project_curve(points: Sequence[CurvePoint]) -> Projection | None:
    """Return the expected gain of NEXT_STUDIES more, by least squares of AUC = a - b / sqrt(studies).

    An error that falls with the root of the sample is the usual law of learning curves (Figueroa et al., BMC Med Inform Decis Mak
    2012;12:8, with its exponent held at one half, since versions are few). None below MIN_CURVE_VERSIONS of different sizes.
    """
    if len({point.studies for point in points}) < MIN_CURVE_VERSIONS:
        return None
    size = np.array([point.studies for point in points], dtype=np.float64)
    auc, x = np.array([point.auc for point in points]), 1 / np.sqrt(size)
    spread = x - x.mean()
    slope = float(spread @ auc / (spread @ spread))
    residuals = auc - auc.mean() - slope * spread
    error = math.sqrt(float(residuals @ residuals) / (len(points) - 2) / float(spread @ spread))
    step = 1 / math.sqrt(size.max() + NEXT_STUDIES) - 1 / math.sqrt(size.max())
    return Projection(gain=slope * step, error=error * abs(step))


def _pair_values(
    labels: Iterable[Label], values: Mapping[tuple[str, str], float], policy: LabelPolicy
) -> dict[str, tuple[Floats, npt.NDArray[np.bool_]]]:
    """Return finding -> values [n] and flags [n], present or not, of the studies that have a value and a clear consensus."""
    consensus = resolve_consensus(labels, policy)
    targets = consensus.targets(consensus.studies)
    paired = {}
    for column, finding in enumerate(FINDINGS):
        known = [
            (values[study, finding], target == PRESENT)
            for study, target in zip(consensus.studies, targets[:, column], strict=True)
            if target in (PRESENT, ABSENT) and (study, finding) in values
        ]
        paired[finding] = (
            np.array([value for value, _ in known], dtype=np.float64),
            np.array([flag for _, flag in known], dtype=bool),
        )
    return paired


def _share_below(values: Floats, sorted_others: Floats) -> Floats:
    """Return for each value the share of the others below it, ties by half."""
    low, high = (np.searchsorted(sorted_others, values, side=side) for side in ("left", "right"))
    return (low + high) / 2 / len(sorted_others)


def _bin_values(stated: Floats, present: npt.NDArray[np.bool_]) -> list[ReliabilityBin]:
    order = np.argsort(stated, kind="stable")
    count = min(MAX_BINS, len(order) // MIN_BIN_LABELS)
    return [_describe_bin(stated[rows], present[rows]) for rows in np.array_split(order, count)] if count else []


def _describe_bin(stated: Floats, present: npt.NDArray[np.bool_]) -> ReliabilityBin:
    count, share = len(present), float(present.mean())
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    width = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    return ReliabilityBin(float(stated.mean()), share, max(0.0, centre - width), min(1.0, centre + width), count)
