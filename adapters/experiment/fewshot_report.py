"""Report of an experiment, in Markdown and as one HTML file: results, intervals, design, provenance and limitations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.experiment import plots
from adapters.experiment.html_page import render_html
from adapters.experiment.protocol import PROTOCOL, cautions, describe_shortages
from adapters.experiment.result_tables import MEAN, FewshotComparison, FewshotSummary, FewshotTables
from models.experiment.summary import PRODUCT, REFERENCES, ZERO_SHOT

MARKDOWN_FILE, HTML_FILE = "report.md", "report.html"
CHANCE = 0.5
MIN_AUC_ABOVE_CHANCE = 0.02
"""Minimum AUC above chance for differences relative to it."""
PRODUCT_NOTE = (
    f"**{PRODUCT}** is the product's own row: what the daemon would serve if the support were all the labels that it had, found by "
    "the same functions. It tries a head on the frozen encoder (`stage-1`) and the last blocks unfrozen under that head, and takes "
    "whichever had the smaller log-loss on support films whose patients it had not seen; no test film has a say. A finding that "
    "cannot be learnt keeps its zero-shot scores."
)
UNDEFINED_CELL = "-"  # undefined or not measured


def write_report(out: Path, result_tables: FewshotTables, manifest: Mapping[str, Any], drawn: Sequence[Path]) -> None:
    """Write report.md and report.html. OSError where the folder cannot be written."""
    title = f"Few-shot adaptation: {manifest['identity']['films']['title']}"
    text = build_markdown(title, result_tables, manifest, drawn)
    (out / MARKDOWN_FILE).write_text(text, encoding="utf-8")
    (out / HTML_FILE).write_text(render_html(title, text, out), encoding="utf-8")


def build_markdown(title: str, result_tables: FewshotTables, manifest: Mapping[str, Any], drawn: Sequence[Path]) -> str:
    """Return the report. Pictures are named relative to its folder."""
    sections = (
        _build_opening(title, manifest, result_tables),
        _build_summary_section(result_tables),
        _build_means_section(result_tables),
        *(_build_comparison_section(result_tables, reference) for reference in REFERENCES),
        _build_plots_section(result_tables, drawn),
        _build_findings_section(result_tables),
        _build_calibration_section(result_tables),
        _build_design_section(result_tables, manifest),
        PROTOCOL,
        _build_provenance_section(result_tables, manifest),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _build_opening(title: str, manifest: Mapping[str, Any], result_tables: FewshotTables) -> str:
    warnings = cautions(manifest, result_tables)
    return "\n\n".join([f"# {title}", *(f"> **{text}**" if text.isupper() else f"> {text}" for text in warnings)])


def _build_summary_section(result_tables: FewshotTables) -> str:
    """Build the summary: zero-shot, and the best method at each shot count."""
    base = _find_row(result_tables.summary, ZERO_SHOT, MEAN, 0)
    sentences = []
    if base is not None and not np.isnan(base.auc):
        sentences.append(
            "* Zero-shot, from text prompts and no label: mean AUC "
            f"{_format_auc(base.auc)} [{_format_auc(base.lo)}, {_format_auc(base.hi)}]."
        )
    for shots in sorted({row.shots for row in result_tables.summary if row.shots}):
        at = [row for row in _filter_by_scope(result_tables.summary, MEAN) if row.shots == shots and not np.isnan(row.auc)]
        if rows := [row for row in at if row.findings == max(other.findings for other in result_tables.summary)]:
            best = max(rows, key=lambda row: row.auc)
            gain = f", {describe_gain(best.auc, base.auc)}" if base is not None and not np.isnan(base.auc) else ""
            sentences.append(
                f"* {_format_shots(shots)}: highest for {best.method}, {_format_auc(best.auc)} (SD {_format_auc(best.sd)}){gain}."
            )
    if len(sentences) > 1:
        sentences.append("* The highest of many means is too high by selection: see the intervals and the corrected p-values.")
    return _format_section("In short", "\n".join(sentences))


def describe_gain(value: float, base: float) -> str:
    """Describe a difference as AUC points, relative to zero-shot, and relative to zero-shot's AUC above chance."""
    points = value - base
    relative = f"{points / base:+.1%} of zero-shot" if base else UNDEFINED_CELL
    above = (
        f"{points / (base - CHANCE):+.1%} of what zero-shot has above chance"
        if base >= CHANCE + MIN_AUC_ABOVE_CHANCE
        else "zero-shot is at chance"
    )
    return f"{100 * points:+.1f} AUC points ({relative}; {above})"


