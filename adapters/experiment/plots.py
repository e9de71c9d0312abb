"""Plots of an experiment: AUC against shots, by finding, for common and rare findings, and against studies read."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from adapters.experiment import plot_style
from adapters.experiment.result_tables import COMMON, MEAN, RARE, FewshotSummary, FewshotTables
from models.experiment.summary import PRODUCT, REFERENCES

BY_SHOTS, BY_FINDING, COMMON_AND_RARE, BY_STUDIES = (
    "auc-by-shots.png",
    "auc-by-finding.png",
    "auc-common-and-rare.png",
    "auc-by-studies-read.png",
)
CAPTIONS = {
    BY_SHOTS: "Mean AUC against shots. Bands: 95 % intervals, test patients and draws resampled; of many methods only "
    "those of the references and of the highest at the most shots. Level lines take no support.",
    BY_FINDING: "AUC of each finding against shots; n: positives in the test set.",
    COMMON_AND_RARE: "Mean AUC of common and of rare findings against shots.",
    BY_STUDIES: "Mean AUC against the studies that would have to be read at random to find the support.",
}
UNFILLED_CAPTION = " Hollow points: supports with fewer positives of a finding than shots, because the pool has no more."
COLUMNS = 4
MAX_METHODS_WITH_BANDS = 6  # intervals of more methods overlap
MAX_SHOT_TICKS = 12  # every shot count has a tick up to this number


def draw_plots(folder: Path, result_tables: FewshotTables, *, notice: str) -> list[Path]:
    """Draw all plots into a folder and return their paths; empty plots are omitted."""
    with rc_context(plot_style.MATPLOTLIB_RC):
        paths = [
            _draw_by_shots(folder / BY_SHOTS, result_tables, notice),
            _draw_by_finding(folder / BY_FINDING, result_tables, notice),
            _draw_common_and_rare(folder / COMMON_AND_RARE, result_tables, notice),
            _draw_by_studies(folder / BY_STUDIES, result_tables, notice),
        ]
    return [path for path in paths if path is not None]


def _draw_by_shots(path: Path, result_tables: FewshotTables, notice: str) -> Path:
    figure = plot_style.new_figure(8.0, 5.0)
    axes = figure.add_subplot()
    _draw_curves(axes, result_tables.summary, MEAN, bands=_choose_banded_methods(result_tables.summary, MEAN))
    axes.set_ylabel("mean AUC")
    _label_curves(axes, result_tables.summary, MEAN)
    return plot_style.save_figure(figure, path, notice=notice)


def _draw_by_finding(path: Path, result_tables: FewshotTables, notice: str) -> Path:
    positives = {row.finding: row.positives for row in result_tables.results}
    rows = -(-(len(positives) + 1) // COLUMNS)
    figure = plot_style.new_figure(9.0, 2.0 * rows)
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (finding, count) in zip(panels, positives.items(), strict=False):
        _draw_curves(axes, result_tables.summary, finding)
        axes.set_title(f"{finding.replace('_', ' ')}  (n = {count})", fontsize=8)
        axes.set_xlabel("")
    for axes in panels[len(positives) :]:
        axes.set_axis_off()
    drawn = plot_style.curve_styles(_list_methods(result_tables.summary))
    handles = [plot_style.legend_handle(line) for line in drawn.values()]
    panels[len(positives)].legend(handles, list(drawn), loc="center left", frameon=False, fontsize=6.5, ncols=1 + (len(drawn) > 9))
    figure.supylabel("AUC", fontsize=9)
    return plot_style.save_figure(figure, path, notice=notice)


def _draw_common_and_rare(path: Path, result_tables: FewshotTables, notice: str) -> Path | None:
    scopes = [scope for scope in (COMMON, RARE) if result_tables.groups[scope]]
    if len(scopes) < 2:
        return None
    figure = plot_style.new_figure(9.0, 4.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, scope in zip(panels, scopes, strict=True):
        _draw_curves(axes, result_tables.summary, scope, bands=_choose_banded_methods(result_tables.summary, scope))
        axes.set_title(f"{scope} findings ({len(result_tables.groups[scope])})")
    panels[0].set_ylabel("mean AUC")
    _label_curves(panels[1], result_tables.summary, RARE)
    return plot_style.save_figure(figure, path, notice=notice)


def _draw_by_studies(path: Path, result_tables: FewshotTables, notice: str) -> Path | None:
    if not any(row.shots for row in result_tables.summary):
        return None
    figure = plot_style.new_figure(8.0, 5.0)
    axes = figure.add_subplot()
    _draw_curves(axes, result_tables.summary, MEAN, bands=_choose_banded_methods(result_tables.summary, MEAN), studies=True)
    axes.set_ylabel("mean AUC")
    _label_curves(axes, result_tables.summary, MEAN)
    return plot_style.save_figure(figure, path, notice=notice)


def _list_methods(summary: Sequence[FewshotSummary]) -> list[str]:
    return list(dict.fromkeys(row.method for row in summary))


def _choose_banded_methods(summary: Sequence[FewshotSummary], scope: str) -> set[str]:
    """Return the methods with drawn intervals: all of a few; of many the references, the product and the best at the most shots."""
    rows = [row for row in summary if row.scope == scope and not np.isnan(row.auc)]
    if len({row.method for row in rows}) <= MAX_METHODS_WITH_BANDS or not rows:
        return {row.method for row in rows}
    return {*REFERENCES, PRODUCT, max(rows, key=lambda row: (row.shots, row.auc)).method}


def _draw_curves(
    axes: Axes, summary: Sequence[FewshotSummary], scope: str, *, bands: Container[str] = (), studies: bool = False
) -> None:
    """Draw every method: a curve over shots or studies read; a level line where it takes no support."""
    for method, line in plot_style.curve_styles(_list_methods(summary)).items():
        rows = sorted((row for row in summary if row.method == method and row.scope == scope), key=lambda row: row.shots)
        look: dict[str, Any] = {"color": line.colour, "linestyle": line.dash, "linewidth": line.width}
        if not rows or all(np.isnan(row.auc) for row in rows):
            continue
        if rows[0].shots == 0:
            axes.axhline(rows[0].auc, **look)
            if method in bands:
                axes.axhspan(rows[0].lo, rows[0].hi, color=line.colour, alpha=plot_style.BAND_OPACITY / 2, linewidth=0)
            continue
        positions = [row.studies_read if studies else row.shots for row in rows]
        axes.plot(positions, [row.auc for row in rows], marker="o", **look)
        unfilled = [(at, row.auc) for at, row in zip(positions, rows, strict=True) if row.support_positives < row.shots]
        axes.plot(*zip(*unfilled, strict=True) if unfilled else ([], []), marker="o", linestyle="", color=line.colour, mfc="white")
        if method in bands:
            axes.fill_between(
                positions,
                [row.lo for row in rows],
                [row.hi for row in rows],
                color=line.colour,
                alpha=plot_style.BAND_OPACITY,
                linewidth=0,
            )
    _set_x_scale(axes, summary, studies=studies)


def _set_x_scale(axes: Axes, summary: Sequence[FewshotSummary], *, studies: bool) -> None:
    axes.set_xlabel("studies read at random" if studies else "shots: positives of each finding, and as many normal films")
    if studies:
        axes.set_xscale("log")
        return
    shots = sorted({row.shots for row in summary if row.shots})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(shots if len(shots) <= MAX_SHOT_TICKS else shots[::2]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _label_curves(axes: Axes, summary: Sequence[FewshotSummary], scope: str) -> None:
    """Label the curves at their right ends."""
    last = {
        row.method: row.auc for row in sorted(summary, key=lambda row: row.shots) if row.scope == scope and not np.isnan(row.auc)
    }
    drawn = plot_style.curve_styles(_list_methods(summary))
    plot_style.label_ends(axes, [(method, value, drawn[method].colour) for method, value in last.items()])
