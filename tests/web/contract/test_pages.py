"""The pages of studies, operations and the model, and their acts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from adapters.web.operations_routes import _describe_queue
from adapters.web.pages import format_age
from pipeline import labelling, overview
from pipeline.domain import Decision, Draft, JobKind, LabelState, ReportState, Scale, StudyState, UserRole, VersionState
from tests.builders.catalog_rows import import_statement, pending_report
from tests.builders.desk import Desk
from tests.builders.dicom_files import dx, file_of, sr
from tests.builders.fakes.versions import a_version
from tests.builders.sql import rows

HTML = {"Accept": "text/html"}


@pytest.fixture
def staffed(desk: Desk) -> Desk:
    """The desk with a user of each role, named after the role."""
    for role in UserRole:
        desk.add_user(role.value, role)
    return desk


def add_report(desk: Desk, study: str) -> str:
    """Add a report that was sent; return its UID."""
    with desk.catalog.begin() as tx:
        tx.reports.ensure_pending(replace(pending_report("2.25.77"), study_instance_uid=study))
        tx.reports.mark_built("2.25.77", desk.images.write(file_of(sr())))
        tx.reports.mark_sent("2.25.77", "0x0000")
    return "2.25.77"


def test_the_study_page_shows_what_is_known(staffed: Desk) -> None:
    study = staffed.add_film(dx(AccessionNumber="A-17"), scores={"Mass": 0.9})
    report = add_report(staffed, study)
    import_statement(staffed.catalog, study, reader="dr.csv")
    page = staffed.client("reader").get(f"/studies/{study}").text
    for shown in (
        "above its operating point",
        "T-1",
        "A-17",
        report,
        ReportState.SENT.value,
        "dr.csv",
        "exposure possible",
        "Imaging Measurement Report",
    ):
        assert shown in page
    assert "PHANTOM" not in page


def test_only_some_roles_see_who_the_patient_is(staffed: Desk) -> None:
    study = staffed.add_film(dx(AccessionNumber="A-17"))
    for role in UserRole:
        client = staffed.client(role.value)
        told = client.get(f"/studies/{study}").text + client.get("/studies").text
        identified = role in (UserRole.READER, UserRole.ADMINISTRATOR)
        assert ("T-1" in told) == ("A-17" in told) == identified, role
        assert "<td>F</td>" in told, role  # sex and age name nobody


@pytest.mark.parametrize(
    ("characters", "description"),
    [
        (["", "ISO 2022 IR 87"], "胸部単純"),
        (["", "ISO 2022 IR 149"], "흉부 촬영"),
        ("ISO_IR 144", "Рентген груди"),
        ("ISO_IR 127", "صدر أشعة"),
    ],
    ids=["japanese", "korean", "cyrillic", "arabic"],
)
def test_texts_of_any_script_are_shown_and_kept(staffed: Desk, characters: object, description: str) -> None:
    study = staffed.add_film(dx(SpecificCharacterSet=characters, StudyDescription=description))
    draft = Draft(study_instance_uid=study, reader="reader", states={"Mass": LabelState.PRESENT}, comment=description)
    labelling.state_reading(draft, idempotency_key="a key of some length", rest_absent=False, catalog=staffed.catalog)
    client = staffed.client("reader")
    assert description in client.get(f"/studies/{study}").text
    assert description in client.get("/studies").text
    assert rows(staffed.url, "SELECT comment FROM v_readings") == [(description,)]


def test_a_reader_who_opens_the_study_page_is_exposed(staffed: Desk) -> None:
    first, second = staffed.add_films(2)
    staffed.client("reader").get(f"/studies/{first}")
    staffed.client("viewer").get(f"/studies/{second}")
    for study in (first, second):
        draft = Draft(study_instance_uid=study, reader="reader", states={"Mass": LabelState.PRESENT})
        labelling.state_reading(draft, idempotency_key=f"key of {study[-8:]}", rest_absent=False, catalog=staffed.catalog)
    assert rows(staffed.url, "SELECT exposure FROM v_labels ORDER BY id") == [("seen",), ("none",)]


def test_a_study_is_found_by_uid_and_accession_number(staffed: Desk) -> None:
    study = staffed.add_film(dx(AccessionNumber="A-17"))
    client = staffed.client("reader")
    for name in (study, " A-17 "):
        assert client.get("/studies", params={"name": name}).headers["location"] == f"/studies/{study}"
    assert "no such study" in client.get("/studies", params={"name": "9.9"}).text
    assert client.get("/studies/9.9", headers=HTML).status_code == 422
    assert study[-16:] in client.get("/studies").text
    assert study[-16:] not in client.get("/studies?before=2020-01-01T00:00:00Z").text


def test_scoring_and_sending_again_belong_to_operators(staffed: Desk) -> None:
    study = staffed.add_film(dx())
    add_report(staffed, study)
    for act, kind in (("score", JobKind.SCORE), ("send", JobKind.SEND)):
        for role in (UserRole.VIEWER, UserRole.READER):
            assert staffed.client(role.value).post(f"/studies/act/{act}?study={study}", json={}).status_code == 403
        assert rows(staffed.url, f"SELECT count(*) FROM jobs WHERE kind = '{kind.value}'") == [(0,)]
        assert staffed.client("operator").post(f"/studies/act/{act}?study={study}", json={}).status_code == 200
        assert rows(staffed.url, f"SELECT count(*) FROM jobs WHERE kind = '{kind.value}'") == [(1,)]
    assert rows(staffed.url, "SELECT DISTINCT source FROM v_audit WHERE action = 'requeue'") == [("operator",)]


def test_operations_show_the_queue_and_retry_the_quarantine(staffed: Desk) -> None:
    study = staffed.add_film(dx())
    with staffed.catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, study)
        [job] = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5)
        tx.jobs.quarantine(job, error="the pixel data is <truncated>")
    client = staffed.client("operator")
    page = client.get("/operations").text
    assert "the pixel data is &lt;truncated&gt;" in page
    assert "v1" in page
    assert client.get("/operations/now").status_code == 200
    assert staffed.client("viewer").post("/operations/retry", json={"jobs": [job.id]}).status_code == 403
    assert client.post("/operations/retry", json={"jobs": [job.id]}).json()["message"] == "1 jobs queued again."
    assert rows(staffed.url, "SELECT count(*) FROM jobs WHERE state = 'waiting'") == [(1,)]


def test_operations_show_rates_and_ages_of_every_step(staffed: Desk) -> None:
    first, second, third = staffed.add_films(3)
    with staffed.catalog.begin() as tx:
        tx.studies.put_state(first, StudyState.ARRIVING)
        tx.studies.put_state(second, StudyState.SETTLED)
        for kind, subject in ((JobKind.SCORE, first), (JobKind.SCORE, second), (JobKind.SEND, "2.25.1"), (JobKind.SCORE, third)):
            tx.jobs.put(kind, subject)
            if subject != third:
                tx.jobs.finish(*tx.jobs.claim([kind], worker="w", lease_seconds=5))
    with staffed.catalog.read() as tx:
        flow = {step.name: step for step in overview.describe_daemon(tx).flow}
    assert list(flow) == ["arriving", "settled", "scored", "reported", "delivered", "labels read", "learnt"]
    assert [(step.waiting, step.last_hour, step.last_day) for step in flow.values()][:5] == [
        (1, 3, 3),
        (1, None, None),
        (1, 2, 2),
        (0, 0, 0),
        (0, 1, 1),
    ]
    ages = [flow[name].oldest_seconds for name in ("arriving", "settled", "scored")]
    assert all(age is not None and 0 <= age < 60 for age in ages)
    page = staffed.client("viewer").get("/operations").text
    assert "delivered" in page
    assert "No drift" in page


def test_drift_is_a_share_that_chance_does_not_explain() -> None:
    def decisions(present: int, studies: int) -> dict[tuple[str, Decision], int]:
        return {("Mass", Decision.PRESENT): present, ("Mass", Decision.ABSENT): studies - present}

    assert overview.find_drift(decisions(20, 200), decisions(100, 1000)) == []
    assert overview.find_drift(decisions(30, 200), decisions(110, 1000)) == []  # 15 % after 10 %: 2 standard errors
    [found] = overview.find_drift(decisions(60, 200), decisions(140, 1000))
    assert (found.finding, found.share, found.share_before) == ("Mass", 0.3, 0.1)
    assert overview.find_drift(decisions(60, 200), decisions(61, 399)) == []  # too few before
    assert overview.find_drift(decisions(0, 200), decisions(0, 1000)) == []


def test_newest_decisions_are_those_of_the_newest_studies(staffed: Desk) -> None:
    staffed.add_film(dx(), scores={"Mass": 0.9})
    staffed.add_film(dx())
    with staffed.catalog.read() as tx:
        newest, both = (tx.figures.newest_decisions(studies=count) for count in (1, 2))
    assert newest.get(("Mass", Decision.PRESENT), 0) == 0
    assert both[("Mass", Decision.PRESENT)] == 1


def test_the_stream_tells_changes_and_ends_with_the_session(staffed: Desk) -> None:
    with staffed.catalog.read() as tx:
        user = tx.users.find("viewer")
    assert user is not None
    before = _describe_queue(staffed.parts, "viewer", user.session_key)
    assert json.loads(before)["serving"] == 1
    with staffed.catalog.begin() as tx:
        tx.jobs.put(JobKind.LEARN, "all labels")
    assert _describe_queue(staffed.parts, "viewer", user.session_key) != before
    assert _describe_queue(staffed.parts, "viewer", "another session") == ""


def test_the_model_page_and_its_acts(staffed: Desk) -> None:
    measures = {
        "Mass": {"positives": 5, "negatives": 60, "auc": 0.81, "auc_zero_shot": 0.7, "sensitivity": 0.6, "specificity": 0.98}
    }
    one = {"against": "zero-shot", "candidate": 0.8, "other": 0.7, "lower": 0.01, "upper": 0.2, "patients": 65, "monitoring": False}
    card = {"learning": {"measures": measures, "comparisons": [one]}}
    staffed.add_version(2, state=VersionState.CANDIDATE, card=card, reason="waits for a person")
    study = staffed.add_film(dx())
    import_statement(staffed.catalog, study)
    page = staffed.client("viewer").get("/model").text
    for shown in ("waits for a person", "0.800 against zero-shot 0.700 (+0.010 to +0.200)", "14 none", "A zero-shot version"):
        assert shown in page
    assert "Promote" not in page
    operator = staffed.client("operator")
    assert "Promote" in operator.get("/model").text
    assert staffed.client("reader").post("/model/2/promote", json={"reason": "better"}).status_code == 403
    assert operator.post("/model/2/promote", json={"reason": ""}).status_code == 422
    assert operator.post("/model/2/promote", json={"reason": "better"}).status_code == 200
    assert operator.post("/model/rollback", json={"reason": "it errs; rm -rf"}).status_code == 200
    assert staffed.verbs == [["versions", "promote", "2"], ["versions", "rollback", "--reason", "it errs; rm -rf"]]
    assert operator.post("/model/2/reject", json={"reason": "worse in Mass"}).status_code == 200
    assert rows(staffed.url, "SELECT state, reason FROM v_model_versions WHERE number = 2") == [("rejected", "worse in Mass")]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (-3, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 d"), (1e9, "11574 d")],
)
def test_an_age_has_one_unit(seconds: float | None, words: str) -> None:
    assert format_age(seconds) == words


def test_the_model_page_measures_the_version_apart_by_exposure(staffed: Desk) -> None:
    """25 studies, ranked right by readers who had not seen the result, and the wrong way round by one who had."""
    learnt = {"learning": {"films": 80, "newest_label": 0, "kept": ["Hernia"], "findings": ["Mass"], "groups": GROUPS}}
    learnt["learning"]["comparisons"] = [
        {"against": "zero-shot", "monitoring": False, "candidate": 0.81, "other": 0.7} | NO_INTERVAL
    ]
    with staffed.catalog.begin() as tx:
        tx.versions.add(a_version(2, state=VersionState.CANDIDATE, card=learnt))
        tx.versions.serve(2)
    for number in range(25):
        film = dx(PatientID=f"M-{number}")
        study = staffed.add_film(film, scores={"Mass": 0.3 + number / 100})
        states = {"Mass": LabelState.PRESENT if number >= 12 else LabelState.ABSENT}
        draft = Draft(study_instance_uid=study, reader="reader", states=states)
        labelling.state_reading(draft, idempotency_key=f"key of {number:04d}", rest_absent=False, catalog=staffed.catalog)
        other = {"Mass": LabelState.ABSENT if number >= 12 else LabelState.PRESENT}
        with staffed.catalog.begin() as tx:
            tx.readings.mark_revealed(study, "administrator")
            told = [replace(one, scale=Scale.PROBABILITY) for one in tx.scores.predictions(study, 1)]
            tx.scores.put_predictions(2, {study: told}, {study: 1})
        draft = Draft(study_instance_uid=study, reader="administrator", states=other)
        labelling.state_reading(draft, idempotency_key=f"key of {number:04d}", rest_absent=False, catalog=staffed.catalog)
    page = staffed.client("viewer").get("/model").text
    row = page.split("<td>Mass</td>")[2].split("</tr>")[0]
    assert "1.000" in row.split("</td>")[0]
    assert "0.000" in row.split("</td>")[2]
    assert "Reliability of Mass: stated 0.36, observed 0.08" in page
    assert "80 studies, AUC 0.810" in page
    assert "three learnt versions" in page
    assert "Left at the head before: Hernia" in page
    assert "+0.050" in page


NO_INTERVAL = {"lower": None, "upper": None, "patients": 40, "cases": 80}
GROUPS = [
    {"against": "zero-shot", "attribute": "sex", "group": "F", "cases": 30, "patients": 20, "candidate": 0.8, "other": 0.75}
    | {"lower": -0.02, "upper": 0.12, "worse": False}
]
