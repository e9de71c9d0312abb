"""`tests.benchmarks.catalog` writes through the daemon's own steps, and fails with them."""

from __future__ import annotations

import time

from adapters.catalog.catalog import SqlCatalog
from tests.benchmarks.catalog_writes import writes
from tests.builders.large_archive import LargeArchive


def test_an_archive_is_received_queued_and_rescored(catalog_url: str, sql_catalog: SqlCatalog) -> None:
    archive = LargeArchive(60)
    archive.fill(catalog_url)
    found = writes(sql_catalog, archive, time.process_time)
    assert found["received_a_second"] > 0 and found["predictions_scored_a_second"] > 0
    assert all(a_second > 0 for a_second in found["predictions_written_a_second"])