def _build_means_section(result_tables: FewshotTables) -> str:
    shots = sorted({row.shots for row in result_tables.summary})
    findings = len({row.finding for row in result_tables.results})
    unfilled = min((each.shots for each in result_tables.shortages), default=max(shots, default=0) + 1)
    rows = []
    for method in dict.fromkeys(row.method for row in result_tables.summary):
        cells = [_find_row(result_tables.summary, method, MEAN, at) for at in shots]
        rows.append([_format_method(method), *(_format_with_interval(cell, of=findings) for cell in cells)])
    words = (
        "Mean AUC over the findings, mean over draws ± SD over draws, and the 95 % interval of the mean, test patients and draws "
        "resampled. Where not all findings are defined it is said how many are: such a mean must not be set beside one of all."
    )
    own = [PRODUCT_NOTE] if any(row.method == PRODUCT for row in result_tables.summary) else []
    marked = ["* " + describe_shortages(result_tables)] if result_tables.shortages else []
    header = ["method", *(_format_shots(at) + " *" * (at >= unfilled) for at in shots)]
    return _format_section("Mean AUC by shots", words, _format_table(header, rows), *marked, *own)


def _build_comparison_section(result_tables: FewshotTables, reference: str) -> str:
    rows = [row for row in result_tables.comparisons if row.against == reference and row.scope == MEAN]
    if not rows:
        return ""
    lines = [_build_comparison_row(row) for row in rows]
    words = (
        f"Difference of the mean AUC from {reference} over the findings that both define, on the same resampled patients and "
        "draws. p is two-sided, corrected after Holm over all rows of this table."
    )
    header = ["method", "shots", "AUC points", "95 % interval", f"relative to {reference}", "relative to its part above .5", "p"]
    return _format_section(f"Against {reference}", words, _format_table(header, lines))


def _build_comparison_row(row: FewshotComparison) -> list[str]:
    relative = _format_percent(row.difference / row.reference) if row.reference else UNDEFINED_CELL
    above = (
        _format_percent(row.difference / (row.reference - CHANCE))
        if row.reference >= CHANCE + MIN_AUC_ABOVE_CHANCE
        else UNDEFINED_CELL
    )
    interval = f"[{_format_auc_points(row.lo)}, {_format_auc_points(row.hi)}]"
    return [
        _format_method(row.method),
        str(row.shots),
        _format_auc_points(row.difference),
        interval,
        relative,
        above,
        _format_p_value(row.p_holm),
    ]


def _build_plots_section(result_tables: FewshotTables, drawn: Sequence[Path]) -> str:
    unfilled = plots.UNFILLED_CAPTION if result_tables.shortages else ""
    captions = {name: words + unfilled for name, words in plots.CAPTIONS.items()}
    return _format_section("Plots", *(f"![{captions[path.name]}](plots/{path.name})\n\n*{captions[path.name]}*" for path in drawn))


def _build_findings_section(result_tables: FewshotTables) -> str:
    """Build the table of findings at the largest shot count, with the undefined values and the positives really learnt from."""
    most = max((row.shots for row in result_tables.summary), default=0)
    methods = [row.method for row in _filter_by_scope(result_tables.summary, MEAN) if row.shots in (0, most)]
    positives = {row.finding: row.positives for row in result_tables.results}
    cells = {
        finding: [_find_row_or_zero_shot(result_tables.summary, method, finding, most) for method in methods]
        for finding in positives
    }
    lines = [
        [
            finding,
            str(positives[finding]),
            _format_count(next((row.support_positives for row in rows if row and row.shots), np.nan)),
            *(_format_auc(row.auc) if row else UNDEFINED_CELL for row in rows),
        ]
        for finding, rows in cells.items()
    ]
    missing = [row for row in result_tables.results if np.isnan(row.auc)]
    words = f"AUC at {_format_shots(most)}, mean over draws; positives of the test set; positives in the support, mean over draws."
    undefined = f"Undefined and left out, never counted as .5: {len(missing)} of {len(result_tables.results)} values" + (
        f" ({', '.join(sorted({row.finding for row in missing}))})." if missing else "."
    )
    header = ["finding", "positives", "in the support", *map(_format_method, methods)]
    return _format_section("Each finding", words, _format_table(header, lines), undefined)


def _build_calibration_section(result_tables: FewshotTables) -> str:
    most = max((row.shots for row in result_tables.summary), default=0)
    rows = [row for row in _filter_by_scope(result_tables.summary, MEAN) if row.shots in (0, most)]
    lines = [
        [_format_method(row.method), str(row.shots), *map(_format_auc, (row.auprc, row.weighted_auc, row.brier, row.ece))]
        for row in rows
    ]
    words = (
        "Brier score and expected calibration error take the logistic of each score for a probability. Few methods mean it so: "
        "large errors say that scores need calibration before they are shown as percentages, not that they rank badly."
    )
    header = ["method", "shots", "mean AUPRC", "prevalence-weighted AUC", "Brier", "ECE"]
    return _format_section("Other measures", words, _format_table(header, lines))


