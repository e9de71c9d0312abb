"""The verbs that read and repair the catalog, in real processes, on both databases."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from pipeline.domain import JobKind, JobState, StudyState
from tests.builders.catalog_rows import add_reported_study
from tests.builders.command import Radclipd, radclipd_on
from tests.builders.postgres import Cluster


@pytest.fixture
def radclipd(catalog_url: str) -> Radclipd:
    return radclipd_on(catalog_url)


def test_rows_as_table_csv_and_json(radclipd: Radclipd, catalog_url: str) -> None:
    add_reported_study(catalog_url)
    catalog = SqlCatalog(catalog_url)
    with catalog.begin() as tx:
        tx.studies.put_state("1.4", StudyState.IGNORED, reason="see [study] :x: [/b] \x1b[31m and more")
    catalog.dispose()
    sql = "select study_instance_uid, reason, instance_count from v_studies"
    table = radclipd("query", sql)
    assert "see [study] :x: [/b]" in table.stdout, table.stderr
    assert "\x1b" not in table.stdout  # a header must not control the terminal
    (row,) = json.loads(radclipd("query", sql, "--json").stdout)
    assert (row["study_instance_uid"], row["instance_count"]) == ("1.4", 1)
    first, second = csv.reader(io.StringIO(radclipd("query", sql, "--csv").stdout))
    assert (first, second[0]) == (["study_instance_uid", "reason", "instance_count"], "1.4")
    assert "1.4" in radclipd("studies").stdout
    assert "2.25.1" in radclipd("reports", "list").stdout


def test_ignored_studies_are_listed_with_their_reasons(radclipd: Radclipd, catalog_url: str) -> None:
    add_reported_study(catalog_url)
    assert json.loads(radclipd("studies", "--ignored", "--json").stdout) == []
    catalog = SqlCatalog(catalog_url)
    with catalog.begin() as tx:
        tx.studies.put_state("1.4", StudyState.IGNORED, reason="lateral view (1)")
    catalog.dispose()
    (row,) = json.loads(radclipd("studies", "--ignored", "--json").stdout)
    assert (row["study_instance_uid"], row["reason"]) == ("1.4", "lateral view (1)")


def test_a_write_is_refused_with_one_line_and_a_hint(radclipd: Radclipd) -> None:
    done = radclipd("query", "with x as (select 1) delete from jobs")
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert (len(said), said[0][:9], said[1][:5]) == (2, "radclipd:", "hint:")


def test_quarantined_jobs_are_listed_and_retried(radclipd: Radclipd, catalog_url: str) -> None:
    catalog = SqlCatalog(catalog_url)
    with catalog.begin() as tx:
        for subject in ("1.1", "1.2"):
            tx.jobs.put(JobKind.SCORE, subject)
            (job,) = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5)
            tx.jobs.quarantine(job, error="no image can be made of it")
    assert radclipd("jobs", "list", "--state", "quarantined", "--wide").stdout.count("no image can be made of it") == 2
    assert "1 jobs queued again" in radclipd("jobs", "retry", str(job.id)).stdout
    again = radclipd("jobs", "retry", str(job.id))
    assert (again.returncode, "not in quarantine" in again.stderr) == (1, True)
    assert "1 jobs queued again" in radclipd("jobs", "retry", "--all").stdout
    assert radclipd("jobs", "retry").returncode == 2
    with catalog.read() as tx:
        assert tx.jobs.count_by_state()[JobKind.SCORE, JobState.WAITING] == 2
    catalog.dispose()
    assert radclipd("jobs", "list", "--state", "waiting").stdout.count("score") == 2


def test_db_upgrade_creates_the_schema_and_db_current_compares_it(tmp_path: Path) -> None:
    radclipd = radclipd_on(f"sqlite:///{tmp_path / 'folder' / 'catalog.db'}")
    none = radclipd("studies")
    assert (none.returncode, none.stderr.splitlines()[-1]) == (78, "hint: radclipd db upgrade")
    assert radclipd("db", "current").returncode == 1
    assert f"none -> {schema.head()}" in radclipd("db", "upgrade").stdout
    assert f"{schema.head()} -> {schema.head()}" in radclipd("db", "upgrade").stdout
    assert radclipd("db", "current").returncode == 0


@pytest.mark.postgres
def test_an_unreachable_server_means_try_again(cluster: Cluster) -> None:
    done = radclipd_on(f"postgresql://radclipd:sesame@/none?host={cluster.folder}/gone")("studies")
    assert done.returncode == 75
    assert "sesame" not in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("hint: ")
