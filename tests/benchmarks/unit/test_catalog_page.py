"""The page of the catalog at size shows the results, and plan and reason of slow queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.benchmarks.catalog import ratios_of
from tests.benchmarks.catalog_page import PLOT, WRITTEN, write_page
from tests.benchmarks.catalog_questions import EVERYTHING, LISTINGS, names, queries
from tests.builders.large_archive import LargeArchive

ON_PURPOSE = next(iter(EVERYTHING))


def _found(slow_ms: float) -> dict[str, Any]:
    return {
        **dict.fromkeys(WRITTEN, 2.0),
        "predictions_written_a_second": [9_000.0, 15_000.0, 16_000.0],
        "p95_ms": {"v_studies of a day": slow_ms, ON_PURPOSE: 400.0},
        "processor_ms": {"v_studies of a day": 7.0, ON_PURPOSE: 380.0},
        "plans": {"v_studies of a day": ["SCAN studies"], ON_PURPOSE: ["SCAN all"]},
        "way_seconds": {"orm": [4.0, 5.0, 6.0], "ours": [1.0, 1.0, 1.0]},
        "server": "SQLite 3",
        "machine": "2 processors",
        "processors": 2,
        "load": 0.5,
        "upkeep": {"bytes": 4_400_000_000, "jobs_forgotten": 12_345},
        "upgrade": {"from": "0002", "to": "0005", "seconds": 61.0, "waits_ms": {"reads tables": 17.0}},
    }


def test_a_query_over_the_bound_shows_its_plan_and_is_missed_unless_it_reads_everything(tmp_path: Path) -> None:
    write_page(tmp_path / "page.md", {"sqlite": {1_000: _found(20.0), 1_000_000: _found(150.0)}})
    page = (tmp_path / "page.md").read_text()
    assert "| v_studies of a day | 20 (7) | 150 (7) |" in page
    missed, on_purpose = (line for line in page.splitlines() if line.startswith("* **"))
    assert "v_studies of a day" in missed
    assert "missed" in missed
    assert EVERYTHING[ON_PURPOSE] in on_purpose
    assert "missed" not in on_purpose
    assert "        SCAN studies\n" in page
    assert "| size, GB | 4.4 | 4.4 |" in page
    assert "| longest wait of a session that reads tables, ms | 17 | 17 |" in page
    assert (tmp_path / PLOT).read_text().startswith("<?xml")


def test_ratios_refer_to_the_largest_archive() -> None:
    found = ratios_of({1_000: _found(20.0) | {"scored_again_processor_ms": 1.0}, 1_000_000: _found(50.0)})
    assert found["vs_orm_per_row"] == {"min": 4.0, "median": 5.0, "max": 6.0}
    assert found["target_predictions_per_second"] == {"min": 0.9, "median": 1.5, "max": 1.6}
    assert found["target_query_p95"]["median"] == 2.0
    assert found["flat_study_cost"]["median"] == 0.5


def test_queries_that_read_everything_are_measured() -> None:
    assert EVERYTHING.keys() <= queries(names(LargeArchive(1_000))).keys() | {f"radclipd {name}" for name in LISTINGS}
