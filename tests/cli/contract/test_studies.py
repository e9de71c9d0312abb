"""Conflicts of instances, in real processes."""

from __future__ import annotations

import json
from pathlib import Path

from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from pipeline.domain import StoredFile
from tests.builders.catalog_rows import SENDER, add_instance, chest_header
from tests.builders.command import radclipd_on


def test_a_conflict_is_listed_and_resolved_by_a_person(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    schema.upgrade(url)
    catalog = SqlCatalog(url)
    add_instance(catalog, chest_header())
    with catalog.begin() as tx:
        tx.revisions.add_conflict(chest_header(patient_id="P2"), StoredFile("k", "a" * 64, 5), SENDER)
    catalog.dispose()
    radclipd = radclipd_on(url)
    assert "1.1" in radclipd("studies").stdout
    (row,) = json.loads(radclipd("studies", "conflicts", "--json").stdout)
    assert (row["conflict"], row["sop_instance_uid"], row["sender_ae_title"]) == (1, "1.1.1", "ORTHANC")
    assert radclipd("studies", "resolve", "1", "--keep", "both").returncode == 2
    done = radclipd("studies", "resolve", "1", "--keep", "received")
    assert done.stdout == "conflict 1: the received instance 1.1.1 is kept\n", done.stderr
    assert json.loads(radclipd("studies", "conflicts", "--json").stdout) == []
    twice = radclipd("studies", "resolve", "1", "--keep", "stored")
    assert (twice.returncode, "no open conflict 1" in twice.stderr) == (1, True)
    events = json.loads(radclipd("audit", "list", "--json").stdout)
    assert any(event["action"] == "resolve" and event["source"].startswith("cli") for event in events)
    assert not any("P2" in event["detail"] for event in events)
