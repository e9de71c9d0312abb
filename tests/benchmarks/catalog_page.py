"""Page of the catalog at size: tables, plot, and the plans of queries over the bound."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from tests.benchmarks.catalog_questions import BOUND_MS, EVERYTHING
from tests.benchmarks.catalog_writes import TOGETHER

PLOT = "pictures/catalog-at-size.svg"
Measured = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Engine -> studies -> figures."""
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
INTRODUCTION = f"""# The catalog at size

Written by `python -m tests.benchmarks.catalog_size`; the docstrings of `tests/benchmarks/catalog.py` and the modules beside it
define each figure. Archive: `tests/builders/large_archive.py`, 15 predictions a study.
{{servers}}; {{machines}}, shared with other work; the table of writes has the load. Times are wall-clock
times; those of queries and listings include opening the connection.

![milliseconds a study against studies in the catalog]({PLOT})

## Queries and listings

Milliseconds, 95th percentile; in brackets the mean processor time of client and server together, which other work does not
change and which is close to the wall-clock time of an idle machine. Target: {{bound}}, except for the queries below that read
everything on purpose. If more programs wanted a processor than exist, the processor time is judged. `nothing` is `SELECT 1`,
the cost of any query: a command connects for each."""
WRITTEN = {
    "fill_ms_a_study": "loaded in bulk, with its 15 predictions, ms a study",
    "received_a_second": "studies received, a commit each, a second",
    "put_in_line_ms_a_study": "enqueued for re-scoring, ms a study",
    "put_in_line_processor_ms": "processor time of that",
    "scored_again_ms_a_study": "re-scored by the score step, without the encoder, ms a study",
    "scored_again_processor_ms": "processor time of that",
    "predictions_scored_a_second": "predictions of that step, from the claim to the end of the job, a second",
    "predictions_written_a_second": f"predictions written as that step does, {TOGETHER} studies a commit, a second",
    "predictions_written_a_processor_second": "the same, a second of processor time",
    "claim_and_finish_ms": "a job claimed and finished, a commit each, ms",
    "claim_and_finish_processor_ms": "processor time of that",
    "quiet_ms": "query for settled studies, ms",
    "newest_ms": "query for the newest 500 studies, ms",
    "nothing_unscored_ms": "search of 10,000 studies for one to re-score, ms",
    "worklist_seconds": "`radclipd worklist --n 20`, seconds",
    "load": "load average",
}
KEPT_UP = {
    "bytes": "size, GB",
    "jobs_forgotten": "deleted jobs",
    "forget_seconds": "duration of that, seconds",
    "count_anew_seconds": "planner statistics renewed, seconds",
    "vacuum_seconds": "`VACUUM (ANALYZE)`, seconds",
    "vacuum_into_seconds": "`VACUUM INTO`, seconds",
}
LINES = {
    "fill_ms_a_study": "loaded in bulk (the wall's)",
    "put_in_line_processor_ms": "put in line to be scored again",
    "scored_again_processor_ms": "scored again, the encoder apart",
    "claim_and_finish_processor_ms": "a job claimed and finished",
}


def write_page(page: Path, measured: Measured) -> None:
    """Write page and plot."""
    draw(page.parent / PLOT, measured)
    page.write_text("\n".join(_lines(measured)) + "\n")


def _lines(measured: Measured) -> Iterator[str]:
    columns = [(engine, size) for engine, found in measured.items() for size in found]
    largest = {engine: found[max(found)] for engine, found in measured.items()}
    machines = {found["machine"] for found in largest.values()}
    yield from INTRODUCTION.format(
        servers=", ".join(found["server"] for found in largest.values()),
        machines=", ".join(sorted(machines)),
        bound=f"{BOUND_MS:g}",
    ).splitlines()
    yield ""
    yield from _table(columns, measured, _both, {name: name for name in _asked(largest)})
    yield ""
    yield f"### Over {BOUND_MS:g} ms"
    yield ""
    yield from _over(largest)
    yield "## Writes"
    yield ""
    yield from _table(columns, measured, lambda found: found, WRITTEN)
    yield ""
    yield "## Maintenance"
    yield ""
    yield from _table(columns, measured, lambda found: found["upkeep"], KEPT_UP)
    yield ""
    yield from _upgrades(columns, measured)


def _asked(largest: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for found in largest.values() for name in found["p95_ms"]))


def _both(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{_cell(name, ms)} ({_cell(name, found['processor_ms'][name])})" for name, ms in found["p95_ms"].items()}


def _table(columns: list[tuple[str, int]], measured: Measured, part: Any, rows: Mapping[str, str]) -> Iterator[str]:
    yield "| | " + " | ".join(f"{NAMES[engine]} {size:,}" for engine, size in columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for key, words in rows.items():
        cells = [_cell(key, part(measured[engine][size]).get(key)) for engine, size in columns]
        if any(cells):
            yield f"| {words} | " + " | ".join(cells) + " |"


def _cell(key: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):  # of several rounds
        value = statistics.median(value)
    if key == "bytes":
        value = value / 1e9
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _over(largest: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """List all queries over the bound at the largest size, with the reason and each database's plan."""
    found = {
        name: {engine: one["p95_ms"][name] for engine, one in largest.items() if name in one["p95_ms"] and _is_over(one, name)}
        for name in _asked(largest)
    }
    for name, slow in ((name, slow) for name, slow in found.items() if slow):
        times = ", ".join(f"{NAMES[engine]} {ms:g} ms" for engine, ms in slow.items())
        yield f"* **{name}** ({times}): {EVERYTHING.get(name, 'the target is **missed**')}."
        for engine in slow:
            if plan := largest[engine]["plans"].get(name):
                yield from ("", f"      {NAMES[engine]}", *(f"        {step}" for step in plan))
        yield ""
    if not any(found.values()):
        yield from ("Nothing.", "")


def _is_over(found: Mapping[str, Any], name: str) -> bool:
    """Compare with the bound; on a busy machine by CPU time instead of wall time."""
    clock = "processor_ms" if found["load"] > found["processors"] else "p95_ms"
    return bool(found[clock][name] > BOUND_MS)


def _upgrades(columns: list[tuple[str, int]], measured: Measured) -> Iterator[str]:
    first = measured[columns[0][0]][columns[0][1]]["upgrade"]
    yield "## Upgrade"
    yield ""
    yield f"From schema {first['from']} to {first['to']} in one command, while other sessions read and write."
    yield ""
    waits = {name: f"longest wait of a session that {name}, ms" for name in first["waits_ms"]}
    rows = {"seconds": "`radclipd db upgrade`, seconds"} | waits
    yield from _table(columns, measured, lambda found: found["upgrade"] | found["upgrade"]["waits_ms"], rows)


def draw(path: Path, measured: Measured) -> None:
    """Draw one panel per database, milliseconds against studies, both on logarithmic scales."""
    path.parent.mkdir(exist_ok=True)
    with rc_context({"svg.hashsalt": "radclipd", "font.size": 9}):
        figure = Figure(figsize=(4.2 * len(measured), 3.6), layout="constrained")
        panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
        for panel, (engine, found) in zip(panels, measured.items(), strict=True):
            for key, words in LINES.items():
                panel.plot(list(found), [one[key] for one in found.values()], marker="o", label=words)
            panel.set(title=NAMES[engine], xscale="log", yscale="log", xlabel="studies in the catalog")
        panels[0].set_ylabel("milliseconds a study, of the processor")
        panels[0].legend(frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
