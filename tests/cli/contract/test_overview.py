"""`radclipd status`, `show`, `audit list` and `jobs list --study`, in real processes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from adapters.catalog.catalog import SqlCatalog
from pipeline.audit_chain import link_events
from pipeline.domain import AuditEvent, JobKind
from tests.builders.catalog_rows import add_reported_study, import_statement
from tests.builders.command import Radclipd, radclipd_on
from tests.builders.sql import execute

COLUMNS = 80


@pytest.fixture
def radclipd(fresh_url: Callable[[str], str]) -> Radclipd:
    """On SQLite, with study 1.4: scored, reported, labelled, with a job; and a refused event."""
    catalog_url = fresh_url("sqlite")
    add_reported_study(catalog_url)
    catalog = SqlCatalog(catalog_url)
    import_statement(catalog, "1.4", reader="dr.csv")
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.4")
        tx.jobs.put(JobKind.SCORE, "1.5")
        tx.audit(
            AuditEvent("store", "refused", "1.2.826.0.1.3680043.10.999.12345678901234567890", "the data set is 'truncated'", "PACS")
        )
    catalog.dispose()
    return radclipd_on(catalog_url)


def test_status_is_one_screen(radclipd: Radclipd) -> None:
    done = radclipd("status")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= COLUMNS
    for shown in ("2 score waiting", "version 1 since", "14 of 20 new labels", "disk ", "…5678901234567890: the data set is"):
        assert shown in done.stdout
    assert "1.2.826.0.1.3680043.10.999.12345678901234567890" in radclipd("status", "--wide").stdout
    facts = json.loads(radclipd("status", "--json").stdout)
    assert (facts["queue"]["serving"], facts["new_labels"], facts["queue"]["jobs"]) == (1, 14, {"score waiting": 2})


def test_show_tells_all_of_a_study_by_uid_and_by_accession_number(radclipd: Radclipd) -> None:
    done = radclipd("show", "1.4")
    assert done.stdout == radclipd("show", "A1").stdout
    assert max(map(len, done.stdout.splitlines())) <= COLUMNS
    for shown in ("Model version 1", "Atelectasis", "dr.csv", "possible", "2.25.1", "sent", "score waiting"):
        assert shown in " ".join(done.stdout.split()), shown
    facts = json.loads(radclipd("show", "1.4", "--json").stdout)
    assert (len(facts["statement"]["findings"]), len(facts["labels"]), facts["reports"][0]["state"]) == (14, 14, "sent")
    unknown = radclipd("show", "9.9")
    assert (unknown.returncode, unknown.stderr.splitlines()[0]) == (1, "radclipd: there is no such study in the catalog")


def test_audit_and_jobs_are_filtered_and_a_quote_is_no_sql(radclipd: Radclipd) -> None:
    [event] = json.loads(radclipd("audit", "list", "--outcome", "refused", "--json").stdout)
    assert (event["action"], event["detail"]) == ("store", "the data set is 'truncated'")
    for odd in ("' OR '1'='1", "'"):
        assert json.loads(radclipd("audit", "list", "--action", odd, "--json").stdout) == []
        assert json.loads(radclipd("jobs", "list", "--study", odd, "--json").stdout) == []
    for name in ("1.4", "A1"):
        jobs = json.loads(radclipd("jobs", "list", "--study", name, "--json").stdout)
        assert [(job["kind"], job["subject"]) for job in jobs] == [("score", "1.4")]
    assert json.loads(radclipd("jobs", "list", "--study", "A1", "--state", "done", "--json").stdout) == []


def test_tables_fit_80_columns_unless_wide(radclipd: Radclipd) -> None:
    uid = "1.2.826.0.1.3680043.10.999.12345678901234567890"
    for words in (("jobs", "list"), ("jobs", "list", "--study", "1.4"), ("audit", "list"), ("studies",), ("reports", "list")):
        narrow, wide = radclipd(*words), radclipd(*words, "--wide")
        assert narrow.returncode == wide.returncode == 0, narrow.stderr
        assert 3 <= max(map(len, narrow.stdout.splitlines())) <= COLUMNS, words
    assert uid in radclipd("audit", "list", "--wide").stdout
    shown = radclipd("audit", "list").stdout
    assert uid[-16:] in shown and uid not in shown


def test_audit_verify_tells_whether_the_chain_holds(fresh_url: Callable[[str], str]) -> None:
    url = fresh_url("sqlite")
    catalog = SqlCatalog(url)
    for number in range(3):
        with catalog.begin() as tx:
            tx.audit(AuditEvent("label", "done", "", f"event {number}", "alice"))
    link_events(catalog=catalog)
    catalog.dispose()
    radclipd = radclipd_on(url)
    first = radclipd("audit", "verify")
    assert (first.returncode, first.stdout.splitlines()[0]) == (0, "3 events: the chain holds")
    head = first.stdout.splitlines()[-1].removeprefix("head ")
    assert radclipd("audit", "verify", "--anchor", head).returncode == 0
    assert radclipd("audit", "verify", "--anchor", f"3:{'0' * 64}").returncode == 1
    assert radclipd("audit", "verify", "--anchor", "somewhere").returncode == 2
    execute(url, "DROP TRIGGER audit_events_no_update")
    execute(url, "UPDATE audit_events SET source = 'bob' WHERE position = 2")
    broken = radclipd("audit", "verify", "--json")
    facts = json.loads(broken.stdout)
    assert (broken.returncode, facts["holds"], facts["faults"][0]["position"]) == (1, False, 2)
    assert json.loads(radclipd("audit", "list", "--action", "audit", "--json").stdout)[0]["outcome"] == "failed"
