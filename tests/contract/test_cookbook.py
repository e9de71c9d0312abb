"""Every documented query runs on both databases, and the lineage query answers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from adapters.catalog import query
from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.views import VIEWS
from pipeline import rules
from pipeline.domain import FINDINGS, Header, Report, ReportState, Sender, StoredFile
from tests.fakes import a_version

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "deploy/docs/sql-cookbook.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE + (ROOT / "README.md").read_text(), re.DOTALL)


def fill(url: str) -> None:
    """One study, scored, reported and sent."""
    catalog = SqlCatalog(url)
    header = Header(
        sop_instance_uid="1.1",
        sop_class_uid=rules.DIGITAL_X_RAY_FOR_PRESENTATION,
        series_instance_uid="1.3",
        study_instance_uid="1.4",
        transfer_syntax_uid="1.5",
        accession_number="A1",
    )
    version = a_version(card={"preprocess": {"fingerprint": "PRE"}, "prompts": {"fingerprint": "PROMPTS"}})
    scores = np.linspace(0.1, 0.9, len(FINDINGS), dtype=np.float32)
    report = Report(
        sop_instance_uid="2.25.1",
        series_instance_uid="2.25.2",
        study_instance_uid="1.4",
        version=1,
        revision=1,
        state=ReportState.PENDING,
    )
    with catalog.begin() as tx:
        tx.versions.add(version)
        tx.studies.add_instance(header, StoredFile("aa/f.dcm", "f" * 64, 7), Sender("PACS", "h", "US"), opens_study=True)
        tx.scores.add_image_scores(1, {"1.1": scores})
        predictions = rules.predictions_of(scores, thresholds=version.thresholds, band=version.band)
        tx.scores.put_predictions("1.4", 1, predictions, revision=1)
        tx.reports.open(report)
        tx.reports.built("2.25.1", StoredFile("bb/r.dcm", "e" * 64, 9))
        tx.reports.sent("2.25.1", "0x0000")
    catalog.dispose()


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_a_documented_query_runs(catalog_url: str, number: int) -> None:
    fill(catalog_url)
    columns, _ = query.run(catalog_url, QUERIES[number])
    assert columns


def test_the_lineage_of_a_report(catalog_url: str) -> None:
    fill(catalog_url)
    columns, rows = query.run(catalog_url, next(q for q in QUERIES if "v_lineage" in q))
    assert len(rows) == len(FINDINGS)
    first = dict(zip(columns, rows[0], strict=True))
    assert (first["image_sha256"], first["preprocessing"], first["prompts"]) == ("f" * 64, "PRE", "PROMPTS")
    assert (first["version"], first["delivery"], first["report_sha256"]) == (1, "sent", "e" * 64)
    assert float(first["threshold"]) == 0.5
    assert first["sent_at"]


@pytest.mark.parametrize("view", VIEWS)
def test_every_column_of_a_view_is_documented(catalog_url: str, view: str) -> None:
    columns, _ = query.run(catalog_url, f"SELECT * FROM {view}")
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{view}`"))
    documented = row if view != "v_lineage" else PAGE
    assert [c for c in columns if c not in documented and c not in ("study_instance_uid", "revision", "device_uid")] == []
