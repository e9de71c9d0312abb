"""How well scores agree with the hidden truth: AUC of each finding and their mean, as a table and as a plot.

An outcome has one column for each model that scored the same studies; where there are several they stand side by side, with what
the last has gained on the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from rich import box
from rich.table import Table

from adapters.experiment import style
from adapters.simulator.truth import Truth
from models.evaluation.cases import ABSENT, PRESENT
from models.evaluation.statistics import PatientBootstrap, auc, interval, macro
from pipeline.domain import FINDINGS

Floats = npt.NDArray[np.float64]
Scores = Mapping[str, Floats]
"""Study Instance UID -> float64 [14], the probabilities of FINDINGS in their order; NaN for one that is not there."""

MISSING = "-"
"""Stands where a measure is not defined: a finding that no study has, or every one."""
RESAMPLES, SEED = 1000, 0
CHANCE = 0.5
INKS = (style.INK, *style.COLOURS)
APART = 0.24
"""Of a row's height, between the dots of two columns."""
GAIN = "gain"


@dataclass(frozen=True)
class Area:
    """An AUC with its 95 % interval: patients resampled with all their studies. NaN where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return MISSING if np.isnan(self.value) else f"{self.value:.3f}"

    @property
    def interval(self) -> str:
        """Its interval in words."""
        return MISSING if np.isnan(self.low) else f"{self.low:.3f} to {self.high:.3f}"

    @property
    def signed(self) -> str:
        """Its value as a difference."""
        return MISSING if np.isnan(self.value) else f"{self.value:+.3f}"

    @property
    def signed_interval(self) -> str:
        """Its interval as one of a difference."""
        return MISSING if np.isnan(self.low) else f"{self.low:+.3f} to {self.high:+.3f}"


@dataclass(frozen=True)
class Column:
    """What one model achieved."""

    name: str
    findings: tuple[Area, ...]  # of FINDINGS
    mean: Area  # over the findings where it is defined


@dataclass(frozen=True)
class Outcome:
    """What every model achieved on the same studies."""

    marking: str  # of the models; shows wherever the outcome does
    studies: int
    patients: int
    positives: tuple[int, ...]  # of FINDINGS
    columns: tuple[Column, ...]
    gain: Column | None  # of the last column on the first, resample by resample; None where there is one column
    whose: str = ""  # the studies, in words

    @property
    def defined(self) -> int:
        """How many findings some studies have and some have not."""
        return sum(0 < count < self.studies for count in self.positives)

    @property
    def title(self) -> str:
        """What was measured, of what model."""
        return "AUC against the hidden truth" + (f" ({self.marking})" if self.marking else "")

    @property
    def measured_on(self) -> str:
        """On how much."""
        return f"{self.studies} studies of {self.patients} patients" + (f", {self.whose}" if self.whose else "")


def scores_of(rows: Iterable[tuple[str, str, float]]) -> dict[str, Floats]:
    """Return scores from rows of v_predictions: study_instance_uid, finding, probability."""
    place = {finding: number for number, finding in enumerate(FINDINGS)}
    scores: dict[str, Floats] = {}
    for study, finding, probability in rows:
        scores.setdefault(study, np.full(len(FINDINGS), np.nan))[place[finding]] = probability
    return scores


def measured(truth: Mapping[str, Truth], columns: Mapping[str, Scores], *, marking: str, whose: str = "") -> Outcome | None:
    """Measure each column on the studies whose truth is known and that every column scored; None where there is no such study."""
    studies = sorted(study for study in truth if all(study in scores for scores in columns.values()))
    if not studies or not columns:
        return None
    shown = np.array([[finding in truth[study].findings for finding in FINDINGS] for study in studies])
    patients = np.array([truth[study].patient for study in studies])
    labels = np.where(shown, PRESENT, ABSENT).astype(np.int8)
    bootstrap = PatientBootstrap(patients, resamples=RESAMPLES, seed=SEED)
    stacked = {name: np.stack([scores[study] for study in studies]) for name, scores in columns.items()}
    values = {name: auc(scores, labels) for name, scores in stacked.items()}
    samples = {name: bootstrap.auc(scores, labels) for name, scores in stacked.items()}
    names = list(columns)
    first, last = names[0], names[-1]
    gain = _column(GAIN, values[last] - values[first], samples[last] - samples[first]) if first != last else None
    return Outcome(
        marking=marking,
        studies=len(studies),
        patients=len(np.unique(patients)),
        positives=tuple(shown.sum(axis=0).tolist()),
        columns=tuple(_column(name, values[name], samples[name]) for name in columns),
        gain=gain,
        whose=whose,
    )


def _column(name: str, values: Floats, samples: Floats) -> Column:
    """Of measures [F] and the same on resamples [R, F]."""
    low, high = interval(samples)
    findings = tuple(map(Area, values.tolist(), low.tolist(), high.tolist()))
    low, high = interval(macro(samples))
    return Column(name, findings, Area(float(macro(values)), float(low), float(high)))


def table(outcome: Outcome) -> Table:
    """Return the outcome as a table: findings down, models across, the mean with its interval last."""
    title = f"{outcome.title}\n{outcome.measured_on}"
    width = max(map(len, title.splitlines())) + 2
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", min_width=width)
    made.add_column("finding")
    made.add_column("positives", justify="right")
    for name in [column.name for column in outcome.columns] + ([GAIN, "95 % interval"] if outcome.gain else []):
        made.add_column(name, justify="right")
    for number, finding in enumerate(FINDINGS):
        areas = [str(column.findings[number]) for column in outcome.columns]
        gained = _gained(outcome.gain.findings[number]) if outcome.gain else []
        made.add_row(finding.replace("_", " "), str(outcome.positives[number]), *areas, *gained)
    made.add_section()
    gained = _gained(outcome.gain.mean) if outcome.gain else []
    made.add_row(f"mean of {outcome.defined}", "", *(str(column.mean) for column in outcome.columns), *gained)
    made.add_row("95 % interval", "", *(column.mean.interval for column in outcome.columns))
    return made


def _gained(area: Area) -> list[str]:
    return [area.signed, area.signed_interval]


def draw(outcome: Outcome, path: Path, *, films: str) -> Path:
    """Draw the outcome as a PNG and return its path: a dot with its interval for each finding and model. `films`: of what.

    Where a model has gained on another, what it gained stands beside it.
    """
    with rc_context(style.RC):
        made = style.figure(9.6 if outcome.gain else 7.4, 5.6)
        if outcome.gain:
            axes, beside = made.subplots(1, 2, sharey=True, width_ratios=(5, 3))
            _draw_gain(beside, outcome.gain)
        else:
            axes = made.add_subplot()
        _draw_areas(axes, outcome)
        made.suptitle(f"{outcome.title}\n{outcome.measured_on}; {films}", x=0.01, ha="left", fontsize="medium")
        made.legend(loc="outside lower right", frameon=False, ncols=len(outcome.columns))
        return style.save(made, path, marking=outcome.marking)


def _draw_areas(axes: Axes, outcome: Outcome) -> None:
    names = [f"{finding.replace('_', ' ')}  ({count})" for finding, count in zip(FINDINGS, outcome.positives, strict=True)]
    _frame(axes, CHANCE)
    for number, column in enumerate(outcome.columns):
        label = f"{column.name}, mean {column.mean}"
        _dots(axes, column, INKS[number % len(INKS)], (number - (len(outcome.columns) - 1) / 2) * APART, label)
    axes.set_yticks(range(len(names) + 1), [*names, "mean"])
    axes.set_ylim(len(names) + 0.6, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("AUC with its 95 % interval, patients resampled\n(in brackets: studies that have the finding)")


def _draw_gain(axes: Axes, gain: Column) -> None:
    _frame(axes, 0.0)
    _dots(axes, gain, style.INK, 0.0, None)
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.set_xlabel(f"gain in AUC, its 95 % interval, paired\n(mean {gain.mean.signed}, {gain.mean.signed_interval})")


def _frame(axes: Axes, nothing: float) -> None:
    """Mark the value that is worth nothing, and set the mean apart."""
    axes.axvline(nothing, color=style.FAINT, linestyle=style.DASHES[1], linewidth=1.0)
    axes.axhline(len(FINDINGS) - 0.5, color=style.FAINT, linewidth=0.6)
    axes.grid(visible=False, axis="y")


def _dots(axes: Axes, column: Column, ink: str, shift: float, label: str | None) -> None:
    areas = [*column.findings, column.mean]
    places = [row + shift for row, area in enumerate(areas) if not np.isnan(area.value)]
    there = [area for area in areas if not np.isnan(area.value)]
    axes.hlines(places, [area.low for area in there], [area.high for area in there], color=ink, linewidth=1.2)
    axes.plot([area.value for area in there], places, "o", color=ink, markersize=4.5, clip_on=False, label=label)
