"""The requests of the labelling page."""

from __future__ import annotations

import json

import numpy as np

from pipeline.domain import FINDINGS
from tests.builders.catalog_rows import FILE, SENDER, chest_header, worklist_request
from tests.builders.desk import Desk
from tests.builders.dicom_files import dx
from tests.builders.sql import rows


def test_a_film_is_labelled_and_only_then_the_result_is_told(desk: Desk) -> None:
    desk.add_user()
    study = desk.add_film(dx(), scores={"Mass": 0.9})
    client = desk.client("alice")
    told = client.get("/label/tasks").text + client.get(f"/label/task?study={study}").text + client.get("/label").text
    for secret in ("probability", "likely positive", "0.9", "PHANTOM", "T-1", "1950"):
        assert secret not in told
    assert client.get(f"/label/reveal?study={study}").status_code == 422
    body = {
        "states": {"Effusion": "present"},
        "points": {"Effusion": [3, 4.5]},
        "comment": "c",
        "key": "key-0001",
        "rest_absent": True,
    }
    answer = client.post(f"/label/reading?study={study}", json=body).json()
    assert (answer["new_labels"], answer["words"]) == (14, "13 absent, 1 present")
    assert answer["reason"] == "Mass: likely positive"
    said = {each["finding"]: (each["told"], each["decision"]) for each in answer["findings"]}
    assert said["Mass"][1] == "present"
    assert "above its operating point" in said["Mass"][0]
    assert client.post(f"/label/reading?study={study}", json=body).json()["new_labels"] == 0
    assert client.get(f"/label/reveal?study={study}").json()["states"]["Effusion"] == "present"
    again = {"states": {"Effusion": "present", "Mass": "present"}, "key": "key-0002", "rest_absent": True}
    assert client.post(f"/label/reading?study={study}", json=again).json()["new_labels"] == 1
    assert rows(desk.url, "SELECT finding, exposure FROM v_labels WHERE revoked = 0 AND state = 'present' ORDER BY finding") == [
        ("Effusion", "none"),
        ("Mass", "seen"),
    ]
    assert rows(desk.url, "SELECT DISTINCT source FROM v_audit WHERE action = 'label'") == [("alice",)]


def test_the_tasks_follow_the_worklist_and_a_draft_comes_back(desk: Desk) -> None:
    desk.add_user()
    desk.add_user("bob")
    studies = desk.add_films(3)
    alice, bob = desk.client("alice"), desk.client("bob")
    draft = {"states": {"Edema": "uncertain"}, "points": {}, "comment": "later"}
    assert alice.put(f"/label/draft?study={studies[0]}", json=draft).status_code == 200
    content = alice.get("/label/tasks?limit=2").json()
    assert [task["study"] for task in content["tasks"]] == studies[:2]
    assert content["tasks"][0]["draft"] == draft
    assert (content["remaining"], content["done"]) == (3, 0)
    assert [task["study"] for task in bob.get("/label/tasks").json()["tasks"]] == studies[1:]
    assert alice.post(f"/label/skip?study={studies[0]}", json={"reason": "not a chest", "key": "key-0001"}).status_code == 200
    assert alice.post(f"/label/skip?study={studies[1]}", json={"reason": "tired", "key": "key-0002"}).status_code == 422
    after = alice.get("/label/tasks").json()
    assert ([task["study"] for task in after["tasks"]], after["remaining"], after["done"]) == (studies[1:], 2, 1)


def test_a_worklist_is_made_longer(desk: Desk) -> None:
    desk.add_user()
    for number in range(4):
        desk.add_film(dx(PatientID=f"P{number}"), request=False)
    client = desk.client("alice")
    assert client.get("/label/tasks").json()["tasks"] == []
    added = client.post("/label/more", json={"count": 3}).json()["added"]
    assert 1 <= added <= 3
    assert len(client.get("/label/tasks").json()["tasks"]) == added
    assert client.post("/label/more", json={"count": 100_000}).status_code == 422


def test_a_film_is_sent_compressed_and_not_kept_by_the_browser(desk: Desk) -> None:
    desk.add_user()
    desk.add_film(dx(rows=200, columns=200))
    client = desk.client("alice")
    [task] = client.get("/label/tasks").json()["tasks"]
    answer = client.get("/films", params={"instance": task["films"][0]["instance"]})
    assert answer.status_code == 200
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["cache-control"] == "no-store"
    assert int(answer.headers["content-length"]) < 200 * 200
    assert len(np.frombuffer(answer.content, np.uint8)) == 2 * 200 * 200
    assert json.loads(answer.headers["x-film"])["spacing"] == {"row": 0.14, "column": 0.14, "at_detector": True}
    assert client.get("/films?instance=9.9").status_code == 404


def test_a_film_that_cannot_be_read_says_why(desk: Desk) -> None:
    desk.add_user()
    broken = dx()
    broken.PixelData = broken.PixelData[:10]
    desk.add_film(broken)
    answer = desk.client("alice").get("/films", params={"instance": broken.SOPInstanceUID})
    assert answer.status_code == 422
    assert "truncated" in answer.json()["error"]


def test_the_page_names_a_key_and_a_card_for_each_finding(desk: Desk) -> None:
    desk.add_user()
    page = desk.client("alice").get("/label").text
    keys = [page.split(f'data-finding="{finding}" data-key="')[1][0] for finding in FINDINGS]
    assert len(set(keys)) == len(FINDINGS)
    assert not set(keys) & set("nuspizgrvw")
    order = [page.index(f'data-finding="{finding}"') for finding in FINDINGS]
    assert order == sorted(order)


def test_a_worklist_of_a_thousand_studies_is_offered_in_its_order(desk: Desk) -> None:
    desk.add_user()
    studies = [f"1.9.{number}" for number in range(1000)]
    with desk.catalog.begin() as tx:
        for number, study in enumerate(studies):
            tx.studies.add_instance(chest_header(study, f"{study}.1", patient_id=f"P{number}"), FILE, SENDER, opens_study=True)
        tx.requests.append([worklist_request(study) for study in studies])
    client = desk.client("alice")
    for number in range(3):
        content = client.get("/label/tasks?limit=2").json()
        assert [task["study"] for task in content["tasks"]] == studies[number : number + 2]
        assert content["remaining"] == 1000 - number
        client.post(f"/label/reading?study={studies[number]}", json={"key": f"key-{number:04d}", "rest_absent": True})
