"""The catalog at size: `python -m tests.benchmarks.catalog [--studies 1000 10000] [--engines sqlite] [--json]`.

Fills a catalog by `tests/builders/large_archive.py` (15 predictions a study), measures what workers ask of it and of
the largest, people: every query of the SQL cookbook, every listing of the command line (`--json`, in this process), the
queue, what receiving commits, and the scores of an archive that is scored again, through `pipeline.score` itself. What takes
longer than 100 ms tells its plan.

Of the largest of the sizes are these ratios; those of PostgreSQL have its name behind, as `vs_orm_per_row_postgresql`,
`target_predictions_per_second_postgresql`, `target_query_p95_postgresql` and `flat_study_cost_postgresql`:

* `vs_orm_per_row`: predictions committed study by study as a user of SQLAlchemy's ORM would, `session.merge` for each row, against
  `put_predictions`, in turns.
* `target_predictions_per_second`: predictions that a second writes when an archive is scored again, by 10,000.
* `target_query_p95`: 100 ms by the 95th percentile of the slowest query or listing, those apart that read everything on purpose.
* `flat_study_cost`: processor time of a study that is scored again in the smallest archive, by that in the largest.

PostgreSQL runs as Debian ships it, fsync on. `tests.benchmarks.catalog_size` measures up to a million studies and writes the page.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from tests.benchmarks.catalog_clock import processor_clock
from tests.benchmarks.catalog_questions import BOUND_MS, EVERYTHING, asked, verb
from tests.benchmarks.catalog_writes import by_orm, by_us, writes
from tests.benchmarks.films import ratio, side_by_side
from tests.benchmarks.output import format_result, prints_result_alone
from tests.builders import postgres
from tests.builders.large_archive import LargeArchive

ENGINES = ("sqlite", "postgresql")
WANTED = 10_000.0
"""Predictions a second."""


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measured: dict[str, Any] = {"rounds": options.rounds}
    ratios: dict[str, dict[str, float]] = {}
    for engine in options.engines:
        found = {}
        for size in sorted(options.studies):
            with filled(engine, size) as (url, seconds):
                found[size] = {"fill_ms_a_study": round(1000 * seconds / size, 3)}
                found[size] |= measure(url, LargeArchive(size), rounds=options.rounds, ask=size == max(options.studies))
            measured[f"{engine} {size}"] = found[size]
        behind = "" if engine == "sqlite" else f"_{engine}"
        ratios |= {f"{name}{behind}": value for name, value in ratios_of(found).items()}
    return format_result(measured | {"ratios": ratios}, as_json=options.json)


@contextlib.contextmanager
def filled(engine: str, size: int) -> Iterator[tuple[str, float]]:
    """Yield the URL of a filled catalog and the seconds of filling it."""
    with contextlib.ExitStack() as stack:
        if engine == "postgresql":
            url = stack.enter_context(postgres.cluster(durable=True)).upgraded()
        else:
            url = f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/catalog.db"
            schema.upgrade(url)
        begun = time.perf_counter()
        LargeArchive(size).fill(url)
        seconds = time.perf_counter() - begun
        catalog = SqlCatalog(url)
        catalog.update_statistics()  # like the dispatcher, every hour
        catalog.dispose()
        yield url, seconds


def measure(url: str, archive: LargeArchive, *, rounds: int, ask: bool = True) -> dict[str, Any]:
    """Return the milliseconds of each query and step, the plans of slow queries, and the seconds of both ways to write.

    `ask`: include queries and listings.
    """
    found = asked(url, archive) if ask else {}
    begun = time.perf_counter()
    verb(url, ["worklist", "--n", "20", "--dry-run"])
    found["worklist_seconds"] = round(time.perf_counter() - begun, 2)
    catalog = SqlCatalog(url)
    try:
        found |= writes(catalog, archive, processor_clock(url))
        ways = {"orm": partial(by_orm, url, archive), "ours": partial(by_us, catalog, archive)}
        found["way_seconds"] = side_by_side(ways, rounds=rounds)
    finally:
        catalog.dispose()
    return found


def ratios_of(found: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the ratios of one engine from the measurements at each size."""
    least, most = found[min(found)], found[max(found)]
    slowest = max(ms for name, ms in most["p95_ms"].items() if name not in EVERYTHING)
    return {
        "vs_orm_per_row": ratio(most["way_seconds"]["orm"], most["way_seconds"]["ours"]),
        "target_predictions_per_second": _spread([one / WANTED for one in most["predictions_written_a_second"]]),
        "target_query_p95": _spread([BOUND_MS / slowest]),
        "flat_study_cost": _spread([least["scored_again_processor_ms"] / most["scored_again_processor_ms"]]),
    }


def _spread(found: list[float]) -> dict[str, float]:
    return {"min": round(min(found), 2), "median": round(statistics.median(found), 2), "max": round(max(found), 2)}


if __name__ == "__main__":
    main()
