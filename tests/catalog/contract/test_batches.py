"""Batches of studies give the rows that each study alone would give, in as many statements as one study takes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from adapters.catalog.catalog import SqlCatalog
from pipeline import decisions, learn, rules, score
from pipeline.consensus import LabelPolicy
from pipeline.domain import FINDINGS, Job, JobKind, JobState, Label, LabelState, Report, ReportState, StudyState
from pipeline.errors import LeaseLost
from pipeline.learn import LearnPolicy
from pipeline.ports.services import Catalog
from pipeline.work import JobOutcome
from tests.builders.catalog_rows import add_instance, chest_header
from tests.builders.fakes.images import FakeImageReader
from tests.builders.fakes.models import FakeScorers
from tests.builders.fakes.versions import a_version
from tests.conftest import DATABASES

STUDIES = ["1.1", "1.2", "1.3"]


def predictions(level: float) -> list[Any]:
    return list(decisions.predict_study(np.full(len(FINDINGS), level, np.float32), a_version()))


def fill(catalog: Catalog, studies: list[str]) -> None:
    for study in studies:
        add_instance(catalog, chest_header(study=study, sop=f"{study}.1"))
    with catalog.begin() as tx:
        tx.studies.put_states(studies, StudyState.SETTLED)


def test_several_studies_are_locked_read_and_changed_together(catalog: Catalog) -> None:
    fill(catalog, STUDIES)
    with catalog.begin() as tx:
        tx.studies.put_state("1.1", StudyState.IGNORED, reason="no chest")
        held = tx.studies.lock([*STUDIES, "1.9"])
        assert {uid: study.state for uid, study in held.items()} == {
            "1.1": StudyState.IGNORED,
            "1.2": StudyState.SETTLED,
            "1.3": StudyState.SETTLED,
        }
        tx.studies.put_states(["1.1", "1.3"], StudyState.SCORED)
        tx.studies.put_states([], StudyState.ARRIVING)
        assert [(study.state, study.reason) for study in tx.studies.lock(STUDIES).values()] == [
            (StudyState.SCORED, ""),
            (StudyState.SETTLED, ""),
            (StudyState.SCORED, ""),
        ]
        assert tx.studies.next_revisions(["1.1", "1.3"]) == {"1.1": 1, "1.3": 1}
        assert tx.studies.next_revisions(["1.3"]) == {"1.3": 2}
        assert not tx.studies.next_revisions([])
        assert not tx.studies.lock([])


def test_scores_and_predictions_of_several_studies(catalog: Catalog) -> None:
    fill(catalog, STUDIES)
    scores = {f"{study}.1": np.full(len(FINDINGS), row / 10, np.float32) for row, study in enumerate(STUDIES)}
    with catalog.begin() as tx:
        tx.versions.add(a_version())
        tx.scores.add_image_scores(1, scores)
        tx.scores.put_predictions(1, {"1.1": predictions(0.1), "1.3": predictions(0.9)}, {"1.1": 1, "1.3": 4})
        tx.scores.put_predictions(1, {"1.3": predictions(0.2)}, {"1.3": 5})
        tx.scores.put_predictions(1, {}, {})
    with catalog.read() as tx:
        found = tx.scores.image_scores_of(["1.1", "1.2", "1.9"], 1)
        assert {study: list(of) for study, of in found.items()} == {"1.1": ["1.1.1"], "1.2": ["1.2.1"]}
        assert found["1.2"]["1.2.1"] == pytest.approx(scores["1.2.1"])
        assert tx.scores.image_scores_of(STUDIES, 2) == tx.scores.image_scores_of([], 1) == {}
        assert tx.scores.predictions_of([*STUDIES, "1.9"], 1) == {"1.1": predictions(0.1), "1.3": predictions(0.2)}


def test_the_latest_report_of_several_studies(catalog: Catalog) -> None:
    fill(catalog, STUDIES)
    made = [
        Report(
            sop_instance_uid=f"2.25.{row}",
            series_instance_uid=f"2.25.{row}.9",
            study_instance_uid=study,
            version=1,
            revision=row,
            state=ReportState.PENDING,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        )
        for row, study in enumerate(STUDIES[:2] * 2)
    ]
    with catalog.begin() as tx:
        tx.versions.add(a_version())
        for report in made:
            tx.reports.ensure_pending(report)
        assert tx.reports.latest_of(STUDIES) == {"1.1": made[2], "1.2": made[3]}
        assert tx.reports.latest_of([]) == {}


def test_several_jobs_are_put_and_finished_together(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.REPORT, "1.2", {"revision": 1})
        tx.jobs.put_all(JobKind.REPORT, {study: {"revision": 2} for study in STUDIES})
        tx.jobs.put_all(JobKind.REPORT, {})
    with catalog.begin() as tx:
        held = tx.jobs.claim([JobKind.REPORT], worker="w", lease_seconds=60, limit=9)
    assert [(job.subject, job.payload) for job in held] == [(uid, {"revision": 2}) for uid in ("1.2", "1.1", "1.3")]
    with pytest.raises(LeaseLost, match=f"job {held[1].id} "), catalog.begin() as tx:
        tx.jobs.retry(held[1], error="given up", delay_seconds=60)
        tx.jobs.finish(*held)
    with catalog.begin() as tx:
        assert tx.jobs.count_by_state() == {(JobKind.REPORT, JobState.RUNNING): 3}, "none is done where one lease is lost"
        tx.jobs.finish(*held)
        tx.jobs.finish()
        assert tx.jobs.count_by_state() == {(JobKind.REPORT, JobState.DONE): 3}


@pytest.mark.parametrize("database", DATABASES)
def test_scoring_a_batch_takes_no_more_statements_than_scoring_one_study(database: str, fresh_url: Callable[[str], str]) -> None:
    catalog = SqlCatalog(fresh_url(database))
    with catalog.begin() as tx:
        tx.versions.add(a_version())
    statements: list[str] = []
    event.listen(catalog._engine, "before_cursor_execute", lambda *asked: statements.append(asked[2]))
    counts = []
    for first, many in ((0, 1), (10, 8)):
        studies = [f"1.{number}" for number in range(first, first + many)]
        fill(catalog, studies)
        with catalog.begin() as tx:
            for study in studies:
                tx.jobs.put(JobKind.SCORE, study)
        statements.clear()
        assert all(outcome.error is None for outcome in scored(catalog, many))
        counts.append(len(statements))
    catalog.dispose()
    assert counts[0] == counts[1] > 5


def scored(catalog: Catalog, many: int) -> list[JobOutcome]:
    with catalog.begin() as tx:
        jobs: list[Job] = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=60, limit=many)
    assert len(jobs) == many
    policy = score.ScorePolicy(aggregate="max", chest=rules.ChestPolicy())
    return list(score.score(jobs, catalog=catalog, pixels=FakeImageReader(), scorers=FakeScorers(), policy=policy))


@pytest.mark.parametrize("database", DATABASES)
def test_the_training_set_takes_no_more_statements_for_many_labelled_studies(
    database: str, fresh_url: Callable[[str], str], learn_policy: LearnPolicy
) -> None:
    catalog = SqlCatalog(fresh_url(database))
    with catalog.begin() as tx:
        tx.versions.add(a_version())
        tx.versions.serve(1)
    statements: list[str] = []
    event.listen(catalog._engine, "before_cursor_execute", lambda *asked: statements.append(asked[2]))
    counts, examples = [], []
    for first, many in ((0, 4), (10, 8)):
        studies = [f"1.{number}" for number in range(first, first + many)]
        for study in studies:
            add_instance(catalog, chest_header(study=study, sop=f"{study}.1", patient_id=study))
        with catalog.begin() as tx:
            tx.studies.put_states(studies, StudyState.SCORED)
            tx.labels.append(
                [a_label(uid, LabelState.PRESENT if row % 2 else LabelState.ABSENT) for row, uid in enumerate(studies)]
            )
        statements.clear()
        with catalog.read() as tx:
            training_set, _ = learn._build_training_set(tx, learn_policy)
            assert tx.labels.count_newer(1) == len(tx.labels.all()) - 1
        counts.append(len(statements))
        examples.append(len(training_set.examples))
    catalog.dispose()
    assert examples == [4, 12]
    assert counts[0] == counts[1]


@pytest.fixture
def learn_policy() -> LearnPolicy:
    return LearnPolicy(
        labels=LabelPolicy(),
        chest=rules.ChestPolicy(),
        gate=rules.GatePolicy(),
        min_positives=1,
        unlabelled_studies=5,
    )


def a_label(study: str, state: LabelState) -> Label:
    stated_at = datetime(2025, 6, 1, tzinfo=UTC)
    return Label(study_instance_uid=study, finding="Mass", state=state, reader="alice", source="csv", stated_at=stated_at)


def test_patient_keys_are_those_of_the_known_studies(catalog: Catalog) -> None:
    fill(catalog, STUDIES)
    with catalog.read() as tx:
        keys = tx.studies.patient_keys([*STUDIES, "1.9"])
        assert keys == {uid: study.patient_key for uid, study in tx.studies.lock(STUDIES).items()}
