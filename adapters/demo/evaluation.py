"""Evaluation of scores against the hidden truth: AUC of each finding and their mean, as a table and as a plot.

An evaluation has one column per model that scored the same studies; several columns are shown side by side, with the gain of the
last over the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table

from adapters.experiment import plot_style
from adapters.simulator.truth import GroundTruth
from models.evaluation.cases import ABSENT, PRESENT
from models.evaluation.decisions import DecisionMeasures, measure_decisions
from models.evaluation.statistics import PatientBootstrap, auc, macro_average, percentile_interval
from pipeline.domain import FINDINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]
StudyScores = Mapping[str, Floats]
"""Study Instance UID -> float64 [14], the scores of FINDINGS in their order; NaN where missing."""

UNDEFINED = "-"
"""Text of an undefined measure: a finding of no study, or of every study."""
RESAMPLES, SEED = 1000, 0
CHANCE = 0.5
MODEL_COLOURS = (plot_style.INK, *plot_style.COLOURS)
DOT_SPACING = 0.24
"""Distance between the dots of two columns, as a share of the row height."""
GAIN = "gain"


@dataclass(frozen=True)
class AucEstimate:
    """An AUC with its 95 % interval: patients resampled with all their studies. NaN where undefined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return UNDEFINED if np.isnan(self.value) else f"{self.value:.3f}"

    @property
    def interval(self) -> str:
        """The interval as text."""
        return UNDEFINED if np.isnan(self.low) else f"{self.low:.3f} to {self.high:.3f}"

    @property
    def signed_value(self) -> str:
        """The value as a signed difference."""
        return UNDEFINED if np.isnan(self.value) else f"{self.value:+.3f}"

    @property
    def signed_interval(self) -> str:
        """The interval of a signed difference."""
        return UNDEFINED if np.isnan(self.low) else f"{self.low:+.3f} to {self.high:+.3f}"


@dataclass(frozen=True)
class ModelPerformance:
    """AUCs of one model."""

    name: str
    findings: tuple[AucEstimate, ...]  # of FINDINGS
    mean: AucEstimate  # over the findings with a defined AUC


@dataclass(frozen=True)
class DemoEvaluation:
    """AUCs of every model on the same studies."""

    notice: str  # of the models; shown with every table and plot
    studies: int
    patients: int
    positives: tuple[int, ...]  # of FINDINGS
    performances: tuple[ModelPerformance, ...]
    gain: ModelPerformance | None  # of the last column over the first, paired by resample; None for one column
    studies_description: str = ""  # appended to the sample description

    @property
    def defined_findings(self) -> int:
        """Number of findings that are present in some studies and absent in others."""
        return sum(0 < count < self.studies for count in self.positives)

    @property
    def title(self) -> str:
        """Title: measure and notice of the models."""
        return "AUC against the hidden truth" + (f" ({self.notice})" if self.notice else "")

    @property
    def sample_description(self) -> str:
        """Numbers of studies and patients."""
        return f"{self.studies} studies of {self.patients} patients" + (
            f", {self.studies_description}" if self.studies_description else ""
        )


def group_scores(rows: Iterable[tuple[str, str, float]]) -> dict[str, Floats]:
    """Return scores by study from rows of v_predictions: study_instance_uid, finding, score."""
    column = {finding: number for number, finding in enumerate(FINDINGS)}
    scores: dict[str, Floats] = {}
    for study, finding, score in rows:
        scores.setdefault(study, np.full(len(FINDINGS), np.nan))[column[finding]] = score
    return scores


@dataclass(slots=True)
class DecidedStudy:
    """Decisions on one study, of FINDINGS in their order."""

    calls: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(len(FINDINGS), dtype=bool))
    rank: Floats = field(default_factory=lambda: np.full(len(FINDINGS), -np.inf))  # log-odds above the own operating point
    probability: Floats = field(default_factory=lambda: np.full(len(FINDINGS), np.nan))  # NaN: not told as one
    prevalence: Floats = field(default_factory=lambda: np.full(len(FINDINGS), np.nan))  # estimated, or stated prior


StudyDecisions = Mapping[str, DecidedStudy]
"""Study Instance UID -> decisions."""


