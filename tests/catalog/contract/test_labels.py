"""The contract of ports.Labels and of the steps on it: the fake, SQLite and PostgreSQL."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from adapters.catalog import parameters, query
from adapters.catalog.catalog import SqlCatalog
from pipeline import labels, rules
from pipeline.consensus import LabelPolicy, labels_in_force, resolve_consensus
from pipeline.domain import FINDINGS, Label, LabelState, ReaderStatement
from pipeline.errors import InvalidLabels, PermanentError
from pipeline.finding_names import all_absent
from pipeline.ports.services import Catalog
from tests.builders.catalog_rows import add_instance, chest_header

NOON = datetime(2025, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
PRESENT, ABSENT, UNCERTAIN = LabelState


def label(study: str = "1.1", finding: str = "Mass", state: LabelState | None = PRESENT, **changes: Any) -> Label:
    values: dict[str, Any] = {"reader": "alice", "source": "csv", "stated_at": rules.truncate_to_milliseconds(NOON)}
    return Label(study_instance_uid=study, finding=finding, state=state, **{**values, **changes})


def reading(study: str = "1.1", **changes: Any) -> ReaderStatement:
    values: dict[str, Any] = {"findings": {"Mass": PRESENT}, "reader": "alice", "source": "csv"}
    return ReaderStatement(study_instance_uid=study, **{**values, **changes})


def all_of(catalog: Catalog) -> list[Label]:
    with catalog.read() as tx:
        return tx.labels.all()


@pytest.fixture
def catalog(catalog: Catalog) -> Catalog:
    """A catalog of three studies; two have the same accession number."""
    for number, accession in enumerate(("A1", "A2", "A2"), 1):
        add_instance(catalog, chest_header(study=f"1.{number}", sop=f"1.{number}.1", accession_number=accession))
    return catalog


def test_a_label_is_read_back_unchanged(catalog: Catalog) -> None:
    said = [
        label(selection_reason="random", selection_probability=0.25, document="2.25.7", reader="Ḧouse^Gregory"),
        label("1.2", "Hernia", UNCERTAIN),
        label(state=None, revokes=1, reader="bob"),
    ]
    with catalog.begin() as tx:
        tx.labels.append(said)
        tx.labels.append([])
    numbered = [replace(one, id=number) for number, one in enumerate(said, 1)]
    with catalog.read() as tx:
        assert tx.labels.all() == numbered
        assert tx.labels.of_studies({"1.2", "9"}) == [numbered[1]]
        assert tx.labels.of_studies([]) == []
        assert tx.labels.find([3, 1, 99]) == [numbered[0], numbered[2]]


def test_studies_with_several_readers_of_one_finding_are_found(catalog: Catalog) -> None:
    said = [
        label("1.1"),
        label("1.1", reader="bob", state=ABSENT),
        label("1.2"),
        label("1.2", "Hernia", reader="bob"),  # of another finding
        label("1.3"),
        label("1.3", state=ABSENT),  # the same reader again
    ]
    with catalog.begin() as tx:
        assert tx.labels.multi_reader_studies() == []
        tx.labels.append(said)
    with catalog.read() as tx:
        assert tx.labels.multi_reader_studies() == ["1.1"]


@pytest.mark.parametrize(
    "wrong",
    [
        label("9.9"),
        label(state=None),
        label(revokes=99),
        label(finding="Nodule", revokes=1),
        label("1.2", state=None, revokes=1),
        label(document="2.25.7", state=ABSENT),
    ],
    ids=[
        "unknown study",
        "neither state nor revokes",
        "revokes no label",
        "another finding",
        "another study",
        "twice in a document",
    ],
)
def test_a_label_that_violates_a_constraint_is_refused(catalog: Catalog, wrong: Label) -> None:
    with catalog.begin() as tx:
        tx.labels.append([label(document="2.25.7")])
    with pytest.raises(Exception, match=r"(?i)catalog|constraint|violates|unique"), catalog.begin() as tx:
        tx.labels.append([label("1.3"), wrong])
    assert len(all_of(catalog)) == 1


def test_a_label_is_revoked_once(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        tx.labels.append([label(), label(state=None, revokes=1)])
    with pytest.raises(Exception, match=r"(?i)unique|append-only"), catalog.begin() as tx:
        tx.labels.append([label(state=None, revokes=1)])


def test_the_time_of_a_transaction_is_the_catalogs(catalog: Catalog) -> None:
    with catalog.read() as tx:
        now = tx.now()
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0


def test_studies_are_found_by_uid_and_by_accession_number(catalog: Catalog) -> None:
    with catalog.read() as tx:
        assert tx.studies.accession_numbers({"1.1", "1.2", "9"}) == {"1.1": "A1", "1.2": "A2"}
        assert tx.studies.uids_by_accession_number({"A1", "A2", "A3"}) == {"A1": ["1.1"], "A2": ["1.2", "1.3"]}
        assert tx.studies.uids_by_accession_number(set()) == {}
        assert tx.studies.document_uids() == []
    add_instance(catalog, chest_header(sop="1.1.7", sop_class_uid=rules.STRUCTURED_REPORT_FAMILY + "34"), opens=False)
    add_instance(catalog, chest_header(sop="1.1.8", sop_class_uid=rules.KEY_OBJECT_SELECTION), opens=False)
    with catalog.read() as tx:
        assert tx.studies.document_uids() == ["1.1.7", "1.1.8"]


def test_importing_the_same_statements_again_adds_no_label(catalog: Catalog) -> None:
    said = [
        reading(findings=all_absent(), stated_at=NOON),
        reading(
            "",
            accession_number="A1",
            reader="bob",
            findings={"Mass": PRESENT},
            selection_reason="random",
            selection_probability=0.1,
        ),
    ]
    assert labels.import_readings(said, catalog=catalog, dry_run=True) == labels.ImportResult(15, 0, 1)
    assert all_of(catalog) == []
    assert labels.import_readings(said, catalog=catalog) == labels.ImportResult(15, 0, 1)
    assert labels.import_readings(said, catalog=catalog) == labels.ImportResult(0, 15, 1)
    stored = all_of(catalog)
    assert {(one.reader, one.selection_reason, one.selection_probability) for one in stored} == {
        ("alice", "", None),
        ("bob", "random", 0.1),
    }
    assert stored[0].stated_at == rules.truncate_to_milliseconds(NOON)
    assert resolve_consensus(stored, LabelPolicy()).by_key["1.1", "Mass"].state is PRESENT


def test_a_repeated_statement_with_a_later_time_is_added_and_one_without_a_time_is_not(catalog: Catalog) -> None:
    labels.import_readings([reading(stated_at=NOON)], catalog=catalog)
    assert labels.import_readings([reading()], catalog=catalog).added == 0
    assert labels.import_readings([reading(stated_at=NOON + timedelta(days=1))], catalog=catalog).added == 1
    assert labels.import_readings([reading(findings={"Mass": ABSENT})], catalog=catalog).added == 1
    assert labels.import_readings([reading()], catalog=catalog).added == 1  # a return to the first opinion is a new statement
    assert [one.state for one in labels_in_force(all_of(catalog))] == [PRESENT]


def test_a_batch_with_faults_adds_no_label_and_lists_every_faulty_row(catalog: Catalog) -> None:
    future = datetime.now(UTC) + timedelta(days=400)
    rows = [
        reading(row=2),
        reading("9.9", row=3),
        reading("", accession_number="A2", row=4),
        reading("", accession_number="A9", row=5),
        reading("", row=6),
        reading(accession_number="A2", row=7),
        reading(reader=" ", row=8),
        reading(reader="x" * 65, row=9),
        reading(reader="a\nb", row=10),
        reading(stated_at=future, row=11),
        reading(selection_probability=1.5, row=12),
        reading(findings={"Broken rib": PRESENT}, row=13),
        reading(findings={"Mass": ABSENT}, row=14),
    ]
    with pytest.raises(InvalidLabels, match="12 rows cannot be taken; nothing was") as bad:
        labels.import_readings(rows, catalog=catalog)
    assert all_of(catalog) == []
    found = {(fault.row, fault.column): (fault.value, fault.remedy) for fault in bad.value.label_faults}
    assert [row for row, _ in found] == list(range(3, 15))
    assert found[4, "accession_number"] == ("A2", "2 studies have it: name the study by study_instance_uid")
    assert "not the accession number of the row's study" in found[7, "accession_number"][1]
    assert "the year and the time zone" in found[11, "stated_at"][1]
    assert "row 2 says present of the same study by the same reader" in found[14, "Mass"][1]
    assert all(value and "\n" not in value[1] for value in found.values())


def test_a_revoked_label_is_kept_and_no_longer_in_force(catalog: Catalog) -> None:
    labels.import_readings(
        [reading(stated_at=NOON), reading(reader="bob", findings={"Mass": ABSENT}, stated_at=NOON)], catalog=catalog
    )
    (revoked_label,) = labels.withdraw([1], reader="alice", source="cli", catalog=catalog)
    assert revoked_label.id == 1
    assert [(one.reader, one.state) for one in labels_in_force(all_of(catalog))] == [("bob", ABSENT)]
    assert len(all_of(catalog)) == 3
    for revoked in ([1], [2, 1], [99], [3]):
        with pytest.raises(PermanentError, match="is not in force"):
            labels.withdraw(revoked, reader="alice", source="cli", catalog=catalog)
    assert (
        labels.import_readings([reading(stated_at=NOON)], catalog=catalog).added == 0
    )  # importing the same file again does not restore it
    assert labels.import_readings([reading()], catalog=catalog).added == 1


@pytest.mark.parametrize("seed", range(3))
def test_v_labels_and_the_consensus_agree_on_which_labels_are_revoked(sql_catalog: SqlCatalog, catalog_url: str, seed: int) -> None:
    for number in (1, 2):
        add_instance(sql_catalog, chest_header(study=f"1.{number}", sop=f"1.{number}.1"))
    chance = random.Random(seed)
    made: list[Label] = []
    for number in range(1, 150):
        earlier = chance.choice([one for one in made if one.id not in {m.revokes for m in made}] or [None])
        withdraws = earlier is not None and chance.random() < 0.3
        what = (earlier.study_instance_uid, earlier.finding) if withdraws and earlier else (f"1.{chance.choice('12')}", "Mass")
        stated_at = NOON.replace(microsecond=0) + timedelta(hours=chance.randrange(40))
        state = None if withdraws and chance.random() < 0.5 else chance.choice(list(LabelState))
        one = label(
            *what, state, reader=chance.choice("abc"), stated_at=stated_at, revokes=earlier.id if withdraws and earlier else None
        )
        made.append(replace(one, id=number))
    with sql_catalog.begin() as tx:
        tx.labels.append(made)
    _, rows = query.run(catalog_url, "SELECT id FROM v_labels WHERE revoked = 0 ORDER BY id")
    assert [number for (number,) in rows] == sorted(one.id for one in labels_in_force(made))
    assert 0 < len(rows) < len(made) / 3


def test_labels_of_more_studies_than_one_statement_can_name_are_found(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "MAX_PARAMETERS", 7)
    numbers = range(100, 130)
    for number in numbers:
        add_instance(catalog, chest_header(study=f"1.{number}", sop=f"1.{number}.1", accession_number=f"B{number}"))
    said = [reading("", accession_number=f"B{number}", findings=all_absent()) for number in numbers]
    assert labels.import_readings(said, catalog=catalog) == labels.ImportResult(30 * len(FINDINGS), 0, 30)
    stored = all_of(catalog)
    with catalog.read() as tx:
        assert tx.labels.of_studies({label.study_instance_uid for label in stored}) == stored
        assert tx.labels.find([label.id for label in stored]) == stored
