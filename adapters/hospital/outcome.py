"""How well scores agree with the hidden truth: AUC of each finding and their mean, as a table and as a plot.

An outcome has one column for each model that scored the same studies; where there are several they stand side by side.
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
from adapters.hospital.truth import Truth
from models.experiment.cases import ABSENT, PRESENT
from models.experiment.statistics import PatientBootstrap, auc, interval, macro
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
        return f"{self.studies} studies of {self.patients} patients"


def scores_of(rows: Iterable[tuple[str, str, float]]) -> dict[str, Floats]:
    """Return scores from rows of v_predictions: study_instance_uid, finding, probability."""
    place = {finding: number for number, finding in enumerate(FINDINGS)}
    scores: dict[str, Floats] = {}
    for study, finding, probability in rows:
        scores.setdefault(study, np.full(len(FINDINGS), np.nan))[place[finding]] = probability
    return scores


def measured(truth: Mapping[str, Truth], columns: Mapping[str, Scores], *, marking: str) -> Outcome | None:
    """Measure each column on the studies whose truth is known and that every column scored; None where there is no such study."""
    studies = sorted(study for study in truth if all(study in scores for scores in columns.values()))
    if not studies or not columns:
        return None
    shown = np.array([[finding in truth[study].findings for finding in FINDINGS] for study in studies])
    patients = np.array([truth[study].patient for study in studies])
    labels = np.where(shown, PRESENT, ABSENT).astype(np.int8)
    bootstrap = PatientBootstrap(patients, resamples=RESAMPLES, seed=SEED)
    return Outcome(
        marking=marking,
        studies=len(studies),
        patients=len(np.unique(patients)),
        positives=tuple(shown.sum(axis=0).tolist()),
        columns=tuple(
            _column(name, np.stack([scores[study] for study in studies]), labels, bootstrap) for name, scores in columns.items()
        ),
    )


def _column(name: str, scores: Floats, labels: npt.NDArray[np.int8], bootstrap: PatientBootstrap) -> Column:
    values, samples = auc(scores, labels), bootstrap.auc(scores, labels)
    low, high = interval(samples)
    findings = tuple(map(Area, values.tolist(), low.tolist(), high.tolist()))
    low, high = interval(macro(samples))
    return Column(name, findings, Area(float(macro(values)), float(low), float(high)))


def table(outcome: Outcome) -> Table:
    """Return the outcome as a table: findings down, models across, the mean with its interval last."""
    title = f"{outcome.title}\n{outcome.measured_on}"
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", min_width=len(outcome.title) + 2)
    made.add_column("finding")
    made.add_column("positives", justify="right")
    for column in outcome.columns:
        made.add_column(column.name, justify="right")
    for number, finding in enumerate(FINDINGS):
        areas = (str(column.findings[number]) for column in outcome.columns)
        made.add_row(finding.replace("_", " "), str(outcome.positives[number]), *areas)
    made.add_section()
    made.add_row(f"mean of {outcome.defined}", "", *(str(column.mean) for column in outcome.columns))
    made.add_row("95 % interval", "", *(column.mean.interval for column in outcome.columns))
    return made


def draw(outcome: Outcome, path: Path, *, films: str) -> Path:
    """Draw the outcome as a PNG and return its path: a dot with its interval for each finding and model. `films`: of what."""
    names = [f"{finding.replace('_', ' ')}  ({count})" for finding, count in zip(FINDINGS, outcome.positives, strict=True)]
    with rc_context(style.RC):
        made = style.figure(7.4, 5.6)
        axes = made.add_subplot()
        axes.axvline(CHANCE, color=style.FAINT, linestyle=style.DASHES[1], linewidth=1.0)
        axes.axhline(len(FINDINGS) - 0.5, color=style.FAINT, linewidth=0.6)
        for number, column in enumerate(outcome.columns):
            _dots(axes, column, INKS[number % len(INKS)], (number - (len(outcome.columns) - 1) / 2) * APART)
        axes.set_yticks(range(len(names) + 1), [*names, "mean"])
        axes.set_ylim(len(names) + 0.6, -0.6)
        axes.set_xlim(0, 1)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("AUC with its 95 % interval, patients resampled; in brackets: studies that have the finding")
        axes.set_title(f"{outcome.title}\n{outcome.measured_on}; {films}")
        made.legend(loc="outside lower right", frameon=False, ncols=len(outcome.columns))
        return style.save(made, path, marking=outcome.marking)


def _dots(axes: Axes, column: Column, ink: str, shift: float) -> None:
    areas = [*column.findings, column.mean]
    places = [row + shift for row, area in enumerate(areas) if not np.isnan(area.value)]
    there = [area for area in areas if not np.isnan(area.value)]
    axes.hlines(places, [area.low for area in there], [area.high for area in there], color=ink, linewidth=1.2)
    label = f"{column.name}, mean {column.mean}"
    axes.plot([area.value for area in there], places, "o", color=ink, markersize=4.5, clip_on=False, label=label)