def group_decisions(rows: Iterable[tuple[Any, ...]]) -> dict[str, DecidedStudy]:
    """Return decisions by study from rows of v_predictions: study, finding, called, excess, probability, prevalence."""
    column = {finding: number for number, finding in enumerate(FINDINGS)}
    decided: dict[str, DecidedStudy] = {}
    for study, finding, called, *numbers in rows:
        one, place = decided.setdefault(study, DecidedStudy()), column[finding]
        one.calls[place] = bool(called)
        for values, number in zip((one.rank, one.probability, one.prevalence), numbers, strict=True):
            if number is not None:
                values[place] = number
    return decided


SHOWN_MEASURES = {
    "calls_per_study": "findings called per study",
    "true_per_study": "findings present per study",
    "ppv": "share of calls that are right (PPV)",
    "sensitivity": "sensitivity, mean",
    "specificity": "specificity, mean",
    "normal_without_call": "normal studies without a call",
    "top1": "first finding is present",
    "top3": "one of the first three is",
}
"""Figures of decisions -> their names in the table."""


def build_decision_table(truth: Mapping[str, GroundTruth], decisions: Mapping[str, StudyDecisions]) -> Table:
    """Return the figures of decisions as a table, one column per model, on the studies that every model has decided on."""
    studies = sorted(study for study in truth if all(study in of for of in decisions.values()))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="decisions against the hidden truth", title_justify="left")
    table.add_column("figure")
    columns = [asdict(_measure_decisions(truth, studies, of)) for of in decisions.values()] if studies else []
    for name in decisions:
        table.add_column(name, justify="right")
    for key, words in SHOWN_MEASURES.items():
        table.add_row(words, *(UNDEFINED if np.isnan(column[key]) else f"{column[key]:.3f}" for column in columns))
    return table


def _measure_decisions(truth: Mapping[str, GroundTruth], studies: list[str], decisions: StudyDecisions) -> DecisionMeasures:
    labels = np.array([[finding in truth[study].findings for finding in FINDINGS] for study in studies], dtype=np.int8)
    calls, rank, probability, prevalence = (
        np.stack([getattr(decisions[study], name) for study in studies]) for name in ("calls", "rank", "probability", "prevalence")
    )
    reference = np.where(np.isnan(prevalence), 1.0, prevalence).max(axis=0)
    return measure_decisions(calls, rank, probability, labels, np.ones(len(studies)), reference)


def evaluate_scores(
    truth: Mapping[str, GroundTruth], scores_by_model: Mapping[str, StudyScores], *, notice: str, studies_description: str = ""
) -> DemoEvaluation | None:
    """Evaluate each column on the studies with a known truth and scores of every column; None without any such study."""
    studies = sorted(study for study in truth if all(study in scores for scores in scores_by_model.values()))
    if not studies or not scores_by_model:
        return None
    present = np.array([[finding in truth[study].findings for finding in FINDINGS] for study in studies])
    patients = np.array([truth[study].patient for study in studies])
    labels = np.where(present, PRESENT, ABSENT).astype(np.int8)
    bootstrap = PatientBootstrap(patients, resamples=RESAMPLES, seed=SEED)
    stacked = {name: np.stack([scores[study] for study in studies]) for name, scores in scores_by_model.items()}
    values = {name: auc(scores, labels) for name, scores in stacked.items()}
    samples = {name: bootstrap.auc(scores, labels) for name, scores in stacked.items()}
    names = list(scores_by_model)
    first, last = names[0], names[-1]
    gain = _estimate_performance(GAIN, values[last] - values[first], samples[last] - samples[first]) if first != last else None
    return DemoEvaluation(
        notice=notice,
        studies=len(studies),
        patients=len(np.unique(patients)),
        positives=tuple(present.sum(axis=0).tolist()),
        performances=tuple(_estimate_performance(name, values[name], samples[name]) for name in scores_by_model),
        gain=gain,
        studies_description=studies_description,
    )


def _estimate_performance(name: str, values: Floats, samples: Floats) -> ModelPerformance:
    """Return the performance from AUCs [F] and their resamples [R, F]."""
    low, high = percentile_interval(samples)
    findings = tuple(map(AucEstimate, values.tolist(), low.tolist(), high.tolist()))
    low, high = percentile_interval(macro_average(samples))
    return ModelPerformance(name, findings, AucEstimate(float(macro_average(values)), float(low), float(high)))