def _build_design_section(result_tables: FewshotTables, manifest: Mapping[str, Any]) -> str:
    identity = manifest["identity"]
    split, base = identity["split"], identity["base"]
    left = "; ".join(f"{count} {reason}" for reason, count in manifest["left_out"].items()) or "nothing"
    spent = [row for row in _filter_by_scope(result_tables.summary, MEAN) if row.shots]
    costs = {row.shots: (row.films, row.studies_read) for row in spent}
    supports = "; ".join(
        f"{_format_shots(shots)}: {films:.0f} films, {read:,.0f} studies read at random to find them"
        for shots, (films, read) in costs.items()
    )
    lines = [
        f"* Films: {identity['films']['title']}. {_describe_film_options(identity['films']['options'])}Left out: {left}.",
        f"* Split: {split['made']}. Pool {split['pool']['films']} films of {split['pool']['patients']} patients, "
        f"test {split['test']['films']} films of {split['test']['patients']}. No patient and no pixels are on both sides: "
        "that was checked. The test set was scored and never used to choose anything.",
        f"* Supports: {manifest['draws']} draws, nested, one film a patient: the first positives of each finding and as many "
        "normal "
        f"films as a random reading of the pool meets. {supports}.",
        f"* Encoder: {base['name']} ({base['architecture']}), weights {base['sha256'][:12]}"
        + (f", marked “{base['notice']}”" if base["notice"] else "")
        + ". Findings are 14 independent binaries; unknown labels take part in nothing.",
        f"* Intervals: {manifest['resamples']} resamples of the test patients with all their films, crossed with resamples of "
        "the draws, the same for every method.",
    ]
    lines += [f"* {method} is not in the tables: {reason}." for method, reason in manifest["impossible"].items()]
    return _format_section("How it was made", "\n".join(lines))


def _describe_film_options(options: Mapping[str, Any]) -> str:
    """Name the film seed and the description of the site; nothing for other films."""
    if "film_seed" not in options:
        return ""
    return f"Film seed {options['film_seed']}; site {options['site']} {options['site_sha256'][:12]}. "


def _build_provenance_section(result_tables: FewshotTables, manifest: Mapping[str, Any]) -> str:
    identity = manifest["identity"]
    libraries = ", ".join(f"{name} {version}" for name, version in identity["libraries"].items())
    code = f"commit {manifest['commit']}" if manifest["commit"] else "an installed release"
    seconds = {row.method: 0.0 for row in result_tables.timings}
    for row in result_tables.timings:
        seconds[row.method] = max(seconds[row.method], row.seconds)
    spent = ", ".join(f"{method} {value:.2f} s" for method, value in seconds.items())
    lines = [
        f"* Made again by `{manifest['command']}`",
        f"* Code: {code}; {libraries}; device {manifest['device']}.",
        f"* Seed {identity['seed']}; split {identity['split']['sha256'][:12]}; labels {identity['labels']['sha256'][:12]}; "
        f"prompts {identity['prompts']['sha256'][:12]}; films {identity['films']['sha256'][:12]}. In full: manifest.json.",
        f"* Longest fit with its scores: {spent}.",
        "* Every figure: results.csv (and .parquet), summary.csv, comparisons.csv.",
    ]
    return _format_section("Where it is from", "\n".join(lines))


def _format_section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *parts])


def _format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def _filter_by_scope(summary: Sequence[FewshotSummary], scope: str) -> list[FewshotSummary]:
    return [row for row in summary if row.scope == scope]


def _find_row(summary: Sequence[FewshotSummary], method: str, scope: str, shots: int) -> FewshotSummary | None:
    return next((row for row in summary if (row.method, row.scope, row.shots) == (method, scope, shots)), None)


def _find_row_or_zero_shot(summary: Sequence[FewshotSummary], method: str, scope: str, shots: int) -> FewshotSummary | None:
    """Return the row at `shots`, or at 0 shots for a method without support."""
    return _find_row(summary, method, scope, shots) or _find_row(summary, method, scope, 0)


def _format_with_interval(row: FewshotSummary | None, *, of: int) -> str:
    """Format mean, SD and interval, with the number of findings where some are undefined."""
    if row is None:
        return ""
    spread = f" ± {_format_auc(row.sd)}" if row.draws > 1 else ""
    partly = f" ({row.findings} of {of})" if row.findings < of else ""
    return f"{_format_auc(row.auc)}{spread} [{_format_auc(row.lo)}, {_format_auc(row.hi)}]{partly}"


def _format_method(method: str) -> str:
    """Format the name of a method, the product's own in bold."""
    return f"**{method}**" if method == PRODUCT else method


def _format_shots(shots: int) -> str:
    return "no support" if shots == 0 else f"{shots} shot" + "s" * (shots > 1)


def _format_count(value: float) -> str:
    return UNDEFINED_CELL if np.isnan(value) else f"{value:.1f}".removesuffix(".0")


def _format_auc(value: float) -> str:
    """Format an AUC without the leading zero, such as .7502."""
    return UNDEFINED_CELL if np.isnan(value) else f"{value:.4f}".replace("0.", ".", 1)


def _format_auc_points(value: float) -> str:
    return UNDEFINED_CELL if np.isnan(value) else f"{100 * value:+.2f}"


def _format_percent(value: float) -> str:
    return UNDEFINED_CELL if np.isnan(value) else f"{value:+.1%}"


def _format_p_value(value: float) -> str:
    return UNDEFINED_CELL if np.isnan(value) else "< .001" if value < 0.001 else f"{value:.3f}".replace("0.", ".", 1)
