"""Every documented query runs on both databases, and the lineage query returns the lineage."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from adapters.catalog import query
from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.views import VIEWS
from pipeline import decisions
from pipeline.domain import FINDINGS, Sender, StoredFile
from tests.builders.catalog_rows import add_reported_study, pending_report, reported_header
from tests.builders.fakes.versions import a_version

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "deploy/docs/sql-cookbook.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE + (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_a_documented_query_runs(catalog_url: str, number: int) -> None:
    add_reported_study(catalog_url)
    columns, _ = query.run(catalog_url, QUERIES[number])
    assert columns


def test_the_lineage_of_a_report(catalog_url: str) -> None:
    add_reported_study(catalog_url)
    columns, rows = query.run(catalog_url, next(q for q in QUERIES if "v_lineage" in q))
    assert len(rows) == len(FINDINGS)
    first = dict(zip(columns, rows[0], strict=True))
    assert (first["image_sha256"], first["preprocessing"], first["prompts"]) == ("f" * 64, "PRE", "PROMPTS")
    assert (first["version"], first["delivery"], first["report_sha256"]) == (1, "sent", "e" * 64)
    assert (first["operating_point"], first["undetermined_margin"], first["calibration"]) == (0.5, 0.05, None)
    assert first["created_at"] <= first["built_at"] <= first["sent_at"]


def test_the_lineage_of_a_report_survives_its_successor(catalog_url: str) -> None:
    """A late instance makes a new revision; the lineage of the first report stays, without the late instance."""
    add_reported_study(catalog_url)
    catalog = SqlCatalog(catalog_url)
    time.sleep(0.01)  # scores and the earlier report are ordered by the clock, which counts milliseconds on SQLite
    with catalog.begin() as tx:
        late = reported_header("1.2")
        tx.studies.add_instance(late, StoredFile("aa/g.dcm", "d" * 64, 7), Sender("PACS", "h", "US"), opens_study=True)
        tx.scores.add_image_scores(1, {"1.2": np.full(len(FINDINGS), 0.9, np.float32)})
        scores = np.full(len(FINDINGS), 0.9, np.float32)
        predictions = decisions.predict_study(scores, a_version())
        tx.scores.put_predictions(1, {"1.4": predictions}, tx.studies.next_revisions(["1.4"]))
        tx.reports.ensure_pending(pending_report("2.25.9", revision=2, predecessor="2.25.1"))
    catalog.dispose()
    sql = "SELECT DISTINCT image_sha256, weights_sha256, band, score FROM v_lineage WHERE sop_instance_uid = '{}'"
    assert query.run(catalog_url, sql.format("2.25.1"))[1] == [("f" * 64, "0" * 64, None, None)]
    second = query.run(catalog_url, sql.format("2.25.9"))[1]
    assert sorted((image, band, round(score, 3)) for image, _, band, score in second) == [
        ("d" * 64, "likely", 0.9),
        ("f" * 64, "likely", 0.9),
    ]


@pytest.mark.parametrize("view", VIEWS)
def test_the_columns_of_a_view_are_those_documented(catalog_url: str, view: str) -> None:
    columns, _ = query.run(catalog_url, f"SELECT * FROM {view}")
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{view}`"))
    assert set(columns) == set(re.findall(r"`(\w+)`", row)) - {view}
