"""The schema: created, upgraded again, upgraded from every release; and another schema is refused."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.engine import database_url, open_engine
from adapters.catalog.tables import metadata
from adapters.catalog.views import VIEWS
from pipeline.decisions import log_odds
from pipeline.domain import FINDINGS, Header, JobKind, ReportState, Scale, Sender, StoredFile
from pipeline.errors import ConfigurationError, OutOfResources, SchemaMismatch
from tests.builders import postgres, schema_releases
from tests.builders.fakes.versions import a_version
from tests.builders.postgres import Cluster
from tests.builders.sql import execute, on, rows
from tests.conftest import DATABASES

SENDER = Sender("A", "h", "B")


def a_header(sop: str) -> Header:
    return Header(
        sop_instance_uid=sop,
        sop_class_uid="1.2",
        series_instance_uid="1.3",
        study_instance_uid="1.4",
        transfer_syntax_uid="1.5",
    )


@pytest.fixture(params=DATABASES)
def fresh_engine(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'fresh.db'}"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.url(cluster.database())


def test_the_tables_match_the_migrations(catalog_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": metadata})
        found = compare_metadata(context, metadata)
        return [d for d in found if "UtcDateTime" not in str(d)]

    assert on(catalog_url, differences) == []


def test_a_repeated_upgrade_keeps_rows(catalog_url: str) -> None:
    catalog = SqlCatalog(catalog_url)
    with catalog.begin() as tx:
        tx.studies.add_instance(a_header("1.1"), StoredFile("k", "f" * 64, 1), SENDER, opens_study=True)
    schema.upgrade(catalog_url)
    schema.verify(catalog_url)
    with catalog.read() as tx:
        assert tx.studies.find_instance("1.1") is not None
    catalog.dispose()


def load_release(release: str, engine: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the URL of a database with the dump of that release."""
    path = schema_releases.path_of(release, engine)
    if engine == "sqlite":
        url = f"sqlite:///{folder / 'old.db'}"
        schema_releases.load_sqlite(url, path.read_text())
        return url
    cluster: Cluster = request.getfixturevalue("cluster")
    database = cluster.database()
    cluster.psql(database, "-c", path.read_text())
    return cluster.url(database)


@pytest.mark.parametrize("engine", DATABASES)
@pytest.mark.parametrize("release", schema_releases.RELEASES)
def test_an_upgrade_from_every_release_keeps_its_rows(
    release: str, engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = load_release(release, engine, request, tmp_path)
    for _ in range(2):
        schema.upgrade(url)
        schema.verify(url)
    test_the_tables_match_the_migrations(url)
    catalog = SqlCatalog(url)
    with catalog.begin() as tx:
        report = tx.reports.find("2.25.1")
        assert report is not None
        assert report.state is ReportState.SENT
        assert len(tx.scores.predictions("1.4", 1)) == len(tx.scores.image_scores("1.4", 1)["1.1"]) == len(FINDINGS)
        assert [job.subject for job in tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=5)] == ["2.25.1"]
        tx.deliveries.adopt_sent("PACS", max_age_days=36_500)
        assert [one.sop_instance_uid for one in tx.deliveries.arrived("PACS", max_age_days=36_500, after=0, limit=9)] == ["2.25.1"]
        tx.studies.add_instance(a_header("1.2"), StoredFile("k", "f" * 64, 1), SENDER, opens_study=True)
        assert [i.header.sop_instance_uid for i in tx.studies.instances("1.4")] == ["1.1", "1.2"]
    catalog.dispose()
    assert rows(url, "SELECT selection_reason, selection_probability, revoked FROM v_labels") == [("random", 0.5, 1)]
    assert rows(url, "SELECT undetermined_margin, notice FROM v_model_versions") == [(0.05, "")]
    assert rows(url, "SELECT action, outcome, subject, detail, source FROM v_audit WHERE subject = '1.9'") == [
        ("store", "refused", "1.9", "why", "PACS")
    ]
    if release == "0.1.0":  # which stored only the time of the import
        assert rows(url, "SELECT count(*) FROM labels WHERE stated_at = created_at AND document = ''") == [(2,)]
    assert rows(url, "SELECT version FROM v_findings_wide WHERE accession_number = 'A1'") == [(1,)]
    for forbidden in ("DELETE FROM labels", "UPDATE labels SET document = ''"):
        with pytest.raises(DBAPIError, match="append-only"):
            execute(url, forbidden)


