"""Kept reports and the silent share, in the catalog."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.exc import DBAPIError

from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from pipeline import decisions
from pipeline.consensus import LabelPolicy
from pipeline.domain import (
    FINDINGS,
    Decision,
    Label,
    LabelExposure,
    LabelState,
    Report,
    ReportState,
    Sender,
    StoredFile,
    StudyState,
    VisibleKind,
    VisibleObject,
    WithheldReason,
)
from pipeline.ports.services import Catalog
from pipeline.shadow import summarise_shadow
from tests.builders.catalog_rows import chest_header
from tests.builders.fakes.versions import a_version
from tests.builders.sql import execute, rows
from tests.catalog.contract.test_schema import load_release
from tests.conftest import DATABASES

FILE = StoredFile("ab/cd", "c" * 64, 3)


def add_study(catalog: Catalog, number: int) -> str:
    uid = f"1.{number}"
    with catalog.begin() as tx:
        header = chest_header(study=uid, sop=f"{uid}.1")
        tx.studies.add_instance(header, FILE, Sender("A", "h", "B"), opens_study=True)
    return uid


def add_report(catalog: Catalog, study: str, withheld: WithheldReason | None) -> str:
    uid = f"{study}.9"
    with catalog.begin() as tx:
        report = Report(
            sop_instance_uid=uid,
            series_instance_uid="1.8",
            study_instance_uid=study,
            version=1,
            revision=1,
            state=ReportState.PENDING,
        )
        tx.reports.ensure_pending(report)
        tx.reports.mark_built(uid, FILE)
        tx.reports.put_withheld(uid, withheld)
    return uid


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    with catalog.begin() as tx:
        tx.versions.add(a_version())
    for number, withheld in enumerate((WithheldReason.SHADOW, WithheldReason.SILENT, None, WithheldReason.SHADOW), 1):
        add_report(catalog, add_study(catalog, number), withheld)
    return catalog


def test_studies_with_a_kept_report_are_listed_in_order_and_by_time(filled: Catalog) -> None:
    with filled.read() as tx:
        day = timedelta(days=1)
        assert tx.reports.studies_withheld(since=tx.now() - day, after="", limit=9) == ["1.1", "1.4"]
        assert tx.reports.studies_withheld(since=tx.now() - day, after="1.1", limit=9) == ["1.4"]
        assert tx.reports.studies_withheld(since=tx.now() - day, after="", limit=1) == ["1.1"]
        assert tx.reports.studies_withheld(since=tx.now() + day, after="", limit=9) == []
        report = tx.reports.find("1.2.9")
        assert report is not None
        assert (report.withheld, report.reaches_archive) == (WithheldReason.SILENT, False)
    with filled.begin() as tx:
        tx.reports.put_withheld("1.1.9", None)
    with filled.read() as tx:
        report = tx.reports.find("1.1.9")
        assert report is not None
        assert (report.withheld, report.reaches_archive) == (None, True)


def test_a_study_with_a_kept_report_is_scored_again_by_another_version(filled: Catalog) -> None:
    with filled.begin() as tx:
        tx.studies.put_states(["1.1", "1.2", "1.3", "1.4"], StudyState.SCORED)
    with filled.read() as tx:
        assert sorted(tx.studies.unscored(2, limit=9)) == ["1.1", "1.2", "1.4"]


def test_the_draw_is_recorded_and_its_key_stays(catalog: Catalog) -> None:
    for number in (1, 2, 3):
        add_study(catalog, number)
    with catalog.begin() as tx:
        key = tx.studies.draw_key()
        tx.studies.put_silent(["1.1"], silent=True)
        tx.studies.put_silent(["1.2"], silent=False)
    with catalog.begin() as tx:
        assert tx.studies.draw_key() == key
        assert {uid: study.silent for uid, study in tx.studies.lock(["1.1", "1.2", "1.3"]).items()} == {
            "1.1": True,
            "1.2": False,
            "1.3": None,
        }


def test_a_delivered_text_report_counts_as_delivered(filled: Catalog) -> None:
    text = VisibleObject(
        sop_instance_uid="1.3.9.1", series_instance_uid="1.7", report="1.3.9", kind=VisibleKind.TEXT, state=ReportState.PENDING
    )
    with filled.begin() as tx:
        tx.reports.ensure_visible(text)
        tx.reports.mark_built("1.3.9.1", FILE)
        tx.reports.mark_sent("1.3.9.1", "0x0000")
        tx.reports.mark_refused("1.3.9", "not this class")
    with filled.read() as tx:
        assert tx.reports.first_sent(["1.1", "1.3"]).keys() == {"1.3"}


def test_a_kept_report_cannot_count_as_sent(sql_catalog: SqlCatalog, catalog_url: str) -> None:
    with sql_catalog.begin() as tx:
        tx.versions.add(a_version())
    add_report(sql_catalog, add_study(sql_catalog, 1), WithheldReason.SHADOW)
    for wrong in ("withheld = 'else'", "state = 'sent', sent_at = created_at"):
        with pytest.raises(DBAPIError):
            execute(catalog_url, f"UPDATE reports SET {wrong}")


def test_the_summary_counts_what_would_have_been_sent_and_compares_with_unexposed_labels(sql_catalog: SqlCatalog) -> None:
    with sql_catalog.begin() as tx:
        tx.versions.add(a_version())
    decided = {1: Decision.PRESENT, 2: Decision.PRESENT, 3: Decision.ABSENT, 4: Decision.ABSENT}
    for number in decided:
        add_report(sql_catalog, add_study(sql_catalog, number), WithheldReason.SILENT if number == 4 else WithheldReason.SHADOW)
    with sql_catalog.begin() as tx:
        tx.studies.put_silent(["1.4"], silent=True)
        for number, decision in decided.items():
            called = np.array([finding == "Mass" and decision is Decision.PRESENT for finding in FINDINGS])
            scores = np.where(called, np.float32(0.9), np.float32(0.1))
            told = decisions.predict_study(scores, a_version())
            tx.scores.put_predictions(1, {f"1.{number}": told}, tx.studies.next_revisions([f"1.{number}"]))
        states = {1: LabelState.PRESENT, 2: LabelState.ABSENT, 3: LabelState.PRESENT, 4: LabelState.PRESENT}
        tx.labels.append(
            [
                Label(
                    study_instance_uid=f"1.{number}",
                    finding="Mass",
                    state=state,
                    reader="r",
                    source="csv",
                    stated_at=tx.now(),
                    exposure=LabelExposure.POSSIBLE if number == 3 else LabelExposure.NONE,
                )
                for number, state in states.items()
            ]
        )
    with sql_catalog.read() as tx:
        found = summarise_shadow(tx, days=1, policy=LabelPolicy())
        assert summarise_shadow(tx, days=0, policy=LabelPolicy()).arrived == 0
    assert (found.arrived, found.scored, found.silent) == (4, 4, 1)
    assert (found.kept, found.kept_silent, found.sent) == (3, 1, 0)
    assert (found.calls, found.without_call, found.read, found.exposed) == (2, 2, 3, 1)
    mass = found.findings[FINDINGS.index("Mass")]
    assert (mass.assessed, mass.called, mass.present, mass.found, mass.absent, mass.false_calls) == (4, 2, 2, 1, 1, 1)


@pytest.mark.parametrize("engine", DATABASES)
def test_an_upgrade_keeps_delivered_reports_and_draws_no_study(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = load_release("0.2.0.dev8", engine, request, tmp_path)
    schema.upgrade(url)
    assert rows(url, "SELECT silent FROM v_studies") == [(None,)]
    assert rows(url, "SELECT state, withheld FROM v_reports") == [("sent", "")]
    assert rows(url, "SELECT COUNT(*) FROM draw_keys") == [(0,)]
