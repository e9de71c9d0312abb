"""The schema: from nothing, again, from the release before; and a daemon that refuses a wrong one."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.engine import database_url, open_engine
from adapters.catalog.tables import metadata
from adapters.catalog.views import VIEWS
from pipeline.domain import Header, Sender, StoredFile
from pipeline.errors import OutOfResources, SchemaMismatch
from tests.postgres import Cluster


def on(url: str, act: Callable[[Connection], object]) -> object:
    """Do something in a transaction of its own on the bare database."""
    engine = open_engine(database_url(url), busy_timeout_seconds=5)
    try:
        with engine.connect().execution_options(writes=True) as connection, connection.begin():
            return act(connection)
    finally:
        engine.dispose()


def execute(url: str, sql: str) -> None:
    on(url, lambda connection: connection.execute(text(sql)))


def test_tables_are_what_the_migrations_make(catalog_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": metadata})
        found = compare_metadata(context, metadata)
        return [d for d in found if "Moment" not in str(d)]

    assert on(catalog_url, differences) == []


def test_upgrading_again_changes_nothing_and_keeps_rows(catalog_url: str) -> None:
    catalog = SqlCatalog(catalog_url)
    header = Header(
        sop_instance_uid="1.1",
        sop_class_uid="1.2",
        series_instance_uid="1.3",
        study_instance_uid="1.4",
        transfer_syntax_uid="1.5",
    )
    with catalog.begin() as tx:
        tx.studies.add_instance(header, StoredFile("k", "f" * 64, 1), Sender("A", "h", "B"), opens_study=True)
    schema.upgrade(catalog_url)
    schema.verify(catalog_url)
    with catalog.read() as tx:
        assert tx.studies.find_instance("1.1") is not None
    catalog.dispose()


@pytest.mark.parametrize("release", sorted((Path(__file__).parent / "schema_releases").glob("*.sqlite.sql")), ids=lambda p: p.stem)
def test_upgrading_from_every_release(release: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "old.db")) as old:
        old.executescript(release.read_text())
    url = f"sqlite:///{tmp_path / 'old.db'}"
    schema.upgrade(url)
    schema.verify(url)
    test_tables_are_what_the_migrations_make(url)


def test_older_newer_and_none_are_told_apart(catalog_url: str, tmp_path: Path) -> None:
    schema.verify(catalog_url)
    execute(catalog_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaMismatch, match="newer") as newer:
        schema.verify(catalog_url)
    assert "install" in newer.value.hint
    with pytest.raises(SchemaMismatch, match="no schema") as none:
        schema.verify(f"sqlite:///{tmp_path / 'nothing.db'}")
    assert none.value.hint == "radclipd db upgrade"
    assert not (tmp_path / "nothing.db").exists()


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_can_be_read_and_not_written(catalog_url: str, view: str) -> None:
    assert on(catalog_url, lambda c: c.execute(text(f"SELECT * FROM {view}")).all()) == []


def test_labels_can_only_be_added(catalog_url: str) -> None:
    def fill(connection: Connection) -> None:
        connection.execute(
            text("INSERT INTO patients (patient_key, patient_id, issuer_of_patient_id, patient_sex) VALUES ('k', 'p', '', '')")
        )
        connection.execute(
            text(
                "INSERT INTO studies (study_instance_uid, patient, accession_number, study_date, study_time, study_description,"
                " patient_age, state) VALUES ('1', 1, '', '', '', '', '', 'arriving')"
            )
        )
        connection.execute(
            text("INSERT INTO labels (study, finding, state, reader, source) VALUES (1, 'Mass', 'present', 'r', 'csv')")
        )

    on(catalog_url, fill)
    for forbidden in ("UPDATE labels SET state = 'absent'", "DELETE FROM labels"):
        with pytest.raises(Exception, match="append-only"):
            execute(catalog_url, forbidden)
    assert len(on(catalog_url, lambda c: c.execute(text("SELECT * FROM v_labels")).all())) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "broken",
    [
        "UPDATE studies SET state = 'lost'",
        "UPDATE studies SET state = 'ignored', reason = ''",
        "INSERT INTO jobs (kind, subject, payload, state) VALUES ('score', '1', '{}', 'running')",
        "INSERT INTO jobs (kind, subject, payload) VALUES ('dream', '1', '{}')",
        "INSERT INTO series (series_instance_uid, study, modality, series_description) VALUES ('1', 99, '', '')",
    ],
)
def test_the_database_itself_refuses_what_breaks_a_rule(catalog_url: str, broken: str) -> None:
    test_labels_can_only_be_added(catalog_url)
    with pytest.raises(Exception, match=r"(?i)constraint|violates"):
        execute(catalog_url, broken)


def test_a_database_that_is_away_says_so_without_its_password() -> None:
    url = "postgresql://radclipd:sesame@127.0.0.1:1/radclipd"
    with pytest.raises(OutOfResources) as away:
        schema.verify(url)
    assert "sesame" not in str(away.value) + away.value.hint
    catalog = SqlCatalog(url)
    with pytest.raises(OutOfResources) as also, catalog.begin():
        pass
    assert "sesame" not in str(also.value)
    catalog.dispose()


@pytest.mark.postgres
def test_the_read_only_role_reads_views_and_nothing_else(cluster: Cluster) -> None:
    url = cluster.upgraded()
    database = database_url(url).database
    assert database is not None
    script = Path(__file__).parents[2] / "deploy/postgres/read-only-role.sql"
    for _ in range(2):  # safe to repeat
        cluster.psql(database, "-v", "reader=alice", "-f", str(script))
    as_alice = ["psql", "-h", str(cluster.folder), "-U", "alice", "-qAt", "-d", database, "-c"]
    assert cluster.run(*as_alice, "SELECT count(*) FROM v_findings_wide").strip() == "0"
    for forbidden in ("SELECT * FROM patients", "DELETE FROM v_jobs", "CREATE TABLE x (y int)"):
        with pytest.raises(Exception, match="returned non-zero"):
            cluster.run(*as_alice, "-v", "ON_ERROR_STOP=1", forbidden)
    schema.upgrade(url)  # makes the views anew
    assert cluster.run(*as_alice, "SELECT count(*) FROM v_jobs").strip() == "0"
