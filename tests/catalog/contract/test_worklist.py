"""The worklist on every catalog, and the verb as it is typed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.catalog.catalog import SqlCatalog
from pipeline import decisions, labels, rules, worklist
from pipeline.acquisition import SelectionPolicy, SelectionReason
from pipeline.consensus import LabelPolicy
from pipeline.domain import FINDINGS, LabelState, Request, StudyState, VersionState
from pipeline.errors import NoWeights, TransientError
from pipeline.ports.services import Catalog
from pipeline.thumbnails import THUMBNAIL_SIDE
from tests.builders.catalog_rows import add_instance, chest_header, import_statement, worklist_request
from tests.builders.command import Radclipd, radclipd_on
from tests.builders.fakes.versions import a_version
from tests.builders.sql import execute

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
STUDIES = 12


def fill(catalog: Catalog) -> None:
    """Add STUDIES scored studies of eleven patients; the last two have one patient. Version 1 is retired, version 2 serves."""
    with catalog.begin() as tx:
        tx.versions.add(a_version(1, state=VersionState.RETIRED))
        tx.versions.add(a_version(2, label_fingerprint="f" * 64))
    chance = np.random.default_rng(0)
    for number in range(1, STUDIES + 1):
        uid = f"1.{number}"
        patient = f"P{min(number, STUDIES - 1)}"
        model = "Vista" if number % 2 else "Plate"
        add_instance(
            catalog,
            chest_header(
                study=uid, sop=f"{uid}.1", accession_number=f"A{number}", patient_id=patient, manufacturer_model_name=model
            ),
        )
        with catalog.begin() as tx:
            for version in (1, 2):
                scores = chance.random(len(FINDINGS)).astype(np.float32)
                predictions = decisions.predict_study(scores, a_version())
                tx.scores.put_predictions(version, {uid: predictions}, {uid: version})
            tx.studies.put_state(uid, StudyState.REPORTED)


def policy(**changes: Any) -> worklist.WorklistPolicy:
    values: dict[str, Any] = {
        "selection": SelectionPolicy(),
        "labels": LabelPolicy(),
        "chest": rules.ChestPolicy(),
        "max_patients": 100,
        "request_expiry_days": 90,
    }
    return worklist.WorklistPolicy(**{**values, **changes})


def requests(catalog: Catalog) -> list[Request]:
    with catalog.read() as tx:
        return tx.requests.all()


def patients(studies: Collection[str]) -> set[int]:
    return {min(int(uid.partition(".")[2]), STUDIES - 1) for uid in studies}


def test_a_request_is_read_back_unchanged(catalog: Catalog) -> None:
    fill(catalog)
    with catalog.begin() as tx:
        now = tx.now()
        stored = [
            worklist_request("1.2", requested_at=now),
            worklist_request("1.1", SelectionReason.MONITORING, finding="", requested_at=now + timedelta(seconds=1)),
        ]
        tx.requests.lock()
        tx.requests.append(stored)
        tx.requests.append([])
    assert requests(catalog) == stored
    with catalog.read() as tx:
        assert tx.requests.of_studies({"1.1", "1.3", "9"}) == {"1.1": stored[1]}
        assert tx.requests.of_studies(()) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        worklist_request("9.9"),
        worklist_request("1.1"),
        worklist_request("1.2", ""),
        worklist_request("1.2", selection_probability=0.0),
        worklist_request("1.2", selection_probability=1.5),
    ],
    ids=["unknown study", "requested twice", "no reason", "probability 0", "probability above 1"],
)
def test_a_request_that_violates_a_constraint_is_refused(catalog: Catalog, wrong: Request) -> None:
    fill(catalog)
    with catalog.begin() as tx:
        tx.requests.append([worklist_request("1.1", requested_at=tx.now())])
    with pytest.raises(Exception, match=r"(?i)catalog|constraint|violates|unique"), catalog.begin() as tx:
        tx.requests.append(
            [worklist_request("1.3", requested_at=tx.now()), Request(**{**_fields(wrong), "requested_at": tx.now()})]
        )
    assert [one.study_instance_uid for one in requests(catalog)] == ["1.1"]


def _fields(one: Request) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__ if name != "requested_at"}


def test_a_worklist_excludes_labelled_and_requested_patients_and_has_a_patient_once(catalog: Catalog) -> None:
    fill(catalog)
    import_statement(catalog, "1.1")
    add_instance(catalog, chest_header(study="1.99", sop="1.99.1", patient_id="P99"))  # not scored yet
    first = worklist.make_worklist(count=4, catalog=catalog, policy=policy())
    assert [one.request for one in first] == requests(catalog)
    second = worklist.make_worklist(count=99, catalog=catalog, policy=policy())
    requested = [one.request.study_instance_uid for one in (*first, *second)]
    assert len(first) == 4
    assert len(requested) == len(patients(requested)) == STUDIES - 2
    assert "1.1" not in requested
    assert worklist.make_worklist(count=5, catalog=catalog, policy=policy()) == []
    assert {one.scanner for one in first + second} == {"Vista", "Plate"}
    assert all(0 < one.request.selection_probability <= 1 for one in first + second)


def test_a_study_with_an_unusable_image_is_not_requested(catalog: Catalog) -> None:
    fill(catalog)
    with catalog.begin() as tx:
        tx.thumbnails.add({f"1.{number}.1": bytes(THUMBNAIL_SIDE**2) for number in (1, 2, 3)})
        tx.thumbnails.put_distances({"1.1.1": 0.9, "1.2.1": 1.1})
    found = worklist.make_worklist(count=99, catalog=catalog, policy=policy())
    assert {one.request.study_instance_uid for one in found} >= {"1.1", "1.3"}
    assert "1.2" not in {one.request.study_instance_uid for one in found}


def test_a_doubtful_label_is_read_again_once_by_another_reader(catalog: Catalog) -> None:
    fill(catalog)
    import_statement(catalog, "1.1", findings={"Mass": LabelState.PRESENT})
    doubts = [{"study": "1.1", "finding": "Mass", "probability": 0.97}]
    with catalog.begin() as tx:
        tx.versions.add(a_version(3, VersionState.CANDIDATE, label_fingerprint="d" * 64, card={"learning": {"doubts": doubts}}))
    every = policy(second_readings=1.0)
    (first,) = worklist.make_worklist(count=1, catalog=catalog, policy=every)
    assert (first.request.study_instance_uid, first.request.selection_reason) == ("1.1", rules.SECOND_READING)
    assert first.request.reason == "second reading, by another reader than alice"
    again = worklist.make_worklist(count=2, catalog=catalog, policy=every)
    assert "1.1" not in {entry.request.study_instance_uid for entry in again}
    open_studies = {entry.request.study_instance_uid for entry in worklist.list_open_entries(catalog=catalog, chest=every.chest)}
    assert "1.1" in open_studies
    import_statement(catalog, "1.1", findings={"Mass": LabelState.ABSENT}, reader="bob")
    open_studies = {entry.request.study_instance_uid for entry in worklist.list_open_entries(catalog=catalog, chest=every.chest)}
    assert "1.1" not in open_studies
    with catalog.read() as tx:
        assert [label.selection_reason for label in tx.labels.of_studies(["1.1"])] == ["", rules.SECOND_READING]


def test_a_withdrawn_label_still_counts_as_read(catalog: Catalog) -> None:
    fill(catalog)
    import_statement(catalog, "1.1", findings={"Mass": LabelState.PRESENT})
    labels.withdraw([1], reader="alice", source="cli", catalog=catalog)
    with catalog.read() as tx:
        assert list(tx.studies.label_candidates(2, request_expiry_days=90)) == sorted(
            f"1.{number}" for number in range(2, STUDIES + 1)
        )
        assert tx.studies.label_candidates(7, request_expiry_days=90) == {}


def test_an_unread_request_excludes_its_patient_until_it_expires(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    """Studies 1.11 and 1.12 have one patient. The requested study is not requested again; it stays on `worklist --open`."""
    fill(catalog)
    with catalog.begin() as tx:
        tx.requests.append([worklist_request("1.12", requested_at=tx.now())])
    pass_time(0.2)
    soon = policy(request_expiry_days=0.1 / 86400)
    with catalog.read() as tx:
        valid, expired = (tx.studies.label_candidates(2, request_expiry_days=days) for days in (90, soon.request_expiry_days))
    assert set(expired) - set(valid) == {"1.11"}
    assert "1.12" not in expired
    entries = worklist.make_worklist(count=99, catalog=catalog, policy=soon)
    assert {one.request.study_instance_uid for one in entries} == {f"1.{number}" for number in range(1, STUDIES)}
    waiting = worklist.list_open_entries(catalog=catalog, chest=rules.ChestPolicy())
    assert waiting[0].request.study_instance_uid == "1.12"


def test_a_patient_of_the_monitoring_sample_is_never_requested_again(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    fill(catalog)
    with catalog.begin() as tx:
        tx.requests.append([worklist_request("1.12", SelectionReason.MONITORING, finding="", requested_at=tx.now())])
    pass_time(0.2)
    with catalog.read() as tx:
        assert "1.11" not in tx.studies.label_candidates(2, request_expiry_days=0.1 / 86400)


def test_a_label_after_the_request_has_expired_excludes_the_patient(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    fill(catalog)
    with catalog.begin() as tx:
        tx.requests.append([worklist_request("1.12", requested_at=tx.now())])
    pass_time(0.2)
    import_statement(catalog, "1.12")
    with catalog.read() as tx:
        assert "1.11" not in tx.studies.label_candidates(2, request_expiry_days=0.1 / 86400)


def test_a_dry_run_gives_the_same_worklist_again(catalog: Catalog) -> None:
    fill(catalog)
    tried = worklist.make_worklist(count=3, catalog=catalog, policy=policy(), dry_run=True)
    assert requests(catalog) == []
    made = worklist.make_worklist(count=3, catalog=catalog, policy=policy())
    assert [one.request.study_instance_uid for one in tried] == [one.request.study_instance_uid for one in made]


def test_a_worklist_without_a_serving_version_is_refused(catalog: Catalog) -> None:
    with pytest.raises(NoWeights, match="no model version serves"):
        worklist.make_worklist(count=3, catalog=catalog, policy=policy())


def test_a_label_has_the_selection_reason_of_its_request(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    fill(catalog)
    only_monitoring = policy(selection=SelectionPolicy(positives=0, disagreement=0, uncertainty=0, coverage=0, monitoring=1))
    (one,) = worklist.make_worklist(count=1, catalog=catalog, policy=only_monitoring)
    request = one.request
    assert request.selection_reason == rules.MONITORING
    assert request.selection_probability in (pytest.approx(1 / 11), pytest.approx(1 / 22))  # the last patient has two studies
    assert [o.request for o in worklist.list_open_entries(catalog=catalog, chest=rules.ChestPolicy())] == [request]
    study, finding = request.study_instance_uid, {"Mass": LabelState.PRESENT}
    import_statement(catalog, study, findings=finding)
    import_statement(catalog, study, findings=finding, reader="bob", stated_at=request.requested_at - timedelta(days=1))
    import_statement(catalog, study, findings=finding, reader="carol", selection_reason="my own", selection_probability=0.3)
    other = next(f"1.{number}" for number in range(1, STUDIES + 1) if f"1.{number}" != study)
    import_statement(catalog, other, findings=finding)
    with catalog.read() as tx:
        stated = {
            (label.reader, label.study_instance_uid): (label.selection_reason, label.selection_probability)
            for label in tx.labels.all()
        }
    assert stated == {
        ("alice", study): (rules.MONITORING, request.selection_probability),
        ("bob", study): ("", None),  # stated before the request
        ("carol", study): ("my own", 0.3),
        ("alice", other): ("", None),
    }
    assert worklist.list_open_entries(catalog=catalog, chest=rules.ChestPolicy()) == []


def test_a_study_requested_concurrently_is_not_requested_again(catalog: Catalog) -> None:
    fill(catalog)

    class ConcurrentCatalog:
        """Another worklist is made before the transaction that writes this one."""

        def read(self) -> Any:
            return catalog.read()

        def begin(self) -> Any:
            worklist.make_worklist(count=11, catalog=catalog, policy=policy())
            return catalog.begin()

    with pytest.raises(TransientError, match="in between"):
        worklist.make_worklist(count=3, catalog=ConcurrentCatalog(), policy=policy())
    assert len(requests(catalog)) == 11


def test_a_worklist_of_a_large_archive_reads_a_part_of_its_patients(catalog: Catalog) -> None:
    fill(catalog)
    only_monitoring = SelectionPolicy(positives=0, disagreement=0, uncertainty=0, coverage=0, monitoring=1)
    entries = worklist.make_worklist(count=9, catalog=catalog, policy=policy(max_patients=5, selection=only_monitoring))
    assert len(entries) == 5
    assert {round(one.request.selection_probability * 11, 6) for one in entries} <= {5.0, 2.5}


@pytest.fixture
def radclipd(catalog_url: str) -> Radclipd:
    real = SqlCatalog(catalog_url)
    fill(real)
    real.dispose()
    return radclipd_on(catalog_url)


def test_a_worklist_filled_in_and_imported_gives_labels_with_their_reasons(radclipd: Radclipd, tmp_path: Path) -> None:
    path = tmp_path / "to-read.csv"
    done = radclipd("worklist", "--n", "4", "--csv", str(path), "--json")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert len(listed) == 4
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [row["study_instance_uid"] for row in rows] == [one["study_instance_uid"] for one in listed]
    assert set(rows[0]).isdisjoint({"finding", "reason"})  # the reader must not know the finding that a study was chosen for
    for row in rows:
        row.update(reader="alice", Mass="present", Edema="absent")
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    opened = json.loads(radclipd("worklist", "--open", "--json").stdout)
    assert [one["study_instance_uid"] for one in opened] == [one["study_instance_uid"] for one in listed]
    assert radclipd("labels", "import", str(path)).stdout == "8 labels on 4 studies added, 0 known already\n"
    rows = json.loads(radclipd("query", "select * from v_labels", "--json").stdout)
    reasons = {one["study_instance_uid"]: (one["selection_reason"], one["selection_probability"]) for one in listed}
    assert {(t["study_instance_uid"], (t["selection_reason"], t["selection_probability"])) for t in rows} == set(reasons.items())
    assert json.loads(radclipd("worklist", "--open", "--json").stdout) == []
    seen = json.loads(radclipd("query", "select * from v_worklist", "--json").stdout)
    assert all(row["labelled_at"] for row in seen)
    last = radclipd("worklist", "--n", "20")
    assert "7 of 20: no more patients" in last.stderr
    assert "Vista" in last.stdout


def test_requests_are_append_only(radclipd: Radclipd, catalog_url: str) -> None:
    from sqlalchemy.exc import DBAPIError

    assert radclipd("worklist", "--n", "2", "--dry-run").returncode == 0
    assert json.loads(radclipd("query", "select * from v_worklist", "--json").stdout) == []
    assert radclipd("worklist", "--n", "2", "--csv", "-").stdout.count("\n") == 3
    for forbidden in ("DELETE FROM requests", "UPDATE requests SET reason = ''"):
        with pytest.raises(DBAPIError, match="append-only"):
            execute(catalog_url, forbidden)


def test_the_worklist_verb_reports_what_it_cannot_do(radclipd: Radclipd, tmp_path: Path) -> None:
    assert radclipd("worklist", "--json", "--csv", "-").returncode == 2
    done = radclipd("worklist", "--n", "1", "--csv", str(tmp_path / "no" / "folder.csv"))
    assert done.returncode == 1
    assert "name a file in a folder that you can write to" in done.stderr
    assert json.loads(radclipd("query", "select * from v_worklist", "--json").stdout) == []
