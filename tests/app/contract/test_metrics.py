"""The metrics: figures of both databases, their cache, and the page that Prometheus scrapes."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event
from structlog.testing import capture_logs

from adapters.app.compose import Parts
from adapters.app.metrics import open_metrics
from adapters.catalog.catalog import SqlCatalog
from adapters.cli.check import _check_metrics
from adapters.config.sections import ActivationCacheConfig, Config, MetricsConfig, StorageConfig
from adapters.demo.loopback import free_ports
from adapters.service import scrape_server
from adapters.service.prometheus import (
    ARCHIVE_CACHE_SECONDS,
    DISK_GAUGES,
    MAX_TIME_SHARE,
    QUEUE_CACHE_SECONDS,
    CatalogCollector,
    MetricSources,
    TimedCache,
)
from adapters.storage.image_store import FileImageStore
from pipeline import decisions, learn, priorities, work
from pipeline.domain import FINDINGS, Decision, Job, JobKind, JobState, LabelState, ReportState, StudyState, VersionState
from pipeline.errors import CatalogFault, ConfigurationError, OutOfResources, PixelsUnreadable
from pipeline.figures import ArchiveFigures, BackfillFigures, LearningGain, LearningRound, LearningStage, QueueFigures
from pipeline.learn import LearnOutcome, LearnResult
from pipeline.ports.backfill import BackfillCounts, BackfillUnit
from pipeline.progress import JobProgress
from tests.builders.catalog_rows import FILE, add_instance, chest_header, import_statement, pending_report, worklist_request
from tests.builders.fakes.versions import a_version
from tests.builders.reception import wait_for

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
GAINS = [
    {"against": "zero-shot", "monitoring": False, "candidate": 0.8, "other": 0.7, "lower": 0.05, "upper": 0.15},
    {"against": "version 1", "monitoring": True, "candidate": 0.75, "other": 0.75, "lower": -0.1, "upper": 0.1},
    {"against": "version 1", "monitoring": False, "candidate": None, "other": 0.75, "lower": None, "upper": None},
]


def line_of(catalog: SqlCatalog) -> QueueFigures:
    with catalog.read() as tx:
        return tx.figures.current_figures()


def archive_of(catalog: SqlCatalog) -> ArchiveFigures:
    with catalog.read() as tx:
        return tx.figures.archive_figures()


def claim(catalog: SqlCatalog, kind: JobKind, subject: str, **payload: Any) -> Job:
    with catalog.begin() as tx:
        tx.jobs.put(kind, subject, payload)
        (job,) = tx.jobs.claim([kind], worker="w", lease_seconds=60)
    return job


def test_figures_of_an_empty_catalog(sql_catalog: SqlCatalog) -> None:
    line, archive = line_of(sql_catalog), archive_of(sql_catalog)
    assert (line.jobs, line.quarantined, line.versions, line.serving, line.stage, line.last_round) == ({}, {}, {}, None, None, None)
    assert (list(line.open_circuits), list(line.gains), line.serving_since) == ([], [], None)
    assert (archive.studies, archive.reports, archive.instances, archive.rescoring) == ({}, {}, 0, None)
    assert (archive.backfills, archive.backfilled_unscored) == ({}, 0)


def test_figures_of_the_queue(sql_catalog: SqlCatalog) -> None:
    with sql_catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "done")
        tx.jobs.finish(tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=60)[0])
        tx.jobs.put(JobKind.REPORT, "old")
        tx.jobs.put(JobKind.SCORE, "of the archive", priority=priorities.RESCORE)
        tx.circuits.record_failure("PACS", threshold=1, open_seconds=60)
        tx.circuits.record_failure("OTHER", threshold=9, open_seconds=60)
    claim(sql_catalog, JobKind.SEND, "held")
    line = line_of(sql_catalog)
    assert line.jobs == {
        (JobKind.REPORT, JobState.WAITING): 1,
        (JobKind.SCORE, JobState.WAITING): 1,
        (JobKind.SEND, JobState.RUNNING): 1,
    }
    assert list(line.oldest_due_seconds) == [JobKind.REPORT]
    assert list(line.open_circuits) == ["PACS"]


def test_quarantined_jobs_are_counted_by_error_class(sql_catalog: SqlCatalog) -> None:
    policy = work.WorkPolicy(max_attempts=1)
    faults = (PixelsUnreadable("cut short"), OSError("Doe^John"), CatalogFault("refused"), PixelsUnreadable("empty"))
    for number, error in enumerate(faults):
        job = claim(sql_catalog, JobKind.SCORE, f"1.{number}", revision=1)
        work.retry_or_quarantine(work.JobOutcome(job, error), catalog=sql_catalog, policy=policy)
    worn = claim(sql_catalog, JobKind.SCORE, "1.9", revision=1)
    work._quarantine_if_exhausted(replace(worn, attempts=2), sql_catalog, policy)
    with sql_catalog.begin() as tx:  # as a release before this one did
        tx.jobs.put(JobKind.SEND, "9.9")
        tx.jobs.quarantine(tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=60)[0], error="refused")
    assert line_of(sql_catalog).quarantined == {
        (JobKind.SCORE, "PixelsUnreadable"): 2,
        (JobKind.SCORE, "unexpected"): 1,
        (JobKind.SCORE, "CatalogFault"): 1,
        (JobKind.SCORE, work.NO_ANSWER_KIND): 1,
        (JobKind.SEND, "other"): 1,
    }
    with sql_catalog.begin() as tx:
        assert tx.jobs.requeue() == 6
        again = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=60, limit=9)
    assert {job.payload["revision"] for job in again} == {1}
    assert line_of(sql_catalog).quarantined == {}


def test_figures_of_a_round_of_learning_during_and_after_it(sql_catalog: SqlCatalog) -> None:
    with sql_catalog.begin() as tx:
        tx.versions.add(a_version(1))
    job = claim(sql_catalog, JobKind.LEARN, learn.ALL_LABELS)
    assert line_of(sql_catalog).stage is None
    moments = iter([0.0, 10.0, 20.0])
    JobProgress(job, catalog=sql_catalog, clock=lambda: next(moments))("unfreezing", 2, 10)
    assert line_of(sql_catalog).stage == LearningStage("unfreezing", 2, 10, 40.0)
    with sql_catalog.begin() as tx:
        learn._finish_job(tx, job, LearnOutcome(LearnResult.NOTHING, "too few"))
    ended = line_of(sql_catalog)
    assert ended.stage is None
    assert ended.last_round is not None
    assert ended.last_round.result == "nothing to learn"
    assert abs(ended.last_round.ended_at - datetime.now(UTC)) < timedelta(seconds=10)


@pytest.mark.parametrize(
    ("state", "result"),
    [(VersionState.REJECTED, LearnResult.REJECTED), (VersionState.CANDIDATE, LearnResult.WAITING)],
)
def test_the_last_manual_round_is_known_from_its_version(sql_catalog: SqlCatalog, state: VersionState, result: LearnResult) -> None:
    with sql_catalog.begin() as tx:
        tx.versions.add(a_version(1, notice="UNTRAINED"))
        card = {"learning": {"comparisons": GAINS, "newest_label": 3}}
        tx.versions.add(a_version(2, state, label_fingerprint="f" * 64, reason="why", card=card))
    line = line_of(sql_catalog)
    assert line.last_round is not None
    assert line.last_round.result == result
    assert (line.serving, line.notice, line.versions) == (1, "UNTRAINED", {VersionState.SERVING: 1, state: 1})
    first, second = line.gains
    assert first == LearningGain("zero-shot", "labels", pytest.approx(0.1), 0.05, 0.15)  # type: ignore[arg-type]  # a float, about
    assert (second.against, second.sample, second.gain) == ("serving", "monitoring", 0.0)


def test_figures_of_the_archive(sql_catalog: SqlCatalog) -> None:
    with sql_catalog.begin() as tx:
        tx.versions.add(a_version(1))
    for number in (1, 2, 3, 4):
        add_instance(sql_catalog, chest_header(study=f"1.{number}", sop=f"1.{number}.1"))
    add_instance(sql_catalog, chest_header(study="1.4", sop="1.4.2"))
    predictions = decisions.predict_study([0.5] * len(FINDINGS), a_version())  # type: ignore[arg-type]  # any 14 numbers
    with sql_catalog.begin() as tx:
        tx.studies.put_state("1.2", StudyState.IGNORED, reason="lateral view (2); key object selection (1)")
        tx.studies.put_state("1.3", StudyState.REPORTED)
        tx.studies.put_state("1.4", StudyState.REPORTED)
        tx.scores.put_predictions(1, {"1.4": predictions}, {"1.4": 1})
        tx.reports.ensure_pending(pending_report("2.25.1"))
        tx.reports.ensure_pending(pending_report("2.25.2", revision=2))
        tx.reports.mark_built("2.25.1", FILE)
        tx.requests.append([worklist_request("1.3", requested_at=tx.now()), worklist_request("1.4", requested_at=tx.now())])
    import_statement(sql_catalog, "1.4", findings={"Mass": LabelState.PRESENT, "Edema": LabelState.ABSENT})
    import_statement(sql_catalog, "1.1", findings={"Mass": LabelState.PRESENT})
    assert archive_of(sql_catalog) == ArchiveFigures(
        studies={StudyState.ARRIVING: 1, StudyState.IGNORED: 1, StudyState.REPORTED: 2},
        ignored={"lateral view": 1, "key object selection": 1},
        reports={ReportState.PENDING: 1, ReportState.BUILT: 1},
        deliveries={},
        decisions={(finding, Decision.PRESENT): 1 for finding in FINDINGS},
        instances=5,
        labels={("Mass", LabelState.PRESENT): 2, ("Edema", LabelState.ABSENT): 1},
        open_requests=1,
        rescoring=(2, 1),
        backfills={},
        backfilled_unscored=0,
    )


def test_figures_of_backfills_by_kind_of_source(sql_catalog: SqlCatalog) -> None:
    """Archives of one kind are reported together; no address is reported."""
    clinic, other, folder = "orthanc http://clinic CR,DX", "orthanc http://other DX", "folder /mnt/SECRET"
    with sql_catalog.begin() as tx:
        tx.backfills.add_finished_days(clinic, [date(2025, 1, day) for day in (1, 2, 3)])
        tx.backfills.add_finished_days(other, [date(2025, 1, 1)])
        tx.backfills.mark_backfilled(clinic, ["1.1", "1.2"])
        tx.backfills.mark_backfilled(other, ["1.3"])
    add_instance(sql_catalog, chest_header("1.1", "1.1.1"))
    with sql_catalog.begin() as tx:
        tx.backfills.finish_unit(
            clinic, BackfillUnit(key="1.1"), BackfillCounts(instances=2, duplicates=9, refused=1, bytes=3 << 30), ["1.1"]
        )
        tx.backfills.finish_unit(clinic, BackfillUnit(key="1.9"), BackfillCounts(), [], error="404")
        tx.backfills.finish_unit(other, BackfillUnit(key="1.3"), BackfillCounts(instances=1, bytes=1 << 30), ["1.3"])
        tx.backfills.finish_unit(folder, BackfillUnit(key="f"), BackfillCounts(), [], error="not there")
        tx.jobs.put(JobKind.SCORE, "1.1", priority=priorities.BACKFILL)
        tx.jobs.put(JobKind.SCORE, "1.7", priority=priorities.RESCORE)
        tx.jobs.put(JobKind.SCORE, "1.8")
    figures = archive_of(sql_catalog)
    found = {kind: replace(one, last_at=None) for kind, one in figures.backfills.items()}
    assert found == {
        "orthanc": BackfillFigures(days=4, done=2, failed=1, stored=3, refused=1, bytes=4 << 30, pending=1, fetched=2),
        "folder": BackfillFigures(failed=1),
    }
    assert figures.backfilled_unscored == 1
    last = figures.backfills["orthanc"].last_at
    assert last is not None
    assert abs(last - datetime.now(UTC)) < timedelta(seconds=60)


def test_queue_figures_use_an_index_of_the_jobs(fresh_url: Callable[[str], str]) -> None:
    """However many jobs are done, no query of the quick part reads them all."""
    catalog, asked = SqlCatalog(fresh_url("sqlite")), []
    event.listen(catalog._engine, "before_cursor_execute", lambda *said: asked.append(said[2:4]))
    line_of(catalog)
    queries = [(sql, values) for sql, values in asked if sql.startswith("SELECT")]
    with catalog.read() as tx:
        plans = [tx._connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values).all() for sql, values in queries]
    catalog.dispose()
    steps = [row[3] for plan in plans for row in plan]
    assert len([step for step in steps if "jobs" in step]) == 4
    assert [step for step in steps if step.startswith("SCAN jobs") and "ix_jobs_learn" not in step] == []


def test_finished_jobs_are_counted_by_kind_and_time(sql_catalog: SqlCatalog) -> None:
    claimed = [claim(sql_catalog, kind, "1.1") for kind in (JobKind.SCORE, JobKind.SEND)]
    claim(sql_catalog, JobKind.REPORT, "1.1")
    with sql_catalog.begin() as tx:
        tx.jobs.finish(*claimed)
    with sql_catalog.read() as tx:
        now = tx.now()
        assert tx.figures.finished_jobs(since=now - timedelta(hours=1)) == {JobKind.SCORE: 1, JobKind.SEND: 1}
        assert tx.figures.finished_jobs(since=now + timedelta(hours=1)) == {}


# How it is asked.


def test_a_slow_answer_is_cached_for_longer() -> None:
    now, taken, asked = [0.0], [0.0], []

    def ask() -> int:
        now[0] += taken[0]
        asked.append(now[0])
        return len(asked)

    remembered = TimedCache(ask, seconds=5, clock=lambda: now[0])
    assert [remembered(), remembered()] == [1, 1]
    now[0] = 4.9
    assert remembered() == 1
    now[0], taken[0] = 5.0, 2.0
    assert remembered() == 2
    now[0] = 7 + 2 / MAX_TIME_SHARE - 0.1
    assert remembered() == 2
    now[0] += 0.1
    assert remembered() == 3


def test_other_threads_get_the_cached_answer_during_a_query() -> None:
    asked, may_end, now = threading.Event(), threading.Event(), [0.0]
    answers = iter(["first", "second"])

    def ask() -> str:
        if now[0] > 0:
            asked.set()
            assert may_end.wait(10)
        return next(answers)

    remembered = TimedCache(ask, seconds=5, clock=lambda: now[0])
    assert remembered() == "first"
    now[0] = 6.0
    other = threading.Thread(target=remembered)
    other.start()
    assert asked.wait(10)
    assert remembered() == "first"
    may_end.set()
    other.join()
    assert remembered() == "second"


def test_a_failed_query_reports_no_cached_figures() -> None:
    now, away = [0.0], [False]

    def ask() -> str:
        if away[0]:
            raise OutOfResources("away")
        return "well"

    remembered = TimedCache(ask, seconds=5, clock=lambda: now[0])
    assert remembered() == "well"
    now[0], away[0] = 6.0, True
    for _ in range(2):
        with pytest.raises(OutOfResources):
            remembered()
    away[0] = False
    assert remembered() == "well"


def test_queue_and_archive_figures_are_cached_separately() -> None:
    assert QUEUE_CACHE_SECONDS < ARCHIVE_CACHE_SECONDS


# The page that Prometheus scrapes.


def metrics_of(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return str(answer.read().decode())


def samples(page: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def faults_of(page: str) -> list[str]:
    """Prometheus's conventions, as `promtool check metrics` holds them: help, a type, base units, _total on counters alone."""
    faults = []
    for family in text_string_to_metric_families(page):
        name = family.name
        if not family.documentation:
            faults.append(f"{name}: no help")
        if family.type not in ("gauge", "counter"):
            faults.append(f"{name}: {family.type}")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or re.search(
            r"_(milliseconds|minutes|hours|kilobytes|percent|count|sum)$", name
        ):
            faults.append(f"{name}: name")
        for sample in family.samples:
            if sample.name.endswith("_total") != (family.type == "counter"):
                faults.append(f"{sample.name}: _total")
            if any(not re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in sample.labels):
                faults.append(f"{sample.name}: label")
    return faults


