"""The catalog at four sizes on both databases, and its page: `python -m tests.benchmarks.catalog_size`.

What was measured of an engine and a size is kept in `build/benchmarks/catalog-size`, and the page (`deploy/docs/catalog-size.md`
with its plot) is written from what lies there: single ones can be repeated (`--engines sqlite --studies 1000000`), and
`--page-only` measures none. A million studies take 5 GB on each database and twice that for a while, and are removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.catalog import query
from tests.benchmarks.catalog import ENGINES, filled, measure
from tests.benchmarks.catalog_page import write_page
from tests.benchmarks.catalog_upkeep import upgraded, upkeep
from tests.builders.large_archive import LargeArchive

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "benchmarks" / "catalog-size"
PAGE = ROOT / "deploy" / "docs" / "catalog-size.md"
SIZES = (1_000, 10_000, 100_000, 1_000_000)


def main() -> None:
    """Measure, store the results, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, nargs="+", default=SIZES)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    for engine in () if options.page_only else options.engines:
        for size in sorted(options.studies):
            with filled(engine, size) as (url, seconds):
                keep(engine, size, {"fill_ms_a_study": round(1000 * seconds / size, 3)} | everything(url, LargeArchive(size)))
    write_page(PAGE, kept())


def everything(url: str, archive: LargeArchive) -> dict[str, Any]:
    """Return all measurements of a filled catalog. The upgrade comes last: it first returns to an earlier schema."""
    processors = os.cpu_count() or 1
    found = {"server": _server(url), "processors": processors, "machine": f"{processors} processors, {platform.machine()}"}
    found |= measure(url, archive, rounds=3) | {"load": round(os.getloadavg()[1], 1)}
    return found | {"upkeep": upkeep(url, archive), "upgrade": upgraded(url, archive)}


def _server(url: str) -> str:
    if url.startswith("sqlite"):
        return f"SQLite {sqlite3.sqlite_version}"
    [(version,)] = query.run(url, "SELECT current_setting('server_version')")[1]
    return f"PostgreSQL {version.split()[0]}"


def keep(engine: str, size: int, found: Mapping[str, Any]) -> None:
    """Store results, replacing earlier ones."""
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{engine}-{size}.json").write_text(json.dumps(found))


def kept() -> dict[str, dict[int, dict[str, Any]]]:
    """Return the last results: engine -> studies -> figures."""
    files = {engine: sorted((int(one.stem.partition("-")[2]), one) for one in KEPT.glob(f"{engine}-*.json")) for engine in ENGINES}
    return {engine: {size: json.loads(one.read_text()) for size, one in found} for engine, found in files.items() if found}


if __name__ == "__main__":
    main()
