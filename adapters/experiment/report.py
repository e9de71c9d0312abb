"""The report of a run, in Markdown and as one HTML file: what was found, how surely, how it was made, and what it does not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.experiment import plots
from adapters.experiment.page import page
from adapters.experiment.protocol import PROTOCOL, cautions
from adapters.experiment.tables import MEAN, Comparison, Summary, Tables
from models.experiment.summary import PRODUCT, REFERENCES, ZERO_SHOT

MARKDOWN, HTML = "report.md", "report.html"
CHANCE = 0.5
ABOVE = 0.02
"""Of AUC: below this much above chance, nothing is said in parts of it."""
OWN_ROW = (
    f"**{PRODUCT}** is the product's own row: what the daemon would serve if the support were all the labels that it had, found by "
    "the same functions. It tries a head on the frozen encoder (`stage-1`) and the last blocks unfrozen under that head, and takes "
    "whichever had the smaller log-loss on support films whose patients it had not seen; no test film has a say. A finding that "
    "cannot be learnt keeps its zero-shot scores."
)
NOTHING = "-"  # in a table: not defined, or not measured


def write(out: Path, measured: Tables, whole: Mapping[str, Any], drawn: Sequence[Path]) -> None:
    """Write report.md and report.html. OSError where the folder cannot be written."""
    title = f"Few-shot adaptation: {whole['identity']['films']['title']}"
    text = markdown(title, measured, whole, drawn)
    (out / MARKDOWN).write_text(text, encoding="utf-8")
    (out / HTML).write_text(page(title, text, out), encoding="utf-8")


def markdown(title: str, measured: Tables, whole: Mapping[str, Any], drawn: Sequence[Path]) -> str:
    """Return the report. Pictures are named relative to its folder."""
    sections = (
        _opening(title, whole, measured),
        _short(measured),
        _means(measured),
        *(_against(measured, reference) for reference in REFERENCES),
        _pictures(drawn),
        _findings(measured),
        _calibration(measured),
        _made(measured, whole),
        PROTOCOL,
        _provenance(measured, whole),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _opening(title: str, whole: Mapping[str, Any], measured: Tables) -> str:
    warned = cautions(whole, measured)
    return "\n\n".join([f"# {title}", *(f"> **{words}**" if words.isupper() else f"> {words}" for words in warned)])


def _short(measured: Tables) -> str:
    """The findings in sentences: zero-shot, and at each shot count the method that came out best."""
    base = _cell(measured.summary, ZERO_SHOT, MEAN, 0)
    sentences = []
    if base is not None and not np.isnan(base.auc):
        sentences.append(
            f"* Zero-shot, from text prompts and no label: mean AUC {_auc(base.auc)} [{_auc(base.lo)}, {_auc(base.hi)}]."
        )
    for shots in sorted({row.shots for row in measured.summary if row.shots}):
        at = [row for row in _scope(measured.summary, MEAN) if row.shots == shots and not np.isnan(row.auc)]
        if rows := [row for row in at if row.findings == max(other.findings for other in measured.summary)]:
            best = max(rows, key=lambda row: row.auc)
            gain = f", {gains(best.auc, base.auc)}" if base is not None and not np.isnan(base.auc) else ""
            sentences.append(f"* {_shots(shots)}: highest for {best.method}, {_auc(best.auc)} (SD {_auc(best.sd)}){gain}.")
    if len(sentences) > 1:
        sentences.append("* The highest of many means is too high by selection: see the intervals and the corrected p-values.")
    return _section("In short", "\n".join(sentences))


def gains(value: float, base: float) -> str:
    """Say a difference in the three ways that it can be told: points, relative, and relative to what lies above chance."""
    points = value - base
    relative = f"{points / base:+.1%} of zero-shot" if base else NOTHING
    above = (
        f"{points / (base - CHANCE):+.1%} of what zero-shot has above chance"
        if base >= CHANCE + ABOVE
        else "zero-shot is at chance"
    )
    return f"{100 * points:+.1f} AUC points ({relative}; {above})"


def _means(measured: Tables) -> str:
    shots = sorted({row.shots for row in measured.summary})
    findings = len({row.finding for row in measured.results})
    rows = []
    for method in dict.fromkeys(row.method for row in measured.summary):
        cells = [_cell(measured.summary, method, MEAN, at) for at in shots]
        rows.append([_named(method), *(_with_interval(cell, of=findings) for cell in cells)])
    words = (
        "Mean AUC over the findings, mean over draws ± SD over draws, and the 95 % interval of the mean, test patients and draws "
        "resampled. Where not all findings are defined it is said how many are: such a mean must not be set beside one of all."
    )
    own = [OWN_ROW] if any(row.method == PRODUCT for row in measured.summary) else []
    return _section("Mean AUC by shots", words, _table(["method", *map(_shots, shots)], rows), *own)


def _against(measured: Tables, reference: str) -> str:
    rows = [row for row in measured.comparisons if row.against == reference and row.scope == MEAN]
    if not rows:
        return ""
    lines = [_compared(row) for row in rows]
    words = (
        f"Difference of the mean AUC from {reference} over the findings that both define, on the same resampled patients and "
        "draws. p is two-sided, corrected after Holm over all rows of this table."
    )
    header = ["method", "shots", "AUC points", "95 % interval", f"relative to {reference}", "relative to its part above .5", "p"]
    return _section(f"Against {reference}", words, _table(header, lines))


def _compared(row: Comparison) -> list[str]:
    relative = _percent(row.difference / row.reference) if row.reference else NOTHING
    above = _percent(row.difference / (row.reference - CHANCE)) if row.reference >= CHANCE + ABOVE else NOTHING
    interval = f"[{_points(row.lo)}, {_points(row.hi)}]"
    return [_named(row.method), str(row.shots), _points(row.difference), interval, relative, above, _p(row.p_holm)]


def _pictures(drawn: Sequence[Path]) -> str:
    captions = plots.CAPTIONS
    return _section("Plots", *(f"![{captions[path.name]}](plots/{path.name})\n\n*{captions[path.name]}*" for path in drawn))


def _findings(measured: Tables) -> str:
    """Each finding at the largest shot count, and what could not be defined."""
    most = max((row.shots for row in measured.summary), default=0)
    methods = [row.method for row in _scope(measured.summary, MEAN) if row.shots in (0, most)]
    positives = {row.finding: row.positives for row in measured.results}
    cells = {finding: [_at(measured.summary, method, finding, most) for method in methods] for finding in positives}
    lines = [
        [finding, str(positives[finding]), *(_auc(row.auc) if row else NOTHING for row in rows)] for finding, rows in cells.items()
    ]
    missing = [row for row in measured.results if np.isnan(row.auc)]
    words = f"AUC at {_shots(most)}, mean over draws; positives of the test set."
    told = f"Undefined and left out, never counted as .5: {len(missing)} of {len(measured.results)} values" + (
        f" ({', '.join(sorted({row.finding for row in missing}))})." if missing else "."
    )
    return _section("Each finding", words, _table(["finding", "positives", *map(_named, methods)], lines), told)


def _calibration(measured: Tables) -> str:
    most = max((row.shots for row in measured.summary), default=0)
    rows = [row for row in _scope(measured.summary, MEAN) if row.shots in (0, most)]
    lines = [[_named(row.method), str(row.shots), *map(_auc, (row.auprc, row.weighted_auc, row.brier, row.ece))] for row in rows]
    words = (
        "Brier score and expected calibration error take the logistic of each score for a probability. Few methods mean it so: "
        "large errors say that scores need calibration before they are shown as percentages, not that they rank badly."
    )
    header = ["method", "shots", "mean AUPRC", "prevalence-weighted AUC", "Brier", "ECE"]
    return _section("Other measures", words, _table(header, lines))


def _made(measured: Tables, whole: Mapping[str, Any]) -> str:
    identity = whole["identity"]
    split, base = identity["split"], identity["base"]
    left = "; ".join(f"{count} {reason}" for reason, count in whole["left_out"].items()) or "nothing"
    spent = [row for row in _scope(measured.summary, MEAN) if row.shots]
    costs = {row.shots: (row.films, row.studies_read) for row in spent}
    supports = "; ".join(
        f"{_shots(shots)}: {films:.0f} films, {read:,.0f} studies read at random to find them"
        for shots, (films, read) in costs.items()
    )
    lines = [
        f"* Films: {identity['films']['title']}. Left out: {left}.",
        f"* Split: {split['made']}. Pool {split['pool']['films']} films of {split['pool']['patients']} patients, "
        f"test {split['test']['films']} films of {split['test']['patients']}. No patient and no pixels are on both sides: "
        "that was checked. The test set was scored and never used to choose anything.",
        f"* Supports: {whole['draws']} draws, nested, one film a patient: the first positives of each finding and as many normal "
        f"films as a random reading of the pool meets. {supports}.",
        f"* Encoder: {base['name']} ({base['architecture']}), weights {base['sha256'][:12]}"
        + (f", marked “{base['marking']}”" if base["marking"] else "")
        + ". Findings are 14 independent binaries; unknown labels take part in nothing.",
        f"* Intervals: {whole['resamples']} resamples of the test patients with all their films, crossed with resamples of "
        "the draws, the same for every method.",
    ]
    lines += [f"* {method} is not in the tables: {reason}." for method, reason in whole["impossible"].items()]
    return _section("How it was made", "\n".join(lines))


def _provenance(measured: Tables, whole: Mapping[str, Any]) -> str:
    identity = whole["identity"]
    libraries = ", ".join(f"{name} {version}" for name, version in identity["libraries"].items())
    code = f"commit {whole['commit']}" if whole["commit"] else "an installed release"
    seconds = {row.method: 0.0 for row in measured.timings}
    for row in measured.timings:
        seconds[row.method] = max(seconds[row.method], row.seconds)
    spent = ", ".join(f"{method} {value:.2f} s" for method, value in seconds.items())
    lines = [
        f"* Made again by `{whole['command']}`",
        f"* Code: {code}; {libraries}; device {whole['device']}.",
        f"* Seed {identity['seed']}; split {identity['split']['sha256'][:12]}; labels {identity['labels']['sha256'][:12]}; "
        f"prompts {identity['prompts']['sha256'][:12]}; films {identity['films']['sha256'][:12]}. In full: manifest.json.",
        f"* Longest fit with its scores: {spent}.",
        "* Every figure: results.csv (and .parquet), summary.csv, comparisons.csv.",
    ]
    return _section("Where it is from", "\n".join(lines))


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *parts])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def _scope(summary: Sequence[Summary], scope: str) -> list[Summary]:
    return [row for row in summary if row.scope == scope]


def _cell(summary: Sequence[Summary], method: str, scope: str, shots: int) -> Summary | None:
    return next((row for row in summary if (row.method, row.scope, row.shots) == (method, scope, shots)), None)


def _at(summary: Sequence[Summary], method: str, scope: str, shots: int) -> Summary | None:
    """The row at these shots, or at none for a method that needs none."""
    return _cell(summary, method, scope, shots) or _cell(summary, method, scope, 0)


def _with_interval(row: Summary | None, *, of: int) -> str:
    """Mean, SD and interval; and on how many findings, where that is not all of them."""
    if row is None:
        return ""
    spread = f" ± {_auc(row.sd)}" if row.draws > 1 else ""
    partly = f" ({row.findings} of {of})" if row.findings < of else ""
    return f"{_auc(row.auc)}{spread} [{_auc(row.lo)}, {_auc(row.hi)}]{partly}"


def _named(method: str) -> str:
    """The method's name, the product's own in bold."""
    return f"**{method}**" if method == PRODUCT else method


def _shots(shots: int) -> str:
    return "no support" if shots == 0 else f"{shots} shot" + "s" * (shots > 1)


def _auc(value: float) -> str:
    """.7502, without the leading zero."""
    return NOTHING if np.isnan(value) else f"{value:.4f}".replace("0.", ".", 1)


def _points(value: float) -> str:
    return NOTHING if np.isnan(value) else f"{100 * value:+.2f}"


def _percent(value: float) -> str:
    return NOTHING if np.isnan(value) else f"{value:+.1%}"


def _p(value: float) -> str:
    return NOTHING if np.isnan(value) else "< .001" if value < 0.001 else f"{value:.3f}".replace("0.", ".", 1)