@pytest.fixture
def page(sql_catalog: SqlCatalog, tmp_path: Path) -> Iterator[Callable[[], str]]:
    with open_metrics(config_in(tmp_path), sql_catalog, FileImageStore(tmp_path / "images")) as port:
        yield lambda: metrics_of(f"http://127.0.0.1:{port}/metrics")


def config_in(folder: Path, port: int = 0) -> Config:
    return Config.model_construct(
        metrics=MetricsConfig.model_construct(enabled=True, address="127.0.0.1", port=port or free_ports(1)[0]),
        storage=StorageConfig(directory=folder / "images"),
        activation_cache=ActivationCacheConfig(directory=folder / "activations"),
    )


def test_a_scrape(sql_catalog: SqlCatalog, page: Callable[[], str], tmp_path: Path) -> None:
    with sql_catalog.begin() as tx:
        tx.versions.add(a_version(1, notice="UNTRAINED"))
        tx.versions.add(a_version(2, VersionState.CANDIDATE, label_fingerprint="f" * 64, card={"learning": {"comparisons": GAINS}}))
    add_instance(sql_catalog, chest_header(patient_id="SECRET-ID", accession_number="SECRET-ACC"))
    import_statement(sql_catalog, "1.1", reader="SECRET-READER", findings={"Mass": LabelState.PRESENT})
    job = claim(sql_catalog, JobKind.SCORE, "1.1")
    with sql_catalog.begin() as tx:
        tx.circuits.record_failure("PACS", threshold=1, open_seconds=60)
    work.retry_or_quarantine(work.JobOutcome(job, PixelsUnreadable("why")), catalog=sql_catalog, policy=work.WorkPolicy())
    learning = claim(sql_catalog, JobKind.LEARN, learn.ALL_LABELS)
    JobProgress(learning, catalog=sql_catalog)("unfreezing", 1, 4)
    with sql_catalog.begin() as tx:
        tx.backfills.add_finished_days("folder /mnt/SECRET", [date(2025, 1, 1)])
        tx.backfills.finish_unit("folder /mnt/SECRET", BackfillUnit(key="f"), BackfillCounts(instances=2, bytes=7), [])
    (tmp_path / "activations").mkdir()
    (tmp_path / "activations" / "a.sqlite").write_bytes(b"12345")
    text = page()
    assert faults_of(text) == []
    assert "SECRET" not in text
    assert "1.1" not in {value for _, labels in samples(text) for _, value in labels}
    values = samples(text)
    wanted: dict[tuple[str, frozenset[tuple[str, str]]], float] = {
        of("catalog_up"): 1,
        of("jobs", kind="score", state="quarantined"): 1,
        of("jobs", kind="score", state="waiting"): 0,
        of("jobs", kind="learn", state="running"): 1,
        of("jobs_quarantined", kind="score", reason="PixelsUnreadable"): 1,
        of("archive_circuit_open", archive="PACS"): 1,
        of("model_versions", state="candidate"): 1,
        of("model_versions", state="rejected"): 0,
        of("serving_version", notice="UNTRAINED"): 1,
        of("learning_stage_done_ratio", stage="unfreezing"): 0.25,
        of("learning_result", result="waiting"): 1,
        of("learning_result", result="promoted"): 0,
        of("learnt_auc_gain_lower", against="zero-shot", sample="labels"): 0.05,
        of("studies", state="arriving"): 1,
        of("studies", state="reported"): 0,
        of("reports", state="sent"): 0,
        of("instances_received_total"): 1,
        of("labels_total", finding="Mass", state="present"): 1,
        of("worklist_open_studies"): 0,
        of("activation_cache_bytes"): 5,
        of("backfill_units", source="folder", state="done"): 1,
        of("backfill_units", source="folder", state="failed"): 0,
        of("backfill_instances", source="folder", state="stored"): 2,
        of("backfill_studies", source="folder", state="pending"): 0,
        of("backfill_done_days", source="folder"): 1,
        of("backfill_stored_bytes", source="folder"): 7,
        of("backfill_unscored_studies"): 0,
    }
    assert {key: values.get(key) for key in wanted} == wanted
    assert values[of("storage_free_bytes")] > 0
    assert ("process_cpu_seconds_total", frozenset()) in values


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"radclipd_{name}", frozenset(labels.items())