BEFORE_0007 = """
INSERT INTO requests (study, asked_because, finding, detail, selection_probability, version)
VALUES (1, 'coverage', 'Mass', 'unlike the others', 0.25, 1);
INSERT INTO backfills (source) VALUES ('folder /films');
INSERT INTO backfill_parcels (backfill, key, mark, state, instances, duplicates, refused, bytes, error)
VALUES (1, 'a', 'm', 'done', 3, 1, 0, 700, ''), (1, 'b', 'n', 'failed', 0, 0, 2, 0, 'gone');
INSERT INTO jobs (kind, subject, payload, state)
VALUES ('score', '1.4', '{"version": 1, "fault": "NotUnderstood"}', 'quarantined'), ('score', '1.5', '{}', 'quarantined');
UPDATE model_versions SET marking = 'UNTRAINED', band = 0.07, card = '{"b": 1.50, "source": {"card": {"marking": "x"}}, "a": 2}';
"""
RENAMED_IN_0007 = {
    "SELECT selection_reason FROM labels ORDER BY id": "SELECT asked_because FROM labels ORDER BY id",
    "SELECT selection_reason, reason, requested_at FROM requests": "SELECT asked_because, detail, asked_at FROM requests",
    "SELECT undetermined_margin, notice FROM model_versions": "SELECT band, marking FROM model_versions",
    "SELECT * FROM backfill_units ORDER BY key": "SELECT * FROM backfill_parcels ORDER BY key",
}


