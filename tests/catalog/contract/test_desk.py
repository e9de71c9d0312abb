"""The desk's steps on both databases: a film is labelled whole, and once; the result is shown after the reader has spoken."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime

import pytest
from sqlalchemy.exc import DBAPIError

from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.readings import DRAW_PRIME, REPEAT, SECOND_READER
from pipeline import labelling, reader_documents, rules, users
from pipeline.domain import (
    FINDINGS,
    DeskReading,
    Draft,
    JobKind,
    Label,
    LabelExposure,
    LabelState,
    ReportState,
    StoredFile,
    UserRole,
)
from pipeline.errors import PermanentError
from pipeline.labelling import ReadingPolicy
from tests.builders.catalog_rows import add_instance, add_reported_study, chest_header, import_statement, worklist_request
from tests.builders.fakes.versions import a_version
from tests.builders.sql import execute, rows

CHEST = rules.ChestPolicy()
PRESENT, ABSENT, UNCERTAIN = LabelState.PRESENT, LabelState.ABSENT, LabelState.UNCERTAIN


def a_draft(study: str = "1.1", reader: str = "alice", **states: LabelState) -> Draft:
    return Draft(study_instance_uid=study, reader=reader, states=states)


@pytest.fixture
def worklist(sql_catalog: SqlCatalog) -> SqlCatalog:
    """Three requested studies, 1.1 to 1.3, of three patients; version 1 serves."""
    with sql_catalog.begin() as tx:
        tx.versions.add(a_version())
    for number in (1, 2, 3):
        header = chest_header(f"1.{number}", f"1.{number}.1", patient_id=f"P{number}", study_date="20260103")
        add_instance(sql_catalog, header)
    with sql_catalog.begin() as tx:
        tx.requests.append([worklist_request(f"1.{number}") for number in (1, 2, 3)])
    return sql_catalog


def offered(catalog: SqlCatalog, reader: str = "alice") -> list[str]:
    return [task.study_instance_uid for task in labelling.list_tasks(reader=reader, limit=5, catalog=catalog, chest=CHEST)]


def test_the_rest_is_absent_only_where_the_reader_says_so(worklist: SqlCatalog, catalog_url: str) -> None:
    reveal = labelling.state_reading(
        a_draft(Mass=PRESENT, Edema=UNCERTAIN), idempotency_key="key-0001", rest_absent=True, catalog=worklist
    )
    assert reveal.new_labels == len(FINDINGS)
    labelling.state_reading(a_draft("1.2", Mass=PRESENT), idempotency_key="key-0002", rest_absent=False, catalog=worklist)
    stored = rows(catalog_url, "SELECT study_instance_uid, state, count(*) FROM v_labels GROUP BY 1, 2 ORDER BY 1, 2")
    assert stored == [("1.1", "absent", 12), ("1.1", "present", 1), ("1.1", "uncertain", 1), ("1.2", "present", 1)]
    assert rows(catalog_url, "SELECT DISTINCT reader, source, selection_reason, exposure FROM v_labels") == [
        ("alice", "desk", "positives", "none")
    ]
    assert offered(worklist) == ["1.3"]


def test_a_reading_sent_twice_is_stored_once(worklist: SqlCatalog, catalog_url: str) -> None:
    for _ in range(2):
        labelling.state_reading(a_draft(Mass=PRESENT), idempotency_key="key-0001", rest_absent=True, catalog=worklist)
    assert rows(catalog_url, "SELECT count(*) FROM labels") == [(14,)]
    assert rows(catalog_url, "SELECT count(*) FROM readings") == [(1,)]
    again = DeskReading(study_instance_uid="1.1", reader="alice", idempotency_key="key-0001")
    with pytest.raises(PermanentError, match="idempotency key"):
        labelling.state_reading(a_draft(), idempotency_key="short", rest_absent=True, catalog=worklist)
    with pytest.raises(Exception, match="refuses"), worklist.begin() as tx:
        tx.readings.add(again)


def test_a_changed_mind_after_the_reveal_is_a_second_statement_marked_seen(worklist: SqlCatalog, catalog_url: str) -> None:
    labelling.state_reading(a_draft(Mass=PRESENT), idempotency_key="key-0001", rest_absent=True, catalog=worklist)
    second = labelling.state_reading(
        a_draft(Mass=PRESENT, Nodule=UNCERTAIN), idempotency_key="key-0002", rest_absent=True, catalog=worklist
    )
    assert second.new_labels == 1
    assert second.states["Nodule"] is UNCERTAIN
    stored = rows(catalog_url, "SELECT state, exposure, revoked FROM v_labels WHERE finding = 'Nodule' ORDER BY id")
    assert stored == [("absent", "none", 1), ("uncertain", "seen", 0)]


def test_the_result_is_hidden_until_the_reader_has_spoken(worklist: SqlCatalog) -> None:
    with pytest.raises(PermanentError, match="after the reader"):
        labelling.reveal_result("1.1", reader="alice", catalog=worklist)
    labelling.state_reading(a_draft(), idempotency_key="key-0001", rest_absent=True, catalog=worklist)
    reveal = labelling.reveal_result("1.1", reader="alice", catalog=worklist)
    assert reveal.request is not None
    assert reveal.request.reason == "why"
    with pytest.raises(PermanentError, match="after the reader"):
        labelling.reveal_result("1.1", reader="bob", catalog=worklist)


def test_a_label_after_a_delivered_report_is_possibly_exposed(catalog_url: str) -> None:
    add_reported_study(catalog_url)
    catalog = SqlCatalog(catalog_url)
    import_statement(catalog, "1.4", reader="csv reader")
    labelling.state_reading(a_draft("1.4", Mass=PRESENT), idempotency_key="key-0001", rest_absent=False, catalog=catalog)
    with catalog.begin() as tx:
        tx.readings.mark_revealed("1.4", "bob")
    labelling.state_reading(a_draft("1.4", "bob", Mass=ABSENT), idempotency_key="key-0001", rest_absent=False, catalog=catalog)
    catalog.dispose()
    stored = rows(catalog_url, "SELECT DISTINCT reader, exposure FROM v_labels ORDER BY reader")
    assert stored == [("alice", "possible"), ("bob", "seen"), ("csv reader", "possible")]


def test_a_draft_survives_and_reserves_its_film(worklist: SqlCatalog) -> None:
    draft = Draft(
        study_instance_uid="1.1", reader="alice", states={"Mass": PRESENT}, points={"Mass": (12.5, 7.0)}, comment="old scar"
    )
    labelling.save_draft(draft, catalog=worklist)
    assert labelling.find_task("1.1", reader="alice", catalog=worklist, chest=CHEST).draft == draft
    assert labelling.find_task("1.1", reader="bob", catalog=worklist, chest=CHEST).draft.states == {}
    assert offered(worklist) == ["1.1", "1.2", "1.3"]
    assert offered(worklist, "bob") == ["1.2", "1.3"]
    labelling.state_reading(draft, idempotency_key="key-0001", rest_absent=True, catalog=worklist)
    with worklist.read() as tx:
        assert tx.readings.find_draft("1.1", "alice") is None
        last = tx.readings.find_last("1.1", "alice")
    assert last is not None
    assert (last.points, last.comment, last.exposure) == ({"Mass": (12.5, 7.0)}, "old scar", LabelExposure.NONE)


def test_a_skipped_study_is_offered_to_others(worklist: SqlCatalog, catalog_url: str) -> None:
    for _ in range(2):
        labelling.skip_study("1.1", reader="alice", reason="poor quality", idempotency_key="key-0009", catalog=worklist)
    assert offered(worklist) == ["1.2", "1.3"]
    assert offered(worklist, "bob") == ["1.1", "1.2", "1.3"]
    assert rows(catalog_url, "SELECT skip_reason, states FROM readings") in ([("poor quality", "{}")], [("poor quality", {})])
    with pytest.raises(PermanentError, match="one of the reasons"):
        labelling.skip_study("1.1", reader="alice", reason="tired", idempotency_key="key-0010", catalog=worklist)


def test_priors_and_laterals_stand_beside_the_film(worklist: SqlCatalog) -> None:
    add_instance(worklist, chest_header("1.1", "1.1.2", patient_id="P1", study_date="20260103", view_position="LL"))
    add_instance(worklist, chest_header("1.7", "1.7.1", patient_id="P1", study_date="20250101"))
    add_instance(worklist, chest_header("1.8", "1.8.1", patient_id="P1", study_date="20270101"))
    films = labelling.find_task("1.1", reader="alice", catalog=worklist, chest=CHEST).films
    assert [(film.instance.header.sop_instance_uid, film.study_date, film.is_prior) for film in films] == [
        ("1.1.1", "20260103", False),
        ("1.1.2", "20260103", False),
        ("1.7.1", "20250101", True),
    ]


def test_what_is_no_statement_is_refused(worklist: SqlCatalog) -> None:
    for draft, word in ((a_draft(Fracture=PRESENT), "no finding"), (a_draft("9.9"), "no such study")):
        with pytest.raises(PermanentError, match=word):
            labelling.save_draft(draft, catalog=worklist)
        with pytest.raises(PermanentError, match=word):
            labelling.state_reading(draft, idempotency_key="key-0001", rest_absent=True, catalog=worklist)


def test_users_and_tokens(sql_catalog: SqlCatalog, catalog_url: str) -> None:
    user = users.add_user("dr.kim", UserRole.READER, "hash", catalog=sql_catalog, source="cli")
    for name, word in (("dr.kim", "already"), ("a b", "letters"), ("x" * 65, "letters")):
        with pytest.raises(PermanentError, match=word):
            users.add_user(name, UserRole.READER, "hash", catalog=sql_catalog, source="cli")
    with sql_catalog.begin() as tx:
        tx.users.add_token("dr.kim", "a" * 64)
    with sql_catalog.read() as tx:
        assert tx.users.find_by_token("a" * 64) == tx.users.find("dr.kim") == user
        assert tx.users.find("nobody") is None
    users.reset_password("dr.kim", "other", catalog=sql_catalog, source="cli")
    users.disable_user("dr.kim", catalog=sql_catalog, source="cli")
    with sql_catalog.read() as tx:
        assert tx.users.find_by_token("a" * 64) is None
        [disabled] = tx.users.all()
    assert (disabled.disabled, disabled.password_hash) == (True, "other")
    assert disabled.session_key != user.session_key
    assert rows(catalog_url, "SELECT action, subject, detail FROM v_audit ORDER BY id")[-1] == (
        "user", "dr.kim", "disabled, 1 tokens deleted",
    )  # fmt: skip


def test_rows_of_views_by_column_and_key(worklist: SqlCatalog) -> None:
    with worklist.read() as tx:
        newest = tx.views.select("v_studies", ["study_instance_uid"], order=["-study_instance_uid"], limit=2)
        assert [row["study_instance_uid"] for row in newest] == ["1.3", "1.2"]
        rest = tx.views.select(
            "v_studies", ["study_instance_uid"], order=["-study_instance_uid"], after=("-study_instance_uid", "1.2")
        )
        assert [row["study_instance_uid"] for row in rest] == ["1.1"]
        assert tx.views.select("v_studies", where={"study_instance_uid": "1.1' OR '1'='1"}) == []
        for view, columns in (("studies", ()), ("v_studies", ["patient"]), ("v_studies; DROP TABLE labels", ())):
            with pytest.raises(KeyError):
                tx.views.select(view, columns)


def test_an_exposure_that_is_none_of_three_is_refused(worklist: SqlCatalog, catalog_url: str) -> None:
    with pytest.raises(DBAPIError, match="exposure"):
        execute(
            catalog_url,
            "INSERT INTO labels (study, finding, state, reader, source, exposure) VALUES (1, 'Mass', 'present', 'a', 'b', 'maybe')",
        )


def test_labels_become_visible_in_the_order_of_their_numbers(sql_catalog: SqlCatalog) -> None:
    """Else a program that has seen number 2 and asks for what follows never gets number 1, which was committed after it."""
    for study in ("1.1", "1.2"):
        add_instance(sql_catalog, chest_header(study, f"{study}.1"))
    appended, may_commit = threading.Event(), threading.Event()

    def append_slowly() -> None:
        with sql_catalog.begin() as tx:
            tx.labels.append([a_label("1.1", tx.now())])
            appended.set()
            assert may_commit.wait(10)

    slow = threading.Thread(target=append_slowly)
    fast = threading.Thread(target=import_statement, args=(sql_catalog, "1.2"))
    slow.start()
    assert appended.wait(10)
    fast.start()
    fast.join(0.5)
    with sql_catalog.read() as tx:
        seen = tx.labels.all()
    may_commit.set()
    slow.join()
    fast.join()
    assert seen == []
    with sql_catalog.read() as tx:
        assert tx.labels.all()[0].study_instance_uid == "1.1"


def a_label(study: str, stated_at: datetime) -> Label:
    return Label(study_instance_uid=study, finding="Mass", state=LabelState.PRESENT, reader="r", source="csv", stated_at=stated_at)


TWICE = ReadingPolicy(repeated_reading=1.0, repeat_days=1.0)


def state(
    catalog: SqlCatalog, key: str, study: str = "1.1", policy: ReadingPolicy = TWICE, **states: LabelState
) -> labelling.Reveal:
    draft = a_draft(study, **states)
    return labelling.state_reading(draft, idempotency_key=key, rest_absent=True, catalog=catalog, policy=policy)


def test_a_film_is_due_a_second_time_days_later_and_once(worklist: SqlCatalog, catalog_url: str) -> None:
    def listed() -> list[str]:
        tasks = labelling.list_tasks(reader="alice", limit=5, catalog=worklist, chest=CHEST, policy=TWICE)
        return [task.study_instance_uid for task in tasks]

    assert state(worklist, "key-0001", Mass=PRESENT).is_withheld
    state(worklist, "key-0002", Mass=PRESENT, Nodule=UNCERTAIN)  # a second thought of the same hour
    labelling.skip_study("1.3", reader="alice", reason="poor quality", idempotency_key="key-0003", catalog=worklist, policy=TWICE)
    with worklist.begin() as tx:
        tx.readings.mark_revealed("1.2", "alice")
    assert not state(worklist, "key-0004", "1.2").is_withheld
    assert listed() == []
    execute(catalog_url, "UPDATE readings SET read_at = '2026-01-01 00:00:00+00:00'")
    assert listed() == ["1.1"]
    assert labelling.find_task("1.1", reader="alice", catalog=worklist, chest=CHEST, policy=TWICE).draft.states == {}
    again = state(worklist, "key-0005", Nodule=PRESENT)
    assert (again.is_withheld, again.new_labels, again.states["Nodule"]) == (False, 0, PRESENT)
    assert listed() == []
    with worklist.read() as tx:
        [(first, repeat)] = tx.readings.repeated_pairs("alice")
        assert tx.readings.repeated_pairs("bob") == []
    assert (first.idempotency_key, repeat.idempotency_key, repeat.is_repeat) == ("key-0001", "key-0005", True)
    assert rows(
        catalog_url, "SELECT state FROM v_labels WHERE study_instance_uid = '1.1' AND finding = 'Nodule' AND revoked = 0"
    ) == [("uncertain",)]


def test_a_share_of_the_films_comes_twice() -> None:
    numbers = range(1, 1010)
    drawn = {n for n in numbers if (n * n * REPEAT[0] + n * REPEAT[1]) % DRAW_PRIME < int(0.03 * DRAW_PRIME)}
    second = {n for n in numbers if (n * n * SECOND_READER[0] + n * SECOND_READER[1]) % DRAW_PRIME < int(0.1 * DRAW_PRIME)}
    assert 0.025 < len(drawn) / 1009 < 0.035
    assert len(drawn & second) < 10


def test_a_study_with_a_doubtful_label_comes_to_another_reader(worklist: SqlCatalog) -> None:
    import_statement(worklist, "1.1", reader="dr.csv")
    assert offered(worklist) == ["1.2", "1.3"]
    with worklist.begin() as tx:
        tx.second_readings.append([replace(worklist_request("1.1"), requested_at=tx.now())])
    assert offered(worklist) == ["1.1", "1.2", "1.3"]
    assert offered(worklist, "dr.csv") == ["1.2", "1.3"]
    state(worklist, "key-0001", policy=ReadingPolicy(), Mass=PRESENT)
    assert offered(worklist, "bob") == ["1.2", "1.3"]


def test_a_reading_has_a_document_where_it_is_configured(worklist: SqlCatalog) -> None:
    sending = ReadingPolicy(documents=True, uid_root="1.2.3")
    state(worklist, "key-0001", policy=ReadingPolicy(), Mass=PRESENT)
    state(worklist, "key-0002", policy=sending, Mass=PRESENT, Edema=UNCERTAIN)
    state(worklist, "key-0003", policy=sending, Mass=ABSENT)
    with worklist.begin() as tx:
        jobs = tx.jobs.claim([JobKind.REPORT], worker="w", lease_seconds=60, limit=5)
        first, second = [tx.reader_documents.find(job.subject) for job in sorted(jobs, key=lambda job: job.id)]
        assert first is not None
        assert second is not None
        assert all(reader_documents.is_of_document(job) for job in jobs)
        assert first.sop_instance_uid.startswith("1.2.3.")
        assert (first.reader, first.state, first.predecessor) == ("alice", ReportState.PENDING, None)
        assert (first.states["Edema"], second.predecessor) == (UNCERTAIN, first.sop_instance_uid)
        tx.reader_documents.mark_built(first.sop_instance_uid, StoredFile("k", "a" * 64, 7))
        tx.reader_documents.mark_sent(first.sop_instance_uid, "0x0000")
        tx.reader_documents.mark_refused(second.sop_instance_uid, "0xA900")
        stored = tx.views.select("v_readings", ["document", "document_state"], order=["id"])
    assert [tuple(row.values()) for row in stored] == [
        (None, None),
        (first.sop_instance_uid, "sent"),
        (second.sop_instance_uid, "refused"),
    ]