PROMETHEUS = Path(__file__).parents[3] / "deploy" / "prometheus"


def full_sources() -> MetricSources:
    """Figures with a value for every family and label."""
    line = QueueFigures(
        jobs={},
        oldest_due_seconds={JobKind.SCORE: 1.0},
        quarantined={(JobKind.SCORE, "x"): 1},
        open_circuits=["PACS"],
        versions={},
        serving=1,
        serving_since=datetime.now(UTC),
        notice="",
        stage=LearningStage("x", 1, 2, 3.0),
        last_round=LearningRound("waiting", datetime.now(UTC)),
        gains=[LearningGain("serving", "labels", 0.1, 0.0, 0.2)],
        reference=2,
        stops=["Mass"],
    )
    archive = ArchiveFigures(
        studies={},
        ignored={},
        reports={},
        decisions={("Mass", Decision.PRESENT): 1, ("Mass", Decision.ABSENT): 3},
        deliveries={},
        instances=1,
        labels={("Mass", LabelState.PRESENT): 1},
        open_requests=0,
        rescoring=(2, 1),
        backfills={"folder": BackfillFigures(last_at=datetime.now(UTC))},
        backfilled_unscored=0,
    )
    room = iter(range(10**12, 0, -(10**6)))  # a disk that fills
    return MetricSources(
        queue_figures=lambda: line,
        archive_figures=lambda: archive,
        disk_usage=lambda: dict.fromkeys(DISK_GAUGES, next(room)),
        schema="9",
        certificate_ends=lambda: {("certificate_file", "radclipd.example"): 1e9},
    )