@pytest.mark.parametrize("engine", DATABASES)
def test_renamed_columns_and_tables_keep_their_values_and_a_downgrade_renames_them_back(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = load_release("0.2.0.dev6", engine, request, tmp_path)
    for statement in BEFORE_0007.strip().split(";\n"):
        execute(url, statement.rstrip(";"))
    schemas, before = [schema_of(url)], [rows(url, old) for old in RENAMED_IN_0007.values()]
    assert before[2] == [(0.07, "UNTRAINED")]
    schema.upgrade(url)
    test_the_tables_match_the_migrations(url)
    assert [rows(url, new) for new in RENAMED_IN_0007] == before
    assert rows(url, "SELECT source, units_done, units_failed, last_error FROM v_backfills") == [("folder /films", 1, 1, "gone")]
    assert rows(url, "SELECT CAST(card AS TEXT) FROM v_model_versions") == [
        ('{"b": 1.5, "source": {"card": {"notice": "x"}}, "a": 2}',)
    ]
    kinds = "SELECT payload ->> 'fault', payload ->> 'version' FROM jobs WHERE state = 'quarantined' ORDER BY id"
    assert [(kind, str(version)) for kind, version in rows(url, kinds)] == [("DataSetUnreadable", "1"), (None, "None")]
    for broken in ("UPDATE requests SET reason = ''", "UPDATE labels SET selection_reason = ''"):
        with pytest.raises(DBAPIError, match="append-only"):
            execute(url, broken)
    with pytest.raises(DBAPIError, match="ck_backfill_units_failed_says_why"):
        execute(url, "UPDATE backfill_units SET error = 'x'")
    on(url, downgrade)
    assert [rows(url, old) for old in RENAMED_IN_0007.values()] == before
    assert rows(url, "SELECT card -> 'source' -> 'card' ->> 'marking' FROM model_versions") == [("x",)]
    assert [kind for kind, _ in rows(url, kinds)] == ["NotUnderstood", None]
    schemas.append(schema_of(url))
    assert schemas[0] == schemas[1]
    schema.upgrade(url)
    assert [rows(url, new) for new in RENAMED_IN_0007] == before


def downgrade(connection: Connection) -> None:
    """Go back to 0006, as a developer may with Alembic."""
    for name in reversed(VIEWS):
        connection.execute(text(f"DROP VIEW {name}"))
    config = schema._build_alembic_config()
    config.attributes["connection"] = connection
    command.downgrade(config, "0006")


def schema_of(url: str) -> list[tuple[object, ...]]:
    """Return tables, indexes and triggers with their SQL (SQLite), or constraints and indexes with theirs (PostgreSQL)."""
    if url.startswith("sqlite"):
        found = rows(url, "SELECT name, sql FROM sqlite_master WHERE type <> 'view' ORDER BY name")
        return [(name, " ".join(str(sql).replace('"', "").split())) for name, sql in found]
    constraints = "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
    return sorted(rows(url, constraints) + rows(url, "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"))


def test_migration_scripts_are_named_by_their_revisions_in_order() -> None:
    scripts = list(schema._load_scripts().walk_revisions())
    assert [script.revision for script in reversed(scripts)] == list(schema.revisions())
    assert schema._load_scripts().get_current_head() == schema.head()


@pytest.mark.parametrize("engine", DATABASES)
def test_the_newest_release_dump_is_the_current_schema(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A change of the schema needs a migration and a new pair of dumps, from which later releases can be tested."""
    url = load_release(schema_releases.RELEASES[-1], engine, request, tmp_path)
    assert rows(url, "SELECT version_num FROM alembic_version") == [(schema.head(),)]
    if engine == "sqlite":
        fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
        schema.upgrade(fresh)
        made = "SELECT type, name, sql FROM sqlite_master WHERE type <> 'view' ORDER BY type, name"
        assert rows(url, made) == rows(fresh, made)
    else:
        cluster: Cluster = request.getfixturevalue("cluster")
        written, again = str(database_url(cluster.upgraded()).database), cluster.database()
        cluster.psql(again, "-c", schema_releases.dump_postgresql(cluster, written))  # pg_dump writes constraints in its own form
        kept, made = (
            schema_releases.dump_postgresql(cluster, str(name), "--schema-only") for name in (database_url(url).database, again)
        )
        assert kept == made


def test_a_failed_upgrade_changes_nothing(fresh_engine: str) -> None:
    execute(fresh_engine, "CREATE TABLE predictions (mine int)")
    with pytest.raises(SchemaMismatch, match="predictions"):
        schema.upgrade(fresh_engine)
    assert schema.current(fresh_engine) is None
    with pytest.raises(DBAPIError):
        execute(fresh_engine, "SELECT * FROM studies")


def test_concurrent_upgrades_make_one_schema(fresh_engine: str) -> None:
    failures: list[Exception] = []

    def upgrade() -> None:
        try:
            schema.upgrade(fresh_engine)
        except Exception as error:
            failures.append(error)

    upgrades = [threading.Thread(target=upgrade) for _ in range(3)]
    for one in upgrades:
        one.start()
    for one in upgrades:
        one.join(30)
    assert failures == []
    schema.verify(fresh_engine)


@pytest.mark.postgres
def test_indexes_are_built_before_the_upgrade_and_an_invalid_one_is_built_again(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By CREATE INDEX CONCURRENTLY, without blocking writers. The migration finds the indexes."""
    url = load_release("0.1.0", "postgresql", request, tmp_path)
    execute(url, "CREATE INDEX ix_reports_unsent ON reports (created_at) WHERE state <> 'sent'")
    execute(url, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_reports_unsent'::regclass")
    made = {
        index.name for table in metadata.sorted_tables for index in table.indexes if table.name in ("reports", "jobs", "studies")
    }

    def fail(_: Connection) -> None:
        found = connection_indexes(_)
        assert made <= found.keys()
        assert all(found.values())
        raise KeyError

    monkeypatch.setattr(schema, "_run_migrations", fail)
    with pytest.raises(KeyError):
        schema.upgrade(url)
    assert schema.current(url) == "0001"


@pytest.mark.postgres
def test_readers_and_writers_go_on_while_an_upgrade_waits_for_a_long_reader(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """CREATE INDEX CONCURRENTLY waits for older transactions, such as a backup, and blocks no others."""
    url = load_release("0.1.0", "postgresql", request, tmp_path)
    engine = open_engine(database_url(url), busy_timeout_seconds=5)
    upgrade = threading.Thread(target=schema.upgrade, args=(url,))
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as backup:  # as pg_dump
        backup.execute(text("SELECT count(*) FROM studies"))
        upgrade.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"
        while not rows(url, waits):
            assert upgrade.is_alive()
        with engine.connect().execution_options(writes=True) as other:
            other.execute(text("SET statement_timeout = '1s'"))
            assert other.execute(text("SELECT study_instance_uid FROM v_studies")).all() == [("1.4",)]
            assert other.execute(text("UPDATE studies SET released = released")).rowcount == 1
            other.rollback()
        assert upgrade.is_alive()
    upgrade.join(30)
    engine.dispose()
    schema.verify(url)


@pytest.mark.postgres
def test_an_upgrade_gives_up_before_it_blocks_readers_for_long(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration locks tables exclusively. While it waits for a long reader, others wait behind it: five seconds at most."""
    url = load_release("0.1.0", "postgresql", request, tmp_path)
    monkeypatch.setattr(schema, "_prepare_online", lambda connection: None)
    engine = open_engine(database_url(url), busy_timeout_seconds=5)
    with engine.connect() as reader:
        reader.execute(text("SELECT count(*) FROM v_studies"))
        with pytest.raises(OutOfResources):
            schema.upgrade(url)
        assert reader.execute(text("SELECT count(*) FROM v_studies")).scalar_one() == 1
    assert schema.current(url) == "0001"
    schema.upgrade(url)
    schema.verify(url)
    engine.dispose()


@pytest.mark.parametrize("engine", DATABASES)
def test_an_upgrade_fills_missing_revisions_of_studies(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The views find the latest predictions by revision. On PostgreSQL the pass over all studies precedes the exclusive lock."""
    url = load_release("0.1.0", engine, request, tmp_path)
    execute(url, "UPDATE studies SET revision = 0")
    schema.upgrade(url)
    assert rows(url, "SELECT revision FROM v_studies") == rows(url, "SELECT DISTINCT revision FROM v_predictions") == [(1,)]


def connection_indexes(connection: Connection) -> dict[str, bool]:
    """Return index name -> whether the index is valid."""
    query = "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    return {name: valid for name, valid in connection.execute(text(query))}


def test_an_upgrade_on_sqlite_names_a_user_view_that_blocks_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    schema_releases.load_sqlite(url, schema_releases.path_of("0.2.0.dev6", "sqlite").read_text())
    execute(url, "CREATE VIEW mine AS SELECT study_instance_uid FROM v_studies")
    with pytest.raises(SchemaMismatch, match=r"views of your own .*mine") as own:
        schema.upgrade(url)
    assert "drop them" in own.value.hint
    assert schema.current(url) == "0006"
    execute(url, "DROP VIEW mine")
    schema.upgrade(url)


@pytest.mark.postgres
def test_user_views_survive_an_upgrade_without_migrations(cluster: Cluster) -> None:
    url = cluster.upgraded()
    execute(url, "CREATE VIEW mine AS SELECT study_instance_uid FROM v_studies")
    schema.upgrade(url)
    assert rows(url, "SELECT * FROM mine") == []
    execute(url, "UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(SchemaMismatch):
        schema.upgrade(url)
    execute(url, "DELETE FROM alembic_version")
    with pytest.raises(SchemaMismatch, match="views of your own") as own:
        schema.upgrade(url)
    assert "drop them" in own.value.hint


def test_a_folder_without_permission_is_one_line_and_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name, act in (("exists", schema.verify), ("mkdir", schema.upgrade)):
        monkeypatch.setattr(Path, name, refuse)
        with pytest.raises(OutOfResources, match="Permission denied") as refused:
            act("sqlite:////not/mine/radclipd.db")
        assert "user" in refused.value.hint


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database " * 100)
    with pytest.raises(SchemaMismatch, match="not a database"):
        schema.verify(f"sqlite:///{tmp_path / 'x.db'}")


def test_an_older_a_newer_and_a_missing_schema_are_reported(catalog_url: str, tmp_path: Path) -> None:
    schema.verify(catalog_url)
    execute(catalog_url, "UPDATE alembic_version SET version_num = '9999'")
    for act in (schema.verify, schema.upgrade):
        with pytest.raises(SchemaMismatch, match="newer") as newer:
            act(catalog_url)
        assert "install" in newer.value.hint
    with pytest.raises(SchemaMismatch, match="no schema") as none:
        schema.verify(f"sqlite:///{tmp_path / 'nothing.db'}")
    assert none.value.hint == "radclipd db upgrade"
    assert not (tmp_path / "nothing.db").exists()


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_can_be_read_and_not_written(catalog_url: str, view: str) -> None:
    assert rows(catalog_url, f"SELECT * FROM {view}") == []
    with pytest.raises(DBAPIError):
        execute(catalog_url, f"INSERT INTO {view} DEFAULT VALUES")


def test_labels_are_append_only(catalog_url: str) -> None:
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
    for forbidden in (
        "UPDATE labels SET state = 'absent'",
        "DELETE FROM labels",
        "INSERT INTO labels (id, study, finding, state, reader, source) VALUES (1, 1, 'Mass', 'absent', 'r', 'csv')"
        " ON CONFLICT (id) DO UPDATE SET state = 'absent'",
        "REPLACE INTO labels (id, study, finding, state, reader, source) VALUES (1, 1, 'Mass', 'absent', 'r', 'csv')"
        if catalog_url.startswith("sqlite")
        else "TRUNCATE labels",
    ):
        with pytest.raises(DBAPIError, match="append-only"):
            execute(catalog_url, forbidden)
    assert rows(catalog_url, "SELECT state, revoked FROM v_labels") == [("present", 0)]


def test_a_label_is_withdrawn_or_corrected_by_a_later_row(catalog_url: str) -> None:
    test_labels_are_append_only(catalog_url)
    add = "INSERT INTO labels (study, finding, state, reader, source, revokes) VALUES (1, '{}', {}, 'r', 'desk', {})"
    for wrong in (add.format("Nodule", "NULL", 1), add.format("Mass", "NULL", 99), add.format("Mass", "NULL", "NULL")):
        with pytest.raises(DBAPIError, match=r"(?i)constraint"):
            execute(catalog_url, wrong)
    execute(catalog_url, add.format("Mass", "'absent'", 1))
    with pytest.raises(DBAPIError, match=r"(?i)unique"):
        execute(catalog_url, add.format("Mass", "NULL", 1))
    found = "SELECT state, revoked FROM v_labels ORDER BY id"
    assert rows(catalog_url, found) == [("present", 1), ("absent", 0)]


@pytest.mark.parametrize(
    "broken",
    [
        "UPDATE studies SET state = 'lost'",
        "UPDATE studies SET state = 'ignored', reason = ''",
        "INSERT INTO jobs (kind, subject, payload, state) VALUES ('score', '1', '{}', 'running')",
        "INSERT INTO jobs (kind, subject, payload) VALUES ('dream', '1', '{}')",
        "INSERT INTO series (series_instance_uid, study, modality, series_description) VALUES ('1', 99, '', '')",
        "INSERT INTO labels (study, finding, state, reader, source) VALUES (1, 'Broken rib', 'present', 'r', 'csv')",
        "INSERT INTO labels (study, finding, state, reader, source, selection_probability)"
        " VALUES (1, 'Mass', 'present', 'r', 'csv', 1.5)",
    ],
)
def test_the_database_refuses_rows_that_violate_a_constraint(catalog_url: str, broken: str) -> None:
    test_labels_are_append_only(catalog_url)
    with pytest.raises(Exception, match=r"(?i)constraint|violates"):
        execute(catalog_url, broken)


def test_an_unreachable_database_is_reported_without_its_password() -> None:
    url = "postgresql://radclipd:sesame@127.0.0.1:1/radclipd"
    with pytest.raises(OutOfResources) as unreachable:
        schema.verify(url)
    assert "sesame" not in str(unreachable.value) + unreachable.value.hint
    url = "postgresql://radclipd@127.0.0.1:1/radclipd?password=sesame"
    catalog = SqlCatalog(url)
    with pytest.raises(OutOfResources) as also, catalog.begin():
        pass
    assert "sesame" not in str(also.value)
    catalog.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://radclipd:sesame@host/radclipd",
        "postgresql://radclipd:a@sesame@host/radclipd",
        "postgresql://radclipd:a@sesame:b@host/radclipd",
        "no url sesame",
    ],
)
def test_a_url_that_cannot_be_served_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        schema.verify(url)
    assert "sesame" not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "#1.db", "ä.db"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    url = f"sqlite:///{tmp_path / name}"
    schema.upgrade(url)
    assert rows(url, "SELECT * FROM v_studies") == []


def test_a_lock_is_waited_for_and_then_reported(catalog_url: str) -> None:
    holder, waiter = SqlCatalog(catalog_url), SqlCatalog(catalog_url, busy_timeout_seconds=2)
    with holder.begin() as tx:
        tx.versions.add(a_version())
        with pytest.raises(OutOfResources, match="lock") as locked, waiter.begin() as also:
            also.versions.add(a_version())
    assert locked.value.hint
    holder.dispose()
    waiter.dispose()


@pytest.mark.postgres
def test_the_read_only_role_reads_views_and_nothing_else(cluster: Cluster) -> None:
    """As deploy/postgres/README.md says: the daemon's role owns the database and is no superuser."""
    cluster.run("createuser", "-h", str(cluster.folder), "-U", "postgres", "radclipd")
    cluster.run("createdb", "-h", str(cluster.folder), "-U", "postgres", "--owner", "radclipd", "-T", "template0", "radclipd")
    url = cluster.url("radclipd", user="radclipd")
    schema.upgrade(url)
    script = Path(__file__).parents[3] / "deploy/postgres/read-only-role.sql"
    for _ in range(2):  # safe to repeat
        cluster.psql("radclipd", "-v", "reader=alice", "-f", str(script))
    as_alice = ["psql", "-h", str(cluster.folder), "-U", "alice", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", "radclipd", "-c"]
    for view in VIEWS:
        assert cluster.run(*as_alice, f"SELECT count(*) FROM {view}").strip() == "0"
    for forbidden in ("SELECT * FROM patients", "DELETE FROM v_jobs", "CREATE TABLE x (y int)"):
        for first in ("", "SET default_transaction_read_only = off; "):
            with pytest.raises(Exception, match="returned non-zero"):
                cluster.run(*as_alice, first + forbidden)
    schema.upgrade(url)
    execute(url, "DELETE FROM alembic_version")
    for table in reversed(metadata.sorted_tables):
        execute(url, f"DROP TABLE {table.name} CASCADE")
    for function in ("labels_refuse", "requests_refuse", "labels_refuse_delete", "requests_refuse_delete", "audit_events_refuse"):
        execute(url, f"DROP FUNCTION {function}")
    schema.upgrade(url)  # makes the views anew
    assert cluster.run(*as_alice, "SELECT count(*) FROM v_jobs").strip() == "0"


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("rule", "user", "hint"),
    [
        ("local all all peer", "radclipd", "peer authentication admits system user"),
        ("local all all scram-sha-256", "postgres", "the role or its password is not what the server expects"),
        ("local none all trust", "postgres", "pg_hba.conf"),
        ("local all all trust", "nobody-like-that", "make the role first"),
    ],
)
def test_a_refused_role_is_told_with_the_remedy(rule: str, user: str, hint: str) -> None:
    with postgres.cluster() as own:
        (own.folder / "cluster/pg_hba.conf").write_text(f"{rule}\n")
        own.run("pg_ctl", "-D", str(own.folder / "cluster"), "reload")
        until = time.monotonic() + 10
        while True:
            with pytest.raises((OutOfResources, SchemaMismatch)) as refused:  # the server reads its rules again in a moment
                schema.verify(own.url("postgres", user=user))
            if hint in refused.value.hint:
                break
            assert time.monotonic() < until, f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize("engine", DATABASES)
def test_predictions_of_earlier_releases_get_the_scale_that_their_version_has(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Learnt findings become bands at their own thresholds; the others wait for a reference distribution."""
    url = load_release("0.2.0.dev8", engine, request, tmp_path)
    execute(url, 'UPDATE model_versions SET card = \'{"learning": {"findings": ["Mass", "Atelectasis"]}}\'')
    before = {str(finding): decision for finding, decision in rows(url, "SELECT finding, decision FROM predictions")}
    scores = {str(finding): float(str(score)) for finding, score in rows(url, "SELECT finding, probability FROM predictions")}
    schema.upgrade(url)
    columns = "finding, scale, decision, reason, score, likelihood, excess"
    after = {str(finding): told for finding, *told in rows(url, f"SELECT {columns} FROM predictions")}
    assert after.keys() == set(FINDINGS)
    for finding, told in after.items():
        score = scores[finding]
        if finding in ("Mass", "Atelectasis"):
            assert told[:-1] == ["band", before[finding], "", score, score]
            assert told[-1] == pytest.approx(log_odds(score) - log_odds(0.5))
        else:
            assert told == ["rank", "not assessed", "no reference", score, None, None]
    catalog = SqlCatalog(url)
    with catalog.read() as tx:
        assert tx.scores.without_reference(1, limit=5) == ["1.4"]
        version = tx.versions.find(1)
    catalog.dispose()
    assert version is not None
    assert version.scales == {"Mass": Scale.BAND, "Atelectasis": Scale.BAND}
