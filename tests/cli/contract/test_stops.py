"""Stopping, resuming and recalling reports, and showing what is told of a study, in real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.catalog import schema
from tests.builders.catalog_rows import add_reported_study
from tests.builders.command import Radclipd, radclipd_on
from tests.builders.sql import execute


@pytest.fixture
def radclipd(tmp_path: Path) -> Radclipd:
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    schema.upgrade(url)
    add_reported_study(url)
    return radclipd_on(url)


def test_reports_are_stopped_resumed_and_recalled(radclipd: Radclipd) -> None:
    stopped = radclipd("reports", "stop", "--finding", "pleural thickening", "--reason", "wrong on the new scanner")
    assert (stopped.returncode, stopped.stdout) == (0, "reporting of pleural thickening is stopped\n"), stopped.stderr
    twice = radclipd("reports", "stop", "--finding", "Pleural_Thickening", "--reason", "again")
    assert (twice.returncode, "stopped already" in twice.stderr) == (1, True)
    assert "'Masss' is no finding" in radclipd("reports", "stop", "--finding", "Masss", "--reason", "x").stderr
    assert radclipd("reports", "resume", "--finding", "Pleural_Thickening").returncode == 0
    (row,) = json.loads(radclipd("reports", "stops", "--json").stdout)
    assert (row["finding"], row["reason"]) == ("Pleural_Thickening", "wrong on the new scanner")
    assert row["stopped_at"] <= row["resumed_at"]
    recalled = radclipd("reports", "recall", "1", "--reason", "trained on mixed-up labels")
    assert (recalled.returncode, recalled.stdout) == (0, "1 reports of version 1 are withdrawn\n"), recalled.stderr
    told = json.loads(radclipd("query", "select distinct decision, reason, revision from v_predictions", "--json").stdout)
    assert told == [{"decision": "not assessed", "reason": "withdrawn", "revision": 2}]
    assert "there is no version 7" in radclipd("reports", "recall", "7", "--reason", "x").stderr


def test_what_is_told_of_a_study_is_shown_by_its_accession_number(radclipd: Radclipd) -> None:
    shown = radclipd("show", "A1")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert any(line.startswith("Research use only.") for line in lines)
    assert "Above its operating point: Hernia, Pleural thickening, Fibrosis" in shown.stdout
    assert "Hernia: likely, above its operating point" in lines
    as_json = json.loads(radclipd("show", "1.4", "--json").stdout)
    assert as_json["statement"]["findings"][0]["finding"] == "Hernia"
    assert "there is no such study in the catalog" in radclipd("show", "A2").stderr


def test_a_reference_distribution_needs_findings_that_are_ranks(radclipd: Radclipd) -> None:
    assert "tells no finding as a rank" in radclipd("references", "make").stderr
    assert json.loads(radclipd("references", "list", "--json").stdout) == []


def test_shadow_mode_is_summed_up_and_its_reports_are_sent_only_when_asked_for(radclipd: Radclipd, tmp_path: Path) -> None:
    execute(f"sqlite:///{tmp_path / 'catalog.db'}", "UPDATE reports SET state = 'built', sent_at = NULL, withheld = 'shadow'")
    told = radclipd("reports", "shadow", "--days", "1")
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "studies  1 received, 1 scored, 0 of them in the silent share" in lines
    assert any(line.startswith("reports  1 would have been sent") for line in lines)
    facts = json.loads(radclipd("reports", "shadow", "--json").stdout)
    assert (facts["deliver"], facts["kept"], facts["sent"], len(facts["findings"])) == ("all", 1, 0, 14)
    assert facts["calls"] == sum(finding["called"] for finding in facts["findings"]) > 0
    shadow = {"RADCLIPD_REPORT__DELIVER": "shadow"}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in shadow.items():
            environment.setenv(name, value)
        refused = radclipd("reports", "resend", "--since", "2020-01-01")
    assert (refused.returncode, 'report.deliver is "shadow": nothing leaves' in refused.stderr) == (1, True)
    assert radclipd("reports", "resend", "--since", "2020-01-01").stdout == "1 reports will be sent\n"
    assert radclipd("reports", "resend", "--since", "2020-01-01").stdout == "0 reports will be sent\n"
    (job,) = json.loads(radclipd("query", "select kind, state from v_jobs where kind = 'send'", "--json").stdout)
    assert job["state"] == "waiting"
    assert radclipd("reports", "resend").returncode == 2