def build_table(evaluation: DemoEvaluation) -> Table:
    """Return the evaluation as a table: one row per finding, one column per model, the mean with its interval last."""
    title = f"{evaluation.title}\n{evaluation.sample_description}"
    width = max(map(len, title.splitlines())) + 2
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", min_width=width)
    table.add_column("finding")
    table.add_column("positives", justify="right")
    for name in [column.name for column in evaluation.performances] + ([GAIN, "95 % interval"] if evaluation.gain else []):
        table.add_column(name, justify="right")
    for number, finding in enumerate(FINDINGS):
        areas = [str(column.findings[number]) for column in evaluation.performances]
        gained = _format_gain(evaluation.gain.findings[number]) if evaluation.gain else []
        table.add_row(finding.replace("_", " "), str(evaluation.positives[number]), *areas, *gained)
    table.add_section()
    gained = _format_gain(evaluation.gain.mean) if evaluation.gain else []
    table.add_row(f"mean of {evaluation.defined_findings}", "", *(str(column.mean) for column in evaluation.performances), *gained)
    table.add_row("95 % interval", "", *(column.mean.interval for column in evaluation.performances))
    return table


def _format_gain(area: AucEstimate) -> list[str]:
    return [area.signed_value, area.signed_interval]


def draw_plot(evaluation: DemoEvaluation, path: Path, *, films: str) -> Path:
    """Draw the evaluation as a PNG and return its path: a dot with its interval per finding and model. `films`: their description.

    A second panel shows the gain, where there is one.
    """
    from matplotlib import rc_context

    with rc_context(plot_style.MATPLOTLIB_RC):
        figure = plot_style.new_figure(9.6 if evaluation.gain else 7.4, 5.6)
        if evaluation.gain:
            axes, gain_axes = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
            _draw_gain(gain_axes, evaluation.gain)
        else:
            axes = figure.add_subplot()
        _draw_auc_estimates(axes, evaluation)
        figure.suptitle(f"{evaluation.title}\n{evaluation.sample_description}; {films}", x=0.01, ha="left", fontsize="medium")
        figure.legend(loc="outside lower right", frameon=False, ncols=len(evaluation.performances))
        return plot_style.save_figure(figure, path, notice=evaluation.notice)


def _draw_auc_estimates(axes: Axes, evaluation: DemoEvaluation) -> None:
    names = [f"{finding.replace('_', ' ')}  ({count})" for finding, count in zip(FINDINGS, evaluation.positives, strict=True)]
    _draw_reference_lines(axes, CHANCE)
    for number, column in enumerate(evaluation.performances):
        label = f"{column.name}, mean {column.mean}"
        _draw_estimates(
            axes,
            column,
            MODEL_COLOURS[number % len(MODEL_COLOURS)],
            (number - (len(evaluation.performances) - 1) / 2) * DOT_SPACING,
            label,
        )
    axes.set_yticks(range(len(names) + 1), [*names, "mean"])
    axes.set_ylim(len(names) + 0.6, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("AUC with its 95 % interval, patients resampled\n(in brackets: studies that have the finding)")


def _draw_gain(axes: Axes, gain: ModelPerformance) -> None:
    _draw_reference_lines(axes, 0.0)
    _draw_estimates(axes, gain, plot_style.INK, 0.0, None)
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.set_xlabel(f"gain in AUC, its 95 % interval, paired\n(mean {gain.mean.signed_value}, {gain.mean.signed_interval})")


def _draw_reference_lines(axes: Axes, reference_value: float) -> None:
    """Draw the reference value and separate the mean from the findings."""
    axes.axvline(reference_value, color=plot_style.FAINT, linestyle=plot_style.DASHES[1], linewidth=1.0)
    axes.axhline(len(FINDINGS) - 0.5, color=plot_style.FAINT, linewidth=0.6)
    axes.grid(visible=False, axis="y")


def _draw_estimates(axes: Axes, column: ModelPerformance, ink: str, shift: float, label: str | None) -> None:
    areas = [*column.findings, column.mean]
    places = [row + shift for row, area in enumerate(areas) if not np.isnan(area.value)]
    there = [area for area in areas if not np.isnan(area.value)]
    axes.hlines(places, [area.low for area in there], [area.high for area in there], color=ink, linewidth=1.2)
    axes.plot([area.value for area in there], places, "o", color=ink, markersize=4.5, clip_on=False, label=label)