def test_alerts_use_existing_metrics_and_labels() -> None:
    """Whatever an alert of the example names is a family with these labels, whether it has samples or not."""
    families = CatalogCollector(full_sources()).collect()
    labels_of = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    asked = [found for rule in rules for found in re.findall(r"(radclipd_\w+)(?:\{(\w+)=)?", rule["expr"])]
    assert len(asked) > 12
    assert [name for name, label in asked if label and label not in labels_of[name]] == []
    assert {name for name, _ in asked} <= labels_of.keys()
    assert all(rule["annotations"].keys() == {"summary", "remedy"} and rule["labels"]["severity"] for rule in rules)
    page = (PROMETHEUS.parent / "docs" / "run.md").read_text()
    assert {name for name in labels_of if f"`{name}" not in page} == set()


def test_the_example_scrapes_the_default_port() -> None:
    (scrape,) = yaml.safe_load((PROMETHEUS / "scrape.yml").read_text())["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"{Config().metrics.address}:{Config().metrics.port}"]}]
    assert scrape["job_name"] in (PROMETHEUS / "alerts.yml").read_text()


@pytest.mark.parametrize("name", ["alerts.yml"])
def test_promtool_accepts_the_rules(name: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here: Debian's prometheus")
    subprocess.run(["promtool", "check", "rules", PROMETHEUS / name], check=True, capture_output=True)


def test_an_unreachable_catalog_is_reported_without_failing_the_scrape() -> None:
    def away() -> QueueFigures:
        raise OutOfResources("gone")

    def broken() -> ArchiveFigures:
        raise KeyError("Doe^John")

    families = list(
        CatalogCollector(
            MetricSources(queue_figures=away, archive_figures=broken, disk_usage=lambda: {"storage_free": 7}, schema="9")
        ).collect()
    )
    values = {sample.name: sample.value for family in families for sample in family.samples}
    assert values == {"radclipd_build_info": 1.0, "radclipd_catalog_up": 0.0, "radclipd_storage_free_bytes": 7}


def test_concurrent_scrapes(page: Callable[[], str]) -> None:
    pages: list[str] = []
    threads = [threading.Thread(target=lambda: pages.append(page())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pages) == 8
    assert all("radclipd_catalog_up 1.0" in one for one in pages)


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_requests_that_are_never_finished_hold_few_threads_and_no_scrape_back(
    sql_catalog: SqlCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape_server, "CONNECTION_SECONDS", 3.0)
    config = config_in(tmp_path)
    with open_metrics(config, sql_catalog, FileImageStore(tmp_path / "images")) as port, ExitStack() as stack:
        url = f"http://127.0.0.1:{port}/metrics"
        metrics_of(url)
        threads, descriptors = threading.active_count(), count_descriptors()
        unfinished = []
        for number in range(300):
            client = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
            client.sendall([b"", b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: ", b"GET"][number % 3])
            unfinished.append(client)
        wait_for(lambda: threading.active_count() - threads <= scrape_server.MAX_CONNECTIONS)
        assert count_descriptors() - descriptors - len(unfinished) <= scrape_server.MAX_CONNECTIONS + 2
        assert "radclipd_catalog_up 1.0" in metrics_of(url)
        with sql_catalog.begin() as tx:  # the catalog can be opened
            tx.jobs.put(JobKind.SCORE, "1.1")
        begun = time.monotonic()
        while time.monotonic() - begun < 6:  # each byte comes within the time-out of a read
            for client in unfinished[-scrape_server.MAX_CONNECTIONS :]:
                with suppress(OSError):
                    client.sendall(b"x")
            time.sleep(0.2)
        wait_for(lambda: threading.active_count() <= threads)
        assert count_descriptors() - descriptors <= len(unfinished)


def test_a_taken_port_is_logged_and_the_dispatcher_runs_on(sql_catalog: SqlCatalog, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        capture_logs() as said,
        open_metrics(config_in(tmp_path, taken.getsockname()[1]), sql_catalog, FileImageStore(tmp_path / "images")) as port,
    ):
        assert port == 0
    (line,) = said
    assert (line["log_level"], line["hint"]) == ("error", "set metrics.port, or metrics.enabled = false")
    assert "cannot listen on 127.0.0.1 port" in line["error"]


def test_no_port_is_opened_where_metrics_are_off(sql_catalog: SqlCatalog, tmp_path: Path) -> None:
    with open_metrics(Config(), sql_catalog, FileImageStore(tmp_path / "images")) as port:
        assert port == 0


def test_check_prints_the_address_of_the_metrics(sql_catalog: SqlCatalog, tmp_path: Path) -> None:
    assert _check_metrics(Parts(Config())).startswith("off")
    config = config_in(tmp_path)
    url = f"http://127.0.0.1:{config.metrics.port}/metrics"
    assert _check_metrics(Parts(config)) == f"{url} will answer when the dispatcher runs"
    with open_metrics(config, sql_catalog, FileImageStore(tmp_path / "images")):
        assert _check_metrics(Parts(config)) == f"{url} answers"


def test_check_fails_where_another_program_has_the_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"\x03\0\0\0\0\x04\0\x01\x01\x01\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConfigurationError, match="another program"):
            _check_metrics(Parts(config_in(tmp_path, other.getsockname()[1])))
        thread.join()
